"""Images to calibrate and validate with: image folders, .npz and IDX files, one preprocessing for all.

An image folder holds images, or one folder of images per class (classes in the order of their sorted names, as
torchvision's ImageFolder has them). An .npz holds `images`, uint8 (n, h, w) or (n, h, w, 3), and for validation
`labels`, integers (n,). An IDX file is MNIST's format (http://yann.lecun.com/exdb/mnist/): `…images-idx3-ubyte`,
gzipped or not, with its labels in the file of the same name with `labels-idx1`.
"""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rmt_edge.errors import RmtEdgeError
from rmt_edge.preprocess import Preprocessing, normalise

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class Dataset:
    """Images by index, with labels where there are any.

    labels: (n,) int64 or None. num_classes: the number of class folders, None where only the labels tell.
    sha256: of the file; of a folder, of its files' names and sizes.
    """

    path: Path
    count: int
    labels: np.ndarray | None
    num_classes: int | None
    sha256: str
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return self.count

    def as_parent(self) -> dict[str, str]:
        """The data set as the parent of a file, for its manifest."""
        return {"name": self.path.name, "sha256": self.sha256}

    def pixels(self, indices: list[int], preprocessing: Preprocessing) -> np.ndarray:
        """Resized, cropped RGB pixels. (len(indices), height, width, 3), uint8."""
        return np.stack([fit(self.read(i), preprocessing) for i in indices])

    def batches(
        self, preprocessing: Preprocessing, batch: int, limit: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Network inputs (b, 3, h, w) float32 and labels (b,), in order, the last batch smaller."""
        count = self.count if limit is None else min(limit, self.count)
        for start in range(0, count, batch):
            indices = list(range(start, min(start + batch, count)))
            labels = None if self.labels is None else self.labels[indices]
            yield normalise(self.pixels(indices, preprocessing), preprocessing), labels


def fit(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize (bicubic) to cover the target over crop_ratio, crop the centre. Returns (height, width, 3) uint8."""
    image = image.convert("RGB")
    height, width = preprocessing.height, preprocessing.width
    scale = max(height / image.height, width / image.width) / preprocessing.crop_ratio
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def open_dataset(path: str | Path) -> Dataset:
    """The data set at a path; its kind follows from what lies there."""
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise RmtEdgeError(f"There is no data set at {path}.", do="Pass an image folder, an .npz or an IDX file.")
    if path.suffix == ".npz":
        images, labels = _read_npz(path)
    elif "idx3" in path.name:
        images, labels = _read_idx(path)
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


def check_labels(dataset: Dataset, num_classes: int) -> np.ndarray:
    """The labels, if the set has them and they fit a classifier of num_classes. (n,) int64."""
    if dataset.labels is None:
        raise RmtEdgeError(
            f"{dataset.path} has no labels.",
            "accuracy needs them: one folder per class, `labels` in an .npz, or the IDX file of labels beside it.",
        )
    largest = int(dataset.labels.max())
    if largest >= num_classes or dataset.num_classes not in (None, num_classes):
        found = f"{dataset.num_classes} class folders" if dataset.num_classes else f"labels up to {largest}"
        raise RmtEdgeError(
            f"The classifier has {num_classes} classes, but {dataset.path} has {found}.",
            do="Use the data set that this checkpoint was trained for.",
        )
    return dataset.labels


def _open_folder(path: Path) -> Dataset:
    files = sorted(x for x in path.rglob("*") if x.is_file() and not x.name.startswith("."))
    if not files:
        raise RmtEdgeError(
            f"The folder {path} holds no images.", f"looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders too."
        )
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise _no_image(file)
    loose = [x for x in files if x.parent == path]
    if loose and len(loose) < len(files):
        raise RmtEdgeError(
            f"{loose[0]} lies beside folders of images.",
            "a data set is a folder of images or a folder of class folders.",
        )
    labels, num_classes = None, None
    if not loose:
        classes = [x.relative_to(path).parts[0] for x in files]
        names = {name: index for index, name in enumerate(sorted(set(classes)))}
        labels, num_classes = np.array([names[x] for x in classes], np.int64), len(names)
    listing = "\n".join(f"{x.relative_to(path)} {x.stat().st_size}" for x in files)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return Dataset(path, len(files), labels, num_classes, digest, lambda i: _read_image(files[i]))


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _no_image(path, f" ({error})") from error


def _no_image(path: Path, detail: str = "") -> RmtEdgeError:
    return RmtEdgeError(
        f"{path} is not an image{detail}.",
        f"a data set folder holds images only: {', '.join(IMAGE_SUFFIXES)}.",
        "Remove the file, or replace it by a readable image.",
    )


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise RmtEdgeError(
                    f"{path} holds no array `images`.", f"it holds: {', '.join(arrays.files) or 'nothing'}."
                )
            images = arrays["images"]
            labels = arrays["labels"] if "labels" in arrays else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RmtEdgeError(f"{path} cannot be read as an .npz file: {error}.") from error
    is_image_array = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if images.dtype != np.uint8 or not is_image_array:
        raise RmtEdgeError(
            f"{path}: `images` is {images.dtype} {images.shape}.", "it must be uint8, (n, h, w) or (n, h, w, 3)."
        )
    return images, labels


def _read_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    has_labels = labels_path != path and labels_path.exists()
    return _read_idx_array(path, 3), _read_idx_array(labels_path, 1) if has_labels else None


def _read_idx_array(path: Path, rank: int) -> np.ndarray:
    """One IDX file of unsigned bytes: 0, 0, type 8, rank; the sizes, big-endian; the data."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RmtEdgeError(f"{path} cannot be unpacked: {error}.") from error
    header = 4 + 4 * rank
    if len(data) < header or data[:4] != bytes((0, 0, 8, rank)):
        raise RmtEdgeError(f"{path} is not an IDX file of unsigned bytes with {rank} dimensions.")
    shape = struct.unpack(f">{rank}I", data[4:header])
    if len(data) - header != int(np.prod(shape)):
        raise RmtEdgeError(f"{path} is cut short or too long: {len(data) - header} bytes of data for shape {shape}.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
