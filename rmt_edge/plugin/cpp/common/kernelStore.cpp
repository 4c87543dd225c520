#include "kernelStore.h"

#include "cudaDriver.h"
#include "diagnostics.h"
#include "inflate.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

namespace rmt_edge
{
namespace
{

//! Triton appends a global and a profile scratch pointer; the build checks that both have size zero.
constexpr int32_t kNB_HIDDEN_PARAMETERS = 2;
constexpr int32_t kMAX_PARAMETERS = 32;
constexpr int32_t kMAX_GRID_Y = 65535; // CUDA C++ Programming Guide, technical specifications

//! Context, its id (a new context may get the address of an old one), kernel name.
using LoadedKey = std::tuple<CUcontext, unsigned long long, std::string>;

struct Store
{
    std::mutex mutex;
    std::map<LoadedKey, LoadedKernel> loaded;
    //! Unpacked once and kept, as the blob is: a driver may read an image later than at its loading.
    std::map<EmbeddedKernel const*, std::vector<unsigned char>> images;
};

Store& store()
{
    static Store* const instance = new Store; // outlives every static destructor, as TensorRT's plugins may
    return *instance;
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

//! The image of a kernel, unpacked. The caller holds the store's mutex.
unsigned char const* imageOf(EmbeddedKernel const& embedded)
{
    auto found = store().images.find(&embedded);
    if (found == store().images.end())
    {
        unsigned char const* const packed = rmt_edge_kernel_blob + embedded.offset;
        found = store().images.emplace(&embedded, inflate(packed, embedded.nbPackedBytes, embedded.nbBytes)).first;
    }
    return found->second.data();
}

//! Load one image and find the kernel in it; what the driver answered.
CUresult loadImage(CudaDriver const& driver, EmbeddedKernel const& embedded, LoadedKernel& kernel)
{
    CUmodule module{}; // stays loaded as long as its context
    CUresult result = driver.moduleLoadData(&module, imageOf(embedded));
    if (result != CUDA_SUCCESS)
    {
        return result;
    }
    result = driver.moduleGetFunction(&kernel.function, module, embedded.symbol);
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
        driver.moduleUnload(module);
        kernel.function = nullptr;
        return result;
    }
    kernel.embedded = &embedded;
    return CUDA_SUCCESS;
}

//! Load the best image that the driver takes; kFAILURE after reporting what it answered to each.
int32_t loadBest(CudaDriver const& driver, std::string const& name, int32_t sm, LoadedKernel& kernel)
{
    std::string answers;
    for (EmbeddedKernel const* const candidate : kernelCandidates(name, sm))
    {
        CUresult const result = loadImage(driver, *candidate, kernel);
        if (result == CUDA_SUCCESS)
        {
            if (!answers.empty())
            {
                // Once, not for each of many kernels: the driver answers the same to all of them.
                static std::once_flag isTold;
                std::call_once(isTold, reportNote,
                    "on this GPU (" + smText(sm) + ") " + imageText(*candidate) + " is used, as the driver refused "
                        + answers + ".");
            }
            return kSUCCESS;
        }
        answers += (answers.empty() ? "" : "; ") + cudaMessage(imageText(*candidate), result);
    }
    if (answers.empty())
    {
        return reportError(missingKernelMessage(name, sm));
    }
    return reportError(
        "kernel " + name + " cannot be loaded on this GPU (" + smText(sm) + "): the driver refused " + answers + ".");
}

} // namespace

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
            if (loadBest(*driver, name, sm, kernel) != kSUCCESS)
            {
                return kFAILURE;
            }
            store().loaded.emplace(key, kernel);
            return kSUCCESS;
        });
}

void forgetKernels(CUcontext context) noexcept
{
    std::lock_guard<std::mutex> const lock{store().mutex};
    for (auto loaded = store().loaded.begin(); loaded != store().loaded.end();)
    {
        loaded = std::get<CUcontext>(loaded->first) == context ? store().loaded.erase(loaded) : std::next(loaded);
    }
}

int32_t launchKernel(LoadedKernel const& kernel, int64_t nbBlocks, int32_t nbBlocksY, void** parameters,
    int32_t nbParameters, CUstream stream, int32_t sharedBytes) noexcept
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
        static_cast<unsigned int>(sharedBytes < 0 ? embedded.sharedBytes : sharedBytes), stream, all.data(), nullptr);
    if (result != CUDA_SUCCESS)
    {
        return reportError(cudaMessage(std::string{"cannot launch kernel "} + embedded.name, result));
    }
    return kSUCCESS;
}

} // namespace rmt_edge
