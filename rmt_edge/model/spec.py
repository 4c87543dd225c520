"""ModelSpec: what a model is, in five values that travel in every manifest. Torch-free, so that a device reads it too.

The head decides the task, and with it the outputs: a classifier's `logits`; a detector's `boxes`, `scores`, `labels`,
`count` and, of an R-CNN, `masks`; a segmenter's `labels`. Source of the heads: the public configs of RMT
(https://github.com/qhfan/RMT, detect/configs and segmentation/configs).
"""

from dataclasses import asdict, dataclass
from typing import Any

from rmt_edge.data.preprocess import check_input_size
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.variants import VARIANTS

CLASSIFIER, RETINANET, MASK_RCNN, CASCADE_MASK_RCNN, SEMANTIC_FPN, UPERNET = HEADS = (
    "classifier", "retinanet", "mask_rcnn", "cascade_mask_rcnn", "semantic_fpn", "upernet",
)  # fmt: skip
CLASSIFICATION, DETECTION, SEGMENTATION = "classification", "detection", "segmentation"
TASK_OF = {
    CLASSIFIER: CLASSIFICATION,
    RETINANET: DETECTION,
    MASK_RCNN: DETECTION,
    CASCADE_MASK_RCNN: DETECTION,
    SEMANTIC_FPN: SEGMENTATION,
    UPERNET: SEGMENTATION,
}
WITH_MASKS = (MASK_RCNN, CASCADE_MASK_RCNN)
# Names of a model's outputs, in PyTorch, ONNX files and engines.
LOGITS, BOXES, SCORES, LABELS, COUNT, MASKS = "logits", "boxes", "scores", "labels", "count", "masks"


@dataclass(frozen=True)
class ModelSpec:
    """variant: of the backbone (variants.py); head: one of HEADS; classes: without background; height, width: of the
    images that the model takes, in pixels."""

    variant: str
    head: str
    classes: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise RmtEdgeError(f"There is no RMT variant {self.variant!r}.", f"known variants: {', '.join(VARIANTS)}.")
        check_head(self.head)
        for name in ("classes", "height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RmtEdgeError(f"{name} is {value!r}.", "it is a whole number, 1 or more.")
        check_input_size(self.height, self.width)

    @property
    def task(self) -> str:
        """classification, detection or segmentation."""
        return TASK_OF[self.head]

    @property
    def has_masks(self) -> bool:
        """Whether each box comes with a mask."""
        return self.head in WITH_MASKS

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs."""
        if self.task == DETECTION:
            return (BOXES, SCORES, LABELS, COUNT, *((MASKS,) if self.has_masks else ()))
        return (LOGITS,) if self.task == CLASSIFICATION else (LABELS,)

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "ModelSpec":
        """From a manifest. A key too many or too few is an error."""
        known = list(cls.__dataclass_fields__)
        if not isinstance(values, dict) or set(values) != set(known):
            raise RmtEdgeError(f"A model's spec is {values!r}.", f"it has the keys {', '.join(known)}.")
        return cls(**values)


def check_head(head: str) -> None:
    """Refuse a head that rmt-edge does not know."""
    if head not in HEADS:
        raise RmtEdgeError(f"There is no head {head!r}.", f"known heads: {', '.join(HEADS)}.")
