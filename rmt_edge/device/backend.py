"""The two TensorRTs that rmt-edge builds with and runs, as Python knows them: one table, and what loads them.

Both share one Python API (TensorRT 10.3 to 11.4, TensorRT-RTX 1). Nothing is imported until a backend is asked for.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from rmt_edge.errors import RmtEdgeError


@dataclass(frozen=True)
class Backend:
    """modules: those that hold the API, of which the first that imports is taken. distributions: under which names
    Python's packages know it. packages: what pip installs. install: the sentence that says so to a person. versions:
    the first and the last that rmt-edge is written for. compute_capabilities: those that it builds for; None: any."""

    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    versions: tuple[str, str]
    compute_capabilities: tuple[str, ...] | None = None


BACKENDS = {
    "tensorrt_rtx": Backend(
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        packages=("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
        install="Install it: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings (x86-64 Linux).",
        versions=("1.7", "1.7"),
        compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),  # ComputeCapability of TensorRT-RTX 1.7.1
    ),
    "tensorrt": Backend(
        modules=("tensorrt",),
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        packages=("tensorrt",),
        install="On a Jetson it comes with JetPack (apt install tensorrt); elsewhere: pip install tensorrt.",
        versions=("10.3", "11.4"),
    ),
}


def load_backend(name: str) -> ModuleType:
    """The Python module of a TensorRT backend, or an error that says what to install."""
    backend = BACKENDS[name]
    reasons = []
    for module in backend.modules:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                reasons.append(str(error))
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    reason = f": {reasons[0]}" if reasons else ""
    raise RmtEdgeError(f"The TensorRT backend {name} is not installed here{reason}.", do=backend.install)
