#include "depthwiseResidualPlugin.h"

#include "depthwiseResidualKernel.h"
#include "diagnostics.h"
#include "pluginTensors.h"

#include <algorithm>
#include <memory>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

constexpr int32_t kX = 0; // input indices; the later ones depend on the form
constexpr int32_t kWEIGHT = 1;
constexpr int32_t kBIAS = 2;
constexpr int32_t kRESIDUAL = 3;
constexpr int32_t kRANK = 4; // (b, h, w, c)

int32_t nbInputsOf(DepthwiseResidualForm const& form)
{
    return 3 + (form.hasResidual ? 1 : 0) + (form.hasNorm ? 2 : 0);
}

int32_t nbOutputsOf(DepthwiseResidualForm const& form)
{
    return form.hasNorm ? 2 : 1;
}

//! norm_weight, and behind it norm_bias.
int32_t normWeightOf(DepthwiseResidualForm const& form)
{
    return form.hasResidual ? kRESIDUAL + 1 : kRESIDUAL;
}

std::string inputNames(DepthwiseResidualForm const& form)
{
    return std::string{"x, weight, bias"} + (form.hasResidual ? ", residual" : "")
        + (form.hasNorm ? ", norm_weight, norm_bias" : "");
}

char const* inputName(DepthwiseResidualForm const& form, int32_t input)
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

std::string dimsText(std::vector<int64_t> const& sizes)
{
    std::string text;
    for (int64_t const size : sizes)
    {
        text += (text.empty() ? "" : ", ") + (size < 0 ? std::string{"?"} : std::to_string(size));
    }
    return "(" + text + ")";
}

std::string kernelSizeMessage(std::vector<int64_t> const& weight)
{
    return "weight is " + dimsText(weight) + "; the kernels are compiled for a 3 x 3 convolution, (3, 3, channels).";
}

} // namespace

DepthwiseResidualPlugin::DepthwiseResidualPlugin(DepthwiseResidualAttributes const& attributes, int32_t elementType)
    : mAttributes{attributes}
    , mElementType{elementType}
{
}

DepthwiseResidualConfig DepthwiseResidualPlugin::config() const noexcept
{
    return {mAttributes.form, mAttributes.channels, mElementType};
}

int32_t DepthwiseResidualPlugin::refuse(std::string const& message) const
{
    return reportError(std::string{mAttributes.form.name} + ": " + message);
}

IPluginCapability* DepthwiseResidualPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    case PluginCapabilityType::kCORE: break;
    }
    return static_cast<IPluginV3OneCore*>(this);
}

IPluginV3* DepthwiseResidualPlugin::clone() noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            auto copy = std::make_unique<DepthwiseResidualPlugin>(mAttributes, mElementType);
            copy->mTactic = mTactic;
            copy->mSizes = mSizes;
            copy->mTacticIds = mTacticIds;
            return copy.release();
        });
}

char const* DepthwiseResidualPlugin::getPluginName() const noexcept
{
    return mAttributes.form.name;
}

char const* DepthwiseResidualPlugin::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

char const* DepthwiseResidualPlugin::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

int32_t DepthwiseResidualPlugin::checkCounts(int32_t nbInputs, int32_t nbOutputs) const
{
    DepthwiseResidualForm const& form = mAttributes.form;
    if (nbInputs == nbInputsOf(form) && nbOutputs == nbOutputsOf(form))
    {
        return kSUCCESS;
    }
    return refuse(std::to_string(nbInputs) + " inputs and " + std::to_string(nbOutputs) + " outputs were given, "
        + std::to_string(nbInputsOf(form)) + " and " + std::to_string(nbOutputsOf(form)) + " expected. Note: inputs are "
        + inputNames(form) + "; outputs are out" + (form.hasNorm ? ", norm." : "."));
}

int32_t DepthwiseResidualPlugin::takeType(DataType type)
{
    if (type != DataType::kFLOAT && type != DataType::kHALF)
    {
        return refuse("x must be float32 or float16, not data type " + std::to_string(static_cast<int32_t>(type)) + ".");
    }
    mElementType = type == DataType::kHALF ? RMT_EDGE_FLOAT16 : RMT_EDGE_FLOAT32;
    std::string const problem = mAttributes.form.isInt8
        ? depthwiseResidualScaleProblem(mElementType, mAttributes.outputScale)
        : std::string{};
    return problem.empty() ? kSUCCESS : refuse(problem);
}

int32_t DepthwiseResidualPlugin::checkShape(int32_t input, Dims const& given, std::vector<int64_t> const& wanted) const
{
    bool isWanted = given.nbDims == static_cast<int32_t>(wanted.size());
    for (int32_t i = 0; isWanted && i < given.nbDims; ++i)
    {
        isWanted = !differs(given.d[i], wanted[static_cast<size_t>(i)]);
    }
    if (isWanted)
    {
        return kSUCCESS;
    }
    return refuse(std::string{inputName(mAttributes.form, input)} + " is "
        + dimsText({given.d, given.d + std::max(given.nbDims, 0)}) + ", not " + dimsText(wanted) + ".");
}

