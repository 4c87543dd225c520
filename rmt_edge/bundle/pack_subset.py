"""The validation subset of a bundle, written on a workstation: decoded, resized, and run through float32 PyTorch.

What a device reads of it is in subset.py (a classifier's) and found_subset.py (a detector's, a segmenter's).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_edge.accuracy.predictions import BATCH, judged_rows, outputs_of
from rmt_edge.accuracy.reference import runner_of
from rmt_edge.bundle.found_subset import REFERENCE, SIZES, TRUTH, FoundSubset, truth_arrays
from rmt_edge.bundle.subset import IMAGES, LABELS, LOGITS, NAMES, Subset
from rmt_edge.data.dataset import Dataset
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time
from rmt_edge.data.truth import check_truth
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import hits, percent, top_classes
from rmt_edge.model.checkpoint import Checkpoint
from rmt_edge.model.heads import spec_of
from rmt_edge.model.spec import ModelSpec
from rmt_edge.progress import progress_bar
from rmt_edge.tasks.tasks import TASKS

DEFAULT_IMAGES = 512


def choose_images(dataset: Dataset, spec: ModelSpec, images: int | None) -> Dataset:
    """The subset's images, drawn evenly over the classes of a classifier."""
    check_truth(dataset, TASKS[spec.task], spec)
    count = DEFAULT_IMAGES if images is None else images
    if not 0 < count <= len(dataset):
        raise RmtEdgeError(
            f"The validation subset is to have {count} images.", f"{dataset.path} has {len(dataset)}.",
            "Say how many with --images, or pass a larger data set.",
        )  # fmt: skip
    return dataset.drawn(count)


def write_subset(
    folder: Path, chosen: Dataset, of: int, preprocessing: Preprocessing, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Write the subset's arrays (subset.py, found_subset.py) under `folder`; returns what the index says of it.

    chosen: the subset's images; of: how many the data set has.
    """
    (folder / IMAGES).parent.mkdir()
    count, batch = len(chosen), images_at_a_time(preprocessing, BATCH)
    shape = (count, preprocessing.height, preprocessing.width, 3)
    with (folder / IMAGES).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for at in progress_bar(range(0, count, batch), "read images", unit="batch", leave=False):
            file.write(chosen.pixels(list(range(at, min(at + batch, count))), preprocessing).tobytes())
    names = [chosen.name(x) for x in range(count)]
    (folder / NAMES).write_text(json.dumps(names))
    judge = _write_labels if chosen.labels is not None else _write_found
    found = judge(folder, chosen, names, preprocessing, checkpoint)
    return {
        "images": count,
        "dataset": chosen.identity | {"images": of},
        "class_names": None if chosen.class_names is None else list(chosen.class_names),
        **found,
    }


def _write_labels(
    folder: Path, chosen: Dataset, names: list[str], preprocessing: Preprocessing, checkpoint: Checkpoint
) -> dict[str, Any]:
    """A classifier's: labels and the float32 model's logits; returns its accuracy."""
    assert chosen.labels is not None
    subset = Subset(np.load(folder / IMAGES, mmap_mode="r"), chosen.labels, names)
    logits = reference_logits(subset, preprocessing, checkpoint)
    np.save(folder / LABELS, subset.labels)
    np.save(folder / LOGITS, logits)
    right = hits(top_classes(logits, 1), subset.labels)
    return {"metric": "top-1", "reference_percent": percent(right)}


def _write_found(
    folder: Path, chosen: Dataset, names: list[str], preprocessing: Preprocessing, checkpoint: Checkpoint
) -> dict[str, Any]:
    """A detector's or segmenter's: truth and what the float32 model finds; returns its accuracy."""
    spec = spec_of(checkpoint.model, preprocessing)
    task = TASKS[spec.task]
    truth = check_truth(chosen, task, spec)
    sizes = np.array([chosen.size(i) for i in range(len(chosen))], np.int64)
    np.save(folder / SIZES, sizes)
    np.savez(folder / TRUTH, **truth_arrays(truth, sizes))  # type: ignore[arg-type]  # not compressed: the members' sizes bound what is read
    subset = FoundSubset(np.load(folder / IMAGES, mmap_mode="r"), sizes, truth, names, preprocessing)
    run = runner_of(checkpoint.model, torch.device("cpu"))
    batch = images_at_a_time(preprocessing, BATCH)
    rows = judged_rows(task, spec, run, subset, preprocessing, "float32 reference", batch)
    np.savez(folder / REFERENCE, **rows)  # type: ignore[arg-type]
    metric, tally = next(iter(task.tallies_in(rows).items()))
    return {"metric": metric, "reference_percent": tally.percent()}


def reference_logits(subset: Subset, preprocessing: Preprocessing, checkpoint: Checkpoint) -> np.ndarray:
    """The logits of the float32 PyTorch model as published. (n, classes), float32."""
    # On the CPU whatever there is, so that the same inputs give the same bytes.
    run, batch = runner_of(checkpoint.model, torch.device("cpu")), images_at_a_time(preprocessing, BATCH)
    spec = spec_of(checkpoint.model, preprocessing)
    outputs = outputs_of(run, subset, preprocessing, TASKS[spec.task], spec, "float32 reference", batch)
    return np.concatenate([x["logits"] for x in outputs])
