//! \file
//! rmt_edge::DepthwiseResidual, in all its op types, as a TensorRT plugin. The contract is in rmt_edge/plugin/README.md.

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H

#include "depthwiseResidualAttributes.h"
#include "depthwiseResidualLaunch.h"

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace rmt_edge
{

class DepthwiseResidualPlugin : public nvinfer1::IPluginV3,
                                public nvinfer1::IPluginV3OneCore,
                                public nvinfer1::IPluginV3OneBuild,
                                public nvinfer1::IPluginV3OneRuntime
{
public:
    //! \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16, or -1 while the builder has not said.
    DepthwiseResidualPlugin(DepthwiseResidualAttributes const& attributes, int32_t elementType);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuild
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
        nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
        nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
        int32_t nbOutputs) noexcept override;
    int32_t getNbOutputs() const noexcept override;
    int32_t getNbTactics() noexcept override;
    int32_t getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept override;
    char const* getTimingCacheID() noexcept override;

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept override;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, CUstream_st* stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    DepthwiseResidualConfig config() const noexcept;
    //! \return kSUCCESS if there is no problem, else kFAILURE after reporting "<op type>: <problem>".
    int32_t check(std::string const& problem) const;
    //! kFAILURE, with a message, if the type or the shapes of the inputs do not fit the attributes or one another.
    int32_t takeType(nvinfer1::DataType type);
    int32_t takeShapes(std::vector<nvinfer1::Dims> const& inputs);

    DepthwiseResidualAttributes mAttributes;
    int32_t mElementType{};
    int32_t mTactic{}; // 0: the first
    bool mIsAttached{};
    DepthwiseResidualSizes mSizes;
    std::vector<int32_t> mTacticIds;
    std::vector<DepthwiseResidualTactic> mTactics; // loaded into the context this clone is attached to
    std::string mTimingCacheId;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection;
};

} // namespace rmt_edge

#endif // RMT_EDGE_DEPTHWISE_RESIDUAL_PLUGIN_H
