//! \file
//! The CUDA driver, found at run time: the library is built and loaded on machines that have none.

#ifndef RMT_EDGE_CUDA_DRIVER_H
#define RMT_EDGE_CUDA_DRIVER_H

#include <cuda.h>

#include <string>

namespace rmt_edge
{

//! The driver functions the library uses, under the names of cuda.h.
struct CudaDriver
{
    decltype(&::cuInit) init{};
    decltype(&::cuCtxGetCurrent) ctxGetCurrent{};
    decltype(&::cuCtxGetDevice) ctxGetDevice{};
    decltype(&::cuCtxPushCurrent) ctxPushCurrent{};
    decltype(&::cuCtxPopCurrent) ctxPopCurrent{};
    decltype(&::cuDeviceGet) deviceGet{};
    decltype(&::cuDevicePrimaryCtxRetain) devicePrimaryCtxRetain{};
    decltype(&::cuDevicePrimaryCtxRelease) devicePrimaryCtxRelease{};
    decltype(&::cuDevicePrimaryCtxGetState) devicePrimaryCtxGetState{};
    decltype(&::cuDeviceGetAttribute) deviceGetAttribute{};
    decltype(&::cuModuleLoadData) moduleLoadData{};
    decltype(&::cuModuleUnload) moduleUnload{};
    decltype(&::cuModuleGetFunction) moduleGetFunction{};
    decltype(&::cuFuncSetAttribute) funcSetAttribute{};
    decltype(&::cuLaunchKernel) launchKernel{};
    decltype(&::cuMemAlloc) memAlloc{};
    decltype(&::cuMemFree) memFree{};
    decltype(&::cuMemcpyHtoD) memcpyHtoD{};
    decltype(&::cuStreamSynchronize) streamSynchronize{};
    decltype(&::cuGetErrorString) getErrorString{};
    //! Absent before CUDA 12.0.
    CUresult (*ctxGetId)(CUcontext, unsigned long long*){};
    //! Absent before CUDA 12.4.
    CUresult (*funcLoad)(CUfunction){};
};

//! \return The driver, loaded and initialised by the first call; nullptr after reporting why there is none.
CudaDriver const* cudaDriver() noexcept;

//! \return "<what>: <the driver's text for the result>".
std::string cudaMessage(std::string const& what, CUresult result);

} // namespace rmt_edge

#endif // RMT_EDGE_CUDA_DRIVER_H
