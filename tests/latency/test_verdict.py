"""FP16 or INT8: the rule, the chain from a record to its accuracy, and what is refused."""

import json
import re

import numpy as np
import pytest

from rmt_edge.artifact import ENGINE, ONNX, PLUGIN_ONNX, PREDICTIONS, read_artifact, write_manifest, written_whole
from rmt_edge.cli import main
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.verdict import NAME, machine_identity, text, verdict

GPU = {"name": "Orin", "compute_capability": "8.7", "driver_version": "540.4.0", "free_memory_mib": 100}
MACHINE = {"processor": "aarch64", "board": "Orin Nano", "power_mode": "15W", "tensorrt": {"tensorrt": "10.3"},
           "gpus": [GPU], "free_memory_mib": 5}  # fmt: skip


def write_file(path, kind, precision, parents=(), **details):
    """A file of the pipeline with its manifest; returns it, checked."""
    recipe = {"name": precision, "precision": precision}
    with written_whole(path) as temporary:
        temporary.write_text(path.name)
        return write_manifest(
            temporary, path, kind=kind, recipe=recipe, details=details, seconds=0,
            parents=[x.as_parent() for x in parents],
        )  # fmt: skip


def write_models(folder, precision, drop=0.1, max_drop=0.5, is_validated=True):
    """An ONNX file, its plugin form, the engine of that, and the ONNX file's predictions."""
    onnx = write_file(folder / f"x.{precision}.onnx", ONNX, precision)
    form = write_file(folder / f"x.{precision}.plugin.onnx", PLUGIN_ONNX, precision, [onnx])
    write_file(folder / f"x.{precision}.orin.engine", ENGINE, precision, [form])
    if is_validated:
        write_predictions(folder, f"x.{precision}.predictions.npz", onnx, drop, max_drop)


def write_predictions(folder, name, of, drop, max_drop=0.5):
    write_file(
        folder / name, PREDICTIONS, "", [of], drop_points=drop, drop_interval_points=[drop - 0.1, drop + 0.1],
        max_drop_points=max_drop, within_max_drop=drop <= max_drop, images=1000,
    )  # fmt: skip


def run(p50_ms, batch=1, runner="tensorrt", noise=0.001, **values):
    samples = np.random.default_rng(int(1000 * p50_ms)).normal(p50_ms, noise, 400)
    known = {"transfers": False, "cuda_graph": True, "warnings": [], "telemetry": {"energy_per_image_j": 0.5}}
    measured = {"p50_ms": float(np.median(samples)), "samples_ms": samples.tolist()}
    return {"runner": runner, "batch": batch} | known | measured | values


def write_record(folder, name, runs, machine=None):
    kind = ENGINE if name.endswith(".engine") else ONNX
    file = read_artifact(folder / name, kind)
    record = {
        "kind": "latency",
        "subject": {"name": name, "sha256": file.sha256, "kind": kind},
        "precision": file.recipe["precision"],
        "machine": machine or MACHINE,
        "runs": runs,
    }
    (folder / (name.rpartition(".")[0] + ".latency.json")).write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path):
    for precision in ("fp16", "int8"):
        write_models(tmp_path, precision)
    return tmp_path


def decide(folder, fp16, int8):
    """The rows of a verdict on the engines' runs."""
    write_record(folder, "x.fp16.orin.engine", fp16)
    write_record(folder, "x.int8.orin.engine", int8)
    return verdict(folder)["rows"]


@pytest.mark.parametrize(
    ("int8_ms", "noise", "expected", "reason"),
    [
        (0.80, 0.001, "int8", r"INT8 is 1\.250 times as fast; \+0\.10 points of top-1 lost, 0\.5 allowed"),
        (0.975, 0.001, "int8", r"INT8 is 1\.026 times as fast"),
        (0.985, 0.001, "fp16", r"INT8 is 1\.015 times as fast, which is below 1\.02"),
        (1.4, 0.001, "fp16", r"INT8 is 0\.714 times as fast"),
        (0.96, 0.6, "fp16", "may be noise"),
    ],
)
def test_int8_must_be_faster_for_sure(folder, int8_ms, noise, expected, reason):
    row = decide(folder, [run(1.0, noise=noise)], [run(int8_ms, noise=noise)])[0]
    assert row["verdict"] == expected
    assert pytest.approx(row["fp16"]["p50_ms"] / row["int8"]["p50_ms"]) == row["speedup"]
    assert row["speedup_interval"][0] <= row["speedup"] <= row["speedup_interval"][1]
    assert re.search(reason, row["reason"]), row["reason"]


