//! \file
//! How the library says what went wrong: one line on stderr, kept for rmt_edge_last_error(). It never calls TensorRT's
//! logger, whose binary interface differs between the TensorRT releases that one library serves.

#ifndef RMT_EDGE_DIAGNOSTICS_H
#define RMT_EDGE_DIAGNOSTICS_H

#include <cstdint>
#include <exception>
#include <string>

namespace rmt_edge
{

//! What TensorRT and the C entry points take as success and failure.
constexpr int32_t kSUCCESS = 0;
constexpr int32_t kFAILURE = -1;

//! \brief Write "rmt_edge: error: <message>" to stderr and keep the message for this thread.
//!
//! \return kFAILURE, so that a caller can `return reportError(…)`.
int32_t reportError(std::string const& message) noexcept;

//! \brief Write "rmt_edge: note: <message>" to stderr: something to know that ends nothing.
void reportNote(std::string const& message) noexcept;

//! \return The last message of this thread, which is then forgotten; empty if there was none. Valid until the next call.
char const* takeLastError() noexcept;

//! \brief Run a function that may throw, inside a callback that must not.
//!
//! \return What the function returns, or `failure` after reporting the exception.
template <typename Result, typename Function>
Result guarded(Result failure, Function&& function) noexcept
{
    try
    {
        return function();
    }
    catch (std::exception const& exception)
    {
        reportError(exception.what());
        return failure;
    }
}

} // namespace rmt_edge

#endif // RMT_EDGE_DIAGNOSTICS_H
