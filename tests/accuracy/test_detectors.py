"""Detectors and segmenters through the same validation, baseline and gate as classifiers.

The file that is validated is one with an exported model's manifest; PyTorch with weights a little off runs for it.
"""

import json

import numpy as np
import pytest

from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.accuracy.reference import reference_predictions
from rmt_edge.accuracy.resume import partial_path
from rmt_edge.accuracy.validate import validate
from rmt_edge.data.dataset import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.gate.baseline import write_baseline
from rmt_edge.gate.gate import Limits, compare
from rmt_edge.tasks import detection
from tests import detectors
from tests.pictured import SIZE, onnx_of, write_checkpoint

IMAGES = detectors.IMAGES
HEADS = detectors.HEADS


@pytest.fixture(scope="module", params=HEADS)
def case(request, tmp_path_factory):
    return detectors.Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return detectors.Case("mask_rcnn", tmp_path_factory.mktemp("detector"))


def test_the_same_model_loses_nothing(case, tmp_path):
    details = case.validate(tmp_path).details
    assert details["metric"] == HEADS[case.head] and details["drop_points"] == 0
    assert details["percent"] == details["reference_percent"] > 0
    assert details["agreement_percent"] == pytest.approx(100) and details["within_max_drop"]
    assert details["drop_interval_points"] == [0, 0] and "1,000 paired bootstrap" in details["interval_method"]
    assert details["images"] == IMAGES and details["task"] in details


def test_another_model_is_told_apart(case, tmp_path):
    found = case.validate(tmp_path, noise=0.1)
    details = found.details
    low, high = details["drop_interval_points"]
    assert low <= details["drop_points"] <= high and low < high
    assert details["drop_points"] == pytest.approx(details["reference_percent"] - details["percent"])
    assert 0 < details["agreement_percent"] < 100
    assert {x["name"] for x in details["per_class"]} <= {"cat", "dog", "owl", "0", "1", "2"}
    assert details["worst_images"][0]["name"].endswith((".png", ".jpg"))
    json.dumps(details, allow_nan=False)


def test_with_a_confidence_the_upper_end_is_judged(case, tmp_path):
    details = case.validate(tmp_path, noise=0.1, confidence=0.95, max_drop=0).details
    assert details["drop_upper_points"] > details["drop_points"] and not details["within_max_drop"]


def test_a_killed_run_continues(case, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt_edge.accuracy.subject.BATCH", 3)
    whole = case.validate(tmp_path / "whole", noise=0.1)
    run, seen = case.seer(0.1), []

    def killed(images):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(images))
        return run(images)

    with pytest.raises(KeyboardInterrupt):
        case.validate(tmp_path / "out", runner=killed)
    assert partial_path(tmp_path / "out" / whole.path.name).is_file()
    found = case.validate(tmp_path / "out", runner=run)
    assert found.details["resumed_images"] == 3
    for name, array in rows_in(whole).items():
        np.testing.assert_array_equal(array, rows_in(found)[name], err_msg=name)


def test_a_baseline_holds_them_and_a_gate_compares(case, tmp_path):
    case.validate(tmp_path, noise=0.05)
    path = write_baseline(tmp_path)
    rows = compare(path, tmp_path, Limits(max_drop=0))
    metrics = ["mask AP", "box AP"] if case.head == "mask_rcnn" else [HEADS[case.head]]
    assert [x.what for x in rows if not x.what.startswith("size")] == metrics and not any(x.is_worse for x in rows)
    case.validate(tmp_path, noise=0.5)
    worse = [x for x in compare(path, tmp_path, Limits(max_drop=0.01)) if x.is_worse]
    assert worse and worse[0].what in metrics


def test_a_detector_of_other_classes_is_refused(detector, tmp_path):
    other = write_checkpoint("mask_rcnn", tmp_path, classes=4)
    with pytest.raises(RmtEdgeError, match=r"The detector has 4 classes, the annotations of .* have 3"):
        reference_predictions(other, detector.data, tmp_path)


def test_a_detector_asks_for_annotations(detector, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"comes without what the model is to find[\s\S]*--annotations"):
        validate(
            onnx_of(detector.checkpoint, tmp_path), open_dataset(detector.data.path), detector.reference,
            runner=detector.seer(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x["boxes"].__setitem__((0, 0, 1), np.nan), "the boxes hold NaN"),
        (lambda x: x["scores"].__setitem__((0, 0), np.inf), "the scores hold NaN or infinite"),
        (lambda x: x["count"].__setitem__(0, 400), r"it counts \[400"),
        (lambda x: x["labels"].__setitem__((0, 0), 3), r"labels reach 3[\s\S]*has 3 classes"),
        (lambda x: x.pop("masks"), "there is no output masks"),
        (lambda x: x.update(masks=x["masks"][:, :3]), r"the masks are \(8, 3, 28, 28\)"),
    ],
)
def test_outputs_that_are_none_are_refused(detector, tmp_path, change, match):
    run = detector.seer()

    def changed(images):
        outputs = {name: x.copy() for name, x in run(images).items()}
        outputs["count"] = np.maximum(outputs["count"], 1)
        change(outputs)
        return outputs

    with pytest.raises(RmtEdgeError, match=match):
        detector.validate(tmp_path, runner=changed)


def test_of_more_boxes_than_coco_counts_the_best_are_kept(detector):
    """An engine may give more than 100; a NaN behind the count is nobody's."""
    rng = np.random.default_rng(0)
    n = 150
    outputs = {
        "boxes": np.tile([0, 0, 20, 20], (1, n, 1)).astype(np.float32), "scores": rng.random((1, n), np.float32),
        "labels": np.zeros((1, n), np.int32), "count": np.array([[n - 10]]),
    }  # fmt: skip
    outputs["boxes"][0, n - 1] = np.nan
    spec = type("Spec", (), {"classes": 3, "height": 96, "width": 128, "has_masks": False})
    detection.check_outputs(outputs, 1, spec, "x")
    (row,) = detection.rows_of(outputs, spec, [SIZE.frame(90, 120)])
    assert row["count"] == 100 and row["scores"][99] == np.sort(outputs["scores"][0, : n - 10])[-100]


def test_boxes_are_in_the_original_picture():
    frame = SIZE.frame(45, 60)  # twice as large in the network's input
    assert (frame.height, frame.width) == (96, 128)
    boxes = detection.original_boxes(np.array([[0, 0, 128, 96], [64, 48, 200, 200]], np.float32), frame)
    np.testing.assert_allclose(boxes, [[0, 0, 60, 45], [30, 22.5, 60, 45]], atol=1e-5)
