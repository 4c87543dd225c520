"""The kit for a GPU host, as far as a CPU can run it: the dry runs, and what they leave behind."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT


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
