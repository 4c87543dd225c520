"""Nms as an ONNX model-local function: the body that its `rmt_edge` nodes carry.

It does the same arithmetic as ops/nms/op.py in standard operators, so that ONNX Runtime runs an exported file on any
CPU and TensorRT can run it natively: `NonMaxSuppression` has shapes that depend on data, and TensorRT-RTX 1.7.1 builds
no engine with it.

Greedy suppression without order: with M the boxes that come before another and overlap it too much, the boxes kept are
the one solution of  keep = candidates and not any(M · keep). Iterated from all candidates, the k-th step is right for
all boxes at the end of a chain of at most k boxes, each suppressed but for the one before it; steps turn by turn keep
too many and too few. A `Loop` goes on until nothing changes, so the result is exact whatever the boxes: 5 steps in the
median of random boxes, one step a box for a row of boxes in which each overlaps the next and scores fall along the row
(tests/ops/nms/test_onnx_function.py). A fixed number of steps would not be exact. TensorRT-RTX 1.7.1 builds the Loop.

Memory: several matrices of n · n numbers, 4 bytes each, for each image: 93 MB for n = 4819. The plugin needs n · n
bits.

Source of the operators: https://onnx.ai/onnx/operators/ ; of functions: the ONNX IR specification, "Functions". TopK
takes the lower index first where scores are equal, says ONNX; that TensorRT's does is not known.
"""

import math
import textwrap

import onnx
from onnx import FunctionProto, NodeProto

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.retention.onnx_function import DOMAIN

OP_TYPE = "Nms"
OUTPUTS = 4  # boxes, scores, ids, count

_BODY = """
<domain: "rmt_edge", opset_import: ["" : {opset}]>
Nms <iou_threshold, score_threshold, max_outputs> (boxes, scores, ids) => (out_boxes, out_scores, out_ids, count)
{{
    score_limit = Constant <value_float: float = @score_threshold> ()
    iou_limit = Constant <value_float: float = @iou_threshold> ()
    outputs_scalar = Constant <value_int: int = @max_outputs> ()
    zero_axis = Constant <value_ints = [0]> ()
    one_axis = Constant <value_ints = [1]> ()
    last_axis = Constant <value_ints = [-1]> ()
    box_axes = Constant <value_ints = [1, 2]> ()
    zero = Constant <value_float = 0.0> ()
    one = Constant <value_float = 1.0> ()
    half = Constant <value_float = 0.5> ()
    is_candidate = Greater (scores, score_limit)
    is_candidate_box = Unsqueeze (is_candidate, last_axis)
    candidate_boxes = Where (is_candidate_box, boxes, zero)
    largest = ReduceMax <keepdims = 1> (candidate_boxes, box_axes)
    pitch = Add (largest, one)
    ids_float = Cast <to = 1> (ids)
    ids_column = Unsqueeze (ids_float, last_axis)
    shift = Mul (ids_column, pitch)
    shifted = Add (boxes, shift)

    x1, y1, x2, y2 = Split <axis = 2, num_outputs = 4> (shifted)
    w = Sub (x2, x1)
    h = Sub (y2, y1)
    area = Mul (w, h)
    x1_row = Transpose <perm = [0, 2, 1]> (x1)
    y1_row = Transpose <perm = [0, 2, 1]> (y1)
    x2_row = Transpose <perm = [0, 2, 1]> (x2)
    y2_row = Transpose <perm = [0, 2, 1]> (y2)
    area_row = Transpose <perm = [0, 2, 1]> (area)
    left = Max (x1, x1_row)
    right = Min (x2, x2_row)
    across = Sub (right, left)
    shared_w = Relu (across)
    top = Max (y1, y1_row)
    bottom = Min (y2, y2_row)
    down = Sub (bottom, top)
    shared_h = Relu (down)
    shared = Mul (shared_w, shared_h)
    areas = Add (area, area_row)
    union = Sub (areas, shared)
    iou = Div (shared, union)
    is_overlap = Greater (iou, iou_limit)

    score_column = Unsqueeze (scores, last_axis)
    score_row = Unsqueeze (scores, one_axis)
    is_better = Greater (score_column, score_row)
    is_equal = Equal (score_column, score_row)
    n = Shape <start = 1, end = 2> (scores)
    n_scalar = Squeeze (n)
    start = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    index = Range (start, n_scalar, step)
    index_column = Unsqueeze (index, last_axis)
    index_row = Unsqueeze (index, zero_axis)
    is_earlier = Less (index_column, index_row)
    is_equal_earlier = And (is_equal, is_earlier)
    is_before = Or (is_better, is_equal_earlier)
    is_rival = And (is_overlap, is_before)
    rivals = Cast <to = 1> (is_rival)

    candidate = Cast <to = 1> (is_candidate)
    candidates = Unsqueeze (candidate, one_axis)
    truth = Constant <value = bool {{1}}> ()
    keep = Loop (n_scalar, truth, candidates) <body = suppress (int64 step_index, bool goes_on, float[b, 1, m] kept)
        => (bool changed, float[b, 1, m] next)
    {{
        betters = MatMul (kept, rivals)
        is_free = Less (betters, half)
        free = Cast <to = 1> (is_free)
        next = Mul (free, candidates)
        difference = Sub (next, kept)
        distance = Abs (difference)
        most = ReduceMax <keepdims = 0> (distance)
        changed = Greater (most, half)
    }}>

    kept = Squeeze (keep, one_axis)
    is_kept = Greater (kept, half)
    worst = Constant <value_float = -3.4028234663852886e38> ()
    kept_scores = Where (is_kept, scores, worst)
    outputs = Reshape (outputs_scalar, one_axis)
    top_scores, top_index = TopK <axis = 1> (kept_scores, outputs)
    kept_float = ReduceSum <keepdims = 0> (kept, one_axis)
    kept_count = Cast <to = 6> (kept_float)
    outputs_int = Cast <to = 6> (outputs_scalar)
    count = Min (kept_count, outputs_int)
    row = Range (start, outputs_scalar, step)
    row_int = Cast <to = 6> (row)
    row_first = Unsqueeze (row_int, zero_axis)
    count_column = Unsqueeze (count, last_axis)
    is_given = Less (row_first, count_column)
    out_scores = Where (is_given, top_scores, zero)
    top_ids = GatherElements <axis = 1> (ids, top_index)
    padding_id = Constant <value = int32 {{-1}}> ()
    out_ids = Where (is_given, top_ids, padding_id)
    box_index = Unsqueeze (top_index, last_axis)
    box_shape = Constant <value_ints = [1, 1, 4]> ()
    box_indices = Expand (box_index, box_shape)
    top_boxes = GatherElements <axis = 1> (boxes, box_indices)
    is_given_box = Unsqueeze (is_given, last_axis)
    out_boxes = Where (is_given_box, top_boxes, zero)
}}
"""


