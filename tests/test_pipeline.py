"""`deploy` as a function: what it returns, what it reads, and that it reads nothing twice."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest

from rmt_edge import artifact, pipeline
from rmt_edge.artifact import ENGINE, ONNX, PLUGIN_ONNX, PREDICTIONS, QUANTIZED, read_artifact
from rmt_edge.cli import options
from rmt_edge.data import dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model import checkpoint as checkpoints
from rmt_edge.runtime.onnx_runner import OnnxRunner
from tests.engine.test_build import needs_rtx


@pytest.fixture
def calls(monkeypatch):
    """How often each file was hashed, each checkpoint loaded and each array file read, by name."""
    counts = {"hashed": Counter(), "loaded": Counter(), "read": Counter()}

    def counting(what, function):
        def counted(path, *rest):
            # A file is hashed under its temporary name before it gets its own.
            counts[what][re.sub(r"^\.(.*?)\.[0-9a-f]+-\d+-\d+\.[0-9a-f]{16}\.part$", r"\1", path.name)] += 1
            return function(path, *rest)

        return counted

    monkeypatch.setattr(artifact, "sha256_of", counting("hashed", artifact.sha256_of))
    monkeypatch.setattr(checkpoints, "load_checkpoint", counting("loaded", checkpoints.load_checkpoint))
    monkeypatch.setattr(dataset, "read_npz", counting("read", dataset.read_npz))
    return counts


@pytest.mark.trt
@needs_rtx
def test_deploy_loads_the_checkpoint_once_and_hashes_each_file_once(
    checkpoint, images, recipes, library_folder, tmp_path, calls
):
    chosen = [recipes["fp16"], recipes["int8"]]
    deployment = pipeline.deploy(
        checkpoint, images, images, tmp_path, chosen, libraries=library_folder, max_drop=100, workers=0
    )
    assert list(deployment.models) == ["fp16", "int8"] and deployment.too_large_drops == []
    assert calls["loaded"] == {checkpoint.name: 1}
    assert calls["read"] == {images.name: 2}  # once to validate, once to calibrate: two sets that happen to be one
    made = {x.name for x in tmp_path.iterdir() if x.with_name(x.name + ".json").is_file() and x.suffix != ".layers"}
    assert made <= set(calls["hashed"]) and checkpoint.name in calls["hashed"]
    libraries = {name for name in calls["hashed"] if name.startswith("librmt_edge_plugin")}
    assert {name: n for name, n in calls["hashed"].items() if n > 1 and name not in libraries} == {}


@pytest.mark.trt
@needs_rtx
def test_what_deploy_returns_is_what_lies_there(checkpoint, images, recipes, library_folder, tmp_path):
    deployment = pipeline.deploy(
        str(checkpoint), str(images), output=str(tmp_path), recipes=[recipes["fp16"]], libraries=library_folder,
        max_drop=100,
    )  # fmt: skip
    model = deployment.models["fp16"]
    kinds = {QUANTIZED: model.quantized, ONNX: model.onnx, ENGINE: model.engine, PREDICTIONS: model.predictions}
    for kind, file in kinds.items():
        assert read_artifact(file.path, kind).manifest == file.manifest
    assert model.onnx.sibling(PLUGIN_ONNX).manifest.source["sha256"] == model.onnx.sha256
    assert model.engine.manifest.source["sha256"] == model.onnx.sibling(PLUGIN_ONNX).sha256
    assert deployment.page.read_text().startswith("#") and all(path.is_file() for path in deployment.paths)


def test_a_drop_above_the_limit_is_said_and_everything_is_kept(checkpoint, images, recipes, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt_edge.tasks.classification.discordant", lambda *_: (1, 0))
    deployment = pipeline.deploy(
        checkpoint, images, output=tmp_path, recipes=[recipes["fp16"]], kernels="native", max_drop=0.5
    )
    assert len(deployment.too_large_drops) == 1 and "more than the 0.5" in deployment.too_large_drops[0]
    assert all(path.is_file() for path in deployment.paths)


@pytest.mark.trt
@needs_rtx
def test_where_the_engine_s_gpu_is_the_engine_itself_is_validated_and_measured(
    checkpoint, images, recipes, tmp_path, monkeypatch
):
    """There is no GPU here: the engine's runner is ONNX Runtime on the file that the engine was built from."""
    real, opened = pipeline.validate, []

    def validate(file, data, reference, output, max_drop, confidence, labels=None, workers=None, runner=None, *rest):
        if file.manifest.kind == ENGINE:
            opened.append(file.path.name)
            runner = OnnxRunner(file.path.with_name(file.manifest.source["name"]))
        return real(file, data, reference, output, max_drop, confidence, labels, workers, runner, *rest)

    monkeypatch.setattr(pipeline, "has_gpu", lambda: True)
    monkeypatch.setattr(pipeline, "check_engine", lambda engine, library: None)
    monkeypatch.setattr(pipeline, "load_cuda", lambda: None)
    monkeypatch.setattr(pipeline, "validate", validate)
    monkeypatch.setattr(pipeline, "bench", lambda engines, libraries: [x.path.with_suffix(".json") for x in engines])
    monkeypatch.setattr(pipeline, "verdict", lambda folder: [SimpleNamespace(path=folder / "gpu.verdict.json")])
    deployment = pipeline.deploy(
        checkpoint, images, images, tmp_path, [recipes["fp16"], recipes["int8"]], kernels="native", max_drop=100
    )
    assert opened == [f"nano.{x}.rtx-portable.native.engine" for x in ("fp16", "int8")]
    for model in deployment.models.values():
        assert model.engine_predictions.manifest.source["sha256"] == model.engine.sha256
        assert model.engine_predictions.details["percent"] == model.predictions.details["percent"]
        assert model.engine_predictions.path in deployment.paths
    assert [x.name for x in deployment.measured] == [
        *(x.replace(".engine", ".json") for x in opened),
        "gpu.verdict.json",
    ]


@pytest.mark.trt
@needs_rtx
def test_an_engine_that_does_not_run_here_is_built_and_said_not_to_be_measured(
    checkpoint, images, recipes, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(pipeline, "has_gpu", lambda: True)  # some GPU: the engine is for none that the driver names
    deployment = pipeline.deploy(checkpoint, images, output=tmp_path, recipes=[recipes["fp16"]], kernels="native",
                                 max_drop=100)  # fmt: skip
    assert deployment.models["fp16"].engine_predictions is None and deployment.measured == []
    assert "neither validated nor measured here" in caplog.text and "does not run here" in caplog.text


def test_a_mistake_is_found_before_anything_is_written(checkpoint, images, recipes, tmp_path):
    with pytest.raises(RmtEdgeError, match="needs calibration images"):
        pipeline.deploy(checkpoint, images, output=tmp_path / "out", recipes=[recipes["int8"]], kernels="native")
    assert not (tmp_path / "out").exists()


def test_the_command_line_s_defaults_are_those_of_the_function():
    assert (options.OUTPUT, options.RECIPES, options.DEVICE) == (pipeline.OUTPUT, pipeline.RECIPES, pipeline.DEVICE)
