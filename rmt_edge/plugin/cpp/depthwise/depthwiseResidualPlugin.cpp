#include "depthwiseResidualPlugin.h"

#include "depthwiseResidualInputs.h"

#include <algorithm>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

DepthwiseResidualSizes sizesOfImage(Dims const& x)
{
    return {size32(x.d[0]), size32(x.d[1]), size32(x.d[2])};
}

} // namespace

DepthwiseResidualPlugin::DepthwiseResidualPlugin(DepthwiseResidualAttributes const& attributes, int32_t elementType)
    : PluginBase{attributes.form.name, tensorsOf(attributes.form, attributes.inputScale > 0.0F), elementType}
    , mAttributes{attributes}
{
}

DepthwiseResidualConfig DepthwiseResidualPlugin::config() const noexcept
{
    return {mAttributes.form, mAttributes.channels, elementType(), mAttributes.inputScale > 0.0F};
}

std::unique_ptr<PluginBase> DepthwiseResidualPlugin::remake() const
{
    return std::make_unique<DepthwiseResidualPlugin>(mAttributes, elementType());
}

std::vector<PluginField> DepthwiseResidualPlugin::attributeFields() const
{
    return mAttributes.fields();
}

std::string DepthwiseResidualPlugin::timingKey() const
{
    return (mAttributes.inputScale > 0.0F ? "q_c" : "c") + std::to_string(mAttributes.channels);
}

std::string DepthwiseResidualPlugin::elementTypeProblem(int32_t elementType) const
{
    std::string const problem = depthwiseResidualConfigProblem(
        {mAttributes.form, mAttributes.channels, elementType, mAttributes.inputScale > 0.0F});
    bool const isToCheck = problem.empty() && mAttributes.form.isInt8;
    return isToCheck ? depthwiseResidualScaleProblem(elementType, mAttributes.outputScale) : problem;
}

std::string DepthwiseResidualPlugin::shapesProblem(std::vector<Dims> const& inputs) const
{
    std::string const problem = inputShapesProblem(mAttributes.form, mAttributes.channels, inputs);
    return problem.empty() ? depthwiseResidualSizesProblem(sizesOfImage(inputs[kX]), mAttributes.channels) : problem;
}

void DepthwiseResidualPlugin::writeOutputShapes(
    DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& /*exprBuilder*/) const
{
    std::fill_n(outputs, getNbOutputs(), inputs[kX]);
}

std::vector<int32_t> DepthwiseResidualPlugin::tacticsFor(std::vector<Dims> const& inputs) const
{
    std::vector<int32_t> tactics = depthwiseResidualTactics(config());
    // A builder without a GPU times nothing and takes the first.
    auto const best = std::find(tactics.begin(), tactics.end(),
        defaultDepthwiseResidualTactic(config(), sizesOfImage(inputs[kX])));
    std::rotate(tactics.begin(), best, best == tactics.end() ? best : best + 1);
    return tactics;
}

int32_t DepthwiseResidualPlugin::load()
{
    return loadDepthwiseResidual(config(), mTactics);
}

int32_t DepthwiseResidualPlugin::launch(LaunchArguments const& arguments)
{
    DepthwiseResidualForm const& form = mAttributes.form;
    void const* const* const inputs = arguments.inputs;
    DepthwiseResidualPointers pointers;
    pointers.x = inputs[kX];
    pointers.weight = inputs[kWEIGHT];
    pointers.bias = inputs[kBIAS];
    pointers.residual = form.hasResidual ? inputs[kRESIDUAL] : nullptr;
    pointers.normWeight = form.hasNorm ? inputs[normWeightOf(form)] : nullptr;
    pointers.normBias = form.hasNorm ? inputs[normWeightOf(form) + 1] : nullptr;
    pointers.xScale = form.isScaled ? inputs[xScaleOf(form)] : nullptr;
    pointers.xBias = form.isScaled ? inputs[xScaleOf(form) + 1] : nullptr;
    pointers.out = arguments.outputs[0];
    pointers.norm = form.hasNorm ? arguments.outputs[1] : nullptr;
    return launchDepthwiseResidual(config(), mTactics, arguments.tactic, sizesOfImage(arguments.shapes[kX]), pointers,
        mAttributes.epsilon, mAttributes.inputScale, mAttributes.outputScale, arguments.stream);
}

DepthwiseResidualPluginCreator::DepthwiseResidualPluginCreator(DepthwiseResidualForm const& form)
    : PluginCreatorBase{form.name, DepthwiseResidualAttributes{form}.fields()}
    , mForm{form}
{
}

std::unique_ptr<PluginBase> DepthwiseResidualPluginCreator::make(PluginFields const& fields, int32_t elementType) const
{
    return std::make_unique<DepthwiseResidualPlugin>(DepthwiseResidualAttributes{mForm, fields}, elementType);
}

} // namespace rmt_edge
