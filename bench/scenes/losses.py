"""What the heads are trained on: which anchor or RoI answers for which item, and the losses, as mmdet 2.11 has them.

Sources: "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002; "Faster R-CNN", NIPS
2015, https://arxiv.org/abs/1506.01497; the settings of RMT's public configs (max_iou_assigner.py, retina_head.py,
rpn_head.py). Boxes are (x1, y1, x2, y2) in pixels; anchors and box coding are the model's (model/boxes.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE, IGNORED = -1, -2
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair. (n, 4), (k, 4) -> (n, k)."""
    overlap = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp(
        min=0
    )
    shared = overlap.prod(-1)  # (n, k)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared).clamp(min=1e-6)


def assigned(anchors: Tensor, boxes: Tensor, positive: float, negative: float, lowest: float) -> Tensor:
    """The box that each anchor answers for, NEGATIVE for none, IGNORED for those in between. (n, 4), (k, 4) -> (n,).

    Anchors of an IoU of `positive` or more answer for their best box, those under `negative` for none; and the best
    anchors of every box answer for it wherever their IoU is `lowest` or more (mmdet's MaxIoUAssigner).
    """
    if not len(boxes):
        return torch.full((len(anchors),), NEGATIVE)
    iou = pairwise_iou(anchors, boxes)
    best, which = iou.max(dim=1)
    out = torch.full((len(anchors),), IGNORED)
    out[best < negative] = NEGATIVE
    out[best >= positive] = which[best >= positive]
    for number, most in enumerate(iou.max(dim=0).values):
        if most >= max(lowest, 1e-6):
            out[iou[:, number] == most] = number
    return out


def encoded(anchors: Tensor, boxes: Tensor, stds: tuple[float, ...]) -> Tensor:
    """The deltas that decode to the boxes. Both (n, 4) -> (n, 4)."""
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, 2:] + boxes[:, :2] - anchors[:, 2:] - anchors[:, :2]) / 2 / size
    return torch.cat([shift, torch.log(wanted / size)], dim=1) / boxes.new_tensor(stds)


def focal_loss(logits: Tensor, is_class: Tensor) -> Tensor:
    """Sum of -α_t·(1 - p_t)^γ·log(p_t). logits: (…); is_class: (…) 0 or 1."""
    probability = torch.sigmoid(logits)
    missed = torch.where(is_class > 0, 1 - probability, probability)
    alpha = torch.where(is_class > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    entropy = F.binary_cross_entropy_with_logits(logits, is_class, reduction="none")
    return (alpha * missed**FOCAL_GAMMA * entropy).sum()


def retinanet_loss(
    logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: list[Tensor], labels: list[Tensor]
) -> dict[str, Tensor]:
    """Focal loss of the classes and L1 of the deltas, both by the number of positive anchors.

    logits: (b, n, classes); deltas: (b, n, 4); anchors: (n, 4); boxes, labels: of each image, (k, 4) and (k,).
    """
    is_class = torch.zeros_like(logits)
    counts = torch.ones(logits.shape[:2], dtype=torch.bool)
    distance, positives = deltas.new_zeros(()), 0
    for image, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        owner = assigned(anchors, box, positive=0.5, negative=0.4, lowest=0.0)
        counts[image] = owner != IGNORED
        own = torch.nonzero(owner >= 0)[:, 0]
        is_class[image, own, label[owner[own]]] = 1
        wanted = encoded(anchors[own], box[owner[own]], (1.0, 1.0, 1.0, 1.0))
        distance = distance + (deltas[image, own] - wanted).abs().sum()
        positives += len(own)
    share = 1 / max(1, positives)
    return {"classes": focal_loss(logits[counts], is_class[counts]) * share, "boxes": distance * share}


def sampled(owner: Tensor, count: int, positive_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random positives, at most that share of `count`, and random negatives up to `count`. Their numbers."""

    def some(candidates: Tensor, most: int) -> Tensor:
        return candidates[torch.randperm(len(candidates), generator=generator)[:most]]

    positive = some(torch.nonzero(owner >= 0)[:, 0], int(count * positive_share))
    return positive, some(torch.nonzero(owner == NEGATIVE)[:, 0], count - len(positive))


def rpn_loss(
    logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: list[Tensor], count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Cross-entropy of item or not, and L1 of the deltas, over `count` sampled anchors of each image.

    logits: (b, n, 1); deltas: (b, n, 4); anchors: (n, 4).
    """
    entropy, distance, total = logits.new_zeros(()), logits.new_zeros(()), 0
    for image, box in enumerate(boxes):
        owner = assigned(anchors, box, positive=0.7, negative=0.3, lowest=0.3)
        positive, negative = sampled(owner, count, 0.5, generator)
        chosen = torch.cat([positive, negative])
        is_item = (torch.arange(len(chosen)) < len(positive)).to(logits.dtype)
        entropy = entropy + F.binary_cross_entropy_with_logits(logits[image, chosen, 0], is_item, reduction="sum")
        wanted = encoded(anchors[positive], box[owner[positive]], (1.0, 1.0, 1.0, 1.0))
        distance = distance + (deltas[image, positive] - wanted).abs().sum()
        total += len(chosen)
    return {"rpn_items": entropy / max(1, total), "rpn_boxes": distance / max(1, total)}
