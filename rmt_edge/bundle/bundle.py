"""The bundle: one file that carries all a device needs from the workstation, and how a device reads it.

A sealed archive (archive.py). In it, for each model, the ONNX file, its plugin form and their manifests; the plugin
libraries; the validation subset (subset.py); and first `bundle.json`, the index, with every member's sha256 and size.
Written by pack.py. This side needs Python and numpy alone.
"""

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.artifact import ONNX, PLUGIN_ONNX, Artifact, manifest_path, plugin_form_path, read_artifact, sha256_of
from rmt_edge.bundle.archive import MAX_BYTES, Member, copy_member, open_archive, refuse
from rmt_edge.bundle.found_subset import MEMBERS, FoundSubset, load_found_subset
from rmt_edge.bundle.subset import IMAGES, LABELS, LOGITS, NAMES, Subset, load_subset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.spec import CLASSIFICATION, ModelSpec
from rmt_edge.plugin.load import BUNDLE_INDEX, BUNDLED_LIBRARIES
from rmt_edge.progress import progress_bar
from rmt_edge.tasks.task import Rows
from rmt_edge.writing import output_folder, scratch_folder

SUFFIX = ".rmtedge"
INDEX, LIBRARIES = BUNDLE_INDEX, BUNDLED_LIBRARIES
FORMAT = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """One ONNX file of a bundle, by its name in it; its plugin form and the manifests of both lie beside it."""

    onnx: str
    recipe: str
    precision: str

    def members(self) -> list[str]:
        """The names of the four."""
        files = Path(self.onnx), plugin_form_path(Path(self.onnx))
        return [str(x) for file in files for x in (file, manifest_path(file))]


@dataclass(frozen=True)
class Index:
    """bundle.json.

    checkpoint: name and sha256; weights: which of it, see load_checkpoint. libraries: by processor, with the build's
    hash and the SMs it has kernels for. validation: the number of `images`, the `dataset` they are of (name, sha256,
    images), the `class_names` if it has any, and the float32 model's accuracy. versions: of what packed.
    """

    checkpoint: dict[str, str]
    weights: str | None
    variant: str
    num_classes: int
    preprocessing: dict[str, Any]
    models: tuple[Model, ...]
    libraries: dict[str, dict[str, Any]]
    validation: dict[str, Any]
    versions: dict[str, str]
    members: tuple[Member, ...]
    spec: dict[str, Any] | None = None
    kind: str = field(default="bundle", kw_only=True)
    format: int = field(default=FORMAT, kw_only=True)

    def __post_init__(self) -> None:
        names = [x.name for x in self.members]
        needed = {*subset_members(self.task), *(name for model in self.models for name in model.members())}
        if names != sorted(set(names)):
            raise ValueError("its members are not sorted or not unique")
        if missing := needed - set(names):
            raise ValueError(f"there is no member {sorted(missing)[0]}")
        if not self.models:
            raise ValueError("there are no models")
        if (total := sum(x.size_bytes for x in self.members)) > MAX_BYTES:
            raise ValueError(f"its members have {total:,} bytes, more than {MAX_BYTES:,}")
        numbers = self.num_classes, self.validation["images"], self.validation["dataset"]["images"]
        texts = [x[key] for x in (self.checkpoint, self.validation["dataset"]) for key in ("name", "sha256")]
        class_names = self.validation["class_names"]
        if class_names is not None and not all(isinstance(class_names[i], str) for i in range(self.num_classes)):
            raise ValueError("its class names are none")
        if not all(type(x) is int and x > 0 for x in numbers) or not all(isinstance(x, str) for x in texts):
            raise ValueError("its numbers of classes and images, its checkpoint or its data set are none")
        Preprocessing.from_dict(self.preprocessing)

    def to_json(self) -> bytes:
        """As bundle.json holds it: kind and format first."""
        values = {"kind": self.kind, "format": self.format} | asdict(self)
        if self.spec is None:  # a classifier's index is as every version has read it
            del values["spec"]
        return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()

    @property
    def task(self) -> str:
        """Of its models."""
        return CLASSIFICATION if self.spec is None else ModelSpec.from_dict(self.spec).task

    def facts(self) -> dict[str, Any]:
        """What a model's manifest says of it, as accuracy.subject.spec_in reads it."""
        found = {name: getattr(self, name) for name in ("variant", "num_classes", "preprocessing")}
        return found if self.spec is None else found | {"spec": self.spec}

    def sha256_of(self, name: str) -> str | None:
        """The sha256 that a member must have; None for what is no member."""
        return next((x.sha256 for x in self.members if x.name == name), None)


