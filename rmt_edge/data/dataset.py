"""Images to calibrate and validate with: image folders, .npz and IDX files, one preprocessing for all.

An image folder holds images, or one folder of images per class (classes in the order of their sorted names, as
torchvision's ImageFolder has them). The labels of a flat folder may lie in a text file, a line `name label` for each
image: ImageNet's validation set as it is downloaded, with the val.txt that Caffe made customary.

An .npz holds `images`, uint8 (n, h, w) or (n, h, w, 3), and for validation `labels`, integers (n,). An IDX file is
MNIST's format (http://yann.lecun.com/exdb/mnist/): `…images-idx3-ubyte`, gzipped or not, with its labels in the file of
the same name with `labels-idx1`.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt_edge.artifact import DATA, parent_of
from rmt_edge.data.array_files import read_idx, read_npz
from rmt_edge.data.coco import read_annotations
from rmt_edge.data.decoding import (
    IMAGE_SUFFIXES,
    decode,
    decoded_by_workers,
    default_workers,
    fit,
    image_size,
    no_image,
    read_image,
)
from rmt_edge.data.draw import Draw, draw
from rmt_edge.data.label_maps import LabelFiles, open_label_maps
from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import Annotations
from rmt_edge.tasks.task import Frame


@dataclass(frozen=True)
class Dataset:
    """Images by index, with labels where there are any.

    labels: (n,) int64 or None. num_classes: the number of class folders, None where only the labels tell.
    sha256: of the file; of a folder, of its files' names and sizes. files: of a folder, in the order of the images.
    class_names: of class folders, by class number. chosen: which images of the whole set these are, None for all.
    annotations: the objects of the images, or their label maps, of a detector's or segmenter's set.
    """

    path: Path
    count: int
    labels: np.ndarray | None
    num_classes: int | None
    sha256: str
    read: Callable[[int], Image.Image]
    files: tuple[Path, ...] | None = None
    class_names: tuple[str, ...] | None = None
    chosen: Draw | None = None
    annotations: Annotations | LabelFiles | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def truth(self) -> Any:
        """What a model is held to (tasks/), None where there is none: labels, objects or label maps."""
        return self.labels if self.annotations is None else self.annotations

    def frames(self, preprocessing: Preprocessing, first: int, count: int) -> list[Frame]:
        """Where so many of the pictures lie in the network's input; of `within` alone."""
        if preprocessing.within is None:
            return []
        sizes = (self.size(i) for i in range(first, first + count))
        return [preprocessing.frame(height, width) for height, width in sizes]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a picture; of a file from its head, held to what the annotations say."""
        width, height = image_size(self.files[index]) if self.files else self.read(index).size
        known = self.annotations.sizes[index].tolist() if isinstance(self.annotations, Annotations) else [height, width]
        if known != [height, width]:
            raise RmtEdgeError(
                f"{self.name(index)} has {width}x{height} pixels; its annotations say {known[1]}x{known[0]}.",
                "boxes and masks are of the picture's own pixels.",
                "Use the pictures that the annotations were made for.",
            )
        return height, width

    @property
    def identity(self) -> dict[str, str]:
        """Its name and sha256, as records hold them."""
        return {"name": self.path.name, "sha256": self.sha256}

    def as_parent(self, role: str = DATA) -> dict[str, str]:
        """The data set as the parent of a file, for its manifest."""
        return parent_of(self.path.name, self.sha256, role)

    def pixels(self, indices: list[int], preprocessing: Preprocessing) -> np.ndarray:
        """Resized, cropped RGB pixels. (len(indices), height, width, 3), uint8."""
        return np.stack([fit(self.read(i), preprocessing) for i in indices])

    def name(self, index: int) -> str:
        """An image's file within the folder, or its number in the whole set."""
        if self.files:
            return self.files[index].relative_to(self.path).as_posix()
        return str(index if self.chosen is None else self.chosen.indices[index])

    def drawn(self, count: int | None) -> "Dataset":
        """`count` of the images (draw.py), or the set itself for all that it has or for None.

        Its path and sha256 stay those of the whole set: what was drawn is recorded beside them (drawing).
        """
        if count is None or count == len(self):
            return self
        assert self.chosen is None and 0 < count < len(self), (self.chosen, count, len(self))
        folders = [x.parent.as_posix() for x in self.files] if self.files else None
        found, read = draw(self.sha256, count, len(self), folders, self.labels), self.read
        return replace(
            self,
            count=count,
            labels=None if self.labels is None else self.labels[found.indices],
            read=lambda i: read(int(found.indices[i])),
            files=None if self.files is None else tuple(self.files[i] for i in found.indices),
            chosen=found,
            annotations=None if self.annotations is None else self.annotations.chosen(found.indices),
        )

    def drawing(self) -> dict[str, Any]:
        """How the images were drawn of the whole set, for a manifest."""
        return (self.chosen or draw(self.sha256, len(self), len(self))).to_dict()

    def batches(
        self, preprocessing: Preprocessing, batch: int, start: int = 0, workers: int | None = None
    ) -> Iterator[np.ndarray]:
        """Network inputs (b, 3, h, w) float32, in order from the image `start` on, the last batch smaller.

        workers: processes that decode the files of a folder, 0 for this one, by default as many as pay.
        """
        pieces = [range(i, min(i + batch, self.count)) for i in range(start, self.count, batch)]
        if workers is None:
            workers = default_workers(self.count - start)
        pixels: Generator[np.ndarray, None, None]
        if workers and self.files:
            files = self.files
            pixels = decoded_by_workers([[files[i] for i in piece] for piece in pieces], preprocessing, workers)
        else:
            pixels = (self.pixels(list(piece), preprocessing) for piece in pieces)
        with contextlib.closing(pixels):
            for piece, images in zip(pieces, pixels, strict=True):
                yield normalise(images, preprocessing, self.frames(preprocessing, piece.start, len(piece)))


