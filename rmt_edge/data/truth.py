"""What a model's accuracy is measured by, held to the model: labels, objects or label maps that fit its classes."""

from dataclasses import replace
from typing import Any

from rmt_edge.data.dataset import Dataset, check_labels
from rmt_edge.data.label_maps import LabelFiles
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import Annotations
from rmt_edge.tasks.task import Spec, Task
from rmt_edge.tasks.tasks import CLASSIFICATION, DETECTION, TASKS

# A segmenter of so many classes is ADE20K's, whose files number them from 1 (DOWNSTREAM; mmseg's reduce_zero_label).
ADE20K_CLASSES = 150


def check_truth(dataset: Dataset, task: Task, spec: Spec) -> Any:
    """What accuracy is measured by, if the set has it and it fits the model: labels, objects or label maps."""
    if task is TASKS[CLASSIFICATION]:
        return check_labels(dataset, spec.classes)
    kind, what = (
        (Annotations, "COCO's JSON file") if task is TASKS[DETECTION] else (LabelFiles, "the folder of label maps")
    )
    if not isinstance(dataset.annotations, kind):
        raise RmtEdgeError(
            f"{dataset.path} comes without what the model is to find.", do=f"Pass {what} with --annotations."
        )
    if isinstance(dataset.annotations, Annotations):
        classes = len(dataset.annotations.class_names)
        if classes != spec.classes:
            raise RmtEdgeError(
                f"The detector has {spec.classes} classes, the annotations of {dataset.path} have {classes}.",
                "classes go by their order in the file.",
                "Use the annotations that this checkpoint was trained for.",
            )
        if not len(dataset.annotations.label):
            raise RmtEdgeError(f"The annotations of {dataset.path} hold no object.", "there is nothing to be found.")
    if isinstance(dataset.annotations, LabelFiles):
        return replace(dataset.annotations, from_one=spec.classes == ADE20K_CLASSES)
    return dataset.annotations
