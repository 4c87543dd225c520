#include "retentionPlugin.h"

#include "cudaDriver.h"
#include "diagnostics.h"
#include "pluginTensors.h"
#include "retentionKernel.h"

#include <algorithm>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

constexpr int32_t kNB_INPUTS = 5; // qkv, sin, cos, lepe_weight, lepe_bias
constexpr int32_t kNB_OUTPUTS = 1;
constexpr int32_t kQKV_RANK = 4; // (b, h, w, 3c)
constexpr int32_t kNB_PACKED = 3;
constexpr int32_t kLEPE_SIZE = 5; // LEPE_SIZE of ops/retention/kernels.py

int32_t checkCount(char const* what, int32_t given, int32_t wanted)
{
    if (given == wanted)
    {
        return kSUCCESS;
    }
    return reportError(std::string{"Retention: "} + std::to_string(given) + " " + what + " were given, "
        + std::to_string(wanted) + " expected. Note: inputs are qkv, sin, cos, lepe_weight, lepe_bias; the output is one.");
}

} // namespace

DeviceFloats::~DeviceFloats()
{
    if (mData != 0U)
    {
        cudaDriver()->memFree(mData); // at shutdown the context may be gone, and the memory with it
    }
}

int32_t DeviceFloats::copyFrom(std::vector<float> const& values)
{
    CudaDriver const* const driver = cudaDriver();
    if (driver == nullptr)
    {
        return kFAILURE;
    }
    size_t const nbBytes = values.size() * sizeof(float);
    CUresult result = driver->memAlloc(&mData, nbBytes);
    if (result == CUDA_SUCCESS)
    {
        result = driver->memcpyHtoD(mData, values.data(), nbBytes);
    }
    return result == CUDA_SUCCESS ? kSUCCESS : reportError(cudaMessage("Retention: cannot copy the decay", result));
}

void const* DeviceFloats::data() const noexcept
{
    return reinterpret_cast<void const*>(mData);
}

RetentionPlugin::RetentionPlugin(RetentionAttributes const& attributes, int32_t elementType)
    : mAttributes{attributes}
    , mElementType{elementType}
{
}

RetentionConfig RetentionPlugin::config() const noexcept
{
    return {mAttributes.channels / mAttributes.numHeads, mAttributes.decomposed != 0, mElementType};
}

IPluginCapability* RetentionPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    case PluginCapabilityType::kCORE: break;
    }
    return static_cast<IPluginV3OneCore*>(this);
}

IPluginV3* RetentionPlugin::clone() noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            auto copy = std::make_unique<RetentionPlugin>(mAttributes, mElementType);
            copy->mTactic = mTactic;
            copy->mSizes = mSizes;
            copy->mTacticIds = mTacticIds;
            return copy.release();
        });
}

char const* RetentionPlugin::getPluginName() const noexcept
{
    return kRETENTION_NAME;
}

char const* RetentionPlugin::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

char const* RetentionPlugin::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

int32_t RetentionPlugin::takeType(DataType type)
{
    if (type != DataType::kFLOAT && type != DataType::kHALF)
    {
        return reportError("Retention: qkv must be float32 or float16, not data type "
            + std::to_string(static_cast<int32_t>(type)) + ".");
    }
    mElementType = type == DataType::kHALF ? RMT_EDGE_FLOAT16 : RMT_EDGE_FLOAT32;
    return kSUCCESS;
}

int32_t RetentionPlugin::takeShapes(Dims const& qkv, Dims const& sine, Dims const& lepeWeight)
{
    if (qkv.nbDims != kQKV_RANK || differs(qkv.d[3], kNB_PACKED * static_cast<int64_t>(mAttributes.channels)))
    {
        return reportError("Retention: qkv must be (b, h, w, " + std::to_string(kNB_PACKED * mAttributes.channels)
            + "), three times the attribute channels; it has " + std::to_string(qkv.nbDims) + " dimensions, the last of size "
            + std::to_string(qkv.nbDims > 0 ? qkv.d[qkv.nbDims - 1] : 0) + ".");
    }
    int64_t const nbTokens = qkv.d[1] >= 0 && qkv.d[2] >= 0 ? qkv.d[1] * qkv.d[2] : -1;
    if (sine.nbDims != 2 || differs(sine.d[0], nbTokens) || differs(sine.d[1], config().headDim))
    {
        return reportError("Retention: sin and cos must be (" + std::to_string(nbTokens) + ", "
            + std::to_string(config().headDim) + "), one row per token of the grid.");
    }
    if (lepeWeight.nbDims != kQKV_RANK || differs(lepeWeight.d[0], mAttributes.channels)
        || differs(lepeWeight.d[2], kLEPE_SIZE) || differs(lepeWeight.d[3], kLEPE_SIZE))
    {
        return reportError("Retention: lepe_weight must be (" + std::to_string(mAttributes.channels)
            + ", 1, 5, 5); the kernels are compiled for that size.");
    }
    mSizes = {size32(qkv.d[0]), size32(qkv.d[1]), size32(qkv.d[2]), mAttributes.numHeads};
    return kSUCCESS;
}

