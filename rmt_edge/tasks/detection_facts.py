"""What a record says of a detector beside its AP: agreement with the float32 model, classes, images that changed."""

from typing import Any

import numpy as np

from rmt_edge.metrics import percent
from rmt_edge.tasks.average_precision import AREAS, RECALLS, THRESHOLDS, Matches, box_overlaps
from rmt_edge.tasks.task import Named, Rows

SURE = 0.3  # a box of at least this score is looked for in the other model; those below come and go with rounding
SAME = 0.5  # IoU from which two boxes of a class are one
WORST = 10  # images listed
SHOWN_RECALLS = 5  # every so many of RECALLS is told
AGREEMENT = (
    f"boxes of either model with a score of at least {SURE} that have one of their class at IoU {SAME} in the other"
)


def facts(reference: Rows, subject: Rows, named: Named) -> dict[str, Any]:
    """Agreement by boxes, AP by class, by threshold and by size, and the images whose boxes changed most."""
    pairs = [lone_boxes(reference, subject, i) for i in range(len(subject["count"]))]
    sure = sum(x["reference_boxes"] + x["boxes"] for x in pairs)
    alone = sum(x["boxes_lost"] + x["boxes_new"] for x in pairs)
    worst = sorted(range(len(pairs)), key=lambda i: -(pairs[i]["boxes_lost"] + pairs[i]["boxes_new"]))[:WORST]
    metric = next(x for x in ("mask AP", "box AP") if f"{x}/images" in subject)
    both = matches_in(reference, metric), matches_in(subject, metric)
    return {
        "agreement_percent": 100.0 * (sure - alone) / sure if sure else 100.0,
        "per_class": per_class(*both, named),
        "worst_images": [{"index": i, "name": named.image(i)} | pairs[i] for i in worst],
        "detection": {
            "agreement": AGREEMENT,
            **{key: {"reference": a, "own": b} for key, (a, b) in _paired(*both).items()},
            "recalls": [round(float(x), 3) for x in RECALLS[::SHOWN_RECALLS]],
            "precision_at_recall": precision_recall(*both, named),
        },
    }


def matches_in(judged: Rows, metric: str) -> Matches:
    """The matches that were kept beside the rows."""
    values = {name: judged[f"{metric}/{name}"] for name in Matches.__dataclass_fields__}
    return Matches(int(values.pop("images")), **values)


def lone_boxes(reference: Rows, subject: Rows, index: int) -> dict[str, int]:
    """Of an image: sure boxes of both models, and those of each without a counterpart in the other."""
    boxes, labels, sure = [], [], []
    for rows in (reference, subject):
        n = int(rows["count"][index])
        boxes.append(rows["boxes"][index][:n].astype(np.float64))
        labels.append(rows["labels"][index][:n])
        sure.append(rows["scores"][index][:n] >= SURE)
    ious = box_overlaps(boxes[0], boxes[1], np.zeros(len(boxes[1]), bool))
    is_same = (ious >= SAME) & (labels[0][:, None] == labels[1][None])
    return {
        "reference_boxes": int(sure[0].sum()),
        "boxes": int(sure[1].sum()),
        "boxes_lost": int((sure[0] & ~is_same.any(axis=1)).sum()),
        "boxes_new": int((sure[1] & ~is_same.any(axis=0)).sum()),
    }


def per_class(before: Matches, after: Matches, named: Named) -> list[dict[str, Any]]:
    """AP of both models by class; classes without an object are left out."""
    whole, rows = np.ones((1, len(after))), []
    for label in after.labels:
        own, reference = (100 * float(x.precision(label, whole).mean()) for x in (after, before))
        if np.isfinite(own):
            rows.append(
                {
                    "class": int(label),
                    "name": _class_name(named, int(label)),
                    "objects": int((after.counts[:, 0] & (after.object_label == label)).sum()),
                    "reference_percent": round(reference, 4),
                    "percent": round(own, 4),
                    "drop_points": round(reference - own, 4),
                }
            )
    return rows


def precision_recall(before: Matches, after: Matches, named: Named) -> list[dict[str, Any]]:
    """Precision at IoU 0.5 and every SHOWN_RECALLS-th recall, class by class."""
    whole, rows = np.ones((1, len(after))), []
    for label in after.labels:
        curves = [x.precision(label, whole)[0, 0, ::SHOWN_RECALLS] for x in (before, after)]
        if np.isfinite(curves[1]).all():
            of_both = {
                key: [round(float(x), 4) for x in y] for key, y in zip(("reference", "own"), curves, strict=True)
            }
            rows.append({"class": int(label), "name": _class_name(named, int(label))} | of_both)
    return rows


def _paired(before: Matches, after: Matches) -> dict[str, tuple[float | None, float | None]]:
    """AP50, AP75 and AP by size of object, of both models; None where there is no such object."""
    whole = np.ones((1, len(after)))

    def numbers(x: Matches) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for threshold in (0.5, 0.75):
            at = int(np.argmin(np.abs(THRESHOLDS - threshold)))
            values = np.array([x.precision(label, whole)[0, at].mean() for label in x.labels])
            found[f"ap{round(100 * threshold)}_percent"] = _mean(values)
        for i, area in enumerate(AREAS):
            if i:
                found[f"ap_{area}_percent"] = _mean(x.percents(whole, i) / 100)
        return found

    first, second = numbers(before), numbers(after)
    return {key: (first[key], second[key]) for key in first}


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return round(percent(known), 4) if len(known) else None


def _class_name(named: Named, label: int) -> str:
    return named.classes[label] if named.classes else str(label)
