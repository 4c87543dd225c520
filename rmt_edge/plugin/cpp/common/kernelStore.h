//! \file
//! The embedded kernels that are loaded into CUDA contexts. Knows nothing of any op: an op asks by name.

#ifndef RMT_EDGE_KERNEL_STORE_H
#define RMT_EDGE_KERNEL_STORE_H

#include "embeddedKernels.h"

#include <cuda.h>

#include <cstdint>
#include <string>

namespace rmt_edge
{

//! A kernel in the current CUDA context.
struct LoadedKernel
{
    CUfunction function{};
    EmbeddedKernel const* embedded{};
};

//! \brief Load a kernel into the current CUDA context, or find it there. Not for use while a stream is captured.
//!
//! Of the images that suit the GPU the driver gets the best; one that it refuses is followed by the next.
//!
//! \return kSUCCESS, or kFAILURE after reporting: no driver, no context, no image for its GPU, or none that it takes.
int32_t loadKernel(std::string const& name, LoadedKernel& kernel) noexcept;

//! \brief Forget what was loaded into a context that is gone: another may get its address.
void forgetKernels(CUcontext context) noexcept;

//! \brief Launch nbBlocks by nbBlocksY blocks on the stream. No allocation, no synchronisation.
//!
//! \param parameters Pointers to the declared parameters, in order. Triton's two hidden ones are added here.
//! \param sharedBytes Dynamic shared memory of a block; -1: what the kernel was compiled for, its most.
int32_t launchKernel(LoadedKernel const& kernel, int64_t nbBlocks, int32_t nbBlocksY, void** parameters,
    int32_t nbParameters, CUstream stream, int32_t sharedBytes = -1) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_KERNEL_STORE_H
