"""The devices that execute the library's kernels on the CPU: one library each, and the GPU that it finds."""

import platform
import shutil
from pathlib import Path

import pytest
import torch

from rmt_edge.plugin import cxx, load
from tests.conftest import PLUGIN_SM, ROOT
from tests.ptx.device import Device

CACHE = ROOT / "build" / "plugin-cache"
HOPPER_SM = 90  # its kernels use wgmma, as no older GPU's do


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
