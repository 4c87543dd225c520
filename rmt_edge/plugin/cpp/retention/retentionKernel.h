/*!
 * \file
 * C entry points of Retention: its kernels without TensorRT. What holds for all entry points is in libraryApi.h.
 */

#ifndef RMT_EDGE_RETENTION_KERNEL_H
#define RMT_EDGE_RETENTION_KERNEL_H

#include "libraryApi.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

/*!
 * \brief Load the kernels of one configuration into the current context. rmt_retention_launch does it at its first call;
 * a caller that captures a CUDA graph calls this before.
 *
 * \param headDim 16 or 32.
 * \param isDecomposed 1: W pass then H pass; 0: whole.
 * \param elementType RMT_EDGE_FLOAT32 or RMT_EDGE_FLOAT16.
 * \param input 0: true values; 1: a raw product of the element type; 2: one of int8.
 * \param isInt8 1: the output is int8.
 */
RMT_EDGE_API int32_t rmt_retention_load(
    int32_t headDim, int32_t isDecomposed, int32_t elementType, int32_t input, int32_t isInt8);

/*! \return Bytes of workspace that a launch of these sizes needs; 0 for the whole form. */
RMT_EDGE_API size_t rmt_retention_workspace_bytes(int32_t batch, int32_t height, int32_t width, int32_t nbHeads,
    int32_t headDim, int32_t isDecomposed, int32_t elementType);

/*!
 * \brief out = retention(qkv) on the stream, as rmt_edge/ops/retention/op.py defines it.
 *
 * \param qkv (batch, height, width, 3c), c = nbHeads·headDim; keys already scaled by headDim^-0.5.
 * \param sine (height·width, headDim). \param cosine (height·width, headDim).
 * \param lepeWeight (c, 1, 5, 5). \param lepeBias (c,).
 * \param decay (nbHeads,), float32, log-decay per step, negative.
 * \param qkvScale, qkvBias (3c,), if qkv is a raw product; else null, both.
 * \param out (batch, height, width, c): elementType, or int8 if outputScale is above 0.
 * \param workspace rmt_retention_workspace_bytes(…) bytes; may be null if that is 0.
 * \param inputScale What one step of an int8 qkv stands for; 0: it is of elementType.
 * \param outputScale What one INT8 step stands for; 0 for no quantisation.
 * \param tactic A tile shape of rmt_edge/ops/retention/kernels.py, TACTICS; 0 chooses by the length of a line.
 * \param stream A CUstream or cudaStream_t; null is the default stream.
 */
RMT_EDGE_API int32_t rmt_retention_launch(void const* qkv, void const* sine, void const* cosine, void const* lepeWeight,
    void const* lepeBias, void const* decay, void const* qkvScale, void const* qkvBias, void* out, void* workspace,
    int32_t batch, int32_t height, int32_t width, int32_t nbHeads, int32_t headDim, int32_t isDecomposed,
    int32_t elementType, float inputScale, float outputScale, int32_t tactic, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* RMT_EDGE_RETENTION_KERNEL_H */
