"""The report: every number in it comes from a manifest or record of one chain."""

import json

import numpy as np
import pytest

from rmt_edge.accuracy.validate import validate
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import export
from rmt_edge.report.collect import collect, write_report
from rmt_edge.report.decision import decide
from rmt_edge.report.flips import flips
from rmt_edge.report.ranges import ranges_of
from tests import report_records
from tests.report_records import copy_candidates


@pytest.fixture
def folder(quantized, onnx_files, checkpoint, images, tmp_path):
    """FP16 and INT8, validated, without engines."""
    copy_candidates(tmp_path, quantized, onnx_files, ["fp16", "int8"])
    for name in ("fp16", "int8"):
        validate(tmp_path / onnx_files[name].name, checkpoint, images, max_drop=100)
    return tmp_path


def test_the_page_shows_what_the_manifests_hold(folder):
    page = write_report(folder)
    content = json.loads((folder / "report.json").read_text())
    assert [row["recipe_name"] for row in content["rows"]] == ["fp16", "int8"]
    text = page.read_text()
    for row in content["rows"]:
        assert f"{row['accuracy']['top1_percent']:.2f} %" in text
        assert f"{row['accuracy']['drop_points']:+.2f}" in text
        for file in row["files"]:
            assert file["sha256"][:16] in text
        assert str(row["nodes"]) in text
    assert "Latency is not measured" in text and content["latency"] == []
    assert "| engine layers | – | – |" in text


def test_a_model_that_was_not_validated_says_so(folder):
    for path in folder.glob("*.int8.predictions.npz*"):
        path.unlink()
    text = write_report(folder).read_text()
    assert "**int8**: not validated" in text


def test_a_child_of_an_older_parent_is_refused(folder, quantized, checkpoint, recipes, images):
    from rmt_edge.quantization.quantize import quantize
    from tests.conftest import SMALL

    other = quantize(checkpoint, recipes["fp16"], folder, images, preprocessing=type(SMALL)(48, 40, 1.0))
    with pytest.raises(RmtEdgeError, match=r"nano\.fp16\.onnx was made from another nano\.fp16\.safetensors"):
        write_report(folder)
    export(other)
    with pytest.raises(RmtEdgeError, match=r"nano\.fp16\.predictions\.npz was made from another nano\.fp16\.onnx"):
        write_report(folder)


def test_a_changed_file_is_refused(folder):
    path = folder / "nano.int8.predictions.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        write_report(folder)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match="holds no ONNX file"):
        write_report(tmp_path)
    with pytest.raises(RmtEdgeError, match="no folder"):
        write_report(tmp_path / "nowhere")


@pytest.fixture
def recorded(folder, checkpoint):
    """The folder with records of every kind."""
    source = report_records.checkpoint_of(checkpoint)
    report_records.write_records(folder, "rmt_nano", source, ["fp16", "int8"], "nano")
    return folder