def index_from_json(content: bytes) -> Index:
    """bundle.json, checked; ValueError for what is none and RmtEdgeError for one of another format."""
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("its index is nested too deeply") from error
    if not isinstance(values, dict) or values.get("kind") != "bundle":
        raise ValueError("its index is not that of a bundle")
    if values.get("format") != FORMAT:
        raise RmtEdgeError(
            f"The bundle is of format {values.get('format')!r}.", f"this rmt-edge reads format {FORMAT}.",
            "Use the same version of rmt-edge on the workstation and on the device.",
        )  # fmt: skip
    try:
        values["members"] = tuple(Member(**x) for x in values["members"])
        values["models"] = tuple(Model(**x) for x in values["models"])
        return Index(**values)
    except (TypeError, LookupError, AttributeError, RmtEdgeError) as error:
        raise ValueError(f"its index is damaged: {error}") from error


def open_bundle(path: Path) -> Index:
    """The index of a bundle whose every byte has been checked against its seal."""
    with open_archive(path, INDEX) as archive:
        return _read_index(archive, path)


def _read_index(archive: Any, path: Path) -> Index:
    index = index_from_json(archive.read(INDEX))
    actual = {entry.filename: entry.file_size for entry in archive.infolist()[1:]}
    declared = {member.name: member.size_bytes for member in index.members}
    if different := sorted(actual.items() ^ declared.items()):
        refuse(path, f"{different[0][0]} is in its directory or in its index, but not alike in both")
    return index


def unpack(path: Path, folder: Path | None = None) -> Path:
    """Unpack a bundle into a folder, all of it or nothing; returns the folder, `<bundle without suffix>/` by default.

    A folder that already holds this very bundle, each file checked by its hash, is left as it is, with whatever was
    built in it; one that holds anything else is refused.
    """
    folder = folder or path.with_suffix("")
    with open_archive(path, INDEX) as archive:
        index = _read_index(archive, path)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            check_folder(folder, archive.read(INDEX), index)
            logger.info("unpack: %s holds this bundle already.", folder)
            return folder
        total = sum(x.size_bytes for x in index.members)
        output_folder(folder.resolve().parent)
        with scratch_folder(folder.resolve()) as temporary:
            try:
                _extract(archive, index, temporary, f"unpack {path.name}")
                temporary.rename(folder)
            except OSError as error:
                if folder.is_dir() and any(folder.iterdir()):  # another run has unpacked into it meanwhile
                    check_folder(folder, archive.read(INDEX), index)
                    return folder
                raise RmtEdgeError(
                    f"{path} cannot be unpacked into {folder}: {error.strerror or error}.",
                    f"it takes {total:,} bytes.",
                    "Make room, or pass a folder that you may write to with --output.",
                ) from error
    logger.info("unpack: %s, %d files", folder, len(index.members) + 1)
    return folder


def _extract(archive: Any, index: Index, folder: Path, title: str) -> None:
    """Write every member into an empty folder, and the index last."""
    total = sum(x.size_bytes for x in index.members)
    with progress_bar(total=total, desc=title, unit="B", unit_scale=True, leave=False) as progress:
        for member in index.members:
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_member(archive, member, target, progress)
    (folder / INDEX).write_bytes(archive.read(INDEX))


