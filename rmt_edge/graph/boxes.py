"""Boxes as nodes, always in float32: what model/boxes.py computes, one function here for one there.

Anchors travel as their centres and sizes, (cx, cy, w, h), since that is what decoding reads. A row of predictions is
gathered before it is decoded, so that nothing is computed for anchors that do not go on.
"""

import numpy as np
import torch
from onnx import TensorProto, helper

from rmt_edge.graph.network import INPUT
from rmt_edge.graph.pyramid import Map
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.boxes import (
    CANDIDATES,
    MAX_DETECTIONS,
    MAX_LOG_RATIO,
    NMS_IOU,
    SCORE_THRESHOLD,
    AnchorShape,
    anchors_of,
)
from rmt_edge.model.spec import BOXES, COUNT, LABELS, SCORES
from rmt_edge.ops.nms.onnx_function import nms_node


def float_constant(graph: GraphWriter, name: str, value: np.ndarray | float) -> str:
    """An initialiser in float32, whatever the graph's type is."""
    return graph.constant(name, np.asarray(value, np.float32))


def integers(graph: GraphWriter, *values: int) -> str:
    """A constant list of integers: a shape, axes, or where a slice begins."""
    return graph.constant(f"integers/{'_'.join(map(str, values))}", np.array(values, np.int64))


def to_float(graph: GraphWriter, x: str, name: str) -> str:
    """In float32."""
    return x if graph.dtype == np.float32 else graph.node("Cast", [x], name, to=TensorProto.FLOAT)


def sliced(graph: GraphWriter, x: str, start: int, end: int, name: str) -> str:
    """x[..., start:end]."""
    return graph.node("Slice", [x, integers(graph, start), integers(graph, end), integers(graph, -1)], name)


def write_limits(graph: GraphWriter, height: int, width: int) -> str:
    """picture_sizes as limits of x1, y1, x2, y2: (b, 1, 4) of w, h, w, h."""
    magnitude = graph.node("Abs", [INPUT], "sizes/magnitude")
    sides = {}
    for name, other, side in (("h", 3, height), ("w", 2, width)):
        largest = graph.node("ReduceMax", [magnitude, integers(graph, 1, other)], f"sizes/{name}/largest", keepdims=0)
        zero = float_constant(graph, "zero", 0.0)
        seen = graph.node("Greater", [largest, zero], f"sizes/{name}/seen")  # (b, side)
        number = float_constant(graph, f"sizes/{name}/numbers", np.arange(1, side + 1))
        seen_number = graph.node("Where", [seen, number, zero], f"sizes/{name}/seen_number")
        sides[name] = graph.node("ReduceMax", [seen_number, integers(graph, 1)], f"sizes/{name}", keepdims=1)
    limits = graph.node("Concat", [sides[x] for x in "whwh"], "sizes/whwh", axis=1)
    return graph.node("Unsqueeze", [limits, integers(graph, 1)], "sizes/limits")


def write_rows(graph: GraphWriter, x: Map, columns: int, name: str) -> str:
    """flat_predictions, in the graph's type. (b, k·columns, h, w) -> (b, h·w·k, columns)."""
    shape = integers(graph, 0, -1, columns)
    return graph.node("Reshape", [graph.nhwc(x.name), shape], name)


def write_gathered(graph: GraphWriter, x: str, indices: str, columns: int, name: str) -> str:
    """rows_of. x: (b, n, columns); indices: (b, k). -> (b, k, columns)."""
    column = graph.node("Unsqueeze", [indices, integers(graph, 2)], f"{name}/column")
    spread = graph.node("Expand", [column, integers(graph, 1, 1, columns)], f"{name}/spread")
    return graph.node("GatherElements", [x, spread], name, axis=1)


def write_topk(graph: GraphWriter, x: str, count: int, name: str) -> tuple[str, str]:
    """The greatest values of the last of two axes and their places, (b, count) each."""
    outputs = [name, f"{name}/indices"]
    graph.nodes.append(helper.make_node("TopK", [x, integers(graph, count)], outputs, name, axis=1))
    return outputs[0], outputs[1]


