"""Open what can be run: an engine with the plugin library that it was built with."""

from pathlib import Path

from rmt_edge.artifact import ENGINE, read_manifest, sha256_of
from rmt_edge.device.backend import load_backend
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import libraries_beside, library_path
from rmt_edge.runtime.engine_runner import EngineRunner


def open_engine(engine: Path, libraries: Path | None = None) -> EngineRunner:
    """The runner of an engine, to be used as a context manager, with the plugin library that it was built with.

    libraries: the folder of plugin libraries; by default that of the unpacked bundle in which the engine lies.
    """
    details = read_manifest(engine, ENGINE).details
    library = None
    if details["plugin_library"] is not None:
        library = library_path(libraries or libraries_beside(engine.parent))
        check_library(engine, library)
    backend = details.get("backend", {}).get("name") or details["profile"]["backend"]
    return EngineRunner(engine, load_backend(backend), library)


def check_library(engine: Path, library: Path) -> None:
    """Refuse a plugin library other than the one that the engine was built with."""
    wanted = read_manifest(engine, ENGINE).details["plugin_library"]
    found = sha256_of(library)
    if found != wanted["sha256"]:
        raise RmtEdgeError(
            f"{library} is not the plugin library that {engine.name} was built with: sha256 {found[:16]}…, engine "
            f"{wanted['sha256'][:16]}….",
            "an engine holds its plugins' state, and only they can read it.",
            "Pass --libraries with the folder of that library, or build the engine again.",
        )
