"""Detection and instance segmentation: the boxes and masks of every image, box AP and mask AP, agreement by boxes.

What is kept is in the original picture's pixels, so that it can be scored, drawn and handed to pycocotools without
the network's input. COCO counts 100 boxes an image (DOWNSTREAM: the public configs give no more).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import Annotations
from rmt_edge.tasks.average_precision import AREAS, Matches, box_overlaps, matched_boxes, matches_from_dict
from rmt_edge.tasks.comparison import Tally
from rmt_edge.tasks.detection_facts import facts, matches_in
from rmt_edge.tasks.masks import Crop, overlaps, pasted
from rmt_edge.tasks.task import Frame, Outputs, Rows, Spec

__all__ = ["check_outputs", "facts", "kept_beside", "record", "rows_of", "tallies_in", "tally_from_dict"]

BOX_AP, MASK_AP = "box AP", "mask AP"
MAX_BOXES = 100  # kept of an image, the best
MASK_SIDE = 28
LEVELS = 255  # a mask's probability p is kept as round(255 p)


def record(spec: Spec) -> np.dtype:
    """The boxes of an image, best first: x1 y1 x2 y2 in the original picture, and what else there is of each."""
    fields: list[Any] = [
        ("boxes", "<f4", (MAX_BOXES, 4)), ("scores", "<f4", (MAX_BOXES,)), ("labels", "<i2", (MAX_BOXES,)),
        ("count", "<i4"), ("original_size", "<i4", (2,)),
    ]  # fmt: skip
    masks = [("masks", "u1", (MAX_BOXES, MASK_SIDE, MASK_SIDE))] if spec.has_masks else []
    return np.dtype([*fields, *masks])


def check_outputs(outputs: Outputs, images: int, spec: Spec, title: str) -> None:
    """Refuse boxes of other shapes or classes than the model's, and NaN or infinity in those that count."""
    names = ("boxes", "scores", "labels", "count", *(("masks",) if spec.has_masks else ()))
    if missing := [name for name in names if name not in outputs]:
        raise RmtEdgeError(f"{title}: there is no output {missing[0]}.", f"there are {', '.join(outputs)}.")
    most = outputs["boxes"].shape[1] if outputs["boxes"].ndim == 3 else 0
    shapes = {"boxes": (most, 4), "scores": (most,), "labels": (most,), "masks": (most, MASK_SIDE, MASK_SIDE)}
    for name in (x for x in names if x != "count"):
        if outputs[name].shape != (images, *shapes[name]):
            expected = (images, "n", *shapes[name][1:])
            raise RmtEdgeError(f"{title}: the {name} are {outputs[name].shape}.", f"expected {expected}.")
    count = outputs["count"].reshape(images).astype(np.int64)
    if (count < 0).any() or (count > most).any():
        raise RmtEdgeError(f"{title}: it counts {count.tolist()} boxes.", f"it can give {most} an image.")
    counted = np.arange(most) < count[:, None]
    for name in ("boxes", "scores", *(("masks",) if spec.has_masks else ())):
        if not np.isfinite(outputs[name][counted]).all():
            raise RmtEdgeError(
                f"{title}: the {name} hold NaN or infinite values.",
                "FP16 ends at 65504; a model with larger activations overflows.",
                "Use the recipe fp32 to see whether it is the precision.",
            )
    labels = outputs["labels"][counted]
    if len(labels) and (labels.min() < 0 or labels.max() >= spec.classes):
        raise RmtEdgeError(f"{title}: its labels reach {labels.max()}.", f"the model has {spec.classes} classes.")


def rows_of(outputs: Outputs, spec: Spec, frames: Sequence[Frame], truth: Any = None, first: int = 0) -> np.ndarray:
    """The records of a batch, boxes in the original pictures. Of more than MAX_BOXES the best are kept."""
    rows = np.zeros(len(frames), record(spec))
    for row, frame, boxes, scores, count, i in zip(
        rows, frames, outputs["boxes"], outputs["scores"], outputs["count"].reshape(-1), range(len(rows)), strict=True
    ):
        order = np.argsort(-scores[: int(count)], kind="stable")[:MAX_BOXES]
        n = len(order)
        row["count"], row["scores"][:n], row["labels"][:n] = n, scores[order], outputs["labels"][i][order]
        row["boxes"][:n] = original_boxes(boxes[order], frame)
        row["original_size"] = frame.original_height, frame.original_width
        if spec.has_masks:
            row["masks"][:n] = np.rint(np.clip(outputs["masks"][i][order], 0, 1) * LEVELS)
    return rows