int32_t DepthwiseResidualPlugin::takeShapes(std::vector<Dims> const& inputs)
{
    DepthwiseResidualForm const& form = mAttributes.form;
    int64_t const channels = mAttributes.channels;
    Dims const& weight = inputs[kWEIGHT];
    if (weight.nbDims == 3
        && (differs(weight.d[0], kDEPTHWISE_KERNEL_SIZE) || differs(weight.d[1], kDEPTHWISE_KERNEL_SIZE)))
    {
        return refuse(kernelSizeMessage({weight.d, weight.d + weight.nbDims}));
    }
    if (checkShape(kX, inputs[kX], {-1, -1, -1, channels}) != kSUCCESS)
    {
        return kFAILURE;
    }
    std::vector<int64_t> const image(inputs[kX].d, inputs[kX].d + kRANK);
    for (int32_t i = kWEIGHT; i < static_cast<int32_t>(inputs.size()); ++i)
    {
        std::vector<int64_t> wanted{channels};
        if (i == kWEIGHT)
        {
            wanted = {kDEPTHWISE_KERNEL_SIZE, kDEPTHWISE_KERNEL_SIZE, channels};
        }
        else if (form.hasResidual && i == kRESIDUAL)
        {
            wanted = image;
        }
        if (checkShape(i, inputs[static_cast<size_t>(i)], wanted) != kSUCCESS)
        {
            return kFAILURE;
        }
    }
    mSizes = {size32(image[0]), size32(image[1]), size32(image[2])};
    std::string const problem = depthwiseResidualSizesProblem(mSizes, mAttributes.channels);
    return problem.empty() ? kSUCCESS : refuse(problem);
}

int32_t DepthwiseResidualPlugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS || takeType(in[kX].desc.type) != kSUCCESS)
            {
                return kFAILURE;
            }
            // The largest shapes first, for the limits; the sizes that stay are those of the opt shapes.
            for (Dims DynamicPluginTensorDesc::*const which :
                {&DynamicPluginTensorDesc::max, &DynamicPluginTensorDesc::opt})
            {
                std::vector<Dims> shapes;
                std::transform(in, in + nbInputs, std::back_inserter(shapes),
                    [which](DynamicPluginTensorDesc const& desc) { return desc.*which; });
                if (takeShapes(shapes) != kSUCCESS)
                {
                    return kFAILURE;
                }
            }
            mTacticIds = depthwiseResidualTactics(config());
            return kSUCCESS;
        });
}

int32_t DepthwiseResidualPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS)
            {
                return kFAILURE;
            }
            for (int32_t i = kWEIGHT; i < nbInputs; ++i)
            {
                if (inputTypes[i] != inputTypes[kX])
                {
                    return refuse(std::string{inputName(mAttributes.form, i)} + " has data type "
                        + std::to_string(static_cast<int32_t>(inputTypes[i])) + ", x has "
                        + std::to_string(static_cast<int32_t>(inputTypes[kX]))
                        + ". Note: all inputs are float32 (0), or all are float16 (1).");
                }
            }
            std::fill_n(outputTypes, nbOutputs, inputTypes[kX]);
            if (mAttributes.form.isInt8)
            {
                outputTypes[nbOutputs - 1] = DataType::kINT8;
            }
            return kSUCCESS;
        });
}

int32_t DepthwiseResidualPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs,
    DimsExprs const* /*shapeInputs*/, int32_t /*nbShapeInputs*/, DimsExprs* outputs, int32_t nbOutputs,
    IExprBuilder& /*exprBuilder*/) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS)
            {
                return kFAILURE;
            }
            if (inputs[kX].nbDims != kRANK)
            {
                return refuse("x must have 4 dimensions, (b, h, w, c).");
            }
            // As soon as shapes are known, which for a weight is when the node is added.
            DimsExprs const& weight = inputs[kWEIGHT];
            std::vector<int64_t> sizes;
            for (int32_t i = 0; i < weight.nbDims; ++i)
            {
                sizes.push_back(weight.d[i]->isConstant() ? weight.d[i]->getConstantValue() : -1);
            }
            if (sizes.size() != 3 || differs(sizes[0], kDEPTHWISE_KERNEL_SIZE)
                || differs(sizes[1], kDEPTHWISE_KERNEL_SIZE))
            {
                return refuse(kernelSizeMessage(sizes));
            }
            std::fill_n(outputs, nbOutputs, inputs[kX]);
            return kSUCCESS;
        });
}

