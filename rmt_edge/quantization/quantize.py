"""Quantise: a checkpoint to a calibrated folded form, one .safetensors with every number that export needs.

Weights stay float32 in the file; beside them lie the INT8 ranges that quantization/calibrate.py finds with
nvidia-modelopt, such as `<layer>.weight_amax` and `<layer>.input_amax`. The export turns them into Q/DQ nodes; it needs
no modelopt.
"""

import json
import logging
import time
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rmt_edge.artifact import CALIBRATION, QUANTIZED, Artifact, write_manifest
from rmt_edge.data.dataset import Dataset, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.heads import spec_of
from rmt_edge.model.layers import source_of
from rmt_edge.model.spec import TASK_OF
from rmt_edge.model.torch_device import device_name, torch_device
from rmt_edge.quantization.calibrate import calibrate, smoothed
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.quantization.selection import int8_layers_of
from rmt_edge.writing import output_folder, written_whole

FP16_MAX = 65504.0
logger = logging.getLogger(__name__)


def quantize(
    checkpoint: Path | Checkpoint,
    recipe: QuantizationRecipe,
    output: Path,
    calibration: Path | Dataset | None = None,
    preprocessing: Preprocessing | None = None,
    weights: str | None = None,
    device: str | None = None,
) -> Artifact:
    """Write `<checkpoint>.<recipe>.safetensors` and its manifest into the folder `output`.

    calibration: a data set of at least recipe.images images, of which as many are drawn (data/draw.py); INT8 needs one.
    preprocessing: replaces the checkpoint's. weights: see load_checkpoint. device: where it calibrates (torch_device).
    """
    start = time.monotonic()
    output_folder(output)
    runs_on = torch_device(device)
    opened = open_checkpoint(checkpoint, weights)
    model = opened.model
    preprocessing = preprocessing or model.preprocessing
    folded = folded_from_model(model, preprocessing.height, preprocessing.width)
    parents = [opened.as_parent()]
    details = {
        "checkpoint": opened.identity,
        "task": TASK_OF[model.head_name],
        "head": model.head_name,
        "class_names": None if model.class_names is None else list(model.class_names),
        "variant": model.variant_name,
        "num_classes": model.num_classes,
        "spec": spec_of(model, preprocessing).to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "preprocessing": preprocessing.to_dict(),
        "weights": opened.weights,
        "weights_taken": model.weights_taken,
    }
    ranges = {}
    if recipe.precision == "int8":
        details["quantized_layers"] = sum(source_of(x) is None for x in int8_layers_of(recipe, folded))
        dataset = calibration_set(recipe, calibration)
        parents.append(dataset.as_parent(CALIBRATION))
        details |= {"calibration_images": dataset.drawing(), "calibrated_on": device_name(runs_on)}
        if recipe.method == "smoothquant":
            folded = smoothed(folded, recipe, dataset, preprocessing, runs_on)
        ranges = calibrate(folded, recipe, dataset, preprocessing, runs_on)
    state = folded.state_dict() | ranges
    if recipe.precision != "fp32":
        check_fp16(state)
    path = output / f"{opened.path.stem}.{recipe.name}.safetensors"
    # In the file too, so that its hash, of which the next steps are sure, covers them.
    metadata = {"recipe": json.dumps(recipe.to_dict()), "details": json.dumps(details)}
    with written_whole(path) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata)
        seconds = time.monotonic() - start
        artifact = write_manifest(
            temporary, path, kind=QUANTIZED, parents=parents, recipe=recipe.to_dict(), details=details, seconds=seconds
        )
    logger.info("quantize: %s in %.1f s", path.name, seconds)
    return artifact


def calibration_set(recipe: QuantizationRecipe, source: Path | Dataset | None) -> Dataset:
    """The images to calibrate on, drawn of a data set, if it holds as many as the recipe asks for."""
    if source is None:
        raise RmtEdgeError(f"The recipe {recipe.name} needs calibration images.", do="Pass them with --calibration.")
    dataset = open_dataset(source)
    if len(dataset) < recipe.images:
        raise RmtEdgeError(
            f"{dataset.path} holds {len(dataset)} images.",
            f"the recipe {recipe.name} calibrates on {recipe.images}.",
            "Pass a larger data set, or a recipe with a smaller `images`.",
        )
    return dataset.drawn(recipe.images)


def check_fp16(state: dict[str, Tensor]) -> None:
    """Refuse a weight that FP16 cannot hold."""
    for name, value in state.items():
        largest = value.abs().max().item()
        if not largest <= FP16_MAX:
            raise RmtEdgeError(f"{name} reaches {largest:g}.", f"FP16 ends at {FP16_MAX:g}.", "Use the recipe fp32.")
