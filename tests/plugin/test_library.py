"""The library as a file: what it exports and needs, what it says of itself, its entry points, how it is opened."""

import ctypes
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.plugin import load
from tests.conftest import COMPILERS, PLUGIN_SM
from tests.plugin.standin_machine import STANDIN, include_flags

# JetPack 6 is Ubuntu 22.04: glibc 2.35, libstdc++ of GCC 12.
NEWEST_VERSIONS = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0)}
EXPORTS = {
    "getCreators", "setLoggerFinder", "rmt_edge_last_error", "rmt_edge_library_info",
    "rmt_retention_launch", "rmt_retention_load", "rmt_retention_workspace_bytes",
    "rmt_depthwise_residual_launch", "rmt_depthwise_residual_load",
}  # fmt: skip
OPS = ["Retention", *OP_TYPES, "Nms", "MultiLevelRoiAlign"]
COMPILED_ARCHITECTURES = [
    pytest.param(x, marks=pytest.mark.skipif(not shutil.which(compiler), reason=f"no {compiler}"))
    for x, compiler in COMPILERS.items()
]


def test_library_loads_without_torch_and_triton_and_says_what_it_holds(library, run_python):
    code = (
        "import json, sys; from pathlib import Path; from rmt_edge.plugin.load import library_info; "
        "info = library_info(Path(sys.argv[1])); "
        "assert not {'torch', 'triton', 'numpy', 'tensorrt'} & set(sys.modules); print(json.dumps(info))"
    )
    result = run_python("-c", code, str(library))
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["ops"] == OPS
    assert info["cubin_sms"] == [PLUGIN_SM] and info["ptx_sms"] == [PLUGIN_SM]
    assert info["architecture"] == platform.machine()
    sidecar = json.loads(Path(f"{library}.json").read_text())
    assert sidecar["hash"] == info["hash"]
    assert sidecar["bytes"] == library.stat().st_size


def readelf(*arguments):
    if shutil.which("readelf") is None:
        pytest.skip("no readelf (binutils)")
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("architecture", COMPILED_ARCHITECTURES)
def test_library_exports_and_needs_what_the_contract_says(library_folder, architecture):
    path = str(library_folder / load.library_name(architecture))
    symbols = [x.split() for x in readelf("--dyn-syms", path).splitlines() if re.match(r" *\d+:", x)]
    defined = {x[7].split("@")[0] for x in symbols if len(x) > 7 and x[3] != "SECTION" and x[6] != "UND"}
    assert defined == EXPORTS
    undefined = {x[7] for x in symbols if len(x) > 7 and x[6] == "UND"}
    assert not [x for x in undefined if re.match(r"cu[A-Z]|cuda|nvinfer|_ZN8nvinfer", x)]
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path)))
    assert {re.sub(r"\.so.*", "", x) for x in needed} <= {"libc", "libstdc++", "libgcc_s", "libm", "ld-linux-x86-64"}
    for family, version in re.findall(r"(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)", readelf("-V", path)):
        assert tuple(map(int, version.split("."))) <= NEWEST_VERSIONS[family], (family, version)


def test_library_for_jetson_lists_its_creators_and_gpus_under_qemu(library_folder, tmp_path):
    pytest.importorskip("triton")
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (apt-get install g++-aarch64-linux-gnu qemu-user)")
    host = tmp_path / "host"
    source = str(STANDIN / "listCreators.cpp")
    subprocess.run(["aarch64-linux-gnu-g++", *include_flags(), source, "-o", str(host), "-ldl"], check=True)
    library = library_folder / load.library_name("aarch64")
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(host), str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    *creators, info = result.stdout.splitlines()
    assert creators[::2] == [f"{op} 1 rmt_edge" for op in OPS]
    assert set(creators[1::2]) == {"1"}, "made a plugin without attributes"
    assert "Retention node 'bad': attribute num_heads is missing" in result.stderr
    assert "AddDepthwiseResidualNormInt8 node 'bad': attribute channels is missing" in result.stderr
    assert json.loads(info)["cubin_sms"] == [PLUGIN_SM]
    assert json.loads(info)["architecture"] == "aarch64"


