#include "depthwiseResidualInputs.h"

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

bool fits(std::vector<int64_t> const& given, std::vector<int64_t> const& wanted)
{
    bool isFitting = given.size() == wanted.size();
    for (size_t i = 0; isFitting && i < given.size(); ++i)
    {
        isFitting = !differs(given[i], wanted[i]);
    }
    return isFitting;
}

std::string kernelSizeProblem(std::vector<int64_t> const& weight)
{
    if (fits(weight, {kDEPTHWISE_KERNEL_SIZE, kDEPTHWISE_KERNEL_SIZE, -1}))
    {
        return {};
    }
    return "weight is " + dimsText(weight) + "; the kernels are compiled for a 3 x 3 convolution, (3, 3, channels).";
}

} // namespace

int32_t normWeightOf(DepthwiseResidualForm const& form)
{
    return form.hasResidual ? kRESIDUAL + 1 : kRESIDUAL;
}

int32_t xScaleOf(DepthwiseResidualForm const& form)
{
    return normWeightOf(form) + (form.hasNorm ? 2 : 0);
}

PluginTensors tensorsOf(DepthwiseResidualForm const& form, bool isInt8Input)
{
    PluginTensors tensors{{{"x"}, {"weight"}, {"bias"}}, {{"out"}}, 0};
    if (isInt8Input)
    {
        tensors.inputs[kX].type = TensorType::kINT8;
    }
    if (form.hasResidual)
    {
        tensors.inputs.push_back({"residual"});
    }
    if (form.hasNorm)
    {
        tensors.inputs.insert(tensors.inputs.end(), {{"norm_weight"}, {"norm_bias"}});
        tensors.outputs.push_back({"norm"});
    }
    if (form.isScaled)
    {
        tensors.inputs.insert(tensors.inputs.end(), {{"x_scale"}, {"x_bias"}});
    }
    if (form.isInt8)
    {
        tensors.outputs.back().type = TensorType::kINT8;
    }
    return tensors;
}

std::string inputShapesProblem(DepthwiseResidualForm const& form, int32_t channels, std::vector<Dims> const& inputs)
{
    std::string const kernelSize = kernelSizeProblem(sizesOf(inputs[kWEIGHT]));
    if (!kernelSize.empty())
    {
        return kernelSize;
    }
    for (int32_t i = kX; i < static_cast<int32_t>(inputs.size()); ++i)
    {
        std::vector<int64_t> wanted{channels};
        if (i == kX)
        {
            wanted = {-1, -1, -1, channels};
        }
        else if (i == kWEIGHT)
        {
            wanted = {kDEPTHWISE_KERNEL_SIZE, kDEPTHWISE_KERNEL_SIZE, channels};
        }
        else if (form.hasResidual && i == kRESIDUAL)
        {
            wanted = sizesOf(inputs[kX]);
        }
        std::vector<int64_t> const given = sizesOf(inputs[static_cast<size_t>(i)]);
        if (!fits(given, wanted))
        {
            std::string const name = tensorsOf(form, false).inputs[static_cast<size_t>(i)].name;
            return name + " is " + dimsText(given) + ", not " + dimsText(wanted) + ".";
        }
    }
    return {};
}

} // namespace rmt_edge
