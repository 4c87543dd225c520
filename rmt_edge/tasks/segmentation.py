"""Semantic segmentation: mIoU from sums over all images, agreement by pixels, classes and images that lost most.

What is kept of an image are its pixels by class, counted in the original picture's size, and every 4th pixel of the
label map in the network's input, for agreement and pictures: the maps themselves would be a megabyte each.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import percent
from rmt_edge.tasks.bootstrap import ResampledDrop
from rmt_edge.tasks.comparison import Tally
from rmt_edge.tasks.label_maps import original_labels
from rmt_edge.tasks.task import Frame, Named, Outputs, Rows, Spec

METRIC = "mIoU"
IGNORED = 255  # of a label map: pixels that do not count
STEP = 4  # of the label map in the network's input every so many-th pixel is kept
WORST = 10  # images listed


class LabelMaps(Protocol):
    """The truth of a segmenter's images: label maps in the pictures' own size, read one at a time."""

    def read(self, index: int) -> np.ndarray:
        """(h, w) of whole numbers, IGNORED for pixels that do not count."""
        ...


@dataclass(frozen=True)
class Unions:
    """A tally: of every image and class the pixels in both maps, and in either. (n, classes) int64."""

    shared: np.ndarray
    either: np.ndarray

    def __len__(self) -> int:
        return len(self.shared)

    def percent(self) -> float:
        return float(self.percents(np.ones((1, len(self))))[0])

    def percents(self, weights: np.ndarray) -> np.ndarray:
        """mIoU of images that count so often: classes in neither map are left out. (r, n) -> (r,)."""
        shared, either = (weights.astype(np.float64) @ x for x in (self.shared, self.either))  # (r, classes)
        return (
            100
            * np.divide(shared, either, out=np.zeros(shared.shape), where=either > 0).sum(axis=1)
            / np.where((either > 0).any(axis=1), (either > 0).sum(axis=1), np.nan)
        )

    def drop_to(self, other: "Unions") -> ResampledDrop:
        return ResampledDrop(self.percents, other.percents, len(self))

    def to_dict(self) -> dict[str, Any]:
        """Both tables, compressed."""
        packed = {name: zlib.compress(getattr(self, name).astype("<i8").tobytes(), 9) for name in ("shared", "either")}
        return {"classes": self.shared.shape[1], **{k: base64.b64encode(x).decode() for k, x in packed.items()}}


def record(spec: Spec) -> np.dtype:
    """The pixels by class, in both maps and in each; the small map, and the part of it that is the picture."""
    side = (-(-spec.height // STEP), -(-spec.width // STEP))
    counts: list[Any] = [(name, "<i4", (spec.classes,)) for name in ("shared", "found", "true")]
    return np.dtype([*counts, ("map", "u1" if spec.classes <= 256 else "<u2", side), ("map_size", "<i4", (2,))])


def check_outputs(outputs: Outputs, images: int, spec: Spec, title: str) -> None:
    """Refuse label maps or logits of other sizes and classes than the model's, and NaN or infinity."""
    if "logits" in outputs:
        logits = outputs["logits"]
        if logits.ndim != 4 or logits.shape[:2] != (images, spec.classes):
            raise RmtEdgeError(f"{title}: the logits are {logits.shape}, expected ({images}, {spec.classes}, h, w).")
        if not np.isfinite(logits).all():
            raise RmtEdgeError(f"{title}: the logits hold NaN or infinite values.", "FP16 ends at 65504.")
        return
    if "labels" not in outputs:
        raise RmtEdgeError(f"{title}: there is no output labels.", f"there are {', '.join(outputs)}.")
    labels, expected = outputs["labels"], (images, spec.height, spec.width)
    if labels.shape != expected:
        raise RmtEdgeError(f"{title}: the labels are {labels.shape}, expected {expected}.")
    if labels.min() < 0 or labels.max() >= spec.classes:
        raise RmtEdgeError(f"{title}: its labels reach {labels.max()}.", f"the model has {spec.classes} classes.")