def open_dataset(
    source: str | Path | Dataset, labels_file: str | Path | None = None, annotations: str | Path | None = None
) -> Dataset:
    """The data set at a path; its kind follows from what lies there. No image of a folder is read.

    source: its path, or the data set itself, which is returned as it is. labels_file: the labels of a flat folder, a
    line `name label` for each image. annotations: what is to be found in the images of a folder: COCO's JSON of boxes
    and masks (data/coco.py), or the folder of their label maps (data/label_maps.py).
    """
    if isinstance(source, Dataset):
        return source
    path = Path(source)
    if annotations is not None:
        return _open_annotated(path, Path(annotations))
    if path.is_dir():
        return _open_folder(path, None if labels_file is None else Path(labels_file))
    if labels_file is not None:
        raise RmtEdgeError(
            f"--labels {labels_file} is given, but {path} is no folder.",
            "it labels a flat folder of images; an .npz and an IDX file have labels of their own.",
        )
    if not path.exists():
        raise RmtEdgeError(f"There is no data set at {path}.", do="Pass an image folder, an .npz or an IDX file.")
    if path.suffix == ".npz":
        images, labels = read_npz(path)
    elif "idx3" in path.name:
        images, labels = read_idx(path)
    else:
        raise RmtEdgeError(
            f"{path} is no data set that rmt-edge reads.",
            "it reads a folder of images, an .npz with `images` (and `labels`), an IDX file (…images-idx3-ubyte[.gz]).",
        )
    if len(images) == 0:
        raise RmtEdgeError(f"{path} holds no images.")
    if labels is not None and labels.shape != (len(images),):
        raise RmtEdgeError(f"{path}: {len(images)} images but labels of shape {labels.shape}.")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.min() < 0):
        raise RmtEdgeError(f"{path}: labels of type {labels.dtype}, smallest {labels.min()}; they are class numbers.")
    labels = None if labels is None else labels.astype(np.int64)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Dataset(path, len(images), labels, None, digest, lambda i: Image.fromarray(images[i]))


def image_count(dataset: Dataset, images: int | None, default: int | None = None) -> int:
    """How many images to take: `images`, of which there must be as many; without, the default or all there are."""
    if images is None:
        return min(default or len(dataset), len(dataset))
    if not 1 <= images <= len(dataset):
        raise RmtEdgeError(
            f"--images is {images}.", f"{dataset.path} holds {len(dataset)}.", "Pass a number from 1 to that."
        )
    return images


def read_images(paths: Sequence[str | Path], preprocessing: Preprocessing) -> np.ndarray:
    """Image files as a network takes them: resized, cropped, scaled. (len(paths), 3, height, width) float32."""
    return normalise(decode([Path(x) for x in paths], preprocessing), preprocessing)


