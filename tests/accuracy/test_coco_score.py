"""Predictions by pycocotools: the record's AP, of a data set, of some of its images and of a bundle's subset."""

import json

import pytest

from rmt_edge.accuracy.coco_score import score
from rmt_edge.bundle.bundle import unpack
from rmt_edge.bundle.pack import pack
from rmt_edge.bundle.validate import validate_onnx
from rmt_edge.errors import RmtEdgeError
from tests import detectors
from tests.commands import call
from tests.pictured import onnx_of


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return detectors.Case("mask_rcnn", tmp_path_factory.mktemp("scored"))


def test_pycocotools_says_what_the_record_says(capsys, case, tmp_path):
    found = case.validate(tmp_path, noise=0.1)
    annotations = case.folder / "instances.json"
    status, (path,), errors = call(capsys, "score", found.path, "--data", case.data.path, "--annotations", annotations)
    assert status == 0, errors
    content = json.loads((tmp_path / path).read_text())
    assert content["mask AP"]["AP"] == pytest.approx(found.details["percent"], abs=1e-6)
    (boxes,) = found.details["other_metrics"]
    assert content["box AP"]["AP"] == pytest.approx(boxes["percent"], abs=1e-6) and content["box AP"]["AP50"] > 0
    assert content["predictions"]["sha256"] == found.sha256
    results = json.loads((tmp_path / f"{found.path.stem}.boxes.json").read_text())
    assert len(results) == case.seer(0.1).found["count"].sum() and results[0]["category_id"] in (1, 3, 7)


def test_what_a_device_found_in_its_bundle_is_scored_on_the_workstation(case, tmp_path):
    onnx = onnx_of(case.checkpoint, tmp_path / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmt_edge.bundle.pack_subset.runner_of", lambda *_: case.seer())
        bundle = unpack(pack([onnx], case.checkpoint, case.data, images=5, architectures=()), tmp_path / "device")
    found = validate_onnx(bundle / onnx.path.name, case.seer(0.1), bundle, tmp_path, max_drop=100)
    content = json.loads(score(found, case.data.path, case.folder / "instances.json").read_text())
    assert content["images"] == 5 and content["mask AP"]["AP"] == pytest.approx(found.details["percent"], abs=1e-6)


def test_other_predictions_and_images_are_refused(case, tmp_path):
    found = case.validate(tmp_path, noise=0.1)
    annotations = case.folder / "instances.json"
    changed = tmp_path / "instances.json"
    changed.write_text(annotations.read_text() + " ")
    with pytest.raises(RmtEdgeError, match="is of other images than"):
        score(found, case.data.path, changed)
    segmenter = detectors.Case("semantic_fpn", tmp_path)
    with pytest.raises(RmtEdgeError, match="holds no predictions of a detector"):
        score(segmenter.validate(tmp_path / "s"), case.data.path, annotations)
