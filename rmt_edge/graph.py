"""The deployment form as an ONNX graph, written node by node.

Precision lives in the graph: FP16 or FP32 tensors, INT8 weights, Q/DQ around the quantised Linear layers (opset 19
semantics). Each block's attention is one `rmt_edge::Retention` node, each depthwise convolution with its residual one
`rmt_edge::DepthwiseResidual…` node, both with function bodies of standard operators (retention/onnx_function.py,
depthwise/onnx_function.py). Images and logits are float32 in every precision. Nodes carry the module's name:
`stages.0.blocks.1.fc1`.

Why not torch.onnx: its exporters fail on fake quantisers (dynamo) or are deprecated (TorchScript), keep INT8 weights in
floating point with a Q node behind them, and number their nodes. The network has one shape; writing it down takes less
than mending their output, and every file is compared with PyTorch before it is used (export.py).
"""

from dataclasses import dataclass, field

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rmt_edge import __version__
from rmt_edge.depthwise.onnx_function import OP_TYPES, depthwise_function, depthwise_node
from rmt_edge.depthwise.op import taps_from_conv_weight
from rmt_edge.model.deploy import DeployedBlock, DeployedRMT
from rmt_edge.model.rmt import stage_grid
from rmt_edge.retention.onnx_function import DOMAIN, DOMAIN_VERSION, retention_function, retention_node

OPSET = 20  # the first with Gelu as one operator; FP16 scales of Q/DQ need 19
IR_VERSION = 10  # of ONNX 1.16: read by ONNX Runtime from 1.18 and TensorRT from 10.3
INPUT, OUTPUT = "images", "logits"
INT8_MAX = 127.0
# The smallest normal FP16 number. A smaller scale would lose its own digits; a weight below it changes no FP16 sum.
MIN_SCALE = 2.0**-14

Ranges = dict[str, Tensor]


