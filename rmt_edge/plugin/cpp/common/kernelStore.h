//! \file
//! The kernels embedded in this library, and the ones loaded from it. Knows nothing of any op: an op asks by name.

#ifndef RMT_EDGE_KERNEL_STORE_H
#define RMT_EDGE_KERNEL_STORE_H

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace rmt_edge
{

//! One kernel for one GPU generation; plugin/build.py writes the table.
struct EmbeddedKernel
{
    char const* name;        //!< What an op asks for; the same for every SM.
    char const* symbol;      //!< The entry point inside the image.
    size_t offset;           //!< Where the image begins in the blob.
    int32_t sm;              //!< 87 for SM 8.7; for PTX the oldest GPU that can take it.
    int32_t isPtx;           //!< PTX, for GPUs newer than every cubin.
    int32_t isExact;         //!< Runs on exactly that SM (sm_90a and later), not on later minor versions.
    int32_t sharedBytes;     //!< Dynamic shared memory of a block.
    int32_t threadsPerBlock; //!< 32 times Triton's num_warps.
    int32_t tile[3];         //!< Sizes the op's launcher divides its work by; 0 where it has fewer.
};

extern "C"
{
    extern unsigned char const rmt_edge_kernel_blob[];
}
extern EmbeddedKernel const kEMBEDDED_KERNELS[];
extern int32_t const kNB_EMBEDDED_KERNELS;
//! JSON: ops, SMs, versions and the hash of everything the library was built from.
extern char const* const kLIBRARY_INFO;
extern char const* const kBUILD_HASH;

//! A kernel in the current CUDA context.
struct LoadedKernel
{
    CUfunction function{};
    EmbeddedKernel const* embedded{};
};

//! \return Whether the library holds a kernel of that name, for any GPU.
bool hasKernel(std::string const& name) noexcept;

//! \return The description of the first kernel of that name (tiles are the same for every SM), or nullptr.
EmbeddedKernel const* findAnyKernel(std::string const& name) noexcept;

//! \brief Load a kernel into the current CUDA context, or find it there. Not for use while a stream is captured.
//!
//! \return kSUCCESS, or kFAILURE after reporting: no driver, no context, or neither cubin nor PTX for its GPU.
int32_t loadKernel(std::string const& name, LoadedKernel& kernel) noexcept;

//! \brief Launch nbBlocks by nbBlocksY blocks on the stream. No allocation, no synchronisation.
//!
//! \param parameters Pointers to the declared parameters, in order. Triton's two hidden ones are added here.
int32_t launchKernel(LoadedKernel const& kernel, int64_t nbBlocks, int32_t nbBlocksY, void** parameters,
    int32_t nbParameters, CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_KERNEL_STORE_H
