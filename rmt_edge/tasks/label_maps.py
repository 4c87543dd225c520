"""A segmenter's output in the original picture's size.

The public code resizes the logits to the network's input and then to the picture, both bilinear with align_corners
False, and takes the largest (seg/models/segmentors/encoder_decoder.py). A model that gives labels has done the first
resize and taken the largest: its map is read at the nearest pixel.
"""

from collections.abc import Mapping

import numpy as np

from rmt_edge.tasks.task import Frame, Spec


def original_labels(outputs: Mapping[str, np.ndarray], spec: Spec, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The labels of one image in the network's input, without its padding, and in the original picture.

    outputs: "logits" (classes, h, w), or "labels" (height, width).
    """
    size = frame.original_height, frame.original_width
    if "logits" in outputs:
        logits = resized(outputs["logits"], spec.height, spec.width)[:, : frame.height, : frame.width]
        return logits.argmax(axis=0), resized(logits, *size).argmax(axis=0)
    labels = outputs["labels"][: frame.height, : frame.width]
    if labels.shape == size:
        return labels, labels
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * (m / n)).astype(np.int64), m - 1)
        for n, m in zip(size, labels.shape, strict=True)
    )
    return labels, labels[rows][:, columns]


def resized(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, align_corners False, without antialiasing. (c, h, w) -> (c, height, width) float32."""
    maps = maps.astype(np.float32, copy=False)
    if maps.shape[1:] == (height, width):
        return maps
    top, bottom, at = _neighbours(maps.shape[1], height)
    maps = maps[:, top] * (1 - at)[:, None] + maps[:, bottom] * at[:, None]
    left, right, at = _neighbours(maps.shape[2], width)
    return maps[:, :, left] * (1 - at) + maps[:, :, right] * at


def _neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels that each wanted one lies between, and how far along."""
    position = np.maximum((np.arange(wanted, dtype=np.float32) + 0.5) * np.float32(size / wanted) - 0.5, 0)
    first = np.minimum(position.astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), (position - first).astype(np.float32)
