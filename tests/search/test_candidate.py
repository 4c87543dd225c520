"""Measured candidates: which records can be compared, and what is refused."""

import json

import pytest

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.roofline import Network
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.search.candidate import measured_candidates
from tests.latency_records import GPU, MACHINE, make_run, write_record

PEAKS = {"bandwidth_gb_s": 100.0, "fp16_tflops": 10.0, "int8_tops": 20.0}
PROFILE = DeviceProfile("test", "Test", "tensorrt", ("8.7",), ("10.3", "11.4"), 8.0, 1024, **PEAKS)


def candidates(*paths, batch=1):
    return measured_candidates(paths, Network("rmt_nano", 10, 40, 48), PROFILE, batch)


def record(path, *runs, machine=MACHINE):
    recipe = QuantizationRecipe(path.stem, "fp16").to_dict()
    return write_record(path, "x.engine", runs or [make_run([1.0])], recipe=recipe, machine=machine)


def test_each_record_is_a_candidate_with_its_median(tmp_path):
    other = make_run([9.0], batch=8)
    found = candidates(*(record(tmp_path / f"{x}.json", make_run([ms]), other) for x, ms in (("a", 1.0), ("b", 2.0))))
    assert [(x.name, x.measured_ms) for x in found] == [("recipe a of a.json", 1.0), ("recipe b of b.json", 2.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power_mode": "MAXN"}, r"a\.json and b\.json are of different machines \(power_mode: 15W and MAXN\)"),
        ({"gpus": [GPU | {"name": "Thor"}]}, r"different machines \(gpu: Orin and Thor\)[\s\S]*one device"),
        ({"tensorrt": {"tensorrt": "10.4"}}, r"different machines \(tensorrt: "),
    ],
)
def test_records_of_different_machines_are_refused(tmp_path, change, message):
    paths = [record(tmp_path / "a.json"), record(tmp_path / "b.json", machine=MACHINE | change)]
    with pytest.raises(RmtEdgeError, match=message):
        candidates(*paths)


def test_all_medians_are_of_one_setting(tmp_path):
    graph, plain, moved = make_run([1.0]), make_run([3.0], cuda_graph=False), make_run([0.1], transfers=True)
    both, alone = record(tmp_path / "a.json", moved, graph, plain), record(tmp_path / "b.json", moved, plain)
    assert [x.measured_ms for x in candidates(both)] == [1.0]
    assert [x.measured_ms for x in candidates(both, alone)] == [3.0, 3.0]
    record(both, graph)
    with pytest.raises(RmtEdgeError, match=r"not measured alike at batch 1[\s\S]*--cuda-graph"):
        candidates(both, alone)


@pytest.mark.parametrize("run", [{"batch": 8}, {"runner": "onnxruntime", "cuda_graph": False}, {"transfers": True}])
def test_a_record_without_such_a_run_is_refused(tmp_path, run):
    with pytest.raises(RmtEdgeError, match=r"no run of an engine at batch 1[\s\S]*--batch"):
        candidates(record(tmp_path / "a.json", make_run([1.0], **run)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "engine"}, r"not a latency record[\s\S]*latency\.json"),
        ({"recipe": None}, "not a latency record: recipe is null"),
        ({"recipe": {"name": "a", "precision": "fp16", "later": 1}}, "holds no recipe of rmt-edge"),
    ],
)
def test_a_record_that_does_not_say_is_refused(tmp_path, change, message):
    path = record(tmp_path / "a.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RmtEdgeError, match=message):
        candidates(path)
    path.write_text("{")
    with pytest.raises(RmtEdgeError, match=r"a\.json is not a latency record"):
        candidates(path)
