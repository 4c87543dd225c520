"""The plugin form of an exported model: the same nodes without function bodies, quantisation done inside the plugins.

Its changes, none of which changes a number that the model computes:
- the function bodies of the rmt_edge nodes go, so that every TensorRT parser takes the plugins (up to 10.6 and from
  10.15 on a function would win);
- each of these nodes names its plugin's namespace and version in two attributes. A parser before TensorRT 10.10, and so
  JetPack 6.1 and 6.2, reads these alone and not the node's domain. They must not be in the exported model itself: there
  they would override the bodies;
- both forms of Retention become one op type with the attribute `decomposed` (ops/retention/onnx_function.py);
- a QuantizeLinear that is the only reader of a plugin's output goes into it as its output_scale, so that no kernel of
  its own runs between the plugin and the Linear layer behind it.

No runtime of a workstation takes this file. `executable` takes the changes back, so that what is written can be run.
"""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rmt_edge.graph.network import OPSET, functions_of
from rmt_edge.ops.depthwise import onnx_function as depthwise
from rmt_edge.ops.nms import onnx_function as nms
from rmt_edge.ops.retention import onnx_function as retention
from rmt_edge.ops.retention.onnx_function import DOMAIN
from rmt_edge.ops.roi_align import onnx_function as roi_align
from rmt_edge.plugin.load import PLUGIN_NAMESPACE, PLUGIN_VERSION

# Ops whose plugins have no INT8 output.
QUANTISE_NOTHING = (nms.OP_TYPE, roi_align.OP_TYPE)
# What a parser before TensorRT 10.10 looks a plugin up by.
PLUGIN_ATTRIBUTES = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}


def plugin_form(model: ModelProto) -> ModelProto:
    """A copy of the model in its plugin form; the model is left as it is."""
    made = ModelProto()
    made.CopyFrom(model)
    made.ClearField("functions")
    graph = made.graph
    constants = {x.name: x for x in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        to_plugin(node)
        followers = readers.get(node.output[-1], [])
        if node.op_type not in QUANTISE_NOTHING and [x.op_type for x in followers] == ["QuantizeLinear"]:
            quantize = followers[0]
            scale = float(numpy_helper.to_array(constants[quantize.input[1]]))
            _quantise_inside(node, scale)
            node.output[-1] = quantize.output[0]
            graph.node.remove(quantize)
    return made


def to_plugin(node: NodeProto) -> None:
    """Change a node that has a body into the plugin's: its op type and its attributes."""
    if node.op_type in retention.OP_TYPES:
        node.attribute.append(helper.make_attribute("decomposed", int(retention.OP_TYPES[node.op_type])))
        node.op_type = retention.OP_TYPE
    node.attribute.extend(helper.make_attribute(name, value) for name, value in PLUGIN_ATTRIBUTES.items())


def _quantise_inside(node: NodeProto, scale: float) -> None:
    """Give a plugin node an INT8 output of that scale."""
    node.attribute.append(helper.make_attribute("output_scale", scale))
    if node.op_type in depthwise.OP_TYPES:
        has_residual, has_norm, _ = depthwise.OP_TYPES[node.op_type]
        node.op_type = depthwise.op_type_of(has_residual, has_norm, True)


def executable(made: ModelProto) -> ModelProto:
    """A copy of a plugin form with bodies and quantisers put back: what its plugins compute, in standard operators."""
    model = ModelProto()
    model.CopyFrom(made)
    graph = model.graph
    del graph.node[:]
    scale_types = {x.input[0]: x.input[1] for x in made.graph.node if x.op_type == "DequantizeLinear"}
    dtypes = {x.name: helper.tensor_dtype_to_np_dtype(x.data_type) for x in made.graph.initializer}
    for source in made.graph.node:
        node = graph.node.add()
        node.CopyFrom(source)
        if node.domain != DOMAIN:
            continue
        scale = _from_plugin(node)
        if scale:
            quantized, node.output[-1] = node.output[-1], f"{node.output[-1]}/float"
            names = [f"{quantized}/output_scale", f"{quantized}/zero"]
            constants = [np.array(scale, dtypes[scale_types[quantized]]), np.zeros((), np.int8)]
            graph.initializer.extend(numpy_helper.from_array(x, name) for x, name in zip(constants, names, strict=True))
            graph.node.append(helper.make_node("QuantizeLinear", [node.output[-1], *names], [quantized]))
    model.functions.extend(functions_of(graph.node, OPSET))
    return model


def _from_plugin(node: NodeProto) -> float:
    """Change a plugin node back into one that has a body; returns the output_scale that it had, or 0."""
    given = attributes_of(node)
    scale = given.pop("output_scale", 0.0)
    for name in PLUGIN_ATTRIBUTES:
        del given[name]
    if node.op_type == retention.OP_TYPE:
        node.op_type = retention.op_type_of(bool(given.pop("decomposed")))
    elif scale:
        has_residual, has_norm, _ = depthwise.OP_TYPES[node.op_type]
        node.op_type = depthwise.op_type_of(has_residual, has_norm, False)
    kept = [x for x in node.attribute if x.name in given]
    del node.attribute[:]
    node.attribute.extend(kept)
    return scale


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; strings as bytes, as ONNX has them."""
    return {x.name: helper.get_attribute_value(x) for x in node.attribute}


def check_plugin_form(made: ModelProto, source: ModelProto) -> dict[str, int]:
    """Assert what TensorRT needs of the plugin form of a model and no run shows, or none exactly; count its nodes.

    There are no bodies; each plugin node has its plugin's namespace and version; what a plugin quantises is dequantised
    by the same scale; taken back, each is the model's node of its name in op type and attributes.
    """
    assert not made.functions, f"{len(made.functions)} bodies"
    constants = {x.name: x for x in made.graph.initializer}
    scales = {x.input[0]: x.input[1] for x in made.graph.node if x.op_type == "DequantizeLinear"}
    for node in made.graph.node:
        if node.domain != DOMAIN:
            continue
        given = attributes_of(node)
        found = {name: given.get(name, b"").decode() for name in PLUGIN_ATTRIBUTES}
        assert found == PLUGIN_ATTRIBUTES, f"{node.name} names the plugin {found}, not {PLUGIN_ATTRIBUTES}"
        assert ("output_scale" in given) == (node.output[-1] in scales), f"{node.name}: INT8 on one side alone"
        if "output_scale" in given:
            expected = float(numpy_helper.to_array(constants[scales[node.output[-1]]]))
            assert given["output_scale"] == expected, f"{node.name}: {given['output_scale']}, then {expected}"
    back, expected_nodes = _ops_of(executable(made)), _ops_of(source)
    for name in expected_nodes.keys() | back.keys():
        found, wanted = back.get(name), expected_nodes.get(name)
        assert found == wanted, f"{name} of the plugin form is {found}, of the model {wanted}"
    return {"nodes": len(made.graph.node), "plugin_nodes": plugin_nodes(made)}


def _ops_of(model: ModelProto) -> dict[str, tuple[str, dict[str, Any]]]:
    """The op type and attributes of each rmt_edge node, by its name."""
    return {node.name: (node.op_type, attributes_of(node)) for node in model.graph.node if node.domain == DOMAIN}


def plugin_nodes(model: ModelProto) -> int:
    """How many nodes of a model are plugins in its plugin form."""
    return sum(node.domain == DOMAIN for node in model.graph.node)
