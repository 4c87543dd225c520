#include "retentionPlugin.h"

#include "diagnostics.h"

#include <algorithm>
#include <utility>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

enum Input : size_t
{
    kQKV,
    kSIN,
    kCOS,
    kLEPE_WEIGHT,
    kLEPE_BIAS,
    kQKV_SCALE,
    kQKV_BIAS
};

constexpr int32_t kQKV_RANK = 4; // (b, h, w, 3c)
constexpr int32_t kNB_PACKED = 3;
constexpr int64_t kLEPE_SIZE = 5; // LEPE_SIZE of ops/retention/kernels.py

PluginTensors tensorsOf(RetentionAttributes const& attributes)
{
    TensorType const outType = attributes.outputScale > 0.0F ? TensorType::kINT8 : TensorType::kELEMENT;
    TensorType const qkvType = attributes.inputScale > 0.0F ? TensorType::kINT8 : TensorType::kELEMENT;
    int32_t const nbOptional = attributes.inputScale > 0.0F ? 0 : 2; // an int8 qkv is always a raw product
    return {{{"qkv", qkvType}, {"sin"}, {"cos"}, {"lepe_weight"}, {"lepe_bias"}, {"qkv_scale"}, {"qkv_bias"}},
        {{"out", outType}}, nbOptional};
}

bool areLepeShapes(Dims const& weight, Dims const& bias, int64_t channels)
{
    bool const isWeight = weight.nbDims == 4 && !differs(weight.d[0], channels) && !differs(weight.d[1], 1)
        && !differs(weight.d[2], kLEPE_SIZE) && !differs(weight.d[3], kLEPE_SIZE);
    return isWeight && bias.nbDims == 1 && !differs(bias.d[0], channels);
}

} // namespace

RetentionPlugin::RetentionPlugin(RetentionAttributes const& attributes, int32_t elementType)
    : PluginBase{kRETENTION_NAME, tensorsOf(attributes), elementType}
    , mAttributes{attributes}
{
}

RetentionConfig RetentionPlugin::config(int32_t elementType) const noexcept
{
    RetentionInput input = RetentionInput::kTRUE;
    if (nbInputs() > static_cast<int32_t>(kQKV_SCALE))
    {
        input = mAttributes.inputScale > 0.0F ? RetentionInput::kRAW_INT8 : RetentionInput::kRAW;
    }
    return {mAttributes.channels / mAttributes.numHeads, mAttributes.decomposed != 0, elementType, input,
        mAttributes.outputScale > 0.0F};
}

RetentionSizes RetentionPlugin::sizes(std::vector<Dims> const& inputs) const noexcept
{
    Dims const& qkv = inputs[kQKV];
    return {size32(qkv.d[0]), size32(qkv.d[1]), size32(qkv.d[2]), mAttributes.numHeads};
}

std::unique_ptr<PluginBase> RetentionPlugin::remake() const
{
    return std::make_unique<RetentionPlugin>(mAttributes, elementType());
}

std::vector<PluginField> RetentionPlugin::attributeFields() const
{
    return mAttributes.fields();
}

std::string RetentionPlugin::timingKey() const
{
    return "i" + std::to_string(nbInputs()) + (mAttributes.inputScale > 0.0F ? "q" : "") + "_h"
        + std::to_string(mAttributes.numHeads) + "_c" + std::to_string(mAttributes.channels) + "_d"
        + std::to_string(mAttributes.decomposed);
}

std::string RetentionPlugin::elementTypeProblem(int32_t elementType) const
{
    return retentionConfigProblem(config(elementType));
}

