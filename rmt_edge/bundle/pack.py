"""Pack: exported models, plugin libraries and a validation subset into one bundle for a device (bundle.py).

On the workstation: the subset's images are decoded and resized here, and the float32 PyTorch model is run on them, so
that a device needs neither. The same inputs give the same bytes.
"""

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_edge.accuracy.predictions import BATCH, outputs_of
from rmt_edge.accuracy.reference import runner_of
from rmt_edge.artifact import (
    ONNX,
    PLUGIN_ONNX,
    Artifact,
    check_made_from,
    check_parent,
    manifest_path,
    output_folder,
    plugin_form_path,
    read_artifact,
    sha256_of,
    versions,
    written_whole,
)
from rmt_edge.bundle.archive import MAX_BYTES, Member, write_archive, wrong_name
from rmt_edge.bundle.bundle import INDEX, LIBRARIES, SUFFIX, Index, Model
from rmt_edge.bundle.subset import IMAGES, LABELS, LOGITS, NAMES, Subset
from rmt_edge.data.dataset import Dataset, check_labels, open_dataset
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import hits, percent, top_classes
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.model.heads import spec_of
from rmt_edge.plugin.cxx import ARCHITECTURES
from rmt_edge.plugin.load import LIBRARIES as LIBRARY_FOLDER
from rmt_edge.plugin.load import library_name
from rmt_edge.progress import progress_bar
from rmt_edge.tasks.tasks import TASKS

DEFAULT_IMAGES = 512
# What all models of a bundle have in common: one subset of images and one set of float32 logits serves them all.
SHARED = ("checkpoint", "weights", "variant", "num_classes", "preprocessing")
logger = logging.getLogger(__name__)


