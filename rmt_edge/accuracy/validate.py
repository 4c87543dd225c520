"""Validate: the accuracy of an ONNX file or an engine against the float32 model, over a whole data set.

Reference: predictions of the float32 PyTorch model as published, out of the very checkpoint (accuracy/reference.py
makes them, on a workstation). Subject: the very file, through ONNX Runtime or on the GPU of this machine. Both see the
same preprocessed images; all metrics are paired per image. What the task keeps of every image lets any other
metric be computed later, and is kept from the first batch on, so that a run that was killed continues
(accuracy/resume.py). Without torch, so that a device holds its engine to as many images as there are.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop
from rmt_edge.accuracy.predictions import Run, accuracy, padded, predict_resumably, rows_in, write_predictions
from rmt_edge.accuracy.resume import finish
from rmt_edge.accuracy.subject import Subject, spec_in, subject_of
from rmt_edge.artifact import CHECKPOINT, DATA, PREDICTIONS, Artifact, output_folder, parent_of, read_artifact
from rmt_edge.data.dataset import Dataset, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.data.truth import check_truth
from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime.open import open_runner
from rmt_edge.tasks.task import Frame, Named
from rmt_edge.tasks.tasks import TASKS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataImages:
    """Images of a data set from the image `start` on, as `outputs_of` runs over them."""

    dataset: Dataset
    preprocessing: Preprocessing
    truth: Any
    workers: int | None = None
    start: int = 0

    def __len__(self) -> int:
        return len(self.dataset) - self.start

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]:
        """Network inputs (b, 3, h, w) float32, in order."""
        return self.dataset.batches(preprocessing, batch, self.start, self.workers)

    def frames(self, first: int, count: int) -> Sequence[Frame]:
        """See Images."""
        return self.dataset.frames(self.preprocessing, first, count)


def validate(
    file: Path | Artifact,
    data: Path | Dataset,
    reference: Path | Artifact,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    labels_file: Path | None = None,
    workers: int | None = None,
    runner: Run | None = None,
    libraries: Path | None = None,
) -> Artifact:
    """Write the predictions of an ONNX file or an engine and, in their manifest, its accuracy.

    data, labels_file: a data set with labels that fit the checkpoint's classes (open_dataset). reference: predictions
    of the float32 model on it (accuracy/reference.py); of the data set the images that they are of are taken. max_drop,
    confidence: see limits.judgement. workers: processes that decode a folder's images. runner: the file, opened
    (open_onnx, open_engine); without it the file is opened here. libraries: see open_engine.
    """
    start = time.monotonic()
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    checked_workers(workers)
    subject = subject_of(file)
    details = subject.file.details
    preprocessing = Preprocessing.from_dict(details["preprocessing"])
    expected = read_artifact(reference, PREDICTIONS)
    check_reference_model(expected, subject, preprocessing)
    dataset = referenced_images(expected, open_dataset(data, labels_file))
    spec = spec_in(details)
    task = TASKS[spec.task]
    truth = check_truth(dataset, task, spec)
    folder = output_folder(output or subject.file.path.parent)
    path = folder / f"{subject.file.path.stem}.predictions.npz"
    parents = [
        subject.file.as_parent(),
        parent_of(details["checkpoint"]["name"], details["checkpoint"]["sha256"], CHECKPOINT),
        dataset.as_parent(),
    ]
    identity = {"parents": parents, "runtime": subject.facts["runtime"], "drawn": dataset.drawing()}
    batch, title = subject.batch_of(preprocessing), f"validate {subject.file.path.name}"
    with contextlib.ExitStack() as opened:

        def load() -> Run:
            found = opened.enter_context(open_runner(subject.file, libraries)) if runner is None else runner
            return padded(found, subject.batches.start)

        rows, resumed_images = predict_resumably(
            load, lambda at: DataImages(dataset, preprocessing, truth, workers, at), preprocessing, task, spec, path,
            identity, title, batch,
        )  # fmt: skip
    rows |= task.kept_beside(rows, truth)
    named = Named(dataset.name, dataset.class_names)
    found: dict[str, Any] = (
        accuracy(task, rows_in(expected), rows, named, max_drop, confidence)
        | subject.facts
        | {"task": spec.task, "images": len(dataset), "drawn": dataset.drawing(), "resumed_images": resumed_images}
        | {"reference": {"sha256": expected.sha256, "runtime": expected.details["runtime"]}}
    )
    seconds = time.monotonic() - start
    predictions = write_predictions(path, rows, parents, subject.file.recipe, found, seconds)
    finish(path)
    logger.info(
        "validate: %s, %d images, %s %.2f %%, drop %.2f points, in %.1f s", subject.file.path.name, len(dataset),
        found["metric"], found["percent"], found["drop_points"], seconds,
    )  # fmt: skip
    return predictions


def check_reference_model(reference: Artifact, subject: Subject, preprocessing: Preprocessing) -> None:
    """Refuse predictions that are not of the float32 model that a file was made from, on its input."""
    name, made_from = reference.path.name, subject.file.details["checkpoint"]
    source, known = reference.manifest.source, reference.recipe
    if source["sha256"] != made_from["sha256"] or "weights" not in known:
        raise _other_reference(
            f"{name} holds the predictions of {source['name']} ({source['sha256'][:16]}…); {subject.file.path.name} "
            f"was made from {made_from['name']} ({made_from['sha256'][:16]}…)."
        )
    if known["weights"] != subject.file.details["weights"]:
        asked, given = subject.file.details["weights"], known["weights"]
        raise _other_reference(f"{name} is of the weights {given}, {subject.file.path.name} of {asked}.")
    if known["preprocessing"] != preprocessing.to_dict():
        differs = [key for key, value in preprocessing.to_dict().items() if known["preprocessing"].get(key) != value]
        raise _other_reference(
            f"{name} and {subject.file.path.name} differ in preprocessing: "
            + ", ".join(f"{x} {known['preprocessing'].get(x)} and {preprocessing.to_dict()[x]}" for x in differs)
            + "."
        )


def referenced_images(reference: Artifact, dataset: Dataset) -> Dataset:
    """The images of a data set that a reference is of, or an error if it is of other images."""
    name, data, drawn = reference.path.name, reference.manifest.parent(DATA), reference.details["drawn"]
    if data["sha256"] != dataset.sha256:
        raise _other_reference(
            f"{name} is of the images {data['name']} ({data['sha256'][:16]}…), not of {dataset.path} "
            f"({dataset.sha256[:16]}…)."
        )
    chosen = dataset if dataset.chosen is not None else dataset.drawn(drawn["images"])
    if chosen.drawing() != drawn:
        raise _other_reference(f"{name} is of other images of {dataset.path} than are drawn of it here.")
    return chosen


def _other_reference(what: str) -> RmtEdgeError:
    return RmtEdgeError(
        what,
        "accuracy is compared image by image with the float32 model on the same input.",
        "Make the reference on a workstation: rmt-edge validate FILE.onnx --checkpoint CHECKPOINT --data IMAGES",
    )


def checked_workers(workers: int | None) -> int | None:
    """The processes that decode images; None for as many as pay."""
    if workers is not None and not 0 <= workers <= 256:
        raise RmtEdgeError(f"--workers is {workers}.", "it is a number of processes, 0 for none beside this one.")
    return workers