std::string RetentionPlugin::shapesProblem(std::vector<Dims> const& inputs) const
{
    Dims const& qkv = inputs[kQKV];
    int64_t const channels = mAttributes.channels;
    if (qkv.nbDims != kQKV_RANK || differs(qkv.d[3], kNB_PACKED * channels))
    {
        return "qkv must be (b, h, w, " + std::to_string(kNB_PACKED * channels)
            + "), three times the attribute channels, not " + dimsText(sizesOf(qkv)) + ".";
    }
    int64_t const nbTokens = qkv.d[1] >= 0 && qkv.d[2] >= 0 ? qkv.d[1] * qkv.d[2] : -1;
    int64_t const headDim = channels / mAttributes.numHeads;
    for (Dims const& table : {inputs[kSIN], inputs[kCOS]})
    {
        if (table.nbDims != 2 || differs(table.d[0], nbTokens) || differs(table.d[1], headDim))
        {
            return "sin and cos must be " + dimsText({nbTokens, headDim}) + ", one row per token of the grid, not "
                + dimsText(sizesOf(table)) + ".";
        }
    }
    if (!areLepeShapes(inputs[kLEPE_WEIGHT], inputs[kLEPE_BIAS], channels))
    {
        return "lepe_weight must be " + dimsText({channels, 1, kLEPE_SIZE, kLEPE_SIZE}) + " and lepe_bias "
            + dimsText({channels}) + ", not " + dimsText(sizesOf(inputs[kLEPE_WEIGHT])) + " and "
            + dimsText(sizesOf(inputs[kLEPE_BIAS])) + "; the kernels are compiled for that size.";
    }
    for (size_t i = kQKV_SCALE; i < inputs.size(); ++i)
    {
        if (inputs[i].nbDims != 1 || differs(inputs[i].d[0], kNB_PACKED * channels))
        {
            return "qkv_scale and qkv_bias must be " + dimsText({kNB_PACKED * channels}) + ", not "
                + dimsText(sizesOf(inputs[i])) + ".";
        }
    }
    return retentionSizesProblem(config(elementType()), sizes(inputs));
}

void RetentionPlugin::writeOutputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& exprBuilder) const
{
    outputs[0] = inputs[kQKV];
    outputs[0].d[kQKV_RANK - 1] = exprBuilder.constant(mAttributes.channels);
}

std::vector<int32_t> RetentionPlugin::tacticsFor(std::vector<Dims> const& inputs) const
{
    RetentionSizes const grid = sizes(inputs);
    std::vector<int32_t> tactics = retentionTactics(config(elementType()), grid);
    // The best guess comes first: a builder without a GPU times nothing and takes the first.
    auto const best
        = std::find(tactics.begin(), tactics.end(), defaultRetentionTactic(config(elementType()), grid));
    std::rotate(tactics.begin(), best, best == tactics.end() ? best : best + 1);
    return tactics;
}

size_t RetentionPlugin::workspaceBytes(std::vector<Dims> const& inputs, int32_t elementType) const
{
    return retentionWorkspaceBytes(config(elementType), sizes(inputs));
}

int32_t RetentionPlugin::load()
{
    if (mDecay == nullptr) // it is the same for every element type
    {
        auto decay = std::make_unique<DeviceFloats>();
        if (decay->copyFrom(mAttributes.decay, "Retention: cannot copy the decay") != kSUCCESS)
        {
            return kFAILURE;
        }
        mDecay = std::move(decay);
    }
    return loadRetention(config(elementType()), mTactics);
}

int32_t RetentionPlugin::launch(LaunchArguments const& arguments)
{
    void const* const* const inputs = arguments.inputs;
    bool const isScaled = arguments.shapes.size() > kQKV_SCALE;
    RetentionPointers const pointers{inputs[kQKV], inputs[kSIN], inputs[kCOS], inputs[kLEPE_WEIGHT], inputs[kLEPE_BIAS],
        mDecay->data(), isScaled ? inputs[kQKV_SCALE] : nullptr, isScaled ? inputs[kQKV_BIAS] : nullptr,
        arguments.outputs[0], arguments.workspace};
    return launchRetention(config(elementType()), mTactics, arguments.tactic, sizes(arguments.shapes), pointers,
        mAttributes.inputScale, mAttributes.outputScale, arguments.stream);
}

RetentionPluginCreator::RetentionPluginCreator()
    : PluginCreatorBase{kRETENTION_NAME, RetentionAttributes{}.fields()}
{
}

std::unique_ptr<PluginBase> RetentionPluginCreator::make(PluginFields const& fields, int32_t elementType) const
{
    return std::make_unique<RetentionPlugin>(RetentionAttributes{fields}, elementType);
}

} // namespace rmt_edge
