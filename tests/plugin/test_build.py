"""What is built, and what is refused before anything is: kernels, assemblers, compilers, headers.

The library of the tests is built once for one GPU generation and both processors, in a process of its own: this one may
have Triton set to interpret kernels. The full build is `rmt-edge plugin build`.
"""

import os
import platform
import shutil

import pytest
from triton.knobs import NvidiaTool

from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin import build, compile, cxx
from tests.conftest import PLUGIN_SM

# Compiles one kernel for SM 8.0 and 8.7 from one PTX, and for SM 8.7 alone, by Triton from end to end.
COMPILE_TWICE = """
import sys
from pathlib import Path
from rmt_edge.plugin import build
from rmt_edge.plugin.compile import compile_variant
folder, make = Path(sys.argv[1]), list(build.OPS.values())[int(sys.argv[2])]
compile_variant(make()[0], {80: "of_80", 87: "shared"}, folder, None)
compile_variant(make()[0], {87: "alone"}, folder, None)
"""


@pytest.mark.parametrize("op", [0, 1], ids=["Retention", "DepthwiseResidual"])
def test_kernel_from_shared_ptx_is_the_one_triton_makes(run_python, tmp_path, op):
    result = run_python("-c", COMPILE_TWICE, str(tmp_path), str(op), TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    shared, alone, of_80 = ((tmp_path / f"{x}.cubin").read_bytes() for x in ("shared", "alone", "of_80"))
    assert shared == alone
    assert shared != of_80


# Compiles one kernel for SM 11.0 with the assembler that the build finds.
COMPILE_FOR_THOR = """
import sys
from pathlib import Path
from rmt_edge.plugin import build
from rmt_edge.plugin.compile import compile_variant, find_cuda_13_assembler
variant = build.OPS["Retention",]()[0]
compile_variant(variant, {110: "thor"}, Path(sys.argv[1]), find_cuda_13_assembler())
"""


def test_thor_is_built_by_the_assembler_in_tritons_wheel(run_python, tmp_path):
    result = run_python("-c", COMPILE_FOR_THOR, str(tmp_path), TRITON_CACHE_DIR=str(tmp_path / "cache"), PATH="")
    assert result.returncode == 0, result.stderr
    flags = int.from_bytes((tmp_path / "thor.cubin").read_bytes()[48:52], "little")  # e_flags of a 64-bit ELF
    assert flags >> 8 & 0xFF == 110  # where ptxas puts the SM from ELF version 8 on
    assert ".target sm_110" in (tmp_path / "thor.ptx").read_text()


def test_every_gpu_is_built_unless_some_are_asked_for():
    assert build._sms_to_build(None) == ([80, 86, 87, 89, 90, 100, 110, 120], {})
    assert build._sms_to_build([87, 110, 87]) == ([87, 110], {})


@pytest.fixture
def no_cuda_13(monkeypatch):
    monkeypatch.setattr(compile, "get_ptxas", lambda sm: NvidiaTool("ptxas", "12.9"))
    monkeypatch.setattr(compile.NvidiaTool, "from_path", lambda path: None)


def test_thor_is_left_out_with_the_reason_where_no_assembler_knows_it(no_cuda_13, caplog):
    sms, left_out = build._sms_to_build(None)
    assert 110 not in sms
    assert "no ptxas of CUDA 13" in left_out["110"]
    assert "SM 110 is left out" in caplog.text


def test_thor_that_was_asked_for_is_refused_where_no_assembler_knows_it(no_cuda_13):
    with pytest.raises(RmtEdgeError, match=r"SM 110 cannot be built(.|\n)*triton's wheel(.|\n)*nvidia-cuda-nvcc"):
        build._sms_to_build([110])


def test_missing_assembler_of_triton_is_no_assembler(no_cuda_13, monkeypatch):
    def missing(sm):
        raise RuntimeError("Cannot find ptxas-blackwell")

    monkeypatch.setattr(compile, "get_ptxas", missing)
    assert compile.find_cuda_13_assembler() is None


PTX_SMS = [
    ([80, 86, 87, 89, 90, 110], 80),  # also for an A100 or an Orin whose driver refuses the cubin
    ([86, 89], 86),  # an Orin has no cubin there, and takes this
    ([87, 89, 120], 87),
    ([90, 110], None),
]


@pytest.mark.parametrize("sms, expected", PTX_SMS)
def test_ptx_is_of_the_oldest_gpu_that_shares_it(sms, expected):
    assert compile.ptx_sm_of(sms) == expected


@pytest.mark.parametrize("cores, expected", [(1, 1), (6, 6), (128, cxx.MAX_WORKERS)])
def test_one_worker_a_core(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert cxx.workers() == expected


def test_up_to_date_library_is_not_built_again(run_python, library_folder, library):
    before = library.stat().st_mtime_ns
    arguments = ["--sm", str(PLUGIN_SM), "--arch", platform.machine(), "--output", str(library_folder)]
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", *arguments)
    assert result.returncode == 0, result.stderr
    assert "is up to date" in result.stderr
    assert result.stdout.splitlines() == [str(library)]
    assert library.stat().st_mtime_ns == before


@pytest.mark.parametrize("sm", ["75", "81"])
def test_unknown_gpu_generation_is_refused(run_python, tmp_path, sm):
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--sm", sm, "--output", str(tmp_path))
    assert result.returncode == 2
    assert f"SM {sm} is not known" in result.stderr and "the kernels need 8.0" in result.stderr
    assert "Traceback" not in result.stderr


def test_build_under_the_interpreter_is_refused(run_python, tmp_path):
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--output", str(tmp_path), TRITON_INTERPRET="1")
    assert result.returncode == 2
    assert "TRITON_INTERPRET is set" in result.stderr


def test_headers_that_are_too_old_are_refused(tmp_path):
    for name in ("NvInfer.h", "NvInferVersion.h"):
        parts = (("MAJOR", 8), ("MINOR", 6), ("PATCH", 2))
        (tmp_path / name).write_text("".join(f"#define NV_TENSORRT_{x} {number}\n" for x, number in parts))
    with pytest.raises(RmtEdgeError, match=r"are of version 8\.6\.2"):
        cxx.find_headers(tmp_path, tmp_path)


def test_folder_without_headers_is_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"No NvInfer\.h in"):
        cxx.find_headers(tmp_path, tmp_path)


def test_missing_cross_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    other = next(x for x in cxx.ARCHITECTURES if x != platform.machine())
    with pytest.raises(RmtEdgeError, match=f"{other}-linux-gnu-g\\+\\+ was not found"):
        cxx.find_compiler(other)
