"""What TensorRT-RTX makes of the plugin nodes, without a GPU: which layers, of which types."""

import numpy as np
import pytest

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.plugin.load import PLUGIN_NAMESPACE, PLUGIN_VERSION
from tests.plugin.models import change_attributes, depthwise_model, one_node_model, quantize_output


@pytest.mark.trt
@pytest.mark.parametrize("decomposed", [1, 0], ids=["decomposed", "whole"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("d", [16, 32])
def test_engine_of_one_node_has_exactly_the_plugin_layer(build_engine, decomposed, dtype, d):
    built = build_engine(one_node_model(d=d, decomposed=decomposed, dtype=dtype))
    assert built["plugin_layers"] == 1
    assert built["engine_bytes"] > 0
    working = [x for x in built["layers"] if "LayerType: shape_call" not in x]
    assert len(working) == 1 and "LayerType: custom_layer" in working[0], working


@pytest.mark.trt
def test_engine_with_int8_output_passes_int8_on(build_engine):
    built = build_engine(quantize_output(one_node_model(), 0.05))
    assert built["plugin_layers"] == 1
    (plugin,) = (x for x in built["layers"] if "LayerType: custom_layer" in x)
    assert "Datatype: Int8" in plugin.split("Outputs: ")[1]


DEPTHWISE_CASES = [(op_type, np.float16, 64) for op_type in OP_TYPES]
DEPTHWISE_CASES += [("DepthwiseResidual", np.float16, 1920), ("AddDepthwiseResidualNormInt8", np.float16, 640)]
DEPTHWISE_CASES += [("DepthwiseResidualInt8", np.float32, 80), ("AddDepthwiseResidualNorm", np.float32, 80)]


@pytest.mark.trt
@pytest.mark.parametrize("op_type, dtype, c", DEPTHWISE_CASES)
def test_engine_of_one_depthwise_node_has_exactly_the_plugin_layer(build_engine, op_type, dtype, c):
    built = build_engine(depthwise_model(op_type, dtype, c))
    assert built["plugin_layers"] == 1, built
    assert built["engine_bytes"] > 0, built
    (plugin,) = (x for x in built["layers"] if "LayerType: custom_layer" in x)
    assert plugin.split("Outputs: ")[1].count("Datatype: Int8") == OP_TYPES[op_type][2]


def seen_by_an_old_parser(model, names=True):
    """The model with its domains cleared: TensorRT below 10.10 does not see them. names: with the attributes."""
    for node in model.graph.node:
        if node.domain == PLUGIN_NAMESPACE:
            node.domain = ""
            named = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION} if names else {}
            change_attributes(node, {"plugin_namespace": None, "plugin_version": None} | named)
    return model


ONE_NODE_MODELS = {
    "Retention": one_node_model,
    "AddDepthwiseResidualNormInt8": lambda: depthwise_model("AddDepthwiseResidualNormInt8"),
}


@pytest.mark.trt
@pytest.mark.parametrize("make", ONE_NODE_MODELS.values(), ids=ONE_NODE_MODELS)
def test_node_that_names_its_namespace_is_the_plugin_even_without_a_domain(build_engine, make):
    built = build_engine(seen_by_an_old_parser(make()))
    assert built["plugin_layers"] == 1, built
    assert built["engine_bytes"] > 0, built


@pytest.mark.trt
def test_node_with_domain_and_namespace_is_the_plugin(build_engine):
    model = one_node_model()
    change_attributes(model.graph.node[0], {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION})
    assert build_engine(model)["plugin_layers"] == 1


@pytest.mark.trt
def test_node_without_namespace_and_domain_is_no_plugin(build_engine):
    built = build_engine(seen_by_an_old_parser(one_node_model(), names=False))
    assert built["plugin_layers"] == 0
    assert built["parser_errors"]
