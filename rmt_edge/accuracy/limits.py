"""What may be lost: the limit on a drop in accuracy, how surely it is to be kept, and whether it was. numpy only."""

from fractions import Fraction
from typing import Any

import numpy as np

from rmt_edge.artifact import Artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import discordant, drop_upper_points, hits

MAX_DROP_POINTS = 0.5


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
    pair = hits(reference[:, :1], labels), hits(classes[:, :1], labels)
    upper, is_within = held_to(max_drop, *pair, confidence)
    return {
        "max_drop_points": max_drop,
        "confidence": confidence,
        "drop_upper_points": upper,
        "within_max_drop": is_within,
    }


def held_to(
    limit: float, reference_hits: np.ndarray, subject_hits: np.ndarray, confidence: float | None
) -> tuple[float | None, bool]:
    """The upper end of the drop's one-sided interval (None without a confidence), and whether the limit is kept.

    Without a confidence images are counted, and no float is rounded: 100·(lost - won) ≤ limit·images, where the limit
    is the decimal number that was written. A drop of exactly the limit keeps it.
    """
    if confidence is not None:
        upper = drop_upper_points(reference_hits, subject_hits, confidence)
        return upper, upper <= limit
    lost, won = discordant(reference_hits, subject_hits)
    return None, 100 * (lost - won) <= Fraction(str(limit)) * len(subject_hits)


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


def drop_message(predictions: Artifact) -> str:
    """One sentence for a drop above the limit: the drop, its interval, the limit."""
    details = predictions.details
    low, high = details["drop_interval_points"]
    lost = (
        f"{predictions.manifest.source['name']} loses {details['drop_points']:.2f} points of top-1 "
        f"({details['reference_top1_percent']:.2f} % → {details['top1_percent']:.2f} %; "
        f"95 % interval of the loss {low:+.2f} to {high:+.2f})"
    )
    limit = f"more than the {details['max_drop_points']:g} that --max-drop allows."
    if details.get("confidence") is None:
        return f"{lost}, {limit}"
    return f"{lost}; with {details['confidence']:.1%} confidence up to {details['drop_upper_points']:.2f}, {limit}"
