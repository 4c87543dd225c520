"""No recipe of the reference checkpoint gets worse than its committed baseline, and one broken on purpose is found.

A baseline is written by bench/baseline_reference.py.
"""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.artifact import QUANTIZED, manifest_path, read_artifact, write_manifest
from rmt_edge.gate.gate import Baseline, Limits
from rmt_edge.graph.export import export
from tests.conftest import REFERENCE, ROOT

CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"


def results(folder, images):
    """The folder that the baseline's own script makes."""
    script = [sys.executable, ROOT / "bench" / "baseline_reference.py", "--results", folder, "--images", str(images)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    return results(tmp_path_factory.mktemp("deployed"), 1000)


# 0.5 points are 5 of 1,000 images; another CPU rounds two or three of them to the other side.
@pytest.mark.rmt_edge_gate(max_drop=0.5, max_size_ratio=1.02)
def test_the_recipes_are_no_worse_than_their_baseline(deployed, rmt_edge_baseline):
    rows = rmt_edge_baseline.check(deployed)
    assert [(row.subject, row.what) for row in rows] == [
        ("fp16", "top-1"), ("fp16", "size of ONNX model"), ("int8", "top-1"), ("int8", "size of ONNX model"),
    ]  # fmt: skip


@pytest.mark.rmt_edge_gate(max_drop=0.5)
def test_a_recipe_broken_on_purpose_is_worse(deployed, rmt_edge_baseline, tmp_path):
    """Input ranges an eighth of those calibrated: what lies above is cut off."""
    broken = tmp_path / "broken"
    shutil.copytree(deployed, broken)
    quantized = broken / f"{CHECKPOINT.stem}.int8.safetensors"
    scale_input_ranges(quantized, 1 / 8)
    data = next(broken.glob("first-*-images-idx3-ubyte"))
    validate_against_checkpoint(export(quantized), CHECKPOINT, data, max_drop=100)
    with pytest.raises(AssertionError, match=r"(?m)^WORSE +int8 +top-1 .* -0\.5 points$") as caught:
        rmt_edge_baseline.check(broken)
    assert re.search(r"(?m)^ok +fp16 +top-1 ", str(caught.value))


def scale_input_ranges(path, factor):
    """Write a quantised checkpoint again with other ranges for the inputs of its INT8 layers."""
    manifest = read_artifact(path, QUANTIZED).manifest
    with safe_open(path, "pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    scaled = {name: value * factor if name.endswith(".input_amax") else value for name, value in state.items()}
    assert any(not torch.equal(scaled[name], state[name]) for name in state)
    manifest_path(path).unlink()
    save_file(scaled, path, metadata)
    write_manifest(
        path,
        path,
        kind=QUANTIZED,
        parents=manifest.parents,
        recipe=manifest.recipe,
        details=manifest.details,
        seconds=0,
    )


@pytest.mark.slow
def test_on_all_test_images_the_recipes_are_no_worse(tmp_path):
    rows = Baseline(REFERENCE / "baseline_10000.json", Limits(max_drop=0.2)).check(results(tmp_path, 10_000))
    assert len(rows) == 4
