#include "diagnostics.h"
#include "pluginBase.h"
#include "pluginFields.h"

#include <algorithm>
#include <utility>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

bool areEqual(Dims const& a, Dims const& b)
{
    return a.nbDims == b.nbDims && std::equal(a.d, a.d + std::max(a.nbDims, 0), b.d);
}

} // namespace

bool PluginBase::areTaken(PluginTensorDesc const* in) const
{
    bool areEqualSoFar = mShapes.size() == static_cast<size_t>(mNbInputs) && mTypes.size() == mShapes.size();
    for (size_t i = 0; areEqualSoFar && i < mShapes.size(); ++i)
    {
        areEqualSoFar = in[i].type == mTypes[i] && areEqual(in[i].dims, mShapes[i]);
    }
    return areEqualSoFar;
}

int32_t PluginBase::takeInputs(PluginTensorDesc const* in)
{
    if (areTaken(in))
    {
        return kSUCCESS;
    }
    std::vector<DataType> types;
    std::vector<Dims> shapes;
    for (size_t i = 0; i < static_cast<size_t>(mNbInputs); ++i)
    {
        types.push_back(in[i].type);
        shapes.push_back(in[i].dims);
    }
    mShapes.clear(); // refused ones are not taken for checked ones
    if (takeTypes(types) != kSUCCESS || check(shapesProblem(shapes)) != kSUCCESS)
    {
        return kFAILURE;
    }
    mShapes = std::move(shapes);
    return kSUCCESS;
}

int32_t PluginBase::loadOnce(ContextScope const& scope)
{
    if (mLoadedType == mElementType && mElementType != kUNKNOWN_TYPE)
    {
        return kSUCCESS;
    }
    if (scope.primary() != nullptr)
    {
        mPrimary = scope.primary();
    }
    if (load() != kSUCCESS)
    {
        return kFAILURE;
    }
    mLoadedType = mElementType;
    return kSUCCESS;
}

int32_t PluginBase::setTactic(int32_t tactic) noexcept
{
    mTactic = tactic;
    return kSUCCESS;
}

int32_t PluginBase::onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* /*out*/,
    int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCounts(nbInputs, nbOutputs) != kSUCCESS)
            {
                return kFAILURE;
            }
            mNbInputs = nbInputs;
            if (takeInputs(in) != kSUCCESS)
            {
                return kFAILURE;
            }
            if (!mIsAttached)
            {
                return kSUCCESS;
            }
            ContextScope const scope;
            return scope.check() == kSUCCESS ? loadOnce(scope) : kFAILURE;
        });
}

int32_t PluginBase::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* /*outputDesc*/,
    void const* const* inputs, void* const* outputs, void* workspace, CUstream_st* stream) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            ContextScope const scope;
            // The sizes are those of this call, whatever onShapeChange saw last. Everything is loaded by attachToContext
            // or onShapeChange; a caller that skipped them gets it here, once.
            if (scope.check() != kSUCCESS || takeInputs(inputDesc) != kSUCCESS || loadOnce(scope) != kSUCCESS)
            {
                return kFAILURE;
            }
            return launch({mShapes, inputs, outputs, workspace, mTactic, stream});
        });
}

IPluginV3* PluginBase::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            std::unique_ptr<PluginBase> attached{static_cast<PluginBase*>(clone())};
            ContextScope const scope;
            if (attached == nullptr || scope.check() != kSUCCESS)
            {
                return nullptr;
            }
            attached->mIsAttached = true;
            // Here and not at the first launch, which may happen while a CUDA graph is captured.
            if (mElementType != kUNKNOWN_TYPE && attached->loadOnce(scope) != kSUCCESS)
            {
                return nullptr;
            }
            return attached.release();
        });
}

PluginFieldCollection const* PluginBase::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(nullptr,
        [this]() -> PluginFieldCollection const*
        {
            mFields = attributeFields();
            mFields.emplace_back(kELEMENT_TYPE_FIELD, &mElementType, PluginFieldType::kINT32, 1);
            if (mTensors.nbOptional > 0 && mNbInputs == size32(mTensors.inputs.size()))
            {
                mFields.emplace_back(kNB_INPUTS_FIELD, &mNbInputs, PluginFieldType::kINT32, 1);
            }
            mFieldCollection = {size32(mFields.size()), mFields.data()};
            return &mFieldCollection;
        });
}

} // namespace rmt_edge
