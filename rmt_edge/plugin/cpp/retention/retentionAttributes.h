//! \file
//! The attributes of rmt_edge::Retention. The contract is in rmt_edge/plugin/README.md.

#ifndef RMT_EDGE_RETENTION_ATTRIBUTES_H
#define RMT_EDGE_RETENTION_ATTRIBUTES_H

#include "pluginFields.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

namespace rmt_edge
{

constexpr char const* kRETENTION_NAME = "Retention";

//! The node's attributes, checked.
struct RetentionAttributes
{
    RetentionAttributes() = default;

    //! \throw AttributeError with what was wrong.
    explicit RetentionAttributes(PluginFields const& fields);

    //! \return The attributes as TensorRT's fields, the data in this object.
    std::vector<nvinfer1::PluginField> fields() const;

    int32_t numHeads{};
    std::vector<float> decay;
    int32_t decomposed{};
    int32_t channels{};
    float inputScale{};  //!< 0: qkv is not int8.
    float outputScale{}; //!< 0: the output has the type of the tables.
};

} // namespace rmt_edge

#endif // RMT_EDGE_RETENTION_ATTRIBUTES_H
