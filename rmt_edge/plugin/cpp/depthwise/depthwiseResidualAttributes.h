//! \file
//! The attributes of rmt_edge::DepthwiseResidual, and the creators that read them: one for each of its op types. The
//! contract is in rmt_edge/plugin/README.md.

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
    //! \throw AttributeError with what was wrong.
    DepthwiseResidualAttributes(DepthwiseResidualForm const& form, PluginFields const& fields);

    DepthwiseResidualForm form;
    int32_t channels{};
    float epsilon{};     //!< 0 without a norm.
    float outputScale{}; //!< 0: every output has the type of x.
};

class DepthwiseResidualPluginCreator : public nvinfer1::IPluginCreatorV3One
{
public:
    explicit DepthwiseResidualPluginCreator(DepthwiseResidualForm const& form);
    //! mFieldCollection points into mFields.
    DepthwiseResidualPluginCreator(DepthwiseResidualPluginCreator const&) = delete;
    DepthwiseResidualPluginCreator& operator=(DepthwiseResidualPluginCreator const&) = delete;

    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    DepthwiseResidualForm mForm;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection;
};

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_ATTRIBUTES_H
