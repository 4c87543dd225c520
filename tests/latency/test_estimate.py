"""The roofline against hand-made arithmetic, the engine's own list of layers, and measured records."""

import json

import pytest

from rmt_edge.artifact import ENGINE, ONNX, read_artifact, write_manifest
from rmt_edge.cli import main
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.estimate import estimate_onnx, int8_layers_of
from rmt_edge.latency.roofline import KERNEL_GAP_US, Network, estimate, kernels_of, latency_ms
from rmt_edge.model.layers import layers_of
from rmt_edge.writing import written_whole
from tests.conftest import ROOT
from tests.latency_records import make_run, write_record

RMT_S = Network("rmt_s", 1000, 224, 224)
LINEAR = {x.name for x in layers_of("rmt_s") if x.kind in ("qkv", "out_proj", "fc1", "fc2", "proj")}


def device(backend="tensorrt", bandwidth_gb_s=100.0, fp16_tflops=10.0, int8_tops=20.0):
    return DeviceProfile(
        "board", "Board", backend, ("8.7",), ("10.3", "11.4"), 8, 1024,
        bandwidth_gb_s=bandwidth_gb_s, fp16_tflops=fp16_tflops, int8_tops=int8_tops,
    )  # fmt: skip


@pytest.mark.parametrize(("variant", "paper_gflops"), [("rmt_t", 2.5), ("rmt_s", 4.5), ("rmt_b", 9.7), ("rmt_l", 18.2)])
def test_the_work_is_that_of_the_paper_s_table(variant, paper_gflops):
    # The paper's FLOPs are multiply-adds; tools that count them differ in what they make of attention.
    total = sum(x.multiply_adds for x in kernels_of(Network(variant, 1000, 224, 224), set(), True)) / 1e9
    assert total == pytest.approx(paper_gflops, rel=0.06)


@pytest.mark.parametrize(("precision", "int8_layers"), [("fp16", set()), ("int8", LINEAR)])
def test_the_kernels_are_as_many_as_the_builder_lists(precision, int8_layers):
    record = json.loads((ROOT / f"bench/results/engine_layers_rmt_s_{precision}_plugin.json").read_text())
    assert len(kernels_of(RMT_S, int8_layers, is_dequantize_fused=False)) == pytest.approx(record["layers"], abs=4)


def test_the_weights_are_those_of_the_network():
    # 26.97 M parameters (paper's 27 M): all but norms, biases, depthwise weights and LePE, which are 1.7 % of them.
    total = sum(x.weight_bytes for x in kernels_of(RMT_S, set(), True)) / 2
    assert total == pytest.approx(26.97e6, rel=0.03)
    assert sum(x.weight_bytes for x in kernels_of(RMT_S, LINEAR, True)) < 1.2 * total


def test_a_device_without_memory_cost_is_bound_by_compute_and_the_other_way_round():
    infinite = 1e12
    compute = latency_ms(RMT_S, device(bandwidth_gb_s=infinite), 64, set())
    kernels = kernels_of(RMT_S, set(), True)
    work_ms = 1e3 * 2 * 64 * sum(x.multiply_adds for x in kernels) / 10e12
    assert compute == pytest.approx(work_ms + len(kernels) * KERNEL_GAP_US / 1e3, rel=1e-6)
    assert {x.bound_by for x in estimate(RMT_S, device(fp16_tflops=infinite), 64, set())} == {"memory"}


def test_int8_saves_where_its_scales_are_applied_in_the_product():
    assert latency_ms(RMT_S, device("tensorrt"), 8, LINEAR) < latency_ms(RMT_S, device("tensorrt"), 8, set())
    fused, apart = (latency_ms(RMT_S, device(x), 8, LINEAR) for x in ("tensorrt", "tensorrt_rtx"))
    assert fused < apart


def test_every_layer_in_int8_changes_the_estimate():
    network = Network("rmt_nano", 10, 64, 64)
    plain = latency_ms(network, device(), 1, set())
    for layer in layers_of("rmt_nano"):
        assert latency_ms(network, device(), 1, {layer.name}) != plain, layer


