"""RetinaNet, Mask R-CNN and Cascade Mask R-CNN as nodes, from the images to boxes and masks.

model/retinanet.py and model/rcnn.py are what they are held to. Convolutions and fully connected layers are in the
graph's type, all from their predictions on in float32. Sizes are fixed.
"""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper
from torch import nn

from rmt_edge.graph.boxes import (
    float_constant,
    integers,
    sliced,
    to_float,
    write_anchors,
    write_candidates,
    write_centred,
    write_decoded,
    write_detections,
    write_gathered,
    write_limits,
    write_rows,
    write_topk,
)
from rmt_edge.graph.network import BATCH
from rmt_edge.graph.pyramid import Map, write_backbone, write_conv, write_fpn
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.boxes import CANDIDATES, PER_LEVEL, RETINANET_ANCHORS, RPN_ANCHORS
from rmt_edge.model.rcnn import (
    ANY_SCORE,
    BOX_BINS,
    MASK_BINS,
    PROPOSALS,
    ROI_LEVELS,
    RPN_IOU,
    RPN_STDS,
    STDS,
    CascadeMaskRCNN,
    MaskRCNN,
)
from rmt_edge.model.retinanet import STDS as RETINANET_STDS
from rmt_edge.model.retinanet import RetinaNet
from rmt_edge.model.spec import BOXES, COUNT, LABELS, MASKS, SCORES
from rmt_edge.ops.nms.onnx_function import nms_node
from rmt_edge.ops.roi_align.onnx_function import roi_align_node


def detector_outputs(rows: int, mask_side: int = 0) -> list[ValueInfoProto]:
    """The outputs of a detector; mask_side: of its masks, if it has any."""
    shapes: dict[str, tuple[int, list[str | int]]] = {
        BOXES: (TensorProto.FLOAT, [BATCH, rows, 4]),
        SCORES: (TensorProto.FLOAT, [BATCH, rows]),
        LABELS: (TensorProto.INT32, [BATCH, rows]),
        COUNT: (TensorProto.INT32, [BATCH]),
    }
    if mask_side:
        shapes[MASKS] = (TensorProto.FLOAT, [BATCH, rows, mask_side, mask_side])
    return [helper.make_tensor_value_info(name, *shape) for name, shape in shapes.items()]


def write_retinanet(graph: GraphWriter, model: RetinaNet) -> list[ValueInfoProto]:
    """Nodes from the images to boxes, scores, labels and count."""
    levels = write_fpn(graph, write_backbone(graph, model.backbone), model.neck)
    limits = write_limits(graph, model.backbone.height, model.backbone.width)
    boxes, logits, rows = [], [], 0
    for level, x in enumerate(levels):
        name = f"level.{level}"
        classified, located = _write_towers(graph, x, model.bbox_head, f"@{level}")
        of_classes = write_rows(graph, classified, model.num_classes, f"{name}/logits")  # (b, n, classes)
        largest = graph.node("ReduceMax", [of_classes, integers(graph, 2)], f"{name}/best_logit", keepdims=0)
        anchors = x.grid[0] * x.grid[1] * RETINANET_ANCHORS.per_cell
        count = min(PER_LEVEL, anchors)
        _, best = write_topk(graph, largest, count, f"{name}/best")  # the order of logits is that of scores
        chosen = write_gathered(graph, of_classes, best, model.num_classes, f"{name}/chosen_logits")
        logits.append(to_float(graph, chosen, f"{name}/float_logits"))
        deltas = write_gathered(graph, write_rows(graph, located, 4, f"{name}/rows"), best, 4, f"{name}/chosen_deltas")
        deltas = to_float(graph, deltas, f"{name}/deltas")
        at = write_anchors(graph, RETINANET_ANCHORS, level, x.grid, best)
        boxes.append(write_decoded(graph, at, deltas, RETINANET_STDS, limits, f"{name}/boxes"))
        rows += count
    all_logits = graph.node("Concat", logits, "all/logits", axis=1)
    scores = graph.node("Sigmoid", [all_logits], "all/scores")
    best, _, row, labels = write_candidates(graph, scores, rows, model.num_classes)
    all_boxes = graph.node("Concat", boxes, "all/boxes", axis=1)
    candidates = write_gathered(graph, all_boxes, row, 4, "candidates/boxes")
    return detector_outputs(
        write_detections(graph, candidates, best, labels, min(CANDIDATES, rows * model.num_classes))
    )


