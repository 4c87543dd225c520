"""The validation subset of a bundle: labelled images, ready for the network, and what float32 PyTorch says of them.

Three .npy files, opened memory-mapped, so that a board whose GPU shares its memory holds one batch at a time:
`images`, (n, h, w, 3) uint8, resized and cropped on the workstation, so that a device needs no image library; `labels`,
(n,) int64; `logits` of the float32 PyTorch model on exactly these images, (n, classes) float32. And `names.json`, the
images' names in their data set.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError

IMAGES, LABELS, LOGITS = (f"validation/{name}.npy" for name in ("images", "labels", "logits"))
NAMES = "validation/names.json"


@dataclass(frozen=True)
class Subset:
    """images: (n, h, w, 3) uint8; labels: (n,) int64; names: of the images in their data set."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, preprocessing: Preprocessing, batch: int, limit: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Network inputs (b, 3, h, w) float32 and labels (b,), in order, the last batch smaller."""
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, batch):
            chosen = slice(start, min(start + batch, count))
            yield normalise(self.images[chosen], preprocessing), self.labels[chosen]


def choose(labels: np.ndarray, count: int, seed: str) -> np.ndarray:
    """The images of a subset: as many of each class as there are, to within one. Sorted indices, (count,) int64.

    labels: (n,), n ≥ count. seed: the data set's sha256. An image's turn is its place within its class in the order of
    sha256(seed, index); the first turns are taken. So the choice is that of no random number generator's version.
    """
    keys = [hashlib.sha256(f"{seed} {index}".encode()).digest() for index in range(len(labels))]
    order = np.array(sorted(range(len(labels)), key=keys.__getitem__), np.int64)
    by_class = np.argsort(labels[order], kind="stable")
    sorted_labels = labels[order][by_class]
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def load_subset(folder: Path, images: int, num_classes: int, preprocessing: Preprocessing) -> tuple[Subset, np.ndarray]:
    """The subset in an unpacked bundle and the float32 logits, (n, classes), if they are of the size it declares."""
    size = (preprocessing.height, preprocessing.width, 3)
    pixels = _load(folder / IMAGES, (images, *size), np.dtype(np.uint8))
    labels = _load(folder / LABELS, (images,), np.dtype(np.int64))
    logits = _load(folder / LOGITS, (images, num_classes), np.dtype(np.float32))
    if labels.min() < 0 or labels.max() >= num_classes or not np.isfinite(logits).all():
        raise RmtEdgeError(f"The validation subset in {folder} has labels beyond {num_classes} classes or NaN logits.")
    return Subset(pixels, labels, _names(folder / NAMES, images)), logits


def _names(path: Path, count: int) -> list[str]:
    try:
        names = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise RmtEdgeError(f"{path} is not readable: {error}.", do="Unpack the bundle again.") from error
    if not isinstance(names, list) or len(names) != count or not all(isinstance(x, str) for x in names):
        raise RmtEdgeError(f"{path} does not hold {count} names.", do="Unpack the bundle again.")
    return names


def _load(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RmtEdgeError(f"{path} is not readable: {error}.", do="Unpack the bundle again.") from error
    if array.shape != shape or array.dtype != dtype:
        raise RmtEdgeError(f"{path} is {array.dtype} {array.shape}.", f"the bundle declares {dtype} {shape}.")
    return array
