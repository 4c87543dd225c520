#include "depthwiseResidualAttributes.h"

#include "depthwiseResidualPlugin.h"
#include "diagnostics.h"

#include <memory>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

//! \throw AttributeError if the attribute is missing or not above 0.
float positive(PluginFields const& fields, char const* name)
{
    float const value = fields.number(name);
    if (!(value > 0.0F))
    {
        fields.refuse(std::string{name} + " is " + std::to_string(value) + "; it must be positive.");
    }
    return value;
}

} // namespace

DepthwiseResidualAttributes::DepthwiseResidualAttributes(DepthwiseResidualForm const& form, PluginFields const& fields)
    : form{form}
    , channels{fields.integer("channels")}
    , epsilon{form.hasNorm ? positive(fields, "epsilon") : 0.0F}
    , outputScale{form.isInt8 ? positive(fields, "output_scale") : 0.0F}
{
    std::string const problem = depthwiseResidualChannelsProblem(form, channels);
    if (!problem.empty())
    {
        fields.refuse(problem);
    }
}

DepthwiseResidualPluginCreator::DepthwiseResidualPluginCreator(DepthwiseResidualForm const& form)
    : mForm{form}
    , mFields{{"channels", nullptr, PluginFieldType::kINT32, 1}}
{
    if (form.hasNorm)
    {
        mFields.emplace_back("epsilon", nullptr, PluginFieldType::kFLOAT32, 1);
    }
    if (form.isInt8)
    {
        mFields.emplace_back("output_scale", nullptr, PluginFieldType::kFLOAT32, 1);
    }
    mFieldCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
}

IPluginV3* DepthwiseResidualPluginCreator::createPlugin(
    char const* name, PluginFieldCollection const* fields, TensorRTPhase /*phase*/) noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [&]() -> IPluginV3*
        {
            PluginFields const given{mForm.name, name, fields};
            int32_t const elementType = given.integerOr(kELEMENT_TYPE_FIELD, kUNKNOWN_TYPE);
            DepthwiseResidualAttributes const attributes{mForm, given};
            return std::make_unique<DepthwiseResidualPlugin>(attributes, elementType).release();
        });
}

PluginFieldCollection const* DepthwiseResidualPluginCreator::getFieldNames() noexcept
{
    return &mFieldCollection;
}

char const* DepthwiseResidualPluginCreator::getPluginName() const noexcept
{
    return mForm.name;
}

char const* DepthwiseResidualPluginCreator::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

char const* DepthwiseResidualPluginCreator::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

} // namespace rmt_edge
