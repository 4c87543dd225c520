/*!
 * \file
 * C entry points of the library, without TensorRT, for ctypes or any other caller; each op has a header of its own.
 *
 * All that launch or load return 0 for success and another number for failure; rmt_edge_last_error() then says what was
 * wrong. The caller has made the CUDA context current that the pointers belong to; where none is, the primary one of
 * device 0 is current for the length of the call. Pointers are device pointers, 16-byte aligned.
 */

#ifndef RMT_EDGE_LIBRARY_API_H
#define RMT_EDGE_LIBRARY_API_H

#if defined(__GNUC__)
#define RMT_EDGE_API __attribute__((visibility("default")))
#else
#define RMT_EDGE_API
#endif

#ifdef __cplusplus
extern "C"
{
#endif

/*! Element types of inputs and float outputs. */
#define RMT_EDGE_FLOAT32 0
#define RMT_EDGE_FLOAT16 1

/*! \return JSON text about this library: ops, SMs, PTX, versions, hash of its sources. Static storage. */
RMT_EDGE_API char const* rmt_edge_library_info(void);

/*! \return What went wrong last in this thread, empty if nothing did; forgotten by the call, valid until the next. */
RMT_EDGE_API char const* rmt_edge_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* RMT_EDGE_LIBRARY_API_H */
