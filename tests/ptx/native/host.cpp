//! \file
//! Takes a plugin through the life that TensorRT gives it; called by tests/ptx/plugin.py through ctypes.
//!
//! create, clone, output types and shapes, formats, configure, tactics, workspace, serialise, create again from a copy of
//! the fields, attach once for every execution context; then setTactic, onShapeChange and enqueue.

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace
{

constexpr int64_t kDYNAMIC = -1;
constexpr size_t kFIELD_BYTES[] = {2, 4, 8, 1, 2, 4, 1, 0, 1, 2, 8}; // by PluginFieldType, kFLOAT16 to kINT64

//! What Python describes a tensor with. A first dimension of -1 is a batch between 1 and a maximum.
struct Tensor
{
    int32_t nbDims;
    int64_t d[8];
    int32_t type;
};

//! A dimension as getOutputShapes sees it: a constant, or unknown until the shapes are set.
struct Expression final : IDimensionExpr, apiv::VDimensionExpr
{
    explicit Expression(int64_t size)
        : value{size}
    {
        mImpl = this;
    }
    bool isConstant() const override { return value != kDYNAMIC; }
    int64_t getConstantValue() const override
    {
        return isConstant() ? value : std::numeric_limits<int64_t>::min();
    }
    bool isSizeTensor() const override { return false; }
    int64_t value;
};

//! Constants are all that our plugins build.
struct Builder final : IExprBuilder, apiv::VExprBuilder
{
    Builder() { mImpl = this; }
    IDimensionExpr const* constant(int64_t value) override { return &made.emplace_back(value); }
    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&, IDimensionExpr const&) override
    {
        return nullptr;
    }
    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override
    {
        return nullptr;
    }
    std::deque<Expression> made;
};

PluginTensorDesc described(Tensor const& tensor, int64_t batch)
{
    PluginTensorDesc desc{};
    desc.dims.nbDims = tensor.nbDims;
    std::copy_n(tensor.d, tensor.nbDims, desc.dims.d);
    if (batch > 0 && tensor.d[0] == kDYNAMIC)
    {
        desc.dims.d[0] = batch;
    }
    desc.type = static_cast<DataType>(tensor.type);
    desc.format = TensorFormat::kLINEAR;
    return desc;
}

//! Serialised fields as an engine file holds them: copies, at addresses without any alignment.
struct CopiedFields
{
    std::deque<std::string> names;
    std::deque<std::vector<char>> data;
    std::vector<PluginField> fields;
    PluginFieldCollection collection{};

    explicit CopiedFields(PluginFieldCollection const& from)
    {
        for (int32_t i = 0; i < from.nbFields; ++i)
        {
            PluginField const& field = from.fields[i];
            size_t const nbBytes = kFIELD_BYTES[static_cast<size_t>(field.type)] * static_cast<size_t>(field.length);
            names.emplace_back(field.name);
            data.emplace_back(nbBytes + 1);
            std::memcpy(data.back().data() + 1, field.data, nbBytes);
            fields.emplace_back(names.back().c_str(), data.back().data() + 1, field.type, field.length);
        }
        collection = {static_cast<int32_t>(fields.size()), fields.data()};
    }
};

struct Handle
{
    std::vector<Tensor> tensors; // inputs, then outputs
    int32_t nbInputs{};
    int32_t nbOutputs{};
    size_t workspaceBytes{};
    std::vector<int32_t> tactics;
    std::unique_ptr<IPluginV3> built;
    std::unique_ptr<IPluginV3> loaded;
    std::vector<std::unique_ptr<IPluginV3>> attached; // one an execution context
    std::string problem;

    bool failed(std::string const& what)
    {
        problem = what;
        return false;
    }
};