def nms_function(opset: int) -> FunctionProto:
    """The body in operators of that opset (19 or later)."""
    return onnx.parser.parse_function(textwrap.dedent(_BODY.format(opset=opset)))


def nms_node(
    inputs: list[str], outputs: list[str], name: str, iou_threshold: float, score_threshold: float, max_outputs: int
) -> NodeProto:
    """One Nms node.

    inputs: the names of boxes (b, n, 4) and scores (b, n), both float32 whatever the rest of the graph is, and ids
    (b, n), int32. outputs: the names of boxes (b, m, 4), scores (b, m), ids (b, m), int32, and count (b,), int32.
    max_outputs: m, at most n; TensorRT's TopK ends at 3840. What the numbers mean is in op.py.
    """
    if len(inputs) != 3 or len(outputs) != OUTPUTS:
        raise RmtEdgeError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs.",
            "Nms takes boxes, scores and ids, and gives boxes, scores, ids and count.",
        )
    if not (0 <= iou_threshold <= 1):
        raise RmtEdgeError(f"{name} has the iou_threshold {iou_threshold}.", "it is 0 to 1.")
    if not math.isfinite(score_threshold):
        raise RmtEdgeError(f"{name} has the score_threshold {score_threshold}.", "for none, take -1.")
    if max_outputs < 1:
        raise RmtEdgeError(f"{name} has the max_outputs {max_outputs}.", "it is 1 or more.")
    return onnx.helper.make_node(
        OP_TYPE, inputs, outputs, name, domain=DOMAIN,
        iou_threshold=float(iou_threshold), score_threshold=float(score_threshold), max_outputs=int(max_outputs),
    )  # fmt: skip
