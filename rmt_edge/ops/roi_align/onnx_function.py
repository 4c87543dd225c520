"""MultiLevelRoiAlign as an ONNX model-local function: the body that its `rmt_edge` nodes carry.

It does the same arithmetic as ops/roi_align/op.py in standard operators, so that ONNX Runtime runs an exported file on
any CPU and TensorRT can run it natively: the operator `RoiAlign` of TensorRT-RTX 1.7.1 does not parse without a GPU,
and knows one level and one map.

A region's samples depend on its size, so their number is no shape of a graph. The form here needs none of them: on each
axis every pixel counts in a bin by the sum of the tents of at most TENTS samples that reach it, since samples are more
than half a pixel apart where a bin has more than one. That gives (s, h) and (s, w) weights, exact for any region. Then
the `window` pixels from a region's corner on are gathered, and one MatMul of (s·s, window) by (window, c) is the
result. `window_pixels` says how many pixels suffice for every region; no region of levels P2 to P4 is larger than 28·28
pixels in area (a larger one is read from a coarser level), but it may be long and thin.

Memory: n · window · c elements of the features' type, at 1000 regions and 256 channels 1.1 GB in float32 for pictures
of 256×320 (window 1040), 1.7 GB for 800×1344 (window 1680); and s·s · n · window float32. The plugin needs none.

Source of the operators: https://onnx.ai/onnx/operators/ ; of functions: the ONNX IR specification, "Functions".
"""

import textwrap

import onnx
from onnx import FunctionProto, NodeProto

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.retention.onnx_function import DOMAIN
from rmt_edge.ops.roi_align.op import FINEST_SCALE, LEVEL_EPSILON

OP_TYPE = "MultiLevelRoiAlign"
LEVELS = 4
# Samples that can reach one pixel: they lie in an interval of 2 pixels, more than half a pixel apart, which is 4; and
# one more, because the first is found by a rounded division.
TENTS = 5
LARGEST_AREA = 784  # pixels of its level that a region of P2 to P4 covers at most: (2 · 56 / 4)²
LEVELS_OF_BOUNDED_AREA = 3  # all but the last

