"""The plugin form of an exported model: the same nodes without function bodies, Q and DQ done inside the plugins.

Its changes, none of which changes a number that the model computes:
- the function bodies of the rmt_edge nodes go, so that every TensorRT parser takes the plugins (up to 10.6 and from
  10.15 on a function would win);
- each of these nodes names its plugin's namespace and version in two attributes. A parser before TensorRT 10.10, and so
  JetPack 6.1 and 6.2, reads these alone and not the node's domain. They must not be in the exported model itself: there
  they would override the bodies;
- both forms of Retention become one op type with the attribute `decomposed` (ops/retention/onnx_function.py);
- a QuantizeLinear that is the only reader of a plugin's output goes into it as its output_scale, so that no kernel of
  its own runs between the plugin and the Linear layer behind it;
- a DequantizeLinear of which a plugin's first input is the only reader goes into it as its input_scale: the plugin
  reads the 8 bits.

No runtime of a workstation takes this file. `executable` takes the changes back, so that what is written can be run.
"""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rmt_edge.graph.network import OPSET, functions_of
from rmt_edge.ops.depthwise import onnx_function as depthwise
from rmt_edge.ops.retention import onnx_function as retention
from rmt_edge.ops.retention.onnx_function import DOMAIN
from rmt_edge.plugin.load import PLUGIN_NAMESPACE, PLUGIN_VERSION

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
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(graph.node):
        if node.domain != DOMAIN:
            continue
        to_plugin(node)
        before = makers.get(node.input[0])
        if before is not None and before.op_type == "DequantizeLinear" and len(readers[node.input[0]]) == 1:
            _dequantise_inside(node, float(numpy_helper.to_array(constants[before.input[1]])))
            node.input[0] = before.input[0]
            graph.node.remove(before)
        followers = readers.get(node.output[-1], [])
        if len(followers) == 1 and followers[0].op_type == "QuantizeLinear":
            _quantise_inside(node, float(numpy_helper.to_array(constants[followers[0].input[1]])))
            node.output[-1] = followers[0].output[0]
            graph.node.remove(followers[0])
    return made


def to_plugin(node: NodeProto) -> None:
    """Change a node that has a body into the plugin's: its op type and its attributes."""
    if node.op_type in retention.OP_TYPES:
        node.attribute.append(helper.make_attribute("decomposed", int(retention.OP_TYPES[node.op_type][0])))
        node.op_type = retention.OP_TYPE
    node.attribute.extend(helper.make_attribute(name, value) for name, value in PLUGIN_ATTRIBUTES.items())


def _dequantise_inside(node: NodeProto, scale: float) -> None:
    """Give a plugin node an INT8 input of that scale, which has to be a raw product's."""
    assert node.input[-1].endswith(".bias") and node.op_type.startswith(("Scaled", retention.OP_TYPE)), node.name
    node.attribute.append(helper.make_attribute("input_scale", scale))


def _quantise_inside(node: NodeProto, scale: float) -> None:
    """Give a plugin node an INT8 output of that scale."""
    node.attribute.append(helper.make_attribute("output_scale", scale))
    if node.op_type in depthwise.OP_TYPES:
        node.op_type = depthwise.op_type_of(*depthwise.OP_TYPES[node.op_type]._replace(is_int8=True))


def executable(made: ModelProto) -> ModelProto:
    """A copy of a plugin form with bodies and Q/DQ put back: what its plugins compute, in standard operators."""
    model = ModelProto()
    model.CopyFrom(made)
    graph = model.graph
    del graph.node[:]
    read, written = _scales_of_int8(made)
    dtypes = {x.name: helper.tensor_dtype_to_np_dtype(x.data_type) for x in made.graph.initializer}

    def constants(tensor: str, scale: float, like: str) -> list[str]:
        """The names of a new scale and zero point, in the type of the scale on the graph's side."""
        names = [f"{tensor}/scale", f"{tensor}/zero"]
        values = [np.array(scale, dtypes[like]), np.zeros((), np.int8)]
        graph.initializer.extend(numpy_helper.from_array(x, name) for x, name in zip(values, names, strict=True))
        return names

    for source in made.graph.node:
        node = NodeProto()
        node.CopyFrom(source)
        input_scale, output_scale = _from_plugin(node) if node.domain == DOMAIN else (0.0, 0.0)
        if input_scale:
            raw, node.input[0] = node.input[0], f"{node.name}/read"
            names = constants(node.input[0], input_scale, written[raw])
            graph.node.append(helper.make_node("DequantizeLinear", [raw, *names], [node.input[0]]))
        graph.node.append(node)
        if output_scale:
            quantized, graph.node[-1].output[-1] = node.output[-1], f"{node.output[-1]}/float"
            names = constants(quantized, output_scale, read[quantized])
            graph.node.append(helper.make_node("QuantizeLinear", [f"{quantized}/float", *names], [quantized]))
    model.functions.extend(functions_of(graph.node, OPSET))
    return model


def _scales_of_int8(made: ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    """The scales by which int8 tensors are dequantised, and those by which they were quantised: tensor to its scale."""
    read = {x.input[0]: x.input[1] for x in made.graph.node if x.op_type == "DequantizeLinear"}
    return read, {x.output[0]: x.input[1] for x in made.graph.node if x.op_type == "QuantizeLinear"}


def _from_plugin(node: NodeProto) -> tuple[float, float]:
    """Change a plugin node back into one that has a body; returns the input_scale and output_scale it had, or 0."""
    given = attributes_of(node)
    scales = given.pop("input_scale", 0.0), given.pop("output_scale", 0.0)
    for name in PLUGIN_ATTRIBUTES:
        del given[name]
    if node.op_type == retention.OP_TYPE:
        node.op_type = retention.op_type_of(bool(given.pop("decomposed")), len(node.input) > len(retention.INPUTS))
    elif scales[1]:
        node.op_type = depthwise.op_type_of(*depthwise.OP_TYPES[node.op_type]._replace(is_int8=False))
    kept = [x for x in node.attribute if x.name in given]
    del node.attribute[:]
    node.attribute.extend(kept)
    return scales


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; strings as bytes, as ONNX has them."""
    return {x.name: helper.get_attribute_value(x) for x in node.attribute}


def check_plugin_form(made: ModelProto, source: ModelProto) -> dict[str, int]:
    """Assert what TensorRT needs of the plugin form of a model and no run shows, or none exactly; count its nodes.

    There are no bodies; each plugin node has its plugin's namespace and version; what a plugin quantises is dequantised
    by the same scale, what it dequantises was quantised by the same; taken back, each is the model's node of its name
    in op type and attributes.
    """
    assert not made.functions, f"{len(made.functions)} bodies"
    constants = {x.name: x for x in made.graph.initializer}
    read, written = _scales_of_int8(made)
    for node in made.graph.node:
        if node.domain != DOMAIN:
            continue
        given = attributes_of(node)
        found = {name: given.get(name, b"").decode() for name in PLUGIN_ATTRIBUTES}
        assert found == PLUGIN_ATTRIBUTES, f"{node.name} names the plugin {found}, not {PLUGIN_ATTRIBUTES}"
        for name, tensor, scales in (("input_scale", node.input[0], written), ("output_scale", node.output[-1], read)):
            assert (name in given) == (tensor in scales), f"{node.name}: INT8 on one side alone, {name}"
            if name in given:
                expected = float(numpy_helper.to_array(constants[scales[tensor]]))
                assert given[name] == expected, f"{node.name}: {name} is {given[name]}, and {expected} there"
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
