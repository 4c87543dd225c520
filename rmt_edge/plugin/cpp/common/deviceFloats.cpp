#include "deviceFloats.h"

#include "cudaContext.h"
#include "cudaDriver.h"
#include "diagnostics.h"

namespace rmt_edge
{

DeviceFloats::~DeviceFloats()
{
    if (mData != 0U)
    {
        ContextScope const scope;
        if (scope.isReady())
        {
            cudaDriver()->memFree(mData); // at shutdown the context may be gone, and the memory with it
        }
    }
}

int32_t DeviceFloats::copyFrom(std::vector<float> const& values, char const* what)
{
    CudaDriver const* const driver = cudaDriver();
    if (driver == nullptr)
    {
        return kFAILURE;
    }
    size_t const nbBytes = values.size() * sizeof(float);
    CUresult result = driver->memAlloc(&mData, nbBytes);
    if (result == CUDA_SUCCESS)
    {
        result = driver->memcpyHtoD(mData, values.data(), nbBytes);
    }
    if (result == CUDA_SUCCESS)
    {
        // From pageable memory the copy returns before it has arrived (CUDA driver API, API synchronization behavior),
        // and the kernels run on streams that do not wait for the default one.
        result = driver->streamSynchronize(nullptr);
    }
    return result == CUDA_SUCCESS ? kSUCCESS : reportError(cudaMessage(what, result));
}

void const* DeviceFloats::data() const noexcept
{
    return reinterpret_cast<void const*>(mData);
}

} // namespace rmt_edge
