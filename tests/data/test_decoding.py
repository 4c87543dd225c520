"""Images decoded ahead: in order, a few batches at a time, an error naming its file."""

import multiprocessing
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from rmt_edge.data import decoding
from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.decoding import AHEAD, covering_size, decoded_by_workers, default_workers, fit, in_order
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError

SQUARE = Preprocessing(32, 32, crop_ratio=1.0)


def public_evaluation(width, height, size, crop):
    """What torchvision's Resize(size) and CenterCrop(crop) do to an image: its new size, and where the crop begins.

    torchvision/transforms/functional.py, _compute_resized_output_size and center_crop.
    """
    shorter, longer = sorted((width, height))
    after = size, int(size * longer / shorter)
    new_width, new_height = after if width <= height else reversed(after)
    return (new_width, new_height), (round((new_width - crop) / 2.0), round((new_height - crop) / 2.0))


def table_of_sizes():
    rng = np.random.default_rng(1)
    return [(500, 375), (375, 500), (256, 256), (224, 225), (28, 28), (1, 999), (333, 500)] + [
        tuple(int(x) for x in rng.integers(20, 900, 2)) for _ in range(300)
    ]


@pytest.mark.parametrize(("input_size", "crop_ratio"), [(224, 0.875), (224, 0.9), (384, 1.0), (256, 0.95)])
def test_images_are_resized_as_the_public_evaluation_does(input_size, crop_ratio):
    preprocessing = Preprocessing(input_size, input_size, crop_ratio)
    rounded = 0
    for width, height in table_of_sizes():
        expected, _ = public_evaluation(width, height, int(input_size / crop_ratio), input_size)
        assert covering_size(width, height, preprocessing) == expected, (width, height)
        exact = int(input_size / crop_ratio) * max(width, height) / min(width, height)
        rounded += round(exact) != int(exact)
    assert rounded > 100, "the table tells rounding from truncation"


def test_the_crop_begins_where_the_public_evaluation_has_it():
    """Images whose pixels are their own coordinates, unresized: both sides of rests that are odd, even, 1 mod 4."""
    preprocessing = Preprocessing(32, 32, crop_ratio=1.0)
    for rest in range(12):
        row = np.arange(32 + rest, dtype=np.uint8)
        image = Image.fromarray(np.stack([np.tile(row, (32, 1))] * 3, -1))
        _, (left, _) = public_evaluation(32 + rest, 32, 32, 32)
        assert fit(image, preprocessing)[0, 0, 0] == left, rest


@pytest.mark.parametrize(("height", "width"), [(40, 48), (64, 160), (300, 33)])
def test_another_aspect_is_covered_by_the_least_size(height, width):
    preprocessing = Preprocessing(height, width, crop_ratio=1.0)
    for size in table_of_sizes():
        new_width, new_height = covering_size(*size, preprocessing)
        assert new_width >= width and new_height >= height and (new_width == width or new_height == height)


class CountingReader:
    """Stands in for decoding: counts the batches begun and not yet taken."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = self.taken = self.peak = 0

    def __call__(self, batch):
        with self.lock:
            self.begun += 1
            self.peak = max(self.peak, self.begun - self.taken)
        return np.array(batch)


@pytest.mark.parametrize("ahead", [1, 3])
def test_batches_come_in_order_and_few_are_under_way(ahead):
    reader = CountingReader()
    batches = [[i] for i in range(40)]
    with ThreadPoolExecutor(4) as executor:
        for i, found in enumerate(in_order(executor, reader, batches, ahead)):
            assert found.tolist() == [i]
            reader.taken += 1
    assert reader.begun == 40
    # Those under way, and the one that the consumer holds without having come back for the next.
    assert reader.peak <= ahead


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):
        (tmp_path / "set" / f"c{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(
            tmp_path / "set" / f"c{i % 3}" / f"{i:02}.png"
        )
    return tmp_path / "set"


def test_workers_give_what_one_process_gives(folder):
    dataset = open_dataset(folder)
    alone = list(dataset.batches(SQUARE, 4, workers=0))
    ahead = list(dataset.batches(SQUARE, 4, workers=2))
    assert len(alone) == len(ahead) == 8
    assert all(np.array_equal(images, expected) for images, expected in zip(ahead, alone, strict=True))
    images, *_ = dataset.batches(SQUARE, 4, start=8, workers=0)
    assert np.array_equal(images, alone[2])


def test_a_reader_that_stops_early_leaves_no_worker(folder):
    before = len(multiprocessing.active_children())
    batches = open_dataset(folder).batches(SQUARE, 4, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) > before
    batches.close()
    assert len(multiprocessing.active_children()) == before


def test_a_worker_that_was_killed_is_told(folder):
    batches = open_dataset(folder).batches(SQUARE, 1, workers=1)
    next(batches)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(RmtEdgeError, match=r"decodes images has ended[\s\S]*--workers 0") as caught:
        list(batches)
    assert isinstance(caught.value.__cause__, BrokenProcessPool)


def test_few_images_are_decoded_in_this_process(monkeypatch):
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert default_workers(decoding.FEW_IMAGES - 1) == 0
    assert default_workers(50_000) == 6
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert default_workers(50_000) == decoding.MAX_WORKERS
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert default_workers(50_000) == 0


def test_a_batch_ahead_waits_for_each_worker(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(decoding, "in_order", lambda executor, work, batches, ahead: iter([seen.append(ahead)]))
    list(decoded_by_workers([], SQUARE, 3))
    assert seen == [3 * AHEAD]


def test_a_file_is_opened_by_the_named_formats_alone(tmp_path, monkeypatch):
    """An EPS starts Ghostscript in Pillow, whatever its name."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(subprocess, "check_call", lambda *arguments, **_: started.append(arguments))
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:  # so that the test could fail
        assert image.format == "EPS"
    for read in (decoding.read_image, decoding.image_size):
        with pytest.raises(RmtEdgeError, match=r"x\.jpg is not an image"):
            read(path)
    assert not started


def test_every_format_that_is_offered_is_read(tmp_path):
    grey = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    for suffix in decoding.IMAGE_SUFFIXES:
        Image.fromarray(grey).save(tmp_path / f"x{suffix}")
        assert decoding.read_image(tmp_path / f"x{suffix}").size == (10, 12), suffix


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_of_16_bits_is_scaled_and_not_cut_off(tmp_path, suffix):
    grey = np.array([[0, 257, 257 * 128, 65535]] * 40, np.uint16).repeat(10, axis=1)
    Image.fromarray(grey).save(tmp_path / f"x.{suffix}")
    found = np.asarray(decoding.read_image(tmp_path / f"x.{suffix}"))
    assert found.dtype == np.uint8 and (found == (grey // 257)[..., None]).all()


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((40, 40), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(RmtEdgeError, match=r"x\.tiff has pixels of 32 bits"):
        decoding.read_image(tmp_path / "x.tiff")


def test_a_speck_and_an_image_without_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((1, 60000, 3), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "y.ppm").write_bytes(b"P6 0 5 255\n")
    for read in (decoding.read_image, decoding.image_size):
        with pytest.raises(RmtEdgeError, match=r"x\.png is an image of 60000x1 pixels[\s\S]*100 times"):
            read(tmp_path / "x.png")
        with pytest.raises(RmtEdgeError, match=r"y\.ppm is (an image of 0x5 pixels|not an image)"):
            read(tmp_path / "y.ppm")
    Image.fromarray(np.zeros((3, 300, 3), np.uint8)).save(tmp_path / "z.png")
    assert decoding.read_image(tmp_path / "z.png").size == (300, 3)
