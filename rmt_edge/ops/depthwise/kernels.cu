// DepthwiseResidual down the columns: the CUDA kernels of the plugin library in float16.
//
//     y = GELU?(x) + residual,   out = y + bias + Σ_tap weight·shifted y,   norm = (out - mean) / std · g + e
//
// Reference: op.py. A thread has four channels of COLUMNS neighbouring columns, and goes down `rows` rows of them: weights
// are converted once, and each row of inputs is read and converted once, for the three rows of outputs that it is part
// of. All arithmetic is in float32, rounded once on the way out. Threads are counted through channels, then columns,
// then rows of tiles, so that no thread is idle for a grid that is no multiple of a tile.
//
// With a LayerNorm, LANES threads have a position: all its channels, LANES a power of two. Warps that share a position
// exchange mean and sum of squares of their channels (Chan, Golub and LeVeque, "Updating formulae and a pairwise
// algorithm for computing sample variances", 1979), once a row of outputs.
//
// Compile-time: COLUMNS, THREADS a block, LANES (0 without a LayerNorm), HAS_RESIDUAL, HAS_GELU, INPUT, OUT_INT8.

#define CHANNELS 4 // of a thread: 8 bytes in float16
#define SPAN 3
#define WARP 32
#define HAS_NORM (LANES > 0)
#define WARPS_A_POSITION (LANES > WARP ? LANES / WARP : 1)
#define GELU_0 (-2.30164716F) // log2 of (1 - Φ) / Φ, over x, in powers of x²
#define GELU_1 (-1.05982728e-01F)
#define GELU_2 7.36061249e-04F
#define GELU_3 2.48363751e-05F
#define TILES_A_BLOCK (HAS_NORM ? THREADS / LANES : 1)

extern __shared__ uint4 global_smem[]; // the name that Triton's kernels have

__device__ __forceinline__ void widen(u32 const (&pairs)[2], float (&x)[CHANNELS])
{
    x[0] = low_of(pairs[0]);
    x[1] = high_of(pairs[0]);
    x[2] = low_of(pairs[1]);
    x[3] = high_of(pairs[1]);
}

__device__ __forceinline__ void read_row(bool is_there, char const* p, float (&x)[CHANNELS])
{
    u32 pairs[2];
    read8_if(is_there, p, pairs);
    widen(pairs, x);
}

// x·Φ(x). Φ by a logistic function of an odd polynomial, fitted to it: the product is at most 1.2e-5 off (tests/ops).
__device__ __forceinline__ float gelu(float x)
{
    float const s = fminf(x * x, 36.0F);
    float const z = x * (GELU_0 + s * (GELU_1 + s * (GELU_2 + s * GELU_3)));
    return x * reciprocal(1.0F + power_of_two(z));
}

// Inputs of one position, zeros outside the grid.
__device__ __forceinline__ void read_input(bool is_there, char const* x, char const* residual, u32 const (&scale)[2],
    u32 const (&bias)[2], u32 step, float (&y)[CHANNELS])
{
    u32 pairs[2];
#if INPUT == RAW_INT8_IN
    u32 bytes;
    read4_if(is_there, x, bytes);
    pairs[0] = pair_from_bytes(bytes, FIRST_BYTES);
    pairs[1] = pair_from_bytes(bytes, LAST_BYTES);
#else
    read8_if(is_there, x, pairs);
#endif
    widen(pairs, y);
#if INPUT != FLOAT_IN
    float scales[CHANNELS];
    float biases[CHANNELS];
    widen(scale, scales);
    widen(bias, biases);
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i)
    {
        y[i] = fmaf(INPUT == RAW_INT8_IN ? y[i] * low_of(step) : y[i], scales[i], biases[i]);
#if HAS_GELU
        y[i] = gelu(y[i]);
#endif
        y[i] = is_there ? y[i] : 0.0F;
    }
#endif
#if HAS_RESIDUAL
    float added[CHANNELS];
    read_row(is_there, residual, added);
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i)
    {
        y[i] += added[i];
    }
#endif
}

__device__ __forceinline__ void write_outputs(
    bool is_there, char* p, bool is_int8, float inverse_scale, float const (&x)[CHANNELS])
{
    if (is_int8)
    {
        u32 bits[CHANNELS];
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i)
        {
            bits[i] = int8_bits(x[i], inverse_scale);
        }
        write4_if(is_there, p, bytes_of(bytes_of(bits[0], bits[1], 0x0040), bytes_of(bits[2], bits[3], 0x0040), LOW_HALVES));
    }
    else
    {
        write8_if(is_there, p, pair_from(x[0], x[1]), pair_from(x[2], x[3]));
    }
}

#if HAS_NORM
__device__ __forceinline__ float sum_of_lanes(float x)
{
#pragma unroll
    for (int bits = 1; bits < (LANES < WARP ? LANES : WARP); bits *= 2)
    {
        x += of_lane(x, bits);
    }
    return x;
}

