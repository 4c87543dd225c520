// Retention on tensor cores alone: the CUDA kernels of the plugin library, for lines that a warp holds in registers.
//
//     out_i = Σ_j softmax_j(θ(q_i)·θ(k_j) + decay·distance(i, j)) v_j + LePE(v)_i
//
// Reference: op.py. A warp takes one line of one head, the whole of it at once: no loop over keys, no shared memory for
// q, k and v, one maximum. A line is a row of the grid (W pass), a column (H pass, v is the W pass's output), or the
// whole grid, which then is at most 8 rows of R tokens. Token R·g + r of a line (g below 8, r below R) lies with lane
// 4·g + t: so q and k are read in the very layout of the products' operands, θ shifts them there with one table for
// both, distance depends on r_i - r_j alone within a lane, and LePE finds its column of R + 4 inputs in one lane.
//
//     scores   16 queries x 8 keys at a time; the operands' channels are permuted alike, so any order will do
//     values   outᵀ = vᵀ·weightsᵀ: scores leave the first product as the second one's operand
//     LePE     out[channel, token] += diag(w_tap)·v[channel, token + tap]: 16 channels x 8 tokens a product, summed in
//              float32 by the tensor core; multiply-adds on packed halves would take 3.6 times the instructions
//
// Scores, softmax and sums are float32; θ rounds to float16 once more than a float32 sum would, as the reference run in
// float16 does. Compile-time: see the names below. Lines: L = w or h, a multiple of R and at most 8·R.
//
// R tokens of a line a lane holds. D head dim, 16 or 32. PASS: W_PASS, H_PASS, WHOLE or GRID, which is the W and the H
// pass in one launch for grids of at most 8·R by 8·R: one block a head, what the W pass gives stays in shared memory,
// θ is done once. INPUT: how qkv comes. OUT_INT8. WARPS a block.

#define W_PASS 0
#define H_PASS 1
#define WHOLE 2
#define GRID 3

#define TILES (D / 16)             // of 16 channels
#define STEPS ((R + 1) / 2)        // of 16 keys; if R is odd, the last one has 8
#define WORDS (D / 8)              // registers of a lane for one token of q or k: D/4 channels
#define SPAN 5                     // of the LePE window
#define RADIUS 2
#define SLOTS (8 * TILES + 1)      // of LePE's operands for a tap: the lanes that hold no zeros, and zeros
#define FILLS ((SPAN * SPAN * SLOTS + 32 * WARPS - 1) / (32 * WARPS))
#define TABLE_BYTES (16 * 32 * WARPS * FILLS)
#define TOKEN_BYTES (2 * D + 16)   // of a token in shared memory; the padding spreads tokens over the banks
#define LOG2_E 1.4426950408889634F
#define ONES 0x3C003C00U
#define NEVER __int_as_float(0xff800000)
#define ELEMENT_BYTES (INPUT == RAW_INT8_IN ? 1 : 2)
#define HAS_LEPE (PASS != W_PASS)

extern __shared__ uint4 global_smem[]; // the name that Triton's kernels have: LePE's operands, then GRID's tokens

// Where a line's tokens lie: token i is start + i·step; `groups` lanes of eight have tokens of it.
struct Line
{
    int start;
    int step;
    int groups;
};

// What a thread knows of its block.
struct Here
{
    char const* words;  // q of the image's first token, at the lane's first channel
    char const* pairs;  // v of it, at channel 2g of the head
    char const* quads;  // v of it, at channel 4t of the head
    char const* scale;  // of the head's first channel of q
    char const* bias;
    u32 key_bytes;      // from q to k
    u32 token_bytes;    // from token to token of qkv
    u32 input_step;     // what one step of INT8 stands for
    float decay;
    int channels;
    int h;
    int w;
    int g;
    int t;
};

