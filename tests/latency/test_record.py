"""The one reader of latency records: what it takes, what it says of damaged ones, and which machines are the same."""

import dataclasses
import json
import re

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.record import (
    Run,
    identity_differences,
    machine_identity,
    machine_labels,
    machine_name,
    machine_slug,
    read_latency_record,
    read_latency_records,
    record_path,
    same_machine,
    write_latency_record,
)
from tests.latency_records import GPU, MACHINE, make_run, noisy_run, write_record


@pytest.fixture
def path(tmp_path):
    seen = {"energy_per_image_j": 0.1, "clock_mhz": {"min": 1, "mean": 2.0, "max": 3}, "throttled_share": {}}
    runs = [noisy_run(1.0, telemetry=seen), make_run([3.0], runner="torch eager", cuda_graph=False)]
    return write_record(tmp_path / "x.latency.json", "x.engine", runs)


def test_what_was_written_is_read(path, tmp_path):
    record = read_latency_record(path)
    assert [run.runner for run in record.runs] == ["tensorrt", "torch eager"]
    assert [(run.is_engine, run.is_peer) for run in record.runs] == [(True, False), (False, True)]
    assert record.runs[0].setting == (False, True) and record.kernels == "plugin"
    write_latency_record(tmp_path / "again.latency.json", record)
    assert (tmp_path / "again.latency.json").read_text() == path.read_text()
    assert list(read_latency_records(tmp_path)) == [tmp_path / "again.latency.json", path]
    assert record_path(tmp_path / "x.engine") == path


def test_a_long_record_stays_readable(path):
    text = path.read_text()
    samples = json.dumps(json.loads(text)["runs"][0]["samples_ms"])
    assert f'"samples_ms": {samples},' in text


def test_more_than_is_known_is_taken(path):
    value = json.loads(path.read_text())
    value["later"] = value["runs"][0]["later"] = 1
    path.write_text(json.dumps(value))
    assert read_latency_record(path).runs[0].batch == 1


def refusal(path):
    with pytest.raises(RmtEdgeError) as caught:
        read_latency_record(path)
    message = str(caught.value)
    assert re.search(rf"^{re.escape(str(path))} is not a latency record: .*[\s\S]*rmt-edge bench, or remove", message)
    return message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_record_that_was_cut_short_is_refused(path, share):
    text = path.read_text().rstrip()
    path.write_text(text[: int(share * len(text))])
    refusal(path)


def test_bytes_that_are_no_text_and_no_file_are_refused(path, tmp_path):
    path.write_bytes(b"\xff\xfe{")
    refusal(path)
    path.write_text("[" * 100_000)
    refusal(path)
    refusal(tmp_path / "none.latency.json")


@pytest.mark.parametrize("name", [x.name for x in dataclasses.fields(Run)])
def test_every_field_of_a_run_is_asked_for_and_none_may_be_a_list_of_objects(path, name):
    value = json.loads(path.read_text())
    run = value["runs"][1]
    run[name] = [{}]
    path.write_text(json.dumps(value))
    assert f"runs[1].{name} is [{{}}]" in refusal(path)
    del run[name]
    path.write_text(json.dumps(value))
    assert f"runs[1].{name} is missing" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.clear(), "kind is missing"),
        (lambda x: x.update(kind="estimate"), "its kind is 'estimate'"),
        (lambda x: x.update(runs={}), "runs is {}"),
        (lambda x: x.update(runs=[1]), "runs is [1]"),
        (lambda x: x.update(subject=[]), "subject is []"),
        (lambda x: x["subject"].pop("sha256"), "subject.sha256 is missing"),
        (lambda x: x.update(recipe={"name": "fp16"}), "recipe.precision is missing"),
        (lambda x: x.update(machine={}), "machine.gpus is missing"),
        (lambda x: x["machine"].update(gpus=["Orin"]), 'machine.gpus is ["Orin"]'),
        (lambda x: x["machine"].update(tensorrt="10.3"), 'machine.tensorrt is "10.3"'),
        (lambda x: x["runs"][0].update(batch=True), "runs[0].batch is true"),
        (
            lambda x: x["runs"][0].update(batch=0),
            "runs[0] has no samples, or a time or batch size that is not above zero",
        ),
        (lambda x: x["runs"][0].update(p50_ms=0), "runs[0] has no samples, or"),
        (lambda x: x["runs"][0].update(samples_ms=[]), "runs[0] has no samples, or"),
        (lambda x: x["runs"][0].update(samples_ms=[1.0, "2"]), 'runs[0].samples_ms is [1.0, "2"]'),
        (lambda x: x["runs"][0].update(p50_ms=float("nan")), "it holds NaN, which is no number"),
        (lambda x: x["runs"][0].update(samples_ms=[1.0, float("inf")]), "it holds Infinity"),
        (lambda x: x["runs"][0].update(p50_ms=10**400), "runs[0].p50_ms is 1000"),
        (lambda x: x["runs"][0].update(telemetry={"clock_mhz": [1]}), "runs[0].telemetry.clock_mhz is [1]"),
        (lambda x: x["runs"][0].update(warnings=[1]), "runs[0].warnings is [1]"),
    ],
)
def test_what_is_wrong_is_named(path, change, message):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    assert message in refusal(path)


