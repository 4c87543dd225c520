"""Validate: the accuracy of an ONNX file against its checkpoint, over a whole data set.

The reference is the float32 PyTorch model as published, out of the very checkpoint. The subject is the exported ONNX
file, through ONNX Runtime: engines of native kernels are built from it, those of plugins from its plugin form with the
same weights, which `export` has checked against PyTorch (`plugin_form_relative_error`). Both
see the same preprocessed images; all metrics are paired per image. The five best classes of every image and their
logits are kept, so that any other metric can be computed later, and kept from the first batch on, so that a run that
was killed continues (accuracy/resume.py).
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop, judgement
from rmt_edge.accuracy.paired import Top, worst_images
from rmt_edge.accuracy.predictions import BATCH, KEPT, Run, accuracy, logits_of, top_of, write_predictions
from rmt_edge.accuracy.resume import finish, resumed
from rmt_edge.artifact import (
    CHECKPOINT,
    ONNX,
    PREDICTIONS,
    Artifact,
    check_made_from,
    manifest_path,
    output_folder,
    read_artifact,
    versions,
)
from rmt_edge.data.dataset import Dataset, check_labels, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.runtime.onnx_runner import OnnxRunner

logger = logging.getLogger(__name__)


def validate(
    onnx_file: Path | Artifact,
    checkpoint: Path | Checkpoint,
    data: Path | Dataset,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    labels_file: Path | None = None,
    workers: int | None = None,
    reference: Artifact | None = None,
) -> Artifact:
    """Write the predictions of an ONNX file and, in their manifest, its accuracy.

    data, labels_file: a data set with labels that fit the checkpoint's classes (open_dataset). max_drop, confidence:
    see limits.judgement. workers: processes that decode a folder's images. reference: the predictions of the float32
    model on the same images, as reference_predictions returns them; they are found or made without it.
    """
    start = time.monotonic()
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    source = read_artifact(onnx_file, ONNX)
    folder = output_folder(output or source.path.parent)
    opened = open_checkpoint(checkpoint, source.details["weights"])
    check_made_from(source, opened.identity)
    dataset = open_dataset(data, labels_file)
    labels = check_labels(dataset, source.details["num_classes"])
    images = images_of(source, dataset, checked_workers(workers))

    expected = top_in(reference or reference_predictions(opened, images, folder))
    parents = [source.as_parent(), opened.as_parent(CHECKPOINT), dataset.as_parent()]
    path = folder / f"{source.path.stem}.predictions.npz"
    identity = {"parents": parents, "runtime": "ONNX Runtime, CPU"}
    top, resumed_images = predict_resumably(
        lambda: OnnxRunner(source.path), images, path, identity, f"validate {source.path.name}"
    )
    details = (
        accuracy(expected.classes, top.classes, labels, dataset.class_names)
        | {"worst_images": worst_images(expected, top, labels, dataset.name)}
        | judgement(expected.classes, top.classes, labels, max_drop, confidence)
        | {"images": len(dataset), "runtime": identity["runtime"], "resumed_images": resumed_images}
    )
    seconds = time.monotonic() - start
    predictions = write_predictions(path, top.classes, parents, source.recipe, details, seconds, top.scores, labels)
    finish(path)
    logger.info(
        "validate: %s, top-1 %.2f %%, drop %.2f points, in %.1f s",
        source.path.name, details["top1_percent"], details["drop_points"], seconds,
    )  # fmt: skip
    return predictions


def checked_workers(workers: int | None) -> int | None:
    """The processes that decode images; None for as many as pay."""
    if workers is not None and not 0 <= workers <= 256:
        raise RmtEdgeError(f"--workers is {workers}.", "it is a number of processes, 0 for none beside this one.")
    return workers


@dataclass(frozen=True)
class Images:
    """What one run goes over: a data set as a network takes it, from the image `start` on."""

    dataset: Dataset
    preprocessing: Preprocessing
    num_classes: int
    workers: int | None = None
    start: int = 0

    def __len__(self) -> int:
        return len(self.dataset) - self.start

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        return self.dataset.batches(preprocessing, batch, start=self.start, workers=self.workers)


def images_of(model: Artifact, dataset: Dataset, workers: int | None = None) -> Images:
    """The images of a data set as a quantised checkpoint, ONNX file or engine takes them."""
    preprocessing = Preprocessing.from_dict(model.details["preprocessing"])
    return Images(dataset, preprocessing, model.details["num_classes"], workers)


def predict_resumably(
    load: Callable[[], Run], images: Images, path: Path, identity: dict[str, Any], title: str
) -> tuple[Top, int]:
    """The predictions of every image, those of an earlier run that was killed included; and the number of the latter.

    load: gives the model, if an image is left for it. path: where the predictions will lie. identity: what decides
    them, beside data, preprocessing, batch and versions.
    """
    settings = {"preprocessing": images.preprocessing.to_dict(), "batch": BATCH, "versions": versions()}
    count, kept = len(images), min(KEPT, images.num_classes)
    with resumed(path, identity | settings | {"images": count}, BATCH, kept, count) as partial:
        before = len(partial)
        if before < count:
            rest = Images(images.dataset, images.preprocessing, images.num_classes, images.workers, before)
            for logits in logits_of(load(), rest, images.preprocessing, title):
                partial.append(top_of(logits))
        return partial.top(), before


def top_in(predictions: Artifact) -> Top:
    """The kept classes and logits of a file of predictions."""
    with np.load(predictions.path) as arrays:
        return Top(arrays["classes"], arrays["scores"])


def reference_predictions(checkpoint: Checkpoint, images: Images, folder: Path) -> Artifact:
    """The float32 PyTorch model's predictions, kept in the folder so that one run serves every precision."""
    path = folder / f"{checkpoint.path.stem}.reference.predictions.npz"
    parents = [checkpoint.as_parent(), images.dataset.as_parent()]
    settings = {"preprocessing": images.preprocessing.to_dict(), "weights": checkpoint.weights}
    if path.is_file() and manifest_path(path).is_file():
        known = read_artifact(path, PREDICTIONS)
        if known.manifest.parents == parents and known.recipe == settings:
            return known
    start = time.monotonic()

    def load() -> Run:
        model = checkpoint.model

        def run(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(batch)).numpy()

        return run

    details = {"images": len(images), "runtime": "PyTorch, float32, CPU"}
    identity = {"parents": parents, "weights": checkpoint.weights, "runtime": details["runtime"]}
    top, resumed_images = predict_resumably(load, images, path, identity, "float32 reference")
    details["resumed_images"] = resumed_images
    seconds = time.monotonic() - start
    labels = images.dataset.labels
    predictions = write_predictions(path, top.classes, parents, settings, details, seconds, top.scores, labels)
    finish(path)
    return predictions
