"""Limits: a drop of exactly the limit keeps it, whatever the number of images."""

from fractions import Fraction

import numpy as np
import pytest

from rmt_edge.accuracy.limits import held_to, judgement
from rmt_edge.gate.gate import Limits, _accuracy_row
from rmt_edge.metrics import drop_points
from rmt_edge.search.outcome import Outcomes
from rmt_edge.search.search import Budget
from rmt_edge.tasks.classification import Hits, HitsDrop
from rmt_edge.tasks.comparison import compared


def pair_of(images, lost, won=0):
    """Hits of a reference and a subject: `lost` images that only the former has right, `won` that only the latter."""
    reference, subject = np.ones(images, bool), np.ones(images, bool)
    subject[:lost] = False
    reference[lost : lost + won] = False
    return reference, subject


def exact_cases():
    """Limits in tenths and hundredths of a point, and numbers of images of which they are whole images."""
    for text in [f"{x / 100:.2f}" for x in range(1, 201)]:
        for images in (1000, 1500, 2000, 10_000, 50_000):
            lost = Fraction(text) * images / 100
            if lost.denominator == 1 and lost < images:
                yield text, images, int(lost)


def test_exactly_the_limit_is_kept_and_one_image_more_is_not():
    cases = list(exact_cases())
    failing_as_floats = 0
    for text, images, lost in cases:
        assert held_to(float(text), HitsDrop(*pair_of(images, lost)), None) == (None, True), (text, images)
        assert held_to(float(text), HitsDrop(*pair_of(images, lost + 1)), None) == (None, False), (text, images)
        failing_as_floats += drop_points(*pair_of(images, lost)) > float(text)
    assert len(cases) > 400 and failing_as_floats > 100, "the table tells counts from floats"


def test_images_won_make_up_for_images_lost():
    assert (
        held_to(0.3, HitsDrop(*pair_of(1000, 5, 2)), None)[1]
        and not held_to(0.3, HitsDrop(*pair_of(1000, 6, 2)), None)[1]
    )
    assert held_to(0, HitsDrop(*pair_of(1000, 2, 2)), None)[1] and held_to(0, HitsDrop(*pair_of(1000, 0, 2)), None)[1]


def test_a_whole_number_and_a_tiny_limit_are_read_as_written():
    assert held_to(1, HitsDrop(*pair_of(100, 1)), None)[1] and not held_to(1e-05, HitsDrop(*pair_of(1000, 1)), None)[1]


def test_with_a_confidence_the_upper_end_counts():
    upper, is_within = held_to(0.5, HitsDrop(*pair_of(1000, 5)), 0.95)
    assert upper > 0.5 and not is_within
    assert held_to(upper, HitsDrop(*pair_of(1000, 5)), 0.95)[1]


@pytest.mark.parametrize(("lost", "is_within"), [(2, True), (3, False)])
def test_the_record_the_gate_and_the_search_judge_alike(lost, is_within):
    """0.2 points of 1,000 images: as floats 100 - 99.8 is 0.20000000000000284."""
    images, limit = 1000, 0.2
    reference, subject = pair_of(images, lost)
    labels = np.zeros(images, np.int64)
    classes = np.where(subject, 0, 1)
    before, after = Hits(reference), Hits(subject)
    found = judgement(compared({"top-1": before}, {"top-1": after}), limit)
    assert found["within_max_drop"] is is_within
    assert _accuracy_row("x", "top-1", before, after, Limits(max_drop=limit)).is_worse is not is_within
    zeros = np.zeros((1, images))
    outcomes = Outcomes(np.zeros(images, np.int64), np.ones(images), classes[None], zeros, zeros)
    assert Budget(limit).loss(outcomes, 0, labels)["is_within_budget"] is is_within