def changed(path, change):
    """The JSON of a file, changed in place by a function."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_records_are_in_the_report_but_for_their_samples(recorded):
    report_records.write_device_accuracy(recorded, "nano", "int8")
    text = write_report(recorded).read_text()
    content = json.loads((recorded / "report.json").read_text())
    assert len(content["latency"]) == 2 and len(content["estimate"]) == 2
    assert all("samples_ms" not in run for record in content["latency"] for run in record["runs"])
    p50 = content["latency"][0]["runs"][0]["p50_ms"]
    assert f"{p50:.3f} ms" in text and "Fixture Board, MAXN" in text
    assert "| int8 | 500 | 91.80 % | +0.20 |" in text
    assert "Engines were timed, but nothing was decided from it: run `rmt-edge verdict`" in text


def test_the_verdict_decides(recorded):
    report_records.write_verdict(recorded, "nano")
    decision = collect(recorded)["decision"]
    assert decision["headline"] == "On Fixture Board, MAXN, deploy int8 at batch 1 and 8."
    assert "95 % interval" in decision["reasons"][0] and "Warnings of these measurements: 1" in decision["reasons"][0]


def test_an_engine_that_loses_too_much_on_its_device_is_not_deployed(recorded):
    report_records.write_verdict(recorded, "nano")
    report_records.write_device_accuracy(recorded, "nano", "int8", drop=1.0)
    decision = collect(recorded)["decision"]
    assert decision["headline"] == "Deploy nothing on Fixture Board, MAXN yet."
    assert any("itself loses +1.00 points" in x for x in decision["reasons"])


def test_without_a_verdict_fp16_is_taken_if_it_keeps_the_allowed_drop(recorded):
    content = collect(recorded)
    assert content["decision"]["headline"] == "Deploy fp16 until latency is measured on your device."
    assert any(
        x.startswith("Estimated, not measured, for fixture-device at batch 1: fp16")
        for x in content["decision"]["reasons"]
    )
    accuracy = {row["recipe_name"]: row["accuracy"] for row in content["rows"]}
    accuracy["fp16"]["within_max_drop"] = False
    assert decide(content)["headline"].startswith("Deploy int8 until")
    accuracy["int8"] |= {"drop_points": 0.4, "drop_interval_points": [0.1, 0.7], "max_drop_points": 0.5}
    assert any("within the limit only by its mean" in x for x in decide(content)["reasons"])
    accuracy["int8"]["within_max_drop"] = False
    assert decide(content)["headline"].startswith("Deploy none of these")


def test_a_verdict_on_other_measurements_is_refused(recorded):
    report_records.write_verdict(recorded, "nano")
    changed(recorded / "verdict.json", lambda x: x["rows"][0]["int8"].update(p50_ms=0.1))
    with pytest.raises(RmtEdgeError, match="which no latency record here holds"):
        write_report(recorded)
    (recorded / "verdict.json").write_text("{}")
    with pytest.raises(RmtEdgeError, match="is no verdict"):
        write_report(recorded)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nano.sensitivity.json", lambda x: x.update(kind="search"), "is of kind 'search'"),
        ("nano.sensitivity.json", lambda x: x["groups"][0].pop("layers"), r"lacks groups\.layers"),
        ("nano.search.json", lambda x: x.pop("device"), "lacks device"),
        ("nano.search.json", lambda x: x["checkpoint"].update(sha256="0" * 64), r"is about another nano\.safetensors"),
        ("nano.int8.fixture-device.estimate.json", lambda x: x["subject"].update(sha256="0"), "is about another nano"),
    ],
)
def test_a_record_that_is_wrong_or_of_another_file_is_refused(recorded, name, change, message):
    changed(recorded / name, change)
    with pytest.raises(RmtEdgeError, match=message):
        write_report(recorded)


def test_a_record_that_is_no_json_object_is_refused(recorded):
    (recorded / "nano.search.json").write_text("[]")
    with pytest.raises(RmtEdgeError, match="holds a list"):
        write_report(recorded)
    (recorded / "nano.search.json").write_text("{")
    with pytest.raises(RmtEdgeError, match="is not JSON"):
        write_report(recorded)


def test_predictions_of_other_images_are_refused(folder):
    changed(folder / "nano.reference.predictions.npz.json", lambda x: x["parents"][-1].update(sha256="0" * 64))
    with pytest.raises(RmtEdgeError, match="is of other images than"):
        write_report(folder)


def test_flips_are_counted_by_pair_and_by_what_became_of_the_image():
    before, after, labels = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 2, 1, 1, 1, 2]), np.array([0, 1, 1, 0, 1, 1])
    found = flips(before, after, labels)
    assert (found["images"], found["changed"]) == (6, 4)
    assert found["pairs"][0] == {"from": 2, "to": 1, "images": 2} and len(found["pairs"]) == 3
    assert (found["right_to_wrong"], found["wrong_to_right"]) == (1, 1)
    assert "right_to_wrong" not in flips(before, after, None)


def test_ranges_are_those_of_the_quantised_checkpoint_in_the_order_of_the_layers(quantized):
    found = ranges_of(quantized["int8"], "rmt_nano")
    assert [x["layer"] for x in found[:4]] == [f"stages.0.blocks.0.{x}" for x in ("qkv", "out_proj", "fc1", "fc2")]
    assert found[-1]["layer"] == "proj" and found[-1]["stage"] is None
    assert all(0 < x["weight_amax"][0] <= x["weight_amax"][1] <= x["weight_amax"][2] for x in found)
    assert all(x["input_amax"] > 0 for x in found)
    assert ranges_of(quantized["fp16"], "rmt_nano") == []