# (N, s, rows) weights of one axis. `start`, `end`: (N, 1) in pixels of the level; `size`: (N, 1), of its map, float;
# `pixel`: (1, 1, rows, 1). The order of the arithmetic is that of op.py.
_AXIS = """
    {a}_start_scaled = Mul ({a}1, scale)
    {a}_start = Sub ({a}_start_scaled, half)
    {a}_end_scaled = Mul ({a}2, scale)
    {a}_end = Sub ({a}_end_scaled, half)
    {a}_extent = Sub ({a}_end, {a}_start)
    {a}_bin = Div ({a}_extent, bins_float)
    {a}_ceil = Ceil ({a}_bin)
    {a}_samples = Relu ({a}_ceil)
    {a}_divisor = Max ({a}_samples, one)
    {a}_bin_3d = Unsqueeze ({a}_bin, last_axis)
    {a}_start_3d = Unsqueeze ({a}_start, last_axis)
    {a}_bin_offset = Mul (bin_index, {a}_bin_3d)
    {a}_bin_start_3d = Add ({a}_start_3d, {a}_bin_offset)
    {a}_bin_start = Unsqueeze ({a}_bin_start_3d, last_axis)
    {a}_bin_4d = Unsqueeze ({a}_bin_3d, last_axis)
    {a}_samples_3d = Unsqueeze ({a}_samples, last_axis)
    {a}_samples_4d = Unsqueeze ({a}_samples_3d, last_axis)
    {a}_divisor_3d = Unsqueeze ({a}_divisor, last_axis)
    {a}_divisor_4d = Unsqueeze ({a}_divisor_3d, last_axis)
    {a}_size_3d = Unsqueeze ({a}_size, last_axis)
    {a}_size_4d = Unsqueeze ({a}_size_3d, last_axis)
    {a}_last_4d = Sub ({a}_size_4d, one)

    {a}_spacing_raw = Div ({a}_bin_4d, {a}_divisor_4d)
    {a}_has_samples = Greater ({a}_samples_4d, zero)
    {a}_spacing = Where ({a}_has_samples, {a}_spacing_raw, one)
    {a}_map_size = Shape <start = {map_axis}, end = {map_axis_end}> (p2)
    {a}_map_scalar = Squeeze ({a}_map_size)
    {a}_pixels_scalar = Add ({a}_map_scalar, scalar_one)
    {a}_pixels = Range (scalar_zero, {a}_pixels_scalar, scalar_one)
    {a}_pixels_float = Cast <to = 1> ({a}_pixels)
    {a}_pixel = Reshape ({a}_pixels_float, pixel_shape)
    {a}_reach = Sub ({a}_pixel, one)
    {a}_reach_from = Sub ({a}_reach, {a}_bin_start)
    {a}_first_real = Div ({a}_reach_from, {a}_spacing)
    {a}_first_shifted = Sub ({a}_first_real, half)
    {a}_first_floor = Floor ({a}_first_shifted)
    {a}_first = Relu ({a}_first_floor)
    {a}_sample = Add ({a}_first, tent_index)
    {a}_sample_middle = Add ({a}_sample, half)
    {a}_sample_bins = Mul ({a}_sample_middle, {a}_bin_4d)
    {a}_inside = Div ({a}_sample_bins, {a}_divisor_4d)
    {a}_position = Add ({a}_bin_start, {a}_inside)
    {a}_is_sample = Less ({a}_sample, {a}_samples_4d)
    {a}_is_right = GreaterOrEqual ({a}_position, minus_one)
    {a}_is_left = LessOrEqual ({a}_position, {a}_size_4d)
    {a}_is_on_map = And ({a}_is_right, {a}_is_left)
    {a}_counts = And ({a}_is_sample, {a}_is_on_map)
    {a}_position_low = Max ({a}_position, zero)
    {a}_position_clamped = Min ({a}_position_low, {a}_last_4d)
    {a}_offset = Sub ({a}_pixel, {a}_position_clamped)
    {a}_distance = Abs ({a}_offset)
    {a}_tent_raw = Sub (one, {a}_distance)
    {a}_tent_positive = Relu ({a}_tent_raw)
    {a}_tent = Where ({a}_counts, {a}_tent_positive, zero)
    {a}_sum = ReduceSum <keepdims = 0> ({a}_tent, last_axis)
    {a}_weights = Div ({a}_sum, {a}_divisor_3d)

    {a}_limit = Sub ({a}_size, one)
    {a}_start_floor = Floor ({a}_start)
    {a}_start_low = Max ({a}_start_floor, zero)
    {a}_corner = Min ({a}_start_low, {a}_limit)
"""

_LEVEL = """
    {p}_shape = Shape <start = 1, end = 3> ({p})
    {p}_h_int, {p}_w_int = Split <axis = 0, num_outputs = 2> ({p}_shape)
    {p}_pixels = Mul ({p}_h_int, {p}_w_int)
    {p}_h = Cast <to = 1> ({p}_h_int)
    {p}_w = Cast <to = 1> ({p}_w_int)
    {p}_flat_shape = Concat <axis = 0> (zero_axis, last_axis, channels)
    {p}_flat = Reshape ({p}, {p}_flat_shape)
"""

# What a region has of its own level: (N, 1). Levels 1, 2, 3 begin at a scale of 2, 4, 8.
_BY_LEVEL = """
    {name}_01 = Where (is_level_1, {x1}, {x0})
    {name}_012 = Where (is_level_2, {x2}, {name}_01)
    {name} = Where (is_level_3, {x3}, {name}_012)
"""

