"""Predictions: one run of a model over images, what is kept of it, and its accuracy against another on the same images.

For the workstation and the device alike: numpy alone. accuracy/validate.py holds an ONNX file or an engine to the
float32 model over a whole data set, bundle/validate.py to the float32 logits of a bundle's validation subset.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmt_edge.accuracy.paired import Top, flips, per_class
from rmt_edge.accuracy.resume import resumed
from rmt_edge.artifact import PREDICTIONS, Artifact, versions, write_manifest
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import (
    INTERVAL_METHOD,
    discordant,
    drop_interval_points,
    drop_points,
    hits,
    mcnemar_p,
    percent,
    top_classes,
)
from rmt_edge.progress import progress_bar
from rmt_edge.writing import written_whole

BATCH = 50
KEPT = 5  # classes kept per image

# Network inputs (b, 3, h, w) float32 to logits (b, classes) float32.
Run = Callable[[np.ndarray], np.ndarray]


class Images(Protocol):
    """What `logits_of` runs over: images of a data set, or the validation subset of a bundle."""

    def __len__(self) -> int: ...

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]: ...


def accuracy(
    reference: np.ndarray, classes: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """All metrics of one model against another. reference, classes: (n, k) classes, best first; labels: (n,)."""
    reference_hits, subject_hits = hits(reference[:, :1], labels), hits(classes[:, :1], labels)
    return {
        "top1_percent": percent(subject_hits),
        "top5_percent": percent(hits(classes[:, :5], labels)),
        "reference_top1_percent": percent(reference_hits),
        "reference_top5_percent": percent(hits(reference[:, :5], labels)),
        "drop_points": drop_points(reference_hits, subject_hits),
        "drop_interval_points": list(drop_interval_points(reference_hits, subject_hits)),
        "interval_method": INTERVAL_METHOD,
        "mcnemar_p": mcnemar_p(*discordant(reference_hits, subject_hits)),
        "agreement_percent": percent(reference[:, 0] == classes[:, 0]),
        "flips": flips(reference[:, 0], classes[:, 0], labels),
        "per_class": per_class(reference[:, 0], classes[:, 0], labels, class_names),
    }


def top_of(logits: np.ndarray) -> Top:
    """The KEPT best classes of each image and their logits. logits: (b, classes)."""
    classes = top_classes(logits, KEPT).astype(np.int32)
    return Top(classes, np.take_along_axis(logits, classes, axis=1).astype(np.float32))


def top_in(predictions: Artifact) -> Top:
    """The kept classes and logits of a file of predictions."""
    with np.load(predictions.path) as arrays:
        return Top(arrays["classes"], arrays["scores"])


def padded(runner: Run, smallest: int) -> Run:
    """A runner that also takes batches below its smallest: it repeats the last image, and forgets what comes of it."""

    def run(images: np.ndarray) -> np.ndarray:
        missing = max(0, smallest - len(images))
        return runner(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge"))[: len(images)]

    return run


def logits_of(
    run: Run, images: Images, preprocessing: Preprocessing, title: str, batch: int = BATCH, num_classes: int = 0
) -> Iterator[np.ndarray]:
    """The logits batch by batch, (b, classes), under a progress bar; NaN and infinity are refused.

    num_classes: that the logits must have, if it is given.
    """
    total = -(-len(images) // batch)
    for inputs in progress_bar(images.batches(preprocessing, batch), title, total, unit="batch", leave=False):
        logits = run(inputs)
        if num_classes and logits.shape != (len(inputs), num_classes):
            raise RmtEdgeError(f"{title}: the logits are {logits.shape}, expected ({len(inputs)}, {num_classes}).")
        if not np.isfinite(logits).all():
            raise RmtEdgeError(
                f"{title}: the logits hold NaN or infinite values.",
                "FP16 ends at 65504; a model with larger activations overflows.",
                "Use the recipe fp32 to see whether it is the precision.",
            )
        yield logits


def predict_resumably(
    load: Callable[[], Run],
    images_from: Callable[[int], Images],
    preprocessing: Preprocessing,
    num_classes: int,
    path: Path,
    identity: dict[str, Any],
    title: str,
    batch: int = BATCH,
) -> tuple[Top, int]:
    """The predictions of every image, those of an earlier run that was killed included; and the number of the latter.

    load: gives the model, if an image is left for it. images_from: the images from one on. path: where the predictions
    will lie. identity: what decides them, beside preprocessing, batch and versions.
    """
    count, kept = len(images_from(0)), min(KEPT, num_classes)
    record = np.dtype([("classes", "<i4", (kept,)), ("scores", "<f4", (kept,))])
    settings = {"preprocessing": preprocessing.to_dict(), "batch": batch, "images": count, "versions": versions()}
    with resumed(path, identity | settings, batch, record, count) as partial:
        before = len(partial)
        if before < count:
            for logits in logits_of(load(), images_from(before), preprocessing, title, batch, num_classes):
                rows = np.empty(len(logits), record)
                rows["classes"], rows["scores"] = top_of(logits)
                partial.append(rows)
        rows = partial.rows()
        return Top(np.ascontiguousarray(rows["classes"]), np.ascontiguousarray(rows["scores"])), before


def write_predictions(
    path: Path,
    classes: np.ndarray,
    parents: list[dict[str, str]],
    recipe: dict[str, Any],
    details: dict[str, Any],
    seconds: float,
    scores: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Artifact:
    """Write the best classes of every image, (n, k) int32, as .npz, and what is known about them as its manifest.

    scores: (n, k) float32, the logits of the classes; labels: (n,). Either is left out of the file where it is None.
    """
    beside: dict[str, Any] = {
        name: value for name, value in (("scores", scores), ("labels", labels)) if value is not None
    }
    with written_whole(path) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, classes=classes, **beside)
        return write_manifest(
            temporary, path, kind=PREDICTIONS, parents=parents, recipe=recipe, details=details, seconds=seconds
        )
