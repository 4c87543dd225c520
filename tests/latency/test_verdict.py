"""FP16 or INT8: the rule, the chain from a record to its accuracy, and what is refused."""

import json
import re

import pytest

from rmt_edge.artifact import ENGINE, ONNX, PLUGIN_ONNX, PREDICTIONS, read_artifact, write_manifest
from rmt_edge.cli import main
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.record import record_path
from rmt_edge.latency.verdict import text, verdict
from rmt_edge.writing import written_whole
from tests import latency_records
from tests.latency_records import GPU, MACHINE, noisy_run


def write_file(path, kind, precision, parents=(), **details):
    """A file of the pipeline with its manifest; returns it, checked."""
    recipe = {"name": precision, "precision": precision}
    with written_whole(path) as temporary:
        temporary.write_text(path.name)
        return write_manifest(
            temporary, path, kind=kind, recipe=recipe, details=details, seconds=0,
            parents=[x.as_parent() for x in parents],
        )  # fmt: skip


def write_models(folder, precision, drop=0.1, max_drop=0.5, is_validated=True, stem="x"):
    """An ONNX file, its plugin form, the engine of that, and the predictions of the ONNX file and the engine."""
    onnx = write_file(folder / f"{stem}.{precision}.onnx", ONNX, precision)
    form = write_file(folder / f"{stem}.{precision}.plugin.onnx", PLUGIN_ONNX, precision, [onnx])
    engine = write_file(folder / f"{stem}.{precision}.orin.engine", ENGINE, precision, [form])
    write_predictions(folder, f"{stem}.{precision}.predictions.npz", onnx, 0.0)
    if is_validated:
        write_predictions(folder, f"{stem}.{precision}.orin.predictions.npz", engine, drop, max_drop)


def write_predictions(folder, name, of, drop, max_drop=0.5, images=1000, machine=MACHINE):
    facts = {} if of.manifest.kind == ONNX else {"machine": machine}
    write_file(
        folder / name, PREDICTIONS, "", [of], drop_points=drop, drop_interval_points=[drop - 0.1, drop + 0.1],
        max_drop_points=max_drop, within_max_drop=drop <= max_drop, images=images, metric="top-1",
        percent=90.0 - drop, reference_percent=90.0, **facts,
    )  # fmt: skip


def run(p50_ms, batch=1, runner="tensorrt", noise=0.001, **values):
    return noisy_run(p50_ms, noise, batch=batch, runner=runner, **values)


def write_record(folder, name, runs, machine=None):
    kind = ENGINE if name.endswith(".engine") else ONNX
    file = read_artifact(folder / name, kind)
    path = record_path(folder / name)
    latency_records.write_record(path, name, runs, file.sha256, kind, file.recipe["precision"], machine=machine)


@pytest.fixture
def folder(tmp_path):
    for precision in ("fp16", "int8"):
        write_models(tmp_path, precision)
    return tmp_path


def rows_of(folder):
    """The rows of the one verdict of a folder."""
    (found,) = verdict(folder)
    assert found.content == json.loads(found.path.read_text())
    return found.content["rows"]


def decide(folder, fp16, int8):
    """The rows of a verdict on the engines' runs."""
    write_record(folder, "x.fp16.orin.engine", fp16)
    write_record(folder, "x.int8.orin.engine", int8)
    return rows_of(folder)


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
    assert pytest.approx(row["fp16"]["p50_ms"] / row["reduced"]["p50_ms"]) == row["speedup"]
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
    manifest = folder / "x.int8.orin.predictions.npz.json"
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
    onnx = write_file(folder / "x.mixed.onnx", ONNX, "int8")
    engine = write_file(folder / "x.mixed.orin.engine", ENGINE, "int8", [onnx], note="two")
    write_predictions(folder, "x.mixed.orin.predictions.npz", engine, 3.0)
    write_record(folder, "x.mixed.orin.engine", [run(0.3)])
    row = decide(folder, [run(1.0)], [run(0.6)])[0]
    assert (row["verdict"], row["reduced"]["file"]) == ("int8", "x.int8.orin.engine")


@pytest.mark.parametrize(("fp8_ms", "expected"), [(0.5, "fp8"), (0.7, "int8")])
def test_any_other_precision_is_compared_and_the_fastest_taken(folder, fp8_ms, expected):
    write_models(folder, "fp8")
    write_record(folder, "x.fp8.orin.engine", [run(fp8_ms)])
    row = decide(folder, [run(1.0)], [run(0.6)])[0]
    assert row["verdict"] == row["reduced"]["precision"] == expected
    assert row["reason"].startswith(f"{expected.upper()} is 1.") or row["reason"].startswith(
        f"{expected.upper()} is 2."
    )


def test_a_precision_that_nobody_knows_ends_nothing(tmp_path):
    for precision in ("fp16", "int3"):
        write_models(tmp_path, precision)
    write_record(tmp_path, "x.fp16.orin.engine", [run(1.0)])
    assert rows_of(tmp_path)[0]["reason"] == "INT3 is not measured at batch 1 with tensorrt."
    write_record(tmp_path, "x.int3.orin.engine", [run(0.99)])
    assert rows_of(tmp_path)[0]["reason"] == "INT3 is 1.010 times as fast, which is below 1.02."


