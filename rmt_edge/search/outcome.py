"""What sets of INT8 layers do to every image: many sets in one sweep over the images, which goes on after a kill.

The batch is the outer loop and the sets of layers are the inner one. Of each batch the float32 model runs once and
keeps the input of each of its blocks; a set whose first layer stands in block k then runs from block k on. Nothing is
kept from one batch to the next but a few numbers per image, so memory does not grow with the images, and the partial
file, written after each batch, stays small.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmt_edge.artifact import output_folder, versions, written_whole
from rmt_edge.data.dataset import Dataset
from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import drop_interval_points, drop_points, kl_nats, percent
from rmt_edge.model.checkpoint import Checkpoint
from rmt_edge.model.folded import FoldedRMT, Ranges, folded_from_model
from rmt_edge.progress import progress_bar
from rmt_edge.quantization.calibrate import calibrate
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers, Step, first_step, steps_of
from rmt_edge.quantization.quantize import calibration_set
from rmt_edge.quantization.recipe import QuantizationRecipe

# Pixels of a batch: four images of 224x224, where RMT-S takes 14.8 s for 128 images on two cores; 16.8 s with two
# images at a time, 17.1 s with eight, whose activations no longer fit the caches.
BATCH_PIXELS = 4 * 224 * 224
MAX_BATCH = 64
GRAPH_DTYPE = np.dtype(np.float16)  # of the scales: what is not INT8 is FP16
logger = logging.getLogger(__name__)

# name of a set -> its layers
LayerSets = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Subject:
    """A checkpoint's folded form and the calibrated ranges of all its layers. parents: files it was made from."""

    model: FoldedRMT
    preprocessing: Preprocessing
    ranges: Ranges
    recipe: QuantizationRecipe
    parents: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Outcomes:
    """What each set of layers did to each image. Rows are sets in their order, columns are images.

    reference_classes: (n,) the float32 model's best class, -1 where not yet known; signal: (n,) its logits' energy,
    the sum of their squares. classes: (sets, n); kl_nats: (sets, n), KL(softmax(float32) || softmax(quantised));
    noise: (sets, n), the energy of the logits' difference. seconds: spent so far.
    """

    reference_classes: np.ndarray
    signal: np.ndarray
    classes: np.ndarray
    kl_nats: np.ndarray
    noise: np.ndarray
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many images are known."""
        return int((self.reference_classes >= 0).sum())


def calibrated_subject(
    checkpoint: Checkpoint,
    recipe: QuantizationRecipe,
    calibration: Path | Dataset | None,
    folder: Path,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """The folded form of a checkpoint with ranges of every layer, by the recipe's method and images.

    The ranges are kept in the folder as `<checkpoint>.ranges.safetensors`, so that one calibration serves all that is
    asked of the same checkpoint, recipe and images.
    """
    if recipe.precision != "int8" or recipe.method == "smoothquant":
        what = f"is {recipe.precision}" if recipe.precision != "int8" else "uses smoothquant"
        raise RmtEdgeError(
            f"The recipe {recipe.name} {what}.",
            "layers are compared under one set of INT8 ranges; smoothquant's follow from which layers are quantised.",
            "Use an INT8 recipe with another method.",
        )
    recipe = replace(recipe, int8=("*",), fp16=(), residual_adds=False)
    model = checkpoint.model
    preprocessing = preprocessing or model.preprocessing
    dataset = calibration_set(recipe, calibration)
    parents = {"checkpoint": checkpoint.identity, "calibration": {"name": dataset.path.name, "sha256": dataset.sha256}}
    asked = {"preprocessing": preprocessing.to_dict(), "recipe": recipe.to_dict(), "weights": checkpoint.weights}
    key = json.dumps(parents | asked | {"versions": versions()}, sort_keys=True)
    path = output_folder(folder) / f"{checkpoint.path.stem}.ranges.safetensors"
    folded = folded_from_model(model, preprocessing.height, preprocessing.width)
    if not (path.is_file() and _key_of(path) == key):
        ranges = calibrate(folded, recipe, dataset, preprocessing)
        with written_whole(path) as temporary:
            save_file(ranges, temporary, {"key": key})
    return Subject(folded, preprocessing, load_file(path), recipe, parents)


def _key_of(path: Path) -> str | None:
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("key")


def batch_of(preprocessing: Preprocessing) -> int:
    """Images at a time for an input size."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // (preprocessing.height * preprocessing.width)))


