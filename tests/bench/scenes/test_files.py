"""Scenes as files, and the scores made of them: what is written is what pycocotools and cv2 read."""

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from scenes import score as score_module
from scenes.compose import CLASSES
from scenes.files import write_annotations, write_labels, write_pictures
from scenes.score import as_shipped, average_precision, mean_iou, read_images
from torch import nn

from rmt_edge.data.preprocess import Preprocessing
from tests.bench.scenes.test_compose import composer_of

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes")
    scenes = write_pictures(path / "images", composer_of("test"), COUNT)
    write_labels(path / "labels", scenes)
    write_annotations(path / "annotations.json", scenes)
    return path, scenes


def test_files_hold_what_the_scenes_are(folder):
    path, scenes = folder
    coco = COCO(str(path / "annotations.json"))
    assert [x["name"] for x in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == len(list((path / "images").iterdir())) == COUNT
    for number, scene in enumerate(scenes):
        image = coco.loadImgs(number)[0]
        found = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert [x["category_id"] - 1 for x in found] == scene.labels.tolist()
        assert np.array_equal(np.stack([coco.annToMask(x) for x in found]).astype(bool), scene.masks)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (x["bbox"] for x in found)]
        assert np.array_equal(corners, scene.boxes)
        pixels = read_images(path / "images", [image["file_name"]])[0]
        assert pixels.shape[:2] == (image["height"], image["width"])
        smooth = [cv2.blur(x.astype(np.float32), (7, 7)) for x in (pixels, scene.image)]  # JPEG loses fine noise
        assert np.abs(smooth[0] - smooth[1]).mean() < 3
        label = cv2.imread(str(path / "labels" / f"{number:04}.png"), cv2.IMREAD_UNCHANGED)
        assert label.dtype == np.uint8 and np.array_equal(label, scene.semantic)


def results_of(path, score=1.0, shift=0.0):
    """The truth as if it were found, boxes shifted by that share of their width."""
    annotations = json.loads((path / "annotations.json").read_text())["annotations"]
    keys = ("image_id", "category_id", "segmentation")
    return [
        {k: x[k] for k in keys} | {"bbox": [x["bbox"][0] + shift * x["bbox"][2], *x["bbox"][1:]], "score": score}
        for x in annotations
    ]


def test_ap_of_the_truth_is_100_and_of_shifted_boxes_what_their_iou_allows(folder, monkeypatch):
    monkeypatch.setattr(score_module, "RESAMPLES", 20)
    path, _ = folder
    truth = path / "annotations.json"
    for kind in ("bbox", "segm"):
        found = average_precision(truth, results_of(path), kind)
        assert found["AP"] == found["AP_low"] == found["AP_high"] == 100
    # Shifted by a quarter the IoU is 0.75 / 1.25 = 0.6: right at 0.5, 0.55 and, just so, at 0.6.
    shifted = average_precision(truth, results_of(path, shift=0.245), "bbox")
    assert shifted["AP50"] == 100 and shifted["AP75"] == 0 and 29 < shifted["AP"] < 31
    half = average_precision(truth, results_of(path)[::2], "bbox")
    assert half["AP_low"] < half["AP"] < half["AP_high"] < 100


class Answers(nn.Module):
    """Gives the label maps it was made with, in order."""

    head_name, num_classes, preprocessing = (
        "semantic_fpn",
        len(CLASSES) + 1,
        Preprocessing(128, 128, 1.0, within=(128, 128)),
    )

    def __init__(self, maps):
        super().__init__()
        self.maps = list(maps)

    def forward(self, images):
        return {"labels": torch.from_numpy(np.stack([self.maps.pop(0) for _ in images]))}


def test_miou_is_intersection_over_union_by_class(folder):
    path, scenes = folder
    truth = [x.semantic for x in scenes]
    assert mean_iou(Answers(truth), path / "images", path / "labels")["mIoU"] == 100
    wrong = [np.where(x == 3, 4, x) for x in truth]  # every dress a coat
    found = mean_iou(Answers(wrong), path / "images", path / "labels")
    dress, coat = (sum((x == label).sum() for x in truth) for label in (3, 4))
    assert found["IoU"][3] == 0 and found["IoU"][4] == pytest.approx(100 * coat / (coat + dress), abs=0.01)
    assert found["mIoU_low"] <= found["mIoU"] <= found["mIoU_high"]


def test_shipped_weights_are_halves_but_statistics_and_tables_stay():
    state = {"a.weight": torch.rand(3), "a.running_var": torch.rand(3), "a.num_batches_tracked": torch.tensor(3)}
    found = as_shipped(state | {"layers.0.Relpos.angle": torch.rand(2)})
    kinds = {name: x.dtype for name, x in found.items()}
    assert kinds == {
        "a.weight": torch.float16,
        "a.running_var": torch.float32,
        "a.num_batches_tracked": torch.int64,
        "layers.0.Relpos.angle": torch.float32,
    }
