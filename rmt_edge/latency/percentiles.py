"""Statistics of latency samples. numpy only.

Percentiles and the early-stopping estimate are those of MLPerf Inference's LoadGen (mlcommons/inference,
loadgen/results.cc and early_stopping.cc; inference_rules.adoc, "Early stopping criterion"), written from its
definitions: the percentile is the sample of rank floor(n·p) of the sorted n, counted from 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.99  # of the early-stopping estimate, as in LoadGen
BLOCKS = 20  # stretches of a run that ratio_interval resamples
RESAMPLES = 10_000


def percentile_ms(samples_ms: Sequence[float], per_mille: int) -> float:
    """The sample of rank floor(n·per_mille/1000). per_mille: 900 is the 90th percentile."""
    assert 0 <= per_mille < 1000, per_mille
    return float(sorted(samples_ms)[len(samples_ms) * per_mille // 1000])


def early_stopping_ms(samples_ms: Sequence[float], per_mille: int) -> float | None:
    """An upper bound of a percentile that holds with 99 % confidence; None where there are too few samples for one.

    The largest t ≥ 1 is taken for which P(at most t of n samples over the percentile) < 1 %; the estimate is the t-th
    largest sample. It needs 64 samples for p90 and 662 for p99, where t is 1 and the estimate the maximum.
    """
    t = over_latency_allowed(len(samples_ms), per_mille)
    return float(sorted(samples_ms)[-t]) if t else None


def over_latency_allowed(n: int, per_mille: int) -> int:
    """The largest t with P(X ≤ t) < 1 - CONFIDENCE for X of the binomial distribution (n, 1 - p); 0 if that is below 1.

    The terms are summed exactly, each by lgamma: log C(n, k) + k·log(1-p) + (n-k)·log p.
    """
    p = per_mille / 1000
    total, allowed = 0.0, 0
    for k in range(n + 1):
        log_choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(log_choices + k * math.log(1 - p) + (n - k) * math.log(p))
        if total >= 1 - CONFIDENCE:
            break
        allowed = k
    return allowed


def coefficient_of_variation(samples: Sequence[float]) -> float:
    """Standard deviation / mean."""
    values = np.asarray(samples, np.float64)
    return float(values.std() / values.mean())


def summary(samples_ms: Sequence[float], batch: int) -> dict[str, Any]:
    """What a record states of the samples of one run. images_per_s: 1000·batch / mean_ms, one batch after another."""
    mean_ms = float(np.mean(samples_ms))
    return {
        "mean_ms": mean_ms,
        "p50_ms": percentile_ms(samples_ms, 500),
        "p90_ms": percentile_ms(samples_ms, 900),
        "p99_ms": percentile_ms(samples_ms, 990),
        "p999_ms": percentile_ms(samples_ms, 999),
        "coefficient_of_variation": coefficient_of_variation(samples_ms),
        "early_stopping_p90_ms": early_stopping_ms(samples_ms, 900),
        "early_stopping_p99_ms": early_stopping_ms(samples_ms, 990),
        "images_per_s": 1e3 * batch / mean_ms,
    }


def ratio_interval(slower_ms: Sequence[float], faster_ms: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of p50(slower) / p50(faster).

    Neighbouring samples are alike (clocks, temperature), so single samples must not be resampled: each run is cut into
    BLOCKS stretches in the order of time, and the medians of the stretches are.
    """
    rng = np.random.default_rng(0)
    resampled = []
    for samples in (slower_ms, faster_ms):
        stretches = np.array_split(np.asarray(samples, np.float64), min(BLOCKS, len(samples)))
        medians = np.array([np.median(x) for x in stretches])
        resampled.append(np.median(rng.choice(medians, (RESAMPLES, len(medians))), axis=1))
    low, high = np.quantile(resampled[0] / resampled[1], (0.025, 0.975))
    return float(low), float(high)
