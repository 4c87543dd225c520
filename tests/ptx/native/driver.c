/*
 * A stand-in for the CUDA driver: it keeps contexts and launch limits as a GPU's driver does, and hands memory, copies and
 * launches to the test (tests/ptx/device.py), which executes the PTX.
 *
 * Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
 */
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"))) CUresult
#define MAX_DEPTH 16
#define PRIMARY 1 /* the id of the primary context; the test makes others */
#define DEFAULT_SHARED (48 * 1024)

struct Hooks
{
    unsigned long long (*allocate)(size_t bytes);
    void (*release)(unsigned long long pointer);
    void (*copy)(unsigned long long to, void const* from, size_t bytes);
    int (*launch)(
        void const* image, char const* symbol, unsigned const* sizes, unsigned shared, void* stream, void** parameters);
    void (*event)(char const* what);
};

struct Function
{
    void const* image;
    char symbol[128];
    int max_shared;
    size_t context;
};

struct Module
{
    void const* image;
    size_t context;
};

static struct Hooks hooks;
static int sm, is_capturing, primary_users;
static int refused_images; /* how many images to refuse before one is taken */
static size_t stack[MAX_DEPTH];
static int depth;

__attribute__((visibility("default"))) void standin_set_hooks(struct Hooks const* given) { hooks = *given; }
__attribute__((visibility("default"))) void standin_set_sm(int value) { sm = value; }
__attribute__((visibility("default"))) void standin_set_capturing(int value) { is_capturing = value; }
__attribute__((visibility("default"))) void standin_refuse_images(int value) { refused_images = value; }
__attribute__((visibility("default"))) int standin_primary_users(void) { return primary_users; }
/* The context of the calling program; 0 for none. */
__attribute__((visibility("default"))) void standin_set_context(size_t id)
{
    depth = id != 0;
    stack[0] = id;
}

static size_t current(void) { return depth > 0 ? stack[depth - 1] : 0; }

