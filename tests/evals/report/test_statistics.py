"""Intervals and differences against values known from elsewhere."""

import math

import numpy as np
import pytest

from agentlm_evals.report.statistics import bootstrap, clustered, macro, paired, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81 of 263 without continuity correction.
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    # The same, 0 of 20: 0 to 0.1611.
    assert (wilson(0, 20).low, round(wilson(0, 20).high, 4)) == (0.0, 0.1611)
    assert wilson(20, 20).high == 1.0


def test_no_episode_gives_no_number() -> None:
    assert math.isnan(wilson(0, 0).value)
    assert math.isnan(bootstrap([[], []]).value)


def test_a_macro_average_weighs_groups_alike() -> None:
    assert bootstrap([[1.0] * 99, [0.0]]).value == pytest.approx(0.5)


def test_equal_values_are_not_certain() -> None:
    assert bootstrap([[0.0] * 20]) == wilson(0, 20)
    assert bootstrap([[0.0] * 10, [0.0] * 10]).high == pytest.approx(0.1611, abs=1e-4)
    # Five ratings of 7 on a scale from 1 to 10 are six ninths of the way.
    rated, share = bootstrap([[7.0] * 5], 1.0, 10.0), wilson(5 * 6 / 9, 5)
    assert (rated.value, rated.low, rated.high) == pytest.approx((7.0, 1 + 9 * share.low, 1 + 9 * share.high))


def test_a_macro_average_of_shares_recovers_its_interval_from_theirs() -> None:
    one, other = wilson(5, 10), wilson(9, 10)
    found = macro([one, other, wilson(0, 0)])
    assert found.value == pytest.approx(0.7)
    assert 0.7 - found.low == pytest.approx((((0.5 - one.low) ** 2 + (0.9 - other.low) ** 2) ** 0.5) / 2)
    assert found.high - 0.7 == pytest.approx((((one.high - 0.5) ** 2 + (other.high - 0.9) ** 2) ** 0.5) / 2)
    assert macro([wilson(0, 5)] * 3).high > 0.2


def test_a_bootstraps_interval_is_near_the_normal_one_and_always_the_same() -> None:
    values = [float(at % 10) / 10 for at in range(400)]
    found = bootstrap([values])
    assert found == bootstrap([values])
    half = 1.96 * 0.2872 / 20
    assert found.low == pytest.approx(0.45 - half, abs=0.005)
    assert found.high == pytest.approx(0.45 + half, abs=0.005)


def test_repeated_episodes_of_one_item_do_not_narrow_the_interval() -> None:
    once = clustered([[1.0], [0.0]] * 10)
    often = clustered([[1.0] * 50, [0.0] * 50] * 10)
    assert (once.low, once.high) == (often.low, often.high)


def test_a_paired_difference_of_equal_runs_is_noise() -> None:
    found = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.estimate.value, found.p, found.is_more_than_noise) == (0.0, 1.0, False)


def test_a_paired_difference_in_one_direction_is_more_than_noise() -> None:
    found = paired([1.0] * 12 + [0.0] * 8, [0.0] * 20)
    assert found.estimate.value == pytest.approx(0.6)
    assert (found.better, found.worse) == (12, 0)
    # Two-sided sign test: 2 * 0.5 ** 12.
    assert found.p == pytest.approx(2 * 0.5**12)
    assert found.is_more_than_noise


@pytest.mark.parametrize(("count", "is_more"), [(1, False), (5, False), (6, True)])
def test_few_items_in_one_direction_are_noise(count: int, is_more: bool) -> None:
    # Two-sided sign tests: 2 * 0.5 ** 5 is 0.06.
    assert paired([1.0] * count, [0.0] * count).is_more_than_noise is is_more


@pytest.mark.parametrize(("count", "is_more"), [(1, False), (3, False), (20, True)])
def test_few_equal_differences_of_ratings_are_noise(count: int, is_more: bool) -> None:
    assert paired([9.0] * count, [2.0] * count, span=9.0).is_more_than_noise is is_more


def test_a_paired_difference_of_shares_has_newcombes_interval() -> None:
    # Without any correlation it is the difference of two Wilson intervals.
    one, other = [1.0] * 50 + [0.0] * 50, [1.0, 0.0] * 50
    found, share = paired(one, other).estimate, wilson(50, 100)
    half = math.hypot(share.value - share.low, share.high - share.value)
    assert (found.low, found.high) == pytest.approx((-half, half))
    # Runs that mostly agree are told apart better.
    alike = paired([1.0] * 55 + [0.0] * 45, [1.0] * 50 + [0.0] * 50).estimate
    apart = paired([1.0] * 55 + [0.0] * 45, [0.0] * 45 + [1.0] * 50 + [0.0] * 5).estimate
    assert alike.value == apart.value == pytest.approx(0.05)
    assert alike.high - alike.low < 0.6 * (apart.high - apart.low)


def test_newcombes_interval_covers() -> None:
    # 4 of 40 items changed hands, 12 the other way: the true difference is 0.2 in 95 of 100 draws or more.
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        kinds = generator.choice(4, 40, p=[0.3, 0.3, 0.1, 0.3])
        first, second = np.isin(kinds, (0, 1)), np.isin(kinds, (0, 2))
        found = paired(first.astype(float), second.astype(float)).estimate
        covered += found.low <= 0.2 <= found.high
    assert covered >= 280


def test_graded_differences_are_tested_by_permutation() -> None:
    found = paired([0.5, 0.25, 0.75, 0.5] * 10, [0.25, 0.3, 0.5, 0.5] * 10)
    assert found.is_more_than_noise
    assert found.p < 0.05


def test_values_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired([1.0], [1.0, 0.0])