def pack(
    sources: list[Path | Artifact],
    checkpoint: Path | Checkpoint,
    data: Path | Dataset,
    libraries: Path = LIBRARY_FOLDER,
    output: Path | None = None,
    images: int | None = None,
    recipes: list[str] | None = None,
    architectures: tuple[str, ...] = ARCHITECTURES,
    labels_file: Path | None = None,
) -> Path:
    """Write the bundle of exported models, by default `<checkpoint>.rmtedge` beside them; returns its path.

    sources: ONNX files of `export`, or folders of them. recipes: only these. data, labels_file: labelled images
    (open_dataset), of which `images` go into the subset. libraries: the folder of the plugin libraries, one for each
    of `architectures`.
    """
    start = time.monotonic()
    models = find_models(sources, recipes)
    opened = open_checkpoint(checkpoint, models[0].details["weights"])
    shared = shared_details(models, opened)
    path = output or models[0].path.with_name(opened.path.stem + SUFFIX)
    if path.suffix != SUFFIX:
        raise RmtEdgeError(f"The output is {path}.", f"a bundle's name ends in {SUFFIX}.")
    library_facts = read_libraries(libraries, architectures)
    files = files_of(models, [libraries / library_name(x) for x in architectures])
    dataset = open_dataset(data, labels_file)
    chosen = choose_images(dataset, shared["num_classes"], images)
    preprocessing = Preprocessing.from_dict(shared["preprocessing"])
    check_size(files, len(chosen), preprocessing)
    output_folder(path.parent)
    with written_whole(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        validation = write_subset(Path(folder), chosen, len(dataset), preprocessing, opened)
        files |= {name: Path(folder) / name for name in (IMAGES, LABELS, LOGITS, NAMES)}
        members = [(Member(name, sha256_of(x), x.stat().st_size), x) for name, x in sorted(files.items())]
        index = Index(
            **shared,
            models=tuple(Model(x.path.name, x.recipe["name"], x.recipe["precision"]) for x in models),
            libraries=library_facts,
            validation=validation,
            versions=versions(),
            members=tuple(member for member, _ in members),
        )
        write_archive(temporary, INDEX, index.to_json(), members)
    logger.info(
        "pack: %s, %.1f MB, %d models, %d images, sha256 %s, in %.1f s",
        path.name, path.stat().st_size / 1e6, len(models), len(chosen), sha256_of(path), time.monotonic() - start,
    )  # fmt: skip
    return path


def find_models(sources: list[Path | Artifact], recipes: list[str] | None) -> list[Artifact]:
    """The ONNX files to pack, in the order of their names, each with its plugin form beside it."""
    found: dict[Path, Artifact] = {}
    for source in sources:
        files: list[Path | Artifact] = [source]
        if isinstance(source, Path) and source.is_dir():
            files = [*sorted(set(source.glob("*.onnx")) - set(source.glob("*.plugin.onnx")))]
        found |= {x.path: x for x in (read_artifact(file, ONNX) for file in files)}
    if not found:
        raise RmtEdgeError(
            f"There is no ONNX file in {', '.join(str(x) for x in sources)}.",
            do="Run `rmt-edge deploy` or `export` first.",
        )
    known = sorted({x.recipe["name"] for x in found.values()})
    for name in recipes or []:
        if name not in known:
            raise RmtEdgeError(f"There is no model of the recipe {name}.", f"there are {', '.join(known)}.")
    chosen = [x for x in found.values() if recipes is None or x.recipe["name"] in recipes]
    for model in chosen:
        check_plugin_form(model)
    return sorted(chosen, key=lambda x: x.path.name)


def check_plugin_form(model: Artifact) -> None:
    """Refuse an ONNX file without a plugin form, or with that of another export."""
    plugin_form = plugin_form_path(model.path)
    if not plugin_form.is_file():
        raise RmtEdgeError(
            f"{model.path} has no plugin form.", f"`export` writes {plugin_form.name} beside it.", "Export it again."
        )
    check_parent(read_artifact(plugin_form, PLUGIN_ONNX).manifest, model.manifest)


def shared_details(models: list[Artifact], checkpoint: Checkpoint) -> dict[str, Any]:
    """What the manifests agree on (SHARED), if it is all of that and they are of this checkpoint."""
    first, *rest = models
    for other in rest:
        for name in SHARED:
            if other.details[name] != first.details[name]:
                raise RmtEdgeError(
                    f"{first.path.name} and {other.path.name} differ in {name}: {_short(first.details[name])} and "
                    f"{_short(other.details[name])}.",
                    "the models of a bundle are of one checkpoint and take the same images.",
                    "Pack them apart.",
                )
    check_made_from(first, checkpoint.identity)
    return {name: first.details[name] for name in SHARED}


def _short(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, dict) else ", ".join(f"{k} {v}" for k, v in value.items())


def read_libraries(folder: Path, architectures: tuple[str, ...]) -> dict[str, Any]:
    """What the plugin libraries of those processors say of themselves, if they hold the same plugins."""
    facts = {x: read_library(folder / library_name(x), x) for x in architectures}
    for name in ("ops", "plugin_version"):
        if len({json.dumps(x[name]) for x in facts.values()}) > 1:
            raise RmtEdgeError(
                f"The plugin libraries in {folder} differ in {name}.",
                "they are of different versions of rmt-edge.",
                "Build them again: rmt-edge plugin build.",
            )
    return facts


def read_library(path: Path, architecture: str) -> dict[str, Any]:
    """What a plugin library says of itself, if it is the file that was built: the build's hash, ops and SMs."""
    beside = manifest_path(path)
    if not path.is_file() or not beside.is_file():
        found = ", ".join(sorted(x.name for x in path.parent.glob(library_name("*")))) or "none"
        missing = path if not path.is_file() else beside
        raise RmtEdgeError(
            f"There is no {missing}.", f"libraries there: {found}.",
            f"Build it with `rmt-edge plugin build --arch {architecture}`, pack for one processor with --arch, or none "
            "with --without-libraries.",
        )  # fmt: skip
    try:
        info = json.loads(beside.read_text())
        facts = {name: info[name] for name in ("hash", "ops", "plugin_version", "cubin_sms", "ptx_sms")}
        is_the_one = info["architecture"] == architecture and info["sha256"] == sha256_of(path)
    except (ValueError, KeyError, TypeError) as error:
        raise RmtEdgeError(f"{beside} does not describe a plugin library: {error!r}.", do="Build it again.") from error
    if not is_the_one:
        raise RmtEdgeError(
            f"{path} is not the library that {beside.name} describes.",
            "it was replaced, or is of another build.",
            "Build it again: rmt-edge plugin build.",
        )
    return facts


def files_of(models: list[Artifact], libraries: list[Path]) -> dict[str, Path]:
    """The files to pack by their names in the bundle: the models, their plugin forms, the libraries; with manifests."""
    paths = [file for model in models for file in (model.path, plugin_form_path(model.path))]
    named = [(x.name, x) for x in paths] + [(f"{LIBRARIES}/{x.name}", x) for x in libraries]
    files: dict[str, Path] = {}
    for name, path in named:
        if reason := wrong_name(name):
            raise RmtEdgeError(f"{path} cannot be packed under its name: {reason}.", do="Rename the checkpoint.")
        if name in files:
            raise RmtEdgeError(f"{files[name]} and {path} have the same name.", do="Pack one of them.")
        files |= {name: path, f"{name}.json": manifest_path(path)}
    return files


def choose_images(dataset: Dataset, num_classes: int, images: int | None) -> Dataset:
    """The subset's images, drawn evenly over the classes."""
    check_labels(dataset, num_classes)
    count = DEFAULT_IMAGES if images is None else images
    if not 0 < count <= len(dataset):
        raise RmtEdgeError(
            f"The validation subset is to have {count} images.", f"{dataset.path} has {len(dataset)}.",
            "Say how many with --images, or pass a larger data set.",
        )  # fmt: skip
    return dataset.drawn(count)


def check_size(files: dict[str, Path], images: int, preprocessing: Preprocessing) -> None:
    """Refuse what will not fit into a bundle, before the subset is written."""
    pixels = images * preprocessing.height * preprocessing.width * 3
    total = sum(x.stat().st_size for x in files.values()) + pixels
    if total > MAX_BYTES:
        raise RmtEdgeError(
            f"The bundle would have {total:,} bytes, {pixels:,} of them images.", f"it can have {MAX_BYTES:,}.",
            "Pack fewer models (--recipes) or fewer images (--images).",
        )  # fmt: skip


def write_subset(
    folder: Path,
    chosen: Dataset,
    of: int,
    preprocessing: Preprocessing,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """Write the subset's three arrays (subset.py) under `folder`; returns what the index says of it.

    chosen: the subset's images; of: how many the data set has.
    """
    (folder / IMAGES).parent.mkdir()
    assert chosen.labels is not None
    count, batch = len(chosen), images_at_a_time(preprocessing, BATCH)
    shape = (count, preprocessing.height, preprocessing.width, 3)
    with (folder / IMAGES).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for at in progress_bar(range(0, count, batch), "read images", unit="batch", leave=False):
            file.write(chosen.pixels(list(range(at, min(at + batch, count))), preprocessing).tobytes())
    names = [chosen.name(x) for x in range(count)]
    (folder / NAMES).write_text(json.dumps(names))
    subset = Subset(np.load(folder / IMAGES, mmap_mode="r"), chosen.labels, names)
    logits = reference_logits(subset, preprocessing, checkpoint)
    np.save(folder / LABELS, subset.labels)
    np.save(folder / LOGITS, logits)
    return {
        "images": len(subset),
        "dataset": chosen.identity | {"images": of},
        "class_names": None if chosen.class_names is None else list(chosen.class_names),
        "metric": "top-1",
        "reference_percent": percent(hits(top_classes(logits, 1), subset.labels)),
    }


def reference_logits(subset: Subset, preprocessing: Preprocessing, checkpoint: Checkpoint) -> np.ndarray:
    """The logits of the float32 PyTorch model as published. (n, classes), float32."""
    # On the CPU whatever there is, so that the same inputs give the same bytes.
    run, batch = runner_of(checkpoint.model, torch.device("cpu")), images_at_a_time(preprocessing, BATCH)
    spec = spec_of(checkpoint.model, preprocessing)
    outputs = outputs_of(run, subset, preprocessing, TASKS[spec.task], spec, "float32 reference", batch)
    return np.concatenate([x["logits"] for x in outputs])
