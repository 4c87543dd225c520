"""Metrics, each named after its formula. numpy only."""

import math

import numpy as np


def top_classes(logits: np.ndarray, k: int) -> np.ndarray:
    """The k classes of largest logit, largest first; of equal logits the lower class.

    logits: (b, classes). Returns (b, min(k, classes)).
    """
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def hits(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the label is among an image's classes. (n, k), (n,) -> (n,) bool."""
    return (classes == labels[:, None]).any(axis=1)


def percent(fraction: np.ndarray) -> float:
    """100·mean of booleans."""
    return 100.0 * float(np.mean(fraction))


def drop_points(reference_hits: np.ndarray, hits: np.ndarray) -> float:
    """percent(reference_hits) - percent(hits): positive where accuracy was lost."""
    return percent(reference_hits) - percent(hits)


def drop_interval_points(reference_hits: np.ndarray, hits: np.ndarray) -> tuple[float, float]:
    """95 % interval of the drop in points, paired per image: drop ± 1.96·sd(reference_hit - hit)/sqrt(n).

    Both models see the same images, so the interval is that of the images on which they differ; far narrower than the
    interval of either accuracy.
    """
    difference = reference_hits.astype(np.float64) - hits.astype(np.float64)
    half_width = 1.96 * 100.0 * float(difference.std()) / math.sqrt(len(difference))
    centre = drop_points(reference_hits, hits)
    return centre - half_width, centre + half_width


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """‖actual - expected‖/‖expected‖, both norms over all elements."""
    expected = expected.astype(np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def sqnr_db(actual: np.ndarray, expected: np.ndarray) -> float:
    """-20·log10(relative_error): signal to quantisation noise, in decibels; infinite where they are equal."""
    error = relative_error(actual, expected)
    return math.inf if error == 0 else -20.0 * math.log10(error)


def kl_nats(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) || softmax(logits)) per image, in nats. (n, classes), (n, classes) -> (n,)."""
    expected, actual = _log_softmax(reference), _log_softmax(logits)
    return np.maximum((np.exp(expected) * (expected - actual)).sum(1), 0.0)  # rounding may take it below 0


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
