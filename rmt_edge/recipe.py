"""Quantisation recipes: calib/*.toml."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.settings import check_choice, check_positive, load_settings

PRECISIONS = ("fp32", "fp16", "int8")
# The Linear layers of the deployment form, by the last part of their names.
LINEAR_LAYERS = ("qkv", "out_proj", "fc1", "fc2", "proj", "head", "aux_head")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a checkpoint is quantised. What `layers` does not name stays in FP16.

    precision: of the whole; `int8` means INT8 for `layers` and FP16 for the rest. layers: Linear layers with INT8
    weights (symmetric, one scale per output channel or per tensor) and INT8 input (symmetric, one scale per tensor).
    method: how a range follows from the images; max is the largest magnitude seen. images, batch: of calibration.
    """

    name: str
    precision: str
    layers: tuple[str, ...] = ("qkv", "out_proj", "fc1", "fc2", "proj")
    weights: str = "per_channel"
    method: str = "max"
    images: int = 512
    batch: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("weights", self.weights, ("per_channel", "per_tensor"))
        check_choice("method", self.method, ("max",))
        for layer in self.layers:
            check_choice("layers", layer, LINEAR_LAYERS)
        if self.precision == "int8" and not self.layers:
            raise RmtEdgeError("layers is empty.", f"INT8 needs at least one of {', '.join(LINEAR_LAYERS)}.")
        check_positive(images=self.images, batch=self.batch)

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it; what an unquantised model does not use is left out."""
        return asdict(self) if self.precision == "int8" else {"name": self.name, "precision": self.precision}


def load_recipe(name: str | Path) -> QuantizationRecipe:
    """A quantisation recipe by name or path."""
    return load_settings(name, "calib", QuantizationRecipe, "recipe")
