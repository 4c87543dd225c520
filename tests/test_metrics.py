"""Metrics on numbers small enough to check by hand."""

import math

import numpy as np
import pytest

from rmt_edge.metrics import (
    discordant,
    drop_interval_points,
    drop_points,
    drop_upper_points,
    hits,
    mcnemar_p,
    percent,
    relative_error,
    score_interval,
    sqnr_db,
    top_classes,
)

Z95 = 1.959964


def test_top_classes_are_ordered_and_ties_go_to_the_lower_class():
    logits = np.array([[0.1, 0.9, 0.5], [2.0, 2.0, 1.0]])
    assert top_classes(logits, 2).tolist() == [[1, 2], [0, 1]]
    assert top_classes(logits, 5).shape == (2, 3)


def test_hits_and_percent():
    classes = np.array([[1, 2], [0, 1], [2, 0], [2, 1]])
    labels = np.array([2, 0, 1, 1])
    assert hits(classes, labels).tolist() == [True, True, False, True]
    assert percent(hits(classes[:, :1], labels)) == 25.0


def test_the_drop_is_positive_where_accuracy_was_lost():
    reference, subject = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 1], bool)
    assert drop_points(reference, subject) == 25.0
    assert drop_points(subject, reference) == -25.0


def flipped(count, lost, won):
    """Hits of a reference that is right on 9 of 10 images, and of a model that loses and wins some."""
    reference = np.zeros(count, bool)
    reference[: count * 9 // 10] = True
    subject = reference.copy()
    subject[:lost] = False
    subject[count * 9 // 10 :][:won] = True
    return reference, subject


def test_the_interval_of_the_drop_is_paired():
    """20 images lost, 10 won: a width of the 30 flips, not of the 10,000 images."""
    reference, subject = flipped(10_000, 20, 10)
    assert discordant(reference, subject) == (20, 10)
    low, high = drop_interval_points(reference, subject)
    wald = 1.96 * math.sqrt(30 / 10_000 - 0.001**2)
    assert (low, high) == pytest.approx((0.1 - wald, 0.1 + wald), abs=0.015)
    unpaired = 1.96 * math.sqrt(2 * 0.9 * 0.1 / 10_000) * 100
    assert high - low < unpaired / 2
    assert drop_interval_points(subject, reference) == pytest.approx((-high, -low))


def test_the_score_interval_is_that_of_the_literature():
    """Airway hyper-responsiveness, 1 and 7 discordant of 21: -0.517 to -0.026 (Fagerland et al. 2014)."""
    assert score_interval(1, 7, 21, Z95) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("lost", "won", "count"), [(25, 12, 500), (60, 58, 10_000), (3, 14, 300)])
def test_the_score_interval_agrees_with_the_paired_bootstrap(lost, won, count):
    """Resampling images is resampling the counts of lost, won and other images."""
    counts = np.random.default_rng(0).multinomial(count, np.array([lost, won, count - lost - won]) / count, 200_000)
    bootstrap = np.quantile((counts[:, 0] - counts[:, 1]) / count, [0.025, 0.975])
    low, high = score_interval(lost, won, count, Z95)
    assert (low, high) == pytest.approx(tuple(bootstrap), abs=0.12 * (high - low))


def test_no_flip_leaves_an_interval_where_the_bootstrap_has_none():
    low, high = score_interval(0, 0, 60, Z95)
    assert (low, high) == pytest.approx((-(Z95**2) / (60 + Z95**2), Z95**2 / (60 + Z95**2)))


def test_the_interval_covers_the_true_drop_as_often_as_it_says():
    """A model that loses 4 % and wins 1 % of images, tried on 20,000 samples of 200 images."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(200, [0.04, 0.01, 0.95], 20_000)
    pairs, repeats = np.unique(counts[:, :2], axis=0, return_counts=True)
    ends = np.array([score_interval(lost, won, 200, Z95) for lost, won in pairs.tolist()])
    covered = repeats[(ends[:, 0] <= 0.03) & (ends[:, 1] >= 0.03)].sum() / 20_000
    assert 0.94 <= covered <= 0.97


def test_the_interval_excludes_zero_where_mcnemar_rejects():
    for won in range(12):
        low, _ = score_interval(12, won, 1000, Z95)
        assert (low > 0) == ((12 - won) / math.sqrt(12 + won) > Z95)


def test_the_upper_end_is_one_sided():
    reference, subject = flipped(1000, 8, 2)
    upper = drop_upper_points(reference, subject, 0.95)
    assert drop_points(reference, subject) < upper < drop_interval_points(reference, subject)[1]
    assert upper == pytest.approx(drop_interval_points(reference, subject, 0.90)[1])


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (1, 7, 18 / 256), (0, 6, 2 / 64), (10, 20, 0.0987371467)],
)
def test_mcnemar_is_exact(lost, won, p):
    assert mcnemar_p(lost, won) == pytest.approx(p)
    assert mcnemar_p(won, lost) == pytest.approx(p)


def test_mcnemar_of_many_flips_is_finite():
    assert mcnemar_p(24_000, 26_000) == pytest.approx(3.8e-19, rel=0.1)


def test_relative_error_and_sqnr():
    expected = np.array([3.0, 4.0])
    assert relative_error(np.array([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert sqnr_db(np.array([3.0, 4.5]), expected) == pytest.approx(20.0)
    assert sqnr_db(expected, expected) == math.inf
