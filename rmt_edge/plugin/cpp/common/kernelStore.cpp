#include "kernelStore.h"

#include "cudaDriver.h"
#include "diagnostics.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

namespace rmt_edge
{
namespace
{

//! Triton appends a global and a profile scratch pointer; the build checks that both have size zero.
constexpr int32_t kNB_HIDDEN_PARAMETERS = 2;
constexpr int32_t kMAX_PARAMETERS = 32;
constexpr int32_t kMAX_GRID_Y = 65535; // CUDA C++ Programming Guide, technical specifications
constexpr int32_t kMINOR_PER_MAJOR = 10; // SM 8.7 is 87

//! Context, its id (a new context may get the address of an old one), kernel name.
using LoadedKey = std::tuple<CUcontext, unsigned long long, std::string>;

struct Store
{
    std::mutex mutex;
    std::map<LoadedKey, LoadedKernel> loaded;
};

Store& store()
{
    static Store* const instance = new Store; // outlives every static destructor, as TensorRT's plugins may
    return *instance;
}

EmbeddedKernel const* begin()
{
    return kEMBEDDED_KERNELS;
}

EmbeddedKernel const* end()
{
    return kEMBEDDED_KERNELS + kNB_EMBEDDED_KERNELS;
}

std::string smText(int32_t sm)
{
    return std::to_string(sm / kMINOR_PER_MAJOR) + "." + std::to_string(sm % kMINOR_PER_MAJOR);
}

//! How well an image suits a GPU: 0 not at all, PTX last, among cubins the nearest.
int32_t suitability(EmbeddedKernel const& kernel, int32_t sm)
{
    if (kernel.sm > sm)
    {
        return 0;
    }
    if (kernel.isPtx != 0)
    {
        return 1;
    }
    if (kernel.sm == sm)
    {
        return std::numeric_limits<int32_t>::max();
    }
    bool const isSameMajor = kernel.sm / kMINOR_PER_MAJOR == sm / kMINOR_PER_MAJOR;
    return isSameMajor && kernel.isExact == 0 ? kernel.sm : 0;
}

EmbeddedKernel const* findKernel(std::string const& name, int32_t sm)
{
    EmbeddedKernel const* best{};
    int32_t bestSuitability{0};
    for (EmbeddedKernel const* kernel = begin(); kernel != end(); ++kernel)
    {
        if (name == kernel->name && suitability(*kernel, sm) > bestSuitability)
        {
            best = kernel;
            bestSuitability = suitability(*kernel, sm);
        }
    }
    return best;
}

std::string missingMessage(std::string const& name, int32_t sm)
{
    std::set<int32_t> cubins;
    std::string ptx = "none";
    for (EmbeddedKernel const* kernel = begin(); kernel != end(); ++kernel)
    {
        if (kernel->isPtx != 0)
        {
            ptx = "SM " + smText(kernel->sm) + " and later";
        }
        else
        {
            cubins.insert(kernel->sm);
        }
    }
    std::string list;
    for (int32_t const cubin : cubins)
    {
        list += (list.empty() ? "" : ", ") + smText(cubin);
    }
    return "kernel " + name + " was not compiled for this GPU (SM " + smText(sm) + "). Note: the library holds cubins for SM "
        + list + "; PTX: " + ptx + ". Build the library for it: rmt-edge plugin build --sm " + std::to_string(sm);
}

int32_t currentSm(CudaDriver const& driver, CUcontext& context, unsigned long long& contextId, int32_t& sm)
{
    CUdevice device{};
    int32_t major{};
    int32_t minor{};
    CUresult result = driver.ctxGetCurrent(&context);
    if (result == CUDA_SUCCESS && context == nullptr)
    {
        return reportError("no CUDA context is current in this thread.");
    }
    if (result == CUDA_SUCCESS && driver.ctxGetId != nullptr)
    {
        result = driver.ctxGetId(context, &contextId);
    }
    if (result == CUDA_SUCCESS)
    {
        result = driver.ctxGetDevice(&device);
    }
    if (result == CUDA_SUCCESS)
    {
        result = driver.deviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    }
    if (result == CUDA_SUCCESS)
    {
        result = driver.deviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    }
    if (result != CUDA_SUCCESS)
    {
        return reportError(cudaMessage("cannot ask the current CUDA context for its GPU", result));
    }
    sm = major * kMINOR_PER_MAJOR + minor;
    return kSUCCESS;
}

int32_t loadImage(CudaDriver const& driver, EmbeddedKernel const& embedded, LoadedKernel& kernel)
{
    CUmodule module{}; // stays loaded as long as its context
    CUresult result = driver.moduleLoadData(&module, rmt_edge_kernel_blob + embedded.offset);
    if (result == CUDA_SUCCESS)
    {
        result = driver.moduleGetFunction(&kernel.function, module, embedded.symbol);
    }
    if (result == CUDA_SUCCESS)
    {
        result = driver.funcSetAttribute(
            kernel.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, embedded.sharedBytes);
    }
    if (result == CUDA_SUCCESS && driver.funcLoad != nullptr)
    {
        result = driver.funcLoad(kernel.function); // the driver would else load it at the first launch
    }
    if (result != CUDA_SUCCESS)
    {
        return reportError(cudaMessage(std::string{"cannot load kernel "} + embedded.name, result));
    }
    kernel.embedded = &embedded;
    return kSUCCESS;
}

} // namespace

bool hasKernel(std::string const& name) noexcept
{
    return findAnyKernel(name) != nullptr;
}

EmbeddedKernel const* findAnyKernel(std::string const& name) noexcept
{
    EmbeddedKernel const* const found
        = std::find_if(begin(), end(), [&name](EmbeddedKernel const& kernel) { return name == kernel.name; });
    return found != end() ? found : nullptr;
}

int32_t loadKernel(std::string const& name, LoadedKernel& kernel) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            CudaDriver const* const driver = cudaDriver();
            CUcontext context{};
            unsigned long long contextId{};
            int32_t sm{};
            if (driver == nullptr || currentSm(*driver, context, contextId, sm) != kSUCCESS)
            {
                return kFAILURE;
            }
            std::lock_guard<std::mutex> const lock{store().mutex};
            LoadedKey const key{context, contextId, name};
            auto const known = store().loaded.find(key);
            if (known != store().loaded.end())
            {
                kernel = known->second;
                return kSUCCESS;
            }
            EmbeddedKernel const* const embedded = findKernel(name, sm);
            if (embedded == nullptr)
            {
                return reportError(missingMessage(name, sm));
            }
            if (loadImage(*driver, *embedded, kernel) != kSUCCESS)
            {
                return kFAILURE;
            }
            store().loaded.emplace(key, kernel);
            return kSUCCESS;
        });
}