#if INPUT != FLOAT_IN
// True values of N registers that hold raw ones, of channels from `channel` on, counted from the head's first of q.
template <int N> __device__ __forceinline__ void make_true(Here const& here, u32 (&x)[N], int channel)
{
#pragma unroll
    for (int i = 0; i < N; ++i)
    {
        u32 scale;
        u32 bias;
        read4(here.scale + 2 * channel + 4 * i, scale);
        read4(here.bias + 2 * channel + 4 * i, bias);
#if INPUT == RAW_INT8_IN
        x[i] = pair_multiply(x[i], here.input_step);
#endif
        x[i] = pair_multiply_add(x[i], scale, bias);
    }
}
#endif

// The lane's D/4 channels of a token's q (part 0) or k (part 1), true values.
__device__ __forceinline__ void read_words(Here const& here, int part, char const* p, u32 (&x)[WORDS])
{
#if INPUT == RAW_INT8_IN
    u32 raw[WORDS / 2];
#if D == 32
    read8(p, raw);
#else
    read4(p, raw[0]);
#endif
#pragma unroll
    for (int i = 0; i < WORDS; ++i)
    {
        x[i] = pair_from_bytes(raw[i / 2], i % 2 ? LAST_BYTES : FIRST_BYTES);
    }
#elif D == 32
    read16(p, x);
#else
    read8(p, x);
#endif
#if INPUT != FLOAT_IN
    make_true(here, x, part * here.channels + D / 4 * here.t);
#endif
}

// Two neighbouring channels of a token's v, from 16·tile + 2g of the head on.
__device__ __forceinline__ u32 read_value_pair(Here const& here, char const* p, int tile)
{
    u32 x[1];
#if INPUT == RAW_INT8_IN
    x[0] = pair_from_bytes(read2(p), FIRST_BYTES);
#else
    read4(p, x[0]);
#endif
#if INPUT != FLOAT_IN
    make_true(here, x, 2 * here.channels + 16 * tile + 2 * here.g);
#endif
    return x[0];
}

// Four neighbouring channels of a token's v, from 16·tile + 4t of the head on; zeros unless the token is there.
__device__ __forceinline__ void read_values(
    Here const& here, bool is_always_there, bool is_there, char const* p, int tile, u32 (&x)[2])
{
#if INPUT == RAW_INT8_IN
    u32 raw;
    if (is_always_there)
    {
        read4(p, raw);
    }
    else
    {
        read4_if(is_there, p, raw);
    }
    x[0] = pair_from_bytes(raw, FIRST_BYTES);
    x[1] = pair_from_bytes(raw, LAST_BYTES);
#else
    if (is_always_there)
    {
        read8(p, x);
    }
    else
    {
        read8_if(is_there, p, x);
    }
#endif
#if INPUT != FLOAT_IN
    make_true(here, x, 2 * here.channels + 16 * tile + 4 * here.t);
    x[0] = is_always_there || is_there ? x[0] : 0;
    x[1] = is_always_there || is_there ? x[1] : 0;
#endif
}

// θ of q and of k at one token, of which the tables' rows are given.
__device__ __forceinline__ void shift(char const* sine_row, char const* cosine_row, u32 (&q)[WORDS], u32 (&k)[WORDS])
{
    u32 sine[WORDS];
    u32 cosine[WORDS];
#if D == 32
    read16(sine_row, sine);
    read16(cosine_row, cosine);
#else
    read8(sine_row, sine);
    read8(cosine_row, cosine);
#endif
#pragma unroll
    for (int i = 0; i < WORDS; ++i)
    {
        u32 const signed_sine = sine[i] ^ MINUS_LOW;
        q[i] = pair_multiply_add(bytes_of(q[i], 0, SWAPPED), signed_sine, pair_multiply(q[i], cosine[i]));
        k[i] = pair_multiply_add(bytes_of(k[i], 0, SWAPPED), signed_sine, pair_multiply(k[i], cosine[i]));
    }
}

