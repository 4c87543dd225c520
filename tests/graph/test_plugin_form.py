"""The plugin form of an export: the same nodes, no bodies, quantisation inside the plugins; and that export runs it."""

import dataclasses
import functools
import importlib.util
import json
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.torch import save_file

from rmt_edge.artifact import PLUGIN_ONNX, plugin_form_path, read_artifact
from rmt_edge.device.backend import load_backend
from rmt_edge.graph import export as export_module
from rmt_edge.graph import plugin_form as plugin_form_module
from rmt_edge.graph.export import export
from rmt_edge.graph.plugin_form import (
    PLUGIN_ATTRIBUTES,
    attributes_of,
    check_plugin_form,
    executable,
    plugin_form,
    plugin_nodes,
)
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.metrics import relative_error
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention.onnx_function import OP_TYPES
from rmt_edge.plugin.load import library_path, load_plugins
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.runtime.onnx_runner import OnnxRunner
from tests.boxes import maps_of, nms_model, roi_align_model
from tests.conftest import SMALL, filled
from tests.golden import weights

BLOCKS = sum(VARIANTS["rmt_nano"].depths)
has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not has_rtx, reason="tensorrt-rtx-cu13-bindings is not installed")


def ops(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_body_is_left_and_every_plugin_node_stays(onnx_files, precision):
    source, made = onnx.load(onnx_files[precision]), onnx.load(plugin_form_path(onnx_files[precision]))
    assert source.functions and not made.functions
    assert plugin_nodes(made) == plugin_nodes(source) == 3 * BLOCKS
    artifact = read_artifact(plugin_form_path(onnx_files[precision]), PLUGIN_ONNX)
    assert artifact.details["plugin_nodes"] == 3 * BLOCKS
    assert artifact.manifest.source["name"] == onnx_files[precision].name


def test_quantisation_behind_a_plugin_goes_into_it(onnx_files):
    source, made = onnx.load(onnx_files["int8"]), onnx.load(plugin_form_path(onnx_files["int8"]))
    # qkv, out_proj and fc2 read plugins; fc1 and proj read other layers.
    assert ops(source)["QuantizeLinear"] == 4 * BLOCKS + 1
    assert ops(made)["QuantizeLinear"] == BLOCKS + 1
    assert ops(made)["DequantizeLinear"] == ops(source)["DequantizeLinear"]
    scales = {x.name: float(numpy_helper.to_array(x)) for x in source.graph.initializer if "input_scale" in x.name}
    for node in made.graph.node:
        if node.domain:
            given = {x.name: helper.get_attribute_value(x) for x in node.attribute}["output_scale"]
            block, _, op = node.name.rpartition(".")
            layer = {"pos": "qkv", "retention": "out_proj", "dwconv": "fc2"}[op]
            assert given == pytest.approx(scales[f"{block}.{layer}.input_scale"], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_plugin_form_with_bodies_and_quantisers_put_back_computes_the_same(onnx_files, tmp_path, precision):
    source, made = onnx.load(onnx_files[precision]), onnx.load(plugin_form_path(onnx_files[precision]))
    runnable = executable(made)
    onnx.checker.check_model(runnable, full_check=True)
    onnx.save(runnable, tmp_path / "x.onnx")
    assert plugin_nodes(made) == plugin_nodes(runnable) and not made.functions
    for node in runnable.graph.node:
        assert PLUGIN_ATTRIBUTES.keys().isdisjoint(attributes_of(node))
    by_name = {node.name: node for node in source.graph.node if node.domain}
    for node in runnable.graph.node:
        if node.domain:
            assert node.op_type == by_name[node.name].op_type
            assert attributes_of(node) == attributes_of(by_name[node.name])
    assert ops(runnable)["QuantizeLinear"] == ops(source)["QuantizeLinear"]
    images = weights.image((3, 3, SMALL.height, SMALL.width), 4)
    limit = {"fp32": 1e-6, "fp16": 5e-3, "int8": 1e-6}[precision]
    assert (
        relative_error(*(OnnxRunner(x)(images)["logits"] for x in (tmp_path / "x.onnx", onnx_files[precision]))) < limit
    )


def test_a_quantisation_that_others_read_around_stays(onnx_files):
    source = onnx.load(onnx_files["int8"])
    retained = next(x for x in source.graph.node if x.op_type in OP_TYPES)
    source.graph.node.append(helper.make_node("Identity", [retained.output[0]], ["spy"]))
    made = plugin_form(source)
    assert ops(made)["QuantizeLinear"] == BLOCKS + 2
    assert len(source.functions) > 0


@pytest.mark.parametrize(("name", "per_block"), [("int8-conv", 3), ("int8-all", 1), ("int8-naive", 1)])
def test_depthwise_convolutions_in_int8_are_no_plugins(exported, name, per_block):
    source, made = onnx.load(exported(name)), onnx.load(plugin_form_path(exported(name)))
    assert plugin_nodes(made) == per_block * BLOCKS
    # What reads a plugin alone is quantised inside it: qkv, out_proj and fc2, or out_proj.
    assert ops(source)["QuantizeLinear"] - ops(made)["QuantizeLinear"] == per_block * BLOCKS


# -- TensorRT's parser ---------------------------------------------------------------------------------------------


def layers_of(trt, model):
    """How many layers of each type TensorRT's parser makes of a model; None if it does not take it."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, logger).parse(model.SerializeToString()):
        return None
    return Counter(network.get_layer(i).type.name for i in range(network.num_layers))


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_plugin_is_found_by_a_parser_that_reads_no_domain(onnx_files, library_folder, precision):
    """As TensorRT before 10.10 does, and so JetPack 6.1 and 6.2: it looks in the attribute's namespace, or in ""."""
    trt = load_backend("tensorrt_rtx")
    load_plugins(trt, library_path(library_folder))
    made = onnx.load(plugin_form_path(onnx_files[precision]))
    assert layers_of(trt, made)["PLUGIN_V3"] == 3 * BLOCKS
    for node in made.graph.node:
        node.domain = ""
    assert layers_of(trt, made)["PLUGIN_V3"] == 3 * BLOCKS
    for node in made.graph.node:
        for attribute in [x for x in node.attribute if x.name in PLUGIN_ATTRIBUTES]:
            node.attribute.remove(attribute)
    assert layers_of(trt, made) is None


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_native_form_has_no_conditional_layer(onnx_files, precision):
    model = onnx.load(onnx_files[precision])
    assert not [node for body in model.functions for node in body.node if node.op_type == "If"]
    layers = layers_of(load_backend("tensorrt_rtx"), model)
    assert layers["SOFTMAX"] > BLOCKS and layers["PLUGIN_V3"] == 0
    assert not [x for x in layers if "CONDITION" in x or x == "IF"], layers


# -- what export finds ---------------------------------------------------------------------------------------------


def lose_the_biases(monkeypatch):
    """Every Linear layer of the FP16 plugin form."""
    write = GraphWriter.linear

    def linear(self, x, name, linear, grid, has_bias=True):
        return write(self, x, name, linear, grid, has_bias and not (self.flat_linears and self.dtype == np.float16))

    monkeypatch.setattr(GraphWriter, "linear", linear)


def keep_the_aux_head_whole(monkeypatch):
    write = GraphWriter.constant

    def constant(self, name, value):
        is_half = name == "aux_head/half" and self.flat_linears
        return write(self, name, 2 * value if is_half else value)

    monkeypatch.setattr(GraphWriter, "constant", constant)


def change_each_plugin_node(monkeypatch, change):
    """change: of a node of the plugin form, after to_plugin."""
    convert = plugin_form_module.to_plugin

    def to_plugin(node):
        convert(node)
        change(node)

    monkeypatch.setattr(plugin_form_module, "to_plugin", to_plugin)


def drop_the_residuals(monkeypatch):
    def change(node):
        if node.op_type.startswith("Add"):
            node.op_type = node.op_type.removeprefix("Add")
            del node.input[3]

    change_each_plugin_node(monkeypatch, change)


def attend_to_the_whole_grid(monkeypatch):
    def change(node):
        for attribute in node.attribute:
            if attribute.name == "decomposed":
                attribute.i = 0

    change_each_plugin_node(monkeypatch, change)


def forget_the_version(monkeypatch):
    change_each_plugin_node(monkeypatch, lambda node: node.attribute.pop())


def double_the_output_scales(monkeypatch):
    write = plugin_form_module._quantise_inside
    monkeypatch.setattr(plugin_form_module, "_quantise_inside", lambda node, scale: write(node, 2 * scale))


def put_plugin_attributes_into_the_exported_model(monkeypatch):
    write = export_module.onnx_from_model

    def onnx_from_model(*args, **kwargs):
        model = write(*args, **kwargs)
        model.graph.node[0].attribute.append(helper.make_attribute("plugin_version", "1"))
        return model

    monkeypatch.setattr(export_module, "onnx_from_model", onnx_from_model)
    monkeypatch.setattr(export_module.onnx.checker, "check_model", lambda *args, **kwargs: None)


AWAY = r"nano[.\w]*\.plugin\.onnx\S*: ONNX Runtime is \S+ away from PyTorch"
FAULTS = [
    (lose_the_biases, "fp16", AWAY),
    (keep_the_aux_head_whole, "fp16", AWAY),
    (keep_the_aux_head_whole, "int8", AWAY),
    (drop_the_residuals, "fp16", AWAY),
    (drop_the_residuals, "fp16", r"pos of the plugin form is \('DepthwiseResidualNorm', .* model \('AddDepthwiseRes"),
    (attend_to_the_whole_grid, "fp32", AWAY),
    (
        attend_to_the_whole_grid,
        "fp16",
        r"retention of the plugin form is \('RetentionWhole', .* \('RetentionDecomposed'",
    ),
    (double_the_output_scales, "int8", AWAY),
    (double_the_output_scales, "int8", r"pos: output_scale is 0\.\d+, and 0\.\d+ there"),
    (forget_the_version, "fp16", r"pos names the plugin \{.*'plugin_version': ''\}"),
    (
        put_plugin_attributes_into_the_exported_model,
        "fp16",
        r"look for a plugin and not at the body of \['images/cast'",
    ),
]


@pytest.fixture(scope="module")
def quantized_with_aux_head(images, tmp_path_factory):
    """A function from a precision to the quantised checkpoint of a nano model with the token-label head."""
    folder, name = tmp_path_factory.mktemp("aux"), "rmt_nano_token_label"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, name, dataclasses.replace(VARIANTS["rmt_nano"], has_aux_head=True))
        checkpoint = folder / "nano.safetensors"
        save_file(filled(name, 10).state_dict(), checkpoint, {"preprocessing": json.dumps(SMALL.to_dict())})

        @functools.cache
        def quantized_in(precision):
            recipe = QuantizationRecipe(
                precision, precision, **({"images": 8, "batch": 4} if precision == "int8" else {})
            )
            return quantize(checkpoint, recipe, folder, images)

        yield quantized_in


@pytest.mark.parametrize(("fault", "precision", "message"), FAULTS)
def test_a_plugin_form_that_is_not_the_model_is_found_before_any_file_has_its_name(
    quantized_with_aux_head, tmp_path, monkeypatch, fault, precision, message
):
    """Both by what it computes, with the other checks off, and by what is written in it."""
    quantized = quantized_with_aux_head(precision)
    fault(monkeypatch)
    if message == AWAY:
        monkeypatch.setattr(export_module, "check_plugin_form", lambda made, source: {})
    with pytest.raises(AssertionError, match=message):
        export(quantized, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_both_files_record_the_plugin_form_s_error(quantized_with_aux_head, tmp_path, precision):
    source = export(quantized_with_aux_head(precision), tmp_path)
    made = read_artifact(plugin_form_path(source.path), PLUGIN_ONNX)
    assert made.sha256 == source.sibling(PLUGIN_ONNX).sha256
    errors = ("relative_error", "plugin_form_relative_error")
    assert [made.details[x] for x in errors] == [source.details[x] for x in errors]
    assert 0 < made.details["plugin_form_relative_error"] < 0.1
    assert made.manifest.source == source.as_parent()
    check_plugin_form(onnx.load(made.path), onnx.load(source.path))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("make", [
    lambda: nms_model("b", 30, 0.5, 0.05, 10), lambda: roi_align_model("b", 4, 16, maps_of(64, 64), 7),
], ids=["Nms", "MultiLevelRoiAlign"])  # fmt: skip
def test_box_ops_go_to_the_plugin_form_and_back(make):
    source = make()
    made = plugin_form(source)
    assert check_plugin_form(made, source) == {"nodes": 1, "plugin_nodes": 1}
    given = attributes_of(made.graph.node[0])
    assert {name: given[name].decode() for name in PLUGIN_ATTRIBUTES} == PLUGIN_ATTRIBUTES
    assert [x.name for x in executable(made).functions] == [x.name for x in source.functions]


def test_quantisation_behind_a_region_op_stays_where_it_is():
    """Its plugin has no INT8 output: the QuantizeLinear must not vanish."""
    source = roi_align_model("b", 4, 16, maps_of(64, 64), 7)
    node = helper.make_node("QuantizeLinear", ["out", "scale", "zero"], ["quantized"])
    source.graph.node.append(node)
    constants = {"scale": np.float32(0.1), "zero": np.int8(0)}
    source.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items())
    made = plugin_form(source)
    assert [x.op_type for x in made.graph.node] == ["MultiLevelRoiAlign", "QuantizeLinear"]
    assert "output_scale" not in attributes_of(made.graph.node[0])


def test_dequantisation_before_a_plugin_goes_into_it(exported):
    source, made = onnx.load(exported("int8")), onnx.load(plugin_form_path(exported("int8")))
    types = {x.output[0]: x for x in made.graph.node if x.op_type == "QuantizeLinear"}
    reading = [x for x in made.graph.node if x.domain and "input_scale" in attributes_of(x)]
    # qkv's and fc1's in every block, fc2's in the next block of the stage.
    assert len(reading) == 2 * BLOCKS + BLOCKS - 4
    scales = {x.name: float(numpy_helper.to_array(x)) for x in source.graph.initializer if "product_scale" in x.name}
    for node in reading:
        assert attributes_of(node)["input_scale"] == scales[types[node.input[0]].input[1]]
    check_plugin_form(made, source)
    change = next(x for x in reading[0].attribute if x.name == "input_scale")
    change.f *= 2
    with pytest.raises(AssertionError, match=r"input_scale is \d\.\d+, and \d\.\d+ there"):
        check_plugin_form(made, source)
    reading[0].attribute.remove(change)
    with pytest.raises(AssertionError, match="INT8 on one side alone, input_scale"):
        check_plugin_form(made, source)
