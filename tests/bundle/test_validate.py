"""From a checkpoint to the drop on a device's subset: packed, unpacked, and run for real by ONNX Runtime.

The engine itself needs its GPU. Here it is a file with an engine's manifest, run by its ONNX file through ONNX Runtime;
all but the runner is what a device does.
"""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rmt_edge.artifact import (
    ENGINE,
    PREDICTIONS,
    manifest_path,
    parent_of,
    plugin_form_path,
    read_artifact,
    sha256_of,
    write_manifest,
    written_whole,
)
from rmt_edge.bundle.bundle import INDEX, read_folder, subset_of, unpack
from rmt_edge.bundle.pack import pack
from rmt_edge.bundle.validate import validate_engine, validate_onnx
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import library_name
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.runtime.open import open_engine
from tests import machines
from tests.commands import call
from tests.conftest import SMALL

IMAGES = 55


@pytest.fixture(scope="module")
def bundle(onnx_files, checkpoint, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "nano.rmtedge"
    sources = [onnx_files["fp32"], onnx_files["int8"]]
    return pack(sources, checkpoint, images, Path("none"), path, images=IMAGES, architectures=())


@pytest.fixture
def folder(bundle, tmp_path):
    return unpack(bundle, tmp_path / "device")


def fake_engine(folder, onnx="nano.int8.plugin.onnx", minimum=1, maximum=32, library=None):
    path = folder / "nano.int8.orin.plugin.engine"
    details = {
        "profile": {"backend": "tensorrt", "min_batch": minimum, "max_batch": maximum},
        "backend": {"name": "tensorrt", "version": "10.3.0"},
        "compute_capabilities": ["8.7"],
        "plugin_library": library,
    }
    with written_whole(path) as temporary:
        temporary.write_bytes(b"an engine")
        parents = [parent_of(onnx, sha256_of(folder / onnx))]
        recipe = {"name": "int8", "precision": "int8"}
        write_manifest(temporary, path, kind=ENGINE, parents=parents, recipe=recipe, details=details, seconds=0)
    return path


@pytest.fixture
def engine(folder):
    return fake_engine(folder)


@pytest.fixture
def runner(folder):
    return OnnxRunner(folder / "nano.int8.onnx")


def test_the_record_of_an_engine_holds_what_it_said(engine, runner, folder, checkpoint):
    found = validate_engine(engine, runner, max_drop=100)
    assert found.path == folder / "nano.int8.orin.plugin.predictions.npz"
    assert read_artifact(found.path, PREDICTIONS) == found
    index = read_folder(folder)
    subset, reference = subset_of(folder, index)
    inputs, labels = next(subset.batches(SMALL, IMAGES)), subset.labels
    logits = runner(inputs)["logits"]
    details = found.details
    assert details["percent"] == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    assert details["reference_percent"] == pytest.approx(100 * (reference.argmax(1) == labels).mean())
    assert details["agreement_percent"] == pytest.approx(100 * (logits.argmax(1) == reference.argmax(1)).mean())
    assert details["drop_points"] == pytest.approx(details["reference_percent"] - details["percent"])
    low, high = details["drop_interval_points"]
    assert low <= details["drop_points"] <= high
    distance = np.linalg.norm(logits - reference) / np.linalg.norm(reference)
    assert details["logits_relative_error"] == pytest.approx(distance, rel=1e-3) and 0 < distance < 0.1
    assert details["logits_sqnr_db"] == pytest.approx(-20 * np.log10(distance), rel=1e-3)
    assert details["images"] == IMAGES and details["dataset_images"] == 60
    assert details["runtime"].startswith("tensorrt 10.3.0") and details["machine"]["python"]
    assert details["within_max_drop"] and found.recipe["name"] == "int8"
    assert [(x["role"], x["name"]) for x in found.manifest.parents] == [
        ("source", engine.name), ("checkpoint", checkpoint.name), ("data", "noise.npz"),
        ("subset", "validation/images.npy"),
    ]  # fmt: skip
    with np.load(found.path) as arrays:
        assert (arrays["labels"] == labels).all() and arrays["scores"].shape == (IMAGES, 5)
        assert (arrays["classes"][:, 0] == logits.argmax(1)).all() and arrays["classes"].shape == (IMAGES, 5)


def test_float32_loses_nothing_on_the_way(folder):
    """The same numbers as on the workstation: pixels, preprocessing and labels survive the bundle."""
    found = validate_onnx(folder / "nano.fp32.onnx", OnnxRunner(folder / "nano.fp32.onnx"), folder, max_drop=0)
    assert found.path.name == "nano.fp32.subset.predictions.npz"
    assert found.details["logits_relative_error"] < 1e-5
    assert found.details["agreement_percent"] == 100 and found.details["drop_points"] == 0
    assert found.details["runtime"] == "ONNX Runtime, CPU"


def test_logits_that_are_equal_have_no_decibels(engine, folder):
    """JSON has no infinity."""
    _, reference = subset_of(folder, read_folder(folder))
    seen = iter(np.split(reference, [32]))
    found = validate_engine(engine, lambda images: {"logits": next(seen)})
    assert found.details["logits_relative_error"] == 0 and found.details["logits_sqnr_db"] is None


@pytest.mark.parametrize(("minimum", "maximum", "sizes"), [(1, 32, [32, 23]), (32, 32, [32, 32]), (1, 100, [50, 5])])
def test_batches_stay_within_the_engine_s_profile(folder, runner, minimum, maximum, sizes):
    seen = []

    def run(images):
        seen.append(len(images))
        return runner(images)

    engine = fake_engine(folder, minimum=minimum, maximum=maximum)
    found = validate_engine(engine, run, max_drop=100)
    assert seen == sizes
    other = validate_onnx(folder / "nano.int8.onnx", runner, folder, max_drop=100)
    for name in ("percent", "agreement_percent"):
        assert found.details[name] == other.details[name]


def test_a_drop_above_the_limit_is_in_the_record(engine, folder):
    found = validate_engine(engine, lambda images: {"logits": np.tile(np.arange(10, 0, -1.0), (len(images), 1))})
    details = found.details
    assert details["percent"] == pytest.approx(100 * (subset_labels(folder) == 0).mean())
    assert details["within_max_drop"] == (details["drop_points"] <= 0.5)


def subset_labels(folder):
    return subset_of(folder, read_folder(folder))[0].labels


def test_nan_and_logits_of_another_shape_are_refused(engine):
    with pytest.raises(RmtEdgeError, match="logits hold NaN"):
        validate_engine(engine, lambda images: {"logits": np.full((len(images), 10), np.nan)})
    with pytest.raises(RmtEdgeError, match=r"the logits are \(32, 1000\), expected \(32, 10\)"):
        validate_engine(engine, lambda images: {"logits": np.zeros((len(images), 1000))})
    with pytest.raises(RmtEdgeError, match="--max-drop is -1"):
        validate_engine(engine, None, max_drop=-1)


def test_an_engine_of_another_bundle_is_refused(folder, onnx_files, runner, tmp_path):
    for path in (onnx_files["fp16"], plugin_form_path(onnx_files["fp16"])):
        shutil.copy(path, folder)
    engine = fake_engine(folder, "nano.fp16.plugin.onnx")
    with pytest.raises(
        RmtEdgeError, match=r"is not of the bundle in[\s\S]*nano\.fp32\.onnx, nano\.int8\.onnx[\s\S]*--bun"
    ):
        validate_engine(engine, runner)
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in (engine, manifest_path(engine)):
        shutil.copy(path, alone)
    with pytest.raises(RmtEdgeError, match="no unpacked bundle"):
        validate_engine(alone / engine.name, runner)


def test_an_engine_elsewhere_is_validated_with_its_bundle(engine, runner, bundle, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in (engine, manifest_path(engine)):
        shutil.copy(path, alone)
    here = shutil.copy(bundle, tmp_path)
    found = validate_engine(alone / engine.name, runner, Path(here), tmp_path / "out", max_drop=100)
    assert found.path.parent == tmp_path / "out" and (tmp_path / "nano" / INDEX).is_file()


def test_a_changed_engine_or_subset_is_refused(engine, runner, folder):
    images = folder / "validation" / "images.npy"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    with pytest.raises(RmtEdgeError, match=r"images\.npy was changed or removed"):
        validate_engine(engine, runner)
    engine.write_bytes(b"another engine")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        validate_engine(engine, runner)


def test_the_plugin_library_of_the_bundle_is_taken_and_checked(folder, monkeypatch, tmp_path):
    orin = machines.machine("orin-nano", tmp_path / "board")
    monkeypatch.setattr("rmt_edge.device.preflight.this_machine", lambda: orin)
    monkeypatch.setattr("rmt_edge.runtime.open.load_backend", ModuleType)
    assert open_engine(fake_engine(folder)).library is None
    library = folder / "libraries" / library_name("aarch64")
    library.parent.mkdir(exist_ok=True)
    library.write_bytes(b"library")
    engine = fake_engine(folder, library={"name": library.name, "sha256": sha256_of(library)})
    opened = open_engine(engine)
    assert opened.library == library and opened.trt.__name__ == "tensorrt"
    library.write_bytes(b"another build")
    with pytest.raises(RmtEdgeError, match=r"built with another librmt_edge_plugin_aarch64\.so"):
        open_engine(engine)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / library.name).write_bytes(b"library")
    assert open_engine(engine, elsewhere).library == elsewhere / library.name


def test_the_command_validates_engines_and_onnx_files(capsys, engine, runner, folder, bundle, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr("rmt_edge.runtime.open.open_engine", lambda *x: opened.append(x) or nullcontext(runner))
    status, (path,), _ = call(capsys, "validate", engine, "--max-drop", 100)
    assert (status, path) == (0, str(folder / "nano.int8.orin.plugin.predictions.npz"))
    assert [(x.path, libraries) for x, libraries in opened] == [(engine, None)]
    here = shutil.copy(bundle, tmp_path)
    status, (path,), _ = call(capsys, "validate", folder / "nano.int8.onnx", "--bundle", here, "--max-drop", 100)
    assert (status, path) == (0, str(folder / "nano.int8.subset.predictions.npz"))
    assert json.loads(manifest_path(Path(path)).read_text())["details"]["images"] == IMAGES


def test_the_command_exits_1_on_a_large_drop_and_on_senseless_options(capsys, engine, folder, monkeypatch, checkpoint):
    wrong = (subset_labels(folder) + 1) % 10
    seen = iter(np.split(np.eye(10, dtype=np.float32)[wrong], [32]))
    monkeypatch.setattr(
        "rmt_edge.runtime.open.open_engine", lambda *_: nullcontext(lambda images: {"logits": next(seen)})
    )
    status, paths, errors = call(capsys, "validate", engine, "--max-drop", 0)
    assert status == 1 and len(paths) == 1 and "nano.int8.orin.plugin.engine loses" in errors
    status, _, errors = call(capsys, "validate", engine, "--checkpoint", checkpoint)
    assert status == 2 and "An engine is validated on the subset in its bundle" in errors
    onnx = folder / "nano.int8.onnx"
    status, _, errors = call(capsys, "validate", onnx, "--bundle", folder, "--data", "x")
    assert status == 2 and "--bundle holds the labels" in errors
    status, _, errors = call(capsys, "validate", onnx)
    assert status == 2 and "Pass --checkpoint and --data" in errors