def test_an_engine_has_no_accuracy_but_its_own(folder):
    for path in folder.glob("x.int8.orin.predictions.npz*"):
        path.unlink()
    row = decide(folder, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "not validated" and row["reduced"]["accuracy"] is None
    assert row["reason"].startswith("x.int8.orin.engine was not validated on the device")
    assert row["do"] == "On the device: rmt-edge validate x.int8.orin.engine"


def test_what_another_kind_of_gpu_predicted_does_not_count(folder):
    engine = read_artifact(folder / "x.int8.orin.engine", ENGINE)
    other = MACHINE | {"gpus": [GPU | {"name": "L4", "compute_capability": "8.9"}]}
    write_predictions(folder, "x.int8.orin.predictions.npz", engine, 0.0, machine=other)
    assert decide(folder, [run(1.0)], [run(0.5)])[0]["verdict"] == "not validated"
    slower = MACHINE | {"power_mode": "7W"}
    write_predictions(folder, "x.int8.orin.predictions.npz", engine, 0.0, machine=slower)
    assert decide(folder, [run(1.0)], [run(0.5)])[0]["verdict"] == "int8"


def test_of_several_accuracies_that_on_most_images_counts(folder):
    engine = read_artifact(folder / "x.int8.orin.engine", ENGINE)
    for name, drop, images in (("a", 0.0, 500), ("b", 3.0, 50_000), ("c", 0.0, 1000)):
        write_predictions(folder, f"{name}.predictions.npz", engine, drop, images=images)
    row = decide(folder, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "fp16" and row["reduced"]["accuracy"]["images"] == 50_000


def test_onnx_runtime_runs_have_the_accuracy_of_the_onnx_file(folder):
    for precision, p50_ms in (("fp16", 10.0), ("int8", 5.0)):
        write_record(folder, f"x.{precision}.onnx", [run(p50_ms, runner="onnxruntime", cuda_graph=False)])
    row = rows_of(folder)[0]
    assert row["verdict"] == "int8" and row["reduced"]["accuracy"]["drop_points"] == 0.0
    (folder / "x.int8.predictions.npz.json").unlink()
    row = rows_of(folder)[0]
    assert row["verdict"] == "not validated" and row["do"].startswith("rmt-edge validate x.int8.onnx --checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop_points": None}, "details.drop_points is null"),
        ({"drop_interval_points": [1.0]}, "details.drop_interval_points are not two"),
        ({"machine": "Orin"}, 'details.machine is "Orin", no object'),
    ],
)
def test_predictions_that_do_not_say_how_accurate_they_are_are_refused(folder, change, message):
    path = folder / "x.int8.orin.predictions.npz.json"
    content = json.loads(path.read_text())
    content["details"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(
        RmtEdgeError, match=rf"x\.int8\.orin\.predictions\.npz\.json does not say how .*{re.escape(message)}"
    ):
        decide(folder, [run(1.0)], [run(0.5)])


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
    row = rows_of(tmp_path)[0]
    assert row["verdict"] == "not measured" and row["reason"].startswith("INT8 is not measured at batch 1")
    assert row["do"].startswith("rmt-edge bench --batch 1 ") and "x.int8.orin.engine" in row["do"]
    row = decide(tmp_path, [run(1.0)], [run(0.5)])[0]
    assert row["verdict"] == "not validated" and row["do"].endswith(": rmt-edge validate x.int8.orin.engine")


def test_each_machine_has_a_verdict_of_its_own(folder):
    """Two power modes of one board, as two folders' worth of engines."""
    fast = MACHINE | {"power_mode": "25W"}
    for precision in ("fp16", "int8"):
        write_models(folder, precision, stem="y")
    for machine, stem, int8_ms in ((MACHINE, "x", 0.5), (fast, "y", 1.5)):
        write_record(folder, f"{stem}.fp16.orin.engine", [run(1.0)], machine)
        write_record(folder, f"{stem}.int8.orin.engine", [run(int8_ms)], machine)
    found = verdict(folder)
    assert [x.path.name for x in found] == ["jetson-orin-nano-15w.verdict.json", "jetson-orin-nano-25w.verdict.json"]
    assert [x.content["rows"][0]["verdict"] for x in found] == ["int8", "fp16"]
    assert [x.content["machine"]["power_mode"] for x in found] == ["15W", "25W"]


def test_runs_of_different_machines_are_not_compared(folder):
    write_record(folder, "x.fp16.orin.engine", [run(1.0)])
    write_record(folder, "x.int8.orin.engine", [run(0.5)], MACHINE | {"power_mode": "MAXN"})
    rows = [x.content["rows"][0] for x in verdict(folder)]
    assert [x["verdict"] for x in rows] == ["not measured"] * 2
    assert rows[0]["reason"].startswith("INT8 is not measured") and rows[1]["reason"].startswith("FP16 is not measured")


def test_machines_of_one_name_have_files_of_their_own_and_none_is_left_of_before(folder):
    decide(folder, [run(1.0)], [run(0.5)])
    assert (folder / "jetson-orin-nano-15w.verdict.json").is_file()
    (folder / "mine.verdict.json").write_text("[]")
    write_models(folder, "int8", stem="y")
    write_record(folder, "y.int8.orin.engine", [run(0.5)], MACHINE | {"tensorrt": {"tensorrt": "10.4.0"}})
    verdict(folder)
    assert sorted(x.name for x in folder.glob("*.verdict.json")) == [
        "jetson-orin-nano-15w-tensorrt-10.3.0.verdict.json", "jetson-orin-nano-15w-tensorrt-10.4.0.verdict.json",
        "mine.verdict.json",
    ]  # fmt: skip


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
    assert rows_of(folder)[0]["verdict"] == "int8"


@pytest.mark.parametrize("content", ["not JSON", '{"kind": "latency"}'])
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
    path = folder / "jetson-orin-nano-15w.verdict.json"
    assert out.splitlines()[-1] == str(path) and out.startswith("NVIDIA Jetson Orin Nano Developer Kit, 15W\n")
    written = json.loads(path.read_text())
    assert written["rule"] == {"min_speedup": 1.02, "min_interval_low": 1.0} and written["machine"] == MACHINE
    assert text(written) in out


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["verdict", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
