"""Metrics, each named after its formula. numpy only."""

import math
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95  # of intervals
INTERVAL_METHOD = "score interval of a difference of paired proportions (Tango 1998), which inverts McNemar's test"


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


def drop_interval_points(
    reference_hits: np.ndarray, hits: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided interval of the drop in points, paired per image: see score_interval."""
    lost, won = discordant(reference_hits, hits)
    low, high = score_interval(lost, won, len(hits), _quantile(0.5 + confidence / 2))
    return 100.0 * low, 100.0 * high


def drop_upper_points(reference_hits: np.ndarray, hits: np.ndarray, confidence: float) -> float:
    """One-sided upper end of the drop in points: with this confidence the drop on further images is no larger."""
    lost, won = discordant(reference_hits, hits)
    return 100.0 * score_interval(lost, won, len(hits), _quantile(confidence))[1]


def discordant(reference_hits: np.ndarray, hits: np.ndarray) -> tuple[int, int]:
    """Images on which only the reference is right (lost) and only the other model is (won)."""
    return int((reference_hits & ~hits).sum()), int((hits & ~reference_hits).sum())


def mcnemar_p(lost: int, won: int) -> float:
    """McNemar's exact test, two-sided: the chance of flips at least this one-sided if both ways were as likely.

    min(1, 2·P(X ≤ min(lost, won))), X binomial over lost + won flips with probability 1/2; 1 without a flip.
    """
    flips = lost + won
    i = np.arange(1, min(lost, won) + 1, dtype=np.float64)
    # log of the binomial coefficients flips over 0, 1, … min(lost, won), as running sums of log((flips - i + 1)/i)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((flips - i + 1) / i))])
    return min(1.0, 2.0 * float(np.exp(log_choices - flips * math.log(2)).sum()))


def score_interval(lost: int, won: int, count: int, z: float) -> tuple[float, float]:
    """All differences d of two paired proportions that a score test at ±z does not reject: Tango's interval.

    d = (lost - won)/count of images. T(d) = (lost - won - count·d)/sqrt(count·(2q + d·(1 - d))), q the likeliest share
    of won images given d. At d = 0 this is McNemar's z: the interval excludes 0 where that test rejects.
    Unlike Wald's interval and the paired bootstrap it keeps a width where no image flips: about z²/count.
    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908; recommended for paired proportions by M. W. Fagerland,
    S. Lydersen and P. Laake, Statistics in Medicine 33 (2014) 2850-2875.
    """

    def score(d: float) -> float:
        a, b, c = 2.0 * count, (2.0 * count - lost + won) * d - lost - won, -won * d * (1.0 - d)
        q = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
        variance = count * (2.0 * q + d * (1.0 - d))
        difference = lost - won - count * d
        return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference)

    def end(limit: float, outer: float) -> float:
        inside, outside = (lost - won) / count, outer
        for _ in range(60):  # halvings of an interval of at most 2: beyond float64's precision
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if abs(score(middle)) <= limit else (inside, middle)
        return inside

    return end(z, -1.0), end(z, 1.0)


def _quantile(probability: float) -> float:
    """Of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


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
