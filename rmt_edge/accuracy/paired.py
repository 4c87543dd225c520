"""Two models on the same images: which images flipped, which classes and which images lost most. numpy only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rmt_edge.metrics import hits, percent

WORST = 10  # images listed


class Top(NamedTuple):
    """The best classes of every image, best first, and their logits. classes: (n, k) int32; scores: (n, k) float32."""

    classes: np.ndarray
    scores: np.ndarray


def flips(reference: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """Images whose first class differs from the reference's, by what became of them.

    reference, classes: (n,) first classes; labels: (n,).
    """
    was_right, is_right, differs = reference == labels, classes == labels, reference != classes
    return {
        "right_to_wrong": int((was_right & differs).sum()),
        "wrong_to_right": int((is_right & differs).sum()),
        "wrong_to_other_wrong": int((~was_right & ~is_right & differs).sum()),
    }


def per_class(
    reference: np.ndarray, classes: np.ndarray, labels: np.ndarray, names: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """Top-1 of both models on the images of each class, the classes in order; those without images are left out.

    reference, classes, labels: (n,). names: of the classes by number.
    """
    rows = []
    for label in np.unique(labels).tolist():
        of_class = labels == label
        reference_percent, own_percent = (percent(x[of_class] == label) for x in (reference, classes))
        rows.append(
            {
                "class": label,
                "name": names[label] if names else str(label),
                "images": int(of_class.sum()),
                "reference_top1_percent": round(reference_percent, 4),
                "top1_percent": round(own_percent, 4),
                "drop_points": round(reference_percent - own_percent, 4),
            }
        )
    return rows


def worst_images(
    reference: Top, subject: Top, labels: np.ndarray, name: Callable[[int], str] = str, count: int = WORST
) -> list[dict[str, Any]]:
    """The images that the reference has right and whose margin fell most, those that turned wrong first.

    Margin: the label's logit minus the largest of the other classes; negative where the model is wrong. name: of an
    image by its index. "margin_at_most": whether the label is below the kept classes, so that its logit is at most
    their last and the margin may be lower still.
    """
    before, _ = margins(reference, labels)
    after, is_bound = margins(subject, labels)
    is_wrong = subject.classes[:, 0] != labels
    of_interest = np.flatnonzero(hits(reference.classes[:, :1], labels))
    order = np.lexsort((after[of_interest] - before[of_interest], ~is_wrong[of_interest]))
    return [
        {
            "index": i,
            "name": name(i),
            "label": int(labels[i]),
            "reference_class": int(reference.classes[i, 0]),
            "class": int(subject.classes[i, 0]),
            "reference_margin": round(float(before[i]), 4),
            "margin": round(float(after[i]), 4),
            "margin_at_most": bool(is_bound[i]),
        }
        for i in of_interest[order][:count].tolist()
    ]


def margins(top: Top, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label's logit minus the largest other, and where it is only a bound (the label is not among the kept).

    Returns (n,) float32 and (n,) bool.
    """
    is_label = top.classes == labels[:, None]  # (n, k)
    is_kept = is_label.any(axis=1)
    rank = np.where(is_kept, is_label.argmax(axis=1), top.classes.shape[1] - 1)
    own = np.take_along_axis(top.scores, rank[:, None], axis=1)[:, 0]
    rival = np.where(is_label[:, 0], top.scores[:, min(1, top.scores.shape[1] - 1)], top.scores[:, 0])
    return own - rival, ~is_kept
