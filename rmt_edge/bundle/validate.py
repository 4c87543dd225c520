"""The accuracy of an engine on the device that runs it, over the validation subset of the bundle it was built from.

Reference: the float32 PyTorch model's logits on the same images, made on the workstation and carried by the bundle.
Subject: the very engine file, on this GPU; or, on a workstation, an ONNX file of the bundle through ONNX Runtime, which
is the same but for the runner. Metrics are those of accuracy/validate.py, and the distance of the logits besides.
"""

import logging
import math
import time
from pathlib import Path

import numpy as np

from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop
from rmt_edge.accuracy.predictions import Run, accuracy, outputs_of, padded, write_predictions
from rmt_edge.accuracy.subject import Subject, spec_in, subject_of
from rmt_edge.artifact import CHECKPOINT, DATA, ENGINE, ONNX, SUBSET, Artifact, output_folder, parent_of, read_artifact
from rmt_edge.bundle.bundle import SUFFIX, Index, read_folder, subset_of, unpack
from rmt_edge.bundle.subset import IMAGES
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import relative_error, sqnr_db
from rmt_edge.tasks.task import Named, Rows, Spec, Task
from rmt_edge.tasks.tasks import TASKS

logger = logging.getLogger(__name__)


def validate_engine(
    engine: Path | Artifact,
    runner: Run,
    bundle: Path | None = None,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
) -> Artifact:
    """Write the predictions of an engine and, in their manifest, its accuracy.

    runner: the engine, opened (open_engine), or whatever takes images (b, 3, h, w) float32 to logits (b, classes)
    float32. bundle: the bundle that the engine was built from, packed or unpacked; the engine's folder by default.
    max_drop, confidence: see limits.judgement.
    """
    subject = subject_of(read_artifact(engine, ENGINE))
    opened = subject.file
    path = (output or opened.path.parent) / f"{opened.path.stem}.predictions.npz"
    return _validate(subject, runner, unpacked(bundle or opened.path.parent), path, max_drop, confidence)


def validate_onnx(
    onnx_file: Path | Artifact,
    runner: Run,
    bundle: Path,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
) -> Artifact:
    """As validate_engine, of an ONNX file that is in the bundle; writes `<onnx>.subset.predictions.npz`."""
    subject = subject_of(read_artifact(onnx_file, ONNX))
    opened = subject.file
    path = (output or opened.path.parent) / f"{opened.path.stem}.subset.predictions.npz"
    return _validate(subject, runner, unpacked(bundle), path, max_drop, confidence)


def _validate(
    subject: Subject, runner: Run, folder: Path, path: Path, max_drop: float | None, confidence: float | None
) -> Artifact:
    start = time.monotonic()
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    index = read_folder(folder)
    check_in_bundle(subject, index, folder)
    output_folder(path.parent)
    subset, reference_logits = subset_of(folder, index)
    preprocessing = Preprocessing.from_dict(index.preprocessing)
    run, batch = padded(runner, subject.batches.start), subject.batch_of(preprocessing)
    spec = spec_in(subject.file.details)
    task = TASKS[spec.task]
    title = f"validate {subject.file.path.name}"
    found = list(outputs_of(run, subset, preprocessing, task, spec, title, batch))
    logits = np.concatenate([x["logits"] for x in found])
    reference, rows = (judged_rows(task, spec, x, subset.labels) for x in (reference_logits, logits))
    dataset = index.validation["dataset"]
    named = Named(subset.names.__getitem__, index.validation["class_names"])
    details = (
        accuracy(task, reference, rows, named, max_drop, confidence)
        | logit_distance(logits, reference_logits)
        | subject.facts
        | {"task": spec.task, "images": len(subset), "dataset_images": dataset["images"]}
    )
    parents = [
        subject.file.as_parent(),
        parent_of(index.checkpoint["name"], index.checkpoint["sha256"], CHECKPOINT),
        parent_of(dataset["name"], dataset["sha256"], DATA),
        parent_of(IMAGES, str(index.sha256_of(IMAGES)), SUBSET),
    ]
    seconds = time.monotonic() - start
    predictions = write_predictions(path, rows, parents, subject.file.recipe, details, seconds)
    logger.info(
        "validate: %s, %d images, %s %.2f %%, drop %.2f points, in %.1f s", subject.file.path.name, len(subset),
        details["metric"], details["percent"], details["drop_points"], seconds,
    )  # fmt: skip
    return predictions


def judged_rows(task: Task, spec: Spec, logits: np.ndarray, labels: np.ndarray) -> Rows:
    """What the task keeps of a classifier's logits (n, classes), with the labels beside it."""
    records = task.rows_of({"logits": logits}, spec, (), labels, 0)
    rows = {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
    return rows | task.kept_beside(rows, labels)


def unpacked(bundle: Path) -> Path:
    """The folder of a bundle: unpacked beside it if it is packed, else the path itself."""
    return unpack(bundle) if bundle.suffix == SUFFIX else bundle


def check_in_bundle(subject: Subject, index: Index, folder: Path) -> None:
    """Refuse what was not built from an ONNX file of the bundle: its labels and logits say nothing of another model."""
    if subject.onnx_sha256 not in {x.sha256 for x in index.members if x.name.endswith(".onnx")}:
        raise RmtEdgeError(
            f"{subject.file.path.name} is not of the bundle in {folder}: it holds no ONNX file "
            f"{subject.onnx_sha256[:16]}….",
            f"its models are {', '.join(x.onnx for x in index.models)}.",
            "Name the bundle that it was built from with --bundle.",
        )


def logit_distance(logits: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """How far all logits are from the float32 model's: ‖difference‖/‖reference‖, and the same in decibels.

    The decibels are None where they are equal, as JSON has no infinity.
    """
    ratio_db = sqnr_db(logits, reference)
    distance = relative_error(logits, reference)
    return {"logits_relative_error": distance, "logits_sqnr_db": None if math.isinf(ratio_db) else ratio_db}
