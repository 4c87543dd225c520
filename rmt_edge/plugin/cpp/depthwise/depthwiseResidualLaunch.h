//! \file
//! DepthwiseResidual as a launch of an embedded kernel; used by the plugin and by the C entry points.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_LAUNCH_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_LAUNCH_H

#include "kernelStore.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace rmt_edge
{

//! One op type: what its name says.
struct DepthwiseResidualForm
{
    char const* name{};
    bool hasResidual{};
    bool hasNorm{};
    bool isInt8{};
};

constexpr int32_t kNB_DEPTHWISE_RESIDUAL_FORMS = 8;

//! OP_TYPES of ops/depthwise/onnx_function.py, in its order.
constexpr std::array<DepthwiseResidualForm, kNB_DEPTHWISE_RESIDUAL_FORMS> kDEPTHWISE_RESIDUAL_FORMS{{
    {"DepthwiseResidual", false, false, false},
    {"DepthwiseResidualInt8", false, false, true},
    {"DepthwiseResidualNorm", false, true, false},
    {"DepthwiseResidualNormInt8", false, true, true},
    {"AddDepthwiseResidual", true, false, false},
    {"AddDepthwiseResidualInt8", true, false, true},
    {"AddDepthwiseResidualNorm", true, true, false},
    {"AddDepthwiseResidualNormInt8", true, true, true},
}};

constexpr int32_t kDEPTHWISE_KERNEL_SIZE = 3; // KERNEL_SIZE of depthwise/aot.py

//! What selects the kernels.
struct DepthwiseResidualConfig
{
    DepthwiseResidualForm form;
    int32_t channels{};
    int32_t elementType{};
};

//! One tile shape of a configuration.
struct DepthwiseResidualTactic
{
    int32_t id{};
    LoadedKernel kernel;
};

struct DepthwiseResidualSizes
{
    int32_t batch{};
    int32_t height{};
    int32_t width{};
};

//! Absent ones are null.
struct DepthwiseResidualPointers
{
    void const* x{};
    void const* weight{};
    void const* bias{};
    void const* residual{};
    void const* normWeight{};
    void const* normBias{};
    void* out{};
    void* norm{};
};

//! \return Why the kernels cannot take that many channels; empty if they can.
std::string depthwiseResidualChannelsProblem(DepthwiseResidualForm const& form, int32_t channels);

//! \return Why the scale cannot be the one of an INT8 output beside that element type; empty if it can.
std::string depthwiseResidualScaleProblem(int32_t elementType, float outputScale);

//! \return Why the sizes are out of the kernels' range, unknown ones (-1) aside; empty if they are not.
std::string depthwiseResidualSizesProblem(DepthwiseResidualSizes const& sizes, int32_t channels);

//! \return The ids of the tiles the library holds for the configuration, the smallest first.
std::vector<int32_t> depthwiseResidualTactics(DepthwiseResidualConfig const& config);

//! \brief Load every tactic of the configuration into the current CUDA context.
int32_t loadDepthwiseResidual(
    DepthwiseResidualConfig const& config, std::vector<DepthwiseResidualTactic>& tactics) noexcept;

//! \brief Launch one kernel on the stream. tactic 0 takes the first.
int32_t launchDepthwiseResidual(DepthwiseResidualConfig const& config,
    std::vector<DepthwiseResidualTactic> const& tactics, int32_t tactic, DepthwiseResidualSizes const& sizes,
    DepthwiseResidualPointers const& pointers, float epsilon, float outputScale, CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_LAUNCH_H
