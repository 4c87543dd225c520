"""Score: predictions of a detector by pycocotools itself, wherever they were made, and as the JSON that others read.

A device needs no pycocotools: what it found comes back as a file of predictions and is scored here. The AP in the
record was computed by rmt-edge's own arithmetic (tasks/average_precision.py); if pycocotools says otherwise, that is
our bug and told as one.
"""

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.artifact import DATA, PREDICTIONS, Artifact, read_artifact
from rmt_edge.data.dataset import Dataset, open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import Annotations
from rmt_edge.tasks.detection import BOX_AP, MASK_AP, crops_of
from rmt_edge.tasks.masks import runs_of, string_of
from rmt_edge.tasks.task import Rows
from rmt_edge.tasks.tasks import DETECTION
from rmt_edge.writing import write_json

NUMBERS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100", "AR small",
           "AR medium", "AR large")  # fmt: skip
KINDS = {MASK_AP: "segm", BOX_AP: "bbox"}
SAME_POINTS = 1e-4  # the record and pycocotools differ by less: float64 sums in another order
logger = logging.getLogger(__name__)


def score(predictions: Path | Artifact, data: Path | Dataset, annotations: Path, output: Path | None = None) -> Path:
    """Write `<predictions>.coco.json`, pycocotools' twelve numbers by metric, and what it read; returns its path.

    data, annotations: the images that were predicted on (open_dataset), whole; those that were drawn of them are found
    by their number. `<predictions>.boxes.json` and `.masks.json` are lists as COCO's loadRes and its servers take them.
    """
    found = read_artifact(predictions, PREDICTIONS)
    if found.details.get("task") != DETECTION or found.manifest.find_parent(DATA) is None:
        raise RmtEdgeError(f"{found.path} holds no predictions of a detector.", "COCO's scorer counts boxes and masks.")
    dataset = open_dataset(data, annotations=annotations)
    known = found.manifest.parent(DATA)
    if known["sha256"] != dataset.sha256:
        raise RmtEdgeError(f"{found.path.name} is of other images than {dataset.path} ({known['name']}).")
    dataset = dataset.drawn(found.details["images"])
    truth, rows = dataset.truth, rows_in(found)
    assert isinstance(truth, Annotations)
    folder = output or found.path.parent
    content: dict[str, Any] = {"predictions": found.identity, "images": len(truth), "scorer": "pycocotools"}
    for metric in (x for x in KINDS if f"{x}/images" in rows):
        results = results_of(rows, truth, metric == MASK_AP)
        name = f"{found.path.stem}.{'masks' if metric == MASK_AP else 'boxes'}.json"
        (folder / name).write_text(json.dumps(results))
        content[metric] = dict(zip(NUMBERS, _coco_numbers(annotations, truth, results, KINDS[metric]), strict=True))
        told = {x["metric"]: x["percent"] for x in (found.details, *found.details.get("other_metrics", []))}
        assert abs(told[metric] - content[metric]["AP"]) < SAME_POINTS, (metric, told[metric], content[metric]["AP"])
    path = folder / f"{found.path.stem}.coco.json"
    write_json(path, content)
    return path


def results_of(rows: Rows, truth: Annotations, by_masks: bool) -> list[dict[str, Any]]:
    """What was found as COCO's results: image and category by their ids in the file."""
    found = []
    for i in range(len(truth)):
        height, width = truth.sizes[i].tolist()
        row = {name: rows[name][i] for name in ("boxes", "scores", "labels", "count", "masks") if name in rows}
        crops = crops_of(row, height, width) if by_masks else []
        for j in range(int(row["count"])):
            x1, y1, x2, y2 = (float(x) for x in row["boxes"][j])
            entry: dict[str, Any] = {"image_id": int(truth.ids[i]), "score": float(row["scores"][j])}
            entry["category_id"] = int(truth.class_ids[row["labels"][j]])
            if by_masks:
                runs = string_of(runs_of(crops[j].whole(height, width)))
                entry["segmentation"] = {"size": [height, width], "counts": runs}
            else:
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            found.append(entry)
    return found


def _coco_numbers(
    annotations: Path, truth: Annotations, results: list[dict[str, Any]], kind: str
) -> list[float | None]:
    """COCOeval's twelve, in percent; None where there is nothing of the kind."""
    if not results:
        return [0.0] * len(NUMBERS)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        coco = COCO(str(annotations))
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.params.imgIds = truth.ids.tolist()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if x < 0 else 100 * float(x) for x in np.asarray(evaluation.stats)[: len(NUMBERS)]]
