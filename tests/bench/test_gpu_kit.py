"""The kit for a GPU host, as far as a CPU can run it: the dry runs, and what they leave behind."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from rmt_edge.bundle.pack import pack
from tests.conftest import ROOT
from tests.engine.test_build import needs_rtx


def run_kit(script, *arguments):
    environment = os.environ | {"PYTHON": sys.executable}
    environment.pop("TRITON_INTERPRET", None)
    command = ["bash", str(ROOT / "bench" / "gpu" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_kernels_script_runs_dry_and_says_so(tmp_path):
    done = run_kit("kernels.sh", "--dry-run", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "kernels_dry_run.json").read_text())
    assert record["dry_run"] and record["gpu"] is None
    assert record["correctness"]["passed"] > 0 and record["correctness"]["failed"] == []
    (row, *_) = record["latency"]["rows"]
    assert set(row["samples_ms"]) >= {"eager", "public", "sdpa"} and row["floor_bytes"] > 0
    page = (tmp_path / "kernels_dry_run.md").read_text()
    assert "DRY RUN on a CPU: no number below is a measurement" in page
    assert "rmt_nano stage 4" in page


def test_the_kernels_script_measures_nothing_without_a_gpu(tmp_path):
    done = run_kit("kernels.sh", "--output", tmp_path, "--minutes", "1")
    assert done.returncode == 2
    assert "sees no NVIDIA GPU" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.trt
@needs_rtx
def test_the_engines_script_runs_dry_and_says_so(tmp_path, checkpoint, images, onnx_files, library_folder):
    bundles = tmp_path / "kit" / "bundles"
    bundles.mkdir(parents=True)
    models = [onnx_files[name] for name in ("fp16", "int8")]
    architectures = (platform.machine(),)
    pack(models, checkpoint, images, library_folder, bundles / "nano.rmtedge", 20, architectures=architectures)
    shutil.copy(checkpoint, bundles / "nano.safetensors")
    options = ("--dry-run", "--batch", 1, 2, "--seconds", 0.2, "--peers", "torch", "--output", tmp_path)
    done = run_kit("engines.sh", tmp_path / "kit", *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "engines_dry_run.json").read_text())
    (bundle,) = record["bundles"]
    assert record["dry_run"] and record["probe"] == "not tried" and bundle["failed"] == []
    built = {(row["model"], row["kernels"]) for row in bundle["rows"]}
    assert built == {(x.name, y) for x in models for y in ("plugin", "native")}
    assert {run["runner"] for x in bundle["latency"] for run in x["runs"]} == {"onnxruntime", "torch eager"}
    assert {run["batch"] for x in bundle["latency"] for run in x["runs"]} == {1, 2}
    assert "DRY RUN on a CPU, no engine was run" in (tmp_path / "engines_dry_run.md").read_text()


def test_the_engines_script_wants_a_gpu_and_a_kit(tmp_path):
    assert "sees no NVIDIA GPU" in run_kit("engines.sh", tmp_path).stderr
    done = run_kit("engines.sh", tmp_path, "--dry-run")
    assert done.returncode == 1 and "make the kit with bench/gpu/pack.sh" in done.stderr
