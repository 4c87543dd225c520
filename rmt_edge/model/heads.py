"""A detector or segmenter by the name of its head: the table, and freshly made ones."""

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.rcnn import CascadeMaskRCNN, MaskRCNN
from rmt_edge.model.retinanet import RetinaNet
from rmt_edge.model.rmt import RMT, Backbone
from rmt_edge.model.segmenters import SemanticFPN, UperNet
from rmt_edge.model.spec import ModelSpec
from rmt_edge.model.variants import VARIANTS
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths

MODELS: dict[str, type[Downstream]] = {
    model.head_name: model for model in (RetinaNet, MaskRCNN, CascadeMaskRCNN, SemanticFPN, UperNet)
}


def create_head(head: str, variant_name: str, classes: int, widths: Widths | None = None) -> Downstream:
    """A freshly initialised detector or segmenter, in evaluation mode. widths: the public configs' if None."""
    if head not in MODELS:
        raise RmtEdgeError(f"There is no detector or segmenter {head!r}.", f"there are {', '.join(MODELS)}.")
    if variant_name not in VARIANTS:
        raise RmtEdgeError(f"There is no RMT variant {variant_name!r}.", f"known variants: {', '.join(VARIANTS)}.")
    if classes < 1:
        raise RmtEdgeError(f"A {head} of {classes} classes was asked for.", "it has at least one.")
    return MODELS[head](Backbone(variant_name), classes, widths or PUBLIC_WIDTHS[head]).eval()


def spec_of(model: RMT | Downstream, preprocessing: Preprocessing | None = None) -> ModelSpec:
    """The spec of a trained model at an input size, its own if none is given."""
    size = preprocessing or model.preprocessing
    return ModelSpec(model.variant_name, model.head_name, model.num_classes, size.height, size.width)
