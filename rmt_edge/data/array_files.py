"""Images in one file: an .npz of `images` and `labels`, and MNIST's IDX format with its labels beside it."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rmt_edge.errors import RmtEdgeError


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels, None where there are none, of an .npz file."""
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


def read_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels, None where there are none, of an IDX file."""
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
