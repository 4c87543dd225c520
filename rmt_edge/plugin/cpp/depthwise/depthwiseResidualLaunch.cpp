#include "depthwiseResidualLaunch.h"

#include "depthwiseResidualKernel.h"
#include "diagnostics.h"

#include <algorithm>
#include <iterator>

namespace rmt_edge
{
namespace
{

constexpr int32_t kMAX_TACTIC = 15;            // tactics of depthwise/aot.py lie below
constexpr int32_t kALIGNMENT = 16;             // of pointers and channels: the kernels are compiled for it
constexpr int32_t kMAX_BATCH = 65535;          // MAX_GRID_Y of ops/depthwise/kernels.py
constexpr int64_t kMAX_IMAGE_ELEMENTS{1 << 30}; // of ops/depthwise/kernels.py
constexpr int32_t kNB_PARAMETERS = 16;       // of the Triton kernel
constexpr int32_t kNB_COLUMN_PARAMETERS = 17; // of the CUDA kernel
// Of the CUDA kernel, whose tactics are rows a thread: tactic 1, 2, 3. 14 and 7 divide the grids at 224 px.
constexpr int32_t kROWS[] = {2, 7, 14};
constexpr int32_t kNB_ROW_TACTICS = 3;
constexpr int32_t kCHANNELS_A_THREAD = 4; // CHANNELS of kernels.cu
// Threads that fill a large GPU, if each has many loads under way: two warps a scheduler of 128 SMs. Guessed, not timed.
constexpr int64_t kENOUGH_THREADS = 128 * 256;
constexpr int32_t kNORM_BLOCKS[] = {64, 128, 256, 512, 1024}; // of ROW_TILES in ops/depthwise/kernels.py
// What float16 rounds to neither 0 nor infinity: above 2^-25, below 65520.
constexpr float kFLOAT16_ROUNDS_TO_ZERO = 0x1p-25F;
constexpr float kFLOAT16_ROUNDS_TO_INFINITY = 65520.0F;

//! A kernel of the library.
struct Candidate
{
    int32_t tactic{};
    std::string name;
    int32_t nbRows{}; // 0: the kernel has its own
};

//! The kernels of a configuration, by the names aot_variants() in depthwise/aot.py gives them. With a norm they are those
//! of the smallest block that holds a whole row.
std::vector<Candidate> candidatesFor(DepthwiseResidualConfig const& config)
{
    std::string const given = config.isInt8Input ? "_raw8" : (config.form.isScaled ? "_raw" : "_fp16");
    std::string const prefix = std::string{config.form.name} + (config.elementType == RMT_EDGE_FLOAT16 ? given : "_fp32");
    if (config.elementType == RMT_EDGE_FLOAT32 && config.form.isScaled)
    {
        return {};
    }
    std::vector<Candidate> candidates;
    for (int32_t const block : kNORM_BLOCKS)
    {
        if (config.form.hasNorm && block < config.channels)
        {
            continue;
        }
        std::string const stem = prefix + (config.form.hasNorm ? "_c" + std::to_string(block) : "");
        if (hasKernel(stem))
        {
            for (int32_t i = 0; i < kNB_ROW_TACTICS; ++i)
            {
                candidates.push_back({i + 1, stem, kROWS[i]});
            }
        }
        for (int32_t tactic = 1; tactic <= kMAX_TACTIC; ++tactic)
        {
            if (hasKernel(stem + "_t" + std::to_string(tactic)))
            {
                candidates.push_back({tactic, stem + "_t" + std::to_string(tactic), 0});
            }
        }
        if (!candidates.empty() || !config.form.hasNorm)
        {
            break;
        }
    }
    return candidates;
}

int64_t nbTiles(int32_t size, int32_t tile)
{
    return (static_cast<int64_t>(size) + tile - 1) / tile;
}

int32_t checkPointers(DepthwiseResidualForm const& form, DepthwiseResidualPointers const& pointers)
{
    struct Named
    {
        char const* name;
        void const* pointer;
        bool isNeeded;
    };
    Named const all[] = {{"x", pointers.x, true}, {"weight", pointers.weight, true}, {"bias", pointers.bias, true},
        {"residual", pointers.residual, form.hasResidual}, {"norm_weight", pointers.normWeight, form.hasNorm},
        {"norm_bias", pointers.normBias, form.hasNorm}, {"x_scale", pointers.xScale, form.isScaled},
        {"x_bias", pointers.xBias, form.isScaled}, {"out", pointers.out, true},
        {"norm", pointers.norm, form.hasNorm}};
    for (Named const& named : all)
    {
        bool const isAligned = reinterpret_cast<uintptr_t>(named.pointer) % kALIGNMENT == 0;
        if (named.isNeeded && (named.pointer == nullptr || !isAligned))
        {
            return reportError(std::string{form.name} + ": " + named.name + " is null or not 16-byte aligned.");
        }
    }
    return kSUCCESS;
}

//! What one launch is given besides its kernel.
struct LaunchValues
{
    DepthwiseResidualPointers pointers;
    DepthwiseResidualSizes sizes;
    int32_t channels{};
    float epsilon{};
    float inputScale{};
    float outputScale{};
};

int32_t launchTile(LoadedKernel const& kernel, LaunchValues values, CUstream stream)
{
    DepthwiseResidualPointers& all = values.pointers;
    void* parameters[kNB_PARAMETERS] = {&all.x, &all.weight, &all.bias, &all.residual, &all.normWeight, &all.normBias,
        &all.xScale, &all.xBias, &all.out, &all.norm, &values.sizes.height, &values.sizes.width, &values.channels,
        &values.epsilon, &values.outputScale, &values.inputScale};
    int32_t const* const tile = kernel.embedded->tile;
    int64_t const nbBlocks = nbTiles(values.channels, tile[2]) * nbTiles(values.sizes.height, tile[0])
        * nbTiles(values.sizes.width, tile[1]);
    return launchKernel(kernel, nbBlocks, values.sizes.batch, parameters, kNB_PARAMETERS, stream);
}

//! As many rows as the tactic has at most, so that all tiles of a column have about the same.
int32_t evenRows(int32_t height, int32_t most)
{
    return static_cast<int32_t>(nbTiles(height, static_cast<int32_t>(nbTiles(height, most))));
}

//! tile: columns a thread, and tiles a block with a norm, whose threads share a position's channels; else 0.
int32_t launchColumns(LoadedKernel const& kernel, int32_t mostRows, LaunchValues values, CUstream stream)
{
    DepthwiseResidualPointers& all = values.pointers;
    int32_t rows = evenRows(values.sizes.height, mostRows);
    void* parameters[kNB_COLUMN_PARAMETERS] = {&all.x, &all.weight, &all.bias, &all.residual, &all.normWeight,
        &all.normBias, &all.xScale, &all.xBias, &all.out, &all.norm, &values.sizes.height, &values.sizes.width,
        &values.channels, &rows, &values.epsilon, &values.inputScale, &values.outputScale};
    EmbeddedKernel const& embedded = *kernel.embedded;
    int64_t const tiles = nbTiles(values.sizes.height, rows) * nbTiles(values.sizes.width, embedded.tile[0]);
    int64_t const nbBlocks = embedded.tile[1] > 0
        ? (tiles + embedded.tile[1] - 1) / embedded.tile[1]
        : (tiles * (values.channels / kCHANNELS_A_THREAD) + embedded.threadsPerBlock - 1) / embedded.threadsPerBlock;
    return launchKernel(kernel, nbBlocks, values.sizes.batch, parameters, kNB_COLUMN_PARAMETERS, stream);
}

} // namespace

std::string depthwiseResidualConfigProblem(DepthwiseResidualConfig const& config)
{
    if (!candidatesFor(config).empty())
    {
        return {};
    }
    return "this library holds no kernel for " + std::to_string(config.channels) + " channels, element type "
        + std::to_string(config.elementType)
        + ". Note: element types 0 (float32) and 1 (float16), raw products beside 1 alone, which "
          "rmt-edge export writes.";
}

int32_t defaultDepthwiseResidualTactic(DepthwiseResidualConfig const& config, DepthwiseResidualSizes const& sizes)
{
    std::vector<Candidate> const candidates = candidatesFor(config);
    int32_t best = candidates.empty() ? 0 : candidates.front().tactic;
    for (Candidate const& candidate : candidates)
    {
        if (candidate.nbRows > 0 && sizes.batch > 0 && sizes.height > 0 && sizes.width > 0)
        {
            int32_t const columns = findAnyKernel(candidate.name)->tile[0];
            int64_t const tiles = nbTiles(sizes.height, candidate.nbRows) * nbTiles(sizes.width, columns);
            bool const isFull = tiles * sizes.batch * (config.channels / kCHANNELS_A_THREAD) >= kENOUGH_THREADS;
            best = isFull ? candidate.tactic : best;
        }
    }
    return best;
}

std::string depthwiseResidualChannelsProblem(DepthwiseResidualForm const& form, int32_t channels)
{
    if (channels < 1 || channels % kALIGNMENT != 0)
    {
        return std::to_string(channels) + " channels are unsupported; supported: multiples of 16.";
    }
    if (form.hasNorm && channels > *std::prev(std::end(kNORM_BLOCKS)))
    {
        return std::to_string(channels) + " channels are too many for a LayerNorm; supported: up to 1024.";
    }
    return {};
}

std::string depthwiseResidualScaleProblem(int32_t elementType, float outputScale)
{
    bool const isLost = elementType == RMT_EDGE_FLOAT16
        && (outputScale <= kFLOAT16_ROUNDS_TO_ZERO || outputScale >= kFLOAT16_ROUNDS_TO_INFINITY);
    return isLost ? "output_scale is 0 or infinite in float16, the type that the graph holds it in." : std::string{};
}

std::string depthwiseResidualSizesProblem(DepthwiseResidualSizes const& sizes, int32_t channels)
{
    // Divided, not multiplied: three sizes of 31 bits overflow 64.
    bool const isKnown = sizes.height > 0 && sizes.width > 0;
    bool const isTooLarge = isKnown && kMAX_IMAGE_ELEMENTS / sizes.height / sizes.width < channels;
    if (sizes.batch == 0 || sizes.height == 0 || sizes.width == 0 || sizes.batch > kMAX_BATCH || isTooLarge)
    {
        return "batch " + std::to_string(sizes.batch) + ", grid " + std::to_string(sizes.height) + " x "
            + std::to_string(sizes.width) + ", " + std::to_string(channels)
            + " channels is out of range. Note: all at least 1; batch up to 65535; an image up to 2^30 elements.";
    }
    return {};
}

std::vector<int32_t> depthwiseResidualTactics(DepthwiseResidualConfig const& config)
{
    std::vector<int32_t> ids;
    for (Candidate const& candidate : candidatesFor(config))
    {
        ids.push_back(candidate.tactic);
    }
    return ids;
}

int32_t loadDepthwiseResidual(
    DepthwiseResidualConfig const& config, std::vector<DepthwiseResidualTactic>& tactics) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::vector<DepthwiseResidualTactic> loaded;
            for (Candidate const& candidate : candidatesFor(config))
            {
                DepthwiseResidualTactic tactic;
                tactic.id = candidate.tactic;
                tactic.nbRows = candidate.nbRows;
                if (loadKernel(candidate.name, tactic.kernel) != kSUCCESS)
                {
                    return kFAILURE;
                }
                loaded.push_back(tactic);
            }
            if (loaded.empty())
            {
                return reportError(std::string{config.form.name} + ": " + depthwiseResidualConfigProblem(config));
            }
            tactics = std::move(loaded);
            return kSUCCESS;
        });
}

