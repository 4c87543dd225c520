"""Sets of images that must not share any: what is chosen on images is not calibrated or tested on them.

An image of a folder is in another folder if a file there has the same bytes, whatever its name: sizes are compared
first, and only files of a size that both folders have are read. With a file of arrays (.npz, IDX) on either side, it is
the pixels that are compared, as RGB: of a folder only images of a width and height that the arrays have are decoded.
The same picture saved in another format, quality or size is not found.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rmt_edge.artifact import sha256_of
from rmt_edge.data.dataset import Dataset
from rmt_edge.data.decoding import image_size
from rmt_edge.errors import RmtEdgeError
from rmt_edge.progress import progress_bar

APART = "choices are made on images that are neither calibrated nor tested on, or the test says nothing."
QUICK = 2_000  # of fewer images a bar would only flicker


def check_apart(selection: Dataset, other: Dataset, role: str) -> None:
    """Refuse a selection set that is, or shares images with, the set that plays another role."""
    if selection.sha256 == other.sha256:
        raise RmtEdgeError(
            f"The selection set {selection.path} is the {role} set.", APART, "Pass other images with --selection."
        )
    shared = shared_images(selection, other, f"compare with the {role} set")
    if shared:
        raise RmtEdgeError(
            f"{len(shared)} images of the selection set {selection.path} are in the {role} set {other.path}, "
            f"the first is {selection.name(shared[0])}.",
            APART,
            "Take them out of one of the sets.",
        )


def shared_images(dataset: Dataset, other: Dataset, title: str = "compare images") -> list[int]:
    """The indices of a set's images that another set holds too."""
    if dataset.files and other.files:
        return _shared_files(dataset.files, other.files, title)
    sizes = _sizes(dataset, title) & _sizes(other, title)
    known = set(image_hashes(other, sizes, title).values())
    return [i for i, digest in image_hashes(dataset, sizes, title).items() if digest in known]


def _shared_files(files: tuple[Path, ...], others: tuple[Path, ...], title: str) -> list[int]:
    """The numbers of the files whose bytes are those of one of the others."""
    size, other_size = ([x.stat().st_size for x in paths] for paths in (files, others))
    both = set(size) & set(other_size)
    alike = [path for path, x in zip(others, other_size, strict=True) if x in both]
    known = {sha256_of(path) for path in _shown(alike, title)}
    numbers = [i for i, x in enumerate(size) if x in both]
    return [i for i in _shown(numbers, title) if sha256_of(files[i]) in known]


def _sizes(dataset: Dataset, title: str) -> set[tuple[int, int]]:
    """The widths and heights of a set's images; of files from their heads alone."""
    if dataset.files:
        return {image_size(path) for path in _shown(dataset.files, title)}
    return {dataset.read(0).size}  # an array has one


def image_hashes(
    dataset: Dataset, sizes: set[tuple[int, int]] | None = None, title: str = "read images"
) -> dict[int, str]:
    """The sha256 of the size and RGB pixels of each image, by its index; of those of certain sizes alone if given."""

    def is_asked(index: int) -> bool:
        return sizes is None or (image_size(dataset.files[index]) if dataset.files else dataset.read(0).size) in sizes

    return {i: _pixel_hash(dataset.read(i)) for i in _shown(range(len(dataset)), title) if is_asked(i)}


def _pixel_hash(image: Image.Image) -> str:
    pixels = np.asarray(image.convert("RGB"))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _shown(items: Iterable, title: str) -> Iterator:
    """The items under a progress bar, where there are many."""
    listed = list(items)
    return iter(progress_bar(listed, title, unit="image", leave=False, disable=len(listed) < QUICK))