// Mean and 1/std of COLUMNS positions over all their channels; x is 0 where there is no channel. share: of the channels, what this warp has.
__device__ __forceinline__ void moments(float const (&x)[COLUMNS][CHANNELS], bool is_channel, float count, float share,
    float channels, float epsilon, int turn, float (&mean)[COLUMNS], float (&inverse)[COLUMNS])
{
    float squares[COLUMNS];
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i)
    {
        mean[i] = sum_of_lanes(x[i][0] + x[i][1] + x[i][2] + x[i][3]) * share;
        float square = 0.0F;
#pragma unroll
        for (int j = 0; j < CHANNELS; ++j)
        {
            float const apart = x[i][j] - mean[i];
            square = fmaf(apart, apart, square);
        }
        squares[i] = sum_of_lanes(is_channel ? square : 0.0F);
    }
    if (WARPS_A_POSITION > 1)
    {
        // [turn][tile][warp][column]: mean, sum of squares, count; a warp is at most one barrier ahead of another.
        float* const all = reinterpret_cast<float*>(global_smem) + turn % 2 * (THREADS / WARP) * COLUMNS * 4;
        int const warp = threadIdx.x / WARP;
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i)
        {
            u32 const at = static_cast<u32>(__cvta_generic_to_shared(all + (warp * COLUMNS + i) * 4));
            u32 const words[4]
                = {__float_as_uint(mean[i]), __float_as_uint(squares[i]), __float_as_uint(count), 0U};
            write16_shared_if(threadIdx.x % WARP == 0, at, words);
        }
        __syncthreads();
        int const first = warp / WARPS_A_POSITION * WARPS_A_POSITION;
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i)
        {
            u32 parts[WARPS_A_POSITION][4];
            float sum = 0.0F;
#pragma unroll
            for (int j = 0; j < WARPS_A_POSITION; ++j)
            {
                u32 const at = static_cast<u32>(__cvta_generic_to_shared(all + ((first + j) * COLUMNS + i) * 4));
                read16_shared(at, parts[j]);
                sum = fmaf(__uint_as_float(parts[j][0]), __uint_as_float(parts[j][2]), sum);
            }
            mean[i] = sum * channels;
            squares[i] = 0.0F;
#pragma unroll
            for (int j = 0; j < WARPS_A_POSITION; ++j)
            {
                float const apart = __uint_as_float(parts[j][0]) - mean[i];
                squares[i] += fmaf(apart * apart, __uint_as_float(parts[j][2]), __uint_as_float(parts[j][1]));
            }
        }
    }
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i)
    {
        inverse[i] = reciprocal_root(fmaf(squares[i], channels, epsilon));
    }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) depthwise_residual_columns(
    // inputs: x, residual (b, h, w, c); weight (3, 3, c); bias, norm_weight, norm_bias, x_scale, x_bias (c,)
    char const* x, char const* weight, char const* bias, char const* residual, char const* norm_weight,
    char const* norm_bias, char const* x_scale, char const* x_bias,
    // outputs (b, h, w, c)
    char* out, char* norm,
    // sizes
    int height, int width, int channels,
    // output rows of a thread: a tactic
    int rows,
    // float32; input_scale: what one step of INT8 stands for
    float epsilon, float input_scale, float output_scale)
{
    int const strips = (width + COLUMNS - 1) / COLUMNS;
    int const groups = channels / CHANNELS;
#if HAS_NORM
    int const lane = threadIdx.x % LANES;
    bool const is_channel = lane < groups;
    int const group = min(lane, groups - 1);
    int const tile = blockIdx.x * TILES_A_BLOCK + threadIdx.x / LANES;
#else
    u32 const number = blockIdx.x * THREADS + threadIdx.x;
    bool const is_channel = true;
    int const group = number % groups;
    int const tile = number / groups;
#endif
    int const first_row = tile / strips * rows;
    int const first_column = tile % strips * COLUMNS;
    int const channel = group * CHANNELS;
    long long const image = static_cast<long long>(blockIdx.y) * height * width * channels;

    float taps[SPAN * SPAN][CHANNELS];
    float start[CHANNELS];
#pragma unroll
    for (int i = 0; i < SPAN * SPAN; ++i)
    {
        u32 pairs[2];
        read8(weight + static_cast<u64>(2 * channels) * i + 2 * channel, pairs);
        widen(pairs, taps[i]);
    }
    u32 pairs[2];
    read8(bias + 2 * channel, pairs);
    widen(pairs, start);
#pragma unroll
    for (int j = 0; j < CHANNELS; ++j)
    {
        taps[SPAN * SPAN / 2][j] += 1.0F; // y itself
#pragma unroll
        for (int i = 0; i < SPAN * SPAN; ++i)
        {
            taps[i][j] = is_channel ? taps[i][j] : 0.0F;
        }
        start[j] = is_channel ? start[j] : 0.0F;
    }
    u32 scales[2] = {0U, 0U};
    u32 biases[2] = {0U, 0U};
#if INPUT != FLOAT_IN
    read8(x_scale + 2 * channel, scales);
    read8(x_bias + 2 * channel, biases);
#endif
#if HAS_NORM
    float gain[CHANNELS];
    float offset[CHANNELS];
    read8(norm_weight + 2 * channel, pairs);
    widen(pairs, gain);
    read8(norm_bias + 2 * channel, pairs);
    widen(pairs, offset);
    int const first_channel = CHANNELS * (lane / WARP * WARP);
    float const count = static_cast<float>(LANES <= WARP ? channels : min(max(channels - first_channel, 0), CHANNELS * WARP));
    float const share = quotient(1.0F, fmaxf(count, 1.0F));
    float const of_channels = quotient(1.0F, static_cast<float>(channels));
#endif
    // The graph holds the scale in float16.
    float const inverse_scale = OUT_INT8 ? quotient(1.0F, low_of(pair_of(output_scale))) : 0.0F;
    u32 const step = pair_of(input_scale);
    int const element_bytes = INPUT == RAW_INT8_IN ? 1 : 2;
    bool const is_out_int8 = OUT_INT8 && !HAS_NORM;

    // Of every column, in the row above the first: what lies outside is neither read nor written.
    bool is_column[COLUMNS + 2];
    char const* x_at[COLUMNS + 2];
    [[maybe_unused]] char const* residual_at[COLUMNS + 2];
    long long const first = image + (static_cast<long long>(first_row - 1) * width + first_column - 1) * channels + channel;
#pragma unroll
    for (int i = 0; i < COLUMNS + 2; ++i)
    {
        is_column[i] = static_cast<u32>(first_column + i - 1) < static_cast<u32>(width);
        x_at[i] = x + (first + i * channels) * element_bytes;
        residual_at[i] = residual + (first + i * channels) * 2;
    }
    char* const out_at = out + first * (is_out_int8 ? 1 : 2);
    [[maybe_unused]] char* const norm_at = norm + first * (OUT_INT8 ? 1 : 2);
    u32 const row_elements = width * channels;
    // Output rows that the input rows so far are part of: of `lower` the first one, of `upper` the first two.
    float upper[COLUMNS][CHANNELS];
    float lower[COLUMNS][CHANNELS];
    float y[COLUMNS + 2][CHANNELS];
    u32 const x_row = row_elements * element_bytes;
    u32 const residual_row = row_elements * 2;
    auto const read = [&](int r) // the input row first_row - 1 + r
    {
        bool const is_row = static_cast<u32>(first_row - 1 + r) < static_cast<u32>(height);
#pragma unroll
        for (int i = 0; i < COLUMNS + 2; ++i)
        {
            read_input(is_row && is_column[i], x_at[i] + static_cast<u64>(x_row) * static_cast<u32>(r),
                residual_at[i] + static_cast<u64>(residual_row) * static_cast<u32>(r), scales, biases, step, y[i]);
        }
    };
    // sums = before + the taps' row k over y.
    auto const add = [&](int k, float const(&before)[COLUMNS][CHANNELS], float(&sums)[COLUMNS][CHANNELS])
    {
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i)
        {
#pragma unroll
            for (int j = 0; j < CHANNELS; ++j)
            {
                float sum = before[i][j];
#pragma unroll
                for (int l = 0; l < SPAN; ++l)
                {
                    sum = fmaf(y[i + l][j], taps[SPAN * k + l][j], sum);
                }
                sums[i][j] = sum;
            }
        }
    };
    float starts[COLUMNS][CHANNELS];
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i)
    {
#pragma unroll
        for (int j = 0; j < CHANNELS; ++j)
        {
            starts[i][j] = start[j];
        }
    }
    read(0);
    add(0, starts, upper);
    read(1);
    add(1, upper, upper);
    add(0, starts, lower);
