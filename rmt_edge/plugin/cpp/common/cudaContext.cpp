#include "cudaContext.h"

#include "cudaDriver.h"
#include "diagnostics.h"
#include "kernelStore.h"

#include <utility>

namespace rmt_edge
{

PrimaryContext::PrimaryContext() noexcept
{
    CudaDriver const* const driver = cudaDriver();
    mAnswer = driver == nullptr ? CUDA_ERROR_NOT_INITIALIZED : driver->deviceGet(&mDevice, 0);
    if (mAnswer == CUDA_SUCCESS)
    {
        mAnswer = driver->devicePrimaryCtxRetain(&mContext, mDevice);
    }
    if (mAnswer != CUDA_SUCCESS)
    {
        mContext = nullptr;
    }
}

PrimaryContext::~PrimaryContext()
{
    if (mContext == nullptr)
    {
        return;
    }
    CudaDriver const* const driver = cudaDriver();
    unsigned int flags{};
    int isActive{1};
    driver->devicePrimaryCtxRelease(mDevice);
    // The last to release it ends it, and the kernels in it; at shutdown the driver may be gone, and says so.
    if (driver->devicePrimaryCtxGetState(mDevice, &flags, &isActive) == CUDA_SUCCESS && isActive == 0)
    {
        forgetKernels(mContext);
    }
}

CUcontext PrimaryContext::context() const noexcept
{
    return mContext;
}

CUresult PrimaryContext::answer() const noexcept
{
    return mAnswer;
}

ContextScope::ContextScope() noexcept
{
    mIsReady = guarded<bool>(false,
        [this]() -> bool
        {
            CudaDriver const* const driver = cudaDriver();
            CUcontext current{};
            if (driver == nullptr)
            {
                return false;
            }
            CUresult result = driver->ctxGetCurrent(&current);
            if (result == CUDA_SUCCESS && current != nullptr)
            {
                return true;
            }
            if (result == CUDA_SUCCESS)
            {
                auto primary = std::make_shared<PrimaryContext>();
                result = primary->answer();
                if (result == CUDA_SUCCESS)
                {
                    result = driver->ctxPushCurrent(primary->context());
                }
                if (result == CUDA_SUCCESS)
                {
                    mPrimary = std::move(primary);
                    return true;
                }
            }
            mProblem = cudaMessage(
                "no CUDA context is current in this thread, and the primary one of device 0 cannot be had", result);
            return false;
        });
}

ContextScope::~ContextScope()
{
    if (mPrimary != nullptr)
    {
        CUcontext popped{};
        cudaDriver()->ctxPopCurrent(&popped);
    }
}

bool ContextScope::isReady() const noexcept
{
    return mIsReady;
}

int32_t ContextScope::check() const noexcept
{
    if (!mIsReady && !mProblem.empty())
    {
        reportError(mProblem);
    }
    return mIsReady ? kSUCCESS : kFAILURE;
}

std::shared_ptr<PrimaryContext> ContextScope::primary() const noexcept
{
    return mPrimary;
}

} // namespace rmt_edge
