"""Percentiles and MLPerf's early stopping, against exact fractions and the numbers that LoadGen is known by."""

import math
from fractions import Fraction

import numpy as np
import pytest

from rmt_edge.latency import percentiles


def exact_allowed(n, per_mille):
    """over_latency_allowed in exact arithmetic."""
    over = Fraction(1000 - per_mille, 1000)
    total, allowed = Fraction(0), 0
    for k in range(n + 1):
        total += math.comb(n, k) * over**k * (1 - over) ** (n - k)
        if total >= Fraction(1, 100):
            break
        allowed = k
    return allowed


@pytest.mark.parametrize(("per_mille", "fewest"), [(900, 64), (990, 662)])
def test_early_stopping_needs_the_samples_that_loadgen_asks_for(per_mille, fewest):
    samples = [float(x) for x in range(1, fewest + 1)]
    assert percentiles.early_stopping_ms(samples[:-1], per_mille) is None
    assert percentiles.early_stopping_ms(samples, per_mille) == fewest


@pytest.mark.parametrize("per_mille", [900, 990])
@pytest.mark.parametrize("n", [1, 44, 63, 64, 65, 81, 82, 97, 250, 661, 662, 1024])
def test_the_allowed_count_is_that_of_exact_fractions(n, per_mille):
    assert percentiles.over_latency_allowed(n, per_mille) == exact_allowed(n, per_mille)


def test_early_stopping_takes_the_t_th_largest_sample():
    # 1,024 queries: P(X ≤ 79) < 1 % ≤ P(X ≤ 80) for X of (1024, 0.1), so t = 79, by the fractions above.
    n = 1024
    t = exact_allowed(n, 900)
    samples = np.random.default_rng(3).permutation(n).astype(float)
    assert percentiles.early_stopping_ms(samples, 900) == n - t
    assert 70 < t < 90


def test_the_early_stopping_estimate_covers_the_percentile_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true_p90 = -math.log(0.1)
    estimates = [percentiles.early_stopping_ms(rng.exponential(size=200), 900) for _ in range(400)]
    assert np.mean([x >= true_p90 for x in estimates]) > 0.975


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_are_samples_in_order_with_that_share_below_them(seed):
    rng = np.random.default_rng(seed)
    samples = rng.gamma(2, 1, int(rng.integers(1, 2000)))
    found = [percentiles.percentile_ms(samples, x) for x in (0, 500, 900, 990, 999)]
    assert found == sorted(found) and set(found) <= set(samples)
    assert found[0] == samples.min()
    assert found == [percentiles.percentile_ms(rng.permutation(samples), x) for x in (0, 500, 900, 990, 999)]
    for per_mille, value in zip((500, 900, 990, 999), found[1:], strict=True):
        assert np.mean(samples <= value) >= per_mille / 1000
        assert np.mean(samples < value) <= per_mille / 1000


def test_rank_is_counted_in_whole_numbers():
    # 0.29 * 100 is 28.999… in floating point.
    assert percentiles.percentile_ms(list(range(100)), 290) == 29


def test_summary_of_known_samples():
    found = percentiles.summary([1.0, 3.0], batch=4)
    assert found["mean_ms"] == 2 and found["p50_ms"] == 3 and found["images_per_s"] == 2000
    assert found["coefficient_of_variation"] == 0.5
    assert found["early_stopping_p90_ms"] is None


def test_the_ratio_interval_holds_the_ratio_and_narrows_with_less_noise():
    rng = np.random.default_rng(1)
    wide = percentiles.ratio_interval(1.1 + rng.normal(0, 0.1, 1000), 1 + rng.normal(0, 0.1, 1000))
    narrow = percentiles.ratio_interval(1.1 + rng.normal(0, 0.01, 1000), 1 + rng.normal(0, 0.01, 1000))
    assert wide[0] < 1.1 < wide[1] and narrow[0] < 1.1 < narrow[1]
    assert narrow[1] - narrow[0] < 0.3 * (wide[1] - wide[0])


def test_drift_widens_the_ratio_interval():
    steady = np.ones(1000)
    rng = np.random.default_rng(2)
    drifting = np.linspace(0.9, 1.1, 1000)
    low, high = percentiles.ratio_interval(drifting, steady)
    shuffled = percentiles.ratio_interval(rng.permutation(drifting), steady)
    assert high - low > 2 * (shuffled[1] - shuffled[0])
