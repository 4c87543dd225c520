"""The widths of a detector's or segmenter's neck and heads, and how they and the class count follow from shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

from rmt_edge.model.spec import CASCADE_MASK_RCNN, CLASSIFIER, MASK_RCNN, RETINANET, SEMANTIC_FPN, UPERNET

Shapes = Mapping[str, tuple[int, ...]]
RETINANET_ANCHORS = 9  # per cell: three scales, three ratios


@dataclass(frozen=True)
class Widths:
    """Channels of: the pyramid (neck), the convolutions of towers, RPN, box and decode heads (head), the fully
    connected layers of box heads (fc), the mask heads (mask), UperNet's auxiliary head. What a head lacks is 0."""

    neck: int = 0
    head: int = 0
    fc: int = 0
    mask: int = 0
    auxiliary: int = 0


# Of the public configs.
PUBLIC_WIDTHS = {
    RETINANET: Widths(neck=256, head=256),
    MASK_RCNN: Widths(neck=256, head=256, fc=1024, mask=256),
    CASCADE_MASK_RCNN: Widths(neck=256, head=256, fc=1024, mask=256),
    SEMANTIC_FPN: Widths(neck=256, head=128),
    UPERNET: Widths(head=512, auxiliary=256),
}
# A parameter that only this head has: where it is, the head is this one.
MARKS = {
    RETINANET: "bbox_head.retina_cls.weight",
    MASK_RCNN: "roi_head.bbox_head.fc_cls.weight",
    CASCADE_MASK_RCNN: "roi_head.bbox_head.0.fc_cls.weight",
    SEMANTIC_FPN: "decode_head.scale_heads.0.0.conv.weight",
    UPERNET: "decode_head.psp_modules.0.1.conv.weight",
    CLASSIFIER: "head.weight",
}
# Of which parameter the first axis is a width.
_HOLDERS = {
    RETINANET: {"neck": "neck.fpn_convs.0.conv.weight", "head": "bbox_head.cls_convs.0.conv.weight"},
    MASK_RCNN: {
        "neck": "neck.fpn_convs.0.conv.weight",
        "head": "rpn_head.rpn_conv.weight",
        "fc": "roi_head.bbox_head.shared_fcs.0.weight",
        "mask": "roi_head.mask_head.convs.0.conv.weight",
    },
    CASCADE_MASK_RCNN: {
        "neck": "neck.fpn_convs.0.conv.weight",
        "head": "rpn_head.rpn_conv.weight",
        "fc": "roi_head.bbox_head.0.shared_fcs.0.weight",
        "mask": "roi_head.mask_head.0.convs.0.conv.weight",
    },
    SEMANTIC_FPN: {"neck": "neck.fpn_convs.0.conv.weight", "head": "decode_head.scale_heads.0.0.conv.weight"},
    UPERNET: {"head": "decode_head.bottleneck.conv.weight", "auxiliary": "auxiliary_head.convs.0.conv.weight"},
}


def head_in(shapes: Shapes) -> str | None:
    """The head that a state dict of these shapes has; None where it has none that rmt-edge knows."""
    return next((head for head, mark in MARKS.items() if mark in shapes), None)


def widths_in(head: str, shapes: Shapes) -> Widths:
    """The widths in a state dict of these shapes. One that cannot be read, as its parameter is missing, is the public
    one: the comparison of all names and shapes that follows then says what is missing."""

    def width(name: str, holder: str) -> int:
        return shapes[holder][0] if shapes.get(holder) else getattr(PUBLIC_WIDTHS[head], name)

    return Widths(**{name: width(name, holder) for name, holder in _HOLDERS[head].items()})


def classes_in(head: str, shapes: Shapes) -> int:
    """The number of classes, without the background."""
    if head in (SEMANTIC_FPN, UPERNET):
        return max(1, shapes.get("decode_head.conv_seg.weight", (1,))[0])
    rows = shapes[MARKS[head]][0]
    if head == RETINANET:
        return max(1, rows // RETINANET_ANCHORS)
    return max(1, rows - 1 if head in (MASK_RCNN, CASCADE_MASK_RCNN) else rows)
