"""Masks: pasting a detector's 28x28 probabilities into the picture, COCO's run-length encoding, their overlap.

Run lengths go down the columns, zeros first (cocodataset.org/#format-data). The string form is pycocotools'
(common/maskApi.c, rleToString): six bits a character from 48 on, the difference to the run before the last.
"""

from typing import NamedTuple

import numpy as np

from rmt_edge.errors import RmtEdgeError


class Crop(NamedTuple):
    """A mask where it is not empty. inside: (h, w) bool, its first pixel at (top, left) of the picture."""

    top: int
    left: int
    inside: np.ndarray

    @property
    def area(self) -> int:
        return int(self.inside.sum())

    def whole(self, height: int, width: int) -> np.ndarray:
        """In the whole picture, (height, width) bool."""
        mask = np.zeros((height, width), bool)
        mask[self.top : self.top + self.inside.shape[0], self.left : self.left + self.inside.shape[1]] = self.inside
        return mask


def pasted(probabilities: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> Crop:
    """A box's mask in the picture, where its probability is at least the threshold.

    probabilities: (m, m) float32; box: (4,) x1 y1 x2 y2 in the picture of that height and width. Read at pixel centres,
    bilinear, zero outside, as mmdet 2.11 pastes (models/roi_heads/mask_heads/fcn_mask_head.py): only the box grown by a
    pixel can be inside.
    """
    x1, y1, x2, y2 = (float(x) for x in box)
    top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, height)
    left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, width)
    if not (x2 > x1 and y2 > y1 and bottom > top and right > left):
        return Crop(0, 0, np.zeros((0, 0), bool))
    rows = _weights(np.arange(top, bottom), y1, y2, len(probabilities))
    columns = _weights(np.arange(left, right), x1, x2, len(probabilities))
    return Crop(top, left, rows @ probabilities @ columns.T >= np.float32(threshold))


def _weights(pixels: np.ndarray, start: float, end: float, size: int) -> np.ndarray:
    """How much each of `size` cells between start and end counts at each pixel's centre. (pixels, size) float32."""
    position = ((pixels + 0.5 - start) / (end - start)).astype(np.float32) * size - np.float32(0.5)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size, dtype=np.float32)))


def runs_of(mask: np.ndarray) -> np.ndarray:
    """The run lengths of a mask (h, w), uint32."""
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat.size and flat[0] else [], changes, [flat.size]])
    return np.diff(ends, prepend=0).astype(np.uint32)


def mask_of(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of run lengths, (height, width) bool."""
    if int(np.sum(runs, dtype=np.int64)) != height * width:
        raise RmtEdgeError(
            f"A mask's run lengths cover {int(np.sum(runs, dtype=np.int64))} pixels; its picture has {height}x{width}.",
            "they are of the picture's own size.",
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def string_of(runs: np.ndarray) -> str:
    """Run lengths as COCO's JSON holds them."""
    characters = []
    for i, run in enumerate(int(x) for x in runs):
        x, more = (run - int(runs[i - 2]) if i > 2 else run), True
        while more:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits | (32 if more else 0))))
    return "".join(characters)


def runs_in(text: str) -> np.ndarray:
    """The run lengths of COCO's string, uint32."""
    runs: list[int] = []
    x = shift = 0
    for character in text:
        bits = ord(character) - 48
        x |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            x -= (1 << shift) if bits & 16 else 0
            runs.append(x + (runs[-2] if len(runs) > 2 else 0))
            x = shift = 0
    if shift or min(runs, default=0) < 0:
        raise RmtEdgeError("A mask's run lengths are damaged.", "they are COCO's compressed string.")
    return np.array(runs, np.uint32)


def overlaps(found: list[Crop], truth: list[np.ndarray], is_crowd: np.ndarray) -> np.ndarray:
    """Intersection over union of masks, of a crowd intersection over the found one's area. (found, truth) float64.

    truth: masks of the whole picture, (h, w) bool.
    """
    ious = np.zeros((len(found), len(truth)))
    areas = [int(x.sum()) for x in truth]
    for i, crop in enumerate(found):
        own = crop.area
        rows, columns = (slice(at, at + n) for at, n in zip((crop.top, crop.left), crop.inside.shape, strict=True))
        for j, mask in enumerate(truth):
            shared = int(np.count_nonzero(mask[rows, columns] & crop.inside)) if own else 0
            union = own if is_crowd[j] else own + areas[j] - shared
            ious[i, j] = shared / union if union else 0.0
    return ious
