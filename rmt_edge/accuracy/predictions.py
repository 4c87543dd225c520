"""Predictions: one run of a model over images, what is kept of it, and its accuracy against another on the same images.

For the workstation and the device alike: numpy alone. accuracy/validate.py holds an ONNX file or an engine to the
float32 model over a whole data set, bundle/validate.py to its outputs on a bundle's validation subset. What is kept of
an image and what a metric is, the model's task says (tasks/).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmt_edge.accuracy.limits import judgement
from rmt_edge.accuracy.resume import resumed
from rmt_edge.artifact import PREDICTIONS, Artifact, versions, write_manifest, written_whole
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.progress import progress_bar
from rmt_edge.tasks.comparison import compared
from rmt_edge.tasks.task import Frame, Named, Outputs, Rows, Spec, Task

BATCH = 50

# Network inputs (b, 3, h, w) float32 to the model's outputs by name, each (b, …).
Run = Callable[[np.ndarray], Outputs]


class Images(Protocol):
    """What `outputs_of` runs over: images of a data set, or the validation subset of a bundle."""

    def __len__(self) -> int: ...

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]: ...

    def frames(self, first: int, count: int) -> Sequence[Frame]:
        """Where so many of the pictures lie in the network's input; none where no task asks (a classifier's)."""
        ...

    @property
    def truth(self) -> Any: ...


def accuracy(
    task: Task,
    reference: Rows,
    subject: Rows,
    named: Named | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
) -> dict[str, Any]:
    """All metrics of one model against another, both judged (Task), and whether they keep the limit (judgement)."""
    found = compared(task.tallies_in(reference), task.tallies_in(subject))
    first, *others = (x.to_dict() for x in found)
    return (
        first
        | ({"other_metrics": others} if others else {})
        | task.facts(reference, subject, named or Named())
        | judgement(found, max_drop, confidence)
    )


def rows_in(predictions: Artifact) -> Rows:
    """What a file of predictions holds."""
    with np.load(predictions.path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def padded(runner: Run, smallest: int) -> Run:
    """A runner that also takes batches below its smallest: it repeats the last image, and forgets what comes of it."""

    def run(images: np.ndarray) -> Outputs:
        missing = max(0, smallest - len(images))
        if not missing:
            return runner(images)
        outputs = runner(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge"))
        return {name: x[: len(images)] for name, x in outputs.items()}

    return run


def outputs_of(
    run: Run, images: Images, preprocessing: Preprocessing, task: Task, spec: Spec, title: str, batch: int = BATCH
) -> Iterator[Outputs]:
    """The outputs batch by batch, under a progress bar; what is not the task's, NaN and infinity are refused."""
    total = -(-len(images) // batch)
    for inputs in progress_bar(images.batches(preprocessing, batch), title, total, unit="batch", leave=False):
        outputs = run(inputs)
        task.check_outputs(outputs, len(inputs), spec, title)
        yield outputs


def predict_resumably(
    load: Callable[[], Run],
    images_from: Callable[[int], Images],
    preprocessing: Preprocessing,
    task: Task,
    spec: Spec,
    path: Path,
    identity: dict[str, Any],
    title: str,
    batch: int = BATCH,
) -> tuple[Rows, int]:
    """What is kept of every image, those of an earlier run that was killed included; and the number of the latter.

    load: gives the model, if an image is left for it. images_from: the images from one on. path: where the predictions
    will lie. identity: what decides them, beside preprocessing, batch and versions.
    """
    everything, record = images_from(0), task.record(spec)
    count = len(everything)
    settings = {"preprocessing": preprocessing.to_dict(), "batch": batch, "images": count, "versions": versions()}
    with resumed(path, identity | settings, batch, record, count) as partial:
        before = len(partial)
        if before < count:
            for outputs in outputs_of(load(), images_from(before), preprocessing, task, spec, title, batch):
                first = len(partial)
                frames = everything.frames(first, min(batch, count - first))
                partial.append(task.rows_of(outputs, spec, frames, everything.truth, first))
        rows = partial.rows()
        return {name: np.ascontiguousarray(rows[name]) for name in record.names or ()}, before


def write_predictions(
    path: Path, arrays: Rows, parents: list[dict[str, str]], recipe: dict[str, Any], details: dict[str, Any],
    seconds: float,
) -> Artifact:  # fmt: skip
    """Write what is kept of every image as .npz, and what is known about it as its manifest."""
    with written_whole(path) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return write_manifest(
            temporary, path, kind=PREDICTIONS, parents=parents, recipe=recipe, details=details, seconds=seconds
        )
