"""Sets of images that must not share any: what is chosen on images is not calibrated or tested on them."""

import hashlib

import numpy as np

from rmt_edge.data.dataset import Dataset
from rmt_edge.errors import RmtEdgeError

APART = "choices are made on images that are neither calibrated nor tested on, or the test says nothing."


def check_apart(selection: Dataset, other: Dataset, role: str) -> None:
    """Refuse a selection set that is, or shares images with, the set that plays another role.

    Equal sets are found by their hash; shared images by their pixels where both sets are files of arrays (.npz, IDX).
    """
    if selection.sha256 == other.sha256:
        raise RmtEdgeError(
            f"The selection set {selection.path} is the {role} set.", APART, "Pass other images with --selection."
        )
    if selection.path.is_file() and other.path.is_file():
        shared = shared_images(selection, other)
        if shared:
            raise RmtEdgeError(
                f"{len(shared)} images of the selection set {selection.path} are in the {role} set {other.path}, "
                f"the first at {shared[0]}.",
                APART,
                "Take them out of one of the sets.",
            )


def shared_images(dataset: Dataset, other: Dataset) -> list[int]:
    """The indices of a set's images whose pixels another set holds too."""
    known = set(image_hashes(other))
    return [i for i, digest in enumerate(image_hashes(dataset)) if digest in known]


def image_hashes(dataset: Dataset) -> list[str]:
    """The sha256 of each image's size and pixels."""
    digests = []
    for i in range(len(dataset)):
        pixels = np.asarray(dataset.read(i))
        digests.append(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest())
    return digests
