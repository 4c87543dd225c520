//! \file
//! A few numbers of an op's attributes in device memory.

#ifndef RMT_EDGE_DEVICE_FLOATS_H
#define RMT_EDGE_DEVICE_FLOATS_H

#include <cuda.h>

#include <cstdint>
#include <vector>

namespace rmt_edge
{

//! Device memory of one plugin clone, freed with it.
class DeviceFloats
{
public:
    DeviceFloats() = default;
    DeviceFloats(DeviceFloats const&) = delete;
    DeviceFloats& operator=(DeviceFloats const&) = delete;
    ~DeviceFloats();

    //! \brief Allocate in the current context, copy, and wait until the copy has arrived. Once, and not in enqueue.
    //!
    //! \return kSUCCESS, or kFAILURE after reporting "<what>: <the driver's answer>".
    int32_t copyFrom(std::vector<float> const& values, char const* what);

    void const* data() const noexcept;

private:
    CUdeviceptr mData{};
};

} // namespace rmt_edge

#endif // RMT_EDGE_DEVICE_FLOATS_H
