"""Sensitivity: which layers lose accuracy in INT8. One group of layers at a time in INT8, the rest in float32.

A group is the layers of one kind, of one stage, of one block, or of one kind in one stage (a cell). All groups run
under one set of calibrated ranges, in PyTorch, on the folded form (quantization/fake_quant.py): no export, no
engine.
"""

import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.accuracy.resume import finish
from rmt_edge.artifact import output_folder, versions, write_json
from rmt_edge.data.dataset import Dataset, check_labels, image_count, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.model.layers import KINDS, Layer, layers_of
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.search.outcome import Subject, calibrated_subject, evaluate, reference_percent, summary
from rmt_edge.settings import check_choice

BY = ("kind", "stage", "block", "cell")
DEFAULT_BY = ("kind", "stage", "block")
IMAGES = 128
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Layers that go to INT8 together. by: what they have in common, one of BY."""

    name: str
    by: str
    layers: frozenset[str]


def groups_of(variant_name: str, by: Sequence[str]) -> list[Group]:
    """The groups of a variant's layers, in the order of `by` and then in that in which their first layers run."""
    groups = []
    for which in by:
        check_choice("--by", which, BY)
        members: dict[str, list[str]] = {}
        for layer in layers_of(variant_name):
            if name := _group_name(layer, which):
                members.setdefault(name, []).append(layer.name)
        groups += [Group(name, which, frozenset(layers)) for name, layers in members.items()]
    return groups


def _group_name(layer: Layer, by: str) -> str | None:
    """The group of a layer, or None where it belongs to no stage or block."""
    assert layer.kind in KINDS, layer
    if by == "kind":
        return layer.kind
    if by == "stage":
        return None if layer.stage is None else f"stage {layer.stage}"
    if by == "block":
        return None if layer.block is None else f"stages.{layer.stage}.blocks.{layer.block}"
    return layer.kind if layer.stage is None else f"{layer.kind} stage {layer.stage}"


def sensitivity(
    checkpoint: Path | Checkpoint,
    recipe: QuantizationRecipe,
    output: Path,
    calibration: Path | None,
    data: Path,
    images: int | None = None,
    by: Sequence[str] = DEFAULT_BY,
    preprocessing: Preprocessing | None = None,
    weights: str | None = None,
    device: str | None = None,
) -> Path:
    """Write `<checkpoint>.sensitivity.json` into the folder `output`; returns its path.

    recipe: whose ranges (method, images), whatever layers it names. data: the images to measure on; without labels the
    fields of accuracy are null. images: how many are drawn of them, evenly over classes and folders (IMAGES, or all
    there are if fewer). device: see torch_device. Killed, it goes on.
    """
    start = time.monotonic()
    dataset = open_dataset(data)
    dataset = dataset.drawn(image_count(dataset, images, IMAGES))
    for which in by:
        check_choice("--by", which, BY)  # before the long step
    opened = open_checkpoint(checkpoint, weights)
    subject = calibrated_subject(opened, recipe, calibration, output_folder(output), preprocessing, device)
    labels = labels_of(dataset, subject)
    calibrated = time.monotonic() - start
    record = {
        "kind": "sensitivity",
        **subject.facts(),
        "data": dataset.identity,
        "recipe": {"name": recipe.name, "method": recipe.method, "images": recipe.images, "weights": recipe.weights},
        "images": len(dataset),
        "drawn": dataset.drawing(),
    }
    path = output / f"{opened.path.stem}.sensitivity.json"
    measured = measure_groups(subject, groups_of(subject.model.variant_name, by), dataset, labels, path)
    measured["seconds"] = round(measured["seconds"] + calibrated, 1)
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    write_json(path, record | measured | {"versions": versions(), "created": created})
    finish(path)
    logger.info("sensitivity: %s, %d groups in %.0f s", path.name, len(measured["groups"]), measured["seconds"])
    return path


def measure_groups(
    subject: Subject, groups: list[Group], dataset: Dataset, labels: np.ndarray | None, path: Path
) -> dict[str, Any]:
    """Each group alone in INT8: seconds, reference_percent and groups as the record holds them.

    path: see `evaluate`.
    """
    sets = {f"{group.by} {group.name}": group.layers for group in groups}
    outcomes = evaluate(subject, sets, dataset, path, "sensitivity")
    measured = [
        {"group": group.name, "by": group.by, "layers": sorted(group.layers)} | summary(outcomes, row, labels)
        for row, group in enumerate(groups)
    ]
    return {
        "seconds": outcomes.seconds,
        "reference_percent": reference_percent(outcomes, labels),
        "groups": measured,
    }


def labels_of(dataset: Dataset, subject: Subject) -> np.ndarray | None:
    """The labels, where the data set has them; they must fit the checkpoint's classes."""
    return None if dataset.labels is None else check_labels(dataset, subject.model.num_classes)


def table(record: dict[str, Any]) -> str:
    """The groups of a record as text, each kind of group from the most sensitive on."""
    lines = [f"{'in INT8, the rest float32':<28}{record['groups'][0]['metric']:>8}{'drop':>8}{'  95 % interval':<18}"]
    lines[0] += f"{'agreement':>10}{'KL, nats':>11}{'SQNR, dB':>10}"
    kinds = list(dict.fromkeys(group["by"] for group in record["groups"]))
    for group in sorted(record["groups"], key=lambda x: (kinds.index(x["by"]), -x["kl_nats"])):
        own, drop, interval = "-", "-", ""
        if group["drop_points"] is not None:
            low, high = group["drop_interval_points"]
            own, drop = f"{group['percent']:.2f}", f"{group['drop_points']:+.2f}"
            interval = f"  {low:+.2f} to {high:+.2f}"
        sqnr = "-" if group["sqnr_db"] is None else f"{group['sqnr_db']:.1f}"
        lines.append(
            f"{group['group']:<28}{own:>8}{drop:>8}{interval:<18}"
            f"{group['agreement_percent']:>10.2f}{group['kl_nats']:>11.2e}{sqnr:>10}"
        )
    return "\n".join(lines)
