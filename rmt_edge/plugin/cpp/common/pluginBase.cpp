#include "pluginBase.h"

#include "diagnostics.h"
#include "embeddedKernels.h"
#include "pluginFields.h"

#include <algorithm>
#include <iterator>
#include <utility>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

//! \return The shapes of the inputs of an optimisation profile. which: &DynamicPluginTensorDesc::opt and its kind.
std::vector<Dims> shapesOf(DynamicPluginTensorDesc const* in, size_t nbInputs, Dims DynamicPluginTensorDesc::*which)
{
    std::vector<Dims> shapes;
    std::transform(in, in + nbInputs, std::back_inserter(shapes),
        [which](DynamicPluginTensorDesc const& desc) { return desc.*which; });
    return shapes;
}

} // namespace

PluginBase::PluginBase(char const* op, PluginTensors tensors, int32_t elementType)
    : mOp{op}
    , mTensors{std::move(tensors)}
    , mElementType{elementType}
    , mNbInputs{size32(mTensors.inputs.size()) - mTensors.nbOptional}
    , mLoadedType{kUNKNOWN_TYPE}
{
}

std::string PluginBase::elementTypeProblem(int32_t /*elementType*/) const
{
    return {};
}

size_t PluginBase::workspaceBytes(std::vector<Dims> const& /*inputs*/, int32_t /*elementType*/) const
{
    return 0;
}

int32_t PluginBase::check(std::string const& problem) const
{
    return problem.empty() ? kSUCCESS : reportError(std::string{mOp} + ": " + problem);
}

int32_t PluginBase::checkCounts(int32_t nbInputs, int32_t nbOutputs) const
{
    return check(tensorCountProblem(mTensors, nbInputs, nbOutputs));
}

int32_t PluginBase::takeTypes(std::vector<DataType> const& types)
{
    if (check(inputTypesProblem(mTensors, types)) != kSUCCESS)
    {
        return kFAILURE;
    }
    mElementType = elementTypeOf(types[elementInput(mTensors)]);
    mTypes = types;
    return check(elementTypeProblem(mElementType));
}

IPluginCapability* PluginBase::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    case PluginCapabilityType::kCORE: break;
    }
    return static_cast<IPluginV3OneCore*>(this);
}

IPluginV3* PluginBase::clone() noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            std::unique_ptr<PluginBase> copy = remake();
            copy->mNbInputs = mNbInputs;
            copy->mTactic = mTactic;
            copy->mTacticIds = mTacticIds;
            copy->mTypes = mTypes;
            copy->mShapes = mShapes;
            return copy.release();
        });
}

char const* PluginBase::getPluginName() const noexcept
{
    return mOp;
}

char const* PluginBase::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

char const* PluginBase::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

int32_t PluginBase::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS)
            {
                return kFAILURE;
            }
            mNbInputs = nbInputs;
            std::vector<DataType> types;
            std::transform(in, in + nbInputs, std::back_inserter(types),
                [](DynamicPluginTensorDesc const& desc) { return desc.desc.type; });
            // The largest shapes first, for the limits of the kernels.
            std::vector<Dims> const best = shapesOf(in, static_cast<size_t>(nbInputs), &DynamicPluginTensorDesc::opt);
            if (takeTypes(types) != kSUCCESS
                || check(shapesProblem(shapesOf(in, static_cast<size_t>(nbInputs), &DynamicPluginTensorDesc::max))) != kSUCCESS
                || check(shapesProblem(best)) != kSUCCESS)
            {
                return kFAILURE;
            }
            mTacticIds = tacticsFor(best);
            return kSUCCESS;
        });
}

int32_t PluginBase::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS
                || check(inputTypesProblem(mTensors, {inputTypes, inputTypes + nbInputs})) != kSUCCESS)
            {
                return kFAILURE;
            }
            std::transform(mTensors.outputs.begin(), mTensors.outputs.end(), outputTypes,
                [this, inputTypes](TensorRole const& role) { return typeOf(role, inputTypes[elementInput(mTensors)]); });
            return kSUCCESS;
        });
}

int32_t PluginBase::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* /*shapeInputs*/,
    int32_t /*nbShapeInputs*/, DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS)
            {
                return kFAILURE;
            }
            mNbInputs = nbInputs;
            // As soon as shapes are known, which for a weight is when the node is added.
            std::vector<Dims> shapes;
            std::transform(inputs, inputs + nbInputs, std::back_inserter(shapes), knownDims);
            if (check(shapesProblem(shapes)) != kSUCCESS)
            {
                return kFAILURE;
            }
            writeOutputShapes(inputs, outputs, exprBuilder);
            return kSUCCESS;
        });
}

bool PluginBase::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (!tensorCountProblem(mTensors, nbInputs, nbOutputs).empty() || pos >= nbInputs + nbOutputs)
    {
        return false;
    }
    // What decides the element type lies behind an int8 input, which is asked for before it.
    PluginTensorDesc const& asked = inOut[pos].desc;
    if (pos < nbInputs && mTensors.inputs[static_cast<size_t>(pos)].type == TensorType::kINT8)
    {
        return asked.format == TensorFormat::kLINEAR && asked.type == DataType::kINT8;
    }
    DataType const element = inOut[elementInput(mTensors)].desc.type;
    TensorRole const& role = pos < nbInputs ? mTensors.inputs[static_cast<size_t>(pos)]
                                            : mTensors.outputs[static_cast<size_t>(pos - nbInputs)];
    return elementTypeOf(element) != kUNKNOWN_TYPE && asked.format == TensorFormat::kLINEAR
        && asked.type == typeOf(role, element);
}

int32_t PluginBase::getNbOutputs() const noexcept
{
    return size32(mTensors.outputs.size());
}

size_t PluginBase::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*outputs*/, int32_t /*nbOutputs*/) const noexcept
{
    return guarded<size_t>(0,
        [&]() -> size_t
        {
            return workspaceBytes(shapesOf(inputs, static_cast<size_t>(nbInputs), &DynamicPluginTensorDesc::max),
                elementTypeOf(inputs[elementInput(mTensors)].desc.type));
        });
}

int32_t PluginBase::getNbTactics() noexcept
{
    return size32(mTacticIds.size());
}

int32_t PluginBase::getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept
{
    std::copy_n(mTacticIds.begin(), std::min(nbTactics, getNbTactics()), tactics);
    return kSUCCESS;
}

char const* PluginBase::getTimingCacheID() noexcept
{
    return guarded<char const*>(nullptr,
        [this]() -> char const*
        {
            mTimingCacheId = std::string{mOp} + "_" + timingKey() + "_" + kBUILD_HASH;
            return mTimingCacheId.c_str();
        });
}

} // namespace rmt_edge
