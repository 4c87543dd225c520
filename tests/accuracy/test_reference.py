"""Accuracy of an ONNX file against its checkpoint, the record, and the limit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmt_edge.accuracy.limits import drop_message
from rmt_edge.accuracy.predictions import accuracy, outputs_of
from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.accuracy.resume import partial_path
from rmt_edge.artifact import PREDICTIONS, manifest_path, read_artifact
from rmt_edge.data.dataset import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.spec import ModelSpec
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.tasks import classification
from tests.conftest import ROOT, SMALL


@pytest.fixture
def own_labels(images, nano, tmp_path):
    """The noise images under the labels that the float32 model itself gives: a reference of 100 %."""
    dataset = open_dataset(images)
    with torch.no_grad():
        logits = torch.cat([nano(torch.from_numpy(batch)) for batch in dataset.batches(SMALL, 20)])
    path = tmp_path / "own.npz"
    with np.load(images) as arrays:
        np.savez(path, images=arrays["images"], labels=logits.argmax(1).numpy())
    return path


def test_the_record_holds_what_was_measured(onnx_files, checkpoint, own_labels, tmp_path):
    found = validate_against_checkpoint(onnx_files["fp16"], checkpoint, own_labels, tmp_path / "out", max_drop=100)
    assert read_artifact(found.path, PREDICTIONS) == found
    details = found.details
    assert details["reference_percent"] == 100.0
    with np.load(found.path) as arrays, np.load(own_labels) as truth:
        classes, labels = arrays["classes"], truth["labels"]
    assert classes.shape == (60, 5)
    assert details["percent"] == pytest.approx(100 * (classes[:, 0] == labels).mean())
    assert details["agreement_percent"] == details["percent"]
    assert details["drop_points"] == pytest.approx(100 - details["percent"])
    assert details["images"] == 60 and details["within_max_drop"]
    assert [(x["role"], x["name"]) for x in found.manifest.parents] == [
        ("source", onnx_files["fp16"].name), ("checkpoint", checkpoint.name), ("data", "own.npz"),
    ]  # fmt: skip


def test_the_reference_runs_once_for_all_precisions(onnx_files, checkpoint, images, tmp_path, monkeypatch):
    validate_against_checkpoint(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    monkeypatch.setattr("rmt_edge.model.checkpoint.load_checkpoint", None)
    found = validate_against_checkpoint(onnx_files["fp16"], checkpoint, images, tmp_path, max_drop=100)
    assert found.details["images"] == 60


def test_another_data_set_gets_its_own_reference(onnx_files, checkpoint, images, own_labels, tmp_path):
    first = validate_against_checkpoint(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    second = validate_against_checkpoint(onnx_files["fp32"], checkpoint, own_labels, tmp_path, max_drop=100)
    assert first.details["reference_percent"] < 50
    assert second.details["reference_percent"] == 100


def test_the_limit_is_half_a_point_by_default_and_inclusive(onnx_files, checkpoint, own_labels, tmp_path):
    found = validate_against_checkpoint(onnx_files["fp32"], checkpoint, own_labels, tmp_path)
    assert found.details["max_drop_points"] == 0.5
    assert found.details["drop_points"] == 0 and found.details["within_max_drop"]


def test_a_drop_above_the_limit_is_told_with_numbers(onnx_files, checkpoint, own_labels, tmp_path):
    with np.load(own_labels) as arrays:
        labels = arrays["labels"]
    found = validate_against_checkpoint(onnx_files["int8"], checkpoint, own_labels, tmp_path / "a", max_drop=0)
    wrong = found.details["drop_points"]
    assert found.details["within_max_drop"] == (wrong <= 0)
    message = drop_message(found)
    assert f"loses {wrong:.2f} points of top-1 (100.00 % →" in message and "--max-drop" in message
    assert len(labels) == 60


def test_metrics_are_paired():
    reference = np.array([[0, 1], [1, 0], [2, 0]])
    classes = np.array([[0, 1], [0, 1], [1, 0]])
    before, after = (
        {"classes": x, "scores": np.ones(x.shape), "labels": np.array([0, 1, 1])} for x in (reference, classes)
    )
    result = accuracy(classification, before, after)
    assert result["reference_percent"] == pytest.approx(200 / 3)
    assert result["percent"] == pytest.approx(200 / 3)
    assert result["drop_points"] == 0
    assert result["agreement_percent"] == pytest.approx(100 / 3)


def test_another_checkpoint_is_refused(onnx_files, checkpoint, images, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match=r"was made from nano\.safetensors .* not from .*other"):
        validate_against_checkpoint(onnx_files["fp16"], other, images, tmp_path)


def test_labels_beyond_the_classes_are_refused(onnx_files, checkpoint, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 40, 48), np.uint8), labels=np.array([0, 10]))
    with pytest.raises(RmtEdgeError, match="The classifier has 10 classes"):
        validate_against_checkpoint(onnx_files["fp16"], checkpoint, tmp_path / "a.npz", tmp_path)


def test_a_changed_reference_is_refused(onnx_files, checkpoint, images, tmp_path):
    validate_against_checkpoint(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    (reference,) = tmp_path.glob("*.reference.predictions.npz")
    shutil.copy(manifest_path(reference), tmp_path / "kept")
    reference.write_bytes(b"other")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        validate_against_checkpoint(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100)
    assert json.loads((tmp_path / "kept").read_text())["kind"] == PREDICTIONS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_refused(images, value):
    def run(batch):
        logits = np.zeros((len(batch), 10), np.float32)
        logits[-1, 3] = value
        return {"logits": logits}

    with pytest.raises(RmtEdgeError, match="logits hold NaN or infinite"):
        list(
            outputs_of(
                run, open_dataset(images), SMALL, classification, ModelSpec("rmt_nano", "classifier", 10, 40, 48), "x"
            )
        )


@pytest.mark.parametrize("limit", [-1, 101, float("nan")])
def test_a_senseless_limit_is_refused(onnx_files, checkpoint, images, tmp_path, limit):
    with pytest.raises(RmtEdgeError, match="--max-drop is"):
        validate_against_checkpoint(onnx_files["fp16"], checkpoint, images, tmp_path, max_drop=limit)


# Runs `rmt-edge validate` on its arguments and, to leave time for a kill, waits after each batch.
SLOWLY = """
import sys, time
from rmt_edge.accuracy import resume
from rmt_edge.cli import main
append = resume.Partial.append
def slowly(self, top):
    append(self, top)
    time.sleep(0.2)