def test_c_entry_points_say_what_is_wrong(library):
    opened = load.open_library(library)
    load.take_last_error(library)
    assert opened.rmt_retention_workspace_bytes(2, 7, 5, 4, 16, 1, 1) == 2 * 7 * 5 * 64 * 2
    assert opened.rmt_retention_workspace_bytes(2, 7, 5, 4, 16, 0, 1) == 0
    nothing = ctypes.c_void_p()
    arguments = [nothing] * 10 + [ctypes.c_int32(x) for x in (1, 7, 7, 4, 48, 1, 1)]
    arguments += [ctypes.c_float(0), ctypes.c_float(0), ctypes.c_int32(0), nothing]
    assert opened.rmt_retention_launch(*arguments) != 0
    assert "no kernel for head dim 48" in load.take_last_error(library)
    assert load.take_last_error(library) == ""
    if not Path("/dev/nvidiactl").exists():
        arguments[14] = ctypes.c_int32(16)
        assert opened.rmt_retention_launch(*arguments) != 0
        assert "no CUDA driver" in load.take_last_error(library)


def test_depthwise_entry_points_say_what_is_wrong(library):
    opened = load.open_library(library)
    load.take_last_error(library)

    def launch(has_norm=0, c=64, element_type=1, epsilon=1e-6, scale=0.0):
        pointers = [ctypes.c_void_p(16 if x else 0) for x in (1, 1, 1, 0, has_norm, has_norm, 1, has_norm)]
        sizes = [ctypes.c_int32(x) for x in (1, 7, 7, c, element_type)]
        numbers = [ctypes.c_float(epsilon), ctypes.c_float(scale), ctypes.c_int32(0), ctypes.c_void_p()]
        assert opened.rmt_depthwise_residual_launch(*pointers, *sizes, *numbers) != 0
        return load.take_last_error(library)

    assert launch(c=40) == "DepthwiseResidual: 40 channels are unsupported; supported: multiples of 16."
    assert "DepthwiseResidualNormInt8: 2048 channels are too many" in launch(has_norm=1, c=2048, scale=0.1)
    assert "element type 2 is unknown" in launch(element_type=2)
    assert "epsilon must be positive" in launch(has_norm=1, epsilon=0.0)
    assert "output_scale must be positive" in launch(scale=-1.0)
    assert "0 or infinite in float16" in launch(scale=1e-9)
    assert opened.rmt_depthwise_residual_load(0, 1, 0, 1040, 1) != 0
    assert "1040 channels are too many for a LayerNorm" in load.take_last_error(library)
    if not Path("/dev/nvidiactl").exists():
        assert "no CUDA driver" in launch()


def test_folder_without_a_library_is_refused(tmp_path):
    (tmp_path / "librmt_edge_plugin_riscv64.so").write_text("")
    with pytest.raises(RmtEdgeError, match=r"No plugin library for .*\n.*librmt_edge_plugin_riscv64.so"):
        load.library_path(tmp_path)


def test_file_that_is_no_library_is_refused(tmp_path):
    path = tmp_path / "librmt_edge_plugin.so"
    path.write_text("text")
    with pytest.raises(RmtEdgeError, match="cannot be loaded"):
        load.library_info(path)


class FakeRegistry:
    """A TensorRT that loads the file and registers nothing."""

    def get_creator(self, name, version, namespace):
        return None

    def load_library(self, path):
        return None


def test_tensorrt_that_registers_nothing_is_refused(library):
    trt = SimpleNamespace(__name__="tensorrt", __version__="8.6.2", get_plugin_registry=FakeRegistry)
    with pytest.raises(RmtEdgeError, match=r"tensorrt 8\.6\.2 did not register Retention"):
        load.load_plugins(trt, library)
