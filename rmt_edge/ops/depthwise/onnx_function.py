"""DepthwiseResidual as ONNX model-local functions: the bodies that its `rmt_edge` nodes carry.

They do the same arithmetic as ops/depthwise/op.py in standard operators, so that ONNX Runtime runs an exported file on
any CPU and TensorRT can run it natively. There are twelve op names, one for each combination of choices that RMT has,
which are read off the name:

    [Scaled[Gelu]][Add]DepthwiseResidual[Norm][Int8]
                                           Scaled: x is the raw product of an INT8 layer (ops/product.py), Gelu: of
                                           whose true values the GELU is taken; Add: a residual is added first; Norm: a
                                           LayerNorm follows, as a second output; Int8: the last output is quantised

One name with optional inputs would be smaller, and no runtime takes it (measured with ONNX Runtime 1.32 and the parser
of TensorRT-RTX 1.7.1). Both check a body in whole before they fold an `If` on an attribute: the `Add` of an absent
residual is an invalid node, branches of float and int8 are a type error. Overloads, made for this in ONNX IR version
10, run in ONNX Runtime; the TensorRT parser looks functions up by name alone. In the plugin form of a model the bodies
are gone and the names are the same; x may be int8 there, with its input_scale as an attribute.

Source of the operators: https://onnx.ai/onnx/operators/ ; of functions: the ONNX IR specification, "Functions".
"""

import itertools
import math
import textwrap
from typing import Any, NamedTuple

import onnx
from onnx import FunctionProto, NodeProto

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.retention.onnx_function import DOMAIN, TRUE_VALUES, same_size_conv

KERNEL_SIZE = 3  # of every convolution of RMT that this op stands for: `pos` and `dwconv` of model/folded.py

# The scale has the element type of x, as QuantizeLinear demands in opset 19.
_QUANTIZE = """
    scale_float = Constant <value_float: float = @output_scale> ()
    scale = CastLike (scale_float, x)
    zero_point = Constant <value = int8 {0}> ()
    quantized = QuantizeLinear (LAST, scale, zero_point)
"""

_BODY = """
<domain: "rmt_edge", opset_import: ["" : {opset}]>
{op_type} <{attributes}> ({inputs}) => ({outputs})
{{
    {values}
    {gelu}
    y = {sum}
    y_nchw = Transpose <perm = [0, 3, 1, 2]> (y)
    tap_axis = Constant <value_ints = [3]> ()
    taps = Unsqueeze (weight, tap_axis)
    conv_weight = Transpose <perm = [2, 3, 0, 1]> (taps)
    conv_nchw = Conv <{conv_attributes}, group: int = @channels> (y_nchw, conv_weight, bias)
    conv = Transpose <perm = [0, 2, 3, 1]> (conv_nchw)
    out = Add (y, conv)
    {norm}
{quantize}
}}
"""
_NORM = "norm = LayerNormalization <axis = -1, epsilon: float = @epsilon> (out, norm_weight, norm_bias)"


class Form(NamedTuple):
    """What one op name says. Without is_scaled there is no has_gelu."""

    has_residual: bool = False
    has_norm: bool = False
    is_int8: bool = False
    is_scaled: bool = False
    has_gelu: bool = False

    @property
    def inputs(self) -> list[str]:
        """The names of its inputs, in their order."""
        norm = ["norm_weight", "norm_bias"] * self.has_norm
        return [
            "x",
            "weight",
            "bias",
            *["residual"] * self.has_residual,
            *norm,
            *["x_scale", "x_bias"] * self.is_scaled,
        ]


def op_type_of(
    has_residual: bool, has_norm: bool, is_int8: bool, is_scaled: bool = False, has_gelu: bool = False
) -> str:
    """The op name of a form, as `AddDepthwiseResidualNormInt8`."""
    before = "Scaled" * is_scaled + "Gelu" * has_gelu + "Add" * has_residual
    return before + "DepthwiseResidual" + "Norm" * has_norm + "Int8" * is_int8


_FORMS = [Form(*choice) for choice in itertools.product((False, True), repeat=3)]
# What follows fc1, and what follows fc2.
_FORMS += [Form(is_int8=x, is_scaled=True, has_gelu=True) for x in (False, True)]
_FORMS += [Form(has_residual=True, has_norm=True, is_int8=x, is_scaled=True) for x in (False, True)]
OP_TYPES = {op_type_of(*form): form for form in _FORMS}


