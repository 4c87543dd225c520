"""Files of the pipeline, each with a manifest beside it: written whole or not at all, and checked before use.

`model.onnx` has `model.onnx.json`: its sha256, its parents' names and sha256, the recipe, facts about it, versions. So
any number in a report can be walked back to the checkpoint, and no step works on a file that is not what its manifest
says. What one step hands to the next is an `Artifact`, a file that was held to its manifest: a command hashes each file
once, and every step takes a path as well, which it then checks itself.
"""

import contextlib
import datetime
import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import write_json

# Whatever of these is installed is recorded; none of them is imported for it.
_VERSIONS_OF = (
    "torch", "nvidia-modelopt", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-libs", "pycuda", "numpy",
    "pillow",
)  # fmt: skip

# The kinds of files that one step hands to the next.
QUANTIZED, ONNX, PLUGIN_ONNX = "quantized checkpoint", "ONNX model", "ONNX model in its plugin form"
ENGINE, PREDICTIONS = "engine", "predictions"


# What a parent was to its child: what the child was made of (of predictions: what predicted), and what else went in.
SOURCE, CHECKPOINT, CALIBRATION, DATA, SUBSET = "source", "checkpoint", "calibration", "data", "subset"


@dataclass(frozen=True)
class Manifest:
    """What is known about one file. parents: {"role", "name", "sha256"} of each file it was made from; seconds: the
    making."""

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

    def parent(self, role: str) -> dict[str, str]:
        """The parent of that role, or an error that says what there is."""
        if found := self.find_parent(role):
            return found
        known = ", ".join(str(x.get("role")) for x in self.parents) or "none"
        raise RmtEdgeError(
            f"The manifest of {self.name} names no parent {role!r}.", f"it names: {known}.", "Make the file again."
        )

    def find_parent(self, role: str) -> dict[str, str] | None:
        """The parent of that role, if the file has one."""
        return next((x for x in self.parents if x.get("role") == role), None)

    @property
    def source(self) -> dict[str, str]:
        """What the file was made of: the file before it in the chain that leads to the checkpoint."""
        return self.parent(SOURCE)


@dataclass(frozen=True)
class Artifact:
    """A file of the pipeline and its manifest, after the one has been held to the other: what steps hand on.

    siblings: files that the same step wrote beside it, as `export` writes the plugin form beside an ONNX file.
    """

    path: Path
    manifest: Manifest
    siblings: "tuple[Artifact, ...]" = ()

    def sibling(self, kind: str) -> "Artifact | None":
        """The file of that kind that was written beside it, if the step that wrote both is at hand."""
        return next((x for x in self.siblings if x.manifest.kind == kind), None)

    def as_parent(self, role: str = SOURCE) -> dict[str, str]:
        """The file as the parent of another."""
        return parent_of(self.path.name, self.manifest.sha256, role)

    @property
    def identity(self) -> dict[str, str]:
        """Its name and sha256, as records hold them."""
        return {"name": self.path.name, "sha256": self.sha256}

    @property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return self.manifest.sha256

    @property
    def recipe(self) -> dict[str, Any]:
        """The quantisation recipe that it was made by, as its manifest has it."""
        return self.manifest.recipe

    @property
    def details(self) -> dict[str, Any]:
        """The facts about it."""
        return self.manifest.details


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


def manifest_path(path: Path) -> Path:
    """Where a file's manifest lies."""
    return path.with_name(path.name + ".json")


def plugin_form_path(onnx_path: Path) -> Path:
    """Where the plugin form of an ONNX file lies."""
    return onnx_path.with_suffix(".plugin.onnx")


def parent_of(name: str, sha256: str, role: str = SOURCE) -> dict[str, str]:
    """One entry of a manifest's parents."""
    return {"role": role, "name": name, "sha256": sha256}


def identity_of(path: Path) -> dict[str, str]:
    """A file that has no manifest, by name and hash."""
    return {"name": path.name, "sha256": sha256_of(path)}


def write_manifest(
    temporary: Path,
    path: Path,
    *,
    kind: str,
    parents: list[dict[str, str]],
    recipe: dict[str, Any],
    details: dict[str, Any],
    seconds: float,
) -> Artifact:
    """Write the manifest of the file at `temporary` that is about to become `path`; returns what it will be.

    Called last inside `writing.written_whole`: an older manifest is replaced before the file is. A process killed
    between the two leaves a file and a manifest that disagree, which the next step refuses.
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
    return Artifact(path, manifest)


def read_artifact(source: Path | str | Artifact, kind: str) -> Artifact:
    """A file of the pipeline, after checking that it is there, of that kind and unchanged.

    What was checked already is not checked again: an Artifact is only held to the kind.
    """
    if isinstance(source, Artifact):
        _check_kind(source.path, source.manifest, kind)
        return source
    path = Path(source)
    if not path.is_file():
        raise RmtEdgeError(f"There is no file {path}.", f"a file of kind {kind!r} was expected there.")
    manifest = read_manifest(path)
    _check_kind(path, manifest, kind)
    actual = sha256_of(path)
    if actual != manifest.sha256:
        raise RmtEdgeError(
            f"{path} is not the file its manifest describes: sha256 {actual[:16]}…, manifest {manifest.sha256[:16]}….",
            "it was changed or replaced after it was made.",
            "Run the step that makes this file again.",
        )
    return Artifact(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest beside a file, which may be elsewhere itself. What it says has not been held to the file."""
    beside = manifest_path(path)
    if not beside.is_file():
        raise RmtEdgeError(
            f"{path} has no manifest.",
            f"every step of rmt-edge leaves {beside.name} beside its file, and the next step needs it.",
            "Run the step that makes this file again.",
        )
    try:
        return Manifest(**json.loads(beside.read_text()))
    except (ValueError, TypeError) as error:
        raise RmtEdgeError(f"{beside} is not a manifest: {error}.", do="Run the step that made it again.") from error


def _check_kind(path: Path, manifest: Manifest, kind: str) -> None:
    if manifest.kind != kind:
        raise RmtEdgeError(f"{path} is of kind {manifest.kind!r}.", f"this step takes {kind!r}.")


class ArtifactFolder:
    """A folder of the pipeline's files, each of which is held to its manifest once, when it is first read.

    known: files that were checked already, of this folder or another.
    """

    def __init__(self, path: Path, known: Iterable[Artifact] = ()):
        self.path = path
        self._checked = {x.path.resolve(): x for x in known}

    def read(self, name: str, kind: str) -> Artifact:
        """The file of that name, checked."""
        path = self.path / name
        found = self._checked.get(path.resolve(), path)
        return self._checked.setdefault(path.resolve(), read_artifact(found, kind))


def check_made_from(artifact: Artifact, checkpoint: dict[str, str]) -> None:
    """Refuse a checkpoint other than the one that a file was made from. checkpoint: its name and sha256."""
    made_from = artifact.details["checkpoint"]
    if made_from["sha256"] != checkpoint["sha256"]:
        raise RmtEdgeError(
            f"{artifact.path.name} was made from {made_from['name']} ({made_from['sha256'][:16]}…), not from "
            f"{checkpoint['name']} ({checkpoint['sha256'][:16]}…).",
            do="Pass the checkpoint that it was made from.",
        )


def check_parent(child: Manifest, parent: Manifest) -> None:
    """Refuse a file that was made from an earlier version of its source."""
    made_from = child.source["sha256"]
    if made_from != parent.sha256:
        raise RmtEdgeError(
            f"{child.name} was made from another {parent.name} ({made_from[:16]}…) than lies there "
            f"({parent.sha256[:16]}…).",
            do=f"Make {child.name} again.",
        )
