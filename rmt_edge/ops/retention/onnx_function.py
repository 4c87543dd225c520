"""Retention as two ONNX model-local functions: the bodies that an exported file's `rmt_edge` nodes carry.

They do the same arithmetic as ops/retention/op.py in standard operators, for any grid, head count and element type, so
that ONNX Runtime runs an exported file on any CPU and TensorRT can run it natively. One body serves every node of its
op name: sizes come from the inputs' shapes, the rest from the node's attributes; a runtime folds all of it into
constants.

There is one op name a form, RetentionDecomposed and RetentionWhole, as a model has blocks of both, and each of them
again as Scaled…, which takes the raw product of an INT8 layer and two vectors more (ops/product.py). One body would
have to choose by an `If` on an attribute, of which TensorRT makes real conditional layers (90 of 1,725 in the network
of a small model, measured with TensorRT-RTX 1.7.1), and its parser looks functions up by name alone, so that overloads
are no way out. In the plugin form of a model, where there are no bodies, all are `Retention` with the attribute
`decomposed` (graph/plugin_form.py): the library's one creator, which takes every form; qkv may be int8 there, with its
input_scale as an attribute.

Source of the operators: https://onnx.ai/onnx/operators/ ; of functions: the ONNX IR specification, "Functions".
"""

import textwrap

import onnx
from onnx import FunctionProto, NodeProto

from rmt_edge.errors import RmtEdgeError

DOMAIN = "rmt_edge"
DOMAIN_VERSION = 1
OP_TYPE = "Retention"  # of the plugin, for all forms
# Of nodes with a body -> decomposed, and whether qkv is a raw product.
OP_TYPES = {
    "RetentionDecomposed": (True, False),
    "RetentionWhole": (False, False),
    "ScaledRetentionDecomposed": (True, True),
    "ScaledRetentionWhole": (False, True),
}
INPUTS = ["qkv", "sin", "cos", "lepe_weight", "lepe_bias"]
VECTORS = ["qkv_scale", "qkv_bias"]  # further inputs of the Scaled ones
LEPE_KERNEL_SIZE = 5  # of the convolution in every block of RMT: model/folded.py

# θ(x) = x·cos + (-x1, x0, -x3, x2, …)·sin; x: (b, n, l, d), its interleaved pairs seen as (b, n, l, d/2, 2).
_THETA_SHIFT = """
    {x}_pairs = Reshape ({x}_flat, pairs_shape)
    {x}_even, {x}_odd = Split <axis = 4, num_outputs = 2> ({x}_pairs)
    {x}_minus_odd = Neg ({x}_odd)
    {x}_rotated_pairs = Concat <axis = 4> ({x}_minus_odd, {x}_even)
    {x}_flat_shape = Shape ({x}_flat)
    {x}_rotated = Reshape ({x}_rotated_pairs, {x}_flat_shape)
    {x}_cos = Mul ({x}_flat, cos)
    {x}_sin = Mul ({x}_rotated, sin)
    {x} = Add ({x}_cos, {x}_sin)
"""

# softmax(q·kᵀ + decay·distance)·v over rows of `length` tokens; q, k, v: (b, rows, n, length, d).
# Constants are float32 until CastLike brings them to the element type of the inputs.
_ATTENTION = """
    {out}_key = Transpose <perm = [0, 1, 2, 4, 3]> ({k})
    {out}_scores = MatMul ({q}, {out}_key)
    {out}_decayed = Mul (decay, {distance})
    {out}_mask = CastLike ({out}_decayed, qkv)
    {out}_masked = Add ({out}_scores, {out}_mask)
    {out}_weights = Softmax <axis = -1> ({out}_masked)
    {out} = MatMul ({out}_weights, {v})
"""

_BODY = """
<domain: "rmt_edge", opset_import: ["" : {opset}]>
{op_type} <num_heads, decay, channels> ({inputs}) => (out)
{{
{true_values}
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    three = Constant <value_ints = [3]> ()
    all = Constant <value_ints = [-1]> ()
    scalar_zero = Constant <value_int = 0> ()
    scalar_one = Constant <value_int = 1> ()
    heads_scalar = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_scalar, one)
    h = Shape <start = 1, end = 2> (qkv)
    w = Shape <start = 2, end = 3> (qkv)
    c3 = Shape <start = 3, end = 4> (qkv)
    c = Div (c3, three)
    l = Mul (h, w)

    packed_shape = Concat <axis = 0> (zero, l, three, heads, all)
    packed = Reshape (qkv, packed_shape)
    split_first = Transpose <perm = [2, 0, 3, 1, 4]> (packed)
    q_one, k_one, v_one = Split <axis = 0, num_outputs = 3> (split_first)
    q_flat = Squeeze (q_one, zero)
    k_flat = Squeeze (k_one, zero)
    v = Squeeze (v_one, zero)
    pairs_shape = Constant <value_ints = [0, 0, 0, -1, 2]> ()
{q_shift}{k_shift}
    decay_flat = Constant <value_floats: floats = @decay> ()
    decay_shape = Concat <axis = 0> (heads, one, one)
    decay = Reshape (decay_flat, decay_shape)
    h_scalar = Squeeze (h)
    w_scalar = Squeeze (w)
    y = Range (scalar_zero, h_scalar, scalar_one)
    x = Range (scalar_zero, w_scalar, scalar_one)
    y_row = Unsqueeze (y, zero)
    y_column = Unsqueeze (y, one)
    y_signed = Sub (y_column, y_row)
    y_absolute = Abs (y_signed)
    y_distance = Cast <to = 1> (y_absolute)
    x_row = Unsqueeze (x, zero)
    x_column = Unsqueeze (x, one)
    x_signed = Sub (x_column, x_row)
    x_absolute = Abs (x_signed)
    x_distance = Cast <to = 1> (x_absolute)

{form}
    out_shape = Concat <axis = 0> (zero, h, w, c)
    attended_out = Reshape (attended, out_shape)

    values_start = Mul (c, two)
    values = Slice (qkv, values_start, c3, three)
    values_nchw = Transpose <perm = [0, 3, 1, 2]> (values)
    lepe_nchw = Conv <{conv}, group: int = @channels> (values_nchw, lepe_weight, lepe_bias)
    lepe = Transpose <perm = [0, 2, 3, 1]> (lepe_nchw)
    out = Add (attended_out, lepe)
}}
"""

