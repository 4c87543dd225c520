"""The second road, up to the compiler: the module's numbers, its export, the layers that the converters add."""

import importlib.util
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from rmt_edge.artifact import QUANTIZED, plugin_form_path, read_artifact
from rmt_edge.cli import main
from rmt_edge.device.backend import load_backend
from rmt_edge.device.machine import Gpu, Machine
from rmt_edge.device.profile import DeviceProfile, load_profile
from rmt_edge.engine import torch_trt
from rmt_edge.engine.config import builder_config, network_flags
from rmt_edge.engine.layers import layer_counts, layers_in_log
from rmt_edge.engine.log import log_for
from rmt_edge.engine.plugin_layers import (
    add_int8_linear,
    add_plugin_layer,
    create_plugin,
    depthwise_fields,
    retention_fields,
)
from rmt_edge.engine.torch_module import PluginRMT
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import folded_from_file
from rmt_edge.graph.plugin_form import PLUGIN_ATTRIBUTES, attributes_of
from rmt_edge.metrics import relative_error
from rmt_edge.plugin.load import library_path, load_plugins
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers
from tests.tensorrt_api import VERSIONS, standin

L4 = DeviceProfile("l4", "L4", "tensorrt", ("8.9",), ("10.3", "11.4"), 24, 2048, max_batch=8, batches=(1,))
MACHINE = Machine("Linux", "x86_64", None, None, None, (Gpu("NVIDIA L4", "8.9", 23034),), 64000, 50000, "3.11")
has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not has_rtx, reason="tensorrt-rtx-cu13-bindings is not installed")


def load(path):
    return folded_from_file(read_artifact(path, QUANTIZED))


