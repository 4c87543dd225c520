/*!
 * \file
 * C entry points of DepthwiseResidual: its kernels without TensorRT. What holds for all entry points is in libraryApi.h.
 */

#ifndef RMT_EDGE_DEPTHWISE_RESIDUAL_KERNEL_H
#define RMT_EDGE_DEPTHWISE_RESIDUAL_KERNEL_H

#include "libraryApi.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

/*!
 * \brief Load the kernels of one form into the current context. rmt_depthwise_residual_launch does it at its first call;
 * a caller that captures a CUDA graph calls this before.
 *
 * \param hasResidual, hasNorm, isInt8 0 or 1, as Add, Norm and Int8 in the op's name.
 * \param channels A multiple of 16; with a norm at most 1024.
 * \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16.
 */
RMT_EDGE_API int32_t rmt_depthwise_residual_load(
    int32_t hasResidual, int32_t hasNorm, int32_t isInt8, int32_t channels, int32_t elementType);

/*!
 * \brief out = y + dwconv(y) + bias, y = x + residual, and norm = LayerNorm(out), as rmt_edge/ops/depthwise/op.py defines them.
 *
 * \param x (batch, height, width, channels). \param weight (3, 3, channels). \param bias (channels,).
 * \param residual As x; null: nothing is added.
 * \param normWeight, normBias (channels,); null, both, without a norm.
 * \param out As x: elementType, or int8 if outputScale is above 0 and there is no norm.
 * \param norm As x: elementType, or int8 if outputScale is above 0; null without normWeight.
 * \param epsilon The LayerNorm's, above 0 if there is one.
 * \param outputScale What one INT8 step stands for; 0 for no quantisation.
 * \param tactic A tile of rmt_edge/ops/depthwise/kernels.py, counted from 1; 0 takes the first the library holds.
 * \param stream A CUstream or cudaStream_t; null is the default stream.
 */
RMT_EDGE_API int32_t rmt_depthwise_residual_launch(void const* x, void const* weight, void const* bias,
    void const* residual, void const* normWeight, void const* normBias, void* out, void* norm, int32_t batch,
    int32_t height, int32_t width, int32_t channels, int32_t elementType, float epsilon, float outputScale,
    int32_t tactic, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* RMT_EDGE_DEPTHWISE_RESIDUAL_KERNEL_H */
