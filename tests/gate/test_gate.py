"""What counts as worse than a baseline, what is not compared, and what a person reads of it."""

import re

import pytest

from rmt_edge.cli import main
from rmt_edge.errors import RmtEdgeError
from rmt_edge.gate.baseline import write_baseline
from rmt_edge.gate.gate import Baseline, Limits, NotComparedWarning, compare
from tests.gate.test_baseline import ORIN, TEST_SET, make_results


@pytest.fixture
def baseline(tmp_path):
    return write_baseline(make_results(tmp_path / "before"), tmp_path / "baseline.json")


def worse(rows):
    return [row.what for row in rows if row.is_worse]


def test_the_same_results_are_not_worse(baseline, tmp_path):
    rows = compare(baseline, tmp_path / "before", Limits(0, 1, 1))
    assert [row.what for row in rows] == [
        "top-1", "size of ONNX model", "size of engine orin plugin",
        "p50 of engine orin plugin, tensorrt, batch 1, cuda_graph",
    ]  # fmt: skip
    assert worse(rows) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"wrong": 7}, "top-1"),
        ({"engine_size": 3200}, "size of engine orin plugin"),
        ({"onnx_size": 1060}, "size of ONNX model"),
        ({"p50_ms": 2.3}, "p50 of engine orin plugin, tensorrt, batch 1, cuda_graph"),
    ],
)
def test_each_loss_is_found_and_named(baseline, tmp_path, changes, what):
    assert worse(compare(baseline, make_results(tmp_path / "now", **changes), Limits())) == [what]


def test_limits_are_inclusive(baseline, tmp_path):
    now = make_results(tmp_path / "now", wrong=6, engine_size=3150, onnx_size=1050, p50_ms=2.2)
    assert worse(compare(baseline, now, Limits(0.5, 1.1, 1.05))) == []
    assert len(worse(compare(baseline, now, Limits(0.49, 1.09, 1.04)))) == 4


def test_gains_are_not_worse(baseline, tmp_path):
    now = make_results(tmp_path / "now", wrong=0, engine_size=1000, onnx_size=500, p50_ms=1.0)
    assert worse(compare(baseline, now, Limits(0, 1, 1))) == []


def test_with_a_confidence_a_drop_that_cannot_be_ruled_out_is_worse(baseline, tmp_path):
    """5 against 4 wrong of 400: 0.25 points lost, with 95 % confidence no more than about 1."""
    now = make_results(tmp_path / "now", wrong=5)
    assert worse(compare(baseline, now, Limits(max_drop=0.5))) == []
    assert worse(compare(baseline, now, Limits(max_drop=0.5, confidence=0.95))) == ["top-1"]
    rows = compare(baseline, now, Limits(max_drop=1.5, confidence=0.95))
    assert worse(rows) == []
    assert re.search(
        r"-0\.25 points \(95 % interval -1\.\d+ to \+0\.\d+\), with 95\.0% confidence no lower than", rows[0].change
    )


def test_a_failed_check_shows_a_table_of_what_is_worse(baseline, tmp_path):
    now = make_results(tmp_path / "now", wrong=24, engine_size=6000)
    with pytest.raises(AssertionError) as caught:
        Baseline(baseline, Limits()).check(now)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{now} is worse than the baseline {baseline}:"
    assert re.match(r"WORSE +int8 +top-1 +99\.00 % +94\.00 % +-5\.00 points .* -0\.5 points$", lines[3])
    assert re.match(r"WORSE +int8 +size of engine orin plugin +0\.003 MB +0\.006 MB +x 2\.000 +x 1\.05$", lines[4])
    assert lines[5].startswith("ok ")


def test_a_single_predictions_file_can_be_checked(baseline, tmp_path):
    now = make_results(tmp_path / "now", wrong=30)
    assert worse(compare(baseline, now / "nano.int8.predictions.npz", Limits())) == ["top-1"]


