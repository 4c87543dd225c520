"""The drop of a metric that is no mean over images (AP, mIoU), with an interval from paired resamples of the images."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from rmt_edge.metrics import CONFIDENCE

RESAMPLES = 1000
SEED = 0
METHOD = f"percentile interval of {RESAMPLES:,} paired bootstrap resamples of the images, both models scored on each"
# A drop is a difference of two float64 means: what lies this close to a limit is the limit.
ROUNDING_POINTS = 1e-9

# A metric's percent of weighted images: (r, n) weights, how often each image counts, to (r,) percents.
Percents = Callable[[np.ndarray], np.ndarray]


class ResampledDrop:
    """The drop between two models. before, after: percents of their tallies of the same images; count: of images."""

    method = METHOD

    def __init__(self, before: Percents, after: Percents, count: int):
        self.before, self.after, self.count = before, after, count

    @cached_property
    def points(self) -> float:
        whole = np.ones((1, self.count), np.float32)
        return float(self.before(whole)[0] - self.after(whole)[0])

    @cached_property
    def resampled_points(self) -> np.ndarray:
        """The drop on each resample, sorted. (RESAMPLES,) float64; a resample without any object is left out."""
        rng = np.random.default_rng(SEED)
        weights = rng.multinomial(self.count, np.full(self.count, 1 / self.count), RESAMPLES).astype(np.float32)
        drops = self.before(weights) - self.after(weights)
        return np.sort(drops[np.isfinite(drops)])

    def interval_points(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided."""
        low, high = np.quantile(self.resampled_points, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return float(low), float(high)

    def upper_points(self, confidence: float) -> float:
        """One-sided."""
        return float(np.quantile(self.resampled_points, confidence))

    def is_within(self, limit: float) -> bool:
        return self.points <= limit + ROUNDING_POINTS
