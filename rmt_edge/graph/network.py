"""The folded form as an ONNX graph, written node by node.

Precision lives in the graph: FP16 or FP32 tensors, INT8 weights, Q/DQ around the quantised layers (graph/writer.py).
Each block's attention is one `rmt_edge::Retention…` node, each depthwise convolution with its residual one
`rmt_edge::DepthwiseResidual…` node unless there is INT8 in it, both with function bodies of standard operators
(ops/retention/onnx_function.py, ops/depthwise/onnx_function.py). Images and logits are float32 in every precision.
Nodes carry the module's name: `stages.0.blocks.1.fc1`.

Why not torch.onnx: its exporters fail on fake quantisers (dynamo) or are deprecated (TorchScript), keep INT8 weights in
floating point with a Q node behind them, and number their nodes. The network has one shape; writing it down takes less
than mending their output, and every file is compared with PyTorch before it is used (graph/export.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from rmt_edge import __version__
from rmt_edge.graph.ranges import check_ranges
from rmt_edge.graph.writer import GraphWriter, Vectors
from rmt_edge.model.folded import FoldedBlock, FoldedRMT, Ranges
from rmt_edge.model.rmt import stage_grid
from rmt_edge.ops.depthwise import onnx_function as depthwise
from rmt_edge.ops.retention import onnx_function as retention
from rmt_edge.ops.retention.onnx_function import DOMAIN, DOMAIN_VERSION, retention_node

OPSET = 20  # the first with Gelu as one operator; FP16 scales of Q/DQ need 19
IR_VERSION = 10  # of ONNX 1.16: read by ONNX Runtime from 1.18 and TensorRT from 10.3
INPUT, OUTPUT = "images", "logits"


def onnx_from_folded(
    model: FoldedRMT,
    dtype: np.dtype,
    ranges: Ranges,
    metadata: dict[str, str],
    flat_linears: bool = False,
    has_weights: bool = True,
) -> ModelProto:
    """The ONNX model of a folded form.

    dtype: float32 or float16, of everything but the images, the logits and the INT8 weights. ranges: of the layers and
    additions to run in INT8, as quantization/calibrate.py names them. metadata: strings that travel in the file.

    flat_linears: write a Linear layer as a Gemm of two axes between two Reshapes instead of MatMul and Add of four. It
    is what the plugin form is made from: between plugins, TensorRT-RTX 1.7 gives a bias of four axes a kernel of its
    own; without plugins it is the Gemm that costs more layers (bench/engine_layers.py). has_weights: see GraphWriter.
    """
    check_ranges(model, ranges)
    graph = GraphWriter(np.dtype(dtype), ranges, flat_linears, has_weights)
    onnx_type = helper.np_dtype_to_tensor_dtype(graph.dtype)
    x = INPUT if onnx_type == TensorProto.FLOAT else graph.node("Cast", [INPUT], "images/cast", to=onnx_type)
    for index, conv in enumerate(model.stem):
        if index:
            x = graph.node("Gelu", [x], f"stem.{index - 1}/gelu")
        x = graph.conv(x, f"stem.{index}", conv)
    x = graph.nhwc(x)
    for index, stage in enumerate(model.stages):
        prefix = f"stages.{index}"
        tables = [graph.floating(f"{prefix}.sin", stage.sin), graph.floating(f"{prefix}.cos", stage.cos)]
        decay = stage.decay.tolist()
        grid = stage_grid(index, model.height, model.width)
        stream = _Stream(x)
        for number, block in enumerate(stage.blocks):
            stream = _write_block(graph, stream, f"{prefix}.blocks.{number}", block, grid, tables, decay)
        x = graph.true_values(stream.x, stream.vectors, f"{prefix}/fc2")
        if stream.residual is not None:
            x = graph.node("Add", [x, stream.residual], f"{prefix}/sum")
        if stage.downsample is not None:
            x = graph.nhwc(graph.conv(graph.nchw(x), f"{prefix}.downsample", stage.downsample))
    logits = _write_head(graph, x, model)
    quantized = sum(node.op_type == "QuantizeLinear" for node in graph.nodes)
    assert quantized == sum(not key.endswith(".weight_amax") for key in ranges), "a range of something not in the graph"
    if onnx_type == TensorProto.FLOAT:
        graph.node("Identity", [logits], OUTPUT)
    else:
        graph.node("Cast", [logits], OUTPUT, to=TensorProto.FLOAT)
    batch = "batch"
    onnx_graph = helper.make_graph(
        graph.nodes,
        model.variant_name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, model.height, model.width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, model.num_classes])],
        list(graph.initializers.values()),
    )
    onnx_model = helper.make_model(
        onnx_graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=functions_of(graph.nodes, OPSET),
        ir_version=IR_VERSION,
        producer_name="rmt-edge",
        producer_version=__version__,
    )
    helper.set_model_props(onnx_model, metadata)
    return onnx_model


@dataclass(frozen=True)
class _Stream:
    """What a block reads and writes: x + residual, a sum that is left to the op that reads it.

    vectors: of an x that is a raw product. residual: None where x is all.
    """

    x: str
    vectors: Vectors = field(default_factory=list)
    residual: str | None = None


def _write_block(
    graph: GraphWriter,
    stream: _Stream,
    name: str,
    block: FoldedBlock,
    grid: tuple[int, int],
    tables: list[str],
    decay: list[float],
) -> _Stream:
    """FoldedBlock.forward as nodes.

    In FP16 fc2's bias is added to the residual, where an addition is under way anyway. Where the sum has INT8 ranges,
    it is written out, and there is no residual.
    """
    norm = block.retention_layer_norm
    x, normed = graph.depthwise_residual_norm(stream.x, stream.vectors, stream.residual, f"{name}.pos", block.pos, norm)
    qkv, vectors = graph.product(normed, f"{name}.qkv", block.qkv, grid)
    lepe = block.lepe
    inputs = [qkv, *tables]
    inputs += [graph.floating(f"{name}.lepe.weight", lepe.weight), graph.floating(f"{name}.lepe.bias", lepe.bias)]
    inputs += vectors
    retained = f"{name}.retention"
    graph.nodes.append(
        retention_node(inputs, retained, retained, block.num_heads, decay, block.decomposed, lepe.weight.shape[0])
    )
    out, vectors = graph.product(retained, f"{name}.out_proj", block.out_proj, grid)
    x = graph.sum(x, graph.true_values(out, vectors, f"{name}.out_proj"), f"{name}.out_proj")
    is_summed, is_raw = graph.is_int8(f"{name}.fc2_sum"), graph.is_int8(f"{name}.fc2")
    residual = x
    if not (is_summed or is_raw):
        residual = graph.node("Add", [x, graph.bias(f"{name}.fc2", block.fc2)], f"{name}.fc2/biased_residual")
    normed = graph.layer_norm(x, f"{name}.final_layer_norm", block.final_layer_norm)
    hidden, vectors = graph.product(normed, f"{name}.fc1", block.fc1, grid)
    y = graph.gelu_depthwise_residual(hidden, vectors, f"{name}.fc1", f"{name}.dwconv", block.dwconv)
    if not (is_summed or is_raw):
        return _Stream(graph.linear(y, f"{name}.fc2", block.fc2, grid, has_bias=False), residual=residual)
    out, vectors = graph.product(y, f"{name}.fc2", block.fc2, grid)
    if is_summed:
        return _Stream(graph.sum(x, graph.true_values(out, vectors, f"{name}.fc2"), f"{name}.fc2"))
    return _Stream(out, vectors, residual)


def functions_of(nodes: Iterable[NodeProto], opset: int) -> list[FunctionProto]:
    """The bodies, in operators of that opset, of the op types of rmt_edge that the nodes use."""
    used = {node.op_type for node in nodes if node.domain == DOMAIN}
    bodies = [retention.retention_function(op_type, opset) for op_type in retention.OP_TYPES if op_type in used]
    bodies += [depthwise.depthwise_function(op_type, opset) for op_type in depthwise.OP_TYPES if op_type in used]
    assert used == {body.name for body in bodies}, used
    return bodies


def _write_head(graph: GraphWriter, x: str, model: FoldedRMT) -> str:
    """From the last tokens (b, h, w, c) to the logits (b, num_classes), in the graph's type."""
    axes = graph.constant("token_axes", np.array([1, 2], np.int64))
    grid = stage_grid(3, model.height, model.width)
    hidden = graph.linear(x, "proj", model.proj, grid)
    hidden = graph.node("Mul", [hidden, graph.node("Sigmoid", [hidden], "proj/sigmoid")], "proj/silu")
    pooled = graph.node("ReduceMean", [hidden, axes], "proj/mean", keepdims=0)
    logits = graph.linear(pooled, "head", model.head, None)
    if model.aux_head is None:
        return logits
    per_token = graph.linear(x, "aux_head", model.aux_head, grid)
    largest = graph.node("ReduceMax", [per_token, axes], "aux_head/max", keepdims=0)
    half = graph.constant("aux_head/half", np.array(0.5, graph.dtype))
    return graph.node("Add", [logits, graph.node("Mul", [largest, half], "aux_head/scaled")], "head/sum")