def _write_towers(graph: GraphWriter, x: Map, head: nn.Module, place: str) -> tuple[Map, Map]:
    """RetinaHead.forward of one level: the maps of class logits and of deltas."""
    outputs = []
    for tower, last in (("cls_convs", "retina_cls"), ("reg_convs", "retina_reg")):
        y = x
        for number, conv in enumerate(getattr(head, tower)):
            y = write_conv(graph, y, f"bbox_head.{tower}.{number}", conv, place)
        outputs.append(Map(graph.conv(y.name, f"bbox_head.{last}", getattr(head, last), place), y.grid))
    return outputs[0], outputs[1]


def write_rcnn(graph: GraphWriter, model: MaskRCNN) -> list[ValueInfoProto]:
    """Nodes from the images to boxes, scores, labels, count and masks, of Mask R-CNN and of the cascade."""
    levels = write_fpn(graph, write_backbone(graph, model.backbone), model.neck)
    limits = write_limits(graph, model.backbone.height, model.backbone.width)
    rois, objectness, count = _write_proposals(graph, levels, model.rpn_head, limits)
    regions = Regions(graph, levels[:ROI_LEVELS], model.widths.neck)
    is_cascade = isinstance(model, CascadeMaskRCNN)
    write: Callable = _write_cascade if is_cascade else _write_box_head
    rois, logits, deltas = write(graph, regions, rois, count, model.roi_head, limits)
    probabilities = graph.node("Softmax", [logits], "roi_head/probabilities", axis=-1)
    there = graph.node("Greater", [objectness, float_constant(graph, "zero", 0.0)], "proposals/is_there")
    there = graph.node("Cast", [there], "proposals/there", to=TensorProto.FLOAT)
    there = graph.node("Unsqueeze", [there, integers(graph, 2)], "proposals/there_column")
    classes = model.num_classes
    of_classes = sliced(graph, probabilities, 0, classes, "roi_head/class_probabilities")
    scores = graph.node("Mul", [of_classes, there], "roi_head/scores")
    best, order, row, labels = write_candidates(graph, scores, count, classes)
    by_class = graph.node("Reshape", [deltas, integers(graph, 0, -1, 4)], "roi_head/class_deltas")  # (b, n·classes, 4)
    chosen = write_gathered(graph, by_class, order, 4, "candidates/deltas")
    at = write_gathered(graph, write_centred(graph, rois, "roi_head/rois"), row, 4, "candidates/rois")
    stds = STDS[-1] if is_cascade else STDS[0]
    candidates = write_decoded(graph, at, chosen, stds, limits, "candidates/boxes")
    rows = write_detections(graph, candidates, best, labels, min(CANDIDATES, count * classes))
    side = _write_masks(graph, regions, model, rows)
    return detector_outputs(rows, side)


def _write_proposals(graph: GraphWriter, levels: list[Map], head: nn.Module, limits: str) -> tuple[str, str, int]:
    """rcnn.proposals: boxes (b, m, 4), scores (b, m), and m."""
    boxes, logits, ids, total = [], [], [], 0
    for level, x in enumerate(levels):
        name, place = f"rpn.{level}", f"@{level}"
        hidden = graph.conv(x.name, "rpn_head.rpn_conv", head.rpn_conv, place)
        hidden = graph.node("Relu", [hidden], f"{hidden}/relu")
        of_objects = Map(graph.conv(hidden, "rpn_head.rpn_cls", head.rpn_cls, place), x.grid)
        of_boxes = Map(graph.conv(hidden, "rpn_head.rpn_reg", head.rpn_reg, place), x.grid)
        flat = graph.node("Reshape", [graph.nhwc(of_objects.name), integers(graph, 0, -1)], f"{name}/logits")
        flat = to_float(graph, flat, f"{name}/float_logits")
        count = min(PER_LEVEL, x.grid[0] * x.grid[1] * RPN_ANCHORS.per_cell)
        best, indices = write_topk(graph, flat, count, f"{name}/best")
        deltas = write_gathered(graph, write_rows(graph, of_boxes, 4, f"{name}/rows"), indices, 4, f"{name}/chosen")
        deltas = to_float(graph, deltas, f"{name}/deltas")
        at = write_anchors(graph, RPN_ANCHORS, level, x.grid, indices)
        boxes.append(write_decoded(graph, at, deltas, RPN_STDS, limits, f"{name}/boxes"))
        logits.append(best)
        ids += [level] * count
        total += count
    all_boxes = graph.node("Concat", boxes, "rpn/boxes", axis=1)
    scores = graph.node("Sigmoid", [graph.node("Concat", logits, "rpn/logits", axis=1)], "rpn/scores")
    shape = graph.node("Shape", [scores], "rpn/shape")
    level_ids = graph.constant("rpn/level", np.array([ids], np.int32))
    level_ids = graph.node("Expand", [level_ids, shape], "rpn/levels")
    most = min(PROPOSALS, total)
    outputs = ["proposals/boxes", "proposals/scores", "proposals/levels", "proposals/count"]
    graph.nodes.append(nms_node([all_boxes, scores, level_ids], outputs, "proposals", RPN_IOU, ANY_SCORE, most))
    return outputs[0], outputs[1], most