def check_folder(folder: Path, content: bytes, index: Index) -> None:
    """Refuse a folder that does not hold every file of the bundle unchanged. content: the bundle's index."""
    beside = folder / INDEX
    if not beside.is_file() or beside.read_bytes() != content:
        reason = "it holds another bundle" if beside.is_file() else "it exists and is no unpacked bundle"
    else:
        wrong = [x.name for x in index.members if not _is_whole(folder / x.name, x)]
        reason = f"{wrong[0]} in it was changed or removed" if wrong else ""
    if reason:
        raise RmtEdgeError(
            f"Nothing was unpacked into {folder}: {reason}.",
            do="Remove the folder, or pass another with --output.",
        )


def _is_whole(path: Path, member: Member) -> bool:
    return path.is_file() and path.stat().st_size == member.size_bytes and sha256_of(path) == member.sha256


def read_folder(folder: Path) -> Index:
    """The index of an unpacked bundle."""
    path = folder / INDEX
    if not path.is_file():
        raise RmtEdgeError(
            f"{folder} is no unpacked bundle: it holds no {INDEX}.", do="Unpack one there: rmt-edge unpack BUNDLE."
        )
    try:
        return index_from_json(path.read_bytes())
    except ValueError as error:
        raise RmtEdgeError(f"{path} is refused: {error}.", do="Unpack the bundle again.") from error


def chosen_models(index: Index, recipes: list[str] | None) -> list[Model]:
    """The models of those recipes, in the bundle's order; without recipes all of them."""
    known = [x.recipe for x in index.models]
    if recipes is None:
        return list(index.models)
    for name in recipes:
        if name not in known:
            raise RmtEdgeError(f"The bundle has no recipe {name}.", f"it has {', '.join(known)}.")
    return [x for x in index.models if x.recipe in recipes]


def listed_model(folder: Path, index: Index, name: str) -> Artifact:
    """The ONNX file of that name in an unpacked bundle, with its plugin form: the very files that were packed."""
    path = folder / name
    for file in (path, plugin_form_path(path)):
        member = next((x for x in index.members if x.name == file.name), None)
        if member is None:
            raise RmtEdgeError(
                f"{file} is not one of the files of the bundle in {folder}.",
                "someone put it there after the bundle was unpacked.",
                "Build it from a folder of its own.",
            )
        if not _is_whole(file, member):
            raise RmtEdgeError(f"{file} was changed or removed.", do="Unpack the bundle again.")
    form = read_artifact(plugin_form_path(path), PLUGIN_ONNX)
    return replace(read_artifact(path, ONNX), siblings=(form,))


def subset_members(task: str) -> tuple[str, ...]:
    """The names of what a bundle's validation subset is made of."""
    return (IMAGES, LABELS, LOGITS, NAMES) if task == CLASSIFICATION else MEMBERS


def found_subset_of(folder: Path, index: Index) -> tuple[FoundSubset, Rows]:
    """The subset of a detector's or segmenter's bundle and what the float32 model found, checked by their hashes."""
    _check_subset(folder, index)
    size = Preprocessing.from_dict(index.preprocessing)
    return load_found_subset(folder, index.validation["images"], ModelSpec.from_dict(index.spec), size)


def subset_of(folder: Path, index: Index) -> tuple[Subset, np.ndarray]:
    """The validation subset of an unpacked bundle and the float32 logits, (n, classes), checked by their hashes."""
    _check_subset(folder, index)
    size = Preprocessing.from_dict(index.preprocessing)
    return load_subset(folder, index.validation["images"], index.num_classes, size)


def _check_subset(folder: Path, index: Index) -> None:
    for member in index.members:
        if member.name in subset_members(index.task) and not _is_whole(folder / member.name, member):
            raise RmtEdgeError(f"{folder / member.name} was changed or removed.", do="Unpack the bundle again.")
