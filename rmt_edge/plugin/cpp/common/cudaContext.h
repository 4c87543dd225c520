//! \file
//! A current CUDA context where the caller may have none: the primary one of device 0 then, retained and released.

#ifndef RMT_EDGE_CUDA_CONTEXT_H
#define RMT_EDGE_CUDA_CONTEXT_H

#include <cuda.h>

#include <cstdint>
#include <memory>
#include <string>

namespace rmt_edge
{

//! The primary context of device 0, alive at least as long as this object.
class PrimaryContext
{
public:
    PrimaryContext() noexcept;
    ~PrimaryContext();
    PrimaryContext(PrimaryContext const&) = delete;
    PrimaryContext& operator=(PrimaryContext const&) = delete;

    //! nullptr if the driver refused it.
    CUcontext context() const noexcept;
    CUresult answer() const noexcept;

private:
    CUdevice mDevice{};
    CUcontext mContext{};
    CUresult mAnswer{};
};

//! While this object lives a CUDA context is current in this thread: the one that was, or else the primary one.
class ContextScope
{
public:
    ContextScope() noexcept;
    ~ContextScope();
    ContextScope(ContextScope const&) = delete;
    ContextScope& operator=(ContextScope const&) = delete;

    bool isReady() const noexcept;

    //! \return kSUCCESS, or kFAILURE after reporting why no context could be made current.
    int32_t check() const noexcept;

    //! \return The primary context if this object made it current, for who keeps kernels or memory in it; else nullptr.
    std::shared_ptr<PrimaryContext> primary() const noexcept;

private:
    std::shared_ptr<PrimaryContext> mPrimary;
    bool mIsReady{};
    std::string mProblem; // empty if cudaDriver() has reported it
};

} // namespace rmt_edge

#endif // RMT_EDGE_CUDA_CONTEXT_H