@dataclass
class GraphWriter:
    """Nodes and initialisers of one graph in one floating-point type.

    A method adds nodes and returns the name of the tensor they make.
    """

    dtype: np.dtype
    ranges: Ranges
    flat_linears: bool
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initialiser, once per name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def floating(self, name: str, value: Tensor) -> str:
        """An initialiser in the graph's floating-point type."""
        return self.constant(name, value.detach().numpy().astype(self.dtype))

    def node(self, op_type: str, inputs: list[str], output: str, **attributes) -> str:
        """One node with one output, of which it bears the name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def nchw(self, x: str) -> str:
        """(b, h, w, c) -> (b, c, h, w)."""
        return self.node("Transpose", [x], f"{x}/nchw", perm=[0, 3, 1, 2])

    def nhwc(self, x: str) -> str:
        """(b, c, h, w) -> (b, h, w, c)."""
        return self.node("Transpose", [x], f"{x}/nhwc", perm=[0, 2, 3, 1])

    def depthwise_residual(self, x: str, name: str, conv: nn.Conv2d) -> str:
        """x + conv(x) of an NHWC tensor as one node."""
        self.nodes.append(depthwise_node([x, *self.taps(name, conv)], [name], name, conv.groups))
        return name

    def depthwise_residual_norm(
        self, x: str, residual: str | None, name: str, conv: nn.Conv2d, norm: nn.LayerNorm
    ) -> tuple[str, str]:
        """y + conv(y) with y = x + residual, and its LayerNorm, as one node with two outputs."""
        inputs = [x, *self.taps(name, conv)] + ([] if residual is None else [residual])
        inputs += [self.floating(f"{name}.norm_weight", norm.weight), self.floating(f"{name}.norm_bias", norm.bias)]
        outputs = [name, f"{name}/norm"]
        self.nodes.append(depthwise_node(inputs, outputs, name, conv.groups, epsilon=norm.eps))
        return outputs[0], outputs[1]

    def taps(self, name: str, conv: nn.Conv2d) -> list[str]:
        """Weight (k, k, c) and bias (c,) of a depthwise convolution."""
        weight = taps_from_conv_weight(conv.weight)
        return [self.floating(f"{name}.weight", weight), self.floating(f"{name}.bias", conv.bias)]

    def conv(self, x: str, name: str, conv: nn.Conv2d) -> str:
        """A convolution of an NCHW tensor."""
        inputs = [x, self.floating(f"{name}.weight", conv.weight), self.floating(f"{name}.bias", conv.bias)]
        (pad_h, pad_w) = conv.padding
        return self.node(
            "Conv", inputs, name, group=conv.groups, strides=list(conv.stride),
            pads=[pad_h, pad_w, pad_h, pad_w], kernel_shape=list(conv.kernel_size),
        )  # fmt: skip

    def layer_norm(self, x: str, name: str, norm: nn.LayerNorm) -> str:
        """LayerNorm over the channels as one node; its statistics are float32 (stash_type 1, the default)."""
        inputs = [x, self.floating(f"{name}.weight", norm.weight), self.floating(f"{name}.bias", norm.bias)]
        return self.node("LayerNormalization", inputs, name, axis=-1, epsilon=norm.eps)

    def linear(self, x: str, name: str, linear: nn.Linear, grid: tuple[int, int] | None, has_bias: bool = True) -> str:
        """x·Wᵀ + bias over the last axis, in INT8 where the layer has ranges. W lies as (in, out).

        grid: (h, w) of x (b, h, w, in), or None where x is (b, in).
        """
        if f"{name}.weight_amax" in self.ranges:
            x = self.quantize_dequantize(x, name)
            weight = self.int8_weight(name, linear)
        else:
            weight = self.floating(f"{name}.weight", linear.weight.T)
        bias = [self.bias(name, linear)] if has_bias else []
        if grid is None:
            return self.node("Gemm", [x, weight, *bias], name)
        if self.flat_linears:
            rows = self.constant(f"rows/{linear.in_features}", np.array([-1, linear.in_features], np.int64))
            x = self.node("Reshape", [x, rows], f"{name}/rows")
            product = self.node("Gemm", [x, weight, *bias], f"{name}/product")
            shape = self.constant(f"{name}/shape", np.array([-1, *grid, linear.out_features], np.int64))
            return self.node("Reshape", [product, shape], name)
        product = self.node("MatMul", [x, weight], f"{name}/product" if has_bias else name)
        return self.node("Add", [product, *bias], name) if has_bias else product

    def bias(self, name: str, linear: nn.Linear) -> str:
        """A Linear layer's bias."""
        return self.floating(f"{name}.bias", linear.bias)

    def quantize_dequantize(self, x: str, name: str) -> str:
        """Q/DQ of a Linear layer's input with one scale."""
        scale = self.constant(f"{name}.input_scale", scale_of(self.ranges[f"{name}.input_amax"], self.dtype))
        zero = self.constant("int8_zero", np.zeros((), np.int8))
        quantized = self.node("QuantizeLinear", [x, scale, zero], f"{name}/quantized")
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{name}/dequantized")

    def int8_weight(self, name: str, linear: nn.Linear) -> str:
        """An INT8 initialiser (in, out) and its DequantizeLinear, one scale per output channel or one in all."""
        scale = scale_of(self.ranges[f"{name}.weight_amax"], self.dtype)  # (out,) or ()
        weight = int8_of(linear.weight.detach().numpy().T, scale)  # (in, out), the scale along its last axis
        inputs = [self.constant(f"{name}.weight_int8", weight), self.constant(f"{name}.weight_scale", scale)]
        axis = {"axis": 1} if scale.ndim else {}
        return self.node("DequantizeLinear", inputs, f"{name}.weight", **axis)


def scale_of(amax: Tensor, dtype: np.dtype) -> np.ndarray:
    """amax/127 in the graph's type, at least MIN_SCALE. One number for one range, (out,) for one per channel."""
    scale = np.maximum(amax.numpy().astype(np.float64) / INT8_MAX, MIN_SCALE).astype(dtype)
    return scale.reshape(()) if scale.size == 1 else scale