// Every lane's operands of the values: v of keys R·n + 2s and R·n + 2s + 1 for n = 2t and 2t + 1, transposed.
// p: channel 2g of the line's first token; read: (place, tile) -> two channels.
template <typename Offset, typename Place, typename Read>
__device__ __forceinline__ void gather_values(Here const& here, Place p, u32 step_bytes, int tile_bytes, int groups,
    u32 (&values)[STEPS][TILES][4], Read const& read)
{
    Place const first = p + static_cast<Offset>(R * step_bytes) * static_cast<u32>(min(2 * here.t, groups - 1));
    Place const second = p + static_cast<Offset>(R * step_bytes) * static_cast<u32>(min(2 * here.t + 1, groups - 1));
#pragma unroll
    for (int r = 0; r < R; ++r)
    {
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
        {
            u32 const a = read(first + static_cast<Offset>(step_bytes) * r + tile * tile_bytes, tile);
            u32 const b = read(second + static_cast<Offset>(step_bytes) * r + tile * tile_bytes, tile);
            values[r / 2][tile][r % 2 * 2] = bytes_of(a, b, LOW_HALVES);
            values[r / 2][tile][r % 2 * 2 + 1] = bytes_of(a, b, HIGH_HALVES);
        }
    }
}

// d += a·weights over the keys of step s; d = … if it is the first.
__device__ __forceinline__ void add_weighted(
    float (&d)[4], u32 const (&a)[4], int s, u32 const (&weights)[R], bool is_first)
{
    float const c[4] = {is_first ? 0.0F : d[0], is_first ? 0.0F : d[1], is_first ? 0.0F : d[2], is_first ? 0.0F : d[3]};
    if (2 * s + 1 < R)
    {
        multiply_16(d, a, weights[2 * s], weights[min(2 * s + 1, R - 1)], c[0], c[1], c[2], c[3]);
    }
    else
    {
        multiply_8(d, a[0], a[1], weights[2 * s], c[0], c[1], c[2], c[3]);
    }
}