def check_labels(dataset: Dataset, num_classes: int) -> np.ndarray:
    """The labels, if the set has them and they fit a classifier of num_classes. (n,) int64."""
    if dataset.labels is None:
        raise RmtEdgeError(
            f"{dataset.path} has no labels.",
            "accuracy needs them: class folders, --labels, `labels` in an .npz, or the IDX file of labels beside it.",
        )
    largest = int(dataset.labels.max())
    if largest >= num_classes or dataset.num_classes not in (None, num_classes):
        found = f"{dataset.num_classes} class folders" if dataset.num_classes else f"labels up to {largest}"
        raise RmtEdgeError(
            f"The classifier has {num_classes} classes, but {dataset.path} has {found}.",
            do="Use the data set that this checkpoint was trained for.",
        )
    return dataset.labels


def _open_folder(path: Path, labels_file: Path | None) -> Dataset:
    found = sorted(_files_under(path, ()))
    if not found:
        raise RmtEdgeError(
            f"The folder {path} holds no images.", f"looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders too."
        )
    for parts, _ in found:
        if os.path.splitext(parts[-1])[1].lower() not in IMAGE_SUFFIXES:
            raise no_image(path.joinpath(*parts))
    loose = [parts for parts, _ in found if len(parts) == 1]
    if loose and len(loose) < len(found):
        raise RmtEdgeError(
            f"{path / loose[0][0]} lies beside folders of images.",
            "a data set is a folder of images or a folder of class folders.",
        )
    files = tuple(path.joinpath(*parts) for parts, _ in found)
    listing = "\n".join(f"{'/'.join(parts)} {size}" for parts, size in found)
    labels, class_names = None, None
    if labels_file is not None:
        labels = _read_labels(labels_file, [parts[-1] for parts, _ in found], has_classes=not loose)
        listing += "\n" + "\n".join(str(x) for x in labels.tolist())
    elif not loose:
        class_names = tuple(sorted({parts[0] for parts, _ in found}))
        number = {name: index for index, name in enumerate(class_names)}
        labels = np.array([number[parts[0]] for parts, _ in found], np.int64)
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    num_classes = len(class_names) if class_names else None
    return Dataset(path, len(files), labels, num_classes, digest, lambda i: read_image(files[i]), files, class_names)


def _open_annotated(path: Path, annotations: Path) -> Dataset:
    """A folder of images with COCO's JSON file, or with a folder of label maps."""
    if not path.is_dir():
        raise RmtEdgeError(f"There is no folder {path}.", "--annotations are of the images of a folder.")
    found: Annotations | LabelFiles
    if annotations.is_dir():
        found, digest = open_label_maps(path, annotations)
        files, class_names = found.pictures, None
    else:
        found, files, digest = read_annotations(annotations, path)
        class_names = found.class_names
    listing = "\n".join([digest, *(f"{x.relative_to(path).as_posix()} {x.stat().st_size}" for x in files)])
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    return Dataset(
        path, len(files), None, None, digest, lambda i: read_image(files[i]), files, class_names, annotations=found
    )


def _files_under(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each file's parts below the data set's folder and its size; hidden ones are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            parts = (*above, entry.name)
            if entry.is_dir():
                yield from _files_under(folder / entry.name, parts)
            elif entry.is_file():
                yield parts, entry.stat().st_size


def _read_labels(path: Path, names: list[str], has_classes: bool) -> np.ndarray:
    """The label of each name, from lines `name label`. (n,) int64."""
    if has_classes:
        raise RmtEdgeError(f"--labels {path} is given, but the data set has class folders, which are labels already.")
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RmtEdgeError(f"The labels {path} cannot be read: {error}.") from error
    labels: dict[str, int] = {}
    for number, words in enumerate(lines, 1):
        if words and (len(words) != 2 or not words[1].isdecimal()):
            raise RmtEdgeError(
                f"{path}, line {number}: {' '.join(words)!r}.",
                "a line is the name of an image file and its class number, from 0.",
            )
        if words:
            labels[words[0]] = int(words[1])
    missing = [name for name in names if name not in labels]
    if missing:
        raise RmtEdgeError(
            f"{path} has no label for {len(missing)} of {len(names)} images, the first {missing[0]}.",
            "every image of the folder needs a line.",
        )
    return np.array([labels[name] for name in names], np.int64)