int32_t launchDepthwiseResidual(DepthwiseResidualConfig const& config,
    std::vector<DepthwiseResidualTactic> const& tactics, int32_t tactic, DepthwiseResidualSizes const& sizes,
    DepthwiseResidualPointers const& pointers, float epsilon, float inputScale, float outputScale,
    CUstream stream) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::string const problem = depthwiseResidualSizesProblem(sizes, config.channels);
            if (!problem.empty() || sizes.batch < 0 || sizes.height < 0 || sizes.width < 0)
            {
                return reportError(std::string{config.form.name} + ": "
                    + (problem.empty() ? "a size is negative." : problem));
            }
            if (checkPointers(config.form, pointers) != kSUCCESS)
            {
                return kFAILURE;
            }
            int32_t const id = tactic != 0 ? tactic : defaultDepthwiseResidualTactic(config, sizes);
            auto const chosen = std::find_if(tactics.begin(), tactics.end(),
                [id](DepthwiseResidualTactic const& candidate) { return candidate.id == id; });
            if (chosen == tactics.end())
            {
                return reportError(std::string{config.form.name} + ": the library holds no tactic "
                    + std::to_string(tactic) + " for this form and element type; 0 chooses one.");
            }
            LaunchValues const values{pointers, sizes, config.channels, epsilon, inputScale, outputScale};
            return chosen->nbRows > 0 ? launchColumns(chosen->kernel, chosen->nbRows, values, stream)
                                      : launchTile(chosen->kernel, values, stream);
        });
}

} // namespace rmt_edge
