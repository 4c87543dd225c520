"""Open what can be run: an engine that this machine takes, with the plugin library that it was built with."""

from pathlib import Path

from rmt_edge.artifact import ENGINE, Artifact, read_artifact
from rmt_edge.device.backend import load_backend
from rmt_edge.device.preflight import check_engine
from rmt_edge.runtime.engine_runner import EngineRunner


def open_engine(engine: Path | Artifact, libraries: Path | None = None) -> EngineRunner:
    """The runner of an engine, to be used as a context manager, after preflight has found nothing in its way.

    libraries: the folder of plugin libraries; without it, what lies beside the engine, in its bundle or in
    build/plugin. The library must be the very one that the engine was built with.
    """
    opened = read_artifact(engine, ENGINE)
    library = check_engine(opened, library=libraries)
    return EngineRunner(opened, load_backend(opened.details["backend"]["name"]), library)
