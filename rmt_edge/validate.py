"""Validate: the accuracy of an ONNX file against its checkpoint, over a whole data set.

Reference: the float32 PyTorch model as published, out of the very checkpoint. Subject: the very ONNX file that engines
are built from, through ONNX Runtime. Both see the same preprocessed images; all metrics are paired per image. The five
best classes of every image are kept, so that any other metric can be computed later.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rmt_edge.artifact import (
    ONNX,
    PREDICTIONS,
    Manifest,
    manifest_path,
    output_folder,
    parent_of,
    read_manifest,
    write_manifest,
    written_whole,
)
from rmt_edge.data import Dataset, check_labels, open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import drop_interval_points, drop_points, hits, percent, top_classes
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.onnx_runner import OnnxRunner
from rmt_edge.preprocess import Preprocessing

MAX_DROP_POINTS = 0.5
BATCH = 50
KEPT = 5  # classes kept per image
logger = logging.getLogger(__name__)


def validate(
    onnx_path: Path, checkpoint: Path, data: Path, output: Path | None = None, max_drop: float | None = None
) -> tuple[Path, Manifest]:
    """Write the predictions of an ONNX file and, in their manifest, its accuracy; returns both.

    data: a data set with labels that fit the checkpoint's classes. max_drop: points of top-1 that may be lost.
    """
    start = time.monotonic()
    if max_drop is None:
        max_drop = MAX_DROP_POINTS
    elif not 0 <= max_drop <= 100:
        raise RmtEdgeError(f"--max-drop is {max_drop:g}.", "it is a number of points, 0 to 100.")
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
    manifest = _write_predictions(path, classes, parents, onnx_manifest.recipe, details, time.monotonic() - start)
    logger.info(
        "validate: %s, top-1 %.2f %%, drop %.2f points, in %.1f s",
        onnx_path.name, metrics["top1_percent"], metrics["drop_points"], manifest.seconds,
    )  # fmt: skip
    return path, manifest


def drop_message(manifest: Manifest) -> str:
    """One sentence for a drop above the limit."""
    details = manifest.details
    return (
        f"{manifest.parents[0]['name']} loses {details['drop_points']:.2f} points of top-1 "
        f"({details['reference_top1_percent']:.2f} % → {details['top1_percent']:.2f} %), "
        f"more than the {details['max_drop_points']:g} that --max-drop allows."
    )


def accuracy(reference: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict:
    """All metrics of one model against another. reference, classes: (n, k) classes, best first; labels: (n,)."""
    reference_hits, subject_hits = hits(reference[:, :1], labels), hits(classes[:, :1], labels)
    return {
        "top1_percent": percent(subject_hits),
        "top5_percent": percent(hits(classes[:, :5], labels)),
        "reference_top1_percent": percent(reference_hits),
        "reference_top5_percent": percent(hits(reference[:, :5], labels)),
        "drop_points": drop_points(reference_hits, subject_hits),
        "drop_interval_points": list(drop_interval_points(reference_hits, subject_hits)),
        "agreement_percent": percent(reference[:, 0] == classes[:, 0]),
    }


def predict(
    run: Callable[[np.ndarray], np.ndarray], dataset: Dataset, preprocessing: Preprocessing, title: str
) -> np.ndarray:
    """The best classes of every image, best first. (n, min(5, classes)), int32."""
    batches = dataset.batches(preprocessing, BATCH)
    total = -(-len(dataset) // BATCH)
    found = []
    for images, _ in tqdm(batches, title, total, unit="batch", leave=False):
        logits = run(images)
        if not np.isfinite(logits).all():
            raise RmtEdgeError(
                f"{title}: the logits hold NaN or infinite values.",
                "FP16 ends at 65504; a model with larger activations overflows.",
                "Use the recipe fp32 to see whether it is the precision.",
            )
        found.append(top_classes(logits, KEPT).astype(np.int32))
    return np.concatenate(found)


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
    _write_predictions(path, classes, parents, settings, details, time.monotonic() - start)
    return classes


def _write_predictions(
    path: Path, classes: np.ndarray, parents: list[dict[str, str]], recipe: dict, details: dict, seconds: float
) -> Manifest:
    with written_whole(path) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, classes=classes)
        return write_manifest(
            temporary, path, kind=PREDICTIONS, parents=parents, recipe=recipe, details=details, seconds=seconds
        )