bool DepthwiseResidualPlugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    DepthwiseResidualForm const& form = mAttributes.form;
    if (nbInputs != nbInputsOf(form) || nbOutputs != nbOutputsOf(form) || pos >= nbInputs + nbOutputs)
    {
        return false;
    }
    DataType const type = inOut[kX].desc.type;
    PluginTensorDesc const& asked = inOut[pos].desc;
    bool const isFloat = type == DataType::kFLOAT || type == DataType::kHALF;
    bool const isInt8Output = form.isInt8 && pos == nbInputs + nbOutputs - 1;
    return isFloat && isLinear(asked) && asked.type == (isInt8Output ? DataType::kINT8 : type);
}

int32_t DepthwiseResidualPlugin::getNbOutputs() const noexcept
{
    return nbOutputsOf(mAttributes.form);
}

int32_t DepthwiseResidualPlugin::getNbTactics() noexcept
{
    return static_cast<int32_t>(mTacticIds.size());
}

int32_t DepthwiseResidualPlugin::getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept
{
    std::copy_n(mTacticIds.begin(), std::min(nbTactics, getNbTactics()), tactics);
    return kSUCCESS;
}

char const* DepthwiseResidualPlugin::getTimingCacheID() noexcept
{
    return guarded<char const*>(nullptr,
        [this]() -> char const*
        {
            mTimingCacheId = std::string{mAttributes.form.name} + "_c" + std::to_string(mAttributes.channels) + "_"
                + kBUILD_HASH;
            return mTimingCacheId.c_str();
        });
}

int32_t DepthwiseResidualPlugin::setTactic(int32_t tactic) noexcept
{
    mTactic = tactic;
    return kSUCCESS;
}

int32_t DepthwiseResidualPlugin::onShapeChange(PluginTensorDesc const* in, int32_t nbInputs,
    PluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            int32_t const previousType = mElementType;
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS || takeType(in[kX].type) != kSUCCESS)
            {
                return kFAILURE;
            }
            std::vector<Dims> shapes;
            std::transform(in, in + nbInputs, std::back_inserter(shapes),
                [](PluginTensorDesc const& desc) { return desc.dims; });
            if (takeShapes(shapes) != kSUCCESS)
            {
                return kFAILURE;
            }
            if (mIsAttached && (mTactics.empty() || previousType != mElementType))
            {
                return loadDepthwiseResidual(config(), mTactics);
            }
            return kSUCCESS;
        });
}

int32_t DepthwiseResidualPlugin::enqueue(PluginTensorDesc const* /*inputDesc*/, PluginTensorDesc const* /*outputDesc*/,
    void const* const* inputs, void* const* outputs, void* /*workspace*/, CUstream_st* stream) noexcept
{
    // Loaded by attachToContext or onShapeChange; a caller that skipped them gets it here, once.
    if (mTactics.empty() && loadDepthwiseResidual(config(), mTactics) != kSUCCESS)
    {
        return kFAILURE;
    }
    DepthwiseResidualForm const& form = mAttributes.form;
    DepthwiseResidualPointers pointers;
    pointers.x = inputs[kX];
    pointers.weight = inputs[kWEIGHT];
    pointers.bias = inputs[kBIAS];
    pointers.residual = form.hasResidual ? inputs[kRESIDUAL] : nullptr;
    pointers.normWeight = form.hasNorm ? inputs[normWeightOf(form)] : nullptr;
    pointers.normBias = form.hasNorm ? inputs[normWeightOf(form) + 1] : nullptr;
    pointers.out = outputs[0];
    pointers.norm = form.hasNorm ? outputs[1] : nullptr;
    return launchDepthwiseResidual(
        config(), mTactics, mTactic, mSizes, pointers, mAttributes.epsilon, mAttributes.outputScale, stream);
}

IPluginV3* DepthwiseResidualPlugin::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            auto attached = std::make_unique<DepthwiseResidualPlugin>(mAttributes, mElementType);
            attached->mTactic = mTactic;
            attached->mSizes = mSizes;
            attached->mTacticIds = mTacticIds;
            attached->mIsAttached = true;
            // Here and not at the first launch, which may happen while a CUDA graph is captured.
            bool const isKnown = mElementType != kUNKNOWN_TYPE;
            if (isKnown && loadDepthwiseResidual(attached->config(), attached->mTactics) != kSUCCESS)
            {
                return nullptr;
            }
            return attached.release();
        });
}

PluginFieldCollection const* DepthwiseResidualPlugin::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(nullptr,
        [this]() -> PluginFieldCollection const*
        {
            mFields = {
                {"channels", &mAttributes.channels, PluginFieldType::kINT32, 1},
                {kELEMENT_TYPE_FIELD, &mElementType, PluginFieldType::kINT32, 1},
            };
            if (mAttributes.form.hasNorm)
            {
                mFields.emplace_back("epsilon", &mAttributes.epsilon, PluginFieldType::kFLOAT32, 1);
            }
            if (mAttributes.form.isInt8)
            {
                mFields.emplace_back("output_scale", &mAttributes.outputScale, PluginFieldType::kFLOAT32, 1);
            }
            mFieldCollection = {size32(mFields.size()), mFields.data()};
            return &mFieldCollection;
        });
}

} // namespace rmt_edge
