"""Metrics on numbers small enough to check by hand."""

import math

import numpy as np
import pytest

from rmt_edge.metrics import (
    drop_interval_points,
    drop_points,
    hits,
    percent,
    relative_error,
    sqnr_db,
    top_classes,
)


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


def test_the_interval_of_the_drop_is_paired():
    reference = np.zeros(10_000, bool)
    reference[:9_300] = True
    same = reference.copy()
    assert drop_interval_points(reference, same) == (0.0, 0.0)
    # 20 images lost, 10 won: the variance of the difference is 30/10000 - 0.001².
    subject = reference.copy()
    subject[:20] = False
    subject[9_300:9_310] = True
    low, high = drop_interval_points(reference, subject)
    half_width = 1.96 * 100 * math.sqrt(30 / 10_000 - 0.001**2) / 100
    assert (low, high) == pytest.approx((0.1 - half_width, 0.1 + half_width))


def test_relative_error_and_sqnr():
    expected = np.array([3.0, 4.0])
    assert relative_error(np.array([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert sqnr_db(np.array([3.0, 4.5]), expected) == pytest.approx(20.0)
    assert sqnr_db(expected, expected) == math.inf
