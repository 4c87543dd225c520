//! \file
//! Unpacks the embedded images: raw deflate, RFC 1951. Of its own, so that the library needs no zlib.

#ifndef RMT_EDGE_INFLATE_H
#define RMT_EDGE_INFLATE_H

#include <cstddef>
#include <vector>

namespace rmt_edge
{

//! \brief What a stream of raw deflate (no header, no checksum) was made from.
//!
//! \throw std::runtime_error if the stream is damaged or does not give exactly nbBytes.
std::vector<unsigned char> inflate(unsigned char const* packed, size_t nbPackedBytes, size_t nbBytes);

} // namespace rmt_edge

#endif // RMT_EDGE_INFLATE_H
