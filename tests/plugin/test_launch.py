"""What the plugin asks of a GPU, seen by a CUDA driver that has none: kernels chosen, grids, parameters, messages.

A stand-in for libcuda.so.1 writes down what it is told, and a small host walks the plugin through its life in TensorRT:
created, configured, serialised, created again, attached, given shapes and a tactic, enqueued. Nothing is computed.
"""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from rmt_edge.plugin import cxx

REPOSITORY = Path(__file__).parents[2]

FAKE_DRIVER = r"""
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char last_image[8];
#define API __attribute__((visibility("default"))) CUresult
API cuInit(unsigned flags) { return CUDA_SUCCESS; }
API cuCtxGetCurrent(CUcontext* context) { *context = (CUcontext)16; return CUDA_SUCCESS; }
API cuCtxGetId(CUcontext context, unsigned long long* id) { *id = 1; return CUDA_SUCCESS; }
API cuCtxGetDevice(CUdevice* device) { *device = 0; return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device)
{
    int const sm = atoi(getenv("FAKE_SM"));
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? sm / 10 : sm % 10;
    return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* module, void const* image)
{
    *module = (CUmodule)image;
    printf("{\"load\": \"%s\"}\n", memcmp(image, "\177ELF", 4) == 0 ? "cubin" : "ptx");
    return CUDA_SUCCESS;
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, char const* name)
{
    *function = (CUfunction)module;
    return strcmp(name, "retention_kernel") == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) { return CUDA_SUCCESS; }
API cuMemAlloc(CUdeviceptr* pointer, size_t bytes) { *pointer = 0xd000; return CUDA_SUCCESS; }
API cuMemFree(CUdeviceptr pointer) { return CUDA_SUCCESS; }
API cuMemcpyHtoD(CUdeviceptr target, void const* source, size_t bytes)
{
    printf("{\"copied\": %zu, \"first\": %.3f}\n", bytes, *(float const*)source);
    return CUDA_SUCCESS;
}
API cuGetErrorString(CUresult result, char const** text) { *text = "fake error"; return CUDA_SUCCESS; }
API cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, CUstream stream, void** parameters, void** extra)
{
    printf("{\"blocks\": %u, \"threads\": %u, ", x * y * z, bx * by * bz);
    printf("\"stream\": %zu, \"pointers\": [", (size_t)stream);
    for (int i = 0; i < 9; ++i)
        printf("%zu, ", *(size_t*)parameters[i]);
    printf("%zu, %zu], \"scale\": %.3f, \"sizes\": [%d, %d, %d]}\n", *(size_t*)parameters[13], *(size_t*)parameters[14],
        *(float*)parameters[9], *(int*)parameters[10], *(int*)parameters[11], *(int*)parameters[12]);
    return CUDA_SUCCESS;
}
"""

