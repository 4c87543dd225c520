//! \file
//! MultiLevelRoiAlign as a launch of an embedded kernel.

#ifndef RMT_EDGE_ROI_ALIGN_LAUNCH_H
#define RMT_EDGE_ROI_ALIGN_LAUNCH_H

#include "kernelStore.h"

#include <array>
#include <cstdint>
#include <string>

namespace rmt_edge
{

constexpr int32_t kNB_ROI_LEVELS = 4; // P2 to P5

struct RoiAlignSizes
{
    int32_t batch{};
    std::array<int32_t, kNB_ROI_LEVELS> heights{};
    std::array<int32_t, kNB_ROI_LEVELS> widths{};
    int32_t channels{};
    int32_t regions{}; //!< Of one image.
};

struct RoiAlignPointers
{
    std::array<void const*, kNB_ROI_LEVELS> features{};
    void const* rois{};
    void* out{};
};

//! \return Why the output size is none; empty if it is one.
std::string roiAlignOutputSizeProblem(int32_t outputSize);

//! \return Why the sizes are out of the kernel's range, unknown ones (-1) aside; empty if they are not.
std::string roiAlignSizesProblem(RoiAlignSizes const& sizes);

//! \brief Load the kernel of an element type into the current CUDA context.
int32_t loadRoiAlign(int32_t elementType, LoadedKernel& kernel) noexcept;

//! \brief Launch the kernel on the stream.
int32_t launchRoiAlign(LoadedKernel const& kernel, RoiAlignSizes const& sizes, int32_t outputSize,
    RoiAlignPointers const& pointers, CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_ROI_ALIGN_LAUNCH_H
