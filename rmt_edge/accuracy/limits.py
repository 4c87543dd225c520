"""What may be lost: the limit on a drop in accuracy, how surely it is to be kept, and whether it was. numpy only."""

from collections.abc import Sequence
from typing import Any

from rmt_edge.artifact import Artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.comparison import Comparison, Drop

MAX_DROP_POINTS = 0.5


def judgement(
    found: Sequence[Comparison], max_drop: float | None = None, confidence: float | None = None
) -> dict[str, Any]:
    """Whether no more of any metric is lost than max_drop points; the upper end is that of the first.

    With a confidence, the upper end of a drop's one-sided interval at that confidence must not lie above max_drop;
    without, the drop on these images.
    """
    max_drop, confidence = checked_max_drop(max_drop), checked_confidence(confidence)
    held = [held_to(max_drop, x.drop, confidence) for x in found]
    return {
        "max_drop_points": max_drop,
        "confidence": confidence,
        "drop_upper_points": held[0][0],
        "within_max_drop": all(is_within for _, is_within in held),
    }


def held_to(limit: float, drop: Drop, confidence: float | None) -> tuple[float | None, bool]:
    """The upper end of a drop's one-sided interval (None without a confidence), and whether the limit is kept.

    A drop of exactly the limit keeps it.
    """
    if confidence is None:
        return None, drop.is_within(limit)
    upper = drop.upper_points(confidence)
    return upper, upper <= limit


def checked_max_drop(max_drop: float | None) -> float:
    """The points of a metric that may be lost: as given, or half a point."""
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
    losses = [_loss(x) for x in (details, *details.get("other_metrics", []))]
    limit = f"more than the {details['max_drop_points']:g} that --max-drop allows."
    lost = f"{predictions.manifest.source['name']} loses {'; '.join(losses)}"
    if details.get("confidence") is None:
        return f"{lost}, {limit}"
    return f"{lost}; with {details['confidence']:.1%} confidence up to {details['drop_upper_points']:.2f}, {limit}"


def _loss(comparison: dict[str, Any]) -> str:
    low, high = comparison["drop_interval_points"]
    return (
        f"{comparison['drop_points']:.2f} points of {comparison['metric']} "
        f"({comparison['reference_percent']:.2f} % → {comparison['percent']:.2f} %; "
        f"95 % interval of the loss {low:+.2f} to {high:+.2f})"
    )