def original_boxes(boxes: np.ndarray, frame: Frame) -> np.ndarray:
    """Boxes x1 y1 x2 y2 of the network's input in the original picture's pixels, within it. (n, 4) float32.

    The scale is that of the two sides as they were rounded (scale_factor of mmdet's Resize).
    """
    scale = np.array([frame.width / frame.original_width, frame.height / frame.original_height] * 2, np.float32)
    limits = np.array([frame.original_width, frame.original_height] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) / scale, 0, limits)


def crops_of(row: Any, height: int, width: int) -> list[Crop]:
    """The masks of an image's record, pasted into its original picture of that size."""
    return [
        pasted(row["masks"][i].astype(np.float32) / np.float32(LEVELS), row["boxes"][i], height, width)
        for i in range(int(row["count"]))
    ]


def kept_beside(rows: Rows, truth: Annotations | None) -> Rows:
    """The matches of every box by box overlap, and by mask overlap where both sides have masks: `<metric>/<field>`."""
    if truth is None:
        return {}
    metrics = [MASK_AP, BOX_AP] if "masks" in rows and truth.has_masks else [BOX_AP]
    return {
        f"{metric}/{name}": value
        for metric in metrics
        for name, value in matches_of(rows, truth, metric == MASK_AP).arrays().items()
    }


def matches_of(rows: Rows, truth: Annotations, by_masks: bool) -> Matches:
    """Every box matched with the objects of its image and class (average_precision.py)."""
    areas = len(AREAS)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("image", "label", "score", "matched", "ignored")}
    counts = np.zeros((len(truth.label), areas), bool)
    for index in range(len(truth)):
        row: dict[str, np.ndarray] = {
            name: rows[name][index] for name in ("boxes", "scores", "labels", "count", "masks") if name in rows
        }
        n, objects = int(row["count"]), truth.of_image(index)
        labels = row["labels"][:n].astype(np.int32)
        matched, ignored = np.zeros((n, areas), np.uint16), np.zeros((n, areas), np.uint16)
        ious, own_areas = _overlaps(row, truth, index, objects, by_masks)
        for label in np.union1d(labels, truth.label[objects]):
            mine, of_class = np.flatnonzero(labels == label), np.flatnonzero(truth.label[objects] == label)
            numbers = objects[of_class]
            matched[mine], ignored[mine], counts[numbers] = matched_boxes(
                ious[np.ix_(mine, of_class)], own_areas[mine], truth.area[numbers], truth.is_crowd[numbers]
            )
        values: tuple[np.ndarray, ...] = (np.full(n, index, np.int32), labels, row["scores"][:n], matched, ignored)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    image, label, score, matched, ignored = (np.concatenate(x) for x in found.values())
    objects_of = truth.image.astype(np.int32), truth.label.astype(np.int32)
    return Matches(len(truth), image, label, score, matched, ignored, *objects_of, counts)


def _overlaps(
    row: dict[str, np.ndarray], truth: Annotations, index: int, objects: np.ndarray, by_masks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The overlaps of an image's boxes or masks with its objects, (d, g), and their own areas, (d,)."""
    boxes = row["boxes"][: int(row["count"])].astype(np.float64)
    ious = box_overlaps(boxes, truth.boxes[objects], truth.is_crowd[objects])
    if not by_masks:
        return ious, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crops = crops_of(row, *(int(x) for x in truth.sizes[index]))
    masks = [truth.mask(number) for number in objects]
    is_same_class = row["labels"][: len(crops), None] == truth.label[objects][None]
    shared = np.zeros(ious.shape)
    for i in np.flatnonzero(is_same_class.any(axis=1)):
        others = np.flatnonzero(is_same_class[i])
        shared[i, others] = overlaps([crops[i]], [masks[j] for j in others], truth.is_crowd[objects[others]])[0]
    return shared, np.array([x.area for x in crops], np.float64)


def tallies_in(judged: Rows) -> dict[str, Tally]:
    """Mask AP, which stands for a model with masks, and box AP."""
    return {x: matches_in(judged, x) for x in (MASK_AP, BOX_AP) if f"{x}/images" in judged}


def tally_from_dict(metric: str, values: dict[str, Any], images: int) -> Matches:
    """Of `Matches.to_dict`."""
    return matches_from_dict(values, images)
