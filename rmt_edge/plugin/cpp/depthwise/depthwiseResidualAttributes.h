//! \file
//! The attributes of rmt_edge::DepthwiseResidual in all its op types. The contract is in rmt_edge/plugin/README.md.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_ATTRIBUTES_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_ATTRIBUTES_H

#include "depthwiseResidualLaunch.h"
#include "pluginFields.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

namespace rmt_edge
{

//! The node's op type and attributes, checked.
struct DepthwiseResidualAttributes
{
    //! Attributes not read yet; they know their fields.
    explicit DepthwiseResidualAttributes(DepthwiseResidualForm const& form);

    //! \throw AttributeError with what was wrong.
    DepthwiseResidualAttributes(DepthwiseResidualForm const& form, PluginFields const& fields);

    //! \return The attributes that this op type has as TensorRT's fields, the data in this object.
    std::vector<nvinfer1::PluginField> fields() const;

    DepthwiseResidualForm form;
    int32_t channels{};
    float epsilon{};     //!< 0 without a norm.
    float inputScale{};  //!< 0: x is not int8.
    float outputScale{}; //!< 0: every output has the type of x.
};

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_ATTRIBUTES_H
