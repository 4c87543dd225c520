"""The tasks by name. Predictions say of which they are; those that say nothing are a classifier's."""

from collections.abc import Mapping
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks import classification, detection, segmentation
from rmt_edge.tasks.task import Task

CLASSIFICATION, DETECTION, SEGMENTATION = "classification", "detection", "segmentation"
TASKS: dict[str, Task] = {CLASSIFICATION: classification, DETECTION: detection, SEGMENTATION: segmentation}


def task_of(details: Mapping[str, Any]) -> Task:
    """The task of predictions, by the details of their manifest, or of a subject of a baseline."""
    name = details.get("task", CLASSIFICATION)
    if name not in TASKS:
        raise RmtEdgeError(f"The task is {name!r}.", f"known: {', '.join(TASKS)}.", "Use the version that made it.")
    return TASKS[name]


def accuracy_in(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the manifest of predictions says of their accuracy, by the keys that every task has; None for no accuracy.

    The keys of the first version, which knew classifiers alone (`top1_percent` …), are read as well.
    """
    if "percent" in details:
        return dict(details)
    if "top1_percent" not in details:
        return None
    renamed = {key.replace("top1_percent", "percent"): value for key, value in details.items()}
    own = {key: renamed.pop(key) for key in classification.OWN_FACTS if key in renamed}
    classes = [{k.replace("top1_percent", "percent"): v for k, v in x.items()} for x in details.get("per_class") or []]
    return renamed | {"metric": classification.METRIC, "per_class": classes, CLASSIFICATION: own}
