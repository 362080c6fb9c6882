"""Intervals and differences. Refuses to know tasks; numbers in, numbers out.

All intervals are 95 %. A share's is Wilson's, that of a difference of paired shares Newcombe's; a mean's is a bootstrap's
(percentiles of 2,000 resamples with a fixed seed), so that the same records give the same report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
"""Of every interval, and of what is called more than noise."""
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
    found = _mean(known)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), found.count)


def _mean(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, its interval recovered from theirs."""
    value = sum(part.value for part in parts) / len(parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(value, value - below, value + above, sum(part.count for part in parts))


def _bounded(value: float, count: int, least: float, most: float) -> Estimate:
    """The interval of a mean of equal values: values within bounds vary no more than shares do."""
    span = most - least
    share = wilson((value - least) / span * count, count)
    return Estimate(value, least + share.low * span, least + share.high * span, count)


def bootstrap(groups: Sequence[Sequence[float]], least: float = 0.0, most: float = 1.0) -> Estimate:
    """The mean over groups of the groups' means; resampled within each group.

    Args:
        groups: One group for a plain mean; categories for a macro average. Empty groups are left out.
        least: The smallest value that there could have been.
        most: The largest.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    count = sum(len(array) for array in arrays)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(np.mean([array.mean() for array in arrays]))
    if all((array == array[0]).all() for array in arrays):
        # Resampling equal values claims certainty.
        if len({array[0] for array in arrays}) == 1:
            return _bounded(value, count, least, most)
        return _mean([_bounded(float(array[0]), len(array), least, most) for array in arrays])
    generator = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for array in arrays:
        for at in range(RESAMPLES):
            means[at] += array[generator.integers(0, len(array), len(array))].mean()
    low, high = np.percentile(means / len(arrays), [2.5, 97.5])
    return Estimate(value, float(low), float(high), count)


def clustered(values: Sequence[Sequence[float]], least: float = 0.0, most: float = 1.0) -> Estimate:
    """The mean over items of each item's mean over its episodes: episodes of one item say less than several items."""
    return bootstrap([[float(np.mean(item)) for item in values if len(item)]], least, most)


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
        """Whether the interval leaves 0 out and chance alone would give as much less than once in twenty times."""
        return (self.estimate.low > 0 or self.estimate.high < 0) and self.p < 1 - LEVEL


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    span: float = 1.0,
    categories: Sequence[str] | None = None,
) -> Difference:
    """The mean of `first - second` over the same items in the same order.

    Args:
        first: One value an item.
        second: The other run's.
        span: How far apart two values can be: a share's whole in its unit, or a rating's range.
        categories: Of the items, for a macro average: the mean over categories of the means in each.

    Raises:
        ValueError: There are not as many of one as of the other.
    """
    if len(first) != len(second) or (categories is not None and len(categories) != len(first)):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    names = np.asarray(categories if categories is not None else [""] * len(one))
    parts = [names == name for name in dict.fromkeys(names.tolist())]
    gaps = one - other
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    if all(value in (0.0, span) for value in (*one.tolist(), *other.tolist())):
        estimate = _mean([_newcombe(one[part] > 0, other[part] > 0).scaled(span) for part in parts])
    else:
        estimate = bootstrap([gaps[part].tolist() for part in parts], -span, span)
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


def _newcombe(first: Any, second: Any) -> Estimate:
    """The difference of two shares of the same items (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    `first` and `second` are arrays of truth values, one an item.
    """
    count = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_one, only_other = int((first & ~second).sum()), int((~first & second).sum())
    one, other = wilson(both + only_one, count), wilson(both + only_other, count)
    cross = both * neither - only_one * only_other
    margins = (both + only_one) * (only_other + neither) * (both + only_other) * (only_one + neither)
    # The correlation of the two, drawn towards 0 where it is positive.
    least = max(cross - count / 2, 0) if cross > 0 else cross
    correlation = least / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    value = one.value - other.value
    low = value - reach(one.value - one.low, other.high - other.value)
    high = value + reach(one.high - one.value, other.value - other.low)
    return Estimate(value, low, high, count)


def _sign_test(better: int, worse: int) -> float:
    count, least = better + worse, min(better, worse)
    log_half = -count * math.log(2)
    tail = sum(
        math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) + log_half)
        for k in range(least + 1)
    )
    return min(2 * tail, 1.0)
