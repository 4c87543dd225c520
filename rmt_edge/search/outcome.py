"""What sets of INT8 layers do to every image: many sets in one sweep over the images, which goes on after a kill.

The batch is the outer loop and the sets of layers are the inner one. Of each batch the float32 model runs once and
keeps the input of each of its blocks; a set whose first layer stands in block k then runs from block k on. Nothing is
kept from one batch to the next but a few numbers per image and set, so memory hardly grows with the images; they go to
the end of the partial file (accuracy/resume.py).
"""

import hashlib
import json
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

from rmt_edge.accuracy.resume import resumed
from rmt_edge.artifact import output_folder, versions, written_whole
from rmt_edge.data.dataset import Dataset
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time, normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import kl_nats, percent
from rmt_edge.model.checkpoint import Checkpoint
from rmt_edge.model.folded import FoldedRMT, Ranges, folded_from_model
from rmt_edge.model.rmt import RMT
from rmt_edge.model.torch_device import device_name, torch_device
from rmt_edge.progress import progress_bar
from rmt_edge.quantization.calibrate import calibrate
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers, Step, first_step, steps_of
from rmt_edge.quantization.quantize import calibration_set
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.tasks.classification import METRIC, Hits

# Pixels of a batch: four images of 224x224, where RMT-S takes 14.8 s for 128 images on two cores; 16.8 s with two
# images at a time, 17.1 s with eight, whose activations no longer fit the caches.
BATCH_PIXELS = 4 * 224 * 224
MAX_BATCH = 64
GRAPH_DTYPE = np.dtype(np.float16)  # of the scales: what is not INT8 is FP16
# name of a set -> its layers
LayerSets = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Subject:
    """A checkpoint's folded form, where it runs, and the calibrated ranges of all its layers, on the CPU.

    parents: files it was made from; calibration_images: how they were drawn.
    """

    model: FoldedRMT
    preprocessing: Preprocessing
    ranges: Ranges
    recipe: QuantizationRecipe
    parents: dict[str, dict[str, str]]
    calibration_images: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def batch(self) -> int:
        """Images at a time."""
        return images_at_a_time(self.preprocessing, MAX_BATCH, BATCH_PIXELS)

    def facts(self) -> dict[str, Any]:
        """Of the subject, as records hold them."""
        return {
            "checkpoint": self.parents["checkpoint"],
            "calibration": self.parents["calibration"],
            "calibration_images": self.calibration_images,
            "torch_device": device_name(self.device),
        }


@dataclass(frozen=True)
class Outcomes:
    """What each set of layers did to each image. Rows are sets in their order, columns are images.

    reference_classes: (n,) the float32 model's best class; signal: (n,) its logits' energy, the sum of their squares.
    classes: (sets, n); kl_nats: (sets, n), KL(softmax(float32) || softmax(quantised));
    noise: (sets, n), the energy of the logits' difference. seconds: spent so far.
    """

    reference_classes: np.ndarray
    signal: np.ndarray
    classes: np.ndarray
    kl_nats: np.ndarray
    noise: np.ndarray
    seconds: float = 0.0


def calibrated_subject(
    checkpoint: Checkpoint,
    recipe: QuantizationRecipe,
    calibration: Path | Dataset | None,
    folder: Path,
    preprocessing: Preprocessing | None = None,
    device: str | None = None,
) -> Subject:
    """The folded form of a checkpoint with ranges of every layer, by the recipe's method and images.

    The ranges are kept in the folder as `<checkpoint>.ranges.safetensors`, so that one calibration serves all that is
    asked of the same checkpoint, recipe and images. device: where the model is to run (torch_device).
    """
    if recipe.precision != "int8" or recipe.method == "smoothquant":
        what = f"is {recipe.precision}" if recipe.precision != "int8" else "uses smoothquant"
        raise RmtEdgeError(
            f"The recipe {recipe.name} {what}.",
            "layers are compared under one set of INT8 ranges; smoothquant's follow from which layers are quantised.",
            "Use an INT8 recipe with another method.",
        )
    runs_on = torch_device(device)
    recipe = replace(recipe, int8=("*",), fp16=(), residual_adds=False)
    model = checkpoint.model
    if not isinstance(model, RMT):
        raise RmtEdgeError(
            f"{checkpoint.path.name} is a {model.head_name}.",
            "sensitivities and the search measure classifiers so far.",
        )
    preprocessing = preprocessing or model.preprocessing
    dataset = calibration_set(recipe, calibration)
    parents = {"checkpoint": checkpoint.identity, "calibration": dataset.identity}
    asked = {"preprocessing": preprocessing.to_dict(), "recipe": recipe.to_dict(), "weights": checkpoint.weights}
    asked |= {"calibration_images": dataset.drawing(), "torch_device": device_name(runs_on)}
    key = json.dumps(parents | asked | {"versions": versions()}, sort_keys=True)
    path = output_folder(folder) / f"{checkpoint.path.stem}.ranges.safetensors"
    folded = folded_from_model(model, preprocessing.height, preprocessing.width)
    if not (path.is_file() and _key_of(path) == key):
        ranges = calibrate(folded, recipe, dataset, preprocessing, runs_on)
        with written_whole(path) as temporary:
            save_file(ranges, temporary, {"key": key})
    ranges = load_file(path)
    return Subject(folded.to(runs_on), preprocessing, ranges, recipe, parents, dataset.drawing())


