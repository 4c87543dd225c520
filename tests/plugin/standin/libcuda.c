/* A stand-in for libcuda.so.1 that computes nothing: it writes what it is told to stdout, a line of JSON for each call
 * of interest, and answers as a driver would. Settings from the environment:
 *   FAKE_SM          the GPU, 86 for SM 8.6
 *   FAKE_REFUSE      images not taken, "cubin 86,ptx 80": a test's image says what it is, any other is "cubin" or "ptx"
 *   FAKE_NO_CONTEXT  set: no context is current in the beginning
 *   FAKE_NO_DEVICE   set: there is no primary context to be had
 * Copies arrive when their stream is synchronised, not before; a launch before that fails. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"))) CUresult
#define CONTEXT ((CUcontext)16)
#define PRIMARY ((CUcontext)32)
#define MAX_FUNCTIONS 512

struct CUfunc_st
{
    char symbol[64];
    int shared_bytes;       /* dynamic shared memory that was asked for */
    int primary_generation; /* which life of the primary context it was loaded in; 0: in another context */
};

static struct CUfunc_st functions[MAX_FUNCTIONS];
static int nb_functions;
static CUcontext stack[8] = {CONTEXT};
static int depth = -1; /* index of the current context; -1 before cuInit, and where none is current */
static int primary_count;
static int primary_generation;
static void const* copy_source;
static size_t copy_bytes;