IPluginV3OneBuild* buildOf(IPluginV3& plugin)
{
    return static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtimeOf(IPluginV3& plugin)
{
    return static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

IPluginCreatorV3One* findCreator(void* library, char const* op)
{
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    auto const getCreators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    int32_t count{};
    auto const creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (std::strcmp(creator->getPluginName(), op) == 0)
        {
            return creator;
        }
    }
    return nullptr;
}

//! The plugin's own types and shapes of its outputs must be those that the op defines; the types are written back.
bool checkOutputs(Handle& handle)
{
    IPluginV3OneBuild& build = *buildOf(*handle.built);
    if (build.getNbOutputs() != handle.nbOutputs)
    {
        return handle.failed("getNbOutputs gives " + std::to_string(build.getNbOutputs()));
    }
    std::vector<DataType> types;
    std::vector<DimsExprs> shapes(handle.tensors.size());
    std::deque<Expression> sizes;
    for (size_t i = 0; i < handle.tensors.size(); ++i)
    {
        types.push_back(static_cast<DataType>(handle.tensors[i].type));
        shapes[i].nbDims = handle.tensors[i].nbDims;
        for (int32_t j = 0; j < shapes[i].nbDims; ++j)
        {
            shapes[i].d[j] = &sizes.emplace_back(handle.tensors[i].d[j]);
        }
    }
    std::vector<DataType> outputTypes(static_cast<size_t>(handle.nbOutputs));
    if (build.getOutputDataTypes(outputTypes.data(), handle.nbOutputs, types.data(), handle.nbInputs) != 0)
    {
        return handle.failed("getOutputDataTypes");
    }
    Builder builder;
    std::vector<DimsExprs> outputs(static_cast<size_t>(handle.nbOutputs));
    if (build.getOutputShapes(shapes.data(), handle.nbInputs, nullptr, 0, outputs.data(), handle.nbOutputs, builder) != 0)
    {
        return handle.failed("getOutputShapes");
    }
    for (int32_t i = 0; i < handle.nbOutputs; ++i)
    {
        Tensor& tensor = handle.tensors[static_cast<size_t>(handle.nbInputs + i)];
        DimsExprs const& got = outputs[static_cast<size_t>(i)];
        tensor.type = static_cast<int32_t>(outputTypes[static_cast<size_t>(i)]);
        bool isSame = got.nbDims == tensor.nbDims;
        for (int32_t j = 0; isSame && j < tensor.nbDims; ++j)
        {
            isSame = static_cast<Expression const*>(got.d[j])->value == tensor.d[j];
        }
        if (!isSame)
        {
            return handle.failed("getOutputShapes gives another shape for output " + std::to_string(i));
        }
    }
    return true;
}

std::vector<DynamicPluginTensorDesc> dynamicTensors(Handle const& handle, int64_t optBatch, int64_t maxBatch)
{
    std::vector<DynamicPluginTensorDesc> all;
    for (Tensor const& tensor : handle.tensors)
    {
        all.push_back({described(tensor, 0), described(tensor, 1).dims, described(tensor, maxBatch).dims,
            described(tensor, optBatch).dims});
    }
    return all;
}

//! Linear tensors of the right types are taken, all else is not.
bool checkFormats(Handle& handle, std::vector<DynamicPluginTensorDesc> const& all)
{
    IPluginV3OneBuild& build = *buildOf(*handle.built);
    for (int32_t i = 0; i < handle.nbInputs + handle.nbOutputs; ++i)
    {
        auto const takes = [&](TensorFormat format, DataType type)
        {
            std::vector<DynamicPluginTensorDesc> changed = all;
            changed[static_cast<size_t>(i)].desc.format = format;
            changed[static_cast<size_t>(i)].desc.type = type;
            return build.supportsFormatCombination(i, changed.data(), handle.nbInputs, handle.nbOutputs);
        };
        DataType const type = all[static_cast<size_t>(i)].desc.type;
        DataType const other = type == DataType::kINT8 ? DataType::kHALF : DataType::kINT8;
        if (!takes(TensorFormat::kLINEAR, type) || takes(TensorFormat::kHWC8, type)
            || takes(TensorFormat::kLINEAR, DataType::kBF16) || takes(TensorFormat::kLINEAR, other))
        {
            return handle.failed("supportsFormatCombination at " + std::to_string(i));
        }
    }
    return true;
}

bool configure(Handle& handle, int64_t optBatch, int64_t maxBatch)
{
    std::vector<DynamicPluginTensorDesc> const all = dynamicTensors(handle, optBatch, maxBatch);
    if (!checkFormats(handle, all))
    {
        return false;
    }
    IPluginV3OneBuild& build = *buildOf(*handle.built);
    auto const outputs = all.data() + handle.nbInputs;
    if (build.configurePlugin(all.data(), handle.nbInputs, outputs, handle.nbOutputs) != 0)
    {
        return handle.failed("configurePlugin");
    }
    handle.tactics.resize(static_cast<size_t>(build.getNbTactics()));
    if (build.getValidTactics(handle.tactics.data(), static_cast<int32_t>(handle.tactics.size())) != 0)
    {
        return handle.failed("getValidTactics");
    }
    handle.workspaceBytes = build.getWorkspaceSize(all.data(), handle.nbInputs, outputs, handle.nbOutputs);
    return build.getTimingCacheID() != nullptr || handle.failed("getTimingCacheID");
}

bool make(Handle& handle, void* library, char const* op, PluginField const* fields, int32_t nbFields, int64_t optBatch,
    int64_t maxBatch, int32_t nbContexts)
{
    IPluginCreatorV3One* const creator = findCreator(library, op);
    if (creator == nullptr)
    {
        return handle.failed("the library has no such creator");
    }
    PluginFieldCollection const collection{nbFields, fields};
    std::unique_ptr<IPluginV3> const first{creator->createPlugin("node", &collection, TensorRTPhase::kBUILD)};
    if (first == nullptr)
    {
        return handle.failed("createPlugin");
    }
    handle.built.reset(first->clone()); // the builder works on clones
    if (handle.built == nullptr || !checkOutputs(handle) || !configure(handle, optBatch, maxBatch))
    {
        return handle.built != nullptr || handle.failed("clone");
    }
    std::unique_ptr<IPluginV3> const timed{handle.built->clone()};
    CopiedFields const copied{*runtimeOf(*timed)->getFieldsToSerialize()};
    handle.loaded.reset(creator->createPlugin("node", &copied.collection, TensorRTPhase::kRUNTIME));
    if (handle.loaded == nullptr)
    {
        return handle.failed("createPlugin from what was serialised");
    }
    for (int32_t i = 0; i < nbContexts; ++i)
    {
        handle.attached.emplace_back(runtimeOf(*handle.loaded)->attachToContext(nullptr));
        if (handle.attached.back() == nullptr)
        {
            return handle.failed("attachToContext");
        }
    }
    return true;
}

} // namespace

