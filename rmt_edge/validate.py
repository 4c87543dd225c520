"""Validate: the accuracy of an ONNX file against its checkpoint, over a whole data set.

Reference: the float32 PyTorch model as published, out of the very checkpoint. Subject: the very ONNX file that engines
are built from, through ONNX Runtime. Both see the same preprocessed images; all metrics are paired per image. The five
best classes of every image are kept, so that any other metric can be computed later.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch

from rmt_edge.accuracy import accuracy, checked_max_drop, predict, write_predictions
from rmt_edge.artifact import ONNX, PREDICTIONS, Manifest, manifest_path, output_folder, parent_of, read_manifest
from rmt_edge.data import Dataset, check_labels, open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.onnx_runner import OnnxRunner
from rmt_edge.preprocess import Preprocessing

logger = logging.getLogger(__name__)


def validate(
    onnx_path: Path, checkpoint: Path, data: Path, output: Path | None = None, max_drop: float | None = None
) -> tuple[Path, Manifest]:
    """Write the predictions of an ONNX file and, in their manifest, its accuracy; returns both.

    data: a data set with labels that fit the checkpoint's classes. max_drop: points of top-1 that may be lost.
    """
    start = time.monotonic()
    max_drop = checked_max_drop(max_drop)
    onnx_manifest = read_manifest(onnx_path, ONNX)
    folder = output_folder(output or onnx_path.parent)
    source, given = onnx_manifest.details["checkpoint"], parent_of(checkpoint)
    if source["sha256"] != given["sha256"]:
        raise RmtEdgeError(
            f"{onnx_path.name} was made from {source['name']} ({source['sha256'][:16]}…), not from {checkpoint} "
            f"({given['sha256'][:16]}…).",
            do="Pass the checkpoint that it was made from.",
        )
    dataset = open_dataset(data)
    labels = check_labels(dataset, onnx_manifest.details["num_classes"])
    preprocessing = Preprocessing.from_dict(onnx_manifest.details["preprocessing"])

    reference = reference_predictions(
        checkpoint, dataset, preprocessing, folder, weights=onnx_manifest.details["weights"]
    )
    classes = predict(OnnxRunner(onnx_path), dataset, preprocessing, f"validate {onnx_path.name}")
    metrics = accuracy(reference, classes, labels)
    details = metrics | {
        "images": len(dataset),
        "runtime": "ONNX Runtime, CPU",
        "max_drop_points": max_drop,
        "within_max_drop": metrics["drop_points"] <= max_drop,
    }
    parents = [parent_of(onnx_path, onnx_manifest), given, dataset.as_parent()]
    path = folder / f"{onnx_path.stem}.predictions.npz"
    manifest = write_predictions(path, classes, parents, onnx_manifest.recipe, details, time.monotonic() - start)
    logger.info(
        "validate: %s, top-1 %.2f %%, drop %.2f points, in %.1f s",
        onnx_path.name, metrics["top1_percent"], metrics["drop_points"], manifest.seconds,
    )  # fmt: skip
    return path, manifest


def reference_predictions(
    checkpoint: Path, dataset: Dataset, preprocessing: Preprocessing, folder: Path, weights: str | None
) -> np.ndarray:
    """The float32 PyTorch model's best classes, kept in the folder so that one run serves every precision."""
    path = folder / f"{checkpoint.stem}.reference.predictions.npz"
    parents = [parent_of(checkpoint), dataset.as_parent()]
    settings = {"preprocessing": preprocessing.to_dict(), "weights": weights}
    if path.is_file() and manifest_path(path).is_file():
        known = read_manifest(path, PREDICTIONS)
        if known.parents == parents and known.recipe == settings:
            with np.load(path) as arrays:
                return arrays["classes"]
    start = time.monotonic()
    model = load_checkpoint(checkpoint, weights)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    classes = predict(run, dataset, preprocessing, "float32 reference")
    details = {"images": len(dataset), "runtime": "PyTorch, float32, CPU"}
    write_predictions(path, classes, parents, settings, details, time.monotonic() - start)
    return classes
