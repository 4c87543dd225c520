"""What detectors are trained on: assignment on hand-made cases, losses by their formulas, gradients by differences."""

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from scenes.losses import (
    IGNORED,
    NEGATIVE,
    assigned,
    encoded,
    focal_loss,
    pairwise_iou,
    retinanet_loss,
    rpn_loss,
    sampled,
)

from rmt_edge.model.boxes import decoded

ANCHORS = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 40, 40], [0, 0, 4, 40], [60, 60, 70, 70.0]])
BOXES = torch.tensor([[1, 0, 11, 10], [22, 20, 42, 44.0]])


def random_boxes(count, seed):
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 80
    size = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 50 + 4
    return torch.cat([corner, corner + size], dim=1)


def test_iou_is_that_of_pycocotools():
    a, b = random_boxes(7, 1), random_boxes(5, 3)
    xywh = [torch.cat([x[:, :2], x[:, 2:] - x[:, :2]], dim=1).double().numpy() for x in (a, b)]
    assert np.allclose(pairwise_iou(a, b).numpy(), coco_mask.iou(*xywh, [0] * 5), atol=1e-6)


def test_anchors_answer_for_what_they_overlap():
    # IoU with the first box: 9/11, 6/14, 0, …; with the second: the third anchor's 18·20/(400 + 480 - 360).
    assert assigned(ANCHORS, BOXES, 0.5, 0.4, 0.0).tolist() == [0, IGNORED, 1, NEGATIVE, NEGATIVE]
    assert assigned(ANCHORS, BOXES, 0.9, 0.2, 0.95).tolist() == [IGNORED, IGNORED, IGNORED, NEGATIVE, NEGATIVE]
    assert assigned(ANCHORS, BOXES[:0], 0.5, 0.4, 0.0).tolist() == [NEGATIVE] * 5
    # A box that no anchor fits takes its best one, however small its IoU, if `lowest` allows it.
    tall = torch.tensor([[0, 0, 2, 100.0]])
    assert assigned(ANCHORS, tall, 0.5, 0.4, 0.0).tolist() == [NEGATIVE, NEGATIVE, NEGATIVE, 0, NEGATIVE]
    assert assigned(ANCHORS, tall, 0.5, 0.4, 0.5).tolist() == [NEGATIVE] * 5


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_deltas_decode_to_the_boxes_they_were_made_of(stds):
    anchors, boxes = random_boxes(9, 5), random_boxes(9, 8)
    back = decoded(anchors[None], encoded(anchors, boxes, stds)[None], stds, torch.tensor([[200.0, 200.0]]))
    assert torch.allclose(back[0], boxes, atol=1e-3)


def test_focal_loss_is_the_formula():
    logits, wanted = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double(), torch.zeros(6, 3).double()
    wanted[1, 2] = wanted[4, 0] = 1
    total = 0.0
    for x, is_class in zip(logits.flatten().tolist(), wanted.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        total -= 0.25 * (1 - p) ** 2 * math.log(p) if is_class else 0.75 * p**2 * math.log(1 - p)
    assert focal_loss(logits, wanted).item() == pytest.approx(total, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, wanted), logits.requires_grad_())


def retinanet_case():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 5, 3, generator=generator).double().requires_grad_()
    deltas = torch.randn(2, 5, 4, generator=generator).double().requires_grad_()
    boxes = [BOXES.double(), BOXES[:0].double()]
    return logits, deltas, ANCHORS.double(), boxes, [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)]


def test_retinanet_loss_counts_positives_negatives_and_nothing_ignored():
    logits, deltas, anchors, boxes, labels = retinanet_case()
    found = retinanet_loss(logits, deltas, anchors, boxes, labels)
    wanted = torch.zeros(2, 5, 3).double()
    wanted[0, 0, 2] = wanted[0, 2, 0] = 1
    rows = [(0, 0), (0, 2), (0, 3), (0, 4), *((1, i) for i in range(5))]  # anchor 1 of image 0 is ignored
    classes = sum(focal_loss(logits[row], wanted[row]) for row in rows) / 2
    distance = (deltas[0, [0, 2]] - encoded(anchors[[0, 2]], boxes[0], (1, 1, 1, 1))).abs().sum() / 2
    assert found["classes"].item() == pytest.approx(classes.item(), rel=1e-12)
    assert found["boxes"].item() == pytest.approx(distance.item(), rel=1e-12)


def test_gradients_of_the_losses_are_those_of_differences():
    logits, deltas, *rest = retinanet_case()
    assert torch.autograd.gradcheck(lambda x, y: sum(retinanet_loss(x, y, *rest).values()), (logits, deltas))
    anchors, boxes, _ = rest

    def rpn(x, y):
        return sum(rpn_loss(x, y, anchors, boxes, 4, torch.Generator().manual_seed(0)).values())

    assert torch.autograd.gradcheck(rpn, (logits.detach()[..., :1].requires_grad_(), deltas))


def test_rpn_loss_of_a_perfect_answer_is_nothing_and_of_its_opposite_is_much():
    anchors, box = ANCHORS, [BOXES]
    owner = assigned(anchors, BOXES, 0.7, 0.3, 0.3)
    wanted = encoded(anchors, BOXES[owner.clamp(min=0)], (1.0, 1.0, 1.0, 1.0))[None]
    right = torch.where(owner >= 0, 20.0, -20.0)[None, :, None]
    good = rpn_loss(right, wanted, anchors, box, 8, torch.Generator())
    bad = rpn_loss(-right, wanted + 1, anchors, box, 8, torch.Generator())
    assert sum(good.values()) < 1e-6 and bad["rpn_items"] > 19 and bad["rpn_boxes"] > 1


def test_samples_hold_at_most_their_share_of_positives():
    owner = torch.tensor([0, 1, NEGATIVE, IGNORED, 2, NEGATIVE, NEGATIVE, 0])
    positive, negative = sampled(owner, 4, 0.5, torch.Generator().manual_seed(0))
    assert len(positive) == 2 and (owner[positive] >= 0).all()
    assert len(negative) == 2 and (owner[negative] == NEGATIVE).all()
    positive, negative = sampled(owner, 100, 0.5, torch.Generator().manual_seed(0))
    assert sorted(positive.tolist()) == [0, 1, 4, 7] and sorted(negative.tolist()) == [2, 5, 6]
