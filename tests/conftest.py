"""Small things that many tests use: a nano model, its checkpoint, its artefacts, the plugin library."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmt_edge.artifact import SOURCE, identity_of
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.model.rmt import RMT, create_model
from rmt_edge.quantization.recipe import QuantizationRecipe, load_recipe
from tests.golden import weights

# Triton decides when it is imported whether to compile kernels or interpret them; without a GPU only the latter runs.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent
# Tests note the libraries that they build where those lie, not among the files of whoever runs them.
os.environ["XDG_STATE_HOME"] = str(ROOT / "build" / "test-state")
REFERENCE = ROOT / "bench" / "reference"
SMALL = Preprocessing(40, 48, crop_ratio=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PLUGIN_SM = 86
COMPILERS = {"x86_64": "g++", "aarch64": "aarch64-linux-gnu-g++"}


def source_of(path: Path) -> dict[str, str]:
    """A file as what another was made of, in a manifest's parents."""
    return {"role": SOURCE} | identity_of(path)


def filled(name: str, num_classes: int, seed: int = 1) -> RMT:
    """A model whose every weight is redrawn so that each of them changes the output."""
    model = create_model(name, num_classes)
    state = weights.fill(model.state_dict(), seed)
    model.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    return model


@pytest.fixture(scope="session")
def nano() -> RMT:
    model = filled("rmt_nano", 10)
    model.preprocessing = SMALL
    return model


@pytest.fixture(scope="session")
def checkpoint(nano, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "nano.safetensors"
    save_file(nano.state_dict(), path, {"preprocessing": json.dumps(SMALL.to_dict())})
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """60 labelled images of noise, .npz."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "noise.npz"
    pixels = rng.integers(0, 256, (60, 40, 48, 3), dtype=np.uint8)
    np.savez(path, images=pixels, labels=rng.integers(0, 10, 60))
    return path


@pytest.fixture(scope="session")
def recipes() -> dict[str, QuantizationRecipe]:
    return {
        "fp32": QuantizationRecipe("fp32", "fp32"),
        "fp16": QuantizationRecipe("fp16", "fp16"),
        "int8": QuantizationRecipe("int8", "int8", images=16, batch=8),
    }


@pytest.fixture(scope="session")
def quantized(checkpoint, images, recipes, tmp_path_factory) -> dict[str, Path]:
    """The quantised checkpoint of each recipe. Read only: tests that change a file copy it first."""
    from rmt_edge.quantization.quantize import quantize

    folder = tmp_path_factory.mktemp("artefacts")
    return {name: quantize(checkpoint, recipe, folder, images).path for name, recipe in recipes.items()}


@pytest.fixture(scope="session")
def onnx_files(quantized) -> dict[str, Path]:
    """The ONNX file of each recipe, beside its quantised checkpoint. Read only."""
    from rmt_edge.graph.export import export

    return {name: export(path).path for name, path in quantized.items()}


@pytest.fixture(scope="session")
def exported(checkpoint, images, tmp_path_factory):
    """A function from the name of a recipe of calib/ to the ONNX file it makes of a few images. Read only."""
    from rmt_edge.graph.export import export
    from rmt_edge.quantization.quantize import quantize

    folder = tmp_path_factory.mktemp("recipes")

    @functools.cache
    def exported_recipe(name: str) -> Path:
        recipe = dataclasses.replace(load_recipe(name), images=8, batch=4)
        return export(quantize(checkpoint, recipe, folder, images)).path

    return exported_recipe


@pytest.fixture(scope="session")
def run_python():
    """A function that runs Python in a process of its own, without what this one has set for its kernels."""

    def run(*arguments, **environment):
        clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
        clean["PYTHONPATH"] = str(ROOT)
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=clean, cwd=ROOT)

    return run


@pytest.fixture(scope="session")
def library_folder(run_python):
    """The plugin libraries for one SM. They stay under build/; build.py makes them again if a source changed."""
    folder = ROOT / "build" / "test-plugin"
    arch = [x for name, compiler in COMPILERS.items() if shutil.which(compiler) for x in ("--arch", name)]
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--sm", str(PLUGIN_SM), *arch, "--output", str(folder))
    assert result.returncode == 0, result.stderr
    return folder
