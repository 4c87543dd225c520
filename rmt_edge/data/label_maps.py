"""Pairs of pictures and label maps, in ADE20K's layout: folder/x.jpg and labels/x.png, one number a pixel.

ADE20K's release numbers its classes from 1, and 0 is what nobody labelled: 0 becomes 255, which does not count, and
1 … 150 become 0 … 149 (reduce_zero_label of mmseg). Other maps are taken as they are; 255 in them does not count.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rmt_edge.data.decoding import IMAGE_SUFFIXES, UNREADABLE, image_size
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.segmentation import IGNORED


@dataclass(frozen=True)
class LabelFiles:
    """Label maps by image (segmentation.LabelMaps). files: of the maps, pictures: of their pictures, in that order.

    from_one: whether the files number classes from 1 and leave 0 to what nobody labelled.
    """

    files: tuple[Path, ...]
    pictures: tuple[Path, ...]
    from_one: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> np.ndarray:
        """The map of an image, (h, w) int32, IGNORED where it does not count."""
        path = self.files[index]
        try:
            with Image.open(path) as image:
                labels = np.asarray(image)
        except UNREADABLE as error:
            raise RmtEdgeError(f"{path} is no label map ({error}).", "it is a PNG of one number a pixel.") from error
        if labels.ndim != 2 or labels.dtype.kind not in "iub":
            raise RmtEdgeError(
                f"{path} is {labels.dtype} {labels.shape}.", "a label map is a grey or palette PNG, one number a pixel."
            )
        width, height = image_size(self.pictures[index])
        if labels.shape != (height, width):
            raise RmtEdgeError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]} pixels, its picture {width}x{height}.",
                "a label map has the size of its picture.",
            )
        labels = labels.astype(np.int32)
        return np.where(labels == 0, IGNORED, labels - 1) if self.from_one else labels

    def chosen(self, indices: np.ndarray) -> "LabelFiles":
        """Those of some of the images, in that order."""
        files, pictures = ([x[i] for i in indices] for x in (self.files, self.pictures))
        return replace(self, files=tuple(files), pictures=tuple(pictures))


def open_label_maps(folder: Path, labels: Path) -> tuple[LabelFiles, str]:
    """The maps of the pictures of a folder, and a sha256 of the maps' names and sizes."""
    pictures = sorted(x for x in folder.rglob("*") if x.suffix.lower() in IMAGE_SUFFIXES and x.is_file())
    if not pictures:
        raise RmtEdgeError(f"The folder {folder} holds no images.", f"looked for {', '.join(IMAGE_SUFFIXES)}.")
    files = [(labels / x.relative_to(folder)).with_suffix(".png") for x in pictures]
    missing = [x for x in files if not x.is_file()]
    if missing:
        raise RmtEdgeError(
            f"{len(missing)} of the {len(pictures)} pictures of {folder} have no label map, the first {missing[0]}.",
            "a map has its picture's name and ends in .png, ADE20K's layout.",
        )
    listing = "\n".join(f"{x.relative_to(labels).as_posix()} {x.stat().st_size}" for x in files)
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    return LabelFiles(tuple(files), tuple(pictures)), digest
