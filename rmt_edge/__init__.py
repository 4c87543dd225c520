"""rmt-edge: quantise a trained RMT, build TensorRT engines for it, and prove what was lost and won.

The functions below are what a notebook or a program calls; the command line calls the same. Importing rmt_edge loads
none of them: each comes with what it needs when it is first asked for, so that a device never sees PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmt_edge.accuracy.reference import reference_predictions, validate_against_checkpoint
    from rmt_edge.accuracy.validate import validate
    from rmt_edge.artifact import Artifact, read_artifact
    from rmt_edge.bundle.bundle import unpack
    from rmt_edge.bundle.pack import pack
    from rmt_edge.data.dataset import open_dataset, read_images
    from rmt_edge.device.profile import load_profile
    from rmt_edge.engine.build import build
    from rmt_edge.errors import CheckFailedError, RmtEdgeError
    from rmt_edge.graph.export import export
    from rmt_edge.latency.bench import bench
    from rmt_edge.latency.verdict import verdict
    from rmt_edge.pictures.predict import predict
    from rmt_edge.pipeline import deploy
    from rmt_edge.quantization.quantize import quantize
    from rmt_edge.quantization.recipe import load_recipe
    from rmt_edge.report.collect import write_report
    from rmt_edge.runtime.onnx_runner import open_onnx
    from rmt_edge.runtime.open import open_engine

__version__ = "0.1.0"
__all__ = [
    "Artifact", "CheckFailedError", "RmtEdgeError", "bench", "build", "deploy", "export", "load_profile",
    "load_recipe", "open_dataset", "open_engine", "open_onnx", "pack", "predict", "quantize", "read_artifact",
    "read_images", "reference_predictions", "unpack", "validate", "validate_against_checkpoint", "verdict",
    "write_report",
]  # fmt: skip

# Where each public name lives. tests/test_api.py holds this table to the imports above, which type checkers read.
_HOMES = {
    "Artifact": "artifact", "CheckFailedError": "errors", "RmtEdgeError": "errors", "bench": "latency.bench",
    "build": "engine.build", "deploy": "pipeline", "export": "graph.export", "load_profile": "device.profile",
    "load_recipe": "quantization.recipe", "open_dataset": "data.dataset", "open_engine": "runtime.open",
    "open_onnx": "runtime.onnx_runner", "pack": "bundle.pack", "predict": "pictures.predict",
    "quantize": "quantization.quantize", "read_artifact": "artifact", "read_images": "data.dataset",
    "reference_predictions": "accuracy.reference",
    "unpack": "bundle.bundle", "validate": "accuracy.validate",
    "validate_against_checkpoint": "accuracy.reference", "verdict": "latency.verdict",
    "write_report": "report.collect",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A public name, from the module in which it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
