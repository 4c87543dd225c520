"""CUDA graphs against a stand-in for libcuda.so.1 in C, so that arguments pass through ctypes as they would."""

import ctypes
import shutil
import subprocess

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime import cuda_graph
from rmt_edge.runtime.cuda_graph import CudaGraph

# Handles are wider than an int, so that one cut down to 32 bits shows.
SOURCE = r"""
#include <stdint.h>
#define STREAM ((void*)0x700000000007ull)
#define GRAPH ((void*)0x710000000001ull)
#define EXECUTABLE ((void*)0x720000000002ull)
int launched, destroyed, fails;
int cuStreamBeginCapture_v2(void* stream, int mode) { return stream == STREAM && mode == 1 ? 0 : 1; }
int cuStreamEndCapture(void* stream, void** graph) { *graph = GRAPH; return stream == STREAM ? fails : 1; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags)
{
    *executable = EXECUTABLE;
    return graph == GRAPH && flags == 0 ? 0 : 1;
}
int cuGraphLaunch(void* executable, void* stream)
{
    ++launched;
    return executable == EXECUTABLE && stream == STREAM ? 0 : 1;
}
int cuGraphExecDestroy(void* executable) { destroyed += executable == EXECUTABLE; return 0; }
int cuGraphDestroy(void* graph) { destroyed += graph == GRAPH; return 0; }
int cuGetErrorString(int result, char const** text)
{
    *text = result == 901 ? "operation would make the legacy stream depend on a capturing blocking stream" : 0;
    return 0;
}
"""
STREAM = 0x700000000007

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(SOURCE)
    command = ["gcc", "-shared", "-fPIC", str(folder / "driver.c"), "-o", str(folder / "driver.so")]
    subprocess.run(command, check=True)
    return folder / "driver.so"


def count(driver, name):
    return ctypes.c_int.in_dll(driver, name)


@pytest.fixture
def driver(library):
    loaded = ctypes.CDLL(str(library))
    for name in ("launched", "destroyed", "fails"):
        count(loaded, name).value = 0
    return loaded


def test_a_graph_is_captured_launched_and_freed(driver):
    enqueued = []
    graph = CudaGraph(driver, STREAM, lambda: enqueued.append(1))
    graph.launch()
    graph.launch()
    graph.close()
    assert enqueued == [1] and count(driver, "launched").value == 2 and count(driver, "destroyed").value == 2


def test_the_drivers_reason_is_in_the_message(driver):
    count(driver, "fails").value = 901
    with pytest.raises(RmtEdgeError, match=r"cuStreamEndCapture: operation would make[\s\S]*--no-cuda-graph"):
        CudaGraph(driver, STREAM, lambda: None)


def test_an_error_without_a_text_has_its_number(driver):
    count(driver, "fails").value = 77
    with pytest.raises(RmtEdgeError, match="cuStreamEndCapture: error 77"):
        CudaGraph(driver, STREAM, lambda: None)


def test_the_capture_ends_when_what_is_captured_fails(driver):
    def enqueue():
        raise RmtEdgeError("the engine failed")

    count(driver, "fails").value = 901
    with pytest.raises(RmtEdgeError, match="the engine failed"):
        CudaGraph(driver, STREAM, enqueue)


def test_a_missing_driver_says_so(monkeypatch):
    def missing(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda_graph.ctypes, "CDLL", missing)
    with pytest.raises(RmtEdgeError, match=r"no CUDA driver here: libcuda[\s\S]*Install NVIDIA's driver"):
        cuda_graph.load_driver()