@pytest.mark.parametrize(("text", "message"), [("[]", "it is [], no object"), ('{"kind": 1}', "kind is 1")])
def test_other_json_is_no_record(path, text, message):
    path.write_text(text)
    assert message in refusal(path)


def test_a_number_too_large_for_a_float_is_refused(path):
    path.write_text(re.sub(r'"p50_ms": [\d.]+', '"p50_ms": 1e999', path.read_text()))
    assert "runs[0].p50_ms is Infinity" in refusal(path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"processor": "x86_64"}, "processor"),
        ({"cpu": "EPYC"}, "cpu"),
        ({"cpus": 4}, "cpus"),
        ({"board": "AGX Orin"}, "board"),
        ({"jetpack": "6.1"}, "jetpack"),
        ({"power_mode": "MAXN"}, "power_mode"),
        ({"tensorrt": {"tensorrt": "10.4"}}, "tensorrt"),
        ({"tensorrt": {}}, "tensorrt"),
        ({"gpus": [GPU | {"name": "Thor"}]}, "gpu"),
        ({"gpus": [GPU | {"compute_capability": "11.0"}]}, "compute_capability"),
        ({"gpus": [GPU | {"driver_version": "550"}]}, "driver_version"),
    ],
)
def test_each_fact_that_may_change_a_latency_makes_another_machine(change, key):
    other = MACHINE | change
    assert not same_machine(MACHINE, other) and not same_machine(other, MACHINE)
    assert list(identity_differences(machine_identity(MACHINE), machine_identity(other))) == [key]


@pytest.mark.parametrize(
    "change",
    [
        {"free_memory_mib": 6},
        {"gpus": [GPU | {"free_memory_mib": 7}]},
        {"gpus": [GPU, GPU | {"name": "another that does not run"}]},
        {"platform": "Linux 6", "python": "3.12", "packages": {"numpy": "2"}, "cuda_toolkit": "13"},
    ],
)
def test_what_changes_by_itself_does_not(change):
    assert same_machine(MACHINE, MACHINE | change)


def test_people_call_a_machine_by_its_board_its_gpu_or_its_processor():
    assert machine_name(MACHINE) == "NVIDIA Jetson Orin Nano Developer Kit, 15W"
    assert machine_name({"gpus": [GPU], "cpu": "EPYC"}) == "Orin"
    assert machine_name({"gpus": [], "cpu": "EPYC", "processor": "x86_64"}) == "EPYC"
    assert machine_name({"gpus": [], "cpu": None, "processor": "x86_64"}) == "x86_64"
    assert machine_name(None) == "machine not recorded"


def test_machines_of_one_name_are_told_apart_by_what_differs():
    newer, other = MACHINE | {"tensorrt": {"tensorrt": "10.4.0"}}, MACHINE | {"board": None}
    labels = machine_labels([MACHINE, newer, other, MACHINE])
    board = "NVIDIA Jetson Orin Nano Developer Kit, 15W"
    assert labels == [f"{board} (tensorrt 10.3.0)", f"{board} (tensorrt 10.4.0)", "Orin, 15W", labels[0]]
    assert machine_labels([MACHINE, MACHINE | {"free_memory_mib": 9}]) == [board, board]
    assert machine_slug(board) == "jetson-orin-nano-15w"
    assert machine_slug(labels[1]) == "jetson-orin-nano-15w-tensorrt-10.4.0"
    assert machine_slug("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3" and machine_slug("…/..") == "machine"
