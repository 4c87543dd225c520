"""mIoU by hand and by its definition, label maps in the picture's size against PyTorch's resizes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks import segmentation
from rmt_edge.tasks.label_maps import original_labels, resized
from rmt_edge.tasks.segmentation import pixels_by_class, tally_from_dict
from rmt_edge.tasks.task import Frame

SPEC = SimpleNamespace(classes=5, height=64, width=96, has_masks=False)


def maps(seed, count=6, height=40, width=60):
    rng = np.random.default_rng(seed)
    truth = [rng.integers(0, 4, (height, width)) for _ in range(count)]  # nothing is of class 4
    found = [np.where(rng.random(x.shape) < 0.4, rng.integers(0, 4, x.shape), x) for x in truth]
    for x in truth:
        x[:7] = 255
    return truth, found


def rows_of(truth, found):
    counts = [pixels_by_class(x, y, SPEC.classes) for x, y in zip(found, truth, strict=True)]
    return {name: np.stack([x[i] for x in counts]) for i, name in enumerate(("shared", "found", "true"))}


def by_definition(truth, found):
    """mmseg's: intersections and unions summed over the set, 255 left out, mean over the classes with a union."""
    ious = []
    for label in range(SPEC.classes):
        pairs = [(x[y != 255] == label, y[y != 255] == label) for x, y in zip(found, truth, strict=True)]
        union = sum((a | b).sum() for a, b in pairs)
        if union:
            ious.append(sum((a & b).sum() for a, b in pairs) / union)
    return 100 * np.mean(ious), len(ious)


def test_miou_is_its_definition():
    truth, found = maps(0)
    expected, classes = by_definition(truth, found)
    (tally,) = segmentation.tallies_in(rows_of(truth, found)).values()
    assert tally.percent() == pytest.approx(expected) and classes == 4
    weights = np.array([[2, 0, 1, 1, 0, 2]], float)
    again = [i for i, n in enumerate(weights[0]) for _ in range(int(n))]
    expected, _ = by_definition([truth[i] for i in again], [found[i] for i in again])
    assert tally.percents(weights)[0] == pytest.approx(expected)
    assert tally_from_dict("mIoU", tally.to_dict(), 6).percent() == tally.percent()


def test_labels_of_the_public_code(tmp_path):
    """Logits to the network's input, its padding cut off, to the picture, both bilinear; then the largest."""
    logits = np.random.default_rng(0).standard_normal((5, 16, 24)).astype(np.float32)
    frame = Frame(45, 70, 60, 93)
    small, labels = original_labels({"logits": logits}, SPEC, frame)
    first = F.interpolate(torch.from_numpy(logits)[None], (64, 96), mode="bilinear", align_corners=False)
    expected = F.interpolate(first[..., :60, :93], (45, 70), mode="bilinear", align_corners=False)[0]
    best = expected.topk(2, dim=0).values
    is_sure = (best[0] - best[1] > 1e-4).numpy()
    assert is_sure.mean() > 0.99 and small.shape == (60, 93)
    np.testing.assert_array_equal(labels[is_sure], expected.argmax(0).numpy()[is_sure])


@pytest.mark.parametrize("size", [(16, 24), (33, 50), (9, 7), (1, 100)])
def test_resizes_are_pytorchs(size):
    x = np.random.default_rng(1).standard_normal((3, 16, 24)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(x)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(resized(x, *size), expected, atol=2e-5)


def test_a_label_map_is_read_at_the_nearest_pixel():
    labels = np.random.default_rng(2).integers(0, 5, (64, 96)).astype(np.uint8)
    for size in ((45, 70), (120, 187), (60, 93)):
        _, found = original_labels({"labels": labels}, SPEC, Frame(*size, 60, 93))
        expected = F.interpolate(torch.from_numpy(labels[None, None, :60, :93]).float(), size, mode="nearest-exact")
        np.testing.assert_array_equal(found, expected[0, 0].numpy())


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(RmtEdgeError, match=r"A label map is \(2, 3\), its picture \(3, 2\)"):
        pixels_by_class(np.zeros((3, 2), int), np.zeros((2, 3), int), 3)
    with pytest.raises(RmtEdgeError, match="A label map reaches 7"):
        pixels_by_class(np.zeros((2, 2), int), np.full((2, 2), 7), 3)
    for outputs, match in (
        ({"labels": np.full((1, 64, 96), 5)}, "labels reach 5"),
        ({"labels": np.zeros((1, 60, 96), int)}, r"the labels are \(1, 60, 96\)"),
        ({"logits": np.full((1, 5, 16, 24), np.nan)}, "logits hold NaN"),
        ({"logits": np.zeros((1, 4, 16, 24))}, r"the logits are \(1, 4, 16, 24\)"),
        ({"x": np.zeros(1)}, "no output labels"),
    ):
        with pytest.raises(RmtEdgeError, match=match):
            segmentation.check_outputs(outputs, 1, SPEC, "x")
