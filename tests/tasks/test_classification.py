"""Flips, classes and images, on four images that can be checked by hand."""

import numpy as np
import pytest

from rmt_edge.tasks.classification import Top, flips, margins, per_class, worst_images

LABELS = np.array([0, 0, 1, 2])
REFERENCE = Top(
    np.array([[0, 1], [0, 2], [1, 0], [0, 1]], np.int32),
    np.array([[5.0, 1.0], [3.0, 2.0], [4.0, 0.0], [2.0, 1.0]], np.float32),
)
SUBJECT = Top(
    np.array([[0, 1], [2, 0], [0, 2], [1, 0]], np.int32),
    np.array([[4.0, 1.0], [3.0, 2.5], [3.0, 1.0], [2.0, 1.0]], np.float32),
)


def test_flips_are_told_apart():
    assert flips(REFERENCE.classes[:, 0], SUBJECT.classes[:, 0], LABELS) == {
        "right_to_wrong": 2,
        "wrong_to_right": 0,
        "wrong_to_other_wrong": 1,
    }
    assert flips(SUBJECT.classes[:, 0], REFERENCE.classes[:, 0], LABELS)["wrong_to_right"] == 2


def test_each_class_has_its_own_drop():
    rows = per_class(REFERENCE.classes[:, 0], SUBJECT.classes[:, 0], LABELS, ("cat", "dog", "owl"))
    assert [(x["name"], x["images"], x["drop_points"]) for x in rows] == [
        ("cat", 2, 50),
        ("dog", 1, 100),
        ("owl", 1, 0),
    ]
    assert rows[0]["reference_percent"] == 100 and rows[0]["percent"] == 50
    assert per_class(np.array([3]), np.array([3]), np.array([3]))[0]["name"] == "3"


def test_a_margin_is_the_label_against_its_best_rival():
    values, is_bound = margins(SUBJECT, LABELS)
    assert values.tolist() == [3.0, -0.5, -2.0, -1.0]
    assert is_bound.tolist() == [False, False, True, True]


def test_the_worst_images_turned_wrong_and_lost_most():
    rows = worst_images(REFERENCE, SUBJECT, LABELS, lambda i: f"{i}.png")
    assert [x["name"] for x in rows] == ["2.png", "1.png", "0.png"]  # 3 was wrong before
    assert rows[0] == {
        "index": 2, "name": "2.png", "label": 1, "reference_class": 1, "class": 0,
        "reference_margin": 4.0, "margin": -2.0, "margin_at_most": True,
    }  # fmt: skip
    assert rows[2]["margin"] == pytest.approx(3.0)
    assert len(worst_images(REFERENCE, SUBJECT, LABELS, count=1)) == 1