// softmax(q·kᵀ + decay·distance)·v of a line. out[r][tile]: channels 16·tile + 2g (elements 0, 1) and the next (2, 3),
// of the tokens R·(2t) + r (elements 0, 2) and R·(2t + 1) + r (1, 3).
__device__ __forceinline__ void attend(Here const& here, int groups, u32 const (&q)[R][WORDS], u32 const (&k)[R][WORDS],
    u32 const (&values)[STEPS][TILES][4], float (&out)[R][TILES][4])
{
    float bias[2 * R - 1][2]; // of r_query - r_key + R - 1, for keys of 2t and 2t + 1
#pragma unroll
    for (int e = 0; e < 2; ++e)
    {
        int const apart = here.g - 2 * here.t - e;
        float const absent = 2 * here.t + e < groups ? 0.0F : NEVER;
        float const whole = static_cast<float>(PASS == WHOLE ? abs(apart) : R * apart);
#pragma unroll
        for (int i = 0; i < 2 * R - 1; ++i)
        {
            float const rest = static_cast<float>(i - R + 1);
            float const distance = PASS == WHOLE ? whole + fabsf(rest) : fabsf(whole + rest);
            bias[i][e] = fmaf(here.decay, distance, absent);
        }
    }
#pragma unroll
    for (int m = 0; m < STEPS; ++m)
    {
        float scores[R][4];
#pragma unroll
        for (int n = 0; n < R; ++n)
        {
            int const next = min(2 * m + 1, R - 1); // if R is odd, the last row of all is any
            float const(&of_row)[2] = bias[2 * m - n + R - 1];
            float const(&of_next)[2] = bias[next - n + R - 1];
#pragma unroll
            for (int s = 0; s < WORDS / 2; ++s)
            {
                u32 const a[4] = {q[2 * m][2 * s], q[next][2 * s], q[2 * m][2 * s + 1], q[next][2 * s + 1]};
                float(&d)[4] = scores[n];
                multiply_16(d, a, k[n][2 * s], k[n][2 * s + 1], s ? d[0] : of_row[0], s ? d[1] : of_row[1],
                    s ? d[2] : of_next[0], s ? d[3] : of_next[1]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
        {
            int const r = 2 * m + half;
            if (r >= R)
            {
                continue;
            }
            float maximum = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
            for (int n = 1; n < R; ++n)
            {
                maximum = fmaxf(maximum, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            }
            maximum = fmaxf(maximum, of_lane(maximum, 1));
            maximum = fmaxf(maximum, of_lane(maximum, 2));
            float const shift = -LOG2_E * maximum;
            u32 weights[R];
#pragma unroll
            for (int n = 0; n < R; ++n)
            {
                weights[n] = pair_from(power_of_two(fmaf(scores[n][2 * half], LOG2_E, shift)),
                    power_of_two(fmaf(scores[n][2 * half + 1], LOG2_E, shift)));
            }
            float total[4] = {0.0F, 0.0F, 0.0F, 0.0F}; // of queries 2t and 2t + 1, in every row
            u32 const ones[4] = {ONES, ONES, ONES, ONES};
#pragma unroll
            for (int s = 0; s < STEPS; ++s)
            {
                add_weighted(total, ones, s, weights, s == 0);
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile)
                {
                    add_weighted(out[r][tile], values[s][tile], s, weights, s == 0);
                }
            }
            float const inverse[2] = {reciprocal(total[0]), reciprocal(total[1])};
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
            {
#pragma unroll
                for (int e = 0; e < 4; ++e)
                {
                    out[r][tile][e] *= inverse[e % 2];
                }
            }
        }
    }
}

#if HAS_LEPE
// The operands of LePE's products, one 16 x 16 diagonal a tap and tile, of which 8 lanes hold all that is not zero.
__device__ __forceinline__ void fill_taps(char const* weight)
{
#pragma unroll
    for (int i = 0; i < FILLS; ++i)
    {
        int const entry = threadIdx.x + 32 * WARPS * i;
        int const tap = min(entry / SLOTS, SPAN * SPAN - 1);
        int const slot = entry % SLOTS;
        int const channel = 2 * min(slot, 8 * TILES - 1);
        u32 const first = read2(weight + 2 * (channel * SPAN * SPAN + tap));
        u32 const second = read2(weight + 2 * ((channel + 1) * SPAN * SPAN + tap)) << 16;
        bool const is_first = slot < 8 * TILES && slot % 2 == 0;
        bool const is_last = slot < 8 * TILES && slot % 2 != 0;
        global_smem[entry] = make_uint4(is_first ? first : 0, is_first ? second : 0, is_last ? first : 0, is_last ? second : 0);
    }
}

// out += LePE(v) + bias. In the whole form a lane's tokens lie along a row of the grid, else along a column.
__device__ __forceinline__ void add_lepe(
    Here const& here, Line const& line, int column, char const* lepe_bias, float (&out)[R][TILES][4])
{
    int const group = min(here.g, line.groups - 1);
    int slots[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
    {
        slots[tile] = here.g / 2 == here.t ? 8 * tile + here.g : 8 * TILES;
        u32 pair;
        read4(lepe_bias + 2 * (16 * tile + 2 * here.g), pair);
        float const bias[2] = {low_of(pair), high_of(pair)};
#pragma unroll
        for (int r = 0; r < R; ++r)
        {
#pragma unroll
            for (int e = 0; e < 4; ++e)
            {
                out[r][tile][e] += bias[e / 2];
            }
        }
    }
    int const length = PASS == WHOLE ? R : R * line.groups;
    int const first = PASS == WHOLE ? 0 : R * group; // of the lane's tokens, along
    int const others = PASS == WHOLE ? here.h : here.w;
    u32 const along_bytes = line.step * here.token_bytes;
    u32 const across_bytes = PASS == WHOLE ? R * here.token_bytes : here.token_bytes;
    int const tap_step = PASS == WHOLE ? 1 : SPAN; // along
#pragma unroll 1
    for (int across = 0; across < SPAN; ++across)
    {
        int other = (PASS == WHOLE ? group : column) + across - RADIUS;
        bool const is_other = static_cast<u32>(other) < static_cast<u32>(others);
        // A column outside the grid is outside for all lanes: it is read elsewhere, and its taps are zeros. Of the
        // whole form's rows only some lanes' are: there zeros are read.
        other = min(max(other, 0), others - 1);
        uint4 const* const operands = global_smem + across * (PASS == WHOLE ? SPAN : 1) * SLOTS;
        u32 taps[SPAN][TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
        {
            uint4 const* const p = operands + (PASS == WHOLE || is_other ? slots[tile] : 8 * TILES);
#pragma unroll
            for (int i = 0; i < SPAN; ++i)
            {
                read_shared(p + i * tap_step * SLOTS, taps[i][tile]);
            }
        }
        char const* const column_at = here.quads + static_cast<u64>(across_bytes) * static_cast<u32>(other);
        char const* const p = column_at + static_cast<u64>(along_bytes) * static_cast<u32>(first);
#pragma unroll
        for (int j = -RADIUS; j < R + RADIUS; ++j)
        {
            if (PASS == WHOLE && (j < 0 || j >= R))
            {
                continue;
            }
            bool const is_along = (j >= 0 && j < R) || static_cast<u32>(first + j) < static_cast<u32>(length);
            bool const is_always = PASS != WHOLE && j >= 0 && j < R;
            char const* const at = p + static_cast<long long>(static_cast<u64>(along_bytes)) * j;
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
            {
                u32 x[2];
                read_values(here, is_always, (PASS != WHOLE || is_other) && is_along, at + 16 * tile * ELEMENT_BYTES, tile, x);
#pragma unroll
                for (int r = 0; r < R; ++r)
                {
                    int const i = j - r + RADIUS;
                    if (i >= 0 && i < SPAN)
                    {
                        float(&d)[4] = out[r][tile];
                        multiply_16(d, taps[i][tile], x[0], x[1], d[0], d[1], d[2], d[3]);
                    }
                }
            }
        }
    }
}
#endif

// Store a line's outputs. p: of the line's first token, at channel 2g of the head, with BYTES an element.
template <int BYTES>
__device__ __forceinline__ void store(Here const& here, char* p, u32 step_bytes, int groups, bool is_line,
    float output_scale, float const (&out)[R][TILES][4])
{
    float const inverse = BYTES == 1 ? quotient(1.0F, output_scale) : 0.0F;
#pragma unroll
    for (int e = 0; e < 2; ++e)
    {
        int const group = 2 * here.t + e;
        bool const is_there = is_line && group < groups;
        char* const first = p + static_cast<u64>(R * step_bytes) * static_cast<u32>(group);
#pragma unroll
        for (int r = 0; r < R; ++r)
        {
            char* const at = first + static_cast<u64>(step_bytes) * r;
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
            {
                float const x = out[r][tile][e];
                float const y = out[r][tile][e + 2];
                if (BYTES == 1)
                {
                    u32 const both = bytes_of(int8_bits(x, inverse), int8_bits(y, inverse), 0x0040);
                    write2_if(is_there, at + 16 * tile, both);
                }
                else
                {
                    write4_if(is_there, at + 32 * tile, pair_from(x, y));
                }
            }
        }
    }
}

#if PASS == GRID
// Where GRID keeps a token of q, k and the W pass's output in shared memory.
__device__ __forceinline__ u32 shared_token(int part, int tokens, int token)
{
    u32 const base = static_cast<u32>(__cvta_generic_to_shared(global_smem)) + TABLE_BYTES;
    return base + (part * tokens + token) * TOKEN_BYTES;
}
#endif

// q and k of a lane's tokens of a line, shifted.
__device__ __forceinline__ void read_line(Here const& here, Line const& line, char const* sine, char const* cosine,
    u32 (&q)[R][WORDS], u32 (&k)[R][WORDS])
{
    u32 const first = line.start + R * min(here.g, line.groups - 1) * line.step;
    char const* const words = here.words + static_cast<u64>(here.token_bytes) * first;
    char const* const sine_row = sine + static_cast<u64>(2 * D) * first + D / 2 * here.t;
    char const* const cosine_row = cosine + static_cast<u64>(2 * D) * first + D / 2 * here.t;
    u32 const step_bytes = line.step * here.token_bytes;
    u32 const table_bytes = line.step * 2 * D;
#pragma unroll
    for (int r = 0; r < R; ++r)
    {
        char const* const p = words + static_cast<u64>(step_bytes) * r;
        read_words(here, 0, p, q[r]);
        read_words(here, 1, p + here.key_bytes, k[r]);
        shift(sine_row + static_cast<u64>(table_bytes) * r, cosine_row + static_cast<u64>(table_bytes) * r, q[r], k[r]);
    }
}

// The values of a line's keys from qkv.
__device__ __forceinline__ void gather_raw_values(Here const& here, Line const& line, u32 (&values)[STEPS][TILES][4])
{
    gather_values<u64>(here, here.pairs + static_cast<u64>(here.token_bytes) * static_cast<u32>(line.start),
        line.step * here.token_bytes, 16 * ELEMENT_BYTES, line.groups, values,
        [&](char const* p, int tile) { return read_value_pair(here, p, tile); });
}

// The line of a pass, and whether there is one of that number.
__device__ __forceinline__ Line line_of(Here const& here, bool is_column, bool is_whole, int number)
{
    Line line;
    line.start = is_whole ? 0 : is_column ? number : number * here.w;
    line.step = is_column ? here.w : 1;
    line.groups = is_whole ? here.h : (is_column ? here.h : here.w) / R;
    return line;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS_A_SM) retention_lines(
    // pointers: qkv (b, h, w, 3c), w_out (b, h, w, c), sin and cos (h·w, D), decay (n,) float32,
    // lepe_weight (c, 1, 5, 5), lepe_bias (c,), qkv_scale and qkv_bias (3c,), out (b, h, w, c)
    char const* qkv, char* w_out, char const* sine, char const* cosine, float const* decay, char const* lepe_weight,
    char const* lepe_bias, char const* qkv_scale, char const* qkv_bias, char* out,
    // what one step of INT8 stands for
    float input_scale, float output_scale,
    // sizes
    int h, int w, int num_heads, int batch)
{
    // A block: WARPS lines of one head of an image; of the whole form, the same head of WARPS images.
    int const lines = PASS == W_PASS ? h : PASS == H_PASS ? w : PASS == WHOLE ? batch : 1;
    int const parts = (lines + WARPS - 1) / WARPS; // blocks of a head
    int const head = blockIdx.x % num_heads;
    int const rest = blockIdx.x / num_heads;
    int const warp = threadIdx.x / 32;
    int const lane = threadIdx.x % 32;
    int const number = rest % parts * WARPS + warp;
    [[maybe_unused]] bool const is_line = number < lines;
    int const at = min(number, lines - 1);
    long long const image = PASS == WHOLE ? at : rest / parts;
    Here here;
    here.channels = num_heads * D;
    here.h = h;
    here.w = w;
    here.g = lane / 4;
    here.t = lane % 4;
    here.decay = decay[head];
    here.scale = qkv_scale + 2 * head * D;
    here.bias = qkv_bias + 2 * head * D;
    here.input_step = pair_of(input_scale);
    here.key_bytes = here.channels * ELEMENT_BYTES;
    here.token_bytes = 3 * here.key_bytes;
    long long const tokens = image * (h * w);
    char const* const of_head = qkv + tokens * here.token_bytes + head * D * ELEMENT_BYTES;
    here.words = of_head + D / 4 * ELEMENT_BYTES * here.t;
    here.pairs = of_head + 2 * here.key_bytes + 2 * ELEMENT_BYTES * here.g;
    here.quads = of_head + 2 * here.key_bytes + 4 * ELEMENT_BYTES * here.t;
    int const bytes = OUT_INT8 ? 1 : 2;
    u32 const between_bytes = 2 * here.channels; // of a token of w_out
    u32 const out_bytes = bytes * here.channels;
    [[maybe_unused]] char* const between = w_out + tokens * between_bytes + head * D * 2 + 4 * here.g;
    [[maybe_unused]] char* const target = out + tokens * out_bytes + (head * D + 2 * here.g) * bytes;
    u32 q[R][WORDS];
    u32 k[R][WORDS];
    u32 values[STEPS][TILES][4];
    float result[R][TILES][4];
#if HAS_LEPE
    fill_taps(lepe_weight + 2 * head * D * SPAN * SPAN);
#endif
#if PASS != GRID
#if HAS_LEPE
    __syncthreads();
#endif
    Line const line = line_of(here, PASS == H_PASS, PASS == WHOLE, at);
    read_line(here, line, sine, cosine, q, k);
    if (PASS == H_PASS)
    {
        gather_values<u64>(here, between + static_cast<u64>(between_bytes) * static_cast<u32>(line.start),
            line.step * between_bytes, 32, line.groups, values,
            [](char const* p, int /*tile*/)
            {
                u32 x;
                read4(p, x);
                return x;
            });
    }
    else
    {
        gather_raw_values(here, line, values);
    }
    attend(here, line.groups, q, k, values, result);
#if HAS_LEPE
    add_lepe(here, line, at, lepe_bias + 2 * head * D, result);
    store<bytes>(here, target + static_cast<u64>(out_bytes) * static_cast<u32>(line.start), line.step * out_bytes,
        line.groups, is_line, output_scale, result);
#else
    store<2>(here, between + static_cast<u64>(between_bytes) * static_cast<u32>(line.start), between_bytes, line.groups,
        is_line, output_scale, result);
#endif
#else
    int const count = h * w;
#pragma unroll 1
    for (int first = 0; first < h; first += WARPS)
    {
        bool const is_row = first + warp < h;
        Line const line = line_of(here, false, false, min(first + warp, h - 1));
        read_line(here, line, sine, cosine, q, k);
#pragma unroll
        for (int r = 0; r < R; ++r)
        {
            int const token = line.start + R * here.g + r;
            bool const is_there = is_row && here.g < line.groups;
            write16_shared_if(is_there, shared_token(0, count, token) + D / 2 * here.t, q[r]);
            write16_shared_if(is_there, shared_token(1, count, token) + D / 2 * here.t, k[r]);
        }
        gather_raw_values(here, line, values);
        attend(here, line.groups, q, k, values, result);
#pragma unroll
        for (int e = 0; e < 2; ++e)
        {
            int const group = 2 * here.t + e;
#pragma unroll
            for (int r = 0; r < R; ++r)
            {
                u32 const to = shared_token(2, count, line.start + R * group + r) + 4 * here.g;
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile)
                {
                    write4_shared_if(is_row && group < line.groups, to + 32 * tile,
                        pair_from(result[r][tile][e], result[r][tile][e + 2]));
                }
            }
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int first = 0; first < w; first += WARPS)
    {
        bool const is_column = first + warp < w;
        int const column = min(first + warp, w - 1);
        Line const line = line_of(here, true, false, column);
        int const token = column + R * min(here.g, line.groups - 1) * w;
#pragma unroll
        for (int r = 0; r < R; ++r)
        {
            read16_shared(shared_token(0, count, token + r * w) + D / 2 * here.t, q[r]);
            read16_shared(shared_token(1, count, token + r * w) + D / 2 * here.t, k[r]);
        }
        gather_values<u32>(here, shared_token(2, count, column) + 4 * here.g, w * TOKEN_BYTES, 32, line.groups, values,
            [](u32 p, int /*tile*/) { return read4_shared(p); });
        attend(here, line.groups, q, k, values, result);
        add_lepe(here, line, column, lepe_bias + 2 * head * D, result);
        store<bytes>(here, target + static_cast<u64>(out_bytes) * static_cast<u32>(column), w * out_bytes, line.groups,
            is_column, output_scale, result);
    }
#endif
}