@pytest.mark.parametrize(("name", "limit"), [("fp32", 1e-5), ("int8", 1e-2)])
def test_the_plugin_form_computes_what_the_deployment_form_does(quantized, name, limit):
    """In float32; with INT8, against the folded form rounded alike, a value between two steps may go either way."""
    model, ranges = load(quantized[name])
    images = torch.randn(2, 3, model.height, model.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FakeQuantizedLayers(model, ranges, np.dtype(np.float32)) as layers:
        layers.switch_to(layers.modules)
        expected = model(images).numpy()
    with torch.no_grad():
        actual = PluginRMT(load(quantized[name])[0], ranges, torch.float32).eval()(images).numpy()
        unrounded = load(quantized[name])[0](images).numpy()
    assert relative_error(actual, expected) < limit
    if ranges:
        assert relative_error(unrounded, expected) > relative_error(actual, expected)


@pytest.fixture(scope="module")
def program_of_int8(quantized):
    model, ranges = load(quantized["int8"])
    module = PluginRMT(model, ranges, torch.float16).eval()
    program = torch_trt.exported_module(module, (3, model.height, model.width), L4, "cpu")
    return program.run_decompositions()


def calls(program):
    return [node for node in program.graph.nodes if str(node.target).startswith("rmt_edge.layer_")]


def test_export_keeps_every_op_and_the_batches(program_of_int8):
    found = [str(node.target) for node in calls(program_of_int8)]
    # Per block: two depthwise, one retention, four INT8 Linear layers; and proj.
    counts = {name: found.count(f"rmt_edge.{name}.default") for name in torch_trt.CONVERTERS}
    assert counts == {"layer_retention": 6, "layer_depthwise": 6, "layer_depthwise_norm": 6, "layer_int8_linear": 25}
    [constraint] = program_of_int8.range_constraints.values()
    assert (constraint.lower, constraint.upper) == (1, 8)


class Network:
    """Records what a converter adds; tensors are their shape and type."""

    def __init__(self):
        self.plugins, self.added = [], []

    def add_plugin_v3(self, inputs, shape_inputs, plugin):
        assert shape_inputs == []
        self.plugins.append((inputs, plugin))
        return self._layer("plugin", inputs[0])

    def _layer(self, kind, like):
        layer = SimpleNamespace(name="", axis=None, get_output=lambda index: like)
        self.added.append((kind, layer))
        return layer

    def add_quantize(self, x, scale, dtype):
        return self._layer("quantize", x)

    def add_dequantize(self, x, scale, dtype):
        return self._layer("dequantize", x)

    def add_matrix_multiply(self, a, a_op, b, b_op):
        return self._layer("matrix_multiply", a)

    def add_elementwise(self, a, b, operation):
        return self._layer("elementwise", a)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_on_the_network_is_in_the_recorded_api(version):
    names = [name for name in vars(Network) if name.startswith("add_")]
    assert [name for name in names if not hasattr(standin(version).INetworkDefinition, name)] == []


def convert(trt, program, monkeypatch):
    """Run the converters over an exported program as Torch-TensorRT does; the network, and the plugins' fields."""
    network, made = Network(), []

    def create(trt, op_type, fields, name):
        made.append((op_type, fields))
        return create_plugin(trt, op_type, fields, name)

    monkeypatch.setattr("rmt_edge.engine.plugin_layers.create_plugin", create)
    held = program.graph_signature.inputs_to_buffers | program.graph_signature.inputs_to_parameters
    types = {torch.float16: trt.DataType.HALF, torch.int8: trt.DataType.INT8}

    def argument(x):
        if not isinstance(x, torch.fx.Node):
            return x
        if x.name in held:
            return program.state_dict[held[x.name]]
        return SimpleNamespace(shape=tuple(x.meta["val"].shape), dtype=types[x.meta["val"].dtype])

    def get_trt_tensor(ctx, value, name):
        if isinstance(value, torch.Tensor):
            return SimpleNamespace(shape=tuple(value.shape), dtype=types[value.dtype], name=name)
        return value

    for node in calls(program):
        add_layers = torch_trt.CONVERTERS[str(node.target).split(".")[1]]
        converter = torch_trt._converter(trt, add_layers, get_trt_tensor)
        converter(SimpleNamespace(net=network), node.target, tuple(map(argument, node.args)), {}, node.name)
    return network, made


@pytest.mark.trt
@needs_rtx
def test_converters_add_the_plugins_of_the_onnx_file_with_their_attributes(
    program_of_int8, onnx_files, library_folder, monkeypatch
):
    """The plugins are made for real, by the library's creators in TensorRT-RTX; the engine of that file is built in
    test_engine.py, and an equal attribute makes an equal layer."""
    trt = load_backend("tensorrt_rtx")
    load_plugins(trt, library_path(library_folder))
    network, made = convert(trt, program_of_int8, monkeypatch)
    model = onnx.load(plugin_form_path(onnx_files["int8"]))
    nodes = [node for node in model.graph.node if node.domain == "rmt_edge"]
    # The ONNX file's plugins read raw products, with two vectors more; on this road Linear layers scale themselves.
    plain = [node.op_type.replace("Scaled", "").replace("Gelu", "") for node in nodes]
    assert [op_type for op_type, _ in made] == plain
    sizes = {x.name: tuple(x.dims) for x in model.graph.initializer}
    for (op_type, fields), (inputs, plugin), node in zip(made, network.plugins, nodes, strict=True):
        expected = {name: np.atleast_1d(x) for name, x in attributes_of(node).items() if name not in PLUGIN_ATTRIBUTES}
        assert fields.keys() == expected.keys(), op_type
        for key, value in fields.items():
            np.testing.assert_array_equal(value, expected[key].astype(value.dtype), err_msg=f"{op_type} {key}")
        names = [x for x in node.input if not x.endswith((".multiples", "qkv.bias", "fc1.bias", "fc2.bias"))]
        assert plugin is not None and len(inputs) == len(names)
        constants = [(x.shape, sizes[name]) for x, name in zip(inputs, names, strict=True) if name in sizes]
        assert len(constants) >= 2 and all(ours == theirs for ours, theirs in constants)


@pytest.mark.trt
@needs_rtx
def test_an_int8_linear_is_an_int8_matrix_product_in_a_real_engine():
    trt = load_backend("tensorrt_rtx")
    profile = replace(load_profile("rtx-portable"), compute_capabilities=("8.6",))
    log = log_for(trt)
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt))
    kept = []

    def constant(value, name):
        kept.append(np.ascontiguousarray(value))
        layer = network.add_constant(kept[-1].shape, trt.Weights(kept[-1]))
        layer.name = name
        return layer.get_output(0)

    rng = np.random.default_rng(0)
    out = add_int8_linear(
        trt,
        network,
        network.add_input("x", trt.float16, (-1, 64)),
        rng.integers(-127, 128, (96, 64), np.int8),
        np.full(96, 0.01, np.float16),
        np.zeros((1, 96), np.float16),
        np.array(0.02, np.float16),
        constant,
        "fc",
    )
    network.mark_output(out)
    assert builder.build_serialized_network(network, builder_config(trt, builder, network, profile)) is not None
    layers = layers_in_log(log.messages)
    assert layer_counts(layers, 0)["int8_gemms"] == 1, layers


@pytest.mark.trt
@needs_rtx
def test_what_a_plugin_or_a_network_refuses_is_said(library_folder):
    trt = load_backend("tensorrt_rtx")
    load_plugins(trt, library_path(library_folder))
    with pytest.raises(RmtEdgeError, match=r"Retention of x refuses its attributes: .*decay \[0\.5\d*, 0\.5\d*\]"):
        create_plugin(trt, "Retention", retention_fields(2, [0.5, 0.5], True, 32), "x")
    with pytest.raises(RmtEdgeError, match="knows no plugin Attention"):
        create_plugin(trt, "Attention", depthwise_fields(32), "x")
    network = trt.Builder(log_for(trt)).create_network(network_flags(trt))
    with pytest.raises(RmtEdgeError, match=r"tensorrt_rtx\w* [\d.]+ adds no plugin layers from Python"):
        add_plugin_layer(trt, network, "Retention", [], retention_fields(2, [-0.5, -0.5], True, 32), "x")
    refusing = SimpleNamespace(add_plugin_v3=lambda *arguments: None)
    with pytest.raises(RmtEdgeError, match="refuses the plugin DepthwiseResidual of x"):
        add_plugin_layer(trt, refusing, "DepthwiseResidual", [], depthwise_fields(32), "x")


