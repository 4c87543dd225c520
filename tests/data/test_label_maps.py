"""Pairs of pictures and label maps, ADE20K's numbering, and maps that do not fit."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.truth import check_truth
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.tasks import DETECTION, SEGMENTATION, TASKS
from tests.pictured import write_label_maps


def spec(classes):
    return SimpleNamespace(classes=classes, height=96, width=128, has_masks=False)


def test_maps_are_read_beside_their_pictures(tmp_path):
    pictures, maps = write_label_maps(tmp_path)
    dataset = open_dataset(pictures, annotations=maps)
    truth = check_truth(dataset, TASKS[SEGMENTATION], spec(3))
    assert len(dataset) == 8 and dataset.name(2) == "2.jpg"
    with Image.open(maps / "2.png") as image:
        np.testing.assert_array_equal(truth.read(2), np.asarray(image))
    drawn = dataset.drawn(3)
    np.testing.assert_array_equal(drawn.truth.read(1), truth.read(int(drawn.chosen.indices[1])))


def test_ade20k_numbers_from_one(tmp_path):
    """0 is what nobody labelled; a segmenter of 150 classes is ADE20K's."""
    pictures, maps = write_label_maps(tmp_path, images=1)
    Image.fromarray(np.tile(np.array([[0, 1, 150]], np.uint8), (60, 30))).save(maps / "0.png")
    dataset = open_dataset(pictures, annotations=maps)
    truth = check_truth(dataset, TASKS[SEGMENTATION], spec(150))
    assert np.unique(truth.read(0)).tolist() == [0, 149, 255]
    assert np.unique(check_truth(dataset, TASKS[SEGMENTATION], spec(151)).read(0)).tolist() == [0, 1, 150]


def test_a_map_of_another_size_or_kind_is_refused(tmp_path):
    pictures, maps = write_label_maps(tmp_path, images=3)
    Image.fromarray(np.zeros((60, 89), np.uint8)).save(maps / "0.png")
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(maps / "1.png")
    (maps / "2.png").write_bytes(b"no image")
    truth = open_dataset(pictures, annotations=maps).truth
    for i, match in enumerate((r"is 89x60 pixels, its picture 90x60", r"uint8 \(60, 90, 3\)", "is no label map")):
        with pytest.raises(RmtEdgeError, match=match):
            truth.read(i)


def test_pictures_without_maps_and_other_tasks_are_refused(tmp_path):
    pictures, maps = write_label_maps(tmp_path, images=3)
    with pytest.raises(RmtEdgeError, match=r"Pass COCO's JSON file with --annotations"):
        check_truth(open_dataset(pictures, annotations=maps), TASKS[DETECTION], spec(3))
    with pytest.raises(RmtEdgeError, match=r"Pass the folder of label maps with --annotations"):
        check_truth(open_dataset(pictures), TASKS[SEGMENTATION], spec(3))
    (maps / "1.png").unlink()
    with pytest.raises(RmtEdgeError, match=r"1 of the 3 pictures .* no label map, the first .*1\.png"):
        open_dataset(pictures, annotations=maps)
    with pytest.raises(RmtEdgeError, match="There is no folder"):
        open_dataset(tmp_path / "x.npz", annotations=maps)
