"""The validation subset of a bundle: labelled images, ready for the network, and what float32 PyTorch says of them.

Three .npy files, opened memory-mapped, so that a board whose GPU shares its memory holds one batch at a time:
`images`, (n, h, w, 3) uint8, resized and cropped on the workstation, so that a device needs no image library; `labels`,
(n,) int64; `logits` of the float32 PyTorch model on exactly these images, (n, classes) float32. And `names.json`, the
images' names in their data set.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.task import Frame

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

    def frames(self, first: int, count: int) -> Sequence[Frame]:
        """Of a classifier none."""
        return ()

    @property
    def truth(self) -> np.ndarray:
        return self.labels

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]:
        """Network inputs (b, 3, h, w) float32, in order, the last batch smaller."""
        for start in range(0, len(self), batch):
            yield normalise(self.images[start : start + batch], preprocessing)


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
