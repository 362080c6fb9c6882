"""Intervals and differences. Refuses to know tasks; numbers in, numbers out.

All intervals are 95 %. A share's is Wilson's; a mean's is a bootstrap's (percentiles of 2,000 resamples with a fixed
seed), so that the same records give the same report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""
RESAMPLES = 2000
SEED = 20231019
"""Of the bootstrap: any fixed number would do."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float
    count: int
    """What it is averaged over."""

    def scaled(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.count)


def wilson(successes: float, count: int) -> Estimate:
    """A share and Wilson's score interval (Wilson 1927)."""
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    share = successes / count
    denominator = 1 + Z * Z / count
    centre = (share + Z * Z / (2 * count)) / denominator
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / denominator
    # At 0 and 1 the formula gives the border up to rounding.
    low = 0.0 if share == 0 else max(centre - half, 0.0)
    high = 1.0 if share == 1 else min(centre + half, 1.0)
    return Estimate(share, low, high, count)


def macro(shares: Sequence[Estimate]) -> Estimate:
    """The mean of shares, its interval recovered from theirs (MOVER, Zou and Donner 2008); empty ones are left out."""
    known = [share for share in shares if share.count]
    if not known:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = sum(share.value for share in known) / len(known)
    below = math.sqrt(sum((share.value - share.low) ** 2 for share in known)) / len(known)
    above = math.sqrt(sum((share.high - share.value) ** 2 for share in known)) / len(known)
    return Estimate(
        value, max(value - below, 0.0), min(value + above, 1.0), sum(share.count for share in known)
    )


def bootstrap(groups: Sequence[Sequence[float]]) -> Estimate:
    """The mean over groups of the groups' means; resampled within each group.

    Args:
        groups: One group for a plain mean; categories for a macro average. Empty groups are left out.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    count = sum(len(array) for array in arrays)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(np.mean([array.mean() for array in arrays]))
    if 0 <= value <= 1 and all((array == value).all() for array in arrays):
        # Resampling equal values claims certainty. Values within [0, 1] vary no more than shares do.
        return wilson(value * count, count)
    generator = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for array in arrays:
        for at in range(RESAMPLES):
            means[at] += array[generator.integers(0, len(array), len(array))].mean()
    low, high = np.percentile(means / len(arrays), [2.5, 97.5])
    return Estimate(value, float(low), float(high), count)


def clustered(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean over items of each item's mean over its episodes: episodes of one item say less than several items."""
    return bootstrap([[float(np.mean(item)) for item in values if len(item)]])


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more one run scores than another on the items that both ran."""

    estimate: Estimate
    p: float
    """Two-sided: how often chance alone would give as much (exact sign test for shares, sign-flip permutations else)."""
    better: int
    worse: int

    @property
    def is_more_than_noise(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.estimate.low > 0 or self.estimate.high < 0


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of `first - second` over the same items in the same order."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    estimate = bootstrap([gaps.tolist()])
    if not better + worse:
        return Difference(estimate, 1.0, 0, 0)
    if len(np.unique(np.abs(gaps[gaps != 0]))) == 1:
        # Right or wrong, in whatever unit.
        p = _sign_test(better, worse)
    else:
        generator = np.random.default_rng(SEED)
        observed = abs(gaps.mean())
        flips = generator.choice((-1.0, 1.0), (RESAMPLES, len(gaps)))
        p = float((np.abs((flips * gaps).mean(axis=1)) >= observed - 1e-12).sum() + 1) / (RESAMPLES + 1)
    return Difference(estimate, p, better, worse)


def _sign_test(better: int, worse: int) -> float:
    count, least = better + worse, min(better, worse)
    log_half = -count * math.log(2)
    tail = sum(
        math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) + log_half)
        for k in range(least + 1)
    )
    return min(2 * tail, 1.0)