# Arguments: library, decomposed, output_scale, tactic, batch, h, w, is_fp16. 4 heads of 32 channels.
HOST = r"""
#include <NvInferRuntime.h>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
using namespace nvinfer1;
template <typename T> T* capability(IPluginV3* plugin, PluginCapabilityType type)
{
    return static_cast<T*>(plugin->getCapabilityInterface(type));
}
int main(int, char** a)
{
    void* library = dlopen(a[1], RTLD_NOW);
    if (library == nullptr) { std::puts(dlerror()); return 2; }
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count{}, heads{4}, channels{128}, decomposed{std::atoi(a[2])};
    float decay[] = {-0.5F, -0.4F, -0.3F, -0.2F}, scale = static_cast<float>(std::atof(a[3]));
    auto getCreators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    auto creator = static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
    PluginField fields[] = {{"num_heads", &heads, PluginFieldType::kINT32, 1},
        {"decay", decay, PluginFieldType::kFLOAT32, 4},
        {"decomposed", &decomposed, PluginFieldType::kINT32, 1}, {"channels", &channels, PluginFieldType::kINT32, 1},
        {"output_scale", &scale, PluginFieldType::kFLOAT32, 1}};
    PluginFieldCollection collection{5, fields};
    IPluginV3* built = creator->createPlugin("node", &collection, TensorRTPhase::kBUILD);
    if (built == nullptr) { return 3; }
    int64_t const b = std::atoi(a[5]), h = std::atoi(a[6]), w = std::atoi(a[7]);
    DataType const type = std::atoi(a[8]) != 0 ? DataType::kHALF : DataType::kFLOAT;
    PluginTensorDesc desc[5] = {{{4, {b, h, w, 384}}, type}, {{2, {h * w, 32}}, type}, {{2, {h * w, 32}}, type},
        {{4, {128, 1, 5, 5}}, type}, {{1, {128}}, type}};
    PluginTensorDesc out{{4, {b, h, w, 128}}, scale > 0 ? DataType::kINT8 : type};
    DynamicPluginTensorDesc in[5], dynamicOut{out, out.dims, out.dims, out.dims};
    for (int i = 0; i < 5; ++i) { in[i] = {desc[i], desc[i].dims, desc[i].dims, desc[i].dims}; }
    auto build = capability<IPluginV3OneBuild>(built, PluginCapabilityType::kBUILD);
    if (build->configurePlugin(in, 5, &dynamicOut, 1) != 0) { return 4; }
    int32_t tactics[16];
    build->getValidTactics(tactics, build->getNbTactics());
    std::printf("{\"tactics\": [%d", tactics[0]);
    for (int i = 1; i < build->getNbTactics(); ++i) { std::printf(", %d", tactics[i]); }
    std::printf("], \"workspace\": %zu}\n", build->getWorkspaceSize(in, 5, &dynamicOut, 1));
    // An engine file later: made again from what was serialised, and attached to a context.
    auto stored = capability<IPluginV3OneRuntime>(built, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize();
    IPluginV3* loaded = creator->createPlugin("node", stored, TensorRTPhase::kRUNTIME);
    if (loaded == nullptr) { return 5; }
    auto opened = capability<IPluginV3OneRuntime>(loaded, PluginCapabilityType::kRUNTIME);
    IPluginV3* attached = opened->attachToContext(nullptr);
    if (attached == nullptr) { return 6; }
    std::puts("{\"attached\": 1}");
    auto runtime = capability<IPluginV3OneRuntime>(attached, PluginCapabilityType::kRUNTIME);
    if (runtime->setTactic(std::atoi(a[4])) != 0 || runtime->onShapeChange(desc, 5, &out, 1) != 0) { return 7; }
    void const* inputs[] = {(void*)0x1000, (void*)0x2000, (void*)0x3000, (void*)0x4000, (void*)0x5000};
    void* outputs[] = {(void*)0x6000};
    int32_t const result = runtime->enqueue(desc, &out, inputs, outputs, (void*)0x7000, (cudaStream_t)0x77);
    delete attached;
    delete loaded;
    delete built;
    return result == 0 ? 0 : 8;
}
"""

QKV, SIN, COS, WEIGHT, BIAS, OUT, WORKSPACE, DECAY = (0x1000 * i for i in (1, 2, 3, 4, 5, 6, 7, 13))


@pytest.fixture(scope="session")
def host(library_folder, tmp_path_factory):
    """The host program, the folder of the stand-in driver and the library."""
    triton = pytest.importorskip("triton")
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("host")
    headers = cxx.find_headers(REPOSITORY / "build" / "plugin-cache", None)
    include = [f"-isystem{x}" for x in (headers, Path(triton.__file__).parent / "backends/nvidia/include")]
    (folder / "driver.c").write_text(FAKE_DRIVER)
    (folder / "host.cpp").write_text(HOST)
    driver = ["gcc", "-shared", "-fPIC", *include, str(folder / "driver.c"), "-o", str(folder / "libcuda.so.1")]
    program = ["g++", "-std=c++17", *include, str(folder / "host.cpp"), "-o", str(folder / "host"), "-ldl"]
    for command in (driver, program):
        subprocess.run(command, check=True)
    return folder, library_folder / f"librmt_edge_plugin_{platform.machine()}.so"


