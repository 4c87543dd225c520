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
    bool isScaled{}; //!< x is a raw product (rmt_edge/ops/product.py).
    bool hasGelu{};
};

constexpr int32_t kNB_DEPTHWISE_RESIDUAL_FORMS = 12;

//! OP_TYPES of ops/depthwise/onnx_function.py, in its order.
constexpr std::array<DepthwiseResidualForm, kNB_DEPTHWISE_RESIDUAL_FORMS> kDEPTHWISE_RESIDUAL_FORMS{{
    {"DepthwiseResidual", false, false, false, false, false},
    {"DepthwiseResidualInt8", false, false, true, false, false},
    {"DepthwiseResidualNorm", false, true, false, false, false},
    {"DepthwiseResidualNormInt8", false, true, true, false, false},
    {"AddDepthwiseResidual", true, false, false, false, false},
    {"AddDepthwiseResidualInt8", true, false, true, false, false},
    {"AddDepthwiseResidualNorm", true, true, false, false, false},
    {"AddDepthwiseResidualNormInt8", true, true, true, false, false},
    {"ScaledGeluDepthwiseResidual", false, false, false, true, true},
    {"ScaledGeluDepthwiseResidualInt8", false, false, true, true, true},
    {"ScaledAddDepthwiseResidualNorm", true, true, false, true, false},
    {"ScaledAddDepthwiseResidualNormInt8", true, true, true, true, false},
}};

constexpr int32_t kDEPTHWISE_KERNEL_SIZE = 3; // KERNEL_SIZE of depthwise/aot.py

//! What selects the kernels.
struct DepthwiseResidualConfig
{
    DepthwiseResidualForm form;
    int32_t channels{};
    int32_t elementType{};
    bool isInt8Input{}; //!< x; it is a raw product.
};

//! One tile shape of a configuration.
struct DepthwiseResidualTactic
{
    int32_t id{};
    int32_t nbRows{}; //!< Of a thread, at most; 0: the kernel has its own.
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
    void const* xScale{};
    void const* xBias{};
    void* out{};
    void* norm{};
};

//! \return Why the kernels cannot take that many channels; empty if they can.
std::string depthwiseResidualChannelsProblem(DepthwiseResidualForm const& form, int32_t channels);

//! \return Why the scale cannot be the one of an INT8 output beside that element type; empty if it can.
std::string depthwiseResidualScaleProblem(int32_t elementType, float outputScale);

//! \return Why the sizes are out of the kernels' range, unknown ones (-1) aside; empty if they are not.
std::string depthwiseResidualSizesProblem(DepthwiseResidualSizes const& sizes, int32_t channels);

//! \return Why the library holds no kernel for the configuration; empty if it does.
std::string depthwiseResidualConfigProblem(DepthwiseResidualConfig const& config);

//! \return The ids of the tiles the library holds for the configuration, the smallest first.
std::vector<int32_t> depthwiseResidualTactics(DepthwiseResidualConfig const& config);

//! \return The tactic with the fewest instructions that still fills a large GPU; sizes that are not known are -1.
int32_t defaultDepthwiseResidualTactic(DepthwiseResidualConfig const& config, DepthwiseResidualSizes const& sizes);

//! \brief Load every tactic of the configuration into the current CUDA context.
int32_t loadDepthwiseResidual(
    DepthwiseResidualConfig const& config, std::vector<DepthwiseResidualTactic>& tactics) noexcept;

//! \brief Launch one kernel on the stream. tactic 0 takes the default.
int32_t launchDepthwiseResidual(DepthwiseResidualConfig const& config,
    std::vector<DepthwiseResidualTactic> const& tactics, int32_t tactic, DepthwiseResidualSizes const& sizes,
    DepthwiseResidualPointers const& pointers, float epsilon, float inputScale, float outputScale,
    CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_LAUNCH_H
