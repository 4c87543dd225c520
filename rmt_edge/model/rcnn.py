"""Mask R-CNN and Cascade Mask R-CNN on RMT: images to boxes and masks, under mmdet's names.

Sources: "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870; "Cascade R-CNN", CVPR 2018,
https://arxiv.org/abs/1712.00726; the settings of RMT's public configs (det/models/dense_heads/rpn_head.py,
roi_heads/standard_roi_head.py, cascade_roi_head.py, bbox_heads, mask_heads/fcn_mask_head.py). The cascade's box heads
give each class deltas of its own, unlike stock Cascade R-CNN. Proposals, boxes and masks have fixed numbers; what is
too little is filled up with boxes of no size and score 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_edge.model.boxes import (
    PER_LEVEL,
    RPN_ANCHORS,
    anchors_of,
    decoded,
    detections,
    flat_predictions,
    picture_sizes,
    rows_of,
)
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.fpn import FPN, POOLED, ConvModule
from rmt_edge.model.spec import BOXES, CASCADE_MASK_RCNN, LABELS, MASK_RCNN, MASKS, SCORES
from rmt_edge.model.widths import Widths
from rmt_edge.ops.nms.op import nms
from rmt_edge.ops.roi_align.op import multi_level_roi_align

PROPOSALS = 1000
RPN_IOU = 0.7
ANY_SCORE = -1.0  # below every score: the RPN has no threshold
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
BOX_BINS, MASK_BINS = 7, 14
MASK_CONVS = 4
SHARED_CONVS = 4  # in the cascade's box heads
ROI_LEVELS = 4  # that RoIs are taken from: P2 to P5
# Of the deltas of a box head, by stage; Mask R-CNN has the first.
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


class RPNHead(nn.Module):
    """Pyramid levels -> of each, objectness logits (b, 3, h, w) and deltas (b, 12, h, w)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, width, 3, padding=1)
        self.rpn_cls = nn.Conv2d(width, RPN_ANCHORS.per_cell, 1)
        self.rpn_reg = nn.Conv2d(width, RPN_ANCHORS.per_cell * 4, 1)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.rpn_conv(x)) for x in levels]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]


