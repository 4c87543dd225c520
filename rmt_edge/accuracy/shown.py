"""Pictures kept beside predictions, small: those of the images that changed most, for the report to draw on."""

import io
from typing import Any

import numpy as np

from rmt_edge.data.dataset import Dataset
from rmt_edge.tasks.task import Rows
from rmt_edge.tasks.tasks import CLASSIFICATION

SHOWN = 4  # pictures
LONGEST = 480  # pixels of a side
QUALITY = 85  # of the JPEG
INDEX, PICTURE = "shown", "shown/{}"


def shown_pictures(dataset: Dataset, accuracy: dict[str, Any]) -> Rows:
    """The pictures of the worst images of a record: their indices (k,), and each as the bytes of a JPEG.

    Of a classifier none: its worst images are a table of classes.
    """
    if accuracy["task"] == CLASSIFICATION:
        return {}
    indices = [int(x["index"]) for x in accuracy["worst_images"][:SHOWN]]
    found: Rows = {INDEX: np.array(indices, np.int64)}
    for i in indices:
        picture, file = dataset.read(i).convert("RGB"), io.BytesIO()
        picture.thumbnail((LONGEST, LONGEST))
        picture.save(file, format="JPEG", quality=QUALITY)
        found[PICTURE.format(i)] = np.frombuffer(file.getvalue(), np.uint8)
    return found
