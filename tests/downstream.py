"""The golden files of detectors and segmenters: models with their weights, inputs, and what the public code gave.

The files, how they were made and what they hold: tests/golden/downstream/README.md.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_edge.model.heads import create_head
from tests.golden.downstream import weights_downstream as weights

FOLDER = Path(__file__).parent / "golden" / "downstream"
# The public configs by their names without variant and schedule.
HEADS = {
    "retinanet": "retinanet",
    "maskrcnn": "mask_rcnn",
    "casrcnn": "cascade_mask_rcnn",
    "RMT_FPN": "semantic_fpn",
    "RMT_Uper": "upernet",
}
VARIANTS = {"t": "rmt_t", "s": "rmt_s", "m": "rmt_b", "l": "rmt_l"}


def head_and_variant(config: str) -> tuple[str, str]:
    """What a public config is called here: `maskrcnn_s_1x` -> mask_rcnn, rmt_s."""
    head, variant, _ = config.rsplit("_", 2)
    return HEADS[head], VARIANTS[variant]


def shapes_of(config: str) -> dict[str, tuple[int, ...]]:
    return weights.load_shapes(FOLDER / "state_dict" / f"{config}.json")


def filled_head(head: str, variant: str, classes: int, seed: int, offsets=None, widths=None):
    """A detector or segmenter whose every weight is drawn, and the boxes of which pass the threshold."""
    model = create_head(head, variant, classes, widths)
    state = model.state_dict()
    drawn = weights.fill({name: tuple(x.shape) for name, x in state.items()}, seed, offsets)
    model.load_state_dict(state | {name: torch.from_numpy(x) for name, x in drawn.items()})
    return model


@dataclass(frozen=True)
class Golden:
    """One golden file: its case, its arrays, and the model input that it was made with."""

    case: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def is_detection(self) -> bool:
        return "boxes" in self.arrays

    @functools.cached_property
    def images(self) -> torch.Tensor:
        divisor = self.case.get("divisor", 32 if self.is_detection else 1)
        return torch.from_numpy(weights.prepare(weights.picture(*self.case["picture"]), divisor))

    @property
    def sizes(self) -> torch.Tensor:
        return torch.tensor([self.case["picture"][:2]], dtype=torch.float32)

    @property
    def scale_factor(self) -> np.ndarray:
        return weights.metas(self.case["picture"][:2], self.case["original"])["scale_factor"]

    @functools.cached_property
    def model(self):
        head, variant = head_and_variant(self.case["config"])
        return filled_head(head, variant, self.case.get("classes", 80), self.case["seed"], self.case["offsets"])


@functools.cache
def golden(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Golden(json.loads(str(arrays.pop("case"))), arrays)


def unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bits of an array of that shape, each of its first axis packed by itself."""
    bits = np.unpackbits(packed.reshape(shape[0], -1), axis=-1)
    return bits[:, : int(np.prod(shape[1:]))].reshape(shape).astype(bool)
