#include "libraryApi.h"

#include "diagnostics.h"
#include "embeddedKernels.h"

extern "C"
{

    char const* rmt_edge_library_info(void)
    {
        return rmt_edge::kLIBRARY_INFO;
    }

    char const* rmt_edge_last_error(void)
    {
        return rmt_edge::takeLastError();
    }

} // extern "C"