resume.Partial.append = slowly
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """300 tiny images in ten class folders."""
    folder = tmp_path_factory.mktemp("images") / "set"
    rng = np.random.default_rng(3)
    for i in range(300):
        (folder / f"class{i % 10}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"class{i % 10}" / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(onnx_files, checkpoint, class_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    validate_against_checkpoint(onnx_files["fp16"], checkpoint, class_folders, folder, max_drop=100, workers=0)
    return folder


@pytest.mark.parametrize("killed_in", ["nano.reference.predictions.npz", "nano.fp16.predictions.npz"])
def test_a_killed_run_continues_to_the_same_arrays(
    killed_in, onnx_files, checkpoint, class_folders, uninterrupted, tmp_path, caplog
):
    (tmp_path / "slowly.py").write_text(SLOWLY)
    arguments = [
        "validate",
        onnx_files["fp16"],
        "--checkpoint",
        checkpoint,
        "--data",
        class_folders,
        "--max-drop",
        "100",
    ]
    out, part = tmp_path / "out", partial_path(tmp_path / "out" / killed_in)
    process = subprocess.Popen(
        [sys.executable, "slowly.py", *map(str, arguments), "--output", out, "--workers", "1"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    size = 50 * 5 * 8  # bytes of a batch
    deadline = time.monotonic() + 120
    while not part.exists() or part.stat().st_size < 2 * size:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children, "no worker process was found"
    assert not (out / killed_in).exists()
    with part.open("ab") as file:
        file.write(b"half a chunk")

    with caplog.at_level("INFO"):
        found = validate_against_checkpoint(onnx_files["fp16"], checkpoint, class_folders, out, max_drop=100, workers=0)
    assert f"{killed_in}: continuing after" in caplog.text
    assert not list(out.glob("*.part"))
    for name in ("nano.reference.predictions.npz", "nano.fp16.predictions.npz"):
        with np.load(out / name) as arrays, np.load(uninterrupted / name) as expected:
            assert set(arrays) == set(expected) == {"classes", "scores", "labels"}
            assert all(arrays[key].tobytes() == expected[key].tobytes() for key in arrays)
    resumed_images = read_artifact(out / killed_in, PREDICTIONS).details["resumed_images"]
    assert 100 <= resumed_images < 300 and resumed_images % 50 == 0
    expected = read_artifact(uninterrupted / "nano.fp16.predictions.npz", PREDICTIONS).details
    assert found.details | {"resumed_images": 0} == expected
    _wait_for_the_end_of(children)


def _wait_for_the_end_of(processes):
    deadline = time.monotonic() + 20
    while running := [x for x in processes if Path(f"/proc/{x}").exists() and "Z" not in _state(x)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.05)


def _state(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_class_folders_name_their_classes_and_images(uninterrupted):
    details = read_artifact(uninterrupted / "nano.fp16.predictions.npz", PREDICTIONS).details
    assert [x["name"] for x in details["per_class"]] == [f"class{i}" for i in range(10)]
    assert all(x["images"] == 30 for x in details["per_class"])
    assert details["worst_images"][0]["name"].startswith("class")
    assert details["interval_method"].startswith("score interval")
    assert set(details["classification"]["flips"]) == {"right_to_wrong", "wrong_to_right", "wrong_to_other_wrong"}
    assert 0 <= details["classification"]["mcnemar_p"] <= 1


def test_the_scores_are_the_logits_of_the_classes(onnx_files, checkpoint, images, tmp_path):
    path = validate_against_checkpoint(onnx_files["fp32"], checkpoint, images, tmp_path, max_drop=100).path
    (batch,) = open_dataset(images).batches(SMALL, 60)
    logits = np.concatenate([OnnxRunner(onnx_files["fp32"])(x)["logits"] for x in (batch[:50], batch[50:])])
    with np.load(path) as arrays:
        assert np.array_equal(arrays["scores"], np.take_along_axis(logits, arrays["classes"], axis=1))


def test_an_image_that_breaks_in_a_worker_is_named(onnx_files, checkpoint, class_folders, tmp_path):
    broken = tmp_path / "set"
    shutil.copytree(class_folders, broken)
    (broken / "class4" / "014.png").write_bytes(b"no image")
    with pytest.raises(RmtEdgeError, match=r"class4/014\.png is not an image"):
        validate_against_checkpoint(onnx_files["fp16"], checkpoint, broken, tmp_path, max_drop=100, workers=1)


def test_with_a_confidence_the_upper_end_is_held_to_the_limit(onnx_files, checkpoint, own_labels, tmp_path):
    """No image lost of 60: no drop was seen, but one of 4 points cannot be ruled out."""
    found = validate_against_checkpoint(onnx_files["fp32"], checkpoint, own_labels, tmp_path, max_drop=1)
    assert found.details["within_max_drop"] and found.details["confidence"] is None
    found = validate_against_checkpoint(
        onnx_files["fp32"], checkpoint, own_labels, tmp_path, max_drop=1, confidence=0.95
    )
    details = found.details
    assert not details["within_max_drop"] and details["confidence"] == 0.95
    assert details["drop_upper_points"] == pytest.approx(100 * 1.6449**2 / (60 + 1.6449**2), abs=0.01)
    assert re.search(
        r"loses 0\.00 points .*95 % interval of the loss -6\.02 to \+6\.02\); "
        r"with 95\.0% confidence up to 4\.31, more than the 1 that --max-drop allows",
        drop_message(found),
    )
    found = validate_against_checkpoint(
        onnx_files["fp32"], checkpoint, own_labels, tmp_path, max_drop=5, confidence=0.95
    )
    assert found.details["within_max_drop"]


@pytest.mark.parametrize("confidence", [0.4, 1, 95, float("nan")])
def test_a_senseless_confidence_is_refused(onnx_files, checkpoint, images, tmp_path, confidence):
    with pytest.raises(RmtEdgeError, match="--confidence is"):
        validate_against_checkpoint(onnx_files["fp16"], checkpoint, images, tmp_path, confidence=confidence)


def test_a_senseless_number_of_workers_is_refused(onnx_files, checkpoint, images, tmp_path):
    with pytest.raises(RmtEdgeError, match="--workers is -1"):
        validate_against_checkpoint(onnx_files["fp16"], checkpoint, images, tmp_path, workers=-1)


def test_a_flat_folder_is_validated_with_its_labels_file(onnx_files, checkpoint, class_folders, tmp_path):
    (tmp_path / "flat").mkdir()
    lines = []
    for path in sorted(class_folders.rglob("*.png"))[::15]:
        shutil.copy(path, tmp_path / "flat")
        lines.append(f"{path.name} {path.parent.name[-1]}\n")
    (tmp_path / "val.txt").write_text("".join(lines))
    found = validate_against_checkpoint(
        onnx_files["fp16"], checkpoint, tmp_path / "flat", tmp_path, 100, labels_file=tmp_path / "val.txt"
    )
    with np.load(found.path) as arrays:
        assert np.bincount(arrays["labels"]).tolist() == [2] * 10
    assert found.details["images"] == 20
