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
constexpr int32_t kNB_PARAMETERS = 13;
constexpr int32_t kNORM_BLOCKS[] = {64, 128, 256, 512, 1024}; // of ROW_TILES in ops/depthwise/kernels.py
// What float16 rounds to neither 0 nor infinity: above 2^-25, below 65520.
constexpr float kFLOAT16_ROUNDS_TO_ZERO = 0x1p-25F;
constexpr float kFLOAT16_ROUNDS_TO_INFINITY = 65520.0F;

//! A kernel of the library.
struct Candidate
{
    int32_t tactic{};
    std::string name;
};

//! The kernels of a configuration, by the names aot_variants() in depthwise/aot.py gives them. With a norm they are those
//! of the smallest block that holds a whole row.
std::vector<Candidate> candidatesFor(DepthwiseResidualConfig const& config)
{
    std::string const prefix = std::string{config.form.name} + (config.elementType == RMT_EDGE_FLOAT16 ? "_fp16" : "_fp32");
    std::vector<Candidate> candidates;
    for (int32_t const block : kNORM_BLOCKS)
    {
        if (config.form.hasNorm && block < config.channels)
        {
            continue;
        }
        std::string const stem = prefix + (config.form.hasNorm ? "_c" + std::to_string(block) : "") + "_t";
        for (int32_t tactic = 1; tactic <= kMAX_TACTIC; ++tactic)
        {
            if (hasKernel(stem + std::to_string(tactic)))
            {
                candidates.push_back({tactic, stem + std::to_string(tactic)});
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
        {"norm_bias", pointers.normBias, form.hasNorm}, {"out", pointers.out, true},
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

} // namespace

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
                if (loadKernel(candidate.name, tactic.kernel) != kSUCCESS)
                {
                    return kFAILURE;
                }
                loaded.push_back(tactic);
            }
            if (loaded.empty())
            {
                return reportError(std::string{config.form.name} + ": this library holds no kernel for "
                    + std::to_string(config.channels) + " channels, element type " + std::to_string(config.elementType)
                    + ". Note: element types 0 (float32) and 1 (float16).");
            }
            tactics = std::move(loaded);
            return kSUCCESS;
        });
}

int32_t launchDepthwiseResidual(DepthwiseResidualConfig const& config,
    std::vector<DepthwiseResidualTactic> const& tactics, int32_t tactic, DepthwiseResidualSizes const& sizes,
    DepthwiseResidualPointers const& pointers, float epsilon, float outputScale, CUstream stream) noexcept
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
            auto const chosen = std::find_if(tactics.begin(), tactics.end(),
                [tactic](DepthwiseResidualTactic const& candidate) { return tactic == 0 || candidate.id == tactic; });
            if (chosen == tactics.end())
            {
                return reportError(std::string{config.form.name} + ": the library holds no tactic "
                    + std::to_string(tactic) + " for this form and element type; 0 chooses one.");
            }
            DepthwiseResidualPointers all = pointers;
            int32_t height = sizes.height;
            int32_t width = sizes.width;
            int32_t channels = config.channels;
            void* parameters[kNB_PARAMETERS] = {&all.x, &all.weight, &all.bias, &all.residual, &all.normWeight,
                &all.normBias, &all.out, &all.norm, &height, &width, &channels, &epsilon, &outputScale};
            int32_t const* const tile = chosen->kernel.embedded->tile;
            int64_t const nbBlocks = nbTiles(channels, tile[2]) * nbTiles(height, tile[0]) * nbTiles(width, tile[1]);
            return launchKernel(chosen->kernel, nbBlocks, sizes.batch, parameters, kNB_PARAMETERS, stream);
        });
}

} // namespace rmt_edge
