"""The layers of the folded form that have weights to quantise, by name, kind, stage and block.

A name is that of the module (model/folded.py), of the ranges in a quantised checkpoint and of the node in the ONNX
file: `stages.2.blocks.5.fc1`. Recipes, sensitivities, the search and the estimate all speak of layers by these names.
"""

from dataclasses import dataclass

from rmt_edge.model.variants import VARIANTS

# Linear and convolution layers of a block in the order in which they run. LePE runs inside Retention and is not one.
BLOCK_LAYERS = {
    "pos": "depthwise", "qkv": "qkv", "out_proj": "out_proj", "fc1": "fc1", "dwconv": "depthwise", "fc2": "fc2",
}  # fmt: skip
KINDS = ("stem", "downsample", "depthwise", "qkv", "out_proj", "fc1", "fc2", "proj", "head")
STEM_CONVS = 4


@dataclass(frozen=True)
class Layer:
    """One layer. stage: 0 to 3, None outside; block: its number in the stage, None outside."""

    name: str
    kind: str
    stage: int | None = None
    block: int | None = None


def layers_of(variant_name: str) -> list[Layer]:
    """Every layer of a variant, in the order in which they run."""
    variant = VARIANTS[variant_name]
    found = [Layer(f"stem.{index}", "stem") for index in range(STEM_CONVS)]
    for stage, depth in enumerate(variant.depths):
        for block in range(depth):
            prefix = f"stages.{stage}.blocks.{block}"
            found += [Layer(f"{prefix}.{name}", kind, stage, block) for name, kind in BLOCK_LAYERS.items()]
        if stage < 3:
            found.append(Layer(f"stages.{stage}.downsample", "downsample", stage))
    found += [Layer("proj", "proj"), Layer("head", "head")]
    if variant.has_aux_head:
        found.append(Layer("aux_head", "head"))
    return found
