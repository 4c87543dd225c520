#include "roiAlignLaunch.h"

#include "diagnostics.h"
#include "libraryApi.h"

#include <algorithm>
#include <limits>

namespace rmt_edge
{
namespace
{

constexpr int32_t kALIGNMENT = 16; // of pointers and channels: the kernel is compiled for it
constexpr int32_t kMAX_OUTPUT_SIZE = 64;
constexpr int64_t kMAX_IMAGE_ELEMENTS = std::numeric_limits<int32_t>::max(); // of ops/roi_align/kernels.py
constexpr int32_t kNB_PARAMETERS = 17;

int64_t nbTiles(int64_t size, int32_t tile)
{
    return (size + tile - 1) / tile;
}

int32_t checkPointers(RoiAlignPointers const& pointers)
{
    auto const isWrong = [](void const* pointer)
    { return pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % kALIGNMENT != 0; };
    if (std::any_of(pointers.features.begin(), pointers.features.end(), isWrong) || isWrong(pointers.rois)
        || isWrong(pointers.out))
    {
        return reportError("MultiLevelRoiAlign: an input or the output is null or not 16-byte aligned.");
    }
    return kSUCCESS;
}

} // namespace

std::string roiAlignOutputSizeProblem(int32_t outputSize)
{
    bool const isRight = outputSize >= 1 && outputSize <= kMAX_OUTPUT_SIZE;
    return isRight ? "" : "output_size is " + std::to_string(outputSize) + "; it must be 1 to 64.";
}

std::string roiAlignSizesProblem(RoiAlignSizes const& sizes)
{
    if (sizes.channels == 0 || (sizes.channels > 0 && sizes.channels % kALIGNMENT != 0))
    {
        return std::to_string(sizes.channels) + " channels are unsupported; supported: multiples of 16.";
    }
    if (sizes.batch == 0 || sizes.regions == 0)
    {
        return std::to_string(sizes.batch) + " images of " + std::to_string(sizes.regions)
            + " regions are out of range. Note: both at least 1.";
    }
    for (size_t i = 0; i < kNB_ROI_LEVELS; ++i)
    {
        int64_t const height = sizes.heights[i];
        int64_t const width = sizes.widths[i];
        // Divided, not multiplied: three sizes of 31 bits overflow 64.
        bool const isKnown = height > 0 && width > 0;
        if (height == 0 || width == 0 || (isKnown && kMAX_IMAGE_ELEMENTS / height / width < sizes.channels))
        {
            return "p" + std::to_string(i + 2) + " is a map of " + std::to_string(height) + " x "
                + std::to_string(width) + " and " + std::to_string(sizes.channels)
                + " channels. Note: all at least 1, below 2^31 together.";
        }
    }
    return {};
}

int32_t loadRoiAlign(int32_t elementType, LoadedKernel& kernel) noexcept
{
    return loadKernel(
        elementType == RMT_EDGE_FLOAT16 ? "MultiLevelRoiAlign_fp16" : "MultiLevelRoiAlign_fp32", kernel);
}

int32_t launchRoiAlign(LoadedKernel const& kernel, RoiAlignSizes const& sizes, int32_t outputSize,
    RoiAlignPointers const& pointers, CUstream stream) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::string const problem = roiAlignSizesProblem(sizes);
            if (!problem.empty() || sizes.batch < 0 || sizes.regions < 0 || sizes.channels < 0)
            {
                return reportError("MultiLevelRoiAlign: " + (problem.empty() ? "a size is negative." : problem));
            }
            if (checkPointers(pointers) != kSUCCESS)
            {
                return kFAILURE;
            }
            RoiAlignPointers all = pointers;
            RoiAlignSizes given = sizes;
            void* parameters[kNB_PARAMETERS] = {&all.features[0], &all.features[1], &all.features[2], &all.features[3],
                &all.rois, &all.out, &given.heights[0], &given.widths[0], &given.heights[1], &given.widths[1],
                &given.heights[2], &given.widths[2], &given.heights[3], &given.widths[3], &given.regions, &outputSize,
                &given.channels};
            int32_t const* const tile = kernel.embedded->tile;
            int64_t const nbBlocks = nbTiles(sizes.channels, tile[1])
                * nbTiles(static_cast<int64_t>(outputSize) * outputSize, tile[0]) * sizes.batch * sizes.regions;
            return launchKernel(kernel, nbBlocks, 1, parameters, kNB_PARAMETERS, stream);
        });
}

} // namespace rmt_edge
