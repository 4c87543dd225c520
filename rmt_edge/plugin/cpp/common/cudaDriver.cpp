#include "cudaDriver.h"

#include "diagnostics.h"

#include <dlfcn.h>

#include <mutex>

namespace rmt_edge
{
namespace
{

constexpr char const* kDRIVER_LIBRARY = "libcuda.so.1";

#define RMT_EDGE_TEXT_OF(x) #x
//! The name a cuda.h macro such as cuMemAlloc stands for (cuMemAlloc_v2), as text.
#define RMT_EDGE_SYMBOL(x) RMT_EDGE_TEXT_OF(x)

template <typename Function>
bool find(void* library, char const* symbol, Function& function)
{
    function = reinterpret_cast<Function>(dlsym(library, symbol));
    return function != nullptr;
}

bool findAll(void* library, CudaDriver& driver)
{
    find(library, "cuCtxGetId", driver.ctxGetId);
    find(library, "cuFuncLoad", driver.funcLoad);
    return find(library, RMT_EDGE_SYMBOL(cuInit), driver.init)
        && find(library, RMT_EDGE_SYMBOL(cuCtxGetCurrent), driver.ctxGetCurrent)
        && find(library, RMT_EDGE_SYMBOL(cuCtxGetDevice), driver.ctxGetDevice)
        && find(library, RMT_EDGE_SYMBOL(cuCtxPushCurrent), driver.ctxPushCurrent)
        && find(library, RMT_EDGE_SYMBOL(cuCtxPopCurrent), driver.ctxPopCurrent)
        && find(library, RMT_EDGE_SYMBOL(cuDeviceGet), driver.deviceGet)
        && find(library, RMT_EDGE_SYMBOL(cuDevicePrimaryCtxRetain), driver.devicePrimaryCtxRetain)
        && find(library, RMT_EDGE_SYMBOL(cuDevicePrimaryCtxRelease), driver.devicePrimaryCtxRelease)
        && find(library, RMT_EDGE_SYMBOL(cuDevicePrimaryCtxGetState), driver.devicePrimaryCtxGetState)
        && find(library, RMT_EDGE_SYMBOL(cuDeviceGetAttribute), driver.deviceGetAttribute)
        && find(library, RMT_EDGE_SYMBOL(cuModuleLoadData), driver.moduleLoadData)
        && find(library, RMT_EDGE_SYMBOL(cuModuleUnload), driver.moduleUnload)
        && find(library, RMT_EDGE_SYMBOL(cuModuleGetFunction), driver.moduleGetFunction)
        && find(library, RMT_EDGE_SYMBOL(cuFuncSetAttribute), driver.funcSetAttribute)
        && find(library, RMT_EDGE_SYMBOL(cuLaunchKernel), driver.launchKernel)
        && find(library, RMT_EDGE_SYMBOL(cuMemAlloc), driver.memAlloc)
        && find(library, RMT_EDGE_SYMBOL(cuMemFree), driver.memFree)
        && find(library, RMT_EDGE_SYMBOL(cuMemcpyHtoD), driver.memcpyHtoD)
        && find(library, RMT_EDGE_SYMBOL(cuStreamSynchronize), driver.streamSynchronize)
        && find(library, RMT_EDGE_SYMBOL(cuGetErrorString), driver.getErrorString);
}

//! What the one attempt to load the driver gave.
struct Attempt
{
    CudaDriver driver;
    std::string problem;
};

Attempt loadDriver()
{
    Attempt attempt;
    void* const library = dlopen(kDRIVER_LIBRARY, RTLD_NOW | RTLD_LOCAL); // never closed: the driver stays
    if (library == nullptr)
    {
        attempt.problem = std::string{"no CUDA driver: "} + dlerror();
    }
    else if (!findAll(library, attempt.driver))
    {
        attempt.problem = std::string{kDRIVER_LIBRARY} + " lacks a function that this library needs; CUDA 11.4 has them all.";
    }
    else if (CUresult const result = attempt.driver.init(0); result != CUDA_SUCCESS)
    {
        char const* text{};
        attempt.driver.getErrorString(result, &text);
        attempt.problem = std::string{"cuInit failed: "} + (text != nullptr ? text : "unknown error");
    }
    return attempt;
}

} // namespace

CudaDriver const* cudaDriver() noexcept
{
    return guarded<CudaDriver const*>(nullptr,
        []() -> CudaDriver const*
        {
            static Attempt const attempt = loadDriver();
            if (!attempt.problem.empty())
            {
                reportError(attempt.problem);
                return nullptr;
            }
            return &attempt.driver;
        });
}

std::string cudaMessage(std::string const& what, CUresult result)
{
    char const* text{};
    CudaDriver const* const driver = cudaDriver();
    if (driver != nullptr)
    {
        driver->getErrorString(result, &text);
    }
    return what + ": " + (text != nullptr ? text : "unknown CUDA error");
}

} // namespace rmt_edge
