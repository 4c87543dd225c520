"""Masks against the golden files of the public code and against pycocotools."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_tool

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.masks import Crop, mask_of, overlaps, pasted, runs_in, runs_of, string_of
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "downstream"
WRONG_PIXELS = 0.001  # of the pixels that are set (DOWNSTREAM, 15)


@pytest.mark.parametrize("levels", [None, 255])
@pytest.mark.parametrize("name", ["maskrcnn_t_240x310", "cascade_s_240x310"])
def test_pasted_masks_are_the_public_codes(name, levels):
    """levels: as a file of predictions keeps the probabilities."""
    with np.load(GOLDEN / f"{name}.npz") as golden:
        boxes, probabilities = golden["boxes"], golden["mask_probabilities"]
        height, width = json.loads(str(golden["case"]))["original"]
        packed = [np.unpackbits(x)[: height * width].reshape(height, width) for x in golden["masks_packed"]]
    if levels:
        probabilities = np.rint(probabilities * levels).astype(np.uint8).astype(np.float32) / np.float32(levels)
    found = [pasted(m, box, height, width).whole(height, width) for m, box in zip(probabilities, boxes, strict=True)]
    wrong = sum(int((x != y).sum()) for x, y in zip(found, packed, strict=True))
    set_pixels = sum(int(x.sum()) for x in packed)
    print(name, levels, wrong, set_pixels)
    assert set_pixels > 50_000 and wrong <= WRONG_PIXELS * set_pixels * (10 if levels else 1)


def test_boxes_without_area_or_outside_have_no_mask():
    ones = np.ones((28, 28), np.float32)
    for box in ([5, 5, 5, 9], [20, 20, 30, 30], [-9, -9, -4, -4]):
        assert pasted(ones, np.array(box, np.float32), 12, 12).area == 0
    assert pasted(ones, np.array([-3, 2, 50, 4], np.float32), 12, 12).whole(12, 12)[2:4].all()


def masks(count=30, height=37, width=53):
    rng = np.random.default_rng(0)
    for i in range(count):
        yield np.kron(rng.random((height // 4 + 1, width // 4 + 1)) < i / count, np.ones((4, 4), bool))[:height, :width]


def test_run_lengths_are_pycocotools():
    for mask in (*masks(), np.zeros((3, 5), bool), np.ones((3, 5), bool), np.eye(9, dtype=bool)):
        expected = mask_tool.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        runs = runs_of(mask)
        assert string_of(runs) == expected
        np.testing.assert_array_equal(runs_in(expected), runs)
        np.testing.assert_array_equal(mask_of(runs, *mask.shape), mask)


def test_damaged_run_lengths_are_refused():
    with pytest.raises(RmtEdgeError, match=r"cover 12 pixels; its picture has 3x5"):
        mask_of(np.array([4, 8], np.uint32), 3, 5)
    with pytest.raises(RmtEdgeError, match="are damaged"):
        runs_in("P")


def test_overlaps_of_masks_are_pycocotools():
    found, truth = list(masks(8)), list(masks(8))[::-1]
    crowd = np.arange(8) % 3 == 0
    encode = [[mask_tool.encode(np.asfortranarray(x.astype(np.uint8))) for x in y] for y in (found, truth)]
    expected = mask_tool.iou(*encode, crowd.astype(np.uint8).tolist())
    crops = [Crop(2, 1, x[2:30, 1:40]) for x in found]
    whole = [Crop(0, 0, x) for x in found]
    np.testing.assert_allclose(overlaps(whole, truth, crowd), expected, atol=1e-12)
    cut = [x.whole(37, 53) for x in crops]
    encode[0] = [mask_tool.encode(np.asfortranarray(x.astype(np.uint8))) for x in cut]
    np.testing.assert_allclose(overlaps(crops, truth, crowd), mask_tool.iou(*encode, crowd.tolist()), atol=1e-12)