class Regions:
    """The levels that regions are read from, NHWC as the op takes them."""

    def __init__(self, graph: GraphWriter, levels: list[Map], channels: int):
        self.graph, self.grids, self.channels = graph, [x.grid for x in levels], channels
        self.levels = [graph.nhwc(x.name) for x in levels]

    def features(self, rois: str, bins: int, name: str) -> Map:
        """The features of regions (b, n, 4). -> (b·n, c, bins, bins)."""
        node = roi_align_node([*self.levels, rois], f"{name}/features", f"{name}/features", bins, self.grids)
        self.graph.nodes.append(node)
        shape = integers(self.graph, -1, bins, bins, self.channels)
        flat = self.graph.node("Reshape", [f"{name}/features", shape], f"{name}/flat_features")
        return Map(self.graph.nchw(flat), (bins, bins))


def _write_predictions(
    graph: GraphWriter, regions: Regions, rois: str, count: int, head: nn.Module, name: str
) -> tuple[str, str]:
    """rcnn.of_rois: logits (b, n, classes + 1) and deltas (b, n, 4·classes), in float32."""
    x = regions.features(rois, BOX_BINS, name)
    for number, conv in enumerate(head.shared_convs):
        x = write_conv(graph, x, f"{name}.shared_convs.{number}", conv)
    flat = graph.node("Reshape", [x.name, integers(graph, -1, head.shared_fcs[0].in_features)], f"{name}/flat")
    for number, fc in enumerate(head.shared_fcs):
        flat = graph.linear(flat, f"{name}.shared_fcs.{number}", fc, None)
        flat = graph.node("Relu", [flat], f"{name}.shared_fcs.{number}/relu")
    found = []
    for last in ("fc_cls", "fc_reg"):
        linear = getattr(head, last)
        x_last = to_float(graph, graph.linear(flat, f"{name}.{last}", linear, None), f"{name}.{last}/float")
        found.append(
            graph.node("Reshape", [x_last, integers(graph, -1, count, linear.out_features)], f"{name}.{last}/rows")
        )
    return found[0], found[1]


def _write_box_head(
    graph: GraphWriter, regions: Regions, rois: str, count: int, head: nn.Module, limits: str
) -> tuple[str, str, str]:
    """Mask R-CNN's box head: the RoIs, their logits and deltas, 0 of a RoI that ends at 0."""
    logits, deltas = _write_predictions(graph, regions, rois, count, head.bbox_head, "roi_head.bbox_head")
    counts = _write_counts(graph, rois, "roi_head/rois")
    logits, deltas = (graph.node("Mul", [x, counts], f"{x}/counted") for x in (logits, deltas))
    return rois, logits, deltas


def _write_counts(graph: GraphWriter, boxes: str, name: str) -> str:
    """1 where a box ends below the picture's upper edge, else 0. (b, n, 4) -> (b, n, 1)."""
    end = sliced(graph, boxes, 3, 4, f"{name}/end")
    counts = graph.node("Greater", [end, float_constant(graph, "zero", 0.0)], f"{name}/is_counted")
    return graph.node("Cast", [counts], f"{name}/counts", to=TensorProto.FLOAT)


