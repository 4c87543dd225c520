"""The plugin library as TensorRT-RTX and as a stand-in for a GPU machine get it."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

from rmt_edge.plugin import load
from tests.plugin.standin_machine import compile_standin

BUILD_WITH_RTX = Path(__file__).parent / "build_with_rtx.py"


@pytest.fixture(scope="session")
def library(library_folder):
    return load.library_path(library_folder)


@pytest.fixture
def build_engine(library, run_python, tmp_path):
    """A function from a model to what TensorRT-RTX made of it. In a process of its own: one that dies is seen."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings")

    def build(model):
        del model.functions[:]  # whatever the TensorRT version, no body: the parser takes the plugin or fails
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
