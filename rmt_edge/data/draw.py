"""Draw some images of a data set: always the same ones, as many of each class and of each folder as there are.

Images lie in the order of their paths, class by class: the first 512 of ImageNet would be of one class. An image's turn
is its place in the order of sha256(the data set's sha256, its index), so that the choice follows from the data set
alone and from no random number generator's version.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Draw:
    """Which images of a data set were drawn, and how. indices: sorted, (count,) int64; of: of how many; evenly: what
    it is even over."""

    indices: np.ndarray
    of: int
    evenly: str

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it: the sha256 is that of the indices as little-endian 64-bit integers."""
        digest = hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest()
        return {"images": len(self.indices), "of": self.of, "evenly_over": self.evenly, "indices_sha256": digest}


def draw(seed: str, count: int, of: int, folders: list[str] | None = None, labels: np.ndarray | None = None) -> Draw:
    """`count` of `of` images, to within one as many of each class as of each other, and in a class of each folder.

    seed: the data set's sha256. folders: of each image; labels: (of,) of each image; where there are none, the images
    count as of one folder, or of one class. All of the images are drawn in their own order.
    """
    assert 0 < count <= of, (count, of)
    if count == of:
        return Draw(np.arange(of, dtype=np.int64), of, "all")
    keys = [hashlib.sha256(f"{seed} {index}".encode()).digest() for index in range(of)]
    order = np.array(sorted(range(of), key=keys.__getitem__), np.int64)
    known = {name: number for number, name in enumerate(sorted(set(folders or [])))}
    if len(known) > 1:
        assert folders is not None
        order = order[np.argsort(turns(np.array([known[folders[i]] for i in order])), kind="stable")]
    if labels is not None:
        order = order[np.argsort(turns(labels[order]), kind="stable")]
    evenly = "classes" if labels is not None else "folders" if len(known) > 1 else "none"
    return Draw(np.sort(order[:count]), of, evenly)


def turns(groups: np.ndarray) -> np.ndarray:
    """How many of an image's group come before it. groups: (n,) integers in the order of the images; returns (n,)."""
    by_group = np.argsort(groups, kind="stable")
    in_order = groups[by_group]
    turn = np.empty(len(groups), np.int64)
    turn[by_group] = np.arange(len(groups)) - np.searchsorted(in_order, in_order)
    return turn
