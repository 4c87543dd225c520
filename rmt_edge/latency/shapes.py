"""The element type and shape of every tensor of a plugin form, at batch 1: what the roofline counts bytes by.

onnx's own shape inference, node by node; it stops at nodes of other domains, so that those of rmt_edge are answered
here. A new op of rmt_edge adds a line to PLUGIN_OUTPUTS.
"""

from collections.abc import Callable
from functools import lru_cache
from math import prod

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.depthwise import onnx_function as depthwise
from rmt_edge.ops.retention import onnx_function as retention
from rmt_edge.ops.retention.onnx_function import DOMAIN

SMALL = 64  # elements: constants up to that may be shapes or axes, which an inference has to see
BITS: dict[int, int] = {TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.INT8: 8, TensorProto.INT64: 64}


class Tensor:
    """One tensor. shape: at batch 1, without names."""

    def __init__(self, element_type: int, shape: list[int]):
        self.element_type, self.shape = element_type, shape

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * BITS[self.element_type] // 8


def tensors_of(model: ModelProto) -> dict[str, Tensor]:
    """Every tensor of a plugin form by name, constants too."""
    graph, opsets = model.graph, {x.domain: x.version for x in model.opset_import}
    found = {x.name: Tensor(x.data_type, list(x.dims)) for x in graph.initializer}
    small = {x.name: x for x in graph.initializer if prod(x.dims) <= SMALL and _has_values(x)}
    for x in graph.input:
        kind = x.type.tensor_type
        found[x.name] = Tensor(kind.elem_type, [d.dim_value or 1 for d in kind.shape.dim])
    for node in graph.node:
        if node.domain == DOMAIN:
            outputs = _plugin_outputs(node, found)
        else:
            outputs = _inferred(node, found, small, opsets)
        found.update(zip(node.output, outputs, strict=True))
    return found


def _has_values(tensor: TensorProto) -> bool:
    """Whether a constant holds its values; a graph that was written for its costs alone has none of large ones."""
    return tensor.HasField("raw_data") or prod(tensor.dims) == 0


def _inferred(
    node: NodeProto, found: dict[str, Tensor], small: dict[str, TensorProto], opsets: dict[str, int]
) -> list[Tensor]:
    """The outputs of a standard operator. Nodes that differ in names alone are asked about once."""
    alike = NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    alike.input.extend(f"i{n}" if x else "" for n, x in enumerate(node.input))
    alike.output.extend(f"o{n}" for n in range(len(node.output)))
    types = tuple((found[x].element_type, *found[x].shape) if x else () for x in node.input)
    data = tuple(numpy_helper.to_array(small[x]).tobytes() if x in small else b"" for x in node.input)
    inferred = _outputs_like(alike.SerializeToString(), opsets[node.domain], types, data)
    if inferred is None:
        raise RmtEdgeError(
            f"The shape of {node.output[0]}, which {node.op_type} writes, does not follow from its inputs.",
            "the estimate counts the bytes of every tensor.",
        )
    return [Tensor(element_type, list(shape)) for element_type, *shape in inferred]


@lru_cache(4096)
def _outputs_like(
    node_bytes: bytes, opset: int, types: tuple[tuple[int, ...], ...], data: tuple[bytes, ...]
) -> list[tuple[int, ...]] | None:
    """Element type and shape of each output of a node, from those of its inputs; None where one does not follow."""
    node = NodeProto.FromString(node_bytes)
    kinds: dict[str, TypeProto] = {}
    values: dict[str, TensorProto] = {}
    for name, kind, raw in zip(node.input, types, data, strict=True):
        if name:
            kinds[name] = helper.make_tensor_type_proto(kind[0], list(kind[1:]))
            if raw:
                values[name] = TensorProto(data_type=kind[0], dims=kind[1:], raw_data=raw)
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    opsets = [helper.make_opsetid(node.domain, opset)]
    inferred = onnx.shape_inference.infer_node_outputs(schema, node, kinds, values, opset_imports=opsets)
    outputs = []
    for name in node.output:
        if name not in inferred or not all(x.HasField("dim_value") for x in inferred[name].tensor_type.shape.dim):
            return None
        made = inferred[name].tensor_type
        outputs.append((made.elem_type, *(x.dim_value for x in made.shape.dim)))
    return outputs


def _plugin_outputs(node: NodeProto, found: dict[str, Tensor]) -> list[Tensor]:
    """The outputs of a node of rmt_edge."""
    if node.op_type not in PLUGIN_OUTPUTS:
        raise RmtEdgeError(f"The estimate knows no {node.op_type}.", f"it knows {', '.join(PLUGIN_OUTPUTS)}.")
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    return PLUGIN_OUTPUTS[node.op_type]([found[x] for x in node.input], attributes, len(node.output))


def _same_grid(inputs: list[Tensor], attributes: dict, count: int) -> list[Tensor]:
    """(b, h, w, channels), of the type of the second input, or INT8 for the last."""
    shape = [*inputs[0].shape[:3], attributes["channels"]]
    types = [inputs[1].element_type] * count
    if attributes.get("output_scale"):
        types[-1] = TensorProto.INT8
    return [Tensor(x, shape) for x in types]


PLUGIN_OUTPUTS: dict[str, Callable[[list[Tensor], dict, int], list[Tensor]]] = {
    retention.OP_TYPE: _same_grid,
    **dict.fromkeys(depthwise.OP_TYPES, _same_grid),
}
