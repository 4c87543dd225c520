#include "diagnostics.h"

#include <cstdio>

namespace rmt_edge
{
namespace
{
thread_local std::string tLastError;
thread_local std::string tTakenError;
} // namespace

int32_t reportError(std::string const& message) noexcept
{
    std::fprintf(stderr, "rmt_edge: error: %s\n", message.c_str());
    try
    {
        tLastError = message;
    }
    catch (std::exception const&)
    {
        tLastError.clear();
    }
    return kFAILURE;
}

void reportNote(std::string const& message) noexcept
{
    std::fprintf(stderr, "rmt_edge: note: %s\n", message.c_str());
}

char const* takeLastError() noexcept
{
    tTakenError.swap(tLastError);
    tLastError.clear();
    return tTakenError.c_str();
}

} // namespace rmt_edge
