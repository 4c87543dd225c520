"""The report: every number in it comes from a manifest or record of one chain."""

import json
import re

import numpy as np
import pytest

from rmt_edge.accuracy.reference import validate_against_checkpoint as validate
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
        assert f"{row['accuracy']['percent']:.2f} %" in text
        assert f"{row['accuracy']['drop_points']:+.2f}" in text
        for file in row["files"]:
            assert file["sha256"][:16] in text
        assert str(row["nodes"]) in text
        assert f"{row['plugin_form_relative_error']:.1e} ({row['recipe_name']})" in text
    assert "of the ONNX file with the same weights" in text and "that the engine was built from" not in text
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


def test_every_machine_s_verdict_decides_for_it(recorded):
    report_records.write_verdict(recorded, "nano")
    slower = report_records.write_verdict(recorded, "nano", report_records.MACHINE | {"power_mode": "15W"})
    changed(slower, lambda x: x["rows"][0].update(verdict="fp16"))
    decision = collect(recorded)["decision"]
    assert decision["headline"] == (
        "On Fixture Board, 15W, deploy fp16 at batch 1; int8 at batch 8. "
        "On Fixture Board, MAXN, deploy int8 at batch 1 and 8."
    )
    assert [x.partition(": batch")[0] for x in decision["reasons"][:4]] == ["Fixture Board, 15W"] * 2 + [
        "Fixture Board, MAXN"
    ] * 2


def test_another_precision_can_be_decided_for(recorded):
    path = report_records.write_verdict(recorded, "nano")

    def to_fp8(x):
        for row in x["rows"]:
            row["verdict"] = row["reduced"]["precision"] = "fp8"

    changed(path, to_fp8)
    decision = collect(recorded)["decision"]
    assert decision["headline"] == "On Fixture Board, MAXN, deploy fp8 at batch 1 and 8."
    assert "p50 of FP16 over FP8: 1." in decision["reasons"][0]
    write_report(recorded)
    assert "<td>fp8</td>" in re.sub(r'<td class="\w+">', "<td>", (recorded / "report.html").read_text())


def test_a_candidate_of_a_precision_that_nobody_knows_comes_last_by_accuracy(recorded):
    content = collect(recorded)
    for row in content["rows"]:
        row["precision"] = {"fp16": "fp8", "int8": "int8"}[row["precision"]]
    assert decide(content)["headline"].startswith("Deploy fp16 until")  # the first of equals, under its recipe's name
    content["rows"][1]["precision"] = "fp32"
    assert decide(content)["headline"].startswith("Deploy int8 until")


def test_a_verdict_on_other_measurements_is_refused(recorded):
    path = report_records.write_verdict(recorded, "nano")
    changed(path, lambda x: x["rows"][0]["reduced"].update(p50_ms=0.1))
    with pytest.raises(RmtEdgeError, match="which no latency record here holds"):
        write_report(recorded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.clear(), "kind is missing"),
        (lambda x: x.update(rows=[1]), r"rows is \[1\]"),
        (lambda x: x.update(machine=[]), r"machine is \[\]"),
        (lambda x: x["rows"][0].pop("verdict"), r"rows\[0\]\.verdict is missing"),
        (lambda x: x["rows"][0].pop("reduced"), r"rows\[0\]\.reduced is missing"),
        (lambda x: x["rows"][0].update(fp16=[1]), r"rows\[0\]\.fp16 is \[1\], no object"),
        (lambda x: x["rows"][1].update(speedup_interval=[1]), r"rows\[1\]\.speedup_interval has no two ends"),
    ],
)
def test_a_damaged_verdict_is_refused(recorded, change, message):
    changed(report_records.write_verdict(recorded, "nano"), change)
    with pytest.raises(RmtEdgeError, match=rf"verdict\.json is no verdict: {message}"):
        write_report(recorded)


def test_a_latency_record_that_was_cut_short_is_refused(recorded):
    path = recorded / "nano.int8.fixture.plugin.latency.json"
    path.write_text(path.read_text()[:3000])
    with pytest.raises(RmtEdgeError, match=r"nano\.int8\.fixture\.plugin\.latency\.json is not a latency record"):
        write_report(recorded)


def test_damaged_predictions_of_a_device_are_refused(recorded):
    report_records.write_device_accuracy(recorded, "nano", "int8")
    path = recorded / "nano.int8.fixture.plugin.predictions.npz.json"
    whole = path.read_text()
    for change, message in (
        (lambda x: x["details"].update(machine=[]), r"does not say how accurate they are: details\.machine is \[\]"),
        (lambda x: x.update(parents=[1]), r"is not a manifest of predictions: parents is \[1\]"),
        (lambda x: x.update(details=None), "is not a manifest of predictions: details is null"),
    ):
        path.write_text(whole)
        changed(path, change)
        with pytest.raises(RmtEdgeError, match=message):
            write_report(recorded)
    path.write_text(whole[:100])
    with pytest.raises(RmtEdgeError, match="is not a manifest of predictions"):
        write_report(recorded)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nano.sensitivity.json", lambda x: x.update(kind="search"), "its kind is 'search'"),
        ("nano.sensitivity.json", lambda x: x["groups"][0].pop("layers"), r"groups\[0\]\.layers is missing"),
        ("nano.sensitivity.json", lambda x: x.update(groups=[1]), r"groups is \[1\]"),
        ("nano.sensitivity.json", lambda x: x["groups"][0].update(drop_points=float("nan")), "it holds NaN"),
        ("nano.search.json", lambda x: x.pop("device"), "device is missing"),
        ("nano.search.json", lambda x: x.update(checkpoint=[]), r"checkpoint is \[\]"),
        ("nano.search.json", lambda x: x["candidates"][0].update(drop_points="1"), r"candidates\[0\]\.drop_points is"),
        ("nano.int8.fixture-device.estimate.json", lambda x: x.update(device="x"), 'device is "x"'),
        ("nano.int8.fixture-device.estimate.json", lambda x: x.update(device={}), "device.name is missing"),
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
    with pytest.raises(
        RmtEdgeError, match=r"nano\.search\.json is not a record of kind 'search': it is \[\], no object"
    ):
        write_report(recorded)
    (recorded / "nano.search.json").write_text("{")
    with pytest.raises(RmtEdgeError, match="is not a record of kind 'search': Expecting"):
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
