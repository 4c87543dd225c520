"""Classification: top-1, paired image by image; which images flipped, which classes and which images lost most."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import (
    CONFIDENCE,
    INTERVAL_METHOD,
    discordant,
    drop_interval_points,
    drop_points,
    drop_upper_points,
    hits,
    mcnemar_p,
    percent,
    top_classes,
)
from rmt_edge.tasks.comparison import Tally
from rmt_edge.tasks.task import Frame, Named, Outputs, Rows, Spec

METRIC = "top-1"
KEPT = 5  # classes kept per image
WORST = 10  # images listed
# What the record of a classifier's accuracy says beside the keys of every task.
OWN_FACTS = ("top5_percent", "reference_top5_percent", "mcnemar_p", "flips")


@dataclass(frozen=True)
class Hits:
    """A tally: which images are right. is_right: (n,) bool."""

    is_right: np.ndarray

    def __len__(self) -> int:
        return len(self.is_right)

    def percent(self) -> float:
        return percent(self.is_right)

    def drop_to(self, other: "Hits") -> "HitsDrop":
        return HitsDrop(self.is_right, other.is_right)

    def to_dict(self) -> dict[str, Any]:
        """Base64 of a bit an image, the first image in the highest bit of the first byte."""
        return {"hits": base64.b64encode(np.packbits(self.is_right).tobytes()).decode()}


@dataclass(frozen=True)
class HitsDrop:
    """The drop of top-1, with a score interval. before, after: (n,) bool, images that are right."""

    before: np.ndarray
    after: np.ndarray
    method = INTERVAL_METHOD

    @property
    def points(self) -> float:
        return drop_points(self.before, self.after)

    def interval_points(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        return drop_interval_points(self.before, self.after, confidence)

    def upper_points(self, confidence: float) -> float:
        return drop_upper_points(self.before, self.after, confidence)

    def is_within(self, limit: float) -> bool:
        """Images are counted, and no float is rounded: 100·(lost - won) ≤ limit·images, where the limit is the decimal
        number that was written."""
        lost, won = discordant(self.before, self.after)
        return 100 * (lost - won) <= Fraction(str(limit)) * len(self.after)


def record(spec: Spec) -> np.dtype:
    """The KEPT best classes of an image, best first, and their logits."""
    kept = min(KEPT, spec.classes)
    return np.dtype([("classes", "<i4", (kept,)), ("scores", "<f4", (kept,))])


def check_outputs(outputs: Outputs, images: int, spec: Spec, title: str) -> None:
    """Refuse logits that are not (images, classes) or not finite."""
    logits = outputs["logits"]
    if logits.shape != (images, spec.classes):
        raise RmtEdgeError(f"{title}: the logits are {logits.shape}, expected ({images}, {spec.classes}).")
    if not np.isfinite(logits).all():
        raise RmtEdgeError(
            f"{title}: the logits hold NaN or infinite values.",
            "FP16 ends at 65504; a model with larger activations overflows.",
            "Use the recipe fp32 to see whether it is the precision.",
        )


def rows_of(
    outputs: Outputs, spec: Spec, frames: Sequence[Frame] = (), truth: np.ndarray | None = None, first: int = 0
) -> np.ndarray:
    """The records of a batch of logits (b, classes), (b,)."""
    rows = np.empty(len(outputs["logits"]), record(spec))
    rows["classes"], rows["scores"] = top_of(outputs["logits"])
    return rows


def kept_beside(rows: Rows, truth: np.ndarray | None) -> Rows:
    """The labels (n,), where there are any."""
    return {} if truth is None else {"labels": truth}


def tallies_in(judged: Rows) -> dict[str, Tally]:
    """Top-1, by classes and labels."""
    return {METRIC: Hits(hits(judged["classes"][:, :1], judged["labels"]))}


def tally_from_dict(metric: str, values: dict[str, Any], images: int) -> Hits:
    """Of `Hits.to_dict`."""
    bits = np.frombuffer(base64.b64decode(values["hits"], validate=True), np.uint8)
    if len(bits) != -(-images // 8):
        raise ValueError(f"{len(bits)} bytes of hits for {images} images")
    return Hits(np.unpackbits(bits, count=images).astype(bool))


def facts(reference: Rows, subject: Rows, named: Named) -> dict[str, Any]:
    """Agreement, flips, classes and images that lost most."""
    before, after = (Top(x["classes"], x["scores"]) for x in (reference, subject))
    truth = subject["labels"]
    pair = before.classes[:, 0], after.classes[:, 0]
    lost, won = discordant(pair[0] == truth, pair[1] == truth)
    return {
        "agreement_percent": percent(pair[0] == pair[1]),
        "per_class": per_class(*pair, truth, named.classes),
        "worst_images": worst_images(before, after, truth, named.image),
        "classification": {
            "top5_percent": percent(hits(after.classes, truth)),
            "reference_top5_percent": percent(hits(before.classes, truth)),
            "mcnemar_p": mcnemar_p(lost, won),
            "flips": flips(*pair, truth),
        },
    }


class Top(NamedTuple):
    """The best classes of every image, best first, and their logits. classes: (n, k) int32; scores: (n, k) float32."""

    classes: np.ndarray
    scores: np.ndarray


def top_of(logits: np.ndarray) -> Top:
    """The KEPT best classes of each image and their logits. logits: (b, classes)."""
    classes = top_classes(logits, KEPT).astype(np.int32)
    return Top(classes, np.take_along_axis(logits, classes, axis=1).astype(np.float32))


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
    reference: np.ndarray, classes: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
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
                "reference_percent": round(reference_percent, 4),
                "percent": round(own_percent, 4),
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
