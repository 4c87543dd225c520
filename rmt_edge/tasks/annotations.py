"""The objects that a detector is to find: boxes, classes, crowds and masks of a set of pictures, as flat arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmt_edge.tasks.masks import mask_of


@dataclass(frozen=True)
class Annotations:
    """Of n pictures with m objects, the objects picture by picture.

    sizes: (n, 2) height and width; names: of the pictures; image: (m,) which picture; label: (m,) class, from 0; boxes:
    (m, 4) float64 x1 y1 x2 y2; area: (m,) float64 square pixels, as the file states it; is_crowd: (m,) bool. runs,
    run_ends: the masks' run lengths one after another and where each ends, None where there are no masks.
    """

    sizes: np.ndarray
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray
    class_names: tuple[str, ...]
    ids: np.ndarray  # (n,) of the pictures, and (classes,) of the classes, in the file
    class_ids: np.ndarray
    runs: np.ndarray | None = None
    run_ends: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def has_masks(self) -> bool:
        return self.runs is not None

    def of_image(self, index: int) -> np.ndarray:
        """The objects of a picture."""
        return np.arange(*np.searchsorted(self.image, [index, index + 1]))

    def mask(self, number: int) -> np.ndarray:
        """An object's mask in its picture, (h, w) bool."""
        assert self.runs is not None and self.run_ends is not None
        start = self.run_ends[number - 1] if number else 0
        height, width = self.sizes[self.image[number]]
        return mask_of(self.runs[start : self.run_ends[number]], int(height), int(width))

    def chosen(self, indices: Sequence[int] | np.ndarray) -> "Annotations":
        """Those of some of the pictures, in that order."""
        numbers = [self.of_image(int(i)) for i in indices]
        kept = np.concatenate([np.empty(0, np.int64), *numbers])
        image = np.repeat(np.arange(len(numbers)), [len(x) for x in numbers])
        rows = {name: getattr(self, name)[kept] for name in ("label", "boxes", "area", "is_crowd")}
        found = replace(self, sizes=self.sizes[list(indices)], ids=self.ids[list(indices)], image=image, **rows)
        if self.runs is None or self.run_ends is None:
            return found
        starts = np.concatenate([[0], self.run_ends[:-1]])
        runs = [self.runs[starts[i] : self.run_ends[i]] for i in kept]
        ends = np.cumsum([len(x) for x in runs], dtype=np.int64)
        return replace(found, runs=np.concatenate([np.empty(0, np.uint32), *runs]), run_ends=ends)

    def arrays(self) -> dict[str, np.ndarray]:
        """As an .npz holds them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["class_names"] = np.array(self.class_names, dtype=np.str_)
        return {name: value for name, value in values.items() if value is not None}


def annotations_from_arrays(arrays: Mapping[str, np.ndarray]) -> Annotations:
    """Of `Annotations.arrays`; ValueError, TypeError or KeyError for what is none."""
    values: dict[str, Any] = {name: arrays[name] for name in arrays}
    return Annotations(**values | {"class_names": tuple(str(x) for x in values["class_names"])})
