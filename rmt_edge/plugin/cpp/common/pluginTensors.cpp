#include "pluginTensors.h"

#include "libraryApi.h"
#include "pluginFields.h"

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

std::string namesOf(std::vector<TensorRole> const& roles)
{
    std::string names;
    for (TensorRole const& role : roles)
    {
        names += (names.empty() ? "" : ", ") + role.name;
    }
    return names;
}

std::string typeText(DataType type)
{
    return std::to_string(static_cast<int32_t>(type));
}

} // namespace

bool differs(int64_t given, int64_t wanted)
{
    return given >= 0 && wanted >= 0 && given != wanted;
}

int32_t elementTypeOf(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT: return RMT_EDGE_FLOAT32;
    case DataType::kHALF: return RMT_EDGE_FLOAT16;
    default: return kUNKNOWN_TYPE;
    }
}

size_t elementInput(PluginTensors const& tensors)
{
    size_t index = 0;
    while (tensors.inputs[index].type != TensorType::kELEMENT)
    {
        ++index;
    }
    return index;
}

DataType typeOf(TensorRole const& role, DataType element)
{
    switch (role.type)
    {
    case TensorType::kINT8: return DataType::kINT8;
    case TensorType::kFLOAT32: return DataType::kFLOAT;
    case TensorType::kINT32: return DataType::kINT32;
    case TensorType::kELEMENT: break;
    }
    return element;
}

std::string dimsText(std::vector<int64_t> const& sizes)
{
    std::string text;
    for (int64_t const size : sizes)
    {
        text += (text.empty() ? "" : ", ") + (size < 0 ? std::string{"?"} : std::to_string(size));
    }
    return "(" + text + ")";
}

std::vector<int64_t> sizesOf(Dims const& dims)
{
    return dims.nbDims > 0 ? std::vector<int64_t>(dims.d, dims.d + dims.nbDims) : std::vector<int64_t>{};
}

Dims knownDims(DimsExprs const& dims)
{
    Dims known{};
    known.nbDims = dims.nbDims;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        known.d[i] = dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : -1;
    }
    return known;
}

std::string tensorCountProblem(PluginTensors const& tensors, int32_t nbInputs, int32_t nbOutputs)
{
    int32_t const all = size32(tensors.inputs.size());
    if ((nbInputs == all || nbInputs == all - tensors.nbOptional) && nbOutputs == size32(tensors.outputs.size()))
    {
        return {};
    }
    return std::to_string(nbInputs) + " inputs and " + std::to_string(nbOutputs) + " outputs were given, "
        + (tensors.nbOptional > 0 ? std::to_string(all - tensors.nbOptional) + " or " : "") + std::to_string(all) + " and " + std::to_string(tensors.outputs.size())
        + " expected. Note: inputs are " + namesOf(tensors.inputs) + "; outputs are " + namesOf(tensors.outputs) + ".";
}

std::string inputTypesProblem(PluginTensors const& tensors, std::vector<DataType> const& types)
{
    size_t const of = elementInput(tensors);
    if (elementTypeOf(types[of]) == kUNKNOWN_TYPE)
    {
        return tensors.inputs[of].name + " must be float32 or float16, not data type " + typeText(types[of]) + ".";
    }
    for (size_t i = 0; i < types.size(); ++i)
    {
        DataType const wanted = typeOf(tensors.inputs[i], types[of]);
        if (types[i] != wanted)
        {
            return tensors.inputs[i].name + " has data type " + typeText(types[i]) + ", not " + typeText(wanted)
                + " beside " + tensors.inputs[of].name + " of " + typeText(types[of])
                + ". Note: float32 is 0, float16 1, int8 2, int32 3.";
        }
    }
    return {};
}

} // namespace rmt_edge
