"""Drawing: even over classes and folders, the same everywhere, and recorded."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from rmt_edge.data.dataset import image_count, open_dataset
from rmt_edge.data.draw import draw
from rmt_edge.errors import RmtEdgeError
from tests.conftest import REFERENCE

SEED = "a" * 64


def test_no_class_has_two_images_more_than_another():
    labels = np.repeat(np.arange(10), 100)
    for count in (10, 35, 512):
        found = draw(SEED, count, 1000, labels=labels)
        per_class = np.bincount(labels[found.indices], minlength=10)
        assert per_class.sum() == count and np.ptp(per_class) <= 1, per_class
        assert (np.diff(found.indices) > 0).all() and found.evenly == "classes"


def test_small_classes_give_all_they_have():
    labels = np.array([0] * 90 + [1] * 3 + [2] * 7)
    found = draw(SEED, 30, 100, labels=labels)
    assert np.bincount(labels[found.indices]).tolist() == [20, 3, 7]


def test_folders_count_where_there_are_no_labels_and_within_a_class():
    folders = [f"f{i // 25}" for i in range(100)]
    found = draw(SEED, 8, 100, folders)
    assert [sum(folders[i] == f"f{k}" for i in found.indices) for k in range(4)] == [2, 2, 2, 2]
    assert found.evenly == "folders"
    labels = np.arange(100) // 50  # of two folders each
    found = draw(SEED, 8, 100, folders, labels)
    assert [sum(folders[i] == f"f{k}" for i in found.indices) for k in range(4)] == [2, 2, 2, 2]


def test_the_images_follow_from_the_data_set_alone():
    """The order of sha256(seed, index), written out once more."""
    order = sorted(range(50), key=lambda i: hashlib.sha256(f"{SEED} {i}".encode()).digest())
    assert draw(SEED, 5, 50).indices.tolist() == sorted(order[:5])
    assert draw("b" * 64, 5, 50).indices.tolist() != sorted(order[:5])


def test_the_choice_is_the_same_everywhere():
    """Numbers of this version: a change of `draw` changes every bundle and every calibration."""
    assert draw("seed", 6, 20, labels=np.arange(20) % 4).indices.tolist() == [0, 3, 9, 12, 14, 18]


def test_all_images_keep_their_order():
    found = draw(SEED, 50, 50, labels=np.arange(50)[::-1])
    assert found.indices.tolist() == list(range(50)) and found.evenly == "all"
    calibration = open_dataset(REFERENCE / "calibration.npz")
    assert calibration.drawn(512) is calibration


def test_what_was_drawn_is_recorded():
    record = draw(SEED, 3, 50).to_dict()
    digest = hashlib.sha256(draw(SEED, 3, 50).indices.astype("<i8").tobytes()).hexdigest()
    assert record == {"images": 3, "of": 50, "evenly_over": "none", "indices_sha256": digest}


def test_a_drawn_set_reads_the_images_that_were_drawn(tmp_path):
    for i in range(20):
        (tmp_path / f"c{i // 10}").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"c{i // 10}" / f"{i:02}.png")
    whole = open_dataset(tmp_path)
    chosen = whole.drawn(6)
    assert np.bincount(chosen.labels).tolist() == [3, 3] and chosen.sha256 == whole.sha256
    for i, index in enumerate(chosen.chosen.indices.tolist()):
        assert chosen.name(i) == whole.name(index) and chosen.labels[i] == whole.labels[index]
        assert np.asarray(chosen.read(i))[0, 0, 0] == index
        assert np.asarray(Image.open(chosen.files[i]))[0, 0, 0] == index
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 4, 4), np.uint8))
    arrays = open_dataset(tmp_path / "a.npz").drawn(2)
    assert [arrays.name(i) for i in range(2)] == [str(i) for i in arrays.chosen.indices]


@pytest.mark.parametrize("images", [0, -1, 513])
def test_more_images_than_there_are_or_none_are_refused(images):
    with pytest.raises(RmtEdgeError, match=rf"--images is {images}[\s\S]*holds 512"):
        image_count(open_dataset(REFERENCE / "calibration.npz"), images)
