"""The second half of Mask R-CNN in training, held to the ops that the model itself runs."""

import numpy as np
import pytest
import torch
from scenes.losses import encoded
from scenes.rois import (
    BOX_STDS,
    MASK_SIDE,
    ROIS,
    SampledRois,
    box_head_loss,
    kept_by_nms,
    mask_loss,
    mask_targets,
    proposals_of,
    roi_align,
    roi_features,
    sampled_rois,
)

from rmt_edge.ops.nms.op import nms
from rmt_edge.ops.roi_align.op import multi_level_roi_align
from tests.bench.scenes.test_losses import random_boxes


def pyramid(seed, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 3, h, w, generator=generator).requires_grad_(requires_grad)
        for h, w in ((40, 48), (20, 24), (10, 12), (5, 6))
    ]


def test_features_and_their_gradients_are_those_of_the_op():
    # Of all four levels, beyond the edges too.
    boxes = torch.cat(
        [random_boxes(6, 1), torch.tensor([[-9, -5, 180, 150], [9, 0, 300, 280], [0, 0, 500, 470], [3, 4, 5, 6.0]])]
    )
    rois = [boxes, boxes.flip(0)]
    ours, theirs = pyramid(2, True), pyramid(2, True)
    found = roi_features(ours, rois, 7)
    expected = multi_level_roi_align(*(x.permute(0, 2, 3, 1) for x in theirs), torch.stack(rois), 7)
    expected = expected.flatten(0, 1).permute(0, 3, 1, 2)  # (b, n, s, s, c) -> (b·n, c, s, s)
    assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad.abs().max() > 0 and torch.allclose(a.grad, b.grad, atol=1e-4)


def test_nms_keeps_what_the_op_keeps():
    boxes, scores = random_boxes(60, 3), torch.rand(60, generator=torch.Generator().manual_seed(1))
    kept = kept_by_nms(boxes, scores, 0.3)
    expected, _, _, count = nms(boxes[None], scores[None], torch.zeros(1, 60, dtype=torch.int32), 0.3, -1.0, 60)
    assert 5 < len(kept) == int(count[0]) < 60
    assert torch.equal(boxes[kept], expected[0, : len(kept)])


def test_proposals_are_the_best_and_have_an_extent():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [5, 5, 5, 9], [30, 30, 50, 50.0]])
    found = proposals_of(torch.tensor([1.0, 2.0, 9.0, 0.5]), boxes)
    assert found.tolist() == [[0, 0, 10, 9], [30, 30, 50, 50]]


@pytest.fixture
def sample():
    items = torch.tensor([[10, 10, 30, 30], [40, 40, 60, 70.0]])
    proposals = [torch.tensor([[12, 10, 30, 30], [0, 0, 5, 5], [70, 70, 90, 90.0]]), torch.tensor([[0, 0, 9, 9.0]])]
    boxes, labels = [items, items[:1]], [torch.tensor([4, 1]), torch.tensor([7])]
    return sampled_rois(proposals, boxes, labels, 10, torch.Generator().manual_seed(0))


def test_sampled_rois_have_their_items_class_first_and_then_the_background(sample):
    assert sample.positives == [3, 1] and [len(x) for x in sample.rois] == [5, 2]
    assert sorted(sample.labels[:3].tolist()) == [1, 4, 4] and sample.labels[3:].tolist() == [10, 10, 7, 10]
    assert sample.is_positive.tolist() == [True] * 3 + [False] * 2 + [True, False]
    for roi, box, label in zip(sample.rois[0][:3], sample.boxes[:3], sample.labels[:3], strict=True):
        assert (roi - box).abs().max() <= 2 and box[0] == (10 if label == 4 else 40)
    many = sampled_rois([random_boxes(300, 2)], [random_boxes(3, 2)], [torch.zeros(3).long()], 10, torch.Generator())
    assert len(many.rois[0]) == ROIS and many.positives[0] <= ROIS // 4


def test_box_head_loss_of_a_perfect_answer_is_nothing(sample):
    count = len(sample.labels)
    logits = torch.full((count, 11), -30.0)
    logits[torch.arange(count), sample.labels] = 30
    deltas = torch.full((count, 10, 4), 5.0)  # of other classes, which do not count
    rows = torch.nonzero(sample.is_positive)[:, 0]
    deltas[rows, sample.labels[rows]] = encoded(torch.cat(sample.rois)[rows], sample.boxes[rows], BOX_STDS)
    found = box_head_loss(logits, deltas.flatten(1), sample)
    assert sum(found.values()) < 1e-5
    worse = box_head_loss(logits, deltas.flatten(1) + 1, sample)
    assert worse["roi_boxes"].item() == pytest.approx(4 * 4 / count, rel=1e-4)


def test_mask_targets_are_what_is_seen_within_the_roi():
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[1, 8:36, 8:22] = True  # the left half of the RoI below
    roi = torch.tensor([[8, 8, 36, 36.0]])
    sample = SampledRois([roi], torch.tensor([3]), roi, [1], [torch.tensor([1])])
    expected = torch.zeros(1, MASK_SIDE, MASK_SIDE)
    expected[:, :, : MASK_SIDE // 2] = 1
    assert torch.equal(mask_targets([mask], sample), expected)
    logits = torch.full((1, 5, MASK_SIDE, MASK_SIDE), 9.0)
    logits[:, 3] = 40 * expected - 20
    assert mask_loss(logits, sample.labels, expected) < 1e-6


def test_roi_align_averages_whole_pixels():
    image = torch.arange(36.0).reshape(1, 6, 6)
    found = roi_align(image, torch.tensor([[0, 0, 6, 6.0]]), 3, 1.0)
    expected = np.arange(36.0).reshape(3, 2, 3, 2).mean(axis=(1, 3))
    assert np.allclose(found[0, 0].numpy(), expected, atol=1e-4)
