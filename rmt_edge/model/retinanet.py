"""RetinaNet on RMT: images to boxes, under mmdet's names.

Source: "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002; the settings of RMT's
public configs (det/models/dense_heads/retina_head.py, anchor_head.py): towers of four convolutions, nine anchors, the
1000 anchors of greatest class score of each level with all their classes, as mmdet 2.11 chooses.
"""

import torch
from torch import Tensor, nn

from rmt_edge.model.boxes import (
    PER_LEVEL,
    RETINANET_ANCHORS,
    anchors_of,
    decoded,
    detections,
    flat_predictions,
    picture_sizes,
    rows_of,
)
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.fpn import CONVOLVED, FPN, ConvModule
from rmt_edge.model.spec import RETINANET
from rmt_edge.model.widths import Widths

STACKED = 4  # convolutions in a tower
STDS = (1.0, 1.0, 1.0, 1.0)


class RetinaHead(nn.Module):
    """Pyramid levels -> of each, class logits (b, k·classes, h, w) and deltas (b, k·4, h, w), k anchors a cell."""

    def __init__(self, classes: int, channels: int, width: int):
        super().__init__()
        inputs = [channels] + [width] * (STACKED - 1)
        self.cls_convs = nn.ModuleList(ConvModule(c, width, 3) for c in inputs)
        self.reg_convs = nn.ModuleList(ConvModule(c, width, 3) for c in inputs)
        self.retina_cls = nn.Conv2d(width, RETINANET_ANCHORS.per_cell * classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, RETINANET_ANCHORS.per_cell * 4, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = [], []
        for x in levels:
            classified = located = x
            for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs, strict=True):
                classified, located = cls_conv(classified), reg_conv(located)
            logits.append(self.retina_cls(classified))
            deltas.append(self.retina_reg(located))
        return logits, deltas


class RetinaNet(Downstream):
    """Images (b, 3, H, W), padded right and below with zeros -> see boxes.detections. Its head has no BatchNorm."""

    head_name = RETINANET

    def __init__(self, backbone: nn.Module, classes: int, widths: Widths, norm: bool = True):
        super().__init__(backbone, classes, widths)
        self.neck = FPN(self.dims[1:], widths.neck, CONVOLVED)
        self.bbox_head = RetinaHead(classes, widths.neck, widths.head)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits, deltas = self.bbox_head(self.neck(self.backbone(images)))
        return self.detect(logits, deltas, picture_sizes(images))

    def detect(self, logits: list[Tensor], deltas: list[Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """The head's maps -> boxes, scores, labels, count."""
        boxes, scores = [], []
        for level, (of_classes, of_boxes) in enumerate(zip(logits, deltas, strict=True)):
            h, w = of_classes.shape[2:]
            anchors = anchors_of(RETINANET_ANCHORS, level, h, w).to(of_boxes.device)
            score = flat_predictions(of_classes, self.num_classes).sigmoid()  # (b, n, classes)
            best = score.amax(dim=-1).topk(min(PER_LEVEL, len(anchors))).indices  # (b, k)
            chosen = rows_of(flat_predictions(of_boxes, 4), best)
            boxes.append(decoded(anchors[best], chosen, STDS, sizes))
            scores.append(rows_of(score, best))
        return detections(torch.cat(boxes, dim=1), torch.cat(scores, dim=1))
