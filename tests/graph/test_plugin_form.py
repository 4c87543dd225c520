"""The plugin form of an export: the same nodes, no bodies, quantisation inside the plugins."""

from collections import Counter

import onnx
import pytest
from onnx import helper, numpy_helper

from rmt_edge.artifact import PLUGIN_ONNX, plugin_form_path, read_artifact
from rmt_edge.graph.network import OPSET
from rmt_edge.graph.plugin_form import plugin_form, plugin_nodes
from rmt_edge.metrics import relative_error
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.depthwise.onnx_function import depthwise_function
from rmt_edge.ops.retention.onnx_function import retention_function
from rmt_edge.runtime.onnx_runner import OnnxRunner
from tests.conftest import SMALL
from tests.golden import weights

BLOCKS = sum(VARIANTS["rmt_nano"].depths)


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


def test_the_plugin_form_computes_the_same(onnx_files, tmp_path):
    """With bodies put back. Retention's knows no output_scale, so there its QuantizeLinear is put back too."""
    made = onnx.load(plugin_form_path(onnx_files["int8"]))
    for node in list(made.graph.node):
        if node.op_type == "Retention":
            scale = next(x for x in node.attribute if x.name == "output_scale")
            node.attribute.remove(scale)
            quantized, node.output[0] = node.output[0], f"{node.name}/plain"
            constant = helper.make_tensor(f"{node.name}/scale", onnx.TensorProto.FLOAT16, [], [scale.f])
            made.graph.initializer.append(constant)
            inputs = [node.output[0], constant.name, "int8_zero"]
            at = list(made.graph.node).index(node) + 1
            made.graph.node.insert(at, helper.make_node("QuantizeLinear", inputs, [quantized]))
    names = {node.op_type for node in made.graph.node if node.domain} - {"Retention"}
    made.functions.extend([retention_function(OPSET), *(depthwise_function(name, OPSET) for name in names)])
    onnx.save(made, tmp_path / "x.onnx")
    images = weights.image((3, 3, SMALL.height, SMALL.width), 4)
    assert relative_error(OnnxRunner(tmp_path / "x.onnx")(images), OnnxRunner(onnx_files["int8"])(images)) < 1e-6


def test_a_quantisation_that_others_read_around_stays(onnx_files):
    source = onnx.load(onnx_files["int8"])
    retained = next(x for x in source.graph.node if x.op_type == "Retention")
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
