//! \file
//! Nms as three launches of embedded kernels: sort, compare, select.

#ifndef RMT_EDGE_NMS_LAUNCH_H
#define RMT_EDGE_NMS_LAUNCH_H

#include "kernelStore.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace rmt_edge
{

struct NmsKernels
{
    LoadedKernel sort;
    LoadedKernel compare;
    LoadedKernel select;
};

struct NmsSizes
{
    int32_t batch{};
    int32_t boxes{};
};

//! The attributes of a node.
struct NmsSettings
{
    float iouThreshold{};
    float scoreThreshold{};
    int32_t maxOutputs{};
};

struct NmsPointers
{
    void const* boxes{};
    void const* scores{};
    void const* ids{};
    void* outBoxes{};
    void* outScores{};
    void* outIds{};
    void* count{};
    void* workspace{};
};

//! \return Why the sizes are out of the kernels' range, unknown ones (-1) aside; empty if they are not.
std::string nmsSizesProblem(NmsSizes const& sizes, int32_t maxOutputs);

//! \return The bytes of workspace for such sizes; for a smaller batch or fewer boxes it suffices too.
size_t nmsWorkspaceBytes(NmsSizes const& sizes);

//! \brief Load the kernels into the current CUDA context.
int32_t loadNms(NmsKernels& kernels) noexcept;

//! \brief Launch the three kernels on the stream.
int32_t launchNms(NmsKernels const& kernels, NmsSizes const& sizes, NmsSettings const& settings,
    NmsPointers const& pointers, CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_NMS_LAUNCH_H
