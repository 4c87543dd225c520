"""Quantise: a checkpoint to a calibrated deployment form, one .safetensors with every number that export needs.

Weights stay float32 in the file; beside them lie the INT8 ranges that nvidia-modelopt calibrated:
`<layer>.weight_amax`, (out,) or (1,), and `<layer>.input_amax`, (). The export turns both into Q/DQ nodes; it needs no
modelopt.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from rmt_edge.artifact import QUANTIZED, output_folder, parent_of, write_manifest, written_whole
from rmt_edge.data import Dataset, open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.deploy import DeployedRMT, deployed_from_model
from rmt_edge.preprocess import Preprocessing
from rmt_edge.recipe import QuantizationRecipe

FP16_MAX = 65504.0
logger = logging.getLogger(__name__)


def quantize(
    checkpoint: Path,
    recipe: QuantizationRecipe,
    output: Path,
    calibration: Path | None = None,
    preprocessing: Preprocessing | None = None,
    weights: str | None = None,
) -> Path:
    """Write `<checkpoint>.<recipe>.safetensors` and its manifest into the folder `output`; returns its path.

    calibration: a data set of at least recipe.images images; INT8 needs one. preprocessing: replaces the checkpoint's.
    weights: see load_checkpoint.
    """
    start = time.monotonic()
    output_folder(output)
    model = load_checkpoint(checkpoint, weights)
    preprocessing = preprocessing or model.preprocessing
    deployed = deployed_from_model(model, preprocessing.height, preprocessing.width)
    state = dict(deployed.state_dict())
    parents = [parent_of(checkpoint)]
    details = {
        "checkpoint": parents[0],
        "variant": model.variant_name,
        "num_classes": model.num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "preprocessing": preprocessing.to_dict(),
        "weights": weights,
    }
    if recipe.precision == "int8":
        dataset = calibration_set(recipe, calibration)
        ranges = calibrate(deployed, recipe, dataset, preprocessing)
        state |= ranges
        parents.append(dataset.as_parent())
        details["quantized_layers"] = len(ranges) // 2
    if recipe.precision != "fp32":
        check_fp16(state)
    path = output / f"{checkpoint.stem}.{recipe.name}.safetensors"
    # In the file too, so that its hash, of which the next steps are sure, covers them.
    metadata = {"recipe": json.dumps(recipe.to_dict()), "details": json.dumps(details)}
    with written_whole(path) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata)
        seconds = time.monotonic() - start
        write_manifest(
            temporary, path, kind=QUANTIZED, parents=parents, recipe=recipe.to_dict(), details=details, seconds=seconds
        )
    logger.info("quantize: %s in %.1f s", path.name, seconds)
    return path


def calibration_set(recipe: QuantizationRecipe, path: Path | None) -> Dataset:
    """The data set to calibrate on, if it holds as many images as the recipe asks for."""
    if path is None:
        raise RmtEdgeError(f"The recipe {recipe.name} needs calibration images.", do="Pass them with --calibration.")
    dataset = open_dataset(path)
    if len(dataset) < recipe.images:
        raise RmtEdgeError(
            f"{dataset.path} holds {len(dataset)} images.",
            f"the recipe {recipe.name} calibrates on {recipe.images}.",
            "Pass a larger data set, or a recipe with a smaller `images`.",
        )
    return dataset


def calibrate(
    deployed: DeployedRMT, recipe: QuantizationRecipe, dataset: Dataset, preprocessing: Preprocessing
) -> dict[str, Tensor]:
    """Ranges of the recipe's layers over the data set: `<layer>.weight_amax` and `<layer>.input_amax`, float32."""
    names = recipe.int8_layers(deployed.variant_name)

    def run_images(model: nn.Module) -> None:
        batches = dataset.batches(preprocessing, recipe.batch, limit=recipe.images)
        total = -(-recipe.images // recipe.batch)
        with torch.no_grad():
            for images, _ in tqdm(batches, "calibrate", total, unit="batch", leave=False):
                model(torch.from_numpy(images))

    for name in names:
        deployed.get_submodule(name).register_forward_pre_hook(_refuse_non_finite(name))
    with contextlib.redirect_stdout(sys.stderr):  # modelopt prints; stdout is for results
        quantized = mtq.quantize(deployed, _modelopt_config(names, recipe), run_images)
    ranges = {}
    for name in names:
        layer = quantized.get_submodule(name)
        for which in ("weight", "input"):
            amax = getattr(layer, f"{which}_quantizer").amax
            ranges[f"{name}.{which}_amax"] = _checked_range(amax, f"{name}.{which}")
    return ranges


def _modelopt_config(names: list[str], recipe: QuantizationRecipe) -> dict:
    """Symmetric INT8 for the named layers' weights and inputs, nothing else, in modelopt's terms."""
    axis = 0 if recipe.weights == "per_channel" else None
    config: list[dict] = [{"quantizer_name": "*", "enable": False}]
    for name in names:
        config.append({"quantizer_name": f"{name}.weight_quantizer", "cfg": {"num_bits": 8, "axis": axis}})
        config.append({"quantizer_name": f"{name}.input_quantizer", "cfg": {"num_bits": 8, "axis": None}})
    return {"quant_cfg": config, "algorithm": recipe.method}


def _refuse_non_finite(name: str) -> Callable:
    """A forward pre-hook that names the layer; modelopt's own assertion on such a range does not."""

    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if not torch.isfinite(inputs[0]).all():
            raise RmtEdgeError(
                f"The input of {name} holds NaN or infinite values on the calibration images.",
                "a range is finite and above zero.",
                "The checkpoint computes them in float32 already: look at its weights and at the preprocessing.",
            )

    return hook


def _checked_range(amax: Tensor | None, what: str) -> Tensor:
    """The range of a tensor as float32: one number, or one per output channel.

    A channel of zeros is exact in INT8; a whole tensor of zeros, a NaN or an infinity is a fault upstream.
    """
    if amax is None or not torch.isfinite(amax).all() or not (amax >= 0).all() or amax.max() <= 0:
        found = "none" if amax is None else f"{amax.min().item():g} to {amax.max().item():g}"
        raise RmtEdgeError(
            f"The calibrated range of {what} is {found}.",
            "a range is finite and above zero.",
            "Look at the calibration images and at the preprocessing: are they what the checkpoint was trained on?",
        )
    values = amax.detach().float().flatten()
    return values if what.endswith("weight") else values[0]


def check_fp16(state: dict[str, Tensor]) -> None:
    """Refuse a weight that FP16 cannot hold."""
    for name, value in state.items():
        largest = value.abs().max().item()
        if not largest <= FP16_MAX:
            raise RmtEdgeError(f"{name} reaches {largest:g}.", f"FP16 ends at {FP16_MAX:g}.", "Use the recipe fp32.")
