"""Boxes and regions that the tests of Nms and MultiLevelRoiAlign share, and one-node models of both ops."""

import numpy as np
import onnx
import torch
from onnx import helper

from rmt_edge.ops.nms.onnx_function import nms_function, nms_node
from rmt_edge.ops.retention.onnx_function import DOMAIN
from rmt_edge.ops.roi_align.onnx_function import LEVEL_NAMES, roi_align_function, roi_align_node
from rmt_edge.ops.roi_align.op import STRIDES

OPSET = 20
IDS = 5


def random_boxes(b, n, seed=0, side=300):
    """Overlapping boxes, scores of two digits (many are equal), ids 0 to 4. float32, float32, int32."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, side, (b, n, 2)), rng.uniform(5, 120, (b, n, 2))
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, (b, n)), 2).astype(np.float32)
    return [boxes, scores, rng.integers(0, IDS, (b, n)).astype(np.int32)]


def chain_of_boxes(n, step=0.25):
    """A row of n boxes, each overlapping the next by 1 - step, scores falling along the row: every other one is kept
    if the threshold lies between the overlaps with the next box and the one after it."""
    left = np.arange(n) * step * 64
    boxes = np.stack([left, np.zeros(n), left + 64, np.full(n, 64.0)], -1)[None].astype(np.float32)
    return [boxes, np.linspace(0.9, 0.1, n, dtype=np.float32)[None], np.zeros((1, n), np.int32)]


def cases_of_boxes():
    """name -> (boxes, scores, ids), iou_threshold, score_threshold, max_outputs."""
    empty, touching, nan = random_boxes(1, 40), random_boxes(1, 40), random_boxes(1, 40)
    empty[0][:, ::2, 2:] = empty[0][:, ::2, :2]  # no area, and twice at the same place
    empty[0][:, 1] = empty[0][:, 0]
    touching[0] = np.repeat(np.array([[[0, 0, 8, 8], [8, 0, 16, 8], [0, 4, 8, 12], [0, 0, 8, 8]]], np.float32), 10, 1)
    nan[1][0, :10] = np.nan
    below_zero = random_boxes(1, 40)
    below_zero[0] -= 500
    return {
        "random": (random_boxes(2, 150), 0.5, 0.05, 20),
        "all outputs": (random_boxes(1, 64, seed=1), 0.3, -1.0, 64),
        "one word and a bit": (random_boxes(1, 33, seed=2), 0.5, -1.0, 33),
        "one box": (random_boxes(1, 1), 0.5, -1.0, 1),
        "nothing passes": (random_boxes(2, 40), 0.5, 2.0, 10),
        "threshold 0": (random_boxes(1, 40), 0.0, -1.0, 40),
        "threshold 1": (random_boxes(1, 40), 1.0, -1.0, 40),
        "chain": (chain_of_boxes(100), 0.5, -1.0, 100),
        "no area": (empty, 0.5, -1.0, 40),
        "touching, and half": (touching, 1 / 3, -1.0, 40),
        "scores of NaN": (nan, 0.5, 0.05, 40),
        "left of the picture": (below_zero, 0.5, -1.0, 40),
    }


def tensors(arrays):
    return [torch.from_numpy(x) for x in arrays]


def maps_of(h, w):
    """(h, w) of P2 to P5."""
    return [(-(-h // stride), -(-w // stride)) for stride in STRIDES]


def random_features(b, c, h, w, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, *size, c)).astype(dtype) for size in maps_of(h, w)]


def random_regions(b, n, h, w, seed=0):
    """Regions of all sizes within the picture; the first ten of image 0 are special. (b, n, 4), float32."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, (b, n, 2)) * [w, h]
    size = np.exp(rng.uniform(0, np.log(1.2 * max(h, w)), (b, n, 2)))
    rois = np.concatenate([centre - size / 2, centre + size / 2], -1)
    rois = np.clip(rois, 0, [w, h, w, h])
    special = [
        [0, 0, w, h], [0, 10, w, 20.5], [10, 0, 20, h], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 0, 0],
        [w - 3, h - 3, w, h], [w, h, w, h], [20, 20, 10, 10], [0.1, 0.1, 0.4, 0.3],
    ]  # fmt: skip
    rois[0, : len(special)] = special[:n]
    return rois.astype(np.float32)


def nms_model(b, n, iou_threshold, score_threshold, max_outputs, with_body=True):
    """boxes, scores, ids -> one Nms node -> out_boxes, out_scores, out_ids, count."""
    m, info, element = max_outputs, helper.make_tensor_value_info, onnx.TensorProto
    outputs = ["out_boxes", "out_scores", "out_ids", "count"]
    node = nms_node(["boxes", "scores", "ids"], outputs, "nms", iou_threshold, score_threshold, max_outputs)
    graph = helper.make_graph(
        [node], "nms",
        [info("boxes", element.FLOAT, [b, n, 4]), info("scores", element.FLOAT, [b, n]),
         info("ids", element.INT32, [b, n])],
        [info("out_boxes", element.FLOAT, [b, m, 4]), info("out_scores", element.FLOAT, [b, m]),
         info("out_ids", element.INT32, [b, m]), info("count", element.INT32, [b])],
    )  # fmt: skip
    return _model(graph, [nms_function(OPSET)] if with_body else [])


def roi_align_model(b, n, c, maps, output_size, dtype=np.float32, with_body=True):
    """p2 to p5 and rois -> one MultiLevelRoiAlign node -> out."""
    s, info, element = output_size, helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = roi_align_node([*LEVEL_NAMES, "rois"], "out", "roi_align", output_size, maps)
    inputs = [info(name, element, [b, *size, c]) for name, size in zip(LEVEL_NAMES, maps, strict=True)]
    inputs.append(info("rois", onnx.TensorProto.FLOAT, [b, n, 4]))
    graph = helper.make_graph([node], "roi_align", inputs, [info("out", element, [b, n, s, s, c])])
    return _model(graph, [roi_align_function(OPSET)] if with_body else [])


def _model(graph, functions):
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
