"""Nms, greedy non-maximum suppression with outputs of fixed size, as plain PyTorch: the reference for everything else.

Source: what RMT's public detection code runs, mmcv 1.7 `batched_nms` (mmcv/ops/nms.py), as read in mmdet 2.11's
`rpn_head.py` and `bbox_nms.py`: boxes of different ids are moved apart by id · (largest coordinate + 1) in float32,
then one greedy pass goes over all of them. A box is suppressed by a better one that is kept if their IoU, without any
"+1", is greater than the threshold. What differs, for engines of fixed shapes:

- candidates that do not pass score_threshold stay in the tensors and are passed over;
- equal scores keep the order of their indices, where mmcv leaves it open;
- the outputs have max_outputs rows; those beyond the count are boxes of 0, scores of 0 and ids of -1;
- the largest coordinate is not below 0. It makes no difference for boxes clipped to a picture.

How many candidates to give it, when there are too many. Whether a box is kept depends on better boxes alone. So the
best k candidates by score, as TopK finds them, give exactly the result of all of them if either all that pass the
threshold are among the k, or count comes out as max_outputs. Otherwise boxes may be missing at the end, worse than the
k-th candidate. (The largest coordinate is then that of the k; it decides the rounding of the shift alone.) TensorRT's
TopK ends at k = 3840. For 100 detections of a picture k = 1000 to 3840 is plenty; for the proposals of an RPN all of
its up to 5 · 1000 candidates fit the op as they are, since it needs no sorted input.

The ONNX function body, the Triton kernels and the TensorRT plugin are held to this file. It is also registered with
PyTorch as `torch.ops.rmt_edge.nms`, so that an exporter sees one op. It has no gradient.
"""

import torch
from torch import Tensor

from rmt_edge.errors import RmtEdgeError

PADDING_ID = -1  # of the rows beyond the count: no class, so that none is taken for a detection of class 0


def iou_with(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box with others; NaN where both have no area. (4,), (n, 4) -> (n,)."""
    top_left, bottom_right = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    w, h = (bottom_right - top_left).clamp(min=0).unbind(1)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return w * h / (area + areas - w * h)


def shift_apart(boxes: Tensor, ids: Tensor, is_candidate: Tensor) -> Tensor:
    """Boxes moved by id · (largest coordinate of the candidates + 1). (n, 4), (n,), (n,) -> (n, 4)."""
    largest = torch.where(is_candidate[:, None], boxes, 0).amax()
    return boxes + (ids.to(boxes.dtype) * (largest + 1))[:, None]


def kept_indices(boxes: Tensor, scores: Tensor, is_candidate: Tensor, iou_threshold: float, most: int) -> list[int]:
    """The first `most` boxes that greedy suppression keeps, best first. boxes: (n, 4), already shifted apart."""
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[is_candidate[order]]
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~(iou_with(boxes[best], boxes[order]) > iou_threshold)]
    return kept


def nms(
    boxes: Tensor, scores: Tensor, ids: Tensor, iou_threshold: float, score_threshold: float, max_outputs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the best boxes of each id that overlap no better one by more than iou_threshold.

    boxes: (b, n, 4) as x1, y1, x2, y2, float32; scores: (b, n), float32, in any order; ids: (b, n), int32, the class or
    level of each, 0 or more. A candidate's score is greater than score_threshold (a NaN is none); for no threshold give
    one below every score, such as -1. max_outputs: m, at most n.

    Returns boxes (b, m, 4), unshifted, best first; scores (b, m); ids (b, m), int32; count (b,), int32.
    """
    check_shapes(boxes, scores, ids, max_outputs)
    b, m = len(boxes), max_outputs
    out_boxes, out_scores = boxes.new_zeros(b, m, 4), scores.new_zeros(b, m)
    out_ids, count = torch.full_like(ids[:, :m], PADDING_ID), torch.zeros(b, dtype=torch.int32, device=boxes.device)
    for image in range(b):
        is_candidate = scores[image] > score_threshold
        shifted = shift_apart(boxes[image], ids[image], is_candidate)
        kept = kept_indices(shifted, scores[image], is_candidate, iou_threshold, m)
        count[image] = len(kept)
        for out, given in ((out_boxes, boxes), (out_scores, scores), (out_ids, ids)):
            out[image, : len(kept)] = given[image, kept]
    return out_boxes, out_scores, out_ids, count


def check_shapes(boxes: Tensor, scores: Tensor, ids: Tensor, max_outputs: int) -> None:
    """Refuse what the op does not take."""
    b, n = boxes.shape[:2]
    if boxes.shape != (b, n, 4) or scores.shape != (b, n) or ids.shape != (b, n):
        found = ", ".join(str(tuple(x.shape)) for x in (boxes, scores, ids))
        raise RmtEdgeError(f"Nms got boxes, scores and ids of {found}.", "they are (b, n, 4), (b, n) and (b, n).")
    if ids.dtype != torch.int32:
        raise RmtEdgeError(f"Nms got ids of {ids.dtype}.", "they are torch.int32.")
    if not 1 <= max_outputs <= n:
        raise RmtEdgeError(f"Nms is to give {max_outputs} of {n} boxes.", "max_outputs is 1 to the number of boxes.")


def _shapes_alone(boxes, scores, ids, iou_threshold, score_threshold, max_outputs):
    """What a tracer sees: outputs without values."""
    b, m = len(boxes), max_outputs
    count = ids.new_empty(b)
    return boxes.new_empty(b, m, 4), scores.new_empty(b, m), ids.new_empty(b, m), count


_LIBRARY = torch.library.Library("rmt_edge", "FRAGMENT")
_LIBRARY.define(
    "nms(Tensor boxes, Tensor scores, Tensor ids, float iou_threshold, float score_threshold, int max_outputs) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("nms", nms, "CompositeExplicitAutograd")
_LIBRARY.impl("nms", _shapes_alone, "Meta")