static CUresult needs_context(void)
{
    if (depth < 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    return stack[depth] == PRIMARY && primary_count == 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

static int generation(void)
{
    return stack[depth] == PRIMARY ? primary_generation : 0;
}

API cuInit(unsigned flags)
{
    depth = getenv("FAKE_NO_CONTEXT") == NULL ? 0 : -1;
    return CUDA_SUCCESS;
}
API cuCtxGetCurrent(CUcontext* context)
{
    *context = depth < 0 ? NULL : stack[depth];
    return CUDA_SUCCESS;
}
API cuCtxGetId(CUcontext context, unsigned long long* id)
{
    *id = 1; /* as on a driver that knows no ids: the address alone tells contexts apart */
    return CUDA_SUCCESS;
}
API cuCtxGetDevice(CUdevice* device)
{
    *device = 0;
    return needs_context();
}
API cuCtxPushCurrent(CUcontext context)
{
    stack[++depth] = context;
    return CUDA_SUCCESS;
}
API cuCtxPopCurrent(CUcontext* context)
{
    *context = stack[depth--];
    return CUDA_SUCCESS;
}
API cuDeviceGet(CUdevice* device, int ordinal)
{
    *device = ordinal;
    return getenv("FAKE_NO_DEVICE") == NULL ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device)
{
    *context = PRIMARY;
    primary_generation += primary_count == 0;
    printf("{\"primary\": %d}\n", ++primary_count);
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease(CUdevice device)
{
    printf("{\"primary\": %d}\n", --primary_count);
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active)
{
    *active = primary_count > 0;
    return CUDA_SUCCESS;
}
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device)
{
    int const sm = atoi(getenv("FAKE_SM"));
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? sm / 10 : sm % 10;
    return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* module, void const* image)
{
    char const* const refused = getenv("FAKE_REFUSE");
    char label[32] = "ptx";
    if (memcmp(image, "\177ELF", 4) == 0)
        strcpy(label, "cubin");
    else if (memcmp(image, ".version", 8) != 0)
        strncpy(label, image, sizeof label - 1); /* an image made by a test says what it is */
    int const is_refused = refused != NULL && strstr(refused, label) != NULL;
    printf("{\"load\": \"%s\", \"refused\": %d}\n", label, is_refused);
    *module = (CUmodule)image;
    return is_refused ? CUDA_ERROR_NO_BINARY_FOR_GPU : needs_context();
}
API cuModuleUnload(CUmodule module)
{
    puts("{\"unload\": 1}");
    return needs_context();
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, char const* name)
{
    if (strncmp(name, "missing", 7) == 0)
        return CUDA_ERROR_NOT_FOUND;
    *function = &functions[nb_functions++];
    strncpy((*function)->symbol, name, sizeof functions[0].symbol - 1);
    (*function)->primary_generation = generation();
    return needs_context();
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        function->shared_bytes = value;
    return needs_context();
}
API cuMemAlloc(CUdeviceptr* pointer, size_t bytes)
{
    *pointer = 0xd000;
    return needs_context();
}
API cuMemFree(CUdeviceptr pointer)
{
    if (needs_context() == CUDA_SUCCESS)
        printf("{\"freed\": %zu}\n", (size_t)pointer);
    return needs_context();
}
API cuMemcpyHtoD(CUdeviceptr target, void const* source, size_t bytes)
{
    copy_source = source;
    copy_bytes = bytes;
    return needs_context();
}
API cuStreamSynchronize(CUstream stream)
{
    if (copy_bytes != 0)
        printf("{\"copied\": %zu, \"first\": %.3f}\n", copy_bytes, *(float const*)copy_source);
    copy_bytes = 0;
    return needs_context();
}
API cuGetErrorString(CUresult result, char const** text)
{
    *text = result == CUDA_ERROR_NO_BINARY_FOR_GPU ? "no kernel image is available" : "another fake error";
    return CUDA_SUCCESS;
}

/* What a kernel takes, in the order of its signature: nb_pointers pointers, then a letter each: 's' output scale,
 * 'i' input scale, 'e' epsilon, 'n' a size, 'r' rows of a thread. Two hidden pointers follow whatever the kernel is. */
struct signature
{
    char const* symbol;
    int nb_pointers;
    char const* numbers;
};

static struct signature const signatures[] = {
    {"retention_kernel", 11, "isnnn"},             /* ops/retention/kernels.py */
    {"retention_lines", 10, "isnnnn"},             /* ops/retention/kernels.cu */
    {"depthwise_residual_kernel", 10, "nnnesi"},   /* ops/depthwise/kernels.py */
    {"depthwise_residual_columns", 10, "nnnreis"}, /* ops/depthwise/kernels.cu */
};

static void print_parameters(struct signature const* of, void** p)
{
    float scale = 0, input_scale = 0, epsilon = 0;
    int rows = 0, nb_sizes = 0;
    printf("\"kernel\": \"%s\", \"pointers\": [", of->symbol);
    for (int i = 0; i < of->nb_pointers; ++i)
        printf("%s%zu", i == 0 ? "" : ", ", *(size_t*)p[i]);
    printf("], \"sizes\": [");
    p += of->nb_pointers;
    for (char const* kind = of->numbers; *kind != '\0'; ++kind, ++p)
    {
        if (*kind == 'n')
            printf("%s%d", nb_sizes++ == 0 ? "" : ", ", *(int*)*p);
        else if (*kind == 'r')
            rows = *(int*)*p;
        else
            *(*kind == 's' ? &scale : *kind == 'i' ? &input_scale : &epsilon) = *(float*)*p;
    }
    printf("], \"scale\": %.3f, \"input_scale\": %.3f, \"epsilon\": %.3f, \"rows\": %d, \"hidden\": [%zu, %zu]}\n", scale,
        input_scale, epsilon, rows, *(size_t*)p[0], *(size_t*)p[1]);
}

API cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, CUstream stream, void** parameters, void** extra)
{
    if (needs_context() != CUDA_SUCCESS || function->primary_generation != generation())
        return CUDA_ERROR_INVALID_HANDLE;
    if (copy_bytes != 0)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (shared > (unsigned)function->shared_bytes)
        return CUDA_ERROR_INVALID_VALUE;
    printf("{\"blocks\": [%u, %u, %u], \"threads\": %u, \"shared\": %u, \"stream\": %zu, ", x, y, z, bx * by * bz,
        shared, (size_t)stream);
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; ++i)
    {
        if (strcmp(function->symbol, signatures[i].symbol) == 0)
        {
            print_parameters(&signatures[i], parameters);
            return CUDA_SUCCESS;
        }
    }
    printf("\"kernel\": \"%s\"}\n", function->symbol);
    return CUDA_SUCCESS;
}