def test_other_images_are_refused(baseline, tmp_path):
    now = make_results(tmp_path / "now", data=TEST_SET | {"sha256": "f" * 64})
    with pytest.raises(RmtEdgeError, match=r"int8 was validated on other images[\s\S]*rmt-edge baseline FOLDER"):
        compare(baseline, now, Limits())


def test_latency_of_another_machine_is_not_compared_and_that_is_said(baseline, tmp_path):
    now = make_results(tmp_path / "now", p50_ms=50, machine=ORIN | {"power_mode": "15W"})
    with pytest.warns(NotComparedWarning, match=r"another machine \(power_mode 15W, baseline MAXN\); latency is not"):
        rows = Baseline(baseline, Limits()).check(now)
    assert worse(rows) == []
    (now / "nano.int8.orin.plugin.latency.json").unlink()
    with pytest.warns(NotComparedWarning, match="not measured now; latency is not compared"):
        Baseline(baseline, Limits()).check(now)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tensorrt": {"tensorrt": "10.4.0"}}, r"tensorrt tensorrt 10\.4\.0, baseline tensorrt 10\.3\.0"),
        ({"gpus": [ORIN["gpus"][0] | {"driver_version": "550"}]}, r"driver_version 550, baseline 540\.4\.0"),
        ({"jetpack": "6.2"}, "jetpack 6.2, baseline None"),
    ],
)
def test_latency_under_another_tensorrt_or_driver_is_not_compared_and_that_is_said(baseline, tmp_path, change, why):
    now = make_results(tmp_path / "now", p50_ms=50, machine=ORIN | change)
    with pytest.warns(NotComparedWarning, match=rf"another machine \({why}\); latency is not compared"):
        assert worse(Baseline(baseline, Limits()).check(now)) == []


def test_free_memory_does_not_make_another_machine(baseline, tmp_path):
    gpu = ORIN["gpus"][0] | {"free_memory_mib": 5}
    now = make_results(tmp_path / "now", p50_ms=50, machine=ORIN | {"gpus": [gpu], "free_memory_mib": 1})
    assert len(worse(compare(baseline, now, Limits()))) == 1


def test_an_engine_that_is_not_there_is_said(baseline, tmp_path):
    now = make_results(tmp_path / "now")
    for path in now.glob("*.engine*"):
        path.unlink()
    with pytest.warns(NotComparedWarning) as caught:
        Baseline(baseline, Limits()).check(now)
    assert [str(x.message).partition(": ")[2] for x in caught] == [
        "there is none now; not compared", "not measured now; latency is not compared",
    ]  # fmt: skip


def test_a_recipe_without_results_is_worse(baseline, tmp_path):
    text = baseline.read_text().replace('"int8": {', '"fp16": {')
    baseline.write_text(text)
    (row,) = compare(baseline, make_results(tmp_path / "now"), Limits())
    assert row.is_worse and row.note == "no results; found: int8"
    with pytest.raises(RmtEdgeError, match=r"is of int8, which .* does not hold[\s\S]*fp16"):
        compare(baseline, tmp_path / "now" / "nano.int8.predictions.npz", Limits())


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"max_drop": -1}, "--max-drop is -1"),
        ({"confidence": 95}, "--confidence is 95"),
        ({"max_size_ratio": 0}, "max_size_ratio is 0"),
        ({"max_latency_ratio": float("nan")}, "max_latency_ratio is nan"),
    ],
)
def test_senseless_limits_are_refused(limits, match):
    with pytest.raises(RmtEdgeError, match=match):
        Limits(**limits)


def test_the_command_exits_1_with_the_table(capsys, baseline, tmp_path):
    now = make_results(tmp_path / "now", wrong=24)
    assert main(["gate", str(now), "--baseline", str(baseline)]) == 1
    assert "WORSE" in capsys.readouterr().err
    assert main(["gate", str(now), "--baseline", str(baseline), "--max-drop", "5"]) == 0
    assert capsys.readouterr().out.count("ok ") == 4
