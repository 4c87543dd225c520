"""Which layers of a model a recipe puts in INT8, heads included.

Of a detector or segmenter the patterns of `int8` choose in the backbone as in a classifier; of neck and heads all
convolutions and fully connected layers are in INT8 but what `fp16` names, by name or by kind (HEAD_KINDS), and the last
layers, which predict: they stay in floating point, and so do Nms and MultiLevelRoiAlign.
"""

from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from rmt_edge.model.downstream import Downstream
from rmt_edge.model.folded import FoldedRMT
from rmt_edge.quantization.recipe import QuantizationRecipe

# Of a layer's name, the part that tells its kind.
HEAD_KINDS = {
    "neck.": "neck", "bbox_head.cls_convs": "tower", "bbox_head.reg_convs": "tower", "rpn_head.": "rpn",
    "shared_convs": "box_conv", "shared_fcs": "box_fc", "mask_head": "mask_conv", "decode_head.": "decode",
}  # fmt: skip
LAST = ("retina_cls", "retina_reg", "rpn_cls", "rpn_reg", "fc_cls", "fc_reg", "conv_logits", "conv_seg")
CLASSIFIER_LAYERS = ("proj", "head", "aux_head")


def int8_layers_of(recipe: QuantizationRecipe, model: FoldedRMT | Downstream) -> list[str]:
    """The names of a folded model's layers that run in INT8."""
    if not isinstance(model, Downstream) or recipe.precision != "int8":
        return recipe.int8_layers(model.variant_name)
    kinds = head_layers(model)

    def names_head_layers(pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) or kind == pattern for name, kind in kinds.items())

    of_head = [pattern for pattern in recipe.fp16 if names_head_layers(pattern)]
    of_backbone = replace(recipe, fp16=tuple(x for x in recipe.fp16 if x not in of_head))
    chosen = [x for x in of_backbone.int8_layers(model.variant_name) if x not in CLASSIFIER_LAYERS]
    kept = [x for x, kind in kinds.items() if not any(fnmatchcase(x, p) or kind == p for p in of_head)]
    return [f"backbone.{name}" for name in chosen] + kept


def head_layers(model: Downstream) -> dict[str, str]:
    """The layers of neck and heads that can be in INT8, with their kinds."""
    found = {}
    for name, module in model.named_modules():
        is_layer = isinstance(module, nn.Conv2d | nn.Linear) and not name.startswith("backbone.")
        if is_layer and not name.endswith(LAST):
            found[name] = next(kind for part, kind in HEAD_KINDS.items() if part in name)
    return found