def rows_of(
    outputs: Outputs, spec: Spec, frames: Sequence[Frame], truth: LabelMaps | None = None, first: int = 0
) -> np.ndarray:
    """The records of a batch; without the truth pixels are not counted."""
    rows = np.zeros(len(frames), record(spec))
    for i, (row, frame) in enumerate(zip(rows, frames, strict=True)):
        of_image = {name: x[i] for name, x in outputs.items()}
        labels, original = original_labels(of_image, spec, frame)
        small = labels[::STEP, ::STEP]
        row["map_size"] = small.shape
        row["map"][: small.shape[0], : small.shape[1]] = small
        if truth is not None:
            row["shared"], row["found"], row["true"] = pixels_by_class(original, truth.read(first + i), spec.classes)
    return rows


def pixels_by_class(labels: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each class in both maps, in the one found and in the true one, IGNORED left out. (classes,) each."""
    if labels.shape != truth.shape:
        raise RmtEdgeError(f"A label map is {truth.shape}, its picture {labels.shape}.", "they are of one size.")
    counted = truth != IGNORED
    found, true = labels[counted].astype(np.int64), truth[counted].astype(np.int64)
    if len(true) and true.max() >= classes:
        raise RmtEdgeError(f"A label map reaches {true.max()}.", f"the model has {classes} classes.")
    shared = found[found == true]
    return tuple(np.bincount(x, minlength=classes) for x in (shared, found, true))  # type: ignore[return-value]


def kept_beside(rows: Rows, truth: Any) -> Rows:
    """Nothing: the pixels were counted when the image was at hand."""
    return {}


def tallies_in(judged: Rows) -> dict[str, Tally]:
    """mIoU."""
    shared, found, true = (judged[name].astype(np.int64) for name in ("shared", "found", "true"))
    return {METRIC: Unions(shared, found + true - shared)}


def tally_from_dict(metric: str, values: dict[str, Any], images: int) -> Unions:
    """Of `Unions.to_dict`."""
    contents = (zlib.decompress(base64.b64decode(values[name], validate=True)) for name in ("shared", "either"))
    return Unions(*(np.frombuffer(x, "<i8").reshape(images, values["classes"]) for x in contents))


def facts(reference: Rows, subject: Rows, named: Named) -> dict[str, Any]:
    """Agreement by pixels of the small maps, IoU by class, accuracy of pixels, images whose labels changed most."""
    rows, sizes = [], subject["map_size"]
    for i, (h, w) in enumerate(sizes.tolist()):
        differs = int((reference["map"][i, :h, :w] != subject["map"][i, :h, :w]).sum())
        rows.append({"index": i, "name": named.image(i), "changed_percent": round(100 * differs / (h * w), 4)})
    changed, pixels = np.array([x["changed_percent"] for x in rows]), sizes.prod(axis=1)
    order = np.argsort(-changed, kind="stable")[:WORST]
    return {
        "agreement_percent": 100.0 - float((changed * pixels).sum() / pixels.sum()),
        "per_class": _per_class(reference, subject, named),
        "worst_images": [rows[i] for i in order],
        "segmentation": {
            "agreement": f"pixels of one class in both, of every {STEP}th of the network's input",
            "pixel_accuracy_percent": _pixel_accuracy(subject),
            "reference_pixel_accuracy_percent": _pixel_accuracy(reference),
        },
    }


def _pixel_accuracy(rows: Rows) -> float:
    true = int(rows["true"].sum(dtype=np.int64))
    return round(100.0 * int(rows["shared"].sum(dtype=np.int64)) / true, 4) if true else 0.0


def _per_class(reference: Rows, subject: Rows, named: Named) -> list[dict[str, Any]]:
    """IoU of both models by class; classes that neither truth nor map has are left out."""
    found = []
    for rows in (reference, subject):
        shared, own, true = (rows[name].sum(axis=0, dtype=np.int64) for name in ("shared", "found", "true"))
        either = own + true - shared
        found.append(np.divide(shared, either, out=np.full(len(either), np.nan), where=either > 0))
    images = (subject["true"] > 0).sum(axis=0)
    return [
        {
            "class": label,
            "name": named.classes[label] if named.classes else str(label),
            "images": int(images[label]),
            "reference_percent": round(percent(before), 4),
            "percent": round(percent(after), 4),
            "drop_points": round(percent(before) - percent(after), 4),
        }
        for label, (before, after) in enumerate(zip(*found, strict=True))
        if np.isfinite(before) and np.isfinite(after)
    ]