def evaluate(subject: Subject, sets: LayerSets, dataset: Dataset, images: int, partial: Path, title: str) -> Outcomes:
    """Run every set of INT8 layers over the first `images` images of the data set.

    partial: where the outcomes so far are kept. A file there of the same subject, sets and images is gone on with.
    """
    key = _key(subject, sets, dataset, images)
    outcomes = _read_partial(partial, key)
    if outcomes is None:
        outcomes = Outcomes(
            np.full(images, -1), np.zeros(images), np.full((len(sets), images), -1),
            np.zeros((len(sets), images)), np.zeros((len(sets), images)),
        )  # fmt: skip
    batch, steps = batch_of(subject.preprocessing), steps_of(subject.model)
    start, before = time.monotonic(), outcomes.seconds
    bar = progress_bar(total=images * len(sets), initial=outcomes.done * len(sets), desc=title, unit="run", leave=False)
    with bar, FakeQuantizedLayers(subject.model, subject.ranges, GRAPH_DTYPE) as layers:
        for first in range(outcomes.done, images, batch):
            chosen = slice(first, min(first + batch, images))
            pixels = dataset.pixels(list(range(chosen.start, chosen.stop)), subject.preprocessing)
            _run_batch(layers, steps, sets, normalise(pixels, subject.preprocessing), outcomes, chosen, bar)
            outcomes = replace(outcomes, seconds=before + time.monotonic() - start)
            _write_partial(partial, key, outcomes)
    return outcomes


def _run_batch(
    layers: FakeQuantizedLayers,
    steps: list[tuple[str, Step]],
    sets: LayerSets,
    images: np.ndarray,
    outcomes: Outcomes,
    chosen: slice,
    bar: Any,
) -> None:
    """Fill in the columns `chosen` of the outcomes, the images (b, 3, h, w)."""
    layers.switch_to(())
    inputs = [torch.from_numpy(images)]  # of each step, and last the logits
    with torch.inference_mode():
        for _, step in steps:
            inputs.append(step(inputs[-1]))
        reference = _checked(inputs[-1], "The float32 model")
        outcomes.reference_classes[chosen] = reference.argmax(1)
        outcomes.signal[chosen] = (reference**2).sum(1)
        for row, (name, names) in enumerate(sets.items()):
            layers.switch_to(names)
            first = first_step(steps, names)
            x = inputs[first]
            for _, step in steps[first:]:
                x = step(x)
            logits = _checked(x, f"The model with {name} in INT8")
            outcomes.classes[row, chosen] = logits.argmax(1)
            outcomes.kl_nats[row, chosen] = kl_nats(reference, logits)
            outcomes.noise[row, chosen] = ((logits - reference) ** 2).sum(1)
            bar.update(len(images))


def _checked(logits: Tensor, what: str) -> np.ndarray:
    """Logits as float64, if they are finite."""
    if not torch.isfinite(logits).all():
        raise RmtEdgeError(
            f"{what} has NaN or infinite logits.", do="Look at the checkpoint's weights and at the preprocessing."
        )
    return logits.double().numpy()


def summary(outcomes: Outcomes, row: int, labels: np.ndarray | None) -> dict:
    """The metrics of one set of layers; those that need labels are None without them.

    sqnr_db: 10·log10(energy of the float32 logits / energy of their difference); None where they are equal.
    """
    classes, noise = outcomes.classes[row], float(outcomes.noise[row].sum())
    metrics: dict[str, Any] = {
        "top1_percent": None,
        "drop_points": None,
        "drop_interval_points": None,
        "agreement_percent": percent(classes == outcomes.reference_classes),
        "kl_nats": float(outcomes.kl_nats[row].mean()),
        "sqnr_db": 10 * float(np.log10(outcomes.signal.sum() / noise)) if noise else None,
    }
    if labels is not None:
        labels = labels[: len(classes)]
        reference_hits, set_hits = outcomes.reference_classes == labels, classes == labels
        metrics["top1_percent"] = percent(set_hits)
        metrics["drop_points"] = drop_points(reference_hits, set_hits)
        metrics["drop_interval_points"] = list(drop_interval_points(reference_hits, set_hits))
    return metrics


def reference_top1_percent(outcomes: Outcomes, labels: np.ndarray | None) -> float | None:
    """The float32 model's top-1; None without labels."""
    return None if labels is None else percent(outcomes.reference_classes == labels[: len(outcomes.reference_classes)])


def _key(subject: Subject, sets: LayerSets, dataset: Dataset, images: int) -> str:
    """What the outcomes depend on, as one hash."""
    digest = hashlib.sha256()
    for name, value in sorted(subject.ranges.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    asked = {
        "parents": subject.parents,
        "data": dataset.as_parent(),
        "images": images,
        "preprocessing": subject.preprocessing.to_dict(),
        "recipe": asdict(subject.recipe),
        "batch": batch_of(subject.preprocessing),
        "sets": {name: sorted(layers) for name, layers in sets.items()},
        "versions": versions(),
    }
    digest.update(json.dumps(asked).encode())
    return digest.hexdigest()


def _write_partial(path: Path, key: str, outcomes: Outcomes) -> None:
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **asdict(outcomes))


def _read_partial(path: Path, key: str) -> Outcomes | None:
    """The outcomes in a partial file, if it answers the same question."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        if str(arrays["key"]) != key:
            logger.warning("%s is of another checkpoint, other images, ranges or layers: starting anew.", path.name)
            return None
        found = {name: arrays[name] for name in Outcomes.__dataclass_fields__}
    outcomes = Outcomes(**found | {"seconds": float(found["seconds"])})
    logger.info("%s: going on after %d of %d images.", path.name, outcomes.done, len(outcomes.signal))
    return outcomes
