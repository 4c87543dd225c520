"""The validation subset of a detector's or segmenter's bundle: pictures, what is in them, what float32 PyTorch finds.

`images.npy`, (n, h, w, 3) uint8, as the network takes them, so that a device needs no image library; `sizes.npy`,
(n, 2) int64, heights and widths of the pictures themselves, in which everything is scored; `truth.npz`, their objects
(annotations.py) or label maps; `reference.npz`, what the task keeps of the float32 model's outputs, judged. A device
scores with numpy alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.bundle.subset import IMAGES, NAMES, read_array, read_names
from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.spec import ModelSpec
from rmt_edge.tasks.annotations import Annotations, annotations_from_arrays
from rmt_edge.tasks.segmentation import LabelMaps
from rmt_edge.tasks.task import Frame, Rows
from rmt_edge.tasks.tasks import DETECTION

SIZES, TRUTH, REFERENCE = "validation/sizes.npy", "validation/truth.npz", "validation/reference.npz"
MEMBERS = (IMAGES, NAMES, SIZES, TRUTH, REFERENCE)


@dataclass(frozen=True)
class PackedMaps:
    """Label maps one after another (segmentation.LabelMaps). pixels: (all,); sizes: (n, 2)."""

    pixels: np.ndarray
    sizes: np.ndarray

    def read(self, index: int) -> np.ndarray:
        """The map of an image, (h, w)."""
        areas = self.sizes.prod(axis=1)
        start = int(areas[:index].sum())
        return self.pixels[start : start + int(areas[index])].reshape(self.sizes[index]).astype(np.int32)


@dataclass(frozen=True)
class FoundSubset:
    """images: (n, h, w, 3) uint8; sizes: (n, 2) of the pictures; truth: of their task; names: in their data set."""

    images: np.ndarray
    sizes: np.ndarray
    truth: Any
    names: list[str]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def frames(self, first: int, count: int) -> Sequence[Frame]:
        """Where so many of the pictures lie in the network's input."""
        return [self.preprocessing.frame(h, w) for h, w in self.sizes[first : first + count].tolist()]

    def batches(self, preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]:
        """Network inputs (b, 3, h, w) float32, in order, the last batch smaller."""
        for start in range(0, len(self), batch):
            pixels = self.images[start : start + batch]
            yield normalise(pixels, preprocessing, self.frames(start, len(pixels)))


def truth_arrays(truth: Annotations | LabelMaps, sizes: np.ndarray) -> Rows:
    """The truth of a subset's images, as truth.npz holds it."""
    if isinstance(truth, Annotations):
        return truth.arrays()
    maps = [truth.read(i) for i in range(len(sizes))]
    for i, x in enumerate(maps):
        assert x.shape == tuple(sizes[i]), (x.shape, sizes[i])
    return {"pixels": np.concatenate([x.astype(np.uint16).ravel() for x in maps])}


def load_found_subset(
    folder: Path, images: int, spec: ModelSpec, preprocessing: Preprocessing
) -> tuple[FoundSubset, Rows]:
    """The subset in an unpacked bundle and the float32 model's rows, if they are what the bundle declares."""
    pixels = read_array(folder / IMAGES, (images, spec.height, spec.width, 3), np.dtype(np.uint8))
    sizes = read_array(folder / SIZES, (images, 2), np.dtype(np.int64))
    reference, truth = (_arrays(folder / name) for name in (REFERENCE, TRUTH))
    try:
        is_detection = spec.task == DETECTION
        known = annotations_from_arrays(truth) if is_detection else PackedMaps(truth["pixels"], sizes)
        held = known.sizes if isinstance(known, Annotations) else sizes
        total = len(known.pixels) if isinstance(known, PackedMaps) else int(sizes.prod(axis=1).sum())
    except (KeyError, TypeError, ValueError) as error:
        raise RmtEdgeError(f"{folder / TRUTH} holds no {spec.task}: {error}.", do="Unpack the bundle again.") from error
    if not np.array_equal(held, sizes) or total != int(sizes.prod(axis=1).sum()) or sizes.min() < 1:
        raise RmtEdgeError(f"{folder / TRUTH} is not of the pictures beside it.", do="Unpack the bundle again.")
    return FoundSubset(pixels, sizes, known, read_names(folder / NAMES, images), preprocessing), reference


def _arrays(path: Path) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise RmtEdgeError(f"{path} is not readable: {error}.", do="Unpack the bundle again.") from error