_BODY = """
<domain: "rmt_edge", opset_import: ["" : {opset}]>
MultiLevelRoiAlign <output_size, window> (p2, p3, p4, p5, rois) => (out)
{{
    scalar_zero = Constant <value_int = 0> ()
    scalar_one = Constant <value_int = 1> ()
    zero_axis = Constant <value_ints = [0]> ()
    one_axis = Constant <value_ints = [1]> ()
    two_axis = Constant <value_ints = [2]> ()
    last_axis = Constant <value_ints = [-1]> ()
    minus_one = Constant <value_float = -1.0> ()
    zero = Constant <value_float = 0.0> ()
    half = Constant <value_float = 0.5> ()
    one = Constant <value_float = 1.0> ()
    bins_scalar = Constant <value_int: int = @output_size> ()
    bins = Reshape (bins_scalar, one_axis)
    bins_float = Cast <to = 1> (bins)
    bin_range = Range (scalar_zero, bins_scalar, scalar_one)
    bin_range_float = Cast <to = 1> (bin_range)
    bin_shape = Constant <value_ints = [1, -1, 1]> ()
    bin_index = Reshape (bin_range_float, bin_shape)
    pixel_shape = Constant <value_ints = [1, 1, -1, 1]> ()
    tent_index = Constant <value_floats = [{tents}]> ()
    channels = Shape <start = 3, end = 4> (p2)
{levels}
    all_pixels = Concat <axis = 1> (p2_flat, p3_flat, p4_flat, p5_flat)
    rows_shape = Concat <axis = 0> (last_axis, channels)
    pixel_rows = Reshape (all_pixels, rows_shape)

    roi_shape = Constant <value_ints = [-1, 4]> ()
    roi = Reshape (rois, roi_shape)
    x1, y1, x2, y2 = Split <axis = 1, num_outputs = 4> (roi)
    roi_w = Sub (x2, x1)
    roi_h = Sub (y2, y1)
    area = Mul (roi_w, roi_h)
    area_positive = Relu (area)
    side = Sqrt (area_positive)
    finest = Constant <value_float = {finest_scale}> ()
    level_epsilon = Constant <value_float = {level_epsilon}> ()
    side_scaled = Div (side, finest)
    level_scale = Add (side_scaled, level_epsilon)
    two = Constant <value_float = 2.0> ()
    four = Constant <value_float = 4.0> ()
    eight = Constant <value_float = 8.0> ()
    is_level_1 = GreaterOrEqual (level_scale, two)
    is_level_2 = GreaterOrEqual (level_scale, four)
    is_level_3 = GreaterOrEqual (level_scale, eight)
    scale_0 = Constant <value_float = 0.25> ()
    scale_1 = Constant <value_float = 0.125> ()
    scale_2 = Constant <value_float = 0.0625> ()
    scale_3 = Constant <value_float = 0.03125> ()
    before_p3 = Identity (p2_pixels)
    before_p4 = Add (before_p3, p3_pixels)
    before_p5 = Add (before_p4, p4_pixels)
    pixels_of_image = Add (before_p5, p5_pixels)
{by_level}
{y_axis}
{x_axis}
    y_end_low = Max (y_end, zero)
    y_end_clamped = Min (y_end_low, y_limit)
    x_end_low = Max (x_end, zero)
    x_end_clamped = Min (x_end_low, x_limit)
    x_end_floor = Floor (x_end_clamped)
    x_far_raw = Add (x_end_floor, one)
    x_far = Min (x_far_raw, x_limit)
    window_w_less_one = Sub (x_far, x_corner)
    window_w_raw = Add (window_w_less_one, one)
    window_w = Max (window_w_raw, one)

    window_scalar = Constant <value_int: int = @window> ()
    window_range = Range (scalar_zero, window_scalar, scalar_one)
    window_float = Cast <to = 1> (window_range)
    window_half = Add (window_float, half)
    window_middle = Unsqueeze (window_half, zero_axis)
    row_real = Div (window_middle, window_w)
    row_in_window = Floor (row_real)
    pixels_of_rows = Mul (row_in_window, window_w)
    window_index = Unsqueeze (window_float, zero_axis)
    column_in_window = Sub (window_index, pixels_of_rows)
    row_free = Add (y_corner, row_in_window)
    row_float = Min (row_free, y_size)
    column_float = Add (x_corner, column_in_window)
    row = Cast <to = 7> (row_float)
    column = Cast <to = 7> (column_float)

    row_3d = Unsqueeze (row, one_axis)
    column_3d = Unsqueeze (column, one_axis)
    bin_ones = Concat <axis = 0> (one_axis, bins, one_axis)
    row_index = Expand (row_3d, bin_ones)
    column_index = Expand (column_3d, bin_ones)
    row_weights_3d = GatherElements <axis = 2> (y_weights, row_index)
    column_weights_3d = GatherElements <axis = 2> (x_weights, column_index)
    row_weights = Unsqueeze (row_weights_3d, two_axis)
    column_weights = Unsqueeze (column_weights_3d, one_axis)
    pixel_weights_4d = Mul (row_weights, column_weights)
    squares = Mul (bins, bins)
    weights_shape = Concat <axis = 0> (zero_axis, squares, last_axis)
    pixel_weights_float = Reshape (pixel_weights_4d, weights_shape)
    pixel_weights = CastLike (pixel_weights_float, p2)

    rois_shape = Shape <start = 0, end = 2> (rois)
    images, regions = Split <axis = 0, num_outputs = 2> (rois_shape)
    images_scalar = Squeeze (images)
    image_range = Range (scalar_zero, images_scalar, scalar_one)
    image_column = Unsqueeze (image_range, last_axis)
    image_pixels = Mul (image_column, pixels_of_image)
    image_shape = Concat <axis = 0> (one_axis, regions)
    image_pixels_by_region = Expand (image_pixels, image_shape)
    column_shape = Concat <axis = 0> (last_axis, one_axis)
    image_start = Reshape (image_pixels_by_region, column_shape)
    map_start = Add (image_start, level_start)
    row_on_map = Min (row_free, y_limit)
    row_on_map_int = Cast <to = 7> (row_on_map)
    map_w = Cast <to = 7> (x_size)
    row_start = Mul (row_on_map_int, map_w)
    pixel_on_map = Add (row_start, column)
    pixel_index = Add (map_start, pixel_on_map)
    pixels = Gather <axis = 0> (pixel_rows, pixel_index)
    pooled = MatMul (pixel_weights, pixels)
    out_shape = Concat <axis = 0> (last_axis, bins, bins, channels)
    out = Reshape (pooled, out_shape)
}}
"""