def _key_of(path: Path) -> str | None:
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("key")


def record_of(sets: int) -> np.dtype:
    """What is kept of an image: the fields of Outcomes, and its share of the seconds."""
    return np.dtype(
        [
            ("reference_classes", "<i4"), ("signal", "<f8"), ("seconds", "<f8"),
            ("classes", "<i4", (sets,)), ("kl_nats", "<f8", (sets,)), ("noise", "<f8", (sets,)),
        ]
    )  # fmt: skip


def evaluate(subject: Subject, sets: LayerSets, dataset: Dataset, path: Path, title: str) -> Outcomes:
    """Run every set of INT8 layers over the images of a data set.

    path: of what the outcomes are for, beside which those so far are kept: a run of the same subject, sets and images
    that was killed is gone on with.
    """
    batch, steps, count = subject.batch, steps_of(subject.model), len(dataset)
    with resumed(path, {"key": _key(subject, sets, dataset)}, batch, record_of(len(sets)), count) as partial:
        bar = progress_bar(
            total=count * len(sets), initial=len(partial) * len(sets), desc=title, unit="run", leave=False
        )
        with bar, FakeQuantizedLayers(subject.model, subject.ranges, GRAPH_DTYPE) as layers:
            for first in range(len(partial), count, batch):
                start = time.monotonic()
                pixels = dataset.pixels(list(range(first, min(first + batch, count))), subject.preprocessing)
                rows = _run_batch(layers, steps, sets, normalise(pixels, subject.preprocessing), subject.device, bar)
                rows["seconds"] = (time.monotonic() - start) / len(rows)
                partial.append(rows)
        rows = partial.rows()
    of_sets = {name: np.ascontiguousarray(rows[name].T) for name in ("classes", "kl_nats", "noise")}
    return Outcomes(rows["reference_classes"], rows["signal"], **of_sets, seconds=float(rows["seconds"].sum()))


def _run_batch(
    layers: FakeQuantizedLayers,
    steps: list[tuple[str, Step]],
    sets: LayerSets,
    images: np.ndarray,
    device: torch.device,
    bar: Any,
) -> np.ndarray:
    """The records of the images (b, 3, h, w), (b,)."""
    rows = np.zeros(len(images), record_of(len(sets)))
    layers.switch_to(())
    inputs = [torch.from_numpy(images).to(device)]  # of each step, and last the logits
    with torch.inference_mode():
        for _, step in steps:
            inputs.append(step(inputs[-1]))
        reference = _checked(inputs[-1], "The float32 model")
        rows["reference_classes"] = reference.argmax(1)
        rows["signal"] = (reference**2).sum(1)
        for number, (name, names) in enumerate(sets.items()):
            layers.switch_to(names)
            first = first_step(steps, names)
            x = inputs[first]
            for _, step in steps[first:]:
                x = step(x)
            logits = _checked(x, f"The model with {name} in INT8")
            rows["classes"][:, number] = logits.argmax(1)
            rows["kl_nats"][:, number] = kl_nats(reference, logits)
            rows["noise"][:, number] = ((logits - reference) ** 2).sum(1)
            bar.update(len(images))
    return rows


def _checked(logits: Tensor, what: str) -> np.ndarray:
    """Logits as float64, if they are finite."""
    if not torch.isfinite(logits).all():
        raise RmtEdgeError(
            f"{what} has NaN or infinite logits.", do="Look at the checkpoint's weights and at the preprocessing."
        )
    return logits.double().cpu().numpy()


def summary(outcomes: Outcomes, row: int, labels: np.ndarray | None) -> dict:
    """The metrics of one set of layers; those that need labels are None without them.

    sqnr_db: 10·log10(energy of the float32 logits / energy of their difference); None where they are equal.
    """
    classes, noise = outcomes.classes[row], float(outcomes.noise[row].sum())
    metrics: dict[str, Any] = {
        "metric": METRIC,
        "percent": None,
        "drop_points": None,
        "drop_interval_points": None,
        "agreement_percent": percent(classes == outcomes.reference_classes),
        "kl_nats": float(outcomes.kl_nats[row].mean()),
        "sqnr_db": 10 * float(np.log10(outcomes.signal.sum() / noise)) if noise else None,
    }
    if labels is not None:
        reference, subject = Hits(outcomes.reference_classes == labels), Hits(classes == labels)
        drop = reference.drop_to(subject)
        metrics |= {"percent": subject.percent(), "drop_points": drop.points}
        metrics["drop_interval_points"] = list(drop.interval_points())
    return metrics


def reference_percent(outcomes: Outcomes, labels: np.ndarray | None) -> float | None:
    """The float32 model's top-1; None without labels."""
    return None if labels is None else percent(outcomes.reference_classes == labels)


def _key(subject: Subject, sets: LayerSets, dataset: Dataset) -> str:
    """What the outcomes depend on, as one hash."""
    digest = hashlib.sha256()
    for name, value in sorted(subject.ranges.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    asked = {
        "parents": subject.parents,
        "data": dataset.as_parent(),
        "drawn": dataset.drawing(),
        "torch_device": device_name(subject.device),
        "preprocessing": subject.preprocessing.to_dict(),
        "recipe": asdict(subject.recipe),
        "batch": subject.batch,
        "sets": {name: sorted(layers) for name, layers in sets.items()},
        "versions": versions(),
    }
    digest.update(json.dumps(asked).encode())
    return digest.hexdigest()