int32_t RetentionPlugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
    DynamicPluginTensorDesc const* /*out*/, int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            if (checkCount("inputs", nbInputs, kNB_INPUTS) != kSUCCESS
                || checkCount("outputs", nbOutputs, kNB_OUTPUTS) != kSUCCESS || takeType(in[0].desc.type) != kSUCCESS
                || takeShapes(in[0].opt, in[1].opt, in[3].opt) != kSUCCESS)
            {
                return kFAILURE;
            }
            // The best guess comes first: a builder without a GPU times nothing and takes the first.
            mTacticIds = retentionTactics(config());
            int32_t const lineLength = mAttributes.decomposed != 0 ? std::max(mSizes.height, mSizes.width)
                                                                   : mSizes.height * mSizes.width;
            auto const best
                = std::find(mTacticIds.begin(), mTacticIds.end(), defaultRetentionTactic(config(), lineLength));
            std::rotate(mTacticIds.begin(), best, best == mTacticIds.end() ? best : best + 1);
            return kSUCCESS;
        });
}

int32_t RetentionPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    if (checkCount("inputs", nbInputs, kNB_INPUTS) != kSUCCESS
        || checkCount("outputs", nbOutputs, kNB_OUTPUTS) != kSUCCESS)
    {
        return kFAILURE;
    }
    for (int32_t i = 1; i < nbInputs; ++i)
    {
        if (inputTypes[i] != inputTypes[0])
        {
            return reportError("Retention: input " + std::to_string(i) + " has data type "
                + std::to_string(static_cast<int32_t>(inputTypes[i])) + ", qkv has "
                + std::to_string(static_cast<int32_t>(inputTypes[0]))
                + ". Note: all inputs are float32 (0), or all are float16 (1).");
        }
    }
    outputTypes[0] = mAttributes.outputScale > 0.0F ? DataType::kINT8 : inputTypes[0];
    return kSUCCESS;
}

int32_t RetentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* /*shapeInputs*/,
    int32_t /*nbShapeInputs*/, DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept
{
    if (checkCount("inputs", nbInputs, kNB_INPUTS) != kSUCCESS
        || checkCount("outputs", nbOutputs, kNB_OUTPUTS) != kSUCCESS)
    {
        return kFAILURE;
    }
    if (inputs[0].nbDims != kQKV_RANK)
    {
        return reportError("Retention: qkv must have 4 dimensions, (b, h, w, 3c).");
    }
    outputs[0] = inputs[0];
    outputs[0].d[kQKV_RANK - 1] = exprBuilder.constant(mAttributes.channels);
    return kSUCCESS;
}

bool RetentionPlugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (nbInputs != kNB_INPUTS || nbOutputs != kNB_OUTPUTS || pos >= kNB_INPUTS + kNB_OUTPUTS)
    {
        return false;
    }
    DataType const type = inOut[0].desc.type;
    PluginTensorDesc const& asked = inOut[pos].desc;
    bool const isFloat = type == DataType::kFLOAT || type == DataType::kHALF;
    bool const isInt8Output = pos == kNB_INPUTS && mAttributes.outputScale > 0.0F;
    return isFloat && isLinear(asked) && asked.type == (isInt8Output ? DataType::kINT8 : type);
}

int32_t RetentionPlugin::getNbOutputs() const noexcept
{
    return kNB_OUTPUTS;
}

size_t RetentionPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t /*nbInputs*/,
    DynamicPluginTensorDesc const* /*outputs*/, int32_t /*nbOutputs*/) const noexcept
{
    Dims const& qkv = inputs[0].max;
    RetentionConfig largest = config();
    largest.elementType = inputs[0].desc.type == DataType::kHALF ? RMT_EDGE_FLOAT16 : RMT_EDGE_FLOAT32;
    return retentionWorkspaceBytes(
        largest, {size32(qkv.d[0]), size32(qkv.d[1]), size32(qkv.d[2]), mAttributes.numHeads});
}

