"""Accuracy against the checkpoint, its record, and the limit."""

import json
import shutil

import numpy as np
import pytest
import torch

from rmt_edge.accuracy import accuracy, drop_message, predict
from rmt_edge.artifact import PREDICTIONS, manifest_path, read_manifest
from rmt_edge.data import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.validate import validate
from tests.conftest import SMALL


@pytest.fixture
def own_labels(images, nano, tmp_path):
    """The noise images under the labels that the float32 model itself gives: a reference of 100 %."""
    dataset = open_dataset(images)
    with torch.no_grad():
        logits = torch.cat([nano(torch.from_numpy(batch)) for batch, _ in dataset.batches(SMALL, 20)])
    path = tmp_path / "own.npz"
    with np.load(images) as arrays:
        np.savez(path, images=arrays["images"], labels=logits.argmax(1).numpy())
    return path


def test_the_record_holds_what_was_measured(onnx_files, checkpoint, own_labels, tmp_path):
    path, manifest = validate(onnx_files["fp16"], checkpoint, own_labels, tmp_path / "out", max_drop=100)
    assert read_manifest(path, PREDICTIONS) == manifest
    details = manifest.details
    assert details["reference_top1_percent"] == 100.0
    with np.load(path) as arrays, np.load(own_labels) as truth:
        classes, labels = arrays["classes"], truth["labels"]
    assert classes.shape == (60, 5)
    assert details["top1_percent"] == pytest.approx(100 * (classes[:, 0] == labels).mean())
    assert details["agreement_percent"] == details["top1_percent"]
    assert details["drop_points"] == pytest.approx(100 - details["top1_percent"])
    assert details["images"] == 60 and details["within_max_drop"]
    assert [x["name"] for x in manifest.parents] == [onnx_files["fp16"].name, checkpoint.name, "own.npz"]


def test_the_reference_runs_once_for_all_precisions(onnx_files, checkpoint, images, tmp_path, monkeypatch):
    validate(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    monkeypatch.setattr("rmt_edge.validate.load_checkpoint", None)
    _, manifest = validate(onnx_files["fp16"], checkpoint, images, tmp_path, max_drop=100)
    assert manifest.details["images"] == 60


def test_another_data_set_gets_its_own_reference(onnx_files, checkpoint, images, own_labels, tmp_path):
    _, first = validate(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    _, second = validate(onnx_files["fp32"], checkpoint, own_labels, tmp_path, max_drop=100)
    assert first.details["reference_top1_percent"] < 50
    assert second.details["reference_top1_percent"] == 100


def test_the_limit_is_half_a_point_by_default_and_inclusive(onnx_files, checkpoint, own_labels, tmp_path):
    _, manifest = validate(onnx_files["fp32"], checkpoint, own_labels, tmp_path)
    assert manifest.details["max_drop_points"] == 0.5
    assert manifest.details["drop_points"] == 0 and manifest.details["within_max_drop"]


def test_a_drop_above_the_limit_is_told_with_numbers(onnx_files, checkpoint, own_labels, tmp_path):
    with np.load(own_labels) as arrays:
        found = dict(arrays)
    _, manifest = validate(onnx_files["int8"], checkpoint, own_labels, tmp_path / "a", max_drop=0)
    wrong = manifest.details["drop_points"]
    assert manifest.details["within_max_drop"] == (wrong <= 0)
    message = drop_message(manifest)
    assert f"loses {wrong:.2f} points of top-1 (100.00 % →" in message and "--max-drop" in message
    assert len(found["labels"]) == 60


def test_metrics_are_paired():
    reference = np.array([[0, 1], [1, 0], [2, 0]])
    classes = np.array([[0, 1], [0, 1], [1, 0]])
    result = accuracy(reference, classes, np.array([0, 1, 1]))
    assert result["reference_top1_percent"] == pytest.approx(200 / 3)
    assert result["top1_percent"] == pytest.approx(200 / 3)
    assert result["drop_points"] == 0
    assert result["agreement_percent"] == pytest.approx(100 / 3)


def test_another_checkpoint_is_refused(onnx_files, checkpoint, images, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match=r"was made from nano\.safetensors .* not from .*other"):
        validate(onnx_files["fp16"], other, images, tmp_path)


def test_labels_beyond_the_classes_are_refused(onnx_files, checkpoint, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 40, 48), np.uint8), labels=np.array([0, 10]))
    with pytest.raises(RmtEdgeError, match="The classifier has 10 classes"):
        validate(onnx_files["fp16"], checkpoint, tmp_path / "a.npz", tmp_path)


def test_a_changed_reference_is_refused(onnx_files, checkpoint, images, tmp_path):
    validate(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    (reference,) = tmp_path.glob("*.reference.predictions.npz")
    shutil.copy(manifest_path(reference), tmp_path / "kept")
    reference.write_bytes(b"other")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        validate(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    assert json.loads((tmp_path / "kept").read_text())["kind"] == PREDICTIONS


def test_nan_logits_are_refused(images):
    with pytest.raises(RmtEdgeError, match="logits hold NaN"):
        predict(lambda x: np.full((len(x), 10), np.nan), open_dataset(images), SMALL, "x")


@pytest.mark.parametrize("limit", [-1, 101, float("nan")])
def test_a_senseless_limit_is_refused(onnx_files, checkpoint, images, tmp_path, limit):
    with pytest.raises(RmtEdgeError, match="--max-drop is"):
        validate(onnx_files["fp16"], checkpoint, images, tmp_path, max_drop=limit)