def proposals(logits: list[Tensor], deltas: list[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The RPN's maps -> the best boxes (b, m, 4) and their scores (b, m), m at most PROPOSALS; 0 where there is none.

    Of each level the best PER_LEVEL, NMS among them, the best of all levels. Boxes of no area are kept.
    """
    boxes, scores, levels = [], [], []
    for level, (of_objects, of_boxes) in enumerate(zip(logits, deltas, strict=True)):
        h, w = of_objects.shape[2:]
        anchors = anchors_of(RPN_ANCHORS, level, h, w).to(of_boxes.device)
        score = flat_predictions(of_objects, 1)[..., 0].sigmoid()  # (b, n)
        best, indices = score.topk(min(PER_LEVEL, len(anchors)))  # (b, k)
        chosen = rows_of(flat_predictions(of_boxes, 4), indices)
        boxes.append(decoded(anchors[indices], chosen, RPN_STDS, sizes))
        scores.append(best)
        levels.append(torch.full_like(best, level, dtype=torch.int32))
    all_boxes, all_scores, ids = (torch.cat(x, dim=1) for x in (boxes, scores, levels))
    found, best, _, _ = nms(all_boxes, all_scores, ids, RPN_IOU, ANY_SCORE, min(PROPOSALS, ids.shape[1]))
    return found, best


class BoxHead(nn.Module):
    """RoI features (r, c, 7, 7) -> class logits (r, classes + 1), the background last, and deltas (r, 4·classes).

    convs: how many convolutions with BatchNorm come before the fully connected layers; fcs: how many of these.
    """

    def __init__(self, classes: int, channels: int, fc: int, convs: int, fcs: int, norm: bool):
        super().__init__()
        self.shared_convs = nn.ModuleList(ConvModule(channels, channels, 3, norm=norm) for _ in range(convs))
        inputs = [channels * BOX_BINS**2] + [fc] * (fcs - 1)
        self.shared_fcs = nn.ModuleList(nn.Linear(c, fc) for c in inputs)
        self.fc_cls = nn.Linear(fc, classes + 1)
        self.fc_reg = nn.Linear(fc, 4 * classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    """RoI features (r, c, 14, 14) -> mask logits of every class (r, classes, 28, 28)."""

    def __init__(self, classes: int, channels: int, width: int):
        super().__init__()
        inputs = [channels] + [width] * (MASK_CONVS - 1)
        self.convs = nn.ModuleList(ConvModule(c, width, 3) for c in inputs)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(F.relu(self.upsample(x)))


class RoIHead(nn.Module):
    """Mask R-CNN's: one box head, one mask head."""

    def __init__(self, classes: int, widths: Widths, norm: bool = True):
        super().__init__()
        self.classes = classes
        self.bbox_head = BoxHead(classes, widths.neck, widths.fc, convs=0, fcs=2, norm=norm)
        self.mask_head = MaskHead(classes, widths.neck, widths.mask)

    def boxes(self, levels: list[Tensor], rois: Tensor, there: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Of each RoI and class the box (b, n, classes, 4) and its score (b, n, classes).

        rois: (b, n, 4); there: (b, n), 1 where there is a RoI and 0 where the row only fills up.
        """
        logits, deltas = of_rois(self.bbox_head, levels, rois)
        counts = (rois[..., 3:] != 0).float()  # a RoI that ends at 0 counts as padding in the public code
        scores = (logits * counts).softmax(dim=-1)[..., :-1] * there[..., None]
        return class_boxes(rois, deltas * counts, STDS[0], sizes), scores

    def masks(self, levels: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Of each box the probability of its own class's mask. boxes: (b, n, 4). Returns (b, n, 28, 28)."""
        counts = (boxes[..., 3] != 0).float()[..., None, None]
        return own_masks(self.mask_head, levels, boxes, labels) * counts


class CascadeRoIHead(nn.Module):
    """Cascade Mask R-CNN's: three box heads one after the other, three mask heads on what comes out."""

    def __init__(self, classes: int, widths: Widths, norm: bool = True):
        super().__init__()
        self.classes = classes
        self.bbox_head = nn.ModuleList(
            BoxHead(classes, widths.neck, widths.fc, SHARED_CONVS, fcs=1, norm=norm) for _ in STDS
        )
        self.mask_head = nn.ModuleList(MaskHead(classes, widths.neck, widths.mask) for _ in STDS)

    def boxes(self, levels: list[Tensor], rois: Tensor, there: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """As RoIHead.boxes: scores of the mean logits of the three stages, boxes of the last."""
        total = torch.zeros(())
        for stage, head in enumerate(self.bbox_head):
            logits, deltas = of_rois(head, levels, rois)
            total = total + logits
            if stage < len(STDS) - 1:
                rois = own_boxes(rois, logits, deltas, STDS[stage], sizes)
        scores = (total / len(STDS)).softmax(dim=-1)[..., :-1] * there[..., None]
        return class_boxes(rois, deltas, STDS[-1], sizes), scores

    def masks(self, levels: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """As RoIHead.masks: the mean of the three heads' probabilities."""
        return torch.stack([own_masks(head, levels, boxes, labels) for head in self.mask_head]).mean(dim=0)


def features_of(levels: list[Tensor], rois: Tensor, bins: int) -> Tensor:
    """RoI features. levels: P2 to P5, (b, c, h, w) each; rois: (b, n, 4). Returns (b·n, c, bins, bins)."""
    p2, p3, p4, p5 = (x.permute(0, 2, 3, 1) for x in levels)
    return multi_level_roi_align(p2, p3, p4, p5, rois, bins).permute(0, 3, 1, 2)


def of_rois(head: BoxHead, levels: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
    """A box head's logits (b, n, classes + 1) and deltas (b, n, 4·classes) of RoIs (b, n, 4), in float32."""
    logits, deltas = head(features_of(levels, rois, BOX_BINS))
    b, n = rois.shape[:2]
    return logits.reshape(b, n, -1).float(), deltas.reshape(b, n, -1).float()


def class_boxes(rois: Tensor, deltas: Tensor, stds: tuple[float, ...], sizes: Tensor) -> Tensor:
    """Each class's box of each RoI. rois: (b, n, 4); deltas: (b, n, 4·classes). Returns (b, n, classes, 4)."""
    b, n, columns = deltas.shape
    classes = columns // 4
    anchors = rois[:, :, None].expand(-1, -1, classes, -1).reshape(b, -1, 4)
    return decoded(anchors, deltas.reshape(b, -1, 4), stds, sizes).reshape(b, n, classes, 4)


def own_boxes(rois: Tensor, logits: Tensor, deltas: Tensor, stds: tuple[float, ...], sizes: Tensor) -> Tensor:
    """The box of each RoI's best class, the background left out. Returns (b, n, 4)."""
    b, n, columns = deltas.shape
    best = logits[..., :-1].argmax(dim=-1)  # (b, n)
    rows = torch.arange(b * n, device=rois.device).reshape(b, n) * (columns // 4) + best
    chosen = rows_of(deltas.reshape(1, -1, 4), rows.reshape(1, -1)).reshape(b, n, 4)
    return decoded(rois, chosen, stds, sizes)


def own_masks(head: MaskHead, levels: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
    """A mask head's probabilities of each box's class. boxes: (b, n, 4); labels: (b, n). Returns (b, n, 28, 28)."""
    b, n = labels.shape
    logits = head(features_of(levels, boxes, MASK_BINS))  # (b·n, classes, 28, 28)
    index = labels.long().clamp(min=0).reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index).float().sigmoid().reshape(b, n, *logits.shape[2:])


class MaskRCNN(Downstream):
    """Images (b, 3, H, W), padded right and below with zeros -> see boxes.detections; and masks (b, m, 28, 28),
    probabilities on each box's own grid."""

    head_name = MASK_RCNN
    roi_head_of: type[nn.Module] = RoIHead

    def __init__(self, backbone: nn.Module, classes: int, widths: Widths, norm: bool = True):
        super().__init__(backbone, classes, widths)
        self.neck = FPN(self.dims, widths.neck, POOLED)
        self.rpn_head = RPNHead(widths.neck, widths.head)
        self.roi_head = self.roi_head_of(classes, widths, norm)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        sizes = picture_sizes(images)
        levels = self.neck(self.backbone(images))
        logits, deltas = self.rpn_head(levels)
        rois, objectness = proposals(logits, deltas, sizes)
        levels = levels[:ROI_LEVELS]
        boxes, scores = self.roi_head.boxes(levels, rois, (objectness > 0).float(), sizes)
        found = detections(boxes, scores)
        there = (found[SCORES] > 0).float()[..., None, None]
        return found | {MASKS: self.roi_head.masks(levels, found[BOXES], found[LABELS]) * there}


class CascadeMaskRCNN(MaskRCNN):
    """The same with CascadeRoIHead."""

    head_name = CASCADE_MASK_RCNN
    roi_head_of = CascadeRoIHead