# What ops/product.py does, of a product that is dequantised already, if it was int8.
TRUE_VALUES = """
    {x}_scaled = Mul ({raw}, {x}_scale)
    {x} = Add ({x}_scaled, {x}_bias)
"""

_DECOMPOSED = """
    grid_shape = Concat <axis = 0> (zero, heads, h, w, all)
    q_grid = Reshape (q, grid_shape)
    k_grid = Reshape (k, grid_shape)
    v_grid = Reshape (v, grid_shape)
    q_rows = Transpose <perm = [0, 2, 1, 3, 4]> (q_grid)
    k_rows = Transpose <perm = [0, 2, 1, 3, 4]> (k_grid)
    v_rows = Transpose <perm = [0, 2, 1, 3, 4]> (v_grid)
{w_pass}
    q_columns = Transpose <perm = [0, 3, 1, 2, 4]> (q_grid)
    k_columns = Transpose <perm = [0, 3, 1, 2, 4]> (k_grid)
    v_columns = Transpose <perm = [0, 3, 2, 1, 4]> (w_pass)
{h_pass}
    attended = Transpose <perm = [0, 3, 1, 2, 4]> (h_pass)
"""

_WHOLE = """
    y_pairs_axes = Constant <value_ints = [1, 3]> ()
    x_pairs_axes = Constant <value_ints = [0, 2]> ()
    y_pairs = Unsqueeze (y_distance, y_pairs_axes)
    x_pairs = Unsqueeze (x_distance, x_pairs_axes)
    pairs = Add (y_pairs, x_pairs)
    square = Concat <axis = 0> (l, l)
    distance = Reshape (pairs, square)
    q_whole = Unsqueeze (q, one)
    k_whole = Unsqueeze (k, one)
    v_whole = Unsqueeze (v, one)
{whole}
    attended = Transpose <perm = [0, 1, 3, 2, 4]> (whole)
"""


def op_type_of(decomposed: bool, is_scaled: bool) -> str:
    """The op name of a form among OP_TYPES."""
    return next(name for name, form in OP_TYPES.items() if form == (decomposed, is_scaled))


def retention_function(op_type: str, opset: int, kernel_size: int = LEPE_KERNEL_SIZE) -> FunctionProto:
    """The body of one of OP_TYPES in operators of that opset (19 or later).

    kernel_size: k of lepe_weight. It is written into the body, because its weight may be computed, and TensorRT 10.3
    does not look at the shape of such a weight.
    """
    if op_type not in OP_TYPES:
        raise RmtEdgeError(f"{op_type} is no Retention op.", f"there are {', '.join(OP_TYPES)}.")
    attention = [("w_pass", "rows", "x_distance"), ("h_pass", "columns", "y_distance"), ("whole", "whole", "distance")]
    passes = {
        out: _ATTENTION.format(out=out, q=f"q_{x}", k=f"k_{x}", v=f"v_{x}", distance=distance)
        for out, x, distance in attention
    }
    shifts = {f"{x}_shift": _THETA_SHIFT.format(x=x) for x in "qk"}
    decomposed, is_scaled = OP_TYPES[op_type]
    raw = "qkv_product" if is_scaled else "qkv"
    body = _BODY.format(
        opset=opset,
        op_type=op_type,
        inputs=", ".join([raw, *INPUTS[1:], *(VECTORS if is_scaled else [])]),
        true_values=TRUE_VALUES.format(x="qkv", raw=raw) if is_scaled else "",
        conv=same_size_conv(kernel_size),
        form=(_DECOMPOSED if decomposed else _WHOLE).format(**passes),
        **shifts,
    )
    return onnx.parser.parse_function(textwrap.dedent(body))


def same_size_conv(kernel_size: int) -> str:
    """The attributes of a convolution of stride 1 and odd kernel size that keeps height and width, as ONNX text."""
    return f'auto_pad = "SAME_UPPER", kernel_shape = [{kernel_size}, {kernel_size}]'


def retention_node(
    inputs: list[str], output: str, name: str, num_heads: int, decay: list[float], decomposed: bool, channels: int
) -> NodeProto:
    """One node of OP_TYPES, chosen by `decomposed` and the number of inputs.

    inputs: the names of qkv (b, h, w, 3c), sin (h·w, d), cos (h·w, d), lepe_weight (c, 1, k, k), lepe_bias (c,); then,
    if qkv is a raw product, of qkv_scale and qkv_bias (3c,). channels is c again: a function body can set its
    convolution's group from an attribute only.
    """
    counts = (len(INPUTS), len(INPUTS) + len(VECTORS))
    if len(inputs) not in counts:
        raise RmtEdgeError(
            f"{name} has {len(inputs)} inputs.", f"it takes {counts[0]}, or {counts[1]} where qkv is a raw product."
        )
    return onnx.helper.make_node(
        op_type_of(decomposed, len(inputs) == counts[1]), inputs, [output], name, domain=DOMAIN,
        num_heads=num_heads, decay=[float(x) for x in decay], channels=channels,
    )  # fmt: skip
