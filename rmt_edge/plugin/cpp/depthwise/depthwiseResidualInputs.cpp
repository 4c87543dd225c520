#include "depthwiseResidualInputs.h"

#include "pluginTensors.h"

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

std::string inputName(DepthwiseResidualForm const& form, int32_t input)
{
    char const* const first[] = {"x", "weight", "bias"};
    if (input < kRESIDUAL)
    {
        return first[input];
    }
    if (form.hasResidual && input == kRESIDUAL)
    {
        return "residual";
    }
    return input == normWeightOf(form) ? "norm_weight" : "norm_bias";
}

std::string typeText(DataType type)
{
    return std::to_string(static_cast<int32_t>(type));
}

std::string dimsText(std::vector<int64_t> const& sizes)
{
    std::string text;
    for (int64_t const size : sizes)
    {
        text += (text.empty() ? "" : ", ") + (size < 0 ? std::string{"?"} : std::to_string(size));
    }
    return "(" + text + ")";
}

std::vector<int64_t> sizesOf(Dims const& dims)
{
    return dims.nbDims > 0 ? std::vector<int64_t>(dims.d, dims.d + dims.nbDims) : std::vector<int64_t>{};
}

bool fits(std::vector<int64_t> const& given, std::vector<int64_t> const& wanted)
{
    bool isFitting = given.size() == wanted.size();
    for (size_t i = 0; isFitting && i < given.size(); ++i)
    {
        isFitting = !differs(given[i], wanted[i]);
    }
    return isFitting;
}

} // namespace

int32_t nbInputsOf(DepthwiseResidualForm const& form)
{
    return normWeightOf(form) + (form.hasNorm ? 2 : 0);
}

int32_t nbOutputsOf(DepthwiseResidualForm const& form)
{
    return form.hasNorm ? 2 : 1;
}

int32_t normWeightOf(DepthwiseResidualForm const& form)
{
    return form.hasResidual ? kRESIDUAL + 1 : kRESIDUAL;
}

std::string inputCountProblem(DepthwiseResidualForm const& form, int32_t nbInputs, int32_t nbOutputs)
{
    if (nbInputs == nbInputsOf(form) && nbOutputs == nbOutputsOf(form))
    {
        return {};
    }
    std::string names;
    for (int32_t i = 0; i < nbInputsOf(form); ++i)
    {
        names += (names.empty() ? "" : ", ") + inputName(form, i);
    }
    return std::to_string(nbInputs) + " inputs and " + std::to_string(nbOutputs) + " outputs were given, "
        + std::to_string(nbInputsOf(form)) + " and " + std::to_string(nbOutputsOf(form)) + " expected. Note: inputs are "
        + names + "; outputs are out" + (form.hasNorm ? ", norm." : ".");
}

std::string inputTypesProblem(DepthwiseResidualForm const& form, DataType const* types, int32_t nbInputs)
{
    for (int32_t i = kWEIGHT; i < nbInputs; ++i)
    {
        if (types[i] != types[kX])
        {
            return inputName(form, i) + " has data type " + typeText(types[i]) + ", x has " + typeText(types[kX])
                + ". Note: all inputs are float32 (0), or all are float16 (1).";
        }
    }
    return {};
}

std::string kernelSizeProblem(std::vector<int64_t> const& weight)
{
    if (fits(weight, {kDEPTHWISE_KERNEL_SIZE, kDEPTHWISE_KERNEL_SIZE, -1}))
    {
        return {};
    }
    return "weight is " + dimsText(weight) + "; the kernels are compiled for a 3 x 3 convolution, (3, 3, channels).";
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
            return inputName(form, i) + " is " + dimsText(given) + ", not " + dimsText(wanted) + ".";
        }
    }
    return {};
}

} // namespace rmt_edge
