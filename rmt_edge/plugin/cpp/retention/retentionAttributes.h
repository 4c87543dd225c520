//! \file
//! The attributes of rmt_edge::Retention, and the creator that reads them. The contract is in rmt_edge/plugin/README.md.

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
    //! \throw AttributeError with what was wrong.
    explicit RetentionAttributes(PluginFields const& fields);

    int32_t numHeads{};
    std::vector<float> decay;
    int32_t decomposed{};
    int32_t channels{};
    float outputScale{}; //!< 0: the output has the type of qkv.
};

class RetentionPluginCreator : public nvinfer1::IPluginCreatorV3One
{
public:
    RetentionPluginCreator();

    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection;
};

} // namespace rmt_edge

#endif // RMT_EDGE_RETENTION_ATTRIBUTES_H
