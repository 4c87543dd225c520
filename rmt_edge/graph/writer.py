"""GraphWriter: nodes and initialisers of an ONNX graph, in FP16 or FP32, with Q/DQ where a layer has INT8 ranges.

What an INT8 layer becomes: Q/DQ with one scale on its input, an INT8 initialiser for its weight with a DequantizeLinear
of one scale per output channel or one in all (opset 19 semantics); the operator itself stays what it was. A Linear
layer of a block becomes a raw product: one scale for its weight, no bias, Q/DQ behind it where its output has a range,
and two vectors that make the true values of it, which go to the op that reads it (ops/product.py). Ranges are named as
in quantization/calibrate.py.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rmt_edge.model.folded import Ranges
from rmt_edge.model.layers import OUTPUT, is_product
from rmt_edge.ops.depthwise.onnx_function import KERNEL_SIZE, depthwise_node
from rmt_edge.ops.depthwise.op import taps_from_conv_weight
from rmt_edge.quantization.formats import along_axis, int8_of, product_scales, scale_of

# The names of a raw product's scale and bias, (c,) each; none where a tensor holds true values.
Vectors = list[str]


@dataclass
class GraphWriter:
    """Nodes and initialisers of one graph in one floating-point type.

    A method adds nodes and returns the name of the tensor they make. has_weights: False leaves the weights' values out,
    so that a graph takes no time nor memory to write whose costs alone are asked for.
    """

    dtype: np.dtype
    ranges: Ranges
    flat_linears: bool
    has_weights: bool = True
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initialiser, once per name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def floating(self, name: str, value: Tensor) -> str:
        """An initialiser in the graph's floating-point type."""
        if not self.has_weights:
            return self.without_values(name, list(value.shape), self.dtype)
        return self.constant(name, value.detach().numpy().astype(self.dtype))

    def without_values(self, name: str, shape: list[int], dtype: npt.DTypeLike) -> str:
        """An initialiser of which type and shape alone are known, once per name."""
        data_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.initializers.setdefault(name, TensorProto(name=name, dims=shape, data_type=data_type))
        return name

    def int8_steps(self, name: str, weight: Tensor, scale: np.ndarray) -> str:
        """An INT8 initialiser of a weight in steps of a scale."""
        if not self.has_weights:
            return self.without_values(f"{name}.weight_int8", list(weight.shape), np.int8)
        return self.constant(f"{name}.weight_int8", int8_of(weight.detach().numpy(), scale))

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

    def is_int8(self, name: str) -> bool:
        """Whether a layer, or as `<layer>_sum` the addition behind it, has INT8 ranges."""
        return f"{name}.weight_amax" in self.ranges or f"{name}.left_amax" in self.ranges

    def has_fused_depthwise(self, name: str) -> bool:
        """Whether x + conv(x) is one rmt_edge node: that op is floating-point inside, so only where neither is INT8."""
        return not (self.is_int8(name) or self.is_int8(f"{name}_sum"))

    def gelu_depthwise_residual(self, product: str, vectors: Vectors, source: str, name: str, conv: nn.Conv2d) -> str:
        """x + conv(x), x = GELU(what the layer `source` writes): one node, or standard operators where it has INT8.

        The GELU is in the node too where there is a raw product. Elsewhere TensorRT makes it with the matrix product.
        """
        if vectors and self.has_fused_depthwise(name):
            inputs = [product, *self.taps(name, conv), *vectors]
            self.nodes.append(depthwise_node(inputs, [name], name, conv.groups, is_scaled=True, has_gelu=True))
            return name
        x = self.node("Gelu", [self.true_values(product, vectors, source)], f"{source}/gelu")
        return self.depthwise_residual(x, name, conv)

    def depthwise_residual(self, x: str, name: str, conv: nn.Conv2d) -> str:
        """x + conv(x) of an NHWC tensor: one node, or standard operators where it has INT8 in it."""
        if not self.has_fused_depthwise(name):
            return self.sum(x, self.nhwc(self.conv(self.nchw(x), name, conv)), name)
        self.nodes.append(depthwise_node([x, *self.taps(name, conv)], [name], name, conv.groups))
        return name

    def depthwise_residual_norm(
        self, x: str, vectors: Vectors, residual: str | None, name: str, conv: nn.Conv2d, norm: nn.LayerNorm
    ) -> tuple[str, str]:
        """y + conv(y) with y = x + residual, and its LayerNorm: one node with two outputs, or standard operators.

        vectors: of an x that is a raw product, beside which there is a residual.
        """
        if not self.has_fused_depthwise(name):
            x = self.true_values(x, vectors, f"{name}/read")
            y = x if residual is None else self.node("Add", [x, residual], f"{name}/residual")
            y = self.depthwise_residual(y, name, conv)
            return y, self.layer_norm(y, f"{name}.norm", norm)
        inputs = [x, *self.taps(name, conv)] + ([] if residual is None else [residual])
        inputs += [self.floating(f"{name}.norm_weight", norm.weight), self.floating(f"{name}.norm_bias", norm.bias)]
        outputs = [name, f"{name}/norm"]
        self.nodes.append(
            depthwise_node([*inputs, *vectors], outputs, name, conv.groups, epsilon=norm.eps, is_scaled=bool(vectors))
        )
        return outputs[0], outputs[1]

    def taps(self, name: str, conv: nn.Conv2d) -> list[str]:
        """The names of weight (k, k, c) and bias (c,) of a depthwise convolution, k what the ops' bodies have."""
        assert conv.kernel_size == (KERNEL_SIZE, KERNEL_SIZE), (name, conv.kernel_size)
        weight = taps_from_conv_weight(conv.weight)
        return [self.floating(f"{name}.weight", weight), self.floating(f"{name}.bias", conv.bias)]

    def conv(self, x: str, name: str, conv: nn.Conv2d) -> str:
        """A convolution of an NCHW tensor, in INT8 where the layer has ranges."""
        if self.is_int8(name):
            x = self.quantize_dequantize(x, name)
            weight = self.int8_weight(name, conv.weight, axis=0)
        else:
            weight = self.floating(f"{name}.weight", conv.weight)
        inputs = [x, weight, self.floating(f"{name}.bias", conv.bias)]
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
        if self.is_int8(name):
            x = self.quantize_dequantize(x, name)
            weight = self.int8_weight(name, linear.weight.T, axis=1)
        else:
            weight = self.floating(f"{name}.weight", linear.weight.T)
        bias = [self.bias(name, linear)] if has_bias else []
        if grid is None:
            return self.node("Gemm", [x, weight, *bias], name)
        if self.flat_linears:
            return self.flat_product(x, weight, bias, name, linear, grid)
        product = self.node("MatMul", [x, weight], f"{name}/product" if has_bias else name)
        return self.node("Add", [product, *bias], name) if has_bias else product

    def flat_product(
        self, x: str, weight: str, bias: list[str], name: str, linear: nn.Linear, grid: tuple[int, int]
    ) -> str:
        """x·W + bias as a Gemm of two axes between two Reshapes. (b, h, w, in) -> (b, h, w, out)."""
        rows = self.constant(f"rows/{linear.in_features}", np.array([-1, linear.in_features], np.int64))
        x = self.node("Reshape", [x, rows], f"{name}/rows")
        product = self.node("Gemm", [x, weight, *bias], f"{name}/product")
        shape = self.constant(f"{name}/shape", np.array([-1, *grid, linear.out_features], np.int64))
        return self.node("Reshape", [product, shape], name)

    def product(self, x: str, name: str, linear: nn.Linear, grid: tuple[int, int]) -> tuple[str, Vectors]:
        """What a Linear layer of a block writes: in INT8 a raw product and its vectors, else true values and none.

        x: (b, h, w, in), h and w of the grid. Where the output has a range, a Q/DQ rounds the product.
        """
        assert is_product(name), name
        if not self.is_int8(name):
            return self.linear(x, name, linear, grid), []
        x = self.quantize_dequantize(x, name)
        scale, multiples = product_scales(self.ranges[f"{name}.weight_amax"], self.dtype)
        multiples = np.broadcast_to(multiples, (linear.out_features,))
        steps = self.int8_steps(name, linear.weight.T, scale.astype(np.float32) * multiples.astype(np.float32))
        inputs = [steps, self.constant(f"{name}.weight_scale", scale)]
        weight = self.node("DequantizeLinear", inputs, f"{name}.weight")
        if self.flat_linears:
            product = self.flat_product(x, weight, [], name, linear, grid)
        else:
            product = self.node("MatMul", [x, weight], name)
        if f"{name}{OUTPUT}.product_amax" in self.ranges:
            product = self.quantize_dequantize(product, f"{name}{OUTPUT}", "product")
        return product, [self.constant(f"{name}.multiples", multiples), self.bias(name, linear)]

    def true_values(self, product: str, vectors: Vectors, name: str) -> str:
        """What a raw product stands for, in standard operators; the tensor itself where it is none."""
        if not vectors:
            return product
        scaled = self.node("Mul", [product, vectors[0]], f"{name}/scaled")
        return self.node("Add", [scaled, vectors[1]], f"{name}/true")

    def bias(self, name: str, linear: nn.Linear) -> str:
        """A Linear layer's bias."""
        return self.floating(f"{name}.bias", linear.bias)

    def sum(self, left: str, right: str, name: str) -> str:
        """left + right, what came past a layer and what came out of it; both by Q/DQ where the addition has ranges."""
        if self.is_int8(f"{name}_sum"):
            left = self.quantize_dequantize(left, f"{name}_sum", "left")
            right = self.quantize_dequantize(right, f"{name}_sum", "right")
        return self.node("Add", [left, right], f"{name}/sum")

    def quantize_dequantize(self, x: str, name: str, side: str = "input") -> str:
        """Q/DQ with one scale: of a layer's input, or of an addition's `left` or `right`."""
        scale = self.constant(f"{name}.{side}_scale", scale_of(self.ranges[f"{name}.{side}_amax"], self.dtype))
        zero = self.constant("int8_zero", np.zeros((), np.int8))
        prefix = name if side == "input" else f"{name}/{side}"
        quantized = self.node("QuantizeLinear", [x, scale, zero], f"{prefix}/quantized")
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{prefix}/dequantized")

    def int8_weight(self, name: str, weight: Tensor, axis: int) -> str:
        """An INT8 initialiser and its DequantizeLinear. axis: of the output channels, which may have a scale each."""
        scale = scale_of(self.ranges[f"{name}.weight_amax"], self.dtype)  # (out,) or ()
        steps = self.int8_steps(name, weight, along_axis(scale, axis, weight.ndim))
        inputs = [steps, self.constant(f"{name}.weight_scale", scale)]
        return self.node("DequantizeLinear", inputs, f"{name}.weight", **({"axis": axis} if scale.ndim else {}))
