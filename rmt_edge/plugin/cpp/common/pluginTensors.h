//! \file
//! What the plugins ask of tensor descriptions and sizes.

#ifndef RMT_EDGE_PLUGIN_TENSORS_H
#define RMT_EDGE_PLUGIN_TENSORS_H

#include <NvInferRuntime.h>

#include <cstdint>

namespace rmt_edge
{

inline bool isLinear(nvinfer1::PluginTensorDesc const& desc)
{
    return desc.format == nvinfer1::TensorFormat::kLINEAR;
}

//! Whether two sizes contradict each other: not while one of them is dynamic and unknown (-1).
inline bool differs(int64_t given, int64_t wanted)
{
    return given >= 0 && wanted >= 0 && given != wanted;
}

inline int32_t size32(int64_t size)
{
    return static_cast<int32_t>(size);
}

} // namespace rmt_edge

#endif // RMT_EDGE_PLUGIN_TENSORS_H
