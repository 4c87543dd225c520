//! \file
//! Reading a plugin's attributes: every missing or wrong one becomes a message that names the op, the attribute and the
//! value. For all ops of the library.

#ifndef RMT_EDGE_PLUGIN_FIELDS_H
#define RMT_EDGE_PLUGIN_FIELDS_H

#include <NvInferRuntime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace rmt_edge
{

//! The same for all ops.
constexpr char const* kPLUGIN_VERSION = "1";
constexpr char const* kPLUGIN_NAMESPACE = "rmt_edge";
//! Serialised beside the node's attributes: the element type that the builder chose.
constexpr char const* kELEMENT_TYPE_FIELD = "element_type";
//! And, where optional inputs are given, their number with the others.
constexpr char const* kNB_INPUTS_FIELD = "nb_inputs";
constexpr int32_t kUNKNOWN_TYPE = -1;

//! An attribute the op cannot take; caught in createPlugin.
class AttributeError : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

//! The attributes of one node, or of one serialised plugin.
class PluginFields
{
public:
    PluginFields(char const* op, char const* nodeName, nvinfer1::PluginFieldCollection const* collection);

    //! \throw AttributeError if the attribute is missing, not one integer, or outside 32 bits.
    int32_t integer(char const* name) const;

    //! \throw AttributeError if the attribute is there and not one integer.
    int32_t integerOr(char const* name, int32_t absent) const;

    //! \throw AttributeError if the attribute is missing or not one finite number.
    float number(char const* name) const;

    //! \throw AttributeError if the attribute is there and not one finite number.
    float numberOr(char const* name, float absent) const;

    //! \throw AttributeError if the attribute is missing or no list of finite numbers.
    std::vector<float> numbers(char const* name) const;

    //! \throw AttributeError "<op> node '<name>': <message>".
    [[noreturn]] void refuse(std::string const& message) const;

private:
    nvinfer1::PluginField const* find(char const* name) const;
    nvinfer1::PluginField const& require(char const* name) const;

    std::string mWhere;
    nvinfer1::PluginFieldCollection const* mCollection{};
};

} // namespace rmt_edge

#endif // RMT_EDGE_PLUGIN_FIELDS_H
