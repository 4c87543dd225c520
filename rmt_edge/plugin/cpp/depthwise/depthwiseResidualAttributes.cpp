#include "depthwiseResidualAttributes.h"

#include <string>

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

DepthwiseResidualAttributes::DepthwiseResidualAttributes(DepthwiseResidualForm const& form)
    : form{form}
{
}

DepthwiseResidualAttributes::DepthwiseResidualAttributes(DepthwiseResidualForm const& form, PluginFields const& fields)
    : form{form}
    , channels{fields.integer("channels")}
    , epsilon{form.hasNorm ? positive(fields, "epsilon") : 0.0F}
    , inputScale{form.isScaled ? fields.numberOr("input_scale", 0.0F) : 0.0F}
    , outputScale{form.isInt8 ? positive(fields, "output_scale") : 0.0F}
{
    if (!(inputScale >= 0.0F))
    {
        fields.refuse("input_scale is " + std::to_string(inputScale) + "; it must be positive, or 0 for a float x.");
    }
    std::string const problem = depthwiseResidualChannelsProblem(form, channels);
    if (!problem.empty())
    {
        fields.refuse(problem);
    }
}

std::vector<PluginField> DepthwiseResidualAttributes::fields() const
{
    std::vector<PluginField> fields{{"channels", &channels, PluginFieldType::kINT32, 1}};
    if (form.hasNorm)
    {
        fields.emplace_back("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
    }
    if (form.isInt8)
    {
        fields.emplace_back("output_scale", &outputScale, PluginFieldType::kFLOAT32, 1);
    }
    // Also where it is 0: the creator's list comes from here, and TensorRT hands over no attribute that is not on it.
    if (form.isScaled)
    {
        fields.emplace_back("input_scale", &inputScale, PluginFieldType::kFLOAT32, 1);
    }
    return fields;
}

} // namespace rmt_edge
