"""Epsilon of every LayerNorm in an exported file: no logit of a trained network would show that it is another."""

import onnx
import pytest
from onnx import helper

from rmt_edge.artifact import plugin_form_path
from rmt_edge.model.variants import VARIANTS

EPSILON = 1e-6  # of the published code; ONNX's and PyTorch's defaults are 1e-5
BLOCKS = sum(VARIANTS["rmt_nano"].depths)


def epsilons(path):
    attributes = [x for node in onnx.load(path).graph.node for x in node.attribute]
    return [x.f for x in attributes if x.name == "epsilon"]


@pytest.mark.parametrize("name", ["fp16", "int8-all"])
def test_every_layer_norm_has_the_epsilon_of_the_published_code(exported, name):
    """int8-all writes the LayerNorm behind a depthwise convolution as an operator of its own."""
    path = exported(name)
    for form in (path, plugin_form_path(path)):
        found = epsilons(form)
        assert len(found) == 2 * BLOCKS
        assert all(x == helper.make_attribute("epsilon", EPSILON).f for x in found)