def depthwise_function(op_type: str, opset: int, kernel_size: int = KERNEL_SIZE) -> FunctionProto:
    """The body of one of OP_TYPES in operators of that opset: 19 or later, with GELU 20.

    kernel_size: k of the weight. It is written into the body: the weight there is computed from the (k, k, c) taps, and
    TensorRT 10.3 does not look at the shape of a computed weight.
    """
    if op_type not in OP_TYPES:
        raise RmtEdgeError(f"{op_type} is no DepthwiseResidual op.", f"there are {', '.join(OP_TYPES)}.")
    form = OP_TYPES[op_type]
    outputs = ["out", "norm"] if form.has_norm else ["out"]
    quantize = _QUANTIZE.replace("LAST", outputs[-1])
    gelu, read = ("activated = Gelu (x)", "activated") if form.has_gelu else ("", "x")
    body = _BODY.format(
        opset=opset,
        op_type=op_type,
        conv_attributes=same_size_conv(kernel_size),
        attributes=", ".join(["channels"] + ["epsilon"] * form.has_norm + ["output_scale"] * form.is_int8),
        inputs=", ".join(["product", *form.inputs[1:]] if form.is_scaled else form.inputs),
        outputs=", ".join([*outputs[:-1], "quantized"] if form.is_int8 else outputs),
        values=TRUE_VALUES.format(x="x", raw="product") if form.is_scaled else "",
        gelu=gelu,
        sum=f"Add ({read}, residual)" if form.has_residual else f"Identity ({read})",
        norm=_NORM if form.has_norm else "",
        quantize=quantize if form.is_int8 else "",
    )
    return onnx.parser.parse_function(textwrap.dedent(body))


def depthwise_node(
    inputs: list[str],
    outputs: list[str],
    name: str,
    channels: int,
    epsilon: float | None = None,
    output_scale: float = 0.0,
    is_scaled: bool = False,
    has_gelu: bool = False,
) -> NodeProto:
    """One node of OP_TYPES, chosen by what is given.

    inputs: the names of x (b, h, w, c), weight (k, k, c), bias (c,); then residual (b, h, w, c), if there is one; then,
    with norm, norm_weight and norm_bias (c,); then, with is_scaled, x_scale and x_bias (c,). outputs: the names of out
    (b, h, w, c) and, with norm, norm (b, h, w, c). is_scaled: x is a raw product; has_gelu: its GELU is taken too.
    channels: c again, because a function body can set its convolution's group from an attribute only. epsilon: the
    LayerNorm's, or None for no norm. output_scale: 0, or the scale that makes the last output INT8; a DequantizeLinear
    of the same scale is to follow.
    """
    has_norm, is_int8 = epsilon is not None, output_scale > 0
    required = 3 + 2 * has_norm + 2 * is_scaled
    if len(inputs) not in (required, required + 1) or len(outputs) != 1 + has_norm:
        raise RmtEdgeError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs.",
            f"{'with' if has_norm else 'without'} a LayerNorm, {'with' if is_scaled else 'without'} scale and bias "
            f"of x, it takes {required}, or {required + 1} with a residual, and gives {1 + has_norm}.",
        )
    if not (math.isfinite(output_scale) and output_scale >= 0):
        raise RmtEdgeError(f"{name} has the output_scale {output_scale}.", "0 means none, an INT8 scale is positive.")
    if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
        raise RmtEdgeError(f"{name} has the epsilon {epsilon}.", "a LayerNorm's epsilon is positive.")
    attributes: dict[str, Any] = {"channels": channels}
    if epsilon is not None:
        attributes["epsilon"] = float(epsilon)
    if is_int8:
        attributes["output_scale"] = float(output_scale)
    op_type = op_type_of(len(inputs) > required, has_norm, is_int8, is_scaled, has_gelu)
    if op_type not in OP_TYPES:
        raise RmtEdgeError(f"{name} would be {op_type}.", f"there are {', '.join(OP_TYPES)}.")
    return onnx.helper.make_node(op_type, inputs, outputs, name, domain=DOMAIN, **attributes)
