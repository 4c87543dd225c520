//! \file
//! The table of kernels embedded in this library, and which of them suit a GPU. Asks no driver.

#ifndef RMT_EDGE_EMBEDDED_KERNELS_H
#define RMT_EDGE_EMBEDDED_KERNELS_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rmt_edge
{

constexpr int32_t kMINOR_PER_MAJOR = 10; // SM 8.7 is 87

//! One kernel for one GPU generation; plugin/build.py writes the table.
struct EmbeddedKernel
{
    char const* name;        //!< What an op asks for; the same for every SM.
    char const* symbol;      //!< The entry point inside the image.
    size_t offset;           //!< Where the packed image begins in the blob: inflate() of inflate.h unpacks it.
    size_t nbPackedBytes;    //!< Of it in the blob.
    size_t nbBytes;          //!< Of the image.
    int32_t sm;              //!< 87 for SM 8.7; for PTX the oldest GPU that can take it.
    int32_t isPtx;           //!< PTX, which the driver compiles for its GPU.
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

//! \return Whether the library holds a kernel of that name, for any GPU.
bool hasKernel(std::string const& name) noexcept;

//! \return The description of the first kernel of that name (tiles are the same for every SM), or nullptr.
EmbeddedKernel const* findAnyKernel(std::string const& name) noexcept;

//! \return The images of that name that a GPU may take, the best first: the cubin of its own SM, those of lower minor
//! versions from the nearest on, then PTX from the newest on.
std::vector<EmbeddedKernel const*> kernelCandidates(std::string const& name, int32_t sm);

//! \return "SM 8.6" for 86.
std::string smText(int32_t sm);

//! \return "the cubin of SM 8.6" or "the PTX of SM 8.6".
std::string imageText(EmbeddedKernel const& kernel);

//! \return What the library holds instead, where kernelCandidates gives nothing.
std::string missingKernelMessage(std::string const& name, int32_t sm);

} // namespace rmt_edge

#endif // RMT_EDGE_EMBEDDED_KERNELS_H