def test_latency_grows_with_the_batch_and_parts_add_up():
    parts = estimate(RMT_S, device(), 4, set())
    assert latency_ms(RMT_S, device(), 4, set()) == pytest.approx(sum(x.latency_ms for x in parts))
    assert len(parts) == 1 + 29 + 3 + 1
    assert latency_ms(RMT_S, device(), 1, set()) < latency_ms(RMT_S, device(), 4, set())


def test_a_profile_without_peaks_is_refused():
    with pytest.raises(RmtEdgeError, match=r"has no peaks[\s\S]*rmt-edge devices"):
        estimate(RMT_S, device(bandwidth_gb_s=None), 1, set())


def test_the_record_holds_the_measured_ones_of_its_engines(onnx_files, tmp_path):
    engine = tmp_path / "nano.engine"
    with written_whole(engine) as temporary:
        temporary.write_bytes(b"plan")
        parents = [read_artifact(onnx_files["int8"], ONNX).as_parent()]
        write_manifest(temporary, engine, kind=ENGINE, parents=parents, recipe={}, details={}, seconds=0)
    run = make_run([3.0], batch=8)
    runs = [run, make_run([3.0], batch=8, transfers=True), make_run([3.0], batch=8, cuda_graph=False)]
    runs.append(make_run([3.0], batch=8, runner="torch eager"))
    for name, capability in (("a", "8.7"), ("b", "9.0")):
        machine = {"gpus": [{"compute_capability": capability}], "board": name}
        write_record(tmp_path / f"{name}.latency.json", engine.name, runs, machine=machine)
    path = estimate_onnx(onnx_files["int8"], device(), (1, 8), tmp_path)
    found = json.loads(path.read_text())
    assert path.name == "nano.int8.board.estimate.json"
    assert found["int8_layers"] == len(int8_layers_of(onnx_files["int8"])) > 0
    (measured,) = found["measured"]
    assert (measured["record"], measured["machine"]) == ("a.latency.json", "a")
    assert measured["measured_over_estimated"] == pytest.approx(3.0 / found["estimates"][1]["latency_ms"])


def test_a_damaged_record_beside_it_is_named(onnx_files, tmp_path):
    (tmp_path / "a.latency.json").write_text('{"kind": "latency", "subject": [')
    with pytest.raises(RmtEdgeError, match=r"a\.latency\.json is not a latency record"):
        estimate_onnx(onnx_files["int8"], device(), (1,), tmp_path)


def test_int8_layers_are_those_of_the_recipe(onnx_files):
    expected = {x.name for x in layers_of("rmt_nano") if x.kind in ("qkv", "out_proj", "fc1", "fc2", "proj")}
    assert int8_layers_of(onnx_files["int8"]) == expected
    assert int8_layers_of(onnx_files["fp16"]) == set()


def test_the_command_calls_it_an_estimate(onnx_files, tmp_path, capsys):
    profile = tmp_path / "board.toml"
    profile.write_text(
        'device = "Board"\nbackend = "tensorrt"\ncompute_capabilities = ["8.7"]\n'
        'tensorrt_versions = ["10.3", "11.4"]\nmemory_gib = 8\nworkspace_mib = 512\n'
        "bandwidth_gb_s = 100\nfp16_tflops = 10\nint8_tops = 20\n"
    )
    arguments = ["estimate", str(onnx_files["fp16"]), "--device", str(profile), "--output", str(tmp_path)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.strip().endswith("nano.fp16.board.estimate.json")
    assert "ESTIMATE" in captured.err and "batch 32" in captured.err and "nothing says how far" in captured.err
    assert main([*arguments, "--batch", "0"]) == 2
    assert "--batch is 0" in capsys.readouterr().err
    assert main(["estimate", str(onnx_files["fp32"]), "--device", str(profile)]) == 2
    assert "is float32" in capsys.readouterr().err
