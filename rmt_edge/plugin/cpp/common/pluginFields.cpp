#include "pluginFields.h"

#include <cmath>
#include <cstring>
#include <limits>

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace rmt_edge
{

PluginFields::PluginFields(
    char const* op, char const* nodeName, nvinfer1::PluginFieldCollection const* collection)
    : mWhere{std::string{op} + " node '" + (nodeName != nullptr ? nodeName : "") + "': "}
    , mCollection{collection}
{
    if (collection == nullptr || (collection->nbFields > 0 && collection->fields == nullptr))
    {
        refuse("no attributes were given.");
    }
}

void PluginFields::refuse(std::string const& message) const
{
    throw AttributeError{mWhere + message};
}

PluginField const* PluginFields::find(char const* name) const
{
    for (int32_t i = 0; i < mCollection->nbFields; ++i)
    {
        PluginField const& field = mCollection->fields[i];
        if (field.name != nullptr && std::strcmp(field.name, name) == 0 && field.data != nullptr && field.length > 0)
        {
            return &field;
        }
    }
    return nullptr;
}

PluginField const& PluginFields::require(char const* name) const
{
    PluginField const* const field = find(name);
    if (field == nullptr)
    {
        refuse(std::string{"attribute "} + name + " is missing.");
    }
    return *field;
}

int32_t PluginFields::integer(char const* name) const
{
    PluginField const& field = require(name);
    int64_t value{};
    if (field.length == 1 && field.type == PluginFieldType::kINT32)
    {
        value = *static_cast<int32_t const*>(field.data);
    }
    else if (field.length == 1 && field.type == PluginFieldType::kINT64)
    {
        value = *static_cast<int64_t const*>(field.data);
    }
    else
    {
        refuse(std::string{"attribute "} + name + " must be one integer.");
    }
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
    {
        refuse(std::string{"attribute "} + name + " is " + std::to_string(value) + ", outside 32 bits.");
    }
    return static_cast<int32_t>(value);
}

int32_t PluginFields::integerOr(char const* name, int32_t absent) const
{
    return find(name) != nullptr ? integer(name) : absent;
}

float PluginFields::numberOr(char const* name, float absent) const
{
    return find(name) != nullptr ? number(name) : absent;
}

float PluginFields::number(char const* name) const
{
    std::vector<float> const values = numbers(name);
    if (values.size() != 1)
    {
        refuse(std::string{"attribute "} + name + " must be one number.");
    }
    return values.front();
}

std::vector<float> PluginFields::numbers(char const* name) const
{
    PluginField const& field = require(name);
    if (field.type != PluginFieldType::kFLOAT32)
    {
        refuse(std::string{"attribute "} + name + " must be float32.");
    }
    float const* const data = static_cast<float const*>(field.data);
    std::vector<float> values(data, data + field.length);
    for (float const value : values)
    {
        if (!std::isfinite(value))
        {
            refuse(std::string{"attribute "} + name + " holds a value that is not finite.");
        }
    }
    return values;
}

} // namespace rmt_edge
