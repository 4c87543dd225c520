"""Nodes that the plugins cannot take, given to TensorRT-RTX: a message, no engine, and the process lives."""

import re

import numpy as np
import onnx
import pytest

from tests.plugin.models import depthwise_model, one_node_model

BAD_DEPTHWISE_NODES = {
    "channels": (dict(changes=dict(channels=32)), r"x is \(\?, 14, 14, 64\), not \(\?, \?, \?, 32\)"),
    "no channels": (dict(changes=dict(channels=None)), "attribute channels is missing"),
    "odd channels": (dict(c=40), "40 channels are unsupported; supported: multiples of 16"),
    "wide norm": (dict(c=1040), "1040 channels are too many for a LayerNorm"),
    "kernel size": (dict(k=5), r"weight is \(5, 5, 64\); the kernels are compiled for a 3 x 3 convolution"),
    "no epsilon": (dict(changes=dict(epsilon=None)), "attribute epsilon is missing"),
    "epsilon": (dict(changes=dict(epsilon=0.0)), r"epsilon is 0\.0*; it must be positive"),
    "integer epsilon": (dict(changes=dict(epsilon=1)), "attribute epsilon must be float32"),
    "no scale": (dict(changes=dict(output_scale=None)), "attribute output_scale is missing"),
    "scale": (dict(changes=dict(output_scale=-0.5)), r"output_scale is -0\.50*; it must be positive"),
    "small scale": (dict(changes=dict(output_scale=1e-9)), "output_scale is 0 or infinite in float16"),
}


@pytest.mark.trt
@pytest.mark.parametrize("arguments, message", BAD_DEPTHWISE_NODES.values(), ids=BAD_DEPTHWISE_NODES)
def test_wrong_depthwise_node_is_refused_with_a_message(build_engine, arguments, message):
    built = build_engine(depthwise_model("AddDepthwiseResidualNormInt8", **arguments))
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
    assert "rmt_edge: error: AddDepthwiseResidualNormInt8" in built["stderr"]


@pytest.mark.trt
def test_missing_depthwise_input_is_refused_with_a_message(build_engine):
    model = depthwise_model("AddDepthwiseResidualNorm")
    del model.graph.node[0].input[5]
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert "5 inputs and 2 outputs were given, 6 and 2 expected" in built["error"]


@pytest.mark.trt
def test_depthwise_inputs_of_two_types_are_refused_with_a_message(build_engine):
    model = depthwise_model("DepthwiseResidual")
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(64, np.float32), "bias"))
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert "bias has data type 0, not 1 beside x of 1" in built["error"]


BAD_NODES = {
    "heads": (dict(num_heads=3, decay=[-0.1] * 3), "3 heads do not divide 128 channels"),
    "head dim": (dict(d=48), r"head dim 48 \(192 channels, 4 heads\) unsupported; supported: 16, 32"),
    "positive decay": (dict(decay=[-0.1, -0.1, 0.5, -0.1]), r"decay 0\.50* is not negative"),
    "decays": (dict(decay=[-0.1]), "1 decays for 4 heads"),
    "no heads": (dict(num_heads=None), "attribute num_heads is missing"),
    "no decay": (dict(decay=None), "attribute decay is missing"),
    "type": (dict(decomposed=0.5), "attribute decomposed must be one integer"),
    "form": (dict(decomposed=2), "decomposed is 2; allowed: 0, 1"),
    "channels": (dict(channels=64), r"qkv must be \(b, h, w, 192\)"),
    "scale": (dict(output_scale=-0.5), r"output_scale is -0\.50*; it must be positive"),
}


@pytest.mark.trt
@pytest.mark.parametrize("change, message", BAD_NODES.values(), ids=BAD_NODES)
def test_wrong_attribute_is_refused_with_a_message(build_engine, change, message):
    d = change.get("d", 32)
    model = one_node_model(d, changes={k: v for k, v in change.items() if k != "d"})
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
    assert "rmt_edge: error: Retention" in built["stderr"]


@pytest.mark.trt
def test_missing_input_is_refused_with_a_message(build_engine):
    model = one_node_model()
    del model.graph.node[0].input[4]
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert "4 inputs and 1 outputs were given, 5 or 7 and 1 expected" in built["error"]


@pytest.mark.trt
def test_tables_of_another_grid_are_refused_with_a_message(build_engine):
    model = one_node_model()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 32), np.float16), "sin"))
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert "sin and cos must be (196, 32)" in built["error"]


@pytest.mark.trt
def test_inputs_of_two_types_are_refused_with_a_message(build_engine):
    model = one_node_model()
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros((196, 32), np.float32), "cos"))
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert "cos has data type 0, not 1 beside qkv of 1" in built["error"]


SHAPES = {
    "cos": ((196, 16), r"sin and cos must be \(196, 32\), one row per token of the grid, not \(196, 16\)"),
    "lepe_weight": ((128, 1, 3, 3), r"lepe_weight must be \(128, 1, 5, 5\) .* not \(128, 1, 3, 3\)"),
    "lepe_bias": ((64,), r"and lepe_bias \(128\), not .* and \(64\)"),
}


@pytest.mark.trt
@pytest.mark.parametrize("name", SHAPES)
def test_constant_of_another_shape_is_refused_with_a_message(build_engine, name):
    model, (shape, message) = one_node_model(), SHAPES[name]
    tensor = next(x for x in model.graph.initializer if x.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(shape, np.float16), name))
    built = build_engine(model)
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
