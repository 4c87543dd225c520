"""Flips: the images on which a model names another class than its reference. numpy only."""

from typing import Any

import numpy as np

from rmt_edge.artifact import DATA, PREDICTIONS, Artifact, ArtifactFolder
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.classification import flips as outcomes

# Of the pairs of classes; a page of 1,000 classes shows the most frequent.
SHOWN_PAIRS = 200


def flips_between(folder: ArtifactFolder, reference_name: str, predictions: Artifact) -> dict[str, Any] | None:
    """What changed between the reference's predictions and others; None where there is no file of that name.

    What became of the images is counted if either file holds their labels.
    Both must be of the same images in the same order: their manifests name the same data set.
    """
    if not (folder.path / reference_name).is_file():
        return None
    reference = folder.read(reference_name, PREDICTIONS)
    before_images, images = (x.manifest.parent(DATA) for x in (reference, predictions))
    drawn = [x.details.get("drawn") for x in (reference, predictions)]
    if before_images["sha256"] != images["sha256"] or drawn[0] != drawn[1]:
        raise RmtEdgeError(
            f"{predictions.path.name} is of other images than {reference_name}.",
            f"{images['name']} and {before_images['name']}, by their sha256 and what was drawn of them.",
            "Run `rmt-edge validate` again.",
        )
    with np.load(reference.path) as arrays:
        before, labels = arrays["classes"][:, 0], arrays.get("labels")
    with np.load(predictions.path) as arrays:
        after, labels = arrays["classes"][:, 0], arrays.get("labels", labels)
    return flips(before, after, labels)


def flips(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Counts of changed images and of each pair of classes, most frequent first. All arguments: (n,) classes."""
    assert before.shape == after.shape, (before.shape, after.shape)
    changed = before != after
    pairs, counts = np.unique(np.stack([before[changed], after[changed]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found: dict[str, Any] = {
        "images": len(before),
        "changed": int(changed.sum()),
        "pairs": [
            {"from": int(pairs[0, i]), "to": int(pairs[1, i]), "images": int(counts[i])} for i in order[:SHOWN_PAIRS]
        ],
        "pairs_left_out": max(0, len(order) - SHOWN_PAIRS),
    }
    return found | ({} if labels is None else outcomes(before, after, labels))
