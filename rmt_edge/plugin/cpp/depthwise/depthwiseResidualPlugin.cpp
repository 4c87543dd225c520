#include "depthwiseResidualPlugin.h"

#include "depthwiseResidualInputs.h"
#include "depthwiseResidualKernel.h"
#include "diagnostics.h"
#include "pluginTensors.h"

#include <algorithm>
#include <memory>

using namespace nvinfer1;

namespace rmt_edge
{

DepthwiseResidualPlugin::DepthwiseResidualPlugin(DepthwiseResidualAttributes const& attributes, int32_t elementType)
    : mAttributes{attributes}
    , mElementType{elementType}
{
}

DepthwiseResidualConfig DepthwiseResidualPlugin::config() const noexcept
{
    return {mAttributes.form, mAttributes.channels, mElementType};
}

int32_t DepthwiseResidualPlugin::check(std::string const& problem) const
{
    return problem.empty() ? kSUCCESS : reportError(std::string{mAttributes.form.name} + ": " + problem);
}

int32_t DepthwiseResidualPlugin::takeType(DataType type)
{
    if (type != DataType::kFLOAT && type != DataType::kHALF)
    {
        return check("x must be float32 or float16, not data type " + std::to_string(static_cast<int32_t>(type)) + ".");
    }
    mElementType = type == DataType::kHALF ? RMT_EDGE_FLOAT16 : RMT_EDGE_FLOAT32;
    return mAttributes.form.isInt8 ? check(depthwiseResidualScaleProblem(mElementType, mAttributes.outputScale))
                                   : kSUCCESS;
}

int32_t DepthwiseResidualPlugin::takeShapes(std::vector<Dims> const& inputs)
{
    if (check(inputShapesProblem(mAttributes.form, mAttributes.channels, inputs)) != kSUCCESS)
    {
        return kFAILURE;
    }
    Dims const& x = inputs[kX];
    mSizes = {size32(x.d[0]), size32(x.d[1]), size32(x.d[2])};
    return check(depthwiseResidualSizesProblem(mSizes, mAttributes.channels));
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

int32_t DepthwiseResidualPlugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (check(inputCountProblem(mAttributes.form, nbInputs, nbOutputs)) != kSUCCESS
                || takeType(in[kX].desc.type) != kSUCCESS)
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
            if (check(inputCountProblem(mAttributes.form, nbInputs, nbOutputs)) != kSUCCESS
                || check(inputTypesProblem(mAttributes.form, inputTypes, nbInputs)) != kSUCCESS)
            {
                return kFAILURE;
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
            if (check(inputCountProblem(mAttributes.form, nbInputs, nbOutputs)) != kSUCCESS)
            {
                return kFAILURE;
            }
            if (inputs[kX].nbDims != kIMAGE_RANK)
            {
                return check("x must have 4 dimensions, (b, h, w, c).");
            }
            // As soon as shapes are known, which for a weight is when the node is added.
            DimsExprs const& weight = inputs[kWEIGHT];
            std::vector<int64_t> sizes;
            for (int32_t i = 0; i < weight.nbDims; ++i)
            {
                sizes.push_back(weight.d[i]->isConstant() ? weight.d[i]->getConstantValue() : -1);
            }
            if (check(kernelSizeProblem(sizes)) != kSUCCESS)
            {
                return kFAILURE;
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
            if (check(inputCountProblem(mAttributes.form, nbInputs, nbOutputs)) != kSUCCESS
                || takeType(in[kX].type) != kSUCCESS)
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
            std::unique_ptr<DepthwiseResidualPlugin> attached{static_cast<DepthwiseResidualPlugin*>(clone())};
            if (attached == nullptr)
            {
                return nullptr;
            }
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
