"""The commands as a person calls them: results on stdout, messages on stderr, exit statuses."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rmt_edge.cli import main
from tests.engine.test_build import needs_rtx

TINY = """
precision = "int8"
images = 16
batch = 8
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def call(capsys, *arguments):
    status = main([str(x) for x in arguments])
    captured = capsys.readouterr()
    return status, captured.out.split(), captured.err


def test_the_steps_one_by_one(capsys, checkpoint, images, recipe, tmp_path):
    out = tmp_path / "out"
    status, (quantized,), _ = call(
        capsys, "quantize", checkpoint, "--recipe", recipe, "--calibration", images, "--output", out
    )
    assert status == 0 and quantized.endswith("nano.tiny.safetensors")
    status, (onnx,), _ = call(capsys, "export", quantized)
    assert status == 0 and onnx.endswith("nano.tiny.onnx")
    status, (predictions,), _ = call(
        capsys, "validate", onnx, "--checkpoint", checkpoint, "--data", images, "--max-drop", 100
    )
    assert status == 0 and predictions.endswith(".predictions.npz")
    status, pages, _ = call(capsys, "report", out)
    assert status == 0 and [x.rpartition("/")[2] for x in pages] == ["report.md", "report.html"]


@pytest.mark.trt
@needs_rtx
def test_deploy_does_all_of_it_and_names_every_file(
    capsys, caplog, checkpoint, images, recipe, library_folder, tmp_path
):
    out = tmp_path / "out"
    status, paths, errors = call(
        capsys, "deploy", checkpoint, "--calibration", images, "--data", images, "--output", out,
        "--recipes", "fp16", recipe, "--max-drop", 100, "--libraries", library_folder,
    )  # fmt: skip
    assert status == 0, errors
    assert [x.rpartition("/")[2] for x in paths] == [
        "nano.fp16.safetensors", "nano.fp16.onnx", "nano.fp16.rtx-portable.plugin.engine", "nano.fp16.predictions.npz",
        "nano.tiny.safetensors", "nano.tiny.onnx", "nano.tiny.rtx-portable.plugin.engine", "nano.tiny.predictions.npz",
        "report.json", "report.md", "report.html",
    ]  # fmt: skip
    assert re.search(r"deploy: done in \d+ s", caplog.text)


def test_a_drop_above_max_drop_exits_1_and_says_so(capsys, onnx_files, checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt_edge.tasks.classification.discordant", lambda *_: (1, 0))  # of 60 images
    monkeypatch.setattr("rmt_edge.tasks.classification.drop_points", lambda *_: 100 / 60)
    arguments = ["validate", onnx_files["int8"], "--checkpoint", checkpoint, "--data", images, "--output", tmp_path]
    status, paths, errors = call(capsys, *arguments)
    assert status == 1 and len(paths) == 1
    assert "loses 1.67 points" in errors and "more than the 0.5 that --max-drop allows" in errors
    status, _, _ = call(capsys, *arguments, "--max-drop", 2)
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deploy", "nowhere.pth", "--data", "x", "--kernels", "native"], "no checkpoint at nowhere.pth"),
        (["deploy", "nowhere.pth", "--data", "x"], "rmt-edge plugin build"),
        (["build", "x.onnx", "--kernels", "fast"], "--kernels is 'fast'"),
        (["export", "nowhere"], "no file nowhere"),
        (["build", "x.onnx", "--device", "abacus"], "no device profile abacus"),
        (["quantize", "x", "--recipe", "int9"], "no recipe int9"),
        (["report", "nowhere"], "no folder nowhere"),
    ],
)
def test_a_user_s_error_is_a_message_without_traceback(capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, paths, errors = call(capsys, *arguments)
    assert (status, paths) == (2, [])
    assert message in errors and "Traceback" not in errors


def test_deploy_refuses_early_what_would_fail_late(capsys, checkpoint, images, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 40, 48), np.uint8), labels=np.array([0, 10]))
    status, _, errors = call(
        capsys, "deploy", checkpoint, "--data", tmp_path / "a.npz", "--calibration", images,
        "--output", tmp_path / "out", "--kernels", "native",
    )  # fmt: skip
    assert status == 2 and "The classifier has 10 classes" in errors
    rest = ["--data", images, "--output", tmp_path / "out", "--kernels", "native"]
    status, _, errors = call(capsys, "deploy", checkpoint, *rest)
    assert status == 2 and "needs calibration images" in errors
    status, _, errors = call(capsys, "deploy", checkpoint, "--calibration", images, *rest)
    assert status == 2 and "holds 60 images" in errors and "calibrates on 512" in errors
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused(capsys, checkpoint, tmp_path):
    (tmp_path / "file").touch()
    status, _, errors = call(capsys, "quantize", checkpoint, "--recipe", "fp16", "--output", tmp_path / "file" / "out")
    assert status == 2 and "cannot be written" in errors


def test_an_input_side_under_32_is_refused(capsys, checkpoint, tmp_path):
    status, _, errors = call(
        capsys, "quantize", checkpoint, "--recipe", "fp16", "--input-size", 31, 224, "--output", tmp_path
    )
    assert status == 2 and "cannot take 31x224 images" in errors


def test_preprocessing_comes_from_a_file_and_not_twice(capsys, checkpoint, tmp_path):
    settings = tmp_path / "p.toml"
    settings.write_text("height = 64\nwidth = 33\ncrop_ratio = 1.0\n")
    arguments = ["quantize", checkpoint, "--recipe", "fp16", "--output", tmp_path, "--preprocessing", settings]
    assert call(capsys, *arguments)[0] == 0
    status, _, errors = call(capsys, *arguments, "--input-size", 64, 64)
    assert status == 2 and "Both --preprocessing and --input-size" in errors
    settings.write_text("hieght = 64\n")
    status, _, errors = call(capsys, *arguments)
    assert status == 2 and "Unknown preprocessing hieght" in errors


def test_input_size_keeps_the_checkpoint_s_pixel_scaling(capsys, checkpoint, tmp_path):
    from rmt_edge.artifact import QUANTIZED, read_artifact
    from tests.conftest import SMALL

    arguments = ["quantize", checkpoint, "--recipe", "fp16", "--output", tmp_path, "--input-size", 64, 33]
    assert call(capsys, *arguments)[0] == 0
    recorded = read_artifact(tmp_path / "nano.fp16.safetensors", QUANTIZED).details["preprocessing"]
    assert (recorded["height"], recorded["width"]) == (64, 33)
    assert tuple(recorded["mean"]) == SMALL.mean and recorded["crop_ratio"] == SMALL.crop_ratio


def test_ctrl_c_in_the_middle_leaves_no_half_file(checkpoint, tmp_path):
    command = [sys.executable, "-m", "rmt_edge.cli", "quantize", str(checkpoint), "--recipe", "fp32"]
    command += ["--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    names = sorted(x.name for x in (tmp_path / "out").iterdir())
    assert not [x for x in names if x.endswith(".part")]
    if process.returncode == 130:
        assert "interrupted" in errors and "Traceback" not in errors
    else:  # it was done before the signal came
        assert process.returncode == 0, errors
        assert names == ["nano.fp32.safetensors", "nano.fp32.safetensors.json"]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(x in text for x in ("deploy", "quantize", "export", "build", "validate", "report"))
