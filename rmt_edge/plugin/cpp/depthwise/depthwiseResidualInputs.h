//! \file
//! The inputs and outputs of DepthwiseResidual: how many, which, of what types and shapes.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H

#include "depthwiseResidualLaunch.h"

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

int32_t nbInputsOf(DepthwiseResidualForm const& form);
int32_t nbOutputsOf(DepthwiseResidualForm const& form);

//! \return The index of norm_weight, behind which norm_bias lies.
int32_t normWeightOf(DepthwiseResidualForm const& form);

// What is wrong, empty if nothing is. Sizes that are not known yet are -1 and never wrong.

std::string inputCountProblem(DepthwiseResidualForm const& form, int32_t nbInputs, int32_t nbOutputs);
std::string inputTypesProblem(DepthwiseResidualForm const& form, nvinfer1::DataType const* types, int32_t nbInputs);
std::string kernelSizeProblem(std::vector<int64_t> const& weight);
std::string inputShapesProblem(
    DepthwiseResidualForm const& form, int32_t channels, std::vector<nvinfer1::Dims> const& inputs);

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_INPUTS_H