extern "C"
{

    //! tensors: inputs, then outputs. Always returns a handle; host_problem says whether it can be used.
    Handle* host_make(void* library, char const* op, PluginField const* fields, int32_t nbFields, Tensor const* tensors,
        int32_t nbInputs, int32_t nbOutputs, int64_t optBatch, int64_t maxBatch, int32_t nbContexts)
    {
        auto handle = std::make_unique<Handle>();
        handle->tensors.assign(tensors, tensors + nbInputs + nbOutputs);
        handle->nbInputs = nbInputs;
        handle->nbOutputs = nbOutputs;
        make(*handle, library, op, fields, nbFields, optBatch, maxBatch, nbContexts);
        return handle.release();
    }

    //! \return The callback that failed, or an empty text.
    char const* host_problem(Handle const* handle) { return handle->problem.c_str(); }

    int32_t host_output_type(Handle const* handle, int32_t output)
    {
        return handle->tensors[static_cast<size_t>(handle->nbInputs + output)].type;
    }

    int32_t host_tactics(Handle const* handle, int32_t* tactics)
    {
        std::copy(handle->tactics.begin(), handle->tactics.end(), tactics);
        return static_cast<int32_t>(handle->tactics.size());
    }

    size_t host_workspace_bytes(Handle const* handle) { return handle->workspaceBytes; }

    //! isTold: whether onShapeChange is called. \return 0, or the callback that failed: 1 setTactic, 2 onShapeChange,
    //! 3 enqueue.
    int32_t host_enqueue(Handle* handle, int32_t context, int32_t tactic, int64_t batch, void const* const* inputs,
        void* const* outputs, void* workspace, void* stream, int32_t isTold)
    {
        std::vector<PluginTensorDesc> tensors;
        for (Tensor const& tensor : handle->tensors)
        {
            tensors.push_back(described(tensor, batch));
        }
        PluginTensorDesc const* const outputTensors = tensors.data() + handle->nbInputs;
        IPluginV3OneRuntime& runtime = *runtimeOf(*handle->attached[static_cast<size_t>(context)]);
        if (runtime.setTactic(tactic) != 0)
        {
            return 1;
        }
        if (isTold != 0
            && runtime.onShapeChange(tensors.data(), handle->nbInputs, outputTensors, handle->nbOutputs) != 0)
        {
            return 2;
        }
        auto const cudaStream = static_cast<cudaStream_t>(stream);
        return runtime.enqueue(tensors.data(), outputTensors, inputs, outputs, workspace, cudaStream) != 0 ? 3 : 0;
    }

    void host_free(Handle* handle)
    {
        delete handle;
    }

} // extern "C"