int32_t launchKernel(LoadedKernel const& kernel, int64_t nbBlocks, int32_t nbBlocksY, void** parameters,
    int32_t nbParameters, CUstream stream) noexcept
{
    CudaDriver const* const driver = cudaDriver();
    if (driver == nullptr || kernel.function == nullptr || nbParameters + kNB_HIDDEN_PARAMETERS > kMAX_PARAMETERS)
    {
        return reportError("internal error: a kernel was launched before it was loaded.");
    }
    if (nbBlocks < 1 || nbBlocks > std::numeric_limits<int32_t>::max() || nbBlocksY < 1 || nbBlocksY > kMAX_GRID_Y)
    {
        return reportError("a launch of " + std::to_string(nbBlocks) + " by " + std::to_string(nbBlocksY)
            + " blocks is out of range (1 to 2^31 - 1, 1 to 65535).");
    }
    std::array<void*, kMAX_PARAMETERS> all{};
    std::copy(parameters, parameters + nbParameters, all.begin());
    CUdeviceptr scratch{};
    for (int32_t i = 0; i < kNB_HIDDEN_PARAMETERS; ++i)
    {
        all[static_cast<size_t>(nbParameters + i)] = &scratch;
    }
    EmbeddedKernel const& embedded = *kernel.embedded;
    CUresult const result = driver->launchKernel(kernel.function, static_cast<unsigned int>(nbBlocks),
        static_cast<unsigned int>(nbBlocksY), 1U, static_cast<unsigned int>(embedded.threadsPerBlock), 1U, 1U,
        static_cast<unsigned int>(embedded.sharedBytes), stream, all.data(), nullptr);
    if (result != CUDA_SUCCESS)
    {
        return reportError(cudaMessage(std::string{"cannot launch kernel "} + embedded.name, result));
    }
    return kSUCCESS;
}

} // namespace rmt_edge
