// What the CUDA kernels of all ops share: packed halves, predicated accesses, tensor core products, INT8.
//
// No header of CUDA's is needed, so that NVRTC alone compiles it. A pair of float16 is the 32 bits of a register, the
// lower half first. There is no branch that threads of one launch could take differently: what may be absent is read
// and written under a predicate. Instructions: PTX ISA 8.7.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;

// Steps of a compile-time choice.
#define FLOAT_IN 0   // true values in float16
#define RAW_IN 1     // the raw product of an INT8 layer in float16 (ops/product.py)
#define RAW_INT8_IN 2 // the same in int8

__device__ __forceinline__ u32 pair_multiply(u32 a, u32 b)
{
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ u32 pair_add(u32 a, u32 b)
{
    u32 d;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ u32 pair_multiply_add(u32 a, u32 b, u32 c)
{
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Both halves of a register the same.
__device__ __forceinline__ u32 pair_of(float x)
{
    u32 d;
    asm("cvt.rn.f16x2.f32 %0, %1, %1;" : "=r"(d) : "f"(x));
    return d;
}

// Two float32 as a pair, each rounded to the nearest, halves to even.
__device__ __forceinline__ u32 pair_from(float low, float high)
{
    u32 d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

__device__ __forceinline__ float low_of(u32 pair)
{
    float d;
    asm("{\n.reg .b16 %%low;\n.reg .b16 %%high;\nmov.b32 {%%low, %%high}, %1;\ncvt.f32.f16 %0, %%low;\n}" : "=f"(d) : "r"(pair));
    return d;
}

__device__ __forceinline__ float high_of(u32 pair)
{
    float d;
    asm("{\n.reg .b16 %%low;\n.reg .b16 %%high;\nmov.b32 {%%low, %%high}, %1;\ncvt.f32.f16 %0, %%high;\n}" : "=f"(d) : "r"(pair));
    return d;
}

// Bytes of {b, a} as the four nibbles of the selector name them, the lowest first.
__device__ __forceinline__ u32 bytes_of(u32 a, u32 b, u32 selector)
{
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

#define LOW_HALVES 0x5410
#define HIGH_HALVES 0x7632
#define SWAPPED 0x1032
#define MINUS_LOW 0x00008000u // exclusive or with it changes the sign of the lower half

__device__ __forceinline__ float power_of_two(float x)
{
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

__device__ __forceinline__ float reciprocal(float x)
{
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

__device__ __forceinline__ float reciprocal_root(float x)
{
    float d;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

// x / y, up to 2 units in the last place off.
__device__ __forceinline__ float quotient(float x, float y)
{
    float d;
    asm("div.full.f32 %0, %1, %2;" : "=f"(d) : "f"(x), "f"(y));
    return d;
}

// Reads through the read-only cache.
__device__ __forceinline__ void read4(void const* p, u32& a)
{
    asm("ld.global.nc.b32 %0, [%1];" : "=r"(a) : "l"(p));
}

__device__ __forceinline__ void read8(void const* p, u32 (&a)[2])
{
    asm("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(a[0]), "=r"(a[1]) : "l"(p));
}

__device__ __forceinline__ void read16(void const* p, u32 (&a)[4])
{
    asm("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "l"(p));
}

__device__ __forceinline__ void read_shared(uint4 const* p, u32 (&a)[4])
{
    uint4 const x = *p;
    a[0] = x.x;
    a[1] = x.y;
    a[2] = x.z;
    a[3] = x.w;
}

__device__ __forceinline__ u32 read2(void const* p)
{
    u32 d;
    asm("{\n.reg .b16 %%low;\nld.global.nc.b16 %%low, [%1];\ncvt.u32.u16 %0, %%low;\n}" : "=r"(d) : "l"(p));
    return d;
}

// Zeros where there is nothing to read.
__device__ __forceinline__ void read4_if(bool is_there, void const* p, u32& a)
{
    asm("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %2, 0;\nmov.b32 %0, 0;\n"
        "@%%p_there ld.global.nc.b32 %0, [%1];\n}"
        : "=&r"(a) : "l"(p), "r"(static_cast<int>(is_there)));
}

__device__ __forceinline__ void read8_if(bool is_there, void const* p, u32 (&a)[2])
{
    asm("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %3, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\n"
        "@%%p_there ld.global.nc.v2.b32 {%0, %1}, [%2];\n}"
        : "=&r"(a[0]), "=&r"(a[1]) : "l"(p), "r"(static_cast<int>(is_there)));
}

__device__ __forceinline__ void read2_if(bool is_there, void const* p, u32& a)
{
    asm("{\n.reg .pred %%p_there;\n.reg .b16 %%low;\nsetp.ne.b32 %%p_there, %2, 0;\nmov.u16 %%low, 0;\n"
        "@%%p_there ld.global.nc.b16 %%low, [%1];\ncvt.u32.u16 %0, %%low;\n}"
        : "=r"(a) : "l"(p), "r"(static_cast<int>(is_there)));
}

__device__ __forceinline__ void write2_if(bool is_there, void* p, u32 a)
{
    asm volatile("{\n.reg .pred %%p_there;\n.reg .b16 %%low;\nsetp.ne.b32 %%p_there, %2, 0;\ncvt.u16.u32 %%low, %1;\n"
        "@%%p_there st.global.b16 [%0], %%low;\n}" ::"l"(p), "r"(a), "r"(static_cast<int>(is_there)) : "memory");
}

__device__ __forceinline__ void write4_if(bool is_there, void* p, u32 a)
{
    asm volatile("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %2, 0;\n"
        "@%%p_there st.global.b32 [%0], %1;\n}" ::"l"(p), "r"(a), "r"(static_cast<int>(is_there)) : "memory");
}

__device__ __forceinline__ void write8_if(bool is_there, void* p, u32 a, u32 b)
{
    asm volatile("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %3, 0;\n"
        "@%%p_there st.global.v2.b32 [%0], {%1, %2};\n}"
        ::"l"(p), "r"(a), "r"(b), "r"(static_cast<int>(is_there)) : "memory");
}

// Shared memory by its own addresses, in bytes.
__device__ __forceinline__ void write4_shared_if(bool is_there, u32 at, u32 a)
{
    asm volatile("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %2, 0;\n@%%p_there st.shared.b32 [%0], %1;\n}" ::"r"(at),
        "r"(a), "r"(static_cast<int>(is_there)) : "memory");
}

__device__ __forceinline__ void write16_shared_if(bool is_there, u32 at, u32 const (&a)[4])
{
    asm volatile("{\n.reg .pred %%p_there;\nsetp.ne.b32 %%p_there, %5, 0;\n"
        "@%%p_there st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"r"(at), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]),
        "r"(static_cast<int>(is_there)) : "memory");
}

__device__ __forceinline__ void read16_shared(u32 at, u32 (&a)[4])
{
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ u32 read4_shared(u32 at)
{
    u32 a;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(a) : "r"(at) : "memory");
    return a;
}

// d = a·b + c. a: 16 x 16 by rows, b: 16 x 8 by columns, float16; c and d float32. Lane 4·g + t holds of a the rows g
// and g + 8 at the columns 2t and 2t + 8 (and the next), of b those rows 2t and 2t + 8 of column g, of c and d the
// columns 2t and 2t + 1 of the rows g and g + 8. c and d may be one array.
__device__ __forceinline__ void multiply_16(
    float (&d)[4], u32 const (&a)[4], u32 b0, u32 b1, float c0, float c1, float c2, float c3)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
}

// The same with 8 columns of a and rows of b.
__device__ __forceinline__ void multiply_8(
    float (&d)[4], u32 a0, u32 a1, u32 b, float c0, float c1, float c2, float c3)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(b), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
}

// The value of the lane whose number differs in those bits.
__device__ __forceinline__ float of_lane(float x, int bits)
{
    float d;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, -1;" : "=f"(d) : "f"(x), "r"(bits));
    return d;
}

// x·inverse_scale, rounded half to even and saturated to -128..127, in the lowest byte: adding 1.5·2^23 leaves no
// fraction bits in float32, and its low byte is the integer's.
__device__ __forceinline__ u32 int8_bits(float x, float inverse_scale)
{
    float const y = fminf(fmaxf(x * inverse_scale, -128.0F), 127.0F);
    return __float_as_uint(y + 12582912.0F);
}

// Two signed bytes of a word as a pair of float16, exactly: the bits of 1024 + 128 + x, less 1152.
__device__ __forceinline__ u32 pair_from_bytes(u32 word, u32 selector)
{
    return pair_add(bytes_of(word ^ 0x80808080U, 0x64646464U, selector), 0xE480E480U);
}

#define FIRST_BYTES 0x4140
#define LAST_BYTES 0x4342
