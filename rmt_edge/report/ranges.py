"""Ranges of the INT8 layers, as calibration found them: what a quantised checkpoint holds beside its weights."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from rmt_edge.model.layers import layers_of


def ranges_of(path: Path, variant: str) -> list[dict[str, Any]]:
    """For each INT8 layer, in the order in which they run: its name, kind, stage, block and ranges.

    input_amax: the largest magnitude of its input; weight_amax: minimum, median and maximum over output channels.
    """
    found = []
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
        for layer in layers_of(variant):
            if f"{layer.name}.weight_amax" not in names:
                continue
            weights = np.atleast_1d(file.get_tensor(f"{layer.name}.weight_amax"))
            # A layer may have INT8 weights and a floating-point input.
            inputs = file.get_tensor(f"{layer.name}.input_amax") if f"{layer.name}.input_amax" in names else None
            found.append(
                {
                    "layer": layer.name,
                    "kind": layer.kind,
                    "stage": layer.stage,
                    "block": layer.block,
                    "channels": weights.size,
                    "input_amax": None if inputs is None else float(inputs.max()),
                    "weight_amax": [float(weights.min()), float(np.median(weights)), float(weights.max())],
                }
            )
    return found