int32_t RetentionPlugin::getNbTactics() noexcept
{
    return static_cast<int32_t>(mTacticIds.size());
}

int32_t RetentionPlugin::getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept
{
    std::copy_n(mTacticIds.begin(), std::min(nbTactics, getNbTactics()), tactics);
    return kSUCCESS;
}

char const* RetentionPlugin::getTimingCacheID() noexcept
{
    return guarded<char const*>(nullptr,
        [this]() -> char const*
        {
            mTimingCacheId = std::string{kRETENTION_NAME} + "_h" + std::to_string(mAttributes.numHeads) + "_c"
                + std::to_string(mAttributes.channels) + "_d" + std::to_string(mAttributes.decomposed) + "_" + kBUILD_HASH;
            return mTimingCacheId.c_str();
        });
}

int32_t RetentionPlugin::setTactic(int32_t tactic) noexcept
{
    mTactic = tactic;
    return kSUCCESS;
}

int32_t RetentionPlugin::onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* /*out*/,
    int32_t nbOutputs) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            int32_t const previousType = mElementType;
            if (checkCount("inputs", nbInputs, kNB_INPUTS) != kSUCCESS
                || checkCount("outputs", nbOutputs, kNB_OUTPUTS) != kSUCCESS || takeType(in[0].type) != kSUCCESS
                || takeShapes(in[0].dims, in[1].dims, in[3].dims) != kSUCCESS)
            {
                return kFAILURE;
            }
            bool const isAttached = mDecay != nullptr;
            if (isAttached && (mTactics.empty() || previousType != mElementType))
            {
                return loadRetention(config(), mTactics);
            }
            return kSUCCESS;
        });
}

int32_t RetentionPlugin::enqueue(PluginTensorDesc const* /*inputDesc*/, PluginTensorDesc const* /*outputDesc*/,
    void const* const* inputs, void* const* outputs, void* workspace, CUstream_st* stream) noexcept
{
    // Prepared by attachToContext and onShapeChange; a caller that skipped them gets it here, once.
    if ((mDecay == nullptr || mTactics.empty()) && prepare() != kSUCCESS)
    {
        return kFAILURE;
    }
    RetentionPointers const pointers{
        inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], mDecay->data(), outputs[0], workspace};
    return launchRetention(config(), mTactics, mTactic, mSizes, pointers, mAttributes.outputScale, stream);
}

int32_t RetentionPlugin::prepare() noexcept
{
    return guarded<int32_t>(kFAILURE,
        [this]() -> int32_t
        {
            auto decay = std::make_unique<DeviceFloats>();
            if (decay->copyFrom(mAttributes.decay) != kSUCCESS)
            {
                return kFAILURE;
            }
            mDecay = std::move(decay);
            return mElementType == kUNKNOWN_TYPE ? kSUCCESS : loadRetention(config(), mTactics);
        });
}

IPluginV3* RetentionPlugin::attachToContext(IPluginResourceContext* /*context*/) noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [this]() -> IPluginV3*
        {
            std::unique_ptr<RetentionPlugin> attached{static_cast<RetentionPlugin*>(clone())};
            if (attached == nullptr)
            {
                return nullptr;
            }
            // Here and not at the first launch, which may happen while a CUDA graph is captured.
            if (attached->prepare() != kSUCCESS)
            {
                return nullptr;
            }
            return attached.release();
        });
}

PluginFieldCollection const* RetentionPlugin::getFieldsToSerialize() noexcept
{
    return guarded<PluginFieldCollection const*>(nullptr,
        [this]() -> PluginFieldCollection const*
        {
            mFields = {
                {"num_heads", &mAttributes.numHeads, PluginFieldType::kINT32, 1},
                {"decay", mAttributes.decay.data(), PluginFieldType::kFLOAT32, size32(mAttributes.decay.size())},
                {"decomposed", &mAttributes.decomposed, PluginFieldType::kINT32, 1},
                {"channels", &mAttributes.channels, PluginFieldType::kINT32, 1},
                {"output_scale", &mAttributes.outputScale, PluginFieldType::kFLOAT32, 1},
                {kELEMENT_TYPE_FIELD, &mElementType, PluginFieldType::kINT32, 1},
            };
            mFieldCollection = {size32(mFields.size()), mFields.data()};
            return &mFieldCollection;
        });
}

} // namespace rmt_edge
