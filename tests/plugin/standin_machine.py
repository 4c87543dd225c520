"""A machine with a GPU that is none: the stand-in driver and host of standin/, compiled and run."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rmt_edge.plugin import cxx

ROOT = Path(__file__).parents[2]
STANDIN = Path(__file__).parent / "standin"


def include_flags() -> list[str]:
    """For TensorRT's headers and for cuda.h, which comes with triton."""
    import triton

    headers = cxx.find_headers(ROOT / "build" / "plugin-cache", None)
    return [f"-isystem{x}" for x in (headers, Path(triton.__file__).parent / "backends/nvidia/include")]


@dataclass(frozen=True)
class StandinMachine:
    """folder: of libcuda.so.1 and host. library: the plugin library, unless another is named."""

    folder: Path
    library: Path

    def run(self, command, sm=86, status=0, **environment):
        """What the driver was told and the host printed, a dict a line of JSON; and stderr."""
        whole = os.environ | {"LD_LIBRARY_PATH": str(self.folder), "FAKE_SM": str(sm)} | environment
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=whole, cwd=ROOT)
        assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
        return [json.loads(x) for x in result.stdout.splitlines()], result.stderr

    def host(self, op="Retention", *, sm=86, status=0, environment=None, **numbers):
        """Walk one plugin through its life. numbers: those of host.cpp's `given`."""
        command = [self.folder / "host", self.library, op, *(f"{k}={float(v)}" for k, v in numbers.items())]
        return self.run(command, sm, status, **environment or {})

    def python(self, code, *, library=None, sm=86, status=0, **environment):
        """Run Python that has the library as `library` (ctypes) and its path as `path`."""
        opened = "import ctypes, sys; from pathlib import Path; from rmt_edge.plugin import load; "
        opened += "path = Path(sys.argv[1]); library = load.open_library(path)\n"
        # Python's own lines and the driver's come through different buffers: nothing is printed by Python.
        command = [sys.executable, "-c", opened + code, library or self.library]
        return self.run(command, sm, status, PYTHONPATH=str(ROOT), **environment)


def compile_standin(folder: Path, library_folder: Path) -> StandinMachine:
    include = include_flags()
    driver = ["gcc", "-shared", "-fPIC", *include, str(STANDIN / "libcuda.c"), "-o", str(folder / "libcuda.so.1")]
    program = ["g++", "-std=c++17", *include, str(STANDIN / "host.cpp"), "-o", str(folder / "host"), "-ldl"]
    for command in (driver, program):
        subprocess.run(command, check=True)
    return StandinMachine(folder, library_folder / f"librmt_edge_plugin_{platform.machine()}.so")


def launches(calls):
    return [x for x in calls if "blocks" in x]
