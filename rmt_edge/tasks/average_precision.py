"""Average precision as COCO has it, from matches that are found once an image, so that resamples of images are cheap.

The numbers are pycocotools' COCOeval's (2.0.11), to which the tests hold every one of them: IoU 0.5:0.05:0.95, recall
0:0.01:1, 100 boxes an image, crowds and objects outside an area range ignored.
"""

import base64
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rmt_edge.tasks.bootstrap import ResampledDrop

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Square pixels of an object: all, small, medium, large (COCOeval's areaRng).
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
ROWS = 64  # resamples computed at once
_BITS = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)


@dataclass(frozen=True)
class Matches:
    """A tally: every box found and every object that was to be found.

    images: how many there are. Of d boxes: box_image, box_label, box_score; matched, ignored: (d, areas) uint16, a bit
    for each of THRESHOLDS. Of m objects: object_image, object_label; counts: (m, areas) bool, not to be ignored.
    """

    images: int
    box_image: np.ndarray
    box_label: np.ndarray
    box_score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return self.images

    def percent(self) -> float:
        return float(self.percents(np.ones((1, self.images)))[0])

    def drop_to(self, other: "Matches") -> ResampledDrop:
        return ResampledDrop(self.percents, other.percents, self.images)

    def percents(self, weights: np.ndarray, area: int = 0) -> np.ndarray:
        """AP of images that count so often, as 100 times the mean over classes, thresholds and recalls.

        weights: (r, n). Returns (r,) float64, NaN where there is no object to find.
        """
        classes = np.full((len(self.labels), len(weights)), np.nan)
        for k, label in enumerate(self.labels):
            for at in range(0, len(weights), ROWS):
                classes[k, at : at + ROWS] = self.precision(label, weights[at : at + ROWS], area).mean(axis=(1, 2))
        is_known = np.isfinite(classes)
        known = is_known.sum(axis=0)
        return 100 * np.where(is_known, classes, 0).sum(axis=0) / np.where(known, known, np.nan)

    def precision(self, label: int, weights: np.ndarray, area: int = 0) -> np.ndarray:
        """Of one class: weights (r, n) to (r, thresholds, recalls) float64; NaN where there is no object of it."""
        boxes = np.flatnonzero(self.box_label == label)
        boxes = boxes[np.argsort(-self.box_score[boxes], kind="stable")]
        objects = self.object_image[(self.object_label == label) & self.counts[:, area]]
        total = weights[:, objects].sum(axis=1)  # (r,)
        weight = weights[:, self.box_image[boxes]]  # (r, d)
        matched, ignored = self.matched[boxes, area], self.ignored[boxes, area]
        found = np.zeros((len(weights), len(THRESHOLDS), len(RECALLS)))
        for t, bit in enumerate(_BITS):
            is_counted = ignored & bit == 0
            right = np.flatnonzero((matched & bit > 0) & is_counted)
            if len(right):
                counted = np.cumsum(weight * is_counted, axis=1)[:, right]
                found[:, t] = _interpolated(np.cumsum(weight[:, right], axis=1), counted, total)
        found[total == 0] = np.nan
        return found

    @property
    def labels(self) -> np.ndarray:
        """The classes of which there are objects."""
        return np.unique(self.object_label)

    def to_dict(self) -> dict[str, Any]:
        """All areas in one, each array compressed."""
        slim = {"matched": self.matched[:, :1], "ignored": self.ignored[:, :1], "counts": self.counts[:, :1]}
        values = {x.name: slim.get(x.name, getattr(self, x.name)) for x in fields(self) if x.name != "images"}
        return {name: [str(x.dtype), list(x.shape), _text(x)] for name, x in values.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file of predictions."""
        return {x.name: np.asarray(getattr(self, x.name)) for x in fields(self)}


def matches_from_dict(values: dict[str, Any], images: int) -> Matches:
    """Of `Matches.to_dict`."""
    arrays = {}
    for field in fields(Matches):
        if field.name != "images":
            dtype, shape, text = values[field.name]
            content = zlib.decompress(base64.b64decode(text, validate=True))
            arrays[field.name] = np.frombuffer(content, dtype).reshape(shape)
    return Matches(images, **arrays)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def _interpolated(right: np.ndarray, counted: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The precision at RECALLS: the largest at that recall or beyond. Only boxes that are right can be the largest.

    right, counted: (r, p) the weight of right boxes, and of all, down to each right one; total: (r,). (r, recalls).
    """
    precision = np.divide(right, counted, out=np.zeros(right.shape), where=counted > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(right, total[:, None], out=np.zeros(right.shape), where=total[:, None] > 0)
    found = np.zeros((len(right), len(RECALLS)))
    for row, (values, recalls) in enumerate(zip(best, recall, strict=True)):
        first = np.searchsorted(recalls, RECALLS, side="left")
        is_reached = first < len(values)
        found[row, is_reached] = values[first[is_reached]]
    return found


def matched_boxes(
    ious: np.ndarray, areas: np.ndarray, object_areas: np.ndarray, is_crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy matching of one image and class: each box, best first, takes the free object that it overlaps most.

    ious: (d, g), boxes by score; areas: (d,) of the boxes; object_areas, is_crowd: (g,). Returns matched, ignored,
    (d, areas) uint16, and counts, (g, areas) bool. An object that does not count is taken only where no other fits;
    a crowd may be taken again; of equal overlaps the later object is taken.
    """
    low, high = np.array(list(AREAS.values())).T
    counts = ~is_crowd[:, None] & (object_areas[:, None] >= low) & (object_areas[:, None] <= high)  # (g, a)
    is_outside = (areas[:, None] < low) | (areas[:, None] > high)  # (d, a)
    matched = np.zeros((len(ious), len(AREAS)), np.uint16)
    ignored = np.where(is_outside, _BITS.sum(dtype=np.uint16), np.uint16(0)).astype(np.uint16)
    if not len(object_areas):
        return matched, ignored, counts
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None, None]
    free = np.ones((len(THRESHOLDS), len(AREAS), len(object_areas)), bool)
    threshold, area = np.meshgrid(range(len(THRESHOLDS)), range(len(AREAS)), indexing="ij")
    for i in np.flatnonzero(ious.max(axis=1) >= THRESHOLDS[0]):
        fits = (ious[i] >= limits) & (free | is_crowd)  # (t, a, g)
        regular = fits & counts.T
        pool = np.where(regular.any(axis=2, keepdims=True), regular, fits)
        last = len(object_areas) - 1 - np.where(pool, ious[i], -1.0)[..., ::-1].argmax(axis=2)  # (t, a)
        is_matched = pool.any(axis=2)
        free[threshold[is_matched], area[is_matched], last[is_matched]] = False
        matched[i] = (is_matched * _BITS[:, None]).sum(axis=0)
        is_ignored = np.where(is_matched, ~counts[last, area], is_outside[i])
        ignored[i] = (is_ignored * _BITS[:, None]).sum(axis=0)
    return matched, ignored, counts


def box_overlaps(found: np.ndarray, truth: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x1 y1 x2 y2, of a crowd intersection over the found one's area. float64."""
    sides = np.minimum(found[:, None, 2:], truth[None, :, 2:]) - np.maximum(found[:, None, :2], truth[None, :, :2])
    shared = np.where((sides > 0).all(axis=2), sides.prod(axis=2), 0.0)
    areas, others = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (found, truth))
    union = np.where(is_crowd[None], areas[:, None], areas[:, None] + others[None] - shared)
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
