"""The plugin library as TensorRT-RTX gets it, as a stand-in for a driver does, and as what executes its PTX does."""

import json
import platform
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from rmt_edge.plugin import cxx, load
from tests.conftest import PLUGIN_SM, ROOT
from tests.plugin.standin_machine import compile_standin
from tests.ptx.device import Device

BUILD_WITH_RTX = Path(__file__).parent / "build_with_rtx.py"
CACHE = ROOT / "build" / "plugin-cache"
HOPPER_SM = 90  # its kernels use wgmma, as no older GPU's do


KEYS = """
import json, sys
from rmt_edge.plugin.build import OPS
from rmt_edge.plugin.compile import find_cuda_13_assembler, image_key
assembler = find_cuda_13_assembler()
print(json.dumps({x.name: image_key(x, int(sys.argv[1]), assembler) for make in OPS.values() for x in make()}))
"""


def cached_ptx(run_python, sm):
    """The PTX of every kernel of a library for that SM, by name, as the build's cache keeps it."""
    result = run_python("-c", KEYS, str(sm))  # in this process kernels are interpreted, and have no keys
    assert result.returncode == 0, result.stderr
    return {name: CACHE / "kernels" / f"{key}.ptx" for name, key in json.loads(result.stdout).items()}


@pytest.fixture(scope="session")
def library(library_folder):
    return load.library_path(library_folder)


@pytest.fixture
def build_engine(build_engine_with_bodies):
    """A function from a model to what TensorRT-RTX made of its plugins."""

    def build(model):
        del model.functions[:]  # whatever the TensorRT version, no body: the parser takes the plugin or fails
        return build_engine_with_bodies(model)

    return build


@pytest.fixture
def build_engine_with_bodies(library, run_python, tmp_path):
    """A function from a model to what TensorRT-RTX made of it. In a process of its own: one that dies is seen."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings")

    def build(model):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        result = run_python(str(BUILD_WITH_RTX), str(path), str(library), XDG_CACHE_HOME=str(tmp_path))
        assert result.returncode == 0, f"the process ended with {result.returncode}: {result.stderr}"
        return json.loads(result.stdout.splitlines()[-1]) | {"stderr": result.stderr}

    return build


@pytest.fixture(scope="session")
def standin(library_folder, tmp_path_factory):
    pytest.importorskip("triton")
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    return compile_standin(tmp_path_factory.mktemp("standin"), library_folder)


def make_device(folder: Path, sm: int, scratch: Path) -> Device:
    """folder: of libraries. scratch: for the stand-ins that are compiled."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    return Device(load.library_path(folder), sm, scratch, cxx.find_headers(CACHE, None), CACHE / "kernels")


@pytest.fixture(scope="session")
def device(library_folder, tmp_path_factory) -> Device:
    """The library of conftest's library_folder on a GPU of its own generation: it takes the cubins."""
    return make_device(library_folder, PLUGIN_SM, tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="session")
def hopper_device(run_python, tmp_path_factory) -> Device:
    """A library for SM 9.0 alone, and such a GPU."""
    folder = ROOT / "build" / f"test-plugin-sm{HOPPER_SM}"
    command = ["-m", "rmt_edge.cli", "plugin", "build", "--sm", str(HOPPER_SM), "--arch", platform.machine()]
    result = run_python(*command, "--output", str(folder))
    assert result.returncode == 0, result.stderr
    return make_device(folder, HOPPER_SM, tmp_path_factory.mktemp("hopper"))


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch's reference on one thread: grouped convolutions take seconds on a busy machine otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
