//! \file
//! rmt_edge::MultiLevelRoiAlign as a TensorRT plugin. The contract is in rmt_edge/plugin/README.md.

#ifndef RMT_EDGE_ROI_ALIGN_PLUGIN_H
#define RMT_EDGE_ROI_ALIGN_PLUGIN_H

#include "pluginBase.h"
#include "pluginCreator.h"
#include "pluginFields.h"
#include "roiAlignLaunch.h"

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

namespace rmt_edge
{

class RoiAlignPlugin : public PluginBase
{
public:
    //! \param outputSize Bins on an axis.
    //! \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16, or kUNKNOWN_TYPE while the builder has not said.
    RoiAlignPlugin(int32_t outputSize, int32_t elementType);

protected:
    std::unique_ptr<PluginBase> remake() const override;
    std::vector<nvinfer1::PluginField> attributeFields() const override;
    std::string timingKey() const override;
    std::string shapesProblem(std::vector<nvinfer1::Dims> const& inputs) const override;
    void writeOutputShapes(nvinfer1::DimsExprs const* inputs, nvinfer1::DimsExprs* outputs,
        nvinfer1::IExprBuilder& exprBuilder) const override;
    std::vector<int32_t> tacticsFor(std::vector<nvinfer1::Dims> const& inputs) const override;
    int32_t load() override;
    int32_t launch(LaunchArguments const& arguments) override;

private:
    int32_t mOutputSize{};
    LoadedKernel mKernel; // in the context this clone is attached to
};

class RoiAlignPluginCreator : public PluginCreatorBase
{
public:
    RoiAlignPluginCreator();

protected:
    std::unique_ptr<PluginBase> make(PluginFields const& fields, int32_t elementType) const override;
};

} // namespace rmt_edge

#endif // RMT_EDGE_ROI_ALIGN_PLUGIN_H
