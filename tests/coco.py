"""Composed annotations and detections, in COCO's own form and as rmt-edge holds them."""

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SPEC = SimpleNamespace(classes=3, height=96, width=128, has_masks=True)
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 7, "name": "owl"}]  # ids have gaps


def instances(images: int = 24, seed: int = 0, height: int = 90, width: int = 120) -> dict:
    """A COCO file: polygons, run lengths of crowds, an image without objects, objects of every size."""
    rng = np.random.default_rng(seed)
    pictures = [
        {"id": 100 + 3 * i, "file_name": f"{i:03}.png", "height": height, "width": width} for i in range(images)
    ]
    found = []
    for picture in pictures[1:]:
        for _ in range(rng.integers(1, 6)):
            x, y = rng.integers(0, width - 12), rng.integers(0, height - 12)
            w, h = rng.integers(6, width - x), rng.integers(6, height - y)
            crowd = int(rng.random() < 0.15)
            if crowd:
                mask = np.zeros((height, width), np.uint8)
                mask[y : y + h, x : x + w] = rng.random((h, w)) < 0.7
                segmentation = {"size": [height, width], "counts": plain_runs(mask)}
                area = int(mask.sum())
            else:
                x, y, w, h = (int(v) for v in (x, y, w, h))
                segmentation = [[x, y, x + w, y, x + w, y + h * 0.8, x + w * 0.3, y + h]]
                area = 0.85 * w * h
            found.append(
                {"id": len(found) + 1, "image_id": picture["id"], "category_id": CATEGORIES[rng.integers(3)]["id"]}
                | {"bbox": [int(v) for v in (x, y, w, h)], "area": float(area), "iscrowd": crowd}
                | {"segmentation": segmentation}
            )
    return {"images": pictures, "annotations": found, "categories": CATEGORIES}


def plain_runs(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F").tolist()
    runs, value = [0], 0
    for x in flat:
        if x != value:
            runs.append(0)
            value = x
        runs[-1] += 1
    return runs


def rows_near(content: dict, seed: int = 1, noise: float = 4.0, shift: float = 0.0) -> dict[str, np.ndarray]:
    """What a middling detector finds: most objects, moved a little, some twice, and boxes where nothing is."""
    from rmt_edge.tasks import detection

    rng = np.random.default_rng(seed)
    rows = np.zeros(len(content["images"]), detection.record(SPEC))
    numbers = {x["id"]: i for i, x in enumerate(CATEGORIES)}
    for row, picture in zip(rows, content["images"], strict=True):
        boxes, labels, scores = [], [], []
        for x in (x for x in content["annotations"] if x["image_id"] == picture["id"]):
            for _ in range(rng.choice(3, p=[0.15, 0.65, 0.2])):
                left, top, w, h = x["bbox"]
                moved = np.array([left, top, left + w, top + h]) + rng.normal(0, noise, 4) + shift
                boxes.append([*np.minimum(moved[:2], moved[2:] - 1), *moved[2:]])
                labels.append(numbers[x["category_id"]] if rng.random() < 0.9 else rng.integers(3))
                scores.append(rng.random())
        for _ in range(rng.integers(0, 4)):
            at, side = rng.random(2) * 60, 4 + rng.random(2) * 50
            boxes.append([*at, *(at + side)])
            labels.append(rng.integers(3))
            scores.append(round(rng.random(), 1))  # equal scores too
        order = np.argsort(-np.array(scores, np.float32), kind="stable")
        n = row["count"] = len(boxes)
        limits = [picture["width"], picture["height"]] * 2
        row["boxes"][:n] = np.clip(np.array(boxes, np.float32).reshape(-1, 4)[order], 0, limits)
        row["scores"][:n], row["labels"][:n] = np.array(scores)[order], np.array(labels)[order]
        row["masks"][:n] = np.where(rng.random((n, 28, 28)) < 0.9, 230, 10)
    return {name: rows[name] for name in rows.dtype.names}


def coco_eval(tool, content: dict, results: list[dict], kind: str, tmp_path: Path) -> np.ndarray:
    """The twelve numbers of COCOeval, by pycocotools or whatever has its interface. kind: bbox or segm."""
    coco_class, eval_class = tool
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_class(str(path))
        evaluation = eval_class(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats[:12])


def write_coco(content: dict, folder: Path) -> tuple[Path, Path]:
    """The JSON file and the folder of its pictures, of noise; their paths."""
    from PIL import Image

    path, pictures = folder / "instances.json", folder / "pictures"
    path.write_text(json.dumps(content))
    pictures.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    for x in content["images"]:
        pixels = rng.integers(0, 256, (x["height"], x["width"], 3), np.uint8)
        Image.fromarray(pixels).save(pictures / x["file_name"])
    return path, pictures


def results_of(rows: dict[str, np.ndarray], truth, by_masks: bool) -> list[dict]:
    """Rows as the list that COCO's loadRes takes, masks encoded by pycocotools."""
    from pycocotools import mask as mask_tool

    from rmt_edge.tasks import detection

    found = []
    for i in range(len(truth)):
        row = {name: rows[name][i] for name in ("boxes", "scores", "labels", "count", "masks")}
        size = truth.sizes[i].tolist()
        crops = detection.crops_of(row, *size) if by_masks else []
        for j in range(int(row["count"])):
            x1, y1, x2, y2 = (float(v) for v in row["boxes"][j])
            entry = {"image_id": int(truth.ids[i]), "category_id": int(truth.class_ids[row["labels"][j]])}
            entry["score"] = float(row["scores"][j])
            if by_masks:
                runs = mask_tool.encode(np.asfortranarray(crops[j].whole(*size).astype(np.uint8)))
                entry["segmentation"] = runs | {"counts": runs["counts"].decode()}
            else:
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            found.append(entry)
    return found
