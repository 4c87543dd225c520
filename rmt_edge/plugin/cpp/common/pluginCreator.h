//! \file
//! What the creators of all ops share. An op adds how its plugin is made of attributes.

#ifndef RMT_EDGE_PLUGIN_CREATOR_H
#define RMT_EDGE_PLUGIN_CREATOR_H

#include "pluginBase.h"
#include "pluginFields.h"

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

namespace rmt_edge
{

class PluginCreatorBase : public nvinfer1::IPluginCreatorV3One
{
public:
    //! \param op The op type of the node; a literal.
    //! \param fields The attributes that the parser looks for in a node; it passes no others. Their data is not used.
    PluginCreatorBase(char const* op, std::vector<nvinfer1::PluginField> fields);
    //! mFieldCollection points into mFields.
    PluginCreatorBase(PluginCreatorBase const&) = delete;
    PluginCreatorBase& operator=(PluginCreatorBase const&) = delete;

    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept final;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept final;
    char const* getPluginName() const noexcept final;
    char const* getPluginVersion() const noexcept final;
    char const* getPluginNamespace() const noexcept final;

protected:
    //! \return The plugin of a node with these attributes, of an element type that may be kUNKNOWN_TYPE.
    //!
    //! \throw AttributeError with what was wrong.
    virtual std::unique_ptr<PluginBase> make(PluginFields const& fields, int32_t elementType) const = 0;

private:
    char const* mOp{};
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection{};
};

} // namespace rmt_edge

#endif // RMT_EDGE_PLUGIN_CREATOR_H
