"""The report on detectors and segmenters: pictures of both models, curves and classes."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from rmt_edge.artifact import manifest_path
from rmt_edge.report.collect import write_report
from tests import detectors


@pytest.fixture(scope="module", params=detectors.HEADS)
def reported(request, tmp_path_factory):
    """A folder with two candidates, one that changes nothing, and its report."""
    folder = tmp_path_factory.mktemp(request.param)
    case = detectors.Case(request.param, folder)
    out = folder / "out"
    case.validate(out, noise=0.0, recipe="fp16")
    case.validate(out, noise=0.1, recipe="int8")
    for path in (case.reference.path, manifest_path(case.reference.path)):
        shutil.copy(path, out)
    return request.param, out, write_report(out)


def test_the_metric_stands_where_top1_does(reported):
    head, _, page = reported
    metric = detectors.HEADS[head]
    text, html = page.read_text(), page.with_suffix(".html").read_text()
    content = json.loads(page.with_suffix(".json").read_text())
    for row in content["rows"]:
        assert f"{row['accuracy']['percent']:.2f} %" in text and row["accuracy"]["metric"] == metric
    assert f"| {metric} |" in text and f"| {metric} drop, points |" in text
    assert f"points of {metric} lost" in html and "top-1" not in html.lower()
    if head == "mask_rcnn":
        assert "| box AP |" in text and "| box AP drop, points |" in text


def test_both_models_are_drawn_where_they_differ(reported):
    _, _, page = reported
    html = page.with_suffix(".html").read_text()
    pictures = re.findall(r'alt="([^"]*), (float32|int8)" src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) == 8 and [x[1] for x in pictures] == ["float32", "int8"] * 4
    for (name, _, left), (_, _, right) in zip(pictures[::2], pictures[1::2], strict=True):
        both = []
        for x in (left, right):
            with Image.open(io.BytesIO(base64.b64decode(x))) as image:
                both.append(np.asarray(image, int))
        assert both[0].shape == both[1].shape, name
        assert (np.abs(both[0] - both[1]).max(axis=2) > 40).mean() > 0.003, f"{name}: nothing is drawn otherwise"
    assert "fp16 finds what the float32 model finds, in all 8 images" in html
    assert "pictures" not in json.loads(page.with_suffix(".json").read_text())["rows"][0]


def test_classes_and_curves_have_their_numbers(reported):
    head, _, page = reported
    html = page.with_suffix(".html").read_text()
    row = json.loads(page.with_suffix(".json").read_text())["rows"][1]
    measure = {"mask AP": "AP of masks", "box AP": "AP of boxes", "mIoU": "IoU"}[detectors.HEADS[head]]
    assert f"int8: {measure} by class" in html
    assert ("precision against recall" in html) == (head != "semantic_fpn")
    for x in row["accuracy"]["per_class"]:
        assert x["drop_points"] == pytest.approx(x["reference_percent"] - x["percent"], abs=2e-4)
    if head != "semantic_fpn":
        curves = row["accuracy"]["detection"]["precision_at_recall"]
        assert len(curves) == 3 and all(len(x["own"]) == 21 and x["own"][0] >= x["own"][10] for x in curves)