@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch here is a CUDA build")
def test_a_pytorch_without_cuda_is_named(quantized, capsys):
    assert main(["build", str(quantized["fp16"]), "--via", "torch-tensorrt"]) == 2
    message = capsys.readouterr().err
    assert f"PyTorch here is {torch.__version__}, a build without CUDA" in message
    assert "pip install torch-tensorrt" in message


def test_a_torch_tensorrt_that_does_not_import_says_why(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(RmtEdgeError, match=r"torch_tensorrt cannot be imported[\s\S]*with CUDA[\s\S]*pip install"):
        torch_trt.load_torch_tensorrt()


@pytest.fixture
def torch_tensorrt(monkeypatch, library_folder, tmp_path):
    """torch_tensorrt on paper: the names and arguments that torch_trt.py uses of 2.13 and 2.14; it compiles nothing."""
    module = ModuleType("torch_tensorrt")
    module.__version__ = "2.14.0"
    seen = module.seen = SimpleNamespace(converters={}, compiled=None, inputs=None)

    def compile_program(
        exported_program, *, arg_inputs, require_full_compilation, min_block_size, workspace_size, version_compatible,
        hardware_compatible, immutable_weights, disable_tf32, timing_cache_path,
    ):  # fmt: skip
        assert require_full_compilation and min_block_size == 1
        seen.compiled = dict(locals())
        return "compiled"

    def save(compiled, file_path="", *, output_format, arg_inputs):
        assert compiled == "compiled" and output_format == "exported_program" and file_path.endswith(".pt2")
        with open(file_path, "w") as file:
            file.write("engine")

    def dynamo_tensorrt_converter(key, *, supports_dynamic_shapes):
        return lambda function: seen.converters.setdefault(str(key), function)

    module.Input = lambda **given: given
    module.save = save
    module.dynamo = SimpleNamespace(
        compile=compile_program, conversion=SimpleNamespace(dynamo_tensorrt_converter=dynamo_tensorrt_converter)
    )
    utilities = ModuleType("torch_tensorrt.dynamo.conversion.converter_utils")
    utilities.get_trt_tensor = None
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    for name in ("dynamo", "dynamo.conversion"):
        monkeypatch.setitem(sys.modules, f"torch_tensorrt.{name}", ModuleType(name))
    monkeypatch.setitem(sys.modules, utilities.__name__, utilities)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(PluginRMT, "cuda", lambda self: self)
    on_cpu = torch_trt.exported_module
    monkeypatch.setattr(torch_trt, "exported_module", lambda *given: on_cpu(*given[:-1], "cpu"))
    monkeypatch.setattr(torch_trt, "load_backend", lambda name: standin("11.4"))
    monkeypatch.setattr(torch_trt, "this_machine", lambda: MACHINE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def test_a_build_up_to_the_compiler_writes_a_module_with_its_manifest(
    torch_tensorrt, quantized, library_folder, tmp_path
):
    path = torch_trt.build_torch_tensorrt(quantized["int8"], L4, tmp_path, library_folder).path
    assert path.name == "nano.int8.l4.torch-tensorrt.pt2" and path.read_text() == "engine"
    seen = torch_tensorrt.seen
    assert set(seen.converters) == {f"rmt_edge.{name}.default" for name in torch_trt.CONVERTERS}
    [given] = seen.compiled["arg_inputs"]
    assert given["min_shape"] == (1, 3, 40, 48) and given["max_shape"] == (8, 3, 40, 48)
    assert seen.compiled["workspace_size"] == 2048 << 20 and not seen.compiled["hardware_compatible"]
    artifact = read_artifact(path, torch_trt.TORCH_TENSORRT)
    assert artifact.details["backend"] == {"name": "torch_tensorrt", "version": "2.14.0"}
    assert artifact.details["compute_capabilities"] == ["8.9"]
    assert artifact.manifest.source["name"] == quantized["int8"].name
    assert not list(tmp_path.glob(".nano*"))
    json.dumps(artifact.details)


def test_a_profile_that_torch_tensorrt_cannot_serve_is_refused(torch_tensorrt, quantized, library_folder, tmp_path):
    with pytest.raises(RmtEdgeError, match="rtx-portable is built by tensorrt_rtx"):
        torch_trt.build_torch_tensorrt(quantized["fp16"], load_profile("rtx-portable"), tmp_path, library_folder)
    same = replace(L4, hardware_compatibility="same_compute_capability")
    with pytest.raises(RmtEdgeError, match="Torch-TensorRT has no hardware compatibility same_compute_capability"):
        torch_trt.build_torch_tensorrt(quantized["fp16"], same, tmp_path, library_folder)


@pytest.mark.parametrize("recipe", ["int8-all", "int8"])
def test_int8_beyond_linear_layers_is_refused_on_this_road(exported, recipe):
    quantized = exported(recipe).with_suffix(".safetensors")
    with pytest.raises(RmtEdgeError, match=r"is INT8, and is no Linear layer[\s\S]*--recipe int8-linear"):
        torch_trt.build_torch_tensorrt(quantized, load_profile("h100"))