def run_host(host, sm=86, decomposed=1, scale=0.0, tactic=0, sizes=(2, 14, 28), fp16=1, status=0):
    """What the driver was told, one dict per call of interest."""
    folder, library = host
    arguments = [str(x) for x in (decomposed, scale, tactic, *sizes, fp16)]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_SM": str(sm)}
    command = [str(folder / "host"), str(library), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    return [json.loads(x) for x in result.stdout.splitlines()], result.stderr


def test_decomposed_form_launches_the_w_pass_then_the_h_pass(host):
    calls, _ = run_host(host, tactic=2)
    w_pass, h_pass = (x for x in calls if "blocks" in x)
    # 2 images, 4 heads, one tile of 32 queries per line; 14 rows in the W pass, 28 columns in the H pass.
    assert (w_pass["blocks"], w_pass["threads"]) == (2 * 4 * 14, 64)
    assert (h_pass["blocks"], h_pass["threads"]) == (2 * 4 * 28, 64)
    tables = [QKV, WORKSPACE, SIN, COS, DECAY, WEIGHT, BIAS]
    assert w_pass["pointers"][:8] == [*tables, WORKSPACE]
    assert h_pass["pointers"][:8] == [*tables, OUT]
    assert h_pass["pointers"][9:] == [0, 0], "Triton's two hidden pointers"
    for call in (w_pass, h_pass):
        assert call["sizes"] == [14, 28, 4]
        assert call["scale"] == 0
        assert call["stream"] == 0x77


def test_whole_form_launches_once(host):
    calls, _ = run_host(host, decomposed=0, tactic=5)
    (call,) = (x for x in calls if "blocks" in x)
    assert (call["blocks"], call["threads"]) == (2 * 4 * 4, 128)  # 392 tokens in tiles of 128
    assert call["pointers"][0] == QKV and call["pointers"][7] == OUT
    assert calls[0]["workspace"] == 0


def test_int8_output_gets_its_scale_and_pointer(host):
    calls, _ = run_host(host, scale=0.125)
    w_pass, h_pass = (x for x in calls if "blocks" in x)
    assert h_pass["scale"] == 0.125 and h_pass["pointers"][8] == OUT
    assert w_pass["pointers"][7] == WORKSPACE


def test_kernels_and_decay_are_on_the_gpu_before_the_first_launch(host):
    calls, _ = run_host(host)
    attached = calls.index({"attached": 1})
    assert {"copied": 16, "first": -0.5} in calls[:attached]
    assert sum("load" in x for x in calls[:attached]) == 6  # three tactics, two passes
    assert not any("load" in x or "copied" in x for x in calls[attached:])


@pytest.mark.parametrize("fp16, element_bytes", [(1, 2), (0, 4)])
def test_workspace_holds_the_w_pass(host, fp16, element_bytes):
    calls, _ = run_host(host, fp16=fp16)
    assert calls[0]["workspace"] == 2 * 14 * 28 * 128 * element_bytes


@pytest.mark.parametrize("sizes, decomposed, best", [((1, 7, 7), 1, 1), ((1, 14, 28), 1, 2), ((1, 56, 56), 1, 3),
                                                     ((1, 7, 7), 0, 4), ((1, 14, 14), 0, 5)])  # fmt: skip
def test_tactic_for_the_size_comes_first(host, sizes, decomposed, best):
    calls, _ = run_host(host, sizes=sizes, decomposed=decomposed)
    assert calls[0]["tactics"][0] == best
    assert sorted(calls[0]["tactics"]) == ([1, 2, 3] if decomposed else [3, 4, 5])


def test_tactic_zero_chooses_per_pass(host):
    calls, _ = run_host(host, tactic=0, sizes=(1, 14, 56))
    w_pass, h_pass = (x for x in calls if "blocks" in x)
    assert (w_pass["blocks"], w_pass["threads"]) == (4 * 14, 128)  # 56 tokens: tile of 64
    assert (h_pass["blocks"], h_pass["threads"]) == (4 * 56, 32)  # 14 tokens: tile of 16


@pytest.mark.parametrize("sm, image", [(86, "cubin"), (89, "cubin"), (90, "ptx"), (121, "ptx")])
def test_newer_gpu_takes_the_nearest_cubin_or_ptx(host, sm, image):
    calls, _ = run_host(host, sm=sm)
    assert {x["load"] for x in calls if "load" in x} == {image}


def test_older_gpu_is_refused_with_a_message(host):
    calls, message = run_host(host, sm=75, status=6)
    assert not any("blocks" in x for x in calls)
    assert "was not compiled for this GPU (SM 7.5)" in message
    assert "cubins for SM 8.6; PTX: SM 8.6 and later" in message
    assert "rmt-edge plugin build --sm 75" in message


def test_unknown_tactic_is_refused_with_a_message(host):
    _, message = run_host(host, tactic=9, status=8)
    assert "no tactic 9" in message


def test_empty_batch_is_refused_with_a_message(host):
    _, message = run_host(host, sizes=(0, 14, 28), status=8)
    assert "batch 0" in message
