//! \file
//! What the plugins ask of tensor descriptions and sizes.

#ifndef RMT_EDGE_PLUGIN_TENSORS_H
#define RMT_EDGE_PLUGIN_TENSORS_H

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rmt_edge
{

//! The type of one tensor of a node: the element type, float32 or float16, that its first input of it decides, or
//! another.
enum class TensorType : int32_t
{
    kELEMENT,
    kINT8,
    kFLOAT32,
    kINT32
};

//! One input or output of an op.
struct TensorRole
{
    std::string name; //!< As plugin/README.md calls it.
    TensorType type{TensorType::kELEMENT};
};

//! All inputs and outputs of an op, in order.
struct PluginTensors
{
    std::vector<TensorRole> inputs;
    std::vector<TensorRole> outputs;
    int32_t nbOptional{}; //!< Of the inputs, the last ones, that are all given or all absent.
};

//! Whether two sizes contradict each other: not while one of them is dynamic and unknown (-1).
bool differs(int64_t given, int64_t wanted);

//! \return RMT_EDGE_FLOAT32, RMT_EDGE_FLOAT16, or kUNKNOWN_TYPE for any other.
int32_t elementTypeOf(nvinfer1::DataType type);

//! \return The index of the first input of the element type.
size_t elementInput(PluginTensors const& tensors);

//! \return The data type of a role, where that is the element type.
nvinfer1::DataType typeOf(TensorRole const& role, nvinfer1::DataType element);

//! \return "(2, ?, 64)": sizes that are not known are -1.
std::string dimsText(std::vector<int64_t> const& sizes);
std::vector<int64_t> sizesOf(nvinfer1::Dims const& dims);

//! \return The sizes that are known while the network is made, -1 for the others.
nvinfer1::Dims knownDims(nvinfer1::DimsExprs const& dims);

// What is wrong, empty if nothing is.

std::string tensorCountProblem(PluginTensors const& tensors, int32_t nbInputs, int32_t nbOutputs);
std::string inputTypesProblem(PluginTensors const& tensors, std::vector<nvinfer1::DataType> const& types);

inline int32_t size32(int64_t size)
{
    return static_cast<int32_t>(size);
}

} // namespace rmt_edge

#endif // RMT_EDGE_PLUGIN_TENSORS_H
