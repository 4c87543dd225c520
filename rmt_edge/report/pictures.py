"""The pictures of a report: what the float32 model and a candidate find in the images on which they differ most."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.accuracy.shown import INDEX, LONGEST, PICTURE
from rmt_edge.artifact import PREDICTIONS, Artifact, ArtifactFolder
from rmt_edge.pictures.draw import with_labels, with_objects
from rmt_edge.tasks.detection import LEVELS
from rmt_edge.tasks.detection_facts import SURE
from rmt_edge.tasks.label_maps import nearest
from rmt_edge.tasks.masks import pasted
from rmt_edge.tasks.task import Rows

QUALITY = 82  # of the JPEG: a page of four candidates stays below 1 MB


def pictures_between(folder: ArtifactFolder, reference_name: str, predictions: Artifact) -> list[dict[str, Any]]:
    """{"name", "reference", "own"} of each picture that lies in the predictions: two JPEGs as base64; none without."""
    own = rows_in(predictions)
    if INDEX not in own or not (folder.path / reference_name).is_file():
        return []
    reference = rows_in(folder.read(reference_name, PREDICTIONS))
    names = {x["index"]: x["name"] for x in predictions.details["worst_images"]}
    classes = {x["class"]: x["name"] for x in predictions.details["per_class"]}
    found = []
    for i in own[INDEX].tolist():
        with Image.open(io.BytesIO(own[PICTURE.format(i)].tobytes())) as picture:
            both = {
                key: _drawn(picture, rows, own, i, classes) for key, rows in (("reference", reference), ("own", own))
            }
        found.append({"name": names[i]} | {key: _base64(x) for key, x in both.items()})
    return found


def _drawn(picture: Image.Image, rows: Rows, own: Rows, index: int, classes: dict[int, str]) -> Image.Image:
    larger = LONGEST / max(picture.size)
    picture = picture.resize([round(x * larger) for x in picture.size], Image.Resampling.BICUBIC)
    if "map" in rows:
        height, width = rows["map_size"][index].tolist()
        return with_labels(picture, nearest(rows["map"][index][:height, :width], picture.height, picture.width))
    sure = np.flatnonzero(rows["scores"][index][: int(rows["count"][index])] >= SURE)
    original = rows["original_size"][index]
    scale = np.array([picture.width / original[1], picture.height / original[0]] * 2, np.float32)
    boxes, labels = rows["boxes"][index][sure] * scale, rows["labels"][index][sure].tolist()
    captions = [
        f"{classes.get(x, x)} {score:.2f}"
        for x, score in zip(labels, rows["scores"][index][sure].tolist(), strict=True)
    ]
    masks = []
    if "masks" in rows:
        probabilities = rows["masks"][index][sure].astype(np.float32) / LEVELS
        masks = [pasted(x, box, picture.height, picture.width) for x, box in zip(probabilities, boxes, strict=True)]
    return with_objects(picture, boxes, labels, captions, masks)


def _base64(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()
