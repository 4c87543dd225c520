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
    Python's packages know it. packages: what pip installs. install: the sentence that says so to a person."""

    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    packages: tuple[str, ...]
    install: str


BACKENDS = {
    "tensorrt_rtx": Backend(
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        packages=("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
        install="Install it: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings (x86-64 Linux).",
    ),
    "tensorrt": Backend(
        modules=("tensorrt",),
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        packages=("tensorrt",),
        install="On a Jetson it comes with JetPack (apt install tensorrt); elsewhere: pip install tensorrt.",
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
