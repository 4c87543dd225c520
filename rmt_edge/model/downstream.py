"""What all detectors and segmenters have beside their layers, as rmt.RMT has it."""

from torch import nn

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.model.variants import VARIANTS
from rmt_edge.model.widths import Widths


class Downstream(nn.Module):
    """A backbone with a head on it. classes: without background; preprocessing, weights_taken, class_names: what its
    file says (checkpoint.py)."""

    head_name: str

    def __init__(self, backbone: nn.Module, classes: int, widths: Widths, norm: bool = True):
        """norm: whether the heads have their BatchNorms; what builds the heads uses it."""
        super().__init__()
        self.backbone = backbone
        self.variant_name: str = backbone.variant_name
        self.num_classes, self.widths = classes, widths
        self.dims = VARIANTS[self.variant_name].dims
        self.preprocessing = Preprocessing()
        self.weights_taken: str | None = None
        self.class_names: tuple[str, ...] | None = None
