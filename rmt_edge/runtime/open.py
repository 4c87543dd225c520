"""Open what can be run: an engine that this machine takes, with its plugin library; an ONNX file; PyTorch beside them.

ONNX Runtime and PyTorch are not on a device. So their runners are imported when the first of them is opened, by name,
and what only runs engines imports neither.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from rmt_edge.artifact import ENGINE, Artifact, read_artifact
from rmt_edge.device.backend import load_backend
from rmt_edge.device.preflight import check_engine
from rmt_edge.runtime.engine_runner import EngineRunner
from rmt_edge.runtime.runner import Runner


def open_engine(engine: Path | Artifact, libraries: Path | None = None) -> EngineRunner:
    """The runner of an engine, to be used as a context manager, after preflight has found nothing in its way.

    libraries: the folder of plugin libraries; without it, what lies beside the engine, in its bundle or in
    build/plugin. The library must be the very one that the engine was built with.
    """
    opened = read_artifact(engine, ENGINE)
    library = check_engine(opened, library=libraries)
    return EngineRunner(opened, load_backend(opened.details["backend"]["name"]), library)


def open_runner(file: Artifact, libraries: Path | None = None, as_engine: bool = True) -> Runner:
    """The runner of an engine or, through ONNX Runtime, of an ONNX file. as_engine: see open_onnx."""
    if file.manifest.kind == ENGINE:
        return open_engine(file, libraries)
    onnx_runner = importlib.import_module("rmt_edge.runtime.onnx_runner")
    return onnx_runner.open_onnx(file, as_engine)


def open_peers(checkpoint: Path, sha256: str, names: Sequence[str], image_shape: tuple[int, int, int]) -> list[Runner]:
    """PyTorch's runners for a checkpoint, see torch_runner.peers_of."""
    torch_runner = importlib.import_module("rmt_edge.runtime.torch_runner")
    return torch_runner.peers_of(checkpoint, sha256, list(names), image_shape)
