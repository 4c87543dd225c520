"""An FP16 model as a GPU computes it, to be run on a CPU: every tensor rounded to FP16, every sum made in float32.

ONNX Runtime's CPU has few FP16 kernels. It puts casts around the others and removes those that meet, so that most of an
FP16 graph runs in float32 from end to end and its accuracy flatters the engine. Here the graph is float32 in type, and
behind each node stands a cast to FP16 and one back, which ONNX Runtime keeps: a tensor between two nodes holds what an
engine's does. The sums inside a node stay float32, as tensor cores and rmt-edge's kernels make them.

Inside an rmt_edge node nothing is rounded but its outputs, as in the plugins, which compute in float32. TensorRT's own
kernels for the same body (--kernels native) round at borders that it chooses itself.
"""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rmt_edge.errors import RmtEdgeError

# Operators that hand on values as they are: rounding again what is FP16 already would cost time and change nothing.
_MOVES = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Gather", "GatherElements",
    "Identity", "Expand", "Tile", "ReduceMax", "Max", "Min", "Clip", "Relu", "MaxPool", "Neg", "Abs", "Where", "TopK",
    "Pad", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip


def rounded_to_half(model: ModelProto) -> ModelProto:
    """A copy of an FP16 model that computes in float32 and rounds every FP16 tensor; the model is left as it is.

    Inputs and outputs must not be FP16, as those of rmt-edge's files are not.
    """
    half = half_tensors(model)
    if borders := [x.name for x in (*model.graph.input, *model.graph.output) if x.name in half]:
        raise RmtEdgeError(
            f"{', '.join(borders)} of the model is FP16.", "its inputs and outputs are float32 or whole."
        )
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT16:
            constant.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float32), constant.name)
            )
    nodes = [x for source in graph.node for x in _rounded(source, half)]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def half_tensors(model: ModelProto) -> set[str]:
    """The names of the FP16 tensors of a model's graph that nodes make or that enter or leave it."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    known = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {x.name: x.type.tensor_type.elem_type for x in known}
    missing = [name for node in model.graph.node for name in node.output if name and not types.get(name)]
    assert not missing, f"tensors of unknown type: {missing[:5]}"
    return {name for name, elem_type in types.items() if elem_type == TensorProto.FLOAT16}


def _rounded(source: NodeProto, half: set[str]) -> list[NodeProto]:
    """A node in float32, and the casts behind those of its outputs that were FP16."""
    node = NodeProto()
    node.CopyFrom(source)
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    casts = []
    if node.domain == "" and node.op_type in _MOVES:
        return [node]
    for index, name in enumerate(node.output):
        if name not in half:
            continue
        exact, rounded = f"{name}/exact", f"{name}/fp16"
        node.output[index] = exact
        casts.append(helper.make_node("Cast", [exact], [rounded], rounded, to=TensorProto.FLOAT16))
        casts.append(helper.make_node("Cast", [rounded], [name], f"{name}/float32", to=TensorProto.FLOAT))
    return [node, *casts]
