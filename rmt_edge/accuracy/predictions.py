"""Accuracy of one model against another on the same images: metrics, the runs that they come from, their record.

For the workstation and the device alike: numpy alone. accuracy/validate.py holds an ONNX file to its checkpoint over a
whole data set, bundle/validate.py an engine to the float32 logits of a bundle's validation subset.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmt_edge.accuracy.paired import Top, flips, per_class
from rmt_edge.artifact import PREDICTIONS, Artifact, write_manifest, written_whole
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

BATCH = 50
KEPT = 5  # classes kept per image

# Network inputs (b, 3, h, w) float32 to logits (b, classes) float32.
Run = Callable[[np.ndarray], np.ndarray]


class Images(Protocol):
    """What `logits_of` runs over: data.Dataset, or the validation subset of a bundle."""

    def __len__(self) -> int: ...

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]: ...


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


def logits_of(
    run: Run, dataset: Images, preprocessing: Preprocessing, title: str, batch: int = BATCH
) -> Iterator[np.ndarray]:
    """The logits batch by batch, (b, classes), under a progress bar; NaN and infinity are refused."""
    batches = dataset.batches(preprocessing, batch)
    total = -(-len(dataset) // batch)
    for images, _ in progress_bar(batches, title, total, unit="batch", leave=False):
        logits = run(images)
        if not np.isfinite(logits).all():
            raise RmtEdgeError(
                f"{title}: the logits hold NaN or infinite values.",
                "FP16 ends at 65504; a model with larger activations overflows.",
                "Use the recipe fp32 to see whether it is the precision.",
            )
        yield logits


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
