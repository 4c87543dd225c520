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
    kLEPE_BIAS
};

constexpr int32_t kQKV_RANK = 4; // (b, h, w, 3c)
constexpr int32_t kNB_PACKED = 3;
constexpr int64_t kLEPE_SIZE = 5; // LEPE_SIZE of ops/retention/kernels.py

PluginTensors tensorsOf(RetentionAttributes const& attributes)
{
    TensorType const outType = attributes.outputScale > 0.0F ? TensorType::kINT8 : TensorType::kELEMENT;
    return {{{"qkv"}, {"sin"}, {"cos"}, {"lepe_weight"}, {"lepe_bias"}}, {{"out", outType}}};
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
    return {mAttributes.channels / mAttributes.numHeads, mAttributes.decomposed != 0, elementType};
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
    return "h" + std::to_string(mAttributes.numHeads) + "_c" + std::to_string(mAttributes.channels) + "_d"
        + std::to_string(mAttributes.decomposed);
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
    std::vector<int32_t> tactics = retentionTactics(config(elementType()));
    // The best guess comes first: a builder without a GPU times nothing and takes the first.
    int32_t const lineLength
        = mAttributes.decomposed != 0 ? std::max(grid.height, grid.width) : grid.height * grid.width;
    auto const best
        = std::find(tactics.begin(), tactics.end(), defaultRetentionTactic(config(elementType()), lineLength));
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
    RetentionPointers const pointers{inputs[kQKV], inputs[kSIN], inputs[kCOS], inputs[kLEPE_WEIGHT], inputs[kLEPE_BIAS],
        mDecay->data(), arguments.outputs[0], arguments.workspace};
    return launchRetention(config(elementType()), mTactics, arguments.tactic, sizes(arguments.shapes), pointers,
        mAttributes.outputScale, arguments.stream);
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
