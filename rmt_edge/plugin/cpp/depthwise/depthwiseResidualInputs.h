//! \file
//! The inputs and outputs of DepthwiseResidual: how many, which, of what types and shapes.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H

#include "depthwiseResidualLaunch.h"
#include "pluginTensors.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rmt_edge
{

//! Input indices that all forms share.
constexpr int32_t kX = 0;
constexpr int32_t kWEIGHT = 1;
constexpr int32_t kBIAS = 2;
constexpr int32_t kRESIDUAL = 3;   //!< With a residual.
constexpr int32_t kIMAGE_RANK = 4; //!< (b, h, w, c)

//! \return The index of norm_weight, behind which norm_bias lies.
int32_t normWeightOf(DepthwiseResidualForm const& form);

//! \return The index of x_scale, behind which x_bias lies.
int32_t xScaleOf(DepthwiseResidualForm const& form);

//! \return All inputs and outputs of an op type, with an x of int8 or not.
PluginTensors tensorsOf(DepthwiseResidualForm const& form, bool isInt8Input);

//! \return What is wrong, empty if nothing is. Sizes that are not known yet are -1 and never wrong.
std::string inputShapesProblem(
    DepthwiseResidualForm const& form, int32_t channels, std::vector<nvinfer1::Dims> const& inputs);

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H
