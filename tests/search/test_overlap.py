"""Shared images are found between folders and files of arrays, whatever the files are called."""

import numpy as np
import pytest
from PIL import Image

from rmt_edge.artifact import sha256_of
from rmt_edge.data.dataset import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.search import overlap
from rmt_edge.search.overlap import check_apart, shared_images


def pixels_of(seed, count, side=32):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def folder_of(path, pixels, name="{}.png"):
    path.mkdir()
    for i, x in enumerate(pixels):
        Image.fromarray(x).save(path / name.format(i))
    return open_dataset(path)


@pytest.fixture
def pixels():
    """Of two sets: the third image of the first is the second of the other."""
    first, other = pixels_of(1, 5), pixels_of(2, 4)
    other[1] = first[2]
    return first, other


def test_the_same_bytes_are_found_under_another_name(tmp_path, pixels):
    first, other = folder_of(tmp_path / "a", pixels[0]), folder_of(tmp_path / "b", pixels[1], "img_{}.png")
    assert shared_images(first, other) == [2]
    with pytest.raises(RmtEdgeError, match=r"1 images of the selection .* are in the test set .* the first is 2\.png"):
        check_apart(first, other, "test")


def test_equal_sizes_alone_are_not_the_same_image(tmp_path, pixels):
    first = folder_of(tmp_path / "a", pixels[0], "{}.bmp")  # without compression: all files have one size
    other = folder_of(tmp_path / "b", pixels_of(3, 4), "{}.bmp")
    assert shared_images(first, other) == []
    check_apart(first, other, "test")


def test_a_copy_of_a_folder_is_the_other_set(tmp_path, pixels):
    """The sha256 of a folder is of names and sizes: the very same files elsewhere are the same set."""
    first, other = folder_of(tmp_path / "a", pixels[0]), folder_of(tmp_path / "b", pixels[0])
    with pytest.raises(RmtEdgeError, match=r"selection set .* is the calibration set"):
        check_apart(first, other, "calibration")


def test_only_files_of_equal_size_are_read(tmp_path, pixels, monkeypatch):
    first, other = folder_of(tmp_path / "a", pixels[0]), folder_of(tmp_path / "b", pixels[1], "img_{}.png")
    for path, more in ((tmp_path / "b" / "img_3.png", 100), (tmp_path / "a" / "4.png", 200)):
        with path.open("ab") as file:
            file.write(bytes(more))
    sizes = {x.stat().st_size for x in first.files} & {x.stat().st_size for x in other.files}
    read = []
    monkeypatch.setattr(overlap, "sha256_of", lambda path: read.append(path) or sha256_of(path))
    assert shared_images(first, other) == [2]
    assert {x.stat().st_size for x in read} <= sizes and len(read) < 9


@pytest.mark.parametrize("is_folder_first", [True, False])
def test_pixels_are_compared_with_a_file_of_arrays(tmp_path, pixels, is_folder_first, monkeypatch):
    folder = folder_of(tmp_path / "a", pixels[0])
    Image.fromarray(pixels_of(4, 1, side=40)[0]).save(tmp_path / "a" / "larger.png")
    folder = open_dataset(tmp_path / "a")
    np.savez(tmp_path / "b.npz", images=pixels[1])
    arrays = open_dataset(tmp_path / "b.npz")
    decoded = []
    monkeypatch.setattr(overlap, "_pixel_hash", lambda x, of=overlap._pixel_hash: decoded.append(x.size) or of(x))
    assert shared_images(folder, arrays) == [2] if is_folder_first else shared_images(arrays, folder) == [1]
    assert set(decoded) == {(32, 32)}, "images of another size are not decoded"


def test_grey_arrays_are_found_among_images_in_colour(tmp_path):
    grey = pixels_of(5, 3)[..., 0]
    folder = folder_of(tmp_path / "a", np.repeat(grey[:1, :, :, None], 3, axis=3))
    np.savez(tmp_path / "b.npz", images=grey)
    assert shared_images(open_dataset(tmp_path / "b.npz"), folder) == [0]


def test_arrays_of_another_size_share_nothing(tmp_path):
    for name, side in (("a", 32), ("b", 40)):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((2, side, side, 3), np.uint8))
    check_apart(open_dataset(tmp_path / "a.npz"), open_dataset(tmp_path / "b.npz"), "test")
