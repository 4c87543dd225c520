"""Reference: what the float32 PyTorch model as published predicts, one file that serves every precision and device.

On a workstation, on the GPU where PyTorch sees one. The file travels to a device beside its engines: there,
accuracy/validate.py needs no torch.
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop
from rmt_edge.accuracy.predictions import BATCH, Run, predict_resumably, write_predictions
from rmt_edge.accuracy.resume import finish
from rmt_edge.accuracy.subject import spec_in
from rmt_edge.accuracy.validate import DataImages, checked_workers, validate
from rmt_edge.artifact import (
    ONNX,
    PREDICTIONS,
    Artifact,
    check_made_from,
    manifest_path,
    output_folder,
    read_artifact,
)
from rmt_edge.data.dataset import Dataset, image_count, open_dataset
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time
from rmt_edge.data.truth import check_truth
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.model.heads import spec_of
from rmt_edge.model.torch_device import device_name, torch_device
from rmt_edge.runtime.onnx_runner import open_onnx
from rmt_edge.runtime.torch_runner import arrays_of
from rmt_edge.tasks.task import Outputs
from rmt_edge.tasks.tasks import TASKS


def reference_predictions(
    checkpoint: Path | Checkpoint,
    data: Path | Dataset,
    output: Path,
    preprocessing: Preprocessing | None = None,
    images: int | None = None,
    labels_file: Path | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> Artifact:
    """Write `<checkpoint>.reference.predictions.npz` into the folder `output`; one that answers the same stays.

    preprocessing: replaces the checkpoint's. images: how many are drawn of the data set (data/draw.py), all by default.
    workers: processes that decode a folder's images. device: see torch_device.
    """
    start = time.monotonic()
    opened, runs_on = open_checkpoint(checkpoint), torch_device(device)
    checked_workers(workers)
    dataset = open_dataset(data, labels_file)
    dataset = dataset.drawn(image_count(dataset, images))
    preprocessing = preprocessing or opened.model.preprocessing
    path = output_folder(output) / f"{opened.path.stem}.reference.predictions.npz"
    parents = [opened.as_parent(), dataset.as_parent()]
    settings = {"preprocessing": preprocessing.to_dict(), "weights": opened.weights}
    if path.is_file() and manifest_path(path).is_file():
        known = read_artifact(path, PREDICTIONS)
        is_same = known.manifest.parents == parents and known.details.get("drawn") == dataset.drawing()
        if is_same and known.recipe == settings:
            return known
    runtime = f"PyTorch, float32, {device_name(runs_on)}"
    details = {"images": len(dataset), "drawn": dataset.drawing(), "runtime": runtime}
    identity = {"parents": parents, "weights": opened.weights, "runtime": runtime, "drawn": details["drawn"]}
    spec = spec_of(opened.model, preprocessing)
    task, truth = TASKS[spec.task], dataset.truth
    if not isinstance(truth, np.ndarray | None):
        truth = check_truth(dataset, task, spec)
    details["task"] = spec.task
    rows, details["resumed_images"] = predict_resumably(
        lambda: runner_of(opened.model, runs_on), lambda at: DataImages(dataset, preprocessing, truth, workers, at),
        preprocessing, task, spec, path, identity, "float32 reference",
        images_at_a_time(preprocessing, BATCH),
    )  # fmt: skip
    rows |= task.kept_beside(rows, truth)
    seconds = time.monotonic() - start
    predictions = write_predictions(path, rows, parents, settings, details, seconds)
    finish(path)
    return predictions


def runner_of(model: nn.Module, device: torch.device) -> Run:
    """A model as a function of arrays: (b, 3, h, w) float32 to its outputs by name. The model stays where it is."""
    running = model if device.type == "cpu" else copy.deepcopy(model).to(device)

    def run(batch: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return arrays_of(running(torch.from_numpy(batch).to(device)))

    return run


def validate_against_checkpoint(
    onnx_file: Path | Artifact,
    checkpoint: Path | Checkpoint,
    data: Path | Dataset,
    output: Path | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    labels_file: Path | None = None,
    workers: int | None = None,
    images: int | None = None,
    device: str | None = None,
) -> Artifact:
    """Write the predictions of an ONNX file, and those of the float32 model where they are not there yet.

    Arguments as those of `validate` and `reference_predictions`.
    """
    checked_max_drop(max_drop), checked_confidence(confidence), checked_workers(workers)
    source = read_artifact(onnx_file, ONNX)
    opened = open_checkpoint(checkpoint, source.details["weights"])
    check_made_from(source, opened.identity)
    dataset, folder = open_dataset(data, labels_file), output or source.path.parent
    spec = spec_in(source.details)
    check_truth(dataset, TASKS[spec.task], spec)
    preprocessing = Preprocessing.from_dict(source.details["preprocessing"])
    reference = reference_predictions(opened, dataset, folder, preprocessing, images, workers=workers, device=device)
    runner = open_onnx(source)
    return validate(source, dataset, reference, folder, max_drop, confidence, workers=workers, runner=runner)
