"""Composed scenes as files that public tools read: JPEG pictures, COCO JSON, label PNGs as ADE20K has them.

COCO: categories 1 to 10 in the order of CLASSES; masks as run lengths (RLE). Label PNG: 0 to 9 are the classes, 10 is
the background (ADE20K's own maps count from 1 and have nothing for 0; mmseg's reduce_zero_label makes these of them).
"""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scenes.compose import CLASSES, Composer, Scene
from tqdm import tqdm

JPEG_QUALITY = 85


def write_pictures(folder: Path, composer: Composer, count: int) -> list[Scene]:
    """The first scenes of a composer as 0000.jpg, 0001.jpg, …; what they were made from comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [composer.scene(index) for index in tqdm(range(count), folder.name)]
    for index, scene in enumerate(scenes):
        bgr = np.ascontiguousarray(scene.image[..., ::-1])
        if not cv2.imwrite(str(folder / f"{index:04}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise SystemExit(f"{folder} cannot be written.")
    return scenes


def write_labels(folder: Path, scenes: list[Scene]) -> None:
    """The label of every pixel as 0000.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes):
        if not cv2.imwrite(str(folder / f"{index:04}.png"), scene.semantic, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
            raise SystemExit(f"{folder} cannot be written.")


def coco_annotations(scenes: list[Scene]) -> dict:
    """The scenes' boxes and masks as COCO's JSON has them."""
    annotations = []
    for index, scene in enumerate(scenes):
        for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
            run_lengths = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": run_lengths["size"], "counts": run_lengths["counts"].decode()},
                }
            )
    images = [
        {"id": index, "file_name": f"{index:04}.jpg", "height": scene.image.shape[0], "width": scene.image.shape[1]}
        for index, scene in enumerate(scenes)
    ]
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_annotations(path: Path, scenes: list[Scene]) -> None:
    """COCO's JSON, as small as it gets."""
    path.write_text(json.dumps(coco_annotations(scenes), separators=(",", ":")) + "\n")