/* What may not be done while a stream is captured, or without a context. */
static CUresult permitted(char const* what)
{
    hooks.event(what);
    if (current() == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    return is_capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

static int max_shared(void) { return (sm == 80 || sm == 87 ? 163 : sm < 90 || sm >= 120 ? 99 : 227) * 1024; }

API cuInit(unsigned flags) { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
API cuDriverGetVersion(int* version) { *version = 13000; return CUDA_SUCCESS; }
API cuDeviceGetCount(int* count) { *count = 1; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice* device, int ordinal)
{
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device)
{
    if (device != 0)
        return CUDA_ERROR_INVALID_DEVICE;
    switch (attribute)
    {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = sm / 10; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = sm % 10; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = max_shared(); return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

API cuCtxGetCurrent(CUcontext* context) { *context = (CUcontext)current(); return CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext context)
{
    if (depth == 0)
        depth = 1;
    stack[depth - 1] = (size_t)context;
    depth -= context == NULL;
    return CUDA_SUCCESS;
}
API cuCtxPushCurrent(CUcontext context)
{
    if (context == NULL || depth == MAX_DEPTH)
        return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = (size_t)context;
    return CUDA_SUCCESS;
}
API cuCtxPopCurrent(CUcontext* context)
{
    if (depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    --depth;
    if (context != NULL)
        *context = (CUcontext)stack[depth];
    return CUDA_SUCCESS;
}
API cuCtxGetId(CUcontext context, unsigned long long* id)
{
    *id = context != NULL ? (size_t)context : current();
    return *id != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
API cuCtxGetDevice(CUdevice* device)
{
    *device = 0;
    return current() != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
API cuCtxSynchronize(void) { return permitted("cuCtxSynchronize"); }
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device)
{
    ++primary_users;
    hooks.event("cuDevicePrimaryCtxRetain");
    *context = (CUcontext)(size_t)PRIMARY;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
API cuDevicePrimaryCtxRelease(CUdevice device)
{
    hooks.event("cuDevicePrimaryCtxRelease");
    return device == 0 && --primary_users >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
API cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active)
{
    *flags = 0;
    *active = primary_users > 0;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

API cuModuleLoadData(CUmodule* module, void const* image)
{
    CUresult const result = permitted("cuModuleLoadData");
    if (result != CUDA_SUCCESS)
        return result;
    if (refused_images > 0)
    {
        --refused_images;
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    struct Module* made = calloc(1, sizeof *made);
    made->image = image;
    made->context = current();
    *module = (CUmodule)made;
    return CUDA_SUCCESS;
}
API cuModuleLoadDataEx(CUmodule* module, void const* image, unsigned count, CUjit_option* options, void** values)
{
    return cuModuleLoadData(module, image);
}
API cuModuleUnload(CUmodule module)
{
    free(module);
    return permitted("cuModuleUnload");
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, char const* name)
{
    struct Function* made = calloc(1, sizeof *made);
    made->image = ((struct Module*)module)->image;
    made->context = ((struct Module*)module)->context;
    strncpy(made->symbol, name, sizeof made->symbol - 1);
    made->max_shared = DEFAULT_SHARED;
    *function = (CUfunction)made;
    return CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return CUDA_SUCCESS;
    if (value < 0 || value > max_shared())
        return CUDA_ERROR_INVALID_VALUE;
    ((struct Function*)function)->max_shared = value;
    return CUDA_SUCCESS;
}
API cuFuncLoad(CUfunction function) { return permitted("cuFuncLoad"); }

API cuMemAlloc(CUdeviceptr* pointer, size_t bytes)
{
    CUresult const result = permitted("cuMemAlloc");
    if (result != CUDA_SUCCESS)
        return result;
    *pointer = bytes > 0 ? hooks.allocate(bytes) : 0;
    return bytes == 0 ? CUDA_ERROR_INVALID_VALUE : *pointer != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API cuMemFree(CUdeviceptr pointer)
{
    CUresult const result = permitted("cuMemFree");
    if (result == CUDA_SUCCESS)
        hooks.release(pointer);
    return result;
}
API cuMemcpyHtoD(CUdeviceptr to, void const* from, size_t bytes)
{
    CUresult const result = permitted("cuMemcpyHtoD");
    if (result == CUDA_SUCCESS)
        hooks.copy(to, from, bytes);
    return result;
}
API cuMemcpyHtoDAsync(CUdeviceptr to, void const* from, size_t bytes, CUstream stream)
{
    CUresult const result = permitted("cuMemcpyHtoDAsync");
    if (result == CUDA_SUCCESS)
        hooks.copy(to, from, bytes);
    return result;
}
API cuStreamSynchronize(CUstream stream) { return permitted("cuStreamSynchronize"); }
API cuStreamCreate(CUstream* stream, unsigned flags) { *stream = (CUstream)0x5; return permitted("cuStreamCreate"); }
API cuStreamDestroy(CUstream stream) { return permitted("cuStreamDestroy"); }
API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status)
{
    *status = is_capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) { return CUDA_SUCCESS; }
API cuGetErrorString(CUresult result, char const** text) { *text = "the stand-in driver refuses"; return CUDA_SUCCESS; }
API cuGetErrorName(CUresult result, char const** text) { *text = "STANDIN_ERROR"; return CUDA_SUCCESS; }

API cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
    unsigned threads_z, unsigned shared, CUstream stream, void** parameters, void** extra)
{
    struct Function const* const known = (struct Function const*)function;
    unsigned const sizes[6] = {x, y, z, threads_x, threads_y, threads_z};
    hooks.event("cuLaunchKernel");
    if (known->context != current())
        return CUDA_ERROR_INVALID_HANDLE;
    if (x < 1 || y < 1 || z < 1 || x > 2147483647U || y > 65535 || z > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    if (threads_x < 1 || threads_y < 1 || threads_z < 1 || threads_x * threads_y * threads_z > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (shared > (unsigned)known->max_shared || extra != NULL || parameters == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return (CUresult)hooks.launch(known->image, known->symbol, sizes, shared, stream, parameters);
}
