"""What a task is: a module of these functions, one a file of this package; TASKS names them (tasks.py)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rmt_edge.tasks.comparison import Tally

# What a runner gives of a batch, by the names of the model's outputs; and what is kept of each image, by field.
Outputs = Mapping[str, np.ndarray]
Rows = dict[str, np.ndarray]


class Frame(NamedTuple):
    """Where a picture lies in the network's input: at the top left, resized to (height, width), zeros beside it.

    original_height, original_width: of the picture as its file has it.
    """

    original_height: int
    original_width: int
    height: int
    width: int


class Spec(Protocol):
    """What a task asks of a model (model/spec.py): its classes, without background; the size of its input, in pixels;
    whether its boxes come with masks."""

    @property
    def classes(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def has_masks(self) -> bool: ...


class Named(NamedTuple):
    """What the records call images and classes. image: from its index; classes: by number, None for bare numbers."""

    image: Callable[[int], str] = str
    classes: Sequence[str] | None = None


class Task(Protocol):
    """The functions of a task. What they have in common:

    truth: of a data set (labels, annotations, label maps), as data/ reads it; None where there is none.
    rows: of all images, {field: (n, …)}, the fields those of `record`. Rows are judged where `kept_beside` is among
    them.
    """

    def record(self, spec: Spec) -> np.dtype:
        """What is kept of one image, a record of fixed size."""
        ...

    def check_outputs(self, outputs: Outputs, images: int, spec: Spec, title: str) -> None:
        """Refuse outputs of another shape, and NaN or infinity."""
        ...

    def rows_of(self, outputs: Outputs, spec: Spec, frames: Sequence[Frame], truth: Any, first: int) -> np.ndarray:
        """The records of a batch, (b,). frames: of the batch's images; first: the index of its first in the truth."""
        ...

    def kept_beside(self, rows: Rows, truth: Any) -> Rows:
        """What lies beside the rows in a file of predictions, so that they can be judged without the truth."""
        ...

    def tallies_in(self, judged: Rows) -> dict[str, Tally]:
        """By metric, the one that stands for the task first. judged: rows and what is kept beside them."""
        ...

    def tally_from_dict(self, metric: str, values: dict[str, Any], images: int) -> Tally:
        """Of `Tally.to_dict`; ValueError, KeyError or TypeError for what is none."""
        ...

    def facts(self, reference: Rows, subject: Rows, named: Named) -> dict[str, Any]:
        """What a record says of a model against the float32 one, both judged, beside its metrics.

        "agreement_percent", "per_class" and "worst_images" every task has; all else is in a dict by the task's name.
        """
        ...
