"""Image files to pixels of the network's size, in this process or ahead of it in worker processes.

Workers are spawned: a fork would copy the threads' locks of PyTorch and ONNX Runtime. Of a set of any size only
AHEAD batches per worker lie in memory.
"""

import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
# A spawned worker starts in 0.5 s; a 500x375 JPEG, ImageNet's average size, is decoded in 4 ms. Below about a second of
# decoding workers cost more than they save.
FEW_IMAGES = 256
MAX_WORKERS = 8
# What Pillow raises at files that are no images, or broken ones.
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
AHEAD = 2  # batches under way per worker: one that is decoded, one that waits


def fit(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize (bicubic) to cover the target over crop_ratio, crop the centre. Returns (height, width, 3) uint8.

    With `within` the picture is kept whole, see Preprocessing.
    """
    image = image.convert("RGB")
    if preprocessing.within is not None:
        return _letterboxed(np.asarray(image), preprocessing)
    height, width = preprocessing.height, preprocessing.width
    size = covering_size(image.width, image.height, preprocessing)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _letterboxed(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The picture (h, w, 3) uint8, resized by OpenCV, at the top left of (height, width, 3), zeros beside it."""
    frame = preprocessing.frame(*pixels.shape[:2])
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise RmtEdgeError(
            "opencv-python-headless is not installed.",
            "the public detection and segmentation pipelines resize with it, and other libraries' pixels differ.",
            "pip install opencv-python-headless",
        ) from error
    found = np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)
    size = frame.width, frame.height
    found[: frame.height, : frame.width] = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return found


def covering_size(image_width: int, image_height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """The width and height to which an image is resized.

    As the public evaluation has it, torchvision's Resize and CenterCrop: of a square target over crop_ratio the shorter
    side takes the integer part, and the longer one that of size · long / short; the crop begins at round(rest / 2),
    half to even. Of another target, the side that just covers it takes the shorter side's place.
    """
    width, height = (int(x / preprocessing.crop_ratio) for x in (preprocessing.width, preprocessing.height))
    if width * image_height >= height * image_width:
        return width, int(width * image_height / image_width)
    return int(height * image_width / image_height), height


def read_image(path: Path) -> Image.Image:
    """An image file as RGB, or an error that names it."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise no_image(path, f" ({error})") from error


def image_size(path: Path) -> tuple[int, int]:
    """The width and height of an image file, read from its head, or an error that names it."""
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE as error:
        raise no_image(path, f" ({error})") from error


def no_image(path: Path, detail: str = "") -> RmtEdgeError:
    """The error for a file of a data set that is no image."""
    return RmtEdgeError(
        f"{path} is not an image{detail}.",
        f"a data set folder holds images only: {', '.join(IMAGE_SUFFIXES)}.",
        "Remove the file, or replace it by a readable image.",
    )


def decode(paths: list[Path], preprocessing: Preprocessing) -> np.ndarray:
    """The pixels of image files. (len(paths), height, width, 3) uint8."""
    return np.stack([fit(read_image(path), preprocessing) for path in paths])


def default_workers(images: int) -> int:
    """Half the cores, the model takes the others; none for few images."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if images < FEW_IMAGES else min(cores // 2, MAX_WORKERS)


def decoded_by_workers(
    batches: Iterable[list[Path]], preprocessing: Preprocessing, workers: int
) -> Generator[np.ndarray, None, None]:
    """The pixels of each batch of files, in order, decoded ahead in that many processes."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield from in_order(executor, partial(decode, preprocessing=preprocessing), batches, AHEAD * workers)
    except BrokenProcessPool as error:
        raise RmtEdgeError(
            "A process that decodes images has ended.",
            "the system ends processes when memory runs out; and a script of your own must call rmt-edge below "
            "`if __name__ == '__main__':`, as each worker imports it.",
            "Decode in one process: --workers 0.",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def in_order(
    executor: Executor, work: Callable[[list[Path]], np.ndarray], batches: Iterable[list[Path]], ahead: int
) -> Generator[np.ndarray, None, None]:
    """The results of work on each batch, in order, with at most `ahead` of them begun and not yet taken."""
    under_way: deque = deque()
    for batch in batches:
        under_way.append(executor.submit(work, batch))
        if len(under_way) == ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _start_worker() -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
