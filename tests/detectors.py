"""A detector or segmenter that is validated: its checkpoint, its images, and who plays the models' parts."""

import numpy as np
import pytest

from rmt_edge.accuracy.reference import reference_predictions
from rmt_edge.accuracy.validate import validate
from rmt_edge.data.dataset import open_dataset
from tests.coco import instances, rows_near, write_coco
from tests.pictured import Seer, onnx_of, write_checkpoint, write_label_maps

IMAGES = 8
HEADS = {"mask_rcnn": "mask AP", "retinanet": "box AP", "semantic_fpn": "mIoU"}
TOO_FAR = 30.0  # pixels, beyond which a box is not found


class Case:
    """A head, its checkpoint, its images, and the predictions of the float32 model, whose part a Seer plays."""

    def __init__(self, head, folder):
        self.head, self.folder = head, folder
        self.checkpoint = write_checkpoint(head, folder)
        if head == "semantic_fpn":
            pictures, annotations = write_label_maps(folder, IMAGES)
        else:
            self.content = instances(IMAGES)
            annotations, pictures = write_coco(self.content, folder)
        self.data = open_dataset(pictures, annotations=annotations)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rmt_edge.accuracy.reference.runner_of", lambda *_: self.seer())
            self.reference = reference_predictions(self.checkpoint, self.data, folder)

    def seer(self, noise=0.0):
        """What finds most of it; the more noise, the less."""
        if self.head == "semantic_fpn":
            rng = np.random.default_rng(1)
            maps = [self.data.annotations.read(i) % 255 for i in range(IMAGES)]
            return Seer(self.data, [np.where(rng.random(x.shape) < 0.1 + noise, 0, x) for x in maps])
        rows = rows_near(self.content, seed=3)
        rows["boxes"] += np.random.default_rng(2).normal(0, 1, rows["boxes"].shape) * noise * TOO_FAR
        rows["boxes"][..., 2:] = np.maximum(rows["boxes"][..., :2] + 1, rows["boxes"][..., 2:])
        return Seer(self.data, rows, self.head == "mask_rcnn")

    def validate(self, folder, noise=0.0, runner=None, recipe="int8", **options):
        onnx = onnx_of(self.checkpoint, folder, recipe)
        return validate(
            onnx, self.data, self.reference, runner=runner or self.seer(noise), **{"max_drop": 100} | options
        )
