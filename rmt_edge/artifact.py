"""Files of the pipeline, each with a manifest beside it: written whole or not at all, and checked before use.

`model.onnx` has `model.onnx.json`: its sha256, its parents' names and sha256, the recipe, facts about it, versions. So
any number in a report can be walked back to the checkpoint, and no step works on a file that is not what its manifest
says.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.errors import RmtEdgeError

# Whatever of these is installed is recorded; none of them is imported for it.
_VERSIONS_OF = (
    "torch", "nvidia-modelopt", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-libs", "pycuda", "numpy",
    "pillow",
)  # fmt: skip

# The kinds of files that one step hands to the next.
QUANTIZED, ONNX, PLUGIN_ONNX = "quantized checkpoint", "ONNX model", "ONNX model in its plugin form"
ENGINE, PREDICTIONS = "engine", "predictions"


@dataclass(frozen=True)
class Manifest:
    """What is known about one file. parents: {"name", "sha256"} of each file it was made from; seconds: the making."""

    name: str
    kind: str
    sha256: str
    size_bytes: int
    parents: list[dict[str, str]]
    recipe: dict[str, Any]
    details: dict[str, Any]
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """rmt-edge, Python, the platform and the installed packages that decide a result."""
    found = {
        "rmt-edge": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _VERSIONS_OF:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def output_folder(path: Path) -> Path:
    """The folder, made if need be; an error if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RmtEdgeError(
            f"The output folder {path} cannot be written: {error.strerror or error}.",
            do="Pass a folder that you may write to with --output.",
        ) from error
    return path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RmtEdgeError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def manifest_path(path: Path) -> Path:
    """Where a file's manifest lies."""
    return path.with_name(path.name + ".json")


def plugin_form_path(onnx_path: Path) -> Path:
    """Where the plugin form of an ONNX file lies."""
    return onnx_path.with_suffix(".plugin.onnx")


def parent_of(path: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """A file as the parent of another."""
    return {"name": path.name, "sha256": manifest.sha256 if manifest else sha256_of(path)}


def write_manifest(
    temporary: Path,
    path: Path,
    *,
    kind: str,
    parents: list[dict[str, str]],
    recipe: dict[str, Any],
    details: dict[str, Any],
    seconds: float,
) -> Manifest:
    """Write the manifest of the file at `temporary` that is about to become `path`.

    Called last inside `written_whole`: an older manifest is replaced before the file is. A process killed between the
    two leaves a file and a manifest that disagree, which the next step refuses.
    """
    manifest = Manifest(
        name=path.name,
        kind=kind,
        sha256=sha256_of(temporary),
        size_bytes=temporary.stat().st_size,
        parents=parents,
        recipe=recipe,
        details=details,
        seconds=round(seconds, 2),
        versions=versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    write_json(manifest_path(path), asdict(manifest))
    return manifest


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file, whole or not at all. A NaN or an infinity in it is our bug and raises."""
    with written_whole(path) as temporary:
        temporary.write_text(json_text(value))


def json_text(value: dict[str, Any]) -> str:
    """JSON as every file here holds it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_manifest(path: Path, kind: str) -> Manifest:
    """The manifest of a file of the pipeline, after checking that the file is there, of that kind and unchanged."""
    if not path.is_file():
        raise RmtEdgeError(f"There is no file {path}.", f"a file of kind {kind!r} was expected there.")
    beside = manifest_path(path)
    if not beside.is_file():
        raise RmtEdgeError(
            f"{path} has no manifest.",
            f"every step of rmt-edge leaves {beside.name} beside its file, and the next step needs it.",
            "Run the step that makes this file again.",
        )
    try:
        manifest = Manifest(**json.loads(beside.read_text()))
    except (ValueError, TypeError) as error:
        raise RmtEdgeError(f"{beside} is not a manifest: {error}.", do="Run the step that made it again.") from error
    if manifest.kind != kind:
        raise RmtEdgeError(f"{path} is of kind {manifest.kind!r}.", f"this step takes {kind!r}.")
    actual = sha256_of(path)
    if actual != manifest.sha256:
        raise RmtEdgeError(
            f"{path} is not the file its manifest describes: sha256 {actual[:16]}…, manifest {manifest.sha256[:16]}….",
            "it was changed or replaced after it was made.",
            "Run the step that makes this file again.",
        )
    return manifest


def check_checkpoint(manifest: Manifest, checkpoint: Path) -> dict[str, str]:
    """The checkpoint as a parent, if it is the one that the manifest's file was made from."""
    made_from, given = manifest.details["checkpoint"], parent_of(checkpoint)
    if made_from["sha256"] != given["sha256"]:
        raise RmtEdgeError(
            f"{manifest.name} was made from {made_from['name']} ({made_from['sha256'][:16]}…), not from {checkpoint} "
            f"({given['sha256'][:16]}…).",
            do="Pass the checkpoint that it was made from.",
        )
    return given


def check_parent(child: Manifest, parent: Manifest) -> None:
    """Refuse a file that was made from an earlier version of its parent."""
    made_from = child.parents[0]["sha256"]
    if made_from != parent.sha256:
        raise RmtEdgeError(
            f"{child.name} was made from another {parent.name} ({made_from[:16]}…) than lies there "
            f"({parent.sha256[:16]}…).",
            do=f"Make {child.name} again.",
        )
