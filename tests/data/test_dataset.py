"""Data sets of every kind, whole and broken."""

import gzip
import struct
import time

import numpy as np
import pytest
from PIL import Image

from rmt_edge.data.dataset import check_labels, open_dataset
from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError

SQUARE = Preprocessing(32, 32, crop_ratio=1.0)


@pytest.fixture
def folder(tmp_path):
    """Two class folders with 2 and 3 images; the pixel value tells which."""
    for name, count in (("cat", 2), ("dog", 3)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 36), (count * 10 + i,) * 3).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_class_folders_give_labels_in_sorted_order(folder):
    dataset = open_dataset(folder)
    assert (len(dataset), dataset.num_classes) == (5, 2)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    pixels = dataset.pixels([0, 4], SQUARE)
    assert pixels.shape == (2, 32, 32, 3)
    assert pixels[:, 0, 0, 0].tolist() == [20, 32]


def test_a_flat_folder_has_no_labels(folder):
    dataset = open_dataset(folder / "cat")
    assert len(dataset) == 2 and dataset.labels is None
    with pytest.raises(RmtEdgeError, match="has no labels"):
        check_labels(dataset, 2)


def test_batches_come_in_order_and_the_last_is_smaller(folder):
    dataset = open_dataset(folder)
    batches = list(dataset.batches(SQUARE, 2))
    assert [len(images) for images in batches] == [2, 2, 1]
    expected = normalise(dataset.pixels(list(range(5)), SQUARE), SQUARE)
    assert np.array_equal(np.concatenate(batches), expected)
    assert np.array_equal(np.concatenate(list(dataset.batches(SQUARE, 2, start=3))), expected[3:])


def test_npz_and_idx_hold_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    (tmp_path / "y-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    npz, idx, zipped = (open_dataset(tmp_path / x) for x in ("a.npz", "x-images-idx3-ubyte", "y-images-idx3-ubyte.gz"))
    assert npz.labels.tolist() == idx.labels.tolist() == labels.tolist()
    assert zipped.labels is None
    first = npz.pixels(list(range(7)), SQUARE)
    assert np.array_equal(first, idx.pixels(list(range(7)), SQUARE))
    assert np.array_equal(first, zipped.pixels(list(range(7)), SQUARE))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match="holds no images"):
        open_dataset(tmp_path)


def test_a_file_that_is_no_image_by_name_is_named(folder):
    (folder / "cat" / "notes.txt").write_text("hello")
    with pytest.raises(RmtEdgeError, match=r"notes\.txt is not an image"):
        open_dataset(folder)


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n cut short"])
def test_a_file_that_is_no_image_by_content_is_named(folder, content):
    (folder / "dog" / "9.png").write_bytes(content)
    dataset = open_dataset(folder)
    with pytest.raises(RmtEdgeError, match=r"9\.png is not an image"):
        list(dataset.batches(SQUARE, 2))


def test_a_truncated_image_is_named(folder):
    path = folder / "dog" / "8.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RmtEdgeError, match=r"8\.png is not an image"):
        list(open_dataset(folder).batches(SQUARE, 8))


def test_images_beside_class_folders_are_refused(folder):
    Image.new("RGB", (40, 40)).save(folder / "stray.png")
    with pytest.raises(RmtEdgeError, match=r"stray\.png lies beside folders"):
        open_dataset(folder)


def test_hidden_files_are_ignored(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    assert len(open_dataset(folder)) == 5


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"pictures": np.zeros((2, 4, 4), np.uint8)}, r"holds no array `images`[\s\S]*pictures"),
        ({"images": np.zeros((2, 4, 4), np.float32)}, r"float32 \(2, 4, 4\)"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, r"uint8 \(2, 3, 4, 4\)"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "holds no images"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, r"2 images but labels of shape \(3,\)"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, -1])}, "smallest -1"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0.5, 1])}, "type float64"),
    ],
)
def test_wrong_npz_files_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(RmtEdgeError, match=match):
        open_dataset(tmp_path / "a.npz")


