"""COCO's annotations: a JSON file of boxes, polygons and run lengths, and the folder that its pictures lie in.

Format: cocodataset.org/#format-data. Classes are numbered in the order of the category list, whose ids have gaps;
pictures go by their ids, as pycocotools has them. Polygons become run lengths by pycocotools.
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import Annotations
from rmt_edge.tasks.masks import runs_in


def read_annotations(path: Path, folder: Path) -> tuple[Annotations, tuple[Path, ...], str]:
    """The objects, the pictures' files in the same order, and the sha256 of the JSON file.

    folder: of the pictures; a file that is not there is an error. A box may reach beyond its picture, as COCO's
    scorer has it; one wholly outside is an error.
    """
    try:
        text = path.read_bytes()
        content = json.loads(text)
        pictures, objects, categories = (content[key] for key in ("images", "annotations", "categories"))
        found = _annotations(path, pictures, objects, categories)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RmtEdgeError(
            f"{path} is no file of COCO annotations: {type(error).__name__} {error}.",
            "it is a JSON file of images, annotations and categories (instances_val2017.json).",
        ) from error
    by_id = {x["id"]: x["file_name"] for x in pictures}
    files = tuple(folder / by_id[number] for number in found.ids.tolist())
    missing = [x for x in files if not x.is_file()]
    if missing:
        raise RmtEdgeError(
            f"{len(missing)} of the {len(files)} pictures of {path} are not in {folder}, the first {missing[0].name}.",
            do="Pass the folder of these pictures as the data set.",
        )
    return found, files, hashlib.sha256(text).hexdigest()


def _annotations(path: Path, pictures: list[Any], objects: list[Any], categories: list[Any]) -> Annotations:
    for what, items in (("picture", pictures), ("annotation", objects), ("category", categories)):
        ids = [x["id"] for x in items]
        if len(set(ids)) < len(ids):
            twice = next(x for i, x in enumerate(ids) if x in ids[:i])
            raise RmtEdgeError(f"{path} has two entries of the {what} {twice}.", "every id is there once.")
    if not pictures:
        raise RmtEdgeError(f"{path} names no pictures.")
    pictures = sorted(pictures, key=lambda x: x["id"])
    place = {x["id"]: i for i, x in enumerate(pictures)}
    number = {x["id"]: i for i, x in enumerate(categories)}
    for x in objects:
        if x["image_id"] not in place:
            raise RmtEdgeError(
                f"{path}: annotation {x['id']} is of the picture {x['image_id']}, which it does not list."
            )
        if x["category_id"] not in number:
            raise RmtEdgeError(
                f"{path}: annotation {x['id']} is of category {x['category_id']}, which it does not list."
            )
    objects = sorted(objects, key=lambda x: place[x["image_id"]])  # stable: as pycocotools has them
    sizes = np.array([[x["height"], x["width"]] for x in pictures], np.int64)
    image = np.array([place[x["image_id"]] for x in objects], np.int64)
    boxes = np.array([x["bbox"] for x in objects], np.float64).reshape(-1, 4)
    boxes = _checked_boxes(
        path, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), sizes[image], objects
    )
    has_masks = bool(objects) and all(x.get("segmentation") for x in objects)
    runs = [_runs(path, x, *sizes[i].tolist()) for x, i in zip(objects, image, strict=True)] if has_masks else []
    return Annotations(
        sizes=sizes,
        image=image,
        label=np.array([number[x["category_id"]] for x in objects], np.int64),
        boxes=boxes,
        area=np.array([x["area"] for x in objects], np.float64),
        is_crowd=np.array([bool(x.get("iscrowd", 0)) for x in objects], bool),
        class_names=tuple(str(x["name"]) for x in categories),
        ids=np.array([x["id"] for x in pictures], np.int64),
        class_ids=np.array([x["id"] for x in categories], np.int64),
        runs=np.concatenate(runs) if has_masks else None,
        run_ends=np.cumsum([len(x) for x in runs], dtype=np.int64) if has_masks else None,
    )


def _checked_boxes(path: Path, boxes: np.ndarray, sizes: np.ndarray, objects: list[Any]) -> np.ndarray:
    """The boxes (m, 4) x1 y1 x2 y2, if none lies wholly outside its picture. sizes: (m, 2) of their pictures."""
    for i in np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)):
        raise RmtEdgeError(f"{path}: the box of annotation {objects[i]['id']} is {objects[i]['bbox']}.", "x y w h.")
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1)
    outside = (boxes[:, :2] >= limits[:, :2]).any(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    for i in np.flatnonzero(outside):
        raise RmtEdgeError(
            f"{path}: the box {objects[i]['bbox']} of annotation {objects[i]['id']} lies outside its picture, "
            f"{sizes[i, 1]}x{sizes[i, 0]} pixels.",
            do="Look whether the annotations are of these pictures.",
        )
    return boxes


def _runs(path: Path, entry: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The run lengths of one object's mask: of polygons, of run lengths as numbers or as a string."""
    segmentation = entry["segmentation"]
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise RmtEdgeError(
                f"{path}: the mask of annotation {entry['id']} is of {segmentation['size']}, its picture of "
                f"{[height, width]}."
            )
        counts = segmentation["counts"]
        runs = runs_in(counts) if isinstance(counts, str) else np.array(counts, np.uint32)
        if int(runs.sum(dtype=np.int64)) != height * width:
            raise RmtEdgeError(f"{path}: the mask of annotation {entry['id']} does not cover its picture.")
        return runs
    tool: Any = _mask_tool()
    merged = tool.merge(tool.frPyObjects(segmentation, height, width))
    return runs_in(merged["counts"].decode())


def _mask_tool() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise RmtEdgeError(
            "pycocotools is not installed.", "polygons become masks by it.", "pip install pycocotools"
        ) from error
