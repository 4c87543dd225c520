//! \file
//! rmt_edge::DepthwiseResidual, in all its op types, as a TensorRT plugin. The contract is in rmt_edge/plugin/README.md.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H

#include "depthwiseResidualAttributes.h"
#include "depthwiseResidualLaunch.h"
#include "pluginBase.h"
#include "pluginCreator.h"

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

namespace rmt_edge
{

class DepthwiseResidualPlugin : public PluginBase
{
public:
    //! \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16, or kUNKNOWN_TYPE while the builder has not said.
    DepthwiseResidualPlugin(DepthwiseResidualAttributes const& attributes, int32_t elementType);

protected:
    std::unique_ptr<PluginBase> remake() const override;
    std::vector<nvinfer1::PluginField> attributeFields() const override;
    std::string timingKey() const override;
    std::string elementTypeProblem(int32_t elementType) const override;
    std::string shapesProblem(std::vector<nvinfer1::Dims> const& inputs) const override;
    void writeOutputShapes(nvinfer1::DimsExprs const* inputs, nvinfer1::DimsExprs* outputs,
        nvinfer1::IExprBuilder& exprBuilder) const override;
    std::vector<int32_t> tacticsFor(std::vector<nvinfer1::Dims> const& inputs) const override;
    int32_t load() override;
    int32_t launch(LaunchArguments const& arguments) override;

private:
    DepthwiseResidualConfig config() const noexcept;

    DepthwiseResidualAttributes mAttributes;
    std::vector<DepthwiseResidualTactic> mTactics; // loaded into the context this clone is attached to
};

//! One for each op type.
class DepthwiseResidualPluginCreator : public PluginCreatorBase
{
public:
    explicit DepthwiseResidualPluginCreator(DepthwiseResidualForm const& form);

protected:
    std::unique_ptr<PluginBase> make(PluginFields const& fields, int32_t elementType) const override;

private:
    DepthwiseResidualForm mForm;
};

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H