def test_a_broken_npz_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 28, 28), np.uint8))
    content = (tmp_path / "a.npz").read_bytes()
    for broken in (content[: len(content) // 2], b"text", b""):
        (tmp_path / "a.npz").write_bytes(broken)
        with pytest.raises(RmtEdgeError, match=r"cannot be read as an \.npz"):
            open_dataset(tmp_path / "a.npz")


def test_an_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RmtEdgeError, match=r"cannot be read as an \.npz"):
        open_dataset(tmp_path / "a.npz")


def test_a_short_idx_file_is_refused(tmp_path):
    path = tmp_path / "x-images-idx3-ubyte"
    whole = idx_bytes(np.zeros((3, 4, 4), np.uint8))
    path.write_bytes(whole[:-1])
    with pytest.raises(RmtEdgeError, match="cut short or too long"):
        open_dataset(path)
    path.write_bytes(b"\0\0\x0d\x03" + whole[4:])
    with pytest.raises(RmtEdgeError, match="not an IDX file"):
        open_dataset(path)
    path.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(RmtEdgeError, match="cannot be unpacked"):
        open_dataset(path.with_suffix(".gz"))


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match="no data set at"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RmtEdgeError, match="no data set that rmt-edge reads"):
        open_dataset(tmp_path / "a.csv")


def test_a_class_count_that_does_not_fit_the_labels_is_refused(folder, tmp_path):
    assert check_labels(open_dataset(folder), 2).tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(RmtEdgeError, match=r"The classifier has 1000 classes, but .* has 2 class folders"):
        check_labels(open_dataset(folder), 1000)
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 10]))
    with pytest.raises(RmtEdgeError, match=r"The classifier has 10 classes, but .* has labels up to 10"):
        check_labels(open_dataset(tmp_path / "a.npz"), 10)
    assert len(check_labels(open_dataset(tmp_path / "a.npz"), 11)) == 2


@pytest.fixture
def flat(folder, tmp_path):
    """A flat folder of three images and their labels file, in another order, with a line for an image elsewhere."""
    (tmp_path / "val.txt").write_text("2.png 7\n1.png 0\n\n9.png 3\n0.png 65\n")
    return folder / "dog", tmp_path / "val.txt"


def test_the_labels_of_a_flat_folder_come_from_a_file(flat):
    dataset = open_dataset(*flat)
    assert [dataset.name(i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert dataset.labels.tolist() == [65, 0, 7]
    assert check_labels(dataset, 66).tolist() == [65, 0, 7]
    with pytest.raises(RmtEdgeError, match="labels up to 65"):
        check_labels(dataset, 65)


def test_other_labels_are_another_data_set(flat):
    before = open_dataset(*flat).sha256
    assert before != open_dataset(flat[0]).sha256
    flat[1].write_text("0.png 65\n1.png 0\n2.png 8\n")
    assert before != open_dataset(*flat).sha256


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("0.png 1\n1.png\n", r"line 2: '1\.png'"),
        ("0.png -1\n", r"line 1: '0\.png -1'"),
        ("0.png 1\n1.png 2\n", r"no label for 1 of 3 images, the first 2\.png"),
    ],
)
def test_wrong_labels_files_are_refused(flat, content, match):
    flat[1].write_text(content)
    with pytest.raises(RmtEdgeError, match=match):
        open_dataset(*flat)


def test_labels_are_refused_where_there_is_no_place_for_them(flat, folder, tmp_path):
    with pytest.raises(RmtEdgeError, match="has class folders, which are labels already"):
        open_dataset(folder, flat[1])
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(RmtEdgeError, match=r"--labels .* is given, but .*a\.npz is no folder"):
        open_dataset(tmp_path / "a.npz", flat[1])
    with pytest.raises(RmtEdgeError, match=r"The labels .*nowhere cannot be read"):
        open_dataset(flat[0], tmp_path / "nowhere")


def test_a_large_folder_opens_quickly_and_unread(tmp_path):
    """1,000 class folders of five files that hold nothing: whoever read one would raise."""
    for i in range(1000):
        (tmp_path / f"n{i:08}").mkdir()
        for j in range(5):
            (tmp_path / f"n{i:08}" / f"{j}.JPEG").touch()
    start = time.process_time()
    dataset = open_dataset(tmp_path)
    assert time.process_time() - start < 2.0
    assert (len(dataset), dataset.num_classes, dataset.class_names[7]) == (5000, 1000, "n00000007")
    assert dataset.name(4999) == "n00000999/4.JPEG"
