"""The float32 model's AP and mIoU on shipped scenes, by pycocotools and by counting pixels.

Source of the metrics: COCOeval at IoU 0.5:0.05:0.95; mmseg's mean of intersection over union.
"""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from tqdm import tqdm

from rmt_edge.data.preprocess import normalise
from rmt_edge.model.spec import MASK_RCNN, SEMANTIC_FPN
from rmt_edge.tasks.masks import pasted

RESAMPLES = 100
AT_A_TIME = 4  # images


def read_images(folder: Path, names: list[str]) -> np.ndarray:
    """(b, h, w, 3) uint8 RGB."""
    return np.stack([cv2.imread(str(folder / name))[..., ::-1] for name in names])


@torch.no_grad()
def outputs_of(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """The model's outputs by name. images: (b, h, w, 3) uint8 RGB."""
    frames = [model.preprocessing.frame(*x.shape[:2]) for x in images]  # of their own size: nothing is resized
    tensor = torch.from_numpy(normalise(images, model.preprocessing, frames))
    found = model(tensor)
    return {name: x.numpy() for name, x in found.items()}


def coco_results(model: nn.Module, folder: Path, annotations: Path, count: int | None = None) -> list[dict]:
    """What the model finds in the first `count` scenes, as COCO's result files have it."""
    images = json.loads(annotations.read_text())["images"][:count]
    results = []
    for start in tqdm(range(0, len(images), AT_A_TIME), model.head_name):
        part = images[start : start + AT_A_TIME]
        found = outputs_of(model, read_images(folder, [x["file_name"] for x in part]))
        for row, image in enumerate(part):
            for number in range(int(found["count"][row])):
                results.append(_result(found, row, number, image))
    return results


def _result(found: dict[str, np.ndarray], row: int, number: int, image: dict) -> dict:
    """One detection; categories count from 1."""
    x1, y1, x2, y2 = found["boxes"][row, number].astype(float)
    result = {
        "image_id": image["id"],
        "category_id": int(found["labels"][row, number]) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": float(found["scores"][row, number]),
    }
    if "masks" in found:
        height, width = image["height"], image["width"]
        mask = pasted(found["masks"][row, number], found["boxes"][row, number], height, width).whole(height, width)
        result["segmentation"] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return result


def average_precision(annotations: Path, results: list[dict], kind: str, count: int | None = None) -> dict[str, float]:
    """AP, AP50 and AP75 in percent; of all images AP's 95 % interval too, by resampling them. kind: bbox or segm."""
    with contextlib.redirect_stdout(io.StringIO()):
        if not results:
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes([dict(x) for x in results]), kind)
        evaluation.params.imgIds = evaluation.params.imgIds[:count]
        evaluation.evaluate()
        evaluation.accumulate()
    stats = _precisions(evaluation.eval["precision"])
    if count is not None:
        return stats
    low, high = np.percentile(resampled(evaluation), (2.5, 97.5))
    return stats | {"AP_low": round(float(low), 2), "AP_high": round(float(high), 2)}


def _precisions(precision: np.ndarray) -> dict[str, float]:
    """precision: (IoU thresholds, recalls, classes, areas, most boxes), -1 where a class has no item."""
    of_all = precision[:, :, :, 0, -1]
    rows = {"AP": of_all, "AP50": of_all[:1], "AP75": of_all[5:6]}
    return {name: round(100 * float(x[x > -1].mean()), 2) for name, x in rows.items()}


def resampled(evaluation: COCOeval) -> list[float]:
    """AP of as many images, drawn with replacement, RESAMPLES times, in percent."""
    images, classes = len(evaluation.params.imgIds), len(evaluation.params.catIds)
    areas = len(evaluation.params.areaRng)
    rows = np.array(evaluation.evalImgs, dtype=object).reshape(classes, areas, images)[:, :1]
    kept = evaluation.evalImgs, evaluation.params, evaluation._paramsEval
    for name in ("params", "_paramsEval"):
        parameters = type(evaluation.params)(iouType=evaluation.params.iouType)
        parameters.imgIds, parameters.catIds = evaluation.params.imgIds, evaluation.params.catIds
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
        parameters.maxDets = parameters.maxDets[-1:]
        setattr(evaluation, name, parameters)
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        evaluation.evalImgs = rows[:, :, rng.integers(images, size=images)].ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        found.append(_precisions(evaluation.eval["precision"])["AP"])
    evaluation.evalImgs, evaluation.params, evaluation._paramsEval = kept
    return found


def mean_iou(model: nn.Module, folder: Path, labels: Path, count: int | None = None) -> dict[str, object]:
    """mIoU in percent with its 95 % interval by resampling images, and every class's IoU."""
    names = sorted(x.stem for x in labels.glob("*.png"))[:count]
    classes = model.num_classes
    counts = np.zeros((len(names), 3, classes), np.int64)  # of each image: both, truth, found
    for start in tqdm(range(0, len(names), AT_A_TIME), model.head_name):
        part = names[start : start + AT_A_TIME]
        found = outputs_of(model, read_images(folder, [f"{x}.jpg" for x in part]))["labels"]
        for row, name in enumerate(part):
            truth = cv2.imread(str(labels / f"{name}.png"), cv2.IMREAD_GRAYSCALE).astype(np.int64)
            both = np.where(truth == found[row], truth, -1)
            for kind, x in enumerate((both, truth, found[row])):
                counts[start + row, kind] = np.bincount(x[(truth >= 0) & (x >= 0)].ravel(), minlength=classes)

    def iou(chosen: np.ndarray) -> np.ndarray:
        both, truth, found = counts[chosen].sum(axis=0)
        return both / np.maximum(truth + found - both, 1)

    rng = np.random.default_rng(0)
    means = [100 * iou(rng.integers(len(names), size=len(names))).mean() for _ in range(1000)]
    low, high = np.percentile(means, (2.5, 97.5))
    by_class = 100 * iou(np.arange(len(names)))
    return {
        "mIoU": round(float(by_class.mean()), 2),
        "mIoU_low": round(float(low), 2),
        "mIoU_high": round(float(high), 2),
        "IoU": [round(float(x), 2) for x in by_class],
    }


def scores_of(model: nn.Module, folder: Path, count: int | None = None) -> dict[str, object]:
    """The model's scores on scenes in a folder of images/, labels/ and annotations.json."""
    if model.head_name == SEMANTIC_FPN:
        return mean_iou(model, folder / "images", folder / "labels", count)
    annotations = folder / "annotations.json"
    results = coco_results(model, folder / "images", annotations, count)
    kinds = ("bbox", "segm") if model.head_name == MASK_RCNN else ("bbox",)
    return {kind: average_precision(annotations, results, kind, count) for kind in kinds}


def as_shipped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are shipped: in half precision, to stay small. Statistics and tables stay float32."""
    exact = ("running_mean", "running_var", "Relpos.angle", "Relpos.decay")
    return {
        name: x.half().contiguous() if x.is_floating_point() and not name.endswith(exact) else x.contiguous()
        for name, x in state.items()
    }
