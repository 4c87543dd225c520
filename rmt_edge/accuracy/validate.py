"""Validate: the accuracy of an ONNX file against its checkpoint, over a whole data set.

Reference: the float32 PyTorch model as published, out of the very checkpoint. Subject: the very ONNX file that engines
are built from, through ONNX Runtime. Both see the same preprocessed images; all metrics are paired per image. The five
best classes of every image and their logits are kept, so that any other metric can be computed later, and kept from the
first batch on, so that a run that was killed continues (accuracy/resume.py).
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
    ONNX,
    PREDICTIONS,
    Manifest,
    check_checkpoint,
    manifest_path,
    output_folder,
    parent_of,
    read_manifest,
    versions,
)
from rmt_edge.data.dataset import Dataset, check_labels, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.runtime.onnx_runner import OnnxRunner

logger = logging.getLogger(__name__)


def validate(
    onnx_path: Path,
    checkpoint: Path,
    data: Path,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    labels_file: Path | None = None,
    workers: int | None = None,
) -> tuple[Path, Manifest]:
    """Write the predictions of an ONNX file and, in their manifest, its accuracy; returns both.

    data, labels_file: a data set with labels that fit the checkpoint's classes (open_dataset). max_drop, confidence:
    see accuracy.judgement. workers: processes that decode a folder's images.
    """
    start = time.monotonic()
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    onnx_manifest = read_manifest(onnx_path, ONNX)
    folder = output_folder(output or onnx_path.parent)
    given = check_checkpoint(onnx_manifest, checkpoint)
    dataset = open_dataset(data, labels_file)
    num_classes = onnx_manifest.details["num_classes"]
    labels = check_labels(dataset, num_classes)
    preprocessing = Preprocessing.from_dict(onnx_manifest.details["preprocessing"])
    images = Images(dataset, preprocessing, num_classes, checked_workers(workers))

    reference = reference_predictions(checkpoint, images, folder, weights=onnx_manifest.details["weights"])
    parents = [parent_of(onnx_path, onnx_manifest), given, dataset.as_parent()]
    path = folder / f"{onnx_path.stem}.predictions.npz"
    identity = {"parents": parents, "runtime": "ONNX Runtime, CPU"}
    top, resumed_images = predict_resumably(
        lambda: OnnxRunner(onnx_path), images, path, identity, f"validate {onnx_path.name}"
    )
    details = (
        accuracy(reference.classes, top.classes, labels, dataset.class_names)
        | {"worst_images": worst_images(reference, top, labels, dataset.name)}
        | judgement(reference.classes, top.classes, labels, max_drop, confidence)
        | {"images": len(dataset), "runtime": identity["runtime"], "resumed_images": resumed_images}
    )
    seconds = time.monotonic() - start
    manifest = write_predictions(path, top.classes, parents, onnx_manifest.recipe, details, seconds, top.scores, labels)
    finish(path)
    logger.info(
        "validate: %s, top-1 %.2f %%, drop %.2f points, in %.1f s",
        onnx_path.name, details["top1_percent"], details["drop_points"], manifest.seconds,
    )  # fmt: skip
    return path, manifest


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


def reference_predictions(checkpoint: Path, images: Images, folder: Path, weights: str | None) -> Top:
    """The float32 PyTorch model's predictions, kept in the folder so that one run serves every precision."""
    path = folder / f"{checkpoint.stem}.reference.predictions.npz"
    parents = [parent_of(checkpoint), images.dataset.as_parent()]
    settings = {"preprocessing": images.preprocessing.to_dict(), "weights": weights}
    if path.is_file() and manifest_path(path).is_file():
        known = read_manifest(path, PREDICTIONS)
        if known.parents == parents and known.recipe == settings:
            with np.load(path) as arrays:
                if "scores" in arrays:  # rmt-edge before 0.2 kept none
                    return Top(arrays["classes"], arrays["scores"])
    start = time.monotonic()

    def load() -> Run:
        model = load_checkpoint(checkpoint, weights)

        def run(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(batch)).numpy()

        return run

    details = {"images": len(images), "runtime": "PyTorch, float32, CPU"}
    identity = {"parents": parents, "weights": weights, "runtime": details["runtime"]}
    top, resumed_images = predict_resumably(load, images, path, identity, "float32 reference")
    details["resumed_images"] = resumed_images
    seconds = time.monotonic() - start
    write_predictions(path, top.classes, parents, settings, details, seconds, top.scores, images.dataset.labels)
    finish(path)
    return top
