"""Anchors, box coding and the choice of boxes: what the detectors do between their convolutions and their outputs.

Source: RMT's public detection code (a copy of mmdet 2.11), det/core/anchor/anchor_generator.py,
det/core/bbox/coder/delta_xywh_bbox_coder.py, det/core/post_processing/bbox_nms.py. Boxes are (x1, y1, x2, y2) in pixels
of the model's input. Two things differ, and neither changes a result:

- sizes are fixed: what is too little is filled up with boxes of score 0, so that everything from the image to the boxes
  can be one engine;
- the last NMS sees the CANDIDATES best pairs of box and class and no more.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rmt_edge.model.spec import BOXES, COUNT, LABELS, SCORES
from rmt_edge.ops.nms.op import nms

RATIOS = (0.5, 1.0, 2.0)  # height over width
MAX_LOG_RATIO = abs(math.log(16 / 1000))  # of a decoded size to its anchor's
PER_LEVEL = 1000  # anchors of each level that go on
SCORE_THRESHOLD = 0.05
NMS_IOU = 0.5
MAX_DETECTIONS = 100
# TensorRT-RTX's TopK ends at 3,840. With fewer than MAX_DETECTIONS kept of as many candidates, more could be found.
CANDIDATES = 2048


@dataclass(frozen=True)
class AnchorShape:
    """Anchors of one detector: strides of its levels in pixels, sizes as multiples of the stride."""

    strides: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        return len(RATIOS) * len(self.scales)


RETINANET_ANCHORS = AnchorShape((8, 16, 32, 64, 128), tuple(4 * 2 ** (i / 3) for i in range(3)))
RPN_ANCHORS = AnchorShape((4, 8, 16, 32, 64), (8.0,))


def picture_sizes(images: Tensor) -> Tensor:
    """Height and width of each picture without its padding: up to the last row and column that is not all zero.

    The public pipeline pads right and below with zeros after normalising. A pixel of a picture is never zero there, as
    no mean of a checkpoint is a whole number of 0 to 255. So the images alone say what `img_shape` is, and an engine
    has one input. images: (b, 3, H, W). Returns (b, 2), float32.
    """
    sides = []
    for other in (3, 2):
        seen = (images.abs().amax(dim=(1, other)) > 0).float()  # (b, side)
        sides.append((seen * torch.arange(1, seen.shape[1] + 1, device=images.device)).amax(dim=1))
    return torch.stack(sides, dim=1)


def anchors_of(shape: AnchorShape, level: int, h: int, w: int) -> Tensor:
    """The anchors of a level, cells row by row, in a cell by ratio and then by scale. (h·w·k, 4), float32."""
    stride = shape.strides[level]
    roots = torch.sqrt(torch.tensor(RATIOS))[:, None]
    scales = torch.tensor(shape.scales)[None, :]
    widths, heights = (stride / roots * scales).flatten(), (stride * roots * scales).flatten()  # (k,)
    base = torch.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], dim=-1)  # (k, 4)
    y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)  # (h·w, 1, 4): a cell's corner, no half pixel
    return (centres + base).reshape(-1, 4)


def decoded(anchors: Tensor, deltas: Tensor, stds: tuple[float, ...], sizes: Tensor) -> Tensor:
    """Boxes from anchors and deltas, clipped to the picture. anchors, deltas: (b, n, 4); sizes: (b, 2), height and
    width. Returns (b, n, 4)."""
    deltas = deltas * deltas.new_tensor(stds)
    dx, dy, dw, dh = deltas.unbind(-1)
    x1, y1, x2, y2 = anchors.unbind(-1)
    width, height = x2 - x1, y2 - y1
    x, y = (x1 + x2) * 0.5 + width * dx, (y1 + y2) * 0.5 + height * dy
    half_width = 0.5 * width * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    half_height = 0.5 * height * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    corners = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)
    limits = sizes.flip(-1).repeat(1, 2)[:, None]  # (b, 1, 4): w, h, w, h
    return corners.clamp(min=0).minimum(limits)


def rows_of(x: Tensor, indices: Tensor) -> Tensor:
    """Rows by their numbers. x: (b, n, c); indices: (b, k). Returns (b, k, c)."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def flat_predictions(x: Tensor, columns: int) -> Tensor:
    """A prediction map as a row an anchor, in float32. (b, k·columns, h, w) -> (b, h·w·k, columns)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, columns).float()


def detections(boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """The boxes that are returned: threshold, NMS by class, the best MAX_DETECTIONS.

    boxes: (b, n, 4), or (b, n, classes, 4) where each class has its own; scores: (b, n, classes). Returns boxes
    (b, m, 4), scores (b, m), labels (b, m) and count (b,), both int32, best first, m at most MAX_DETECTIONS. What is
    beyond the count is boxes and scores of 0 and labels of -1.
    """
    b, n, classes = scores.shape
    best, order = scores.flatten(1).topk(min(CANDIDATES, n * classes))  # (b, k)
    labels = order % classes
    rows = order if boxes.ndim == 4 else order.div(classes, rounding_mode="floor")
    candidates = rows_of(boxes.reshape(b, -1, 4), rows)  # (b, k, 4)
    most = min(MAX_DETECTIONS, best.shape[1])
    found = nms(candidates, best, labels.int(), NMS_IOU, SCORE_THRESHOLD, most)
    return dict(zip((BOXES, SCORES, LABELS, COUNT), found, strict=True))
