"""Accuracy of one model against another on the same images: metrics, the runs that they come from, their record.

For the workstation and the device alike: numpy alone. validate.py holds an ONNX file to its checkpoint over a whole
data set, engine_accuracy.py an engine to the float32 logits of a bundle's validation subset.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from rmt_edge.artifact import PREDICTIONS, Manifest, write_manifest, written_whole
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import (
    INTERVAL_METHOD,
    discordant,
    drop_interval_points,
    drop_points,
    drop_upper_points,
    hits,
    mcnemar_p,
    percent,
    top_classes,
)
from rmt_edge.paired import Top, flips, per_class
from rmt_edge.preprocess import Preprocessing

MAX_DROP_POINTS = 0.5
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


def judgement(
    reference: np.ndarray,
    classes: np.ndarray,
    labels: np.ndarray,
    max_drop: float | None = None,
    confidence: float | None = None,
) -> dict[str, Any]:
    """Whether no more top-1 is lost than max_drop points; arrays as in `accuracy`.

    With a confidence, the upper end of the drop's one-sided interval at that confidence must not lie above max_drop;
    without, the drop on these images.
    """
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    reference_hits, subject_hits = hits(reference[:, :1], labels), hits(classes[:, :1], labels)
    upper = None if confidence is None else drop_upper_points(reference_hits, subject_hits, confidence)
    judged = drop_points(reference_hits, subject_hits) if upper is None else upper
    return {
        "max_drop_points": max_drop,
        "confidence": confidence,
        "drop_upper_points": upper,
        "within_max_drop": judged <= max_drop,
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
    for images, _ in tqdm(batches, title, total, unit="batch", leave=False):
        logits = run(images)
        if not np.isfinite(logits).all():
            raise RmtEdgeError(
                f"{title}: the logits hold NaN or infinite values.",
                "FP16 ends at 65504; a model with larger activations overflows.",
                "Use the recipe fp32 to see whether it is the precision.",
            )
        yield logits


def checked_max_drop(max_drop: float | None) -> float:
    """The points of top-1 that may be lost: as given, or half a point."""
    if max_drop is None:
        return MAX_DROP_POINTS
    if not 0 <= max_drop <= 100:
        raise RmtEdgeError(f"--max-drop is {max_drop:g}.", "it is a number of points, 0 to 100.")
    return max_drop


def checked_confidence(confidence: float | None) -> float | None:
    """The confidence of the gate's one-sided interval; None for a gate on the images seen alone."""
    if confidence is not None and not 0.5 <= confidence < 1:
        raise RmtEdgeError(f"--confidence is {confidence:g}.", "it is a probability, 0.5 to below 1, such as 0.95.")
    return confidence


def drop_message(manifest: Manifest) -> str:
    """One sentence for a drop above the limit: the drop, its interval, the limit."""
    details = manifest.details
    low, high = details["drop_interval_points"]
    lost = (
        f"{manifest.parents[0]['name']} loses {details['drop_points']:.2f} points of top-1 "
        f"({details['reference_top1_percent']:.2f} % → {details['top1_percent']:.2f} %; "
        f"95 % interval of the loss {low:+.2f} to {high:+.2f})"
    )
    limit = f"more than the {details['max_drop_points']:g} that --max-drop allows."
    if details.get("confidence") is None:
        return f"{lost}, {limit}"
    return f"{lost}; with {details['confidence']:.1%} confidence up to {details['drop_upper_points']:.2f}, {limit}"


def write_predictions(
    path: Path,
    classes: np.ndarray,
    parents: list[dict[str, str]],
    recipe: dict[str, Any],
    details: dict[str, Any],
    seconds: float,
    scores: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Manifest:
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
