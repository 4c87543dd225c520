"""The plugin form of an exported model: the same nodes without function bodies, quantisation done inside the plugins.

Two changes, neither of which changes a number that the model computes:
- the function bodies of the rmt_edge nodes go, so that every TensorRT parser takes the plugins (up to 10.6 and from
  10.15 on a function would win);
- a QuantizeLinear that is the only reader of a plugin's output goes into it as its output_scale, so that no kernel of
  its own runs between the plugin and the Linear layer behind it.
"""

from onnx import ModelProto, NodeProto, helper, numpy_helper

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES, op_type_of
from rmt_edge.ops.retention.onnx_function import DOMAIN, OP_TYPE


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
        followers = readers.get(node.output[-1], [])
        if len(followers) == 1 and followers[0].op_type == "QuantizeLinear":
            quantize = followers[0]
            scale = float(numpy_helper.to_array(constants[quantize.input[1]]))
            _quantise_inside(node, scale)
            node.output[-1] = quantize.output[0]
            graph.node.remove(quantize)
    return made


def _quantise_inside(node: NodeProto, scale: float) -> None:
    """Give a plugin node an INT8 output of that scale."""
    node.attribute.append(helper.make_attribute("output_scale", scale))
    if node.op_type != OP_TYPE:
        has_residual, has_norm, _ = OP_TYPES[node.op_type]
        node.op_type = op_type_of(has_residual, has_norm, True)


def plugin_nodes(model: ModelProto) -> int:
    """How many nodes of a model are plugins in its plugin form."""
    return sum(node.domain == DOMAIN for node in model.graph.node)
