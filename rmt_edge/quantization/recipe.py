"""Quantisation recipes: calib/*.toml.

Which layers run in INT8 is a list of glob patterns over the names and kinds of model/layers.py: `stages.2.blocks.5.fc1`
names one layer, `stages.2.*` a stage, `fc1` or `*.fc1` a kind, `*` all. `fp16` takes layers out again.
"""

import difflib
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.layers import KINDS, Layer, layers_of
from rmt_edge.settings import check_choice, check_positive, load_settings

PRECISIONS = ("fp32", "fp16", "int8")
METHODS = ("max", "entropy", "percentile", "mse", "smoothquant")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a checkpoint is quantised. What `int8` does not name, or `fp16` names too, stays in FP16.

    precision: of the whole; `int8` means INT8 for some layers and FP16 for the rest. int8, fp16: patterns of layers.
    An INT8 layer has INT8 weights (symmetric, one scale per output channel or per tensor) and INT8 input (symmetric,
    one scale per tensor). An INT8 output, `*.fc1_output`, travels in INT8 from its layer, which has to be one, to what
    reads it. residual_adds: whether the operands of each block's four residual additions are rounded to
    INT8 too. method: how a range follows from the images (quantization/calibrate.py). percentile: of the magnitudes
    that an input's range holds, for the method of that name. alpha: how much of an input's spread goes into the
    weights, for smoothquant: 0 none, 1 all. images, batch: of calibration.
    """

    name: str
    precision: str
    int8: tuple[str, ...] = ("qkv", "out_proj", "fc1", "fc2", "proj")
    fp16: tuple[str, ...] = ()
    residual_adds: bool = False
    weights: str = "per_channel"
    method: str = "max"
    percentile: float = 99.99
    alpha: float = 0.5
    images: int = 512
    batch: int = 32

    def __post_init__(self) -> None:
        for field in ("int8", "fp16"):
            object.__setattr__(self, field, _patterns(field, getattr(self, field)))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("weights", self.weights, ("per_channel", "per_tensor"))
        check_choice("method", self.method, METHODS)
        if self.precision == "int8" and not self.int8:
            raise RmtEdgeError("int8 is empty.", f"INT8 needs at least one layer; kinds: {', '.join(KINDS)}.")
        if not isinstance(self.residual_adds, bool):
            raise RmtEdgeError(f"residual_adds is {self.residual_adds!r}.", "it is true or false.")
        if not (_is_number(self.percentile) and 90 < self.percentile <= 100):
            raise RmtEdgeError(f"percentile is {self.percentile!r}.", "it is a number above 90, at most 100.")
        if not (_is_number(self.alpha) and 0 <= self.alpha <= 1):
            raise RmtEdgeError(f"alpha is {self.alpha!r}.", "it is a number from 0 to 1.")
        check_positive(images=self.images, batch=self.batch)

    def int8_layers(self, variant_name: str) -> list[str]:
        """The names of the layers and outputs of a variant that are in INT8, in the order in which they run.

        An output whose layer is in fp16 is taken out with it.
        """
        if self.precision != "int8":
            return []
        layers = layers_of(variant_name)
        selected = self._selected(self.int8, layers, variant_name)
        for layer in layers:
            if layer.name in selected and layer.source and layer.source not in selected:
                raise RmtEdgeError(
                    f"The recipe {self.name} has {layer.name} in int8, and not {layer.source}.",
                    "what leaves in INT8 is the product of an INT8 layer.",
                    f"Name the layer too: {layer.source.rpartition('.')[2]}.",
                )
        chosen = selected - self._selected(self.fp16, layers, variant_name)
        names = [x.name for x in layers if x.name in chosen and (x.source is None or x.source in chosen)]
        if not names:
            raise RmtEdgeError(
                f"The recipe {self.name} leaves no layer of {variant_name} in INT8.",
                f"int8 = {list(self.int8)}, and fp16 = {list(self.fp16)} takes all of that out again.",
                "Use the recipe fp16, or take a pattern out of fp16.",
            )
        return names

    def _selected(self, patterns: tuple[str, ...], layers: list[Layer], variant_name: str) -> set[str]:
        """The names of the layers that some pattern matches. Each pattern must match one."""
        names: set[str] = set()
        for pattern in patterns:
            matched = {layer.name for layer in layers if _matches(layer, pattern)}
            if not matched:
                raise _no_match(pattern, layers, f"the recipe {self.name} on {variant_name}")
            names |= matched
        return names

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it; what the recipe does not use is left out."""
        if self.precision != "int8":
            return {"name": self.name, "precision": self.precision}
        settings_of = {"percentile": "percentile", "smoothquant": "alpha"}
        unused = {setting for method, setting in settings_of.items() if method != self.method}
        return {key: value for key, value in asdict(self).items() if key not in unused}


def _patterns(field: str, value: Any) -> tuple[str, ...]:
    """A list of patterns as a tuple. A string alone would be a list of its letters."""
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
        raise RmtEdgeError(f"{field} is {value!r}.", 'it is a list of patterns, such as ["*.qkv", "stages.2.*"].')
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.kind, pattern)


def _no_match(pattern: str, layers: list[Layer], where: str) -> RmtEdgeError:
    """The error about a pattern that matches no layer, with those of similar name."""
    what = f"The pattern {pattern!r} of {where} matches no layer."
    blocks = {layer.name.rpartition(".")[0] for layer in layers if layer.block is not None}
    if any(fnmatchcase(f"{block}.lepe", pattern) for block in blocks) or pattern == "lepe":
        return RmtEdgeError(what, "LePE runs inside Retention, which stays in FP16.", "Take the pattern out.")
    known = [*KINDS, *(layer.name for layer in layers)]
    near = difflib.get_close_matches(pattern.replace("*", "").strip("."), known, n=4, cutoff=0.5)
    return RmtEdgeError(
        what,
        f"near it: {', '.join(near)}." if near else f"kinds: {', '.join(KINDS)}; names: {known[len(KINDS)]}, …",
        "Patterns are globs over names such as stages.2.blocks.1.fc1 and over kinds; see rmt_edge/model/layers.py.",
    )


def load_recipe(name: str | Path) -> QuantizationRecipe:
    """A quantisation recipe by name or path."""
    return load_settings(name, "calib", QuantizationRecipe, "recipe")