@pytest.mark.parametrize(
    ("fp16_drop", "int8_drop", "expected", "reason"),
    [
        (0.0, 0.6, "fp16", "INT8 loses too much: +0.60"),
        (0.6, 0.7, "neither", "both lose"),
        (0.6, 0.1, "int8", "FP16 loses"),
    ],
)
def test_the_budget_of_accuracy_comes_first(tmp_path, fp16_drop, int8_drop, expected, reason):
    write_models(tmp_path, "fp16", fp16_drop)
    write_models(tmp_path, "int8", int8_drop)
    row = decide(tmp_path, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == expected and reason in row["reason"]


def test_a_drop_judged_with_a_confidence_says_so(folder):
    manifest = folder / "x.int8.predictions.npz.json"
    content = json.loads(manifest.read_text())
    content["details"] |= {"drop_upper_points": 0.62, "confidence": 0.95, "within_max_drop": False}
    manifest.write_text(json.dumps(content))
    row = decide(folder, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "fp16" and "0.5 allowed, at most +0.62 with 0.95 confidence" in row["reason"]


def test_each_batch_and_runner_is_decided_on_its_own(folder):
    fp16 = [run(1.0, 1), run(8.0, 8), run(2.0, 1, "torch eager")]
    int8 = [run(1.1, 1), run(5.0, 8), run(2.0, 1, "torch eager")]
    rows = decide(folder, fp16, int8)
    assert [(x["runner"], x["batch"], x["verdict"]) for x in rows] == [("tensorrt", 1, "fp16"), ("tensorrt", 8, "int8")]


def test_only_like_settings_are_compared(folder):
    fp16 = [run(1.0, cuda_graph=False), run(0.4, cuda_graph=True)]
    row = decide(folder, fp16, [run(0.5, cuda_graph=False)])[0]
    assert (row["verdict"], row["cuda_graph"]) == ("int8", False)
    row = decide(folder, [run(1.0, transfers=True)], [run(0.5, transfers=False)])[0]
    assert row["verdict"] == "not measured" and "the same settings" in row["reason"] and "rmt-edge bench" in row["do"]


def test_of_two_int8_files_the_fastest_that_may_be_taken_is(folder):
    write_models(folder, "int8")
    onnx = write_file(folder / "x.mixed.onnx", ONNX, "int8")
    write_file(folder / "x.mixed.orin.engine", ENGINE, "int8", [onnx], note="two")
    write_predictions(folder, "x.mixed.predictions.npz", onnx, 3.0)
    write_record(folder, "x.mixed.orin.engine", [run(0.3)])
    row = decide(folder, [run(1.0)], [run(0.6)])[0]
    assert (row["verdict"], row["int8"]["file"]) == ("int8", "x.int8.orin.engine")


def test_an_engines_own_accuracy_comes_before_its_onnx_files(folder):
    engine = read_artifact(folder / "x.int8.orin.engine", ENGINE)
    write_predictions(folder, "x.int8.orin.predictions.npz", engine, 2.0)
    row = decide(folder, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "fp16" and row["int8"]["accuracy"]["drop_points"] == 2.0


def test_a_folder_without_records_says_what_to_run(folder):
    with pytest.raises(RmtEdgeError, match=r"no latency record[\s\S]*estimates do not do[\s\S]*x\.fp16\.orin\.engine "):
        verdict(folder)
    (folder / "x.fp16.estimate.json").write_text(json.dumps({"kind": "estimate", "latency_ms": 0.1}))
    with pytest.raises(RmtEdgeError, match="no latency record"):
        verdict(folder)


def test_what_is_not_measured_or_validated_is_said_with_what_to_run(tmp_path):
    write_models(tmp_path, "fp16")
    write_models(tmp_path, "int8", is_validated=False)
    write_record(tmp_path, "x.fp16.orin.engine", [run(1.0)])
    row = verdict(tmp_path)["rows"][0]
    assert row["verdict"] == "not measured" and row["reason"].startswith("INT8 is not measured at batch 1")
    assert row["do"].startswith("rmt-edge bench --batch 1 ") and "x.int8.orin.engine" in row["do"]
    row = decide(tmp_path, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "not validated" and row["do"].startswith("rmt-edge validate x.int8.orin.engine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power_mode": "MAXN"}, "power_mode: 15W and MAXN"),
        ({"tensorrt": {"tensorrt": "10.4"}}, "tensorrt: "),
        ({"gpus": [GPU | {"name": "H100"}]}, "gpus: .*Orin.*H100"),
        ({"board": "AGX Orin"}, "board: Orin Nano and AGX Orin"),
    ],
)
def test_records_of_different_machines_are_refused(folder, change, message):
    write_record(folder, "x.fp16.orin.engine", [run(1.0)])
    write_record(folder, "x.int8.orin.engine", [run(0.5)], MACHINE | change)
    with pytest.raises(RmtEdgeError, match=rf"different machines \({message}[\s\S]*in one command"):
        verdict(folder)


def test_free_memory_does_not_make_another_machine():
    later = MACHINE | {"free_memory_mib": 6, "gpus": [GPU | {"free_memory_mib": 7}]}
    assert machine_identity(MACHINE) == machine_identity(later)


def test_a_record_of_an_earlier_file_is_refused(folder):
    write_record(folder, "x.fp16.orin.engine", [run(1.0)])
    onnx = read_artifact(folder / "x.fp16.onnx", ONNX)
    (folder / "x.fp16.orin.engine").unlink()
    write_file(folder / "x.fp16.orin2.engine", ENGINE, "fp16", [onnx])
    (folder / "x.fp16.orin2.engine").rename(folder / "x.fp16.orin.engine")
    (folder / "x.fp16.orin2.engine.json").rename(folder / "x.fp16.orin.engine.json")
    with pytest.raises(RmtEdgeError, match=r"was measured on another x\.fp16\.orin\.engine[\s\S]*rmt-edge bench"):
        verdict(folder)


def test_records_sent_back_without_their_engines_do(folder):
    write_record(folder, "x.fp16.orin.engine", [run(1.0)])
    write_record(folder, "x.int8.orin.engine", [run(0.5)])
    for path in folder.glob("*.engine"):
        path.unlink()
    assert verdict(folder)["rows"][0]["verdict"] == "int8"


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"kind": "estimate"}', '{"kind": "latency"}'])
def test_garbage_is_no_record(folder, content):
    (folder / "x.latency.json").write_text(content)
    with pytest.raises(RmtEdgeError, match=r"x\.latency\.json is not a latency record[\s\S]*rmt-edge bench"):
        verdict(folder)


def test_fp32_is_neither(folder):
    write_models(folder, "fp32")
    write_record(folder, "x.fp32.orin.engine", [run(0.1)])
    rows = decide(folder, [run(1.0)], [run(0.5)])
    assert len(rows) == 1 and rows[0]["fp16"]["file"] == "x.fp16.orin.engine"


def test_the_command_prints_the_verdict_and_writes_it(folder, capsys):
    write_record(folder, "x.fp16.orin.engine", [run(1.0, warnings=["Throttled."])])
    write_record(folder, "x.int8.orin.engine", [run(0.5)])
    assert main(["verdict", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "tensorrt, batch 1, without transfers, as a CUDA graph: INT8." in out and "1 warnings" in out
    assert out.splitlines()[-1] == str(folder / NAME)
    written = json.loads((folder / NAME).read_text())
    assert written["rule"] == {"min_speedup": 1.02, "min_interval_low": 1.0} and written["machine"] == MACHINE
    assert text(written) in out


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["verdict", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