def int8_of(value: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """round(value/scale), half to even, within ±127."""
    return np.clip(np.rint(value / scale.astype(np.float32)), -INT8_MAX, INT8_MAX).astype(np.int8)


def onnx_from_deployed(
    model: DeployedRMT, dtype: np.dtype, ranges: Ranges, metadata: dict[str, str], flat_linears: bool = False
) -> ModelProto:
    """The ONNX model of a deployment form.

    dtype: float32 or float16, of everything but the images, the logits and the INT8 weights. ranges:
    `<layer>.weight_amax` and `<layer>.input_amax` of the layers to run in INT8. metadata: strings that travel in the
    file.

    flat_linears: write a Linear layer as a Gemm of two axes between two Reshapes instead of MatMul and Add of four. It
    is what the plugin form is made from: between plugins, TensorRT-RTX 1.7 gives a bias of four axes a kernel of its
    own; without plugins it is the Gemm that costs more layers (bench/engine_layers.py).
    """
    graph = GraphWriter(np.dtype(dtype), ranges, flat_linears)
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
        residual = None
        for number, block in enumerate(stage.blocks):
            x, residual = _write_block(graph, x, residual, f"{prefix}.blocks.{number}", block, grid, tables, decay)
        assert residual is not None, "a stage has at least one block"
        x = graph.node("Add", [x, residual], f"{prefix}/sum")
        if stage.downsample is not None:
            x = graph.nhwc(graph.conv(graph.nchw(x), f"{prefix}.downsample", stage.downsample))
    logits = _write_head(graph, x, model)
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
        functions=_functions_of(graph.nodes),
        ir_version=IR_VERSION,
        producer_name="rmt-edge",
        producer_version=__version__,
    )
    helper.set_model_props(onnx_model, metadata)
    return onnx_model


def _write_block(
    graph: GraphWriter,
    x: str,
    residual: str | None,
    name: str,
    block: DeployedBlock,
    grid: tuple[int, int],
    tables: list[str],
    decay: list[float],
) -> tuple[str, str]:
    """DeployedBlock.forward as nodes. The block's input is x + residual, and so is its output.

    The sum is left to the op that reads it. fc2's bias is added to the residual, where an addition is under way anyway,
    and not to the product, behind which TensorRT would need a kernel for it in INT8.
    """
    norm = block.retention_layer_norm
    x, normed = graph.depthwise_residual_norm(x, residual, f"{name}.pos", block.pos, norm)
    qkv = graph.linear(normed, f"{name}.qkv", block.qkv, grid)
    lepe = block.lepe
    inputs = [qkv, *tables]
    inputs += [graph.floating(f"{name}.lepe.weight", lepe.weight), graph.floating(f"{name}.lepe.bias", lepe.bias)]
    retained = f"{name}.retention"
    graph.nodes.append(
        retention_node(inputs, retained, retained, block.num_heads, decay, block.decomposed, lepe.weight.shape[0])
    )
    out = graph.linear(retained, f"{name}.out_proj", block.out_proj, grid)
    x = graph.node("Add", [x, out], f"{name}.out_proj/sum")
    residual = graph.node("Add", [x, graph.bias(f"{name}.fc2", block.fc2)], f"{name}.fc2/biased_residual")
    normed = graph.layer_norm(x, f"{name}.final_layer_norm", block.final_layer_norm)
    y = graph.node("Gelu", [graph.linear(normed, f"{name}.fc1", block.fc1, grid)], f"{name}.fc1/gelu")
    y = graph.depthwise_residual(y, f"{name}.dwconv", block.dwconv)
    return graph.linear(y, f"{name}.fc2", block.fc2, grid, has_bias=False), residual


def _functions_of(nodes: list[NodeProto]) -> list[FunctionProto]:
    """The bodies of the op types of rmt_edge that the nodes use."""
    used = {node.op_type for node in nodes if node.domain == DOMAIN}
    bodies = [depthwise_function(op_type, OPSET) for op_type in OP_TYPES if op_type in used]
    return [retention_function(OPSET), *bodies]


def _write_head(graph: GraphWriter, x: str, model: DeployedRMT) -> str:
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