#pragma unroll 1
    for (int done = 0; done < rows; ++done)
    {
        read(done + 2);
        float result[COLUMNS][CHANNELS];
        add(2, upper, result);
        add(1, lower, upper);
        add(0, starts, lower);
        bool const is_done = first_row + done < height && is_channel;
#if HAS_NORM
        float mean[COLUMNS];
        float inverse[COLUMNS];
        moments(result, is_channel, count, share, of_channels, epsilon, done, mean, inverse);
#endif
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i)
        {
            bool const is_there = is_done && is_column[i + 1];
            u32 const out_size = is_out_int8 ? 1 : 2;
            write_outputs(is_there,
                out_at + static_cast<u64>(row_elements * out_size) * static_cast<u32>(done + 1) + channels * out_size * (i + 1),
                is_out_int8, inverse_scale, result[i]);
#if HAS_NORM
            float normal[CHANNELS];
#pragma unroll
            for (int j = 0; j < CHANNELS; ++j)
            {
                normal[j] = fmaf((result[i][j] - mean[i]) * inverse[i], gain[j], offset[j]);
            }
            u32 const norm_size = OUT_INT8 ? 1 : 2;
            write_outputs(is_there,
                norm_at + static_cast<u64>(row_elements * norm_size) * static_cast<u32>(done + 1) + channels * norm_size * (i + 1),
                OUT_INT8 != 0, inverse_scale, normal);
#endif
        }
    }
}
