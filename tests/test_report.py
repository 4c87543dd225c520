"""The page: every number on it comes from a manifest of one chain."""

import json
import shutil

import pytest

from rmt_edge.artifact import manifest_path, plugin_form_path
from rmt_edge.errors import RmtEdgeError
from rmt_edge.export import export
from rmt_edge.report import report
from rmt_edge.validate import validate


@pytest.fixture
def folder(quantized, onnx_files, checkpoint, images, tmp_path):
    """FP16 and INT8, validated, without engines."""
    for path in (*quantized.values(), *onnx_files.values()):
        if ".fp32." not in path.name:
            shutil.copy(path, tmp_path)
            shutil.copy(manifest_path(path), tmp_path)
    for path in onnx_files.values():
        if ".fp32." not in path.name:
            shutil.copy(plugin_form_path(path), tmp_path)
            shutil.copy(manifest_path(plugin_form_path(path)), tmp_path)
    for name in ("fp16", "int8"):
        validate(tmp_path / onnx_files[name].name, checkpoint, images, max_drop=100)
    return tmp_path


def test_the_page_shows_what_the_manifests_hold(folder):
    page = report(folder)
    content = json.loads((folder / "report.json").read_text())
    assert [row["recipe_name"] for row in content["rows"]] == ["fp16", "int8"]
    text = page.read_text()
    for row in content["rows"]:
        assert f"{row['accuracy']['top1_percent']:.2f} %" in text
        assert f"{row['accuracy']['drop_points']:+.2f}" in text
        for file in row["files"]:
            assert file["sha256"][:16] in text
        assert str(row["nodes"]) in text
    assert "Latency is not measured" in text and content["latency"] is None
    assert "| engine layers | – | – |" in text


def test_a_model_that_was_not_validated_says_so(folder):
    for path in folder.glob("*.int8.predictions.npz*"):
        path.unlink()
    text = report(folder).read_text()
    assert "**int8**: not validated" in text


def test_a_child_of_an_older_parent_is_refused(folder, quantized, checkpoint, recipes, images):
    from rmt_edge.quantize import quantize
    from tests.conftest import SMALL

    other = quantize(checkpoint, recipes["fp16"], folder, images, preprocessing=type(SMALL)(48, 40, 1.0))
    with pytest.raises(RmtEdgeError, match=r"nano\.fp16\.onnx was made from another nano\.fp16\.safetensors"):
        report(folder)
    export(other)
    with pytest.raises(RmtEdgeError, match=r"nano\.fp16\.predictions\.npz was made from another nano\.fp16\.onnx"):
        report(folder)


def test_a_changed_file_is_refused(folder):
    path = folder / "nano.int8.predictions.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        report(folder)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match="holds no ONNX file"):
        report(tmp_path)
    with pytest.raises(RmtEdgeError, match="no folder"):
        report(tmp_path / "nowhere")