def _write_cascade(
    graph: GraphWriter, regions: Regions, rois: str, count: int, head: nn.Module, limits: str
) -> tuple[str, str, str]:
    """The cascade's box heads: the last stage's RoIs, the mean logits, the last stage's deltas."""
    total, deltas = "", ""
    for stage, box_head in enumerate(head.bbox_head):
        name = f"roi_head.bbox_head.{stage}"
        logits, deltas = _write_predictions(graph, regions, rois, count, box_head, name)
        total = graph.node("Add", [total, logits], f"{name}/total") if total else logits
        if stage == len(STDS) - 1:
            break
        of_classes = sliced(graph, logits, 0, head.classes, f"{name}/class_logits")
        best = graph.node("ArgMax", [of_classes], f"{name}/best", axis=-1, keepdims=0)  # (b, n)
        flat = graph.node("Reshape", [deltas, integers(graph, -1, head.classes, 4)], f"{name}/by_class")
        index = graph.node("Reshape", [best, integers(graph, -1, 1)], f"{name}/best_column")
        own = write_gathered(graph, flat, index, 4, f"{name}/own")  # (b·n, 1, 4)
        own = graph.node("Reshape", [own, integers(graph, -1, count, 4)], f"{name}/own_rows")
        at = write_centred(graph, rois, f"{name}/rois")
        rois = write_decoded(graph, at, own, STDS[stage], limits, f"{name}/refined")
    third = float_constant(graph, "stages", len(STDS))
    return rois, graph.node("Div", [total, third], "roi_head/mean_logits"), deltas


def _write_masks(graph: GraphWriter, regions: Regions, model: MaskRCNN, rows: int) -> int:
    """The output `masks`: own_masks of each head, their mean, 0 where there is no box; returns a mask's side."""
    is_cascade = isinstance(model, CascadeMaskRCNN)
    heads = dict(enumerate(model.roi_head.mask_head)) if is_cascade else {"": model.roi_head.mask_head}
    zero = graph.constant("int_zero", np.array(0, np.int32))
    label = graph.node("Max", [LABELS, zero], "masks/labels")
    label = graph.node("Cast", [label], "masks/long_labels", to=TensorProto.INT64)
    label = graph.node("Reshape", [label, integers(graph, -1, 1, 1, 1)], "masks/own")
    found, side = [], 2 * MASK_BINS
    own = graph.node("Expand", [label, integers(graph, 1, 1, side, side)], "masks/own_pixels")  # (b·n, 1, 28, 28)
    features = regions.features(BOXES, MASK_BINS, "roi_head.mask_head")
    for key, head in heads.items():
        name = f"roi_head.mask_head{'.' if is_cascade else ''}{key}"
        y = features
        for number, conv in enumerate(head.convs):
            y = write_conv(graph, y, f"{name}.convs.{number}", conv)
        up = _write_upsample(graph, y.name, f"{name}.upsample", head.upsample)
        logits = graph.conv(up, f"{name}.conv_logits", head.conv_logits)
        chosen = graph.node("GatherElements", [logits, own], f"{name}/own", axis=1)
        chosen = to_float(graph, chosen, f"{name}/float")
        found.append(graph.node("Sigmoid", [chosen], f"{name}/probabilities"))
    total = found[0]
    for number, x in enumerate(found[1:], start=1):
        total = graph.node("Add", [total, x], f"masks/total.{number}")
    if is_cascade:
        total = graph.node("Div", [total, float_constant(graph, "stages", len(found))], "masks/mean")
    masks = graph.node("Reshape", [total, integers(graph, -1, rows, side, side)], "masks/rows")
    graph.node("Mul", [masks, _write_there(graph, is_cascade)], MASKS)
    return side


def _write_there(graph: GraphWriter, is_cascade: bool) -> str:
    """1 where a row is a detection with a mask, else 0. (b, n, 1, 1)."""
    there = graph.node("Greater", [SCORES, float_constant(graph, "zero", 0.0)], "masks/is_there")
    there = graph.node("Cast", [there], "masks/there", to=TensorProto.FLOAT)
    there = graph.node("Unsqueeze", [there, integers(graph, 2, 3)], "masks/there_pixels")
    if is_cascade:
        return there
    counts = graph.node("Unsqueeze", [_write_counts(graph, BOXES, "masks/boxes"), integers(graph, 3)], "masks/counts")
    return graph.node("Mul", [there, counts], "masks/there_counted")


def _write_upsample(graph: GraphWriter, x: str, name: str, layer: nn.ConvTranspose2d) -> str:
    """The transposed convolution and its ReLU."""
    inputs = [x, graph.floating(f"{name}.weight", layer.weight), graph.floating(f"{name}.bias", layer.bias)]
    up = graph.node("ConvTranspose", inputs, name, strides=list(layer.stride), kernel_shape=list(layer.kernel_size))
    return graph.node("Relu", [up], f"{name}/relu")