def write_anchors(graph: GraphWriter, shape: AnchorShape, level: int, grid: tuple[int, int], indices: str) -> str:
    """The anchors of a level at those places, as centres and sizes. (b, k) -> (b, k, 4)."""
    corners = anchors_of(shape, level, *grid)
    low, high = corners[:, :2], corners[:, 2:]
    centred = torch.cat([(low + high) * 0.5, high - low], dim=1).numpy()
    return graph.node(
        "Gather", [float_constant(graph, f"anchors.{level}", centred), indices], f"anchors.{level}/chosen"
    )


def write_centred(graph: GraphWriter, boxes: str, name: str) -> str:
    """Corners to centres and sizes. (…, 4) -> (…, 4)."""
    low, high = (sliced(graph, boxes, x, x + 2, f"{name}/corner.{x}") for x in (0, 2))
    total = graph.node("Add", [low, high], f"{name}/total")
    centre = graph.node("Mul", [total, float_constant(graph, "half", 0.5)], f"{name}/centre")
    return graph.node("Concat", [centre, graph.node("Sub", [high, low], f"{name}/size")], f"{name}/centred", axis=-1)


def write_decoded(
    graph: GraphWriter, anchors: str, deltas: str, stds: tuple[float, ...], limits: str, name: str
) -> str:
    """decoded. anchors, of centres and sizes, and deltas: (b, k, 4). -> (b, k, 4)."""
    centre, size = (sliced(graph, anchors, x, x + 2, f"{name}/anchor.{x}") for x in (0, 2))
    if set(stds) != {1.0}:
        deltas = graph.node("Mul", [deltas, float_constant(graph, f"stds/{stds}", stds)], f"{name}/scaled")
    shift, growth = (sliced(graph, deltas, x, x + 2, f"{name}/delta.{x}") for x in (0, 2))
    moved = graph.node("Add", [centre, graph.node("Mul", [shift, size], f"{name}/moved")], f"{name}/new_centre")
    bounds = [float_constant(graph, f"log_ratio/{sign}", sign * MAX_LOG_RATIO) for sign in (-1, 1)]
    factor = graph.node("Exp", [graph.node("Clip", [growth, *bounds], f"{name}/growth")], f"{name}/factor")
    half_size = graph.node("Mul", [size, float_constant(graph, "half", 0.5)], f"{name}/half_size")
    half = graph.node("Mul", [half_size, factor], f"{name}/new_half")
    ends = [graph.node(op, [moved, half], f"{name}/{op}") for op in ("Sub", "Add")]
    corners = graph.node("Concat", ends, f"{name}/corners", axis=-1)
    positive = graph.node("Max", [corners, float_constant(graph, "zero", 0.0)], f"{name}/positive")
    return graph.node("Min", [positive, limits], name)


def write_candidates(graph: GraphWriter, scores: str, rows: int, classes: int) -> tuple[str, str, str, str]:
    """The best pairs of a box and a class: scores, places among all pairs, rows and labels, (b, k) each; labels int32.

    scores: (b, rows, classes).
    """
    flat = graph.node("Reshape", [scores, integers(graph, 0, -1)], "candidates/scores")
    best, order = write_topk(graph, flat, min(CANDIDATES, rows * classes), "candidates")
    count = integers(graph, classes)
    row = graph.node("Div", [order, count], "candidates/rows")
    label = graph.node("Sub", [order, graph.node("Mul", [row, count], "candidates/first")], "candidates/labels")
    return best, order, row, graph.node("Cast", [label], "candidates/ids", to=TensorProto.INT32)


def write_detections(graph: GraphWriter, boxes: str, scores: str, labels: str, candidates: int) -> int:
    """detections, of candidates that are chosen already, as outputs of the model; returns how many rows they have."""
    most = min(MAX_DETECTIONS, candidates)
    outputs = [BOXES, SCORES, LABELS, COUNT]
    graph.nodes.append(nms_node([boxes, scores, labels], outputs, "detections", NMS_IOU, SCORE_THRESHOLD, most))
    return most