def roi_align_function(opset: int) -> FunctionProto:
    """The body in operators of that opset (19 or later)."""
    names = [f"p{level}" for level in range(2, 2 + LEVELS)]
    own = {"scale": [f"scale_{i}" for i in range(LEVELS)], "y_size": [f"{p}_h" for p in names]}
    own |= {"x_size": [f"{p}_w" for p in names], "level_start": ["zero_axis", "before_p3", "before_p4", "before_p5"]}
    by_level = [_BY_LEVEL.format(name=name, x0=x0, x1=x1, x2=x2, x3=x3) for name, (x0, x1, x2, x3) in own.items()]
    body = _BODY.format(
        opset=opset,
        tents=", ".join(f"{i}.0" for i in range(TENTS)),
        finest_scale=float(FINEST_SCALE),
        level_epsilon=f"{LEVEL_EPSILON:.10f}",
        levels="".join(_LEVEL.format(p=p) for p in names),
        by_level="".join(by_level),
        y_axis=_AXIS.format(a="y", map_axis=1, map_axis_end=2),
        x_axis=_AXIS.format(a="x", map_axis=2, map_axis_end=3),
    )
    return onnx.parser.parse_function(textwrap.dedent(body))


def window_pixels(maps: list[tuple[int, int]]) -> int:
    """How many pixels of its level the window of any region covers at most.

    maps: (h, w) of P2 to P5, the largest of them where they are dynamic. A region of extent e on an axis, cut to the
    map, touches at most ceil(e) + 2 pixels there. So one that touches r rows is more than r - 3 pixels high, and less
    than LARGEST_AREA / (r - 3) wide, but on the coarsest level.
    """
    most = maps[-1][0] * maps[-1][1]
    for h, w in maps[:LEVELS_OF_BOUNDED_AREA]:
        for rows in range(1, h + 1):
            height = rows - 3
            columns = w if height <= 0 else min(w, -(-LARGEST_AREA // height) + 2)
            most = max(most, rows * columns)
    return most


def roi_align_node(
    inputs: list[str], output: str, name: str, output_size: int, maps: list[tuple[int, int]]
) -> NodeProto:
    """One MultiLevelRoiAlign node.

    inputs: the names of p2 to p5 (b, h_i, w_i, c), NHWC, all of one type, and rois (b, n, 4), float32 whatever the rest
    of the graph is. output: the name of (b·n, s, s, c), NHWC, s the output_size. maps: (h, w) of p2 to p5, the largest
    where they are dynamic; the attribute `window` comes from them, which the body needs and the plugin does not.
    """
    if len(inputs) != LEVELS + 1 or len(maps) != LEVELS:
        raise RmtEdgeError(
            f"{name} has {len(inputs)} inputs and {len(maps)} maps.", "it takes p2 to p5 and rois, and four maps."
        )
    if output_size < 1:
        raise RmtEdgeError(f"{name} has the output_size {output_size}.", "it is 1 or more.")
    return onnx.helper.make_node(
        OP_TYPE, inputs, [output], name, domain=DOMAIN, output_size=output_size, window=window_pixels(maps)
    )
