"""The roofline against hand-made arithmetic, the engine's own list of layers, and measured records."""

import dataclasses
import json

import onnx
import pytest

from rmt_edge.artifact import ENGINE, ONNX, plugin_form_path, read_artifact, write_manifest
from rmt_edge.cli import main
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency import issue
from rmt_edge.latency.estimate import estimate_onnx, int8_layers_of
from rmt_edge.latency.kernels import is_one_launch, kernels_of
from rmt_edge.latency.roofline import KERNEL_GAP_US, Network, estimate, latency_ms, network_form, network_kernels
from rmt_edge.model.layers import layers_of, source_of
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.writing import written_whole
from tests.conftest import ROOT
from tests.latency_records import make_run, write_record

RMT_S = Network("rmt_s", 1000, 224, 224)
LINEAR = frozenset(load_recipe("int8-linear").int8_layers("rmt_s"))
INT8 = frozenset(load_recipe("int8").int8_layers("rmt_s"))
FP16 = frozenset()


def device(backend="tensorrt", bandwidth_gb_s=100.0, fp16_tflops=10.0, int8_tops=20.0):
    return DeviceProfile(
        "board", "Board", backend, ("8.7",), ("10.3", "11.4"), 8, 1024,
        bandwidth_gb_s=bandwidth_gb_s, fp16_tflops=fp16_tflops, int8_tops=int8_tops,
    )  # fmt: skip


@pytest.mark.parametrize(("variant", "paper_gflops"), [("rmt_t", 2.5), ("rmt_s", 4.5), ("rmt_b", 9.7), ("rmt_l", 18.2)])
def test_the_work_is_that_of_the_paper_s_table(variant, paper_gflops):
    # The paper's FLOPs are multiply-adds; tools that count them differ in what they make of attention.
    total = sum(x.multiply_adds for x in network_kernels(Network(variant, 1000, 224, 224), FP16, True)) / 1e9
    assert total == pytest.approx(paper_gflops, rel=0.06)


@pytest.mark.parametrize(("precision", "int8_layers"), [("fp16", FP16), ("int8", INT8)])
def test_the_kernels_are_as_many_as_the_builder_lists(precision, int8_layers):
    """A decomposed Retention is one layer of two kernels; one layer of the list computes shapes."""
    record = json.loads((ROOT / f"bench/results/engine_layers_rmt_s_{precision}_plugin.json").read_text())
    kernels = network_kernels(RMT_S, int8_layers, is_dequantize_fused=False)
    second_passes = sum(x.plugin == "Retention H" for x in kernels)
    assert len(kernels) - second_passes == record["layers"] - record["by_kind"]["shape_call"]
    assert sum(bool(x.plugin) for x in kernels) - second_passes == record["plugin_layers"]


def test_the_weights_are_those_of_the_network():
    # 26.97 M parameters (paper's 27 M): products alone, without norms, biases, depthwise weights and LePE: 1.7 %.
    def total(int8_layers):
        return sum(
            x.weight_bytes for x in network_kernels(RMT_S, int8_layers, True) if x.multiply_adds and not x.plugin
        )

    assert total(FP16) / 2 == pytest.approx(26.97e6, rel=0.03)
    # INT8 halves them, but for the convolutions and the head.
    assert total(LINEAR) < 0.6 * total(FP16)


def bytes_of(kernels, part, batch=1):
    return {x.name.removeprefix(f"{part}."): x.activation_bytes * batch for x in kernels if x.part == part}


def test_the_bytes_of_a_block_are_those_of_its_tensors():
    """FACTS: CPE+LN 4, qkv 4, W 4, H 5, out_proj and addition with LN 6, fc1 1+r, depthwise 2r, fc2 r+1 FP16 units."""
    unit, r = 28 * 28 * 128, 4
    half = [4, 4, 4, 5, 2, 4, 1 + r, 2 * r, r + 1]
    # Of the 8 bits: what is added to the stream, and between the passes, stays FP16.
    byte = [1 + 2 + 2 + 1, 1 + 3, 3 + 2, 3 + 2 + 1, 1 + 1, 1 + 2 + 2 + 1, 1 + r, 2 * r, r + 1]
    names = ["pos", "qkv", "retention/w", "retention/h", "out_proj", "out_proj/sum", "fc1", "dwconv", "fc2"]
    found = bytes_of(network_kernels(RMT_S, FP16, False), "stages.1.blocks.2")
    assert [x.removesuffix("/product") for x in found] == names
    assert list(found.values()) == [2 * unit * x for x in half]
    found = bytes_of(network_kernels(RMT_S, INT8, False), "stages.1.blocks.2")
    assert list(found.values()) == [unit * x for x in byte]


def test_small_grids_take_one_pass_where_a_head_fits_in_shared_memory():
    kernels = {x.name: x for x in network_kernels(RMT_S, FP16, False)}
    whole = kernels["stages.2.blocks.0.retention"]
    assert (whole.plugin, whole.size) == ("Retention WH", (14, 14, 256))
    assert whole.activation_bytes == 2 * 4 * 14 * 14 * 256
    assert whole.multiply_adds == 2 * 14 * 14 * 256 * (14 + 14)
    assert "stages.1.blocks.0.retention/h" in kernels and "stages.2.blocks.0.retention/h" not in kernels
    assert [is_one_launch(14, w, d) for w, d in ((14, 32), (13, 32), (14, 16), (18, 32))] == [True, *[False] * 3]


def test_int8_moves_little_more_than_half_the_bytes():
    moved = {x: sum(k.activation_bytes for k in network_kernels(RMT_S, x, False)) for x in (FP16, LINEAR, INT8)}
    assert moved[INT8] <= 0.62 * moved[FP16]
    assert moved[LINEAR] > 0.8 * moved[FP16]


