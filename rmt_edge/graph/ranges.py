"""Ranges of a quantised checkpoint, looked at before a graph is written with them."""

import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.folded import FoldedRMT, Output, Ranges, Sum
from rmt_edge.model.layers import source_of

# What each module may have a range of.
SIDES = {Sum: ("left_amax", "right_amax"), Output: ("product_amax",)}
LAYER_SIDES = ("weight_amax", "input_amax")


def check_ranges(model: FoldedRMT, ranges: Ranges) -> None:
    """Refuse a range of nothing in the model, one that is not finite or not above zero, one of a wrong length.

    A weight has one number, or one per output channel, of which not all are zero; everything else has one. The range of
    an output is that of an INT8 layer's.
    """
    modules = dict(model.named_modules())
    for key, amax in ranges.items():
        name, _, side = key.rpartition(".")
        module = modules.get(name)
        if module is None or side not in SIDES.get(type(module), LAYER_SIDES):
            raise RmtEdgeError(f"There is a range {key}, and the network has no such tensor.", do="Quantise again.")
        channels = module.weight.shape[0] if side == "weight_amax" else 1
        if amax.ndim > 1 or amax.numel() not in (1, channels):
            raise RmtEdgeError(
                f"The range {key} is {tuple(amax.shape)}.", f"it has one number, or {channels}.", "Quantise again."
            )
        if not torch.isfinite(amax).all() or amax.min() < 0 or amax.max() <= 0:
            raise RmtEdgeError(
                f"The range {key} is {amax.min().item():g} to {amax.max().item():g}.",
                "a range is finite and above zero.",
                "Quantise again.",
            )
        source = source_of(name)
        if source is not None and f"{source}.weight_amax" not in ranges:
            raise RmtEdgeError(
                f"The output {name} has a range, and its layer is not in INT8.",
                "what leaves in INT8 is the product of an INT8 layer.",
                "Quantise again, with both in the recipe's int8.",
            )
