"""Two models on the same images: how much of a metric the second one loses, whatever the metric is.

A tally is what each image contributes to a metric: right or wrong, the matches of its boxes, its intersections and
unions. Two tallies of the same images give a drop with a paired interval. Nothing here knows a task.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from rmt_edge.metrics import CONFIDENCE


class Drop(Protocol):
    """How many points of a metric are lost on the same images: positive where the second model is worse.

    method: of the interval, in a sentence.
    """

    @property
    def points(self) -> float: ...

    @property
    def method(self) -> str: ...

    def interval_points(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided."""
        ...

    def upper_points(self, confidence: float) -> float:
        """One-sided: with this confidence the drop on further images is no larger."""
        ...

    def is_within(self, limit: float) -> bool:
        """Whether the drop on these images is no larger than so many points; a drop of exactly the limit is within."""
        ...


class Tally(Protocol):
    """What each image of a set contributes to a metric of one model."""

    def __len__(self) -> int: ...

    def percent(self) -> float: ...

    def drop_to(self, other: Any) -> Drop:
        """What another model, by its tally of the same images, loses of this one's metric."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, in few bytes an image."""
        ...


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same images. percent: of the second, the one that is judged."""

    metric: str
    reference_percent: float
    percent: float
    drop: Drop

    def to_dict(self) -> dict[str, Any]:
        """The keys by which gate, verdict, report and search know an accuracy."""
        return {
            "metric": self.metric,
            "percent": self.percent,
            "reference_percent": self.reference_percent,
            "drop_points": self.drop.points,
            "drop_interval_points": list(self.drop.interval_points()),
            "interval_method": self.drop.method,
        }


def compared(reference: dict[str, Tally], subject: dict[str, Tally]) -> list[Comparison]:
    """The metrics of a task, the one that stands for it first. reference, subject: tallies by metric."""
    assert list(reference) == list(subject), (list(reference), list(subject))
    return [
        Comparison(metric, before.percent(), subject[metric].percent(), before.drop_to(subject[metric]))
        for metric, before in reference.items()
    ]