def test_a_form_without_weights_costs_what_the_written_one_does(onnx_files):
    for precision, recipe in (("fp16", None), ("int8", "int8-linear")):
        written = kernels_of(onnx.load(plugin_form_path(onnx_files[precision])), False)
        layers = load_recipe(recipe).int8_layers("rmt_nano") if recipe else []
        form = network_form(Network("rmt_nano", 10, 40, 48), layers)
        assert kernels_of(form, False) == written
        assert max(len(x.raw_data) for x in form.graph.initializer) < 4096


def test_a_device_without_memory_cost_is_bound_by_compute_and_the_other_way_round():
    infinite = 1e12
    compute = latency_ms(RMT_S, device(bandwidth_gb_s=infinite), 64, FP16)
    kernels = network_kernels(RMT_S, FP16, True)
    work_ms = 1e3 * 2 * 64 * sum(x.multiply_adds for x in kernels) / 10e12
    assert compute == pytest.approx(work_ms + len(kernels) * KERNEL_GAP_US / 1e3, rel=1e-6)
    assert {x.bound_by for x in estimate(kernels, device(fp16_tflops=infinite), 64)} == {"memory"}


def test_a_kernel_is_bound_by_its_instructions_where_they_take_longest(monkeypatch, tmp_path):
    """Of the nearest grid that was counted, by position and channel; the device's rate is its INT8 peak's."""
    table = tmp_path / "issue.toml"
    rows = [(28, 1.0), (14, 2.0)]
    table.write_text(
        "".join(
            f'[[kernel]]\nname = "Retention W"\ncompute_capability = "8.7"\nh = {n}\nw = {n}\nc = 64\n'
            f"warp_instructions = {x * n * n * 64}\n"
            for n, x in rows
        )
    )
    monkeypatch.setattr(issue, "TABLE", table)
    issue._rows.cache_clear()
    kernels = {x.name: x for x in network_kernels(RMT_S, FP16, False)}
    per_second = 4 * 20e12 / 4096  # int8_tops 20, 4,096 operations an SM and clock
    for stage, side, c, each in ((0, 56, 64, 1.0), (1, 28, 128, 1.0)):
        found = issue.issue_seconds(kernels[f"stages.{stage}.blocks.0.retention/w"], device(), 2)
        assert found == pytest.approx(2 * each * side * side * c / per_second)
    assert issue.issue_seconds(kernels["stages.0.blocks.0.retention/h"], device(), 2) == 0, "nobody counted it"
    assert issue.issue_seconds(kernels["stages.0.blocks.0.qkv/product"], device(), 2) == 0
    slow = dataclasses.replace(device(), int8_tops=0.01)
    assert estimate([kernels["stages.0.blocks.0.retention/w"]], slow, 2)[0].bound_by == "issue"
    issue._rows.cache_clear()


def test_int8_saves_where_its_scales_are_applied_in_the_product():
    network = Network("rmt_nano", 10, 64, 64)
    convolutions = frozenset(x.name for x in layers_of("rmt_nano") if x.kind == "downsample")
    fused, apart = (network_kernels(network, convolutions, x) for x in (True, False))
    assert [x.name for x in apart if x not in fused] == [f"stages.{i}.downsample/dequantized" for i in range(3)]
    for backend in ("tensorrt", "tensorrt_rtx"):
        times = [latency_ms(RMT_S, device(backend), 8, x) for x in (INT8, LINEAR, FP16)]
        assert times == sorted(times)


def test_every_layer_in_int8_changes_the_estimate():
    network = Network("rmt_nano", 10, 64, 64)
    plain = latency_ms(network, device(), 1, set())
    for layer in layers_of("rmt_nano"):
        source = source_of(layer.name)
        without = latency_ms(network, device(), 1, {source}) if source else plain
        assert latency_ms(network, device(), 1, {layer.name} | ({source} if source else set())) != without, layer
        assert not source or latency_ms(network, device(), 1, {layer.name}) == plain, "an output without its layer"


def test_latency_grows_with_the_batch_and_parts_add_up():
    parts = estimate(network_kernels(RMT_S, FP16, True), device(), 4)
    assert latency_ms(RMT_S, device(), 4, FP16) == pytest.approx(sum(x.latency_ms for x in parts))
    assert len(parts) == 1 + 29 + 3 + 1
    assert latency_ms(RMT_S, device(), 1, FP16) < latency_ms(RMT_S, device(), 4, FP16)


def test_a_profile_without_peaks_is_refused():
    with pytest.raises(RmtEdgeError, match=r"has no peaks[\s\S]*rmt-edge devices"):
        estimate(network_kernels(RMT_S, FP16, True), device(bandwidth_gb_s=None), 1)


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
    assert found["int8_layers"] == len(int8_layers_of(onnx.load(onnx_files["int8"]))) > 0
    (measured,) = found["measured"]
    assert (measured["record"], measured["machine"]) == ("a.latency.json", "a")
    assert measured["measured_over_estimated"] == pytest.approx(3.0 / found["estimates"][1]["latency_ms"])


def test_a_damaged_record_beside_it_is_named(onnx_files, tmp_path):
    (tmp_path / "a.latency.json").write_text('{"kind": "latency", "subject": [')
    with pytest.raises(RmtEdgeError, match=r"a\.latency\.json is not a latency record"):
        estimate_onnx(onnx_files["int8"], device(), (1,), tmp_path)


def test_int8_layers_are_those_of_the_recipe(onnx_files):
    expected = {x.name for x in layers_of("rmt_nano") if x.kind in ("qkv", "out_proj", "fc1", "fc2", "proj")}
    assert int8_layers_of(onnx.load(onnx_files["int8"])) == expected
    assert int8_layers_of(onnx.load(onnx_files["fp16"])) == set()


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
