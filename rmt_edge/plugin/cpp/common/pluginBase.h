//! \file
//! What the TensorRT plugins of all ops share: TensorRT's interface, with the state and the checks behind it. An op adds
//! its attributes, its shapes and its launch.

#ifndef RMT_EDGE_PLUGIN_BASE_H
#define RMT_EDGE_PLUGIN_BASE_H

#include "cudaContext.h"
#include "pluginTensors.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rmt_edge
{

//! What one call of enqueue hands to an op's kernels.
struct LaunchArguments
{
    std::vector<nvinfer1::Dims> const& shapes; //!< Of the inputs, checked by shapesProblem.
    void const* const* inputs{};
    void* const* outputs{};
    void* workspace{};
    int32_t tactic{}; //!< One of tacticsFor; 0 while nobody has chosen.
    CUstream stream{};
};

//! The runtime's side of it is in pluginBaseRuntime.cpp, the rest in pluginBase.cpp.
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime
{
public:
    //! \param op The op type of the node; a literal.
    //! \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16, or kUNKNOWN_TYPE while the builder has not said.
    PluginBase(char const* op, PluginTensors tensors, int32_t elementType);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
    nvinfer1::IPluginV3* clone() noexcept final;

    // IPluginV3OneCore
    char const* getPluginName() const noexcept final;
    char const* getPluginVersion() const noexcept final;
    char const* getPluginNamespace() const noexcept final;

    // IPluginV3OneBuild
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept final;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
        nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept final;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
        nvinfer1::IExprBuilder& exprBuilder) noexcept final;
    bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
        int32_t nbOutputs) noexcept final;
    int32_t getNbOutputs() const noexcept final;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t nbOutputs) const noexcept final;
    int32_t getNbTactics() noexcept final;
    int32_t getValidTactics(int32_t* tactics, int32_t nbTactics) noexcept final;
    char const* getTimingCacheID() noexcept final;

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept final;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept final;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, CUstream_st* stream) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final;

    //! Take the number of inputs that was serialised.
    void restoreNbInputs(int32_t nbInputs) noexcept
    {
        mNbInputs = nbInputs > 0 ? nbInputs : mNbInputs;
    }

protected:
    // What an op adds. Every one may throw: the callers turn it into a message and a failure.

    //! \return A new plugin of the same attributes and element type.
    virtual std::unique_ptr<PluginBase> remake() const = 0;

    //! \return The attributes to serialise, the data in this object.
    virtual std::vector<nvinfer1::PluginField> attributeFields() const = 0;

    //! \return What of the attributes the speed of the kernels depends on.
    virtual std::string timingKey() const = 0;

    //! \return What is wrong with the element type, float32 or float16; empty if nothing is.
    virtual std::string elementTypeProblem(int32_t elementType) const;

    //! \return What is wrong with the shapes of the inputs; empty if nothing is. Sizes not known yet (-1) are not wrong.
    virtual std::string shapesProblem(std::vector<nvinfer1::Dims> const& inputs) const = 0;

    //! Write the shapes of the outputs, for inputs that shapesProblem has passed.
    virtual void writeOutputShapes(nvinfer1::DimsExprs const* inputs, nvinfer1::DimsExprs* outputs,
        nvinfer1::IExprBuilder& exprBuilder) const = 0;

    //! \return The tactics for the element type; the first is taken by a builder that times nothing.
    virtual std::vector<int32_t> tacticsFor(std::vector<nvinfer1::Dims> const& inputs) const = 0;

    //! \return The bytes of workspace for inputs of these shapes and an element type.
    virtual size_t workspaceBytes(std::vector<nvinfer1::Dims> const& inputs, int32_t elementType) const;

    //! \brief Bring to the current CUDA context what the launches need for the element type: kernels, constants.
    //!
    //! \return kSUCCESS, or kFAILURE after reporting why not.
    virtual int32_t load() = 0;

    //! \brief Launch on the stream; nothing else.
    //!
    //! \return kSUCCESS, or kFAILURE after reporting why not.
    virtual int32_t launch(LaunchArguments const& arguments) = 0;

    int32_t elementType() const noexcept
    {
        return mElementType;
    }

    //! \return How many inputs the node has: optional ones may be absent.
    int32_t nbInputs() const noexcept
    {
        return mNbInputs;
    }

private:
    //! \return kSUCCESS if there is no problem, else kFAILURE after reporting "<op>: <problem>".
    int32_t check(std::string const& problem) const;
    int32_t checkCounts(int32_t nbInputs, int32_t nbOutputs) const;
    //! Take the types of the inputs; kFAILURE after reporting one that does not fit.
    int32_t takeTypes(std::vector<nvinfer1::DataType> const& types);
    //! Take the types and shapes of the inputs, which stand until others come.
    int32_t takeInputs(nvinfer1::PluginTensorDesc const* in);
    bool areTaken(nvinfer1::PluginTensorDesc const* in) const;
    //! load() into the scope's context, unless it has been done for the element type.
    int32_t loadOnce(ContextScope const& scope);

    char const* mOp{};
    PluginTensors mTensors;
    int32_t mElementType{};
    int32_t mNbInputs{};
    int32_t mTactic{};
    std::vector<int32_t> mTacticIds;
    std::vector<nvinfer1::DataType> mTypes; // of the inputs, as taken last
    std::vector<nvinfer1::Dims> mShapes;
    bool mIsAttached{};
    int32_t mLoadedType{}; // the element type that load() was done for
    std::shared_ptr<PrimaryContext> mPrimary; // if no other context was there to load into
    std::string mTimingCacheId;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection{};
};

} // namespace rmt_edge

#endif // RMT_EDGE_PLUGIN_BASE_H
