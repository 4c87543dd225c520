"""The layers of the folded form that can be in INT8, and the outputs that can, by name, kind, stage and block.

A name is that of the module (model/folded.py), of the ranges in a quantised checkpoint and of the node in the ONNX
file: `stages.2.blocks.5.fc1`. Recipes, sensitivities, the search and the estimate all speak of layers by these names.
An output, `stages.2.blocks.5.fc1_output`, is the raw product of an INT8 Linear layer of a block (ops/product.py).
"""

from dataclasses import dataclass

from rmt_edge.model.variants import VARIANTS

OUTPUT = "_output"  # behind the name of a layer, and its kind: what it writes
# Linear and convolution layers of a block, with their outputs, in the order in which they run. LePE runs inside
# Retention and is not one.
BLOCK_LAYERS = {
    "pos": "depthwise", "qkv": "qkv", "qkv_output": "qkv_output", "out_proj": "out_proj",
    "out_proj_output": "out_proj_output", "fc1": "fc1", "fc1_output": "fc1_output", "dwconv": "depthwise",
    "fc2": "fc2", "fc2_output": "fc2_output",
}  # fmt: skip
OUTPUT_KINDS = tuple(kind for kind in BLOCK_LAYERS.values() if kind.endswith(OUTPUT))
KINDS = ("stem", "downsample", "depthwise", "qkv", "out_proj", "fc1", "fc2", "proj", "head", *OUTPUT_KINDS)
STEM_CONVS = 4


@dataclass(frozen=True)
class Layer:
    """One layer, or the output of one. stage: 0 to 3, None outside; block: its number in the stage, None outside."""

    name: str
    kind: str
    stage: int | None = None
    block: int | None = None

    @property
    def source(self) -> str | None:
        """Of an output the name of its layer, else None."""
        return source_of(self.name)


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


def source_of(name: str) -> str | None:
    """Of the name of an output that of its layer; None of a layer's own name."""
    return name.removesuffix(OUTPUT) if name.endswith(OUTPUT) else None


def is_product(name: str) -> bool:
    """Whether a layer, by name, is a Linear layer of a block: in INT8 it writes a raw product."""
    return ".blocks." in name and f"{name.rpartition('.')[2]}{OUTPUT}" in BLOCK_LAYERS
