"""Means of seeds with intervals, the rank test and Holm's correction, each by a second route."""

from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from interval_coverage import coverage, ours
from scipy import stats

from nas.compare.statistics import estimate, estimates, holm, seeds_needed, signed_rank_p

VALUES = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


def seeds(least: int, most: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, st.integers(least, most), elements=VALUES)


# --------------------------------------------------------------------------------------------------------- intervals


def test_a_single_seed_has_a_mean_and_no_bounds() -> None:
    found = estimate([0.25])
    assert found.value == 0.25
    assert np.isnan([found.low, found.high]).all()


def test_no_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])


def test_three_seeds_take_students_interval() -> None:
    found = estimate([1.0, 2.0, 3.0])
    # Mean 2, standard deviation 1, Student's quantile of 2 degrees 4.3027: 4.3027 / sqrt(3) = 2.4841.
    assert (found.value, found.low, found.high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-4)


def test_seeds_that_agree_leave_an_interval_of_no_width() -> None:
    for count in (2, 10):
        found = estimate([0.5] * count)
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_nan_spoils_its_own_place_alone() -> None:
    values_SP = np.random.default_rng(0).normal(size=(10, 2))
    values_SP[3, 0] = np.nan
    spoilt, whole = estimates(values_SP)
    assert np.isnan([spoilt.value, spoilt.low, spoilt.high]).all()
    alone = estimate(values_SP[:, 1])
    assert (whole.value, whole.low, whole.high) == pytest.approx((alone.value, alone.low, alone.high), rel=1e-12)


@pytest.mark.parametrize("num_seeds", [6, 10, 20])
def test_the_interval_is_scipys_percentile_bootstrap_at_the_wider_quantiles(num_seeds: int) -> None:
    values_S = np.random.default_rng(num_seeds).lognormal(size=num_seeds)
    quantile = stats.t.ppf(0.025, num_seeds - 1) * np.sqrt(num_seeds / (num_seeds - 1))
    level = 1.0 - 2.0 * stats.norm.cdf(quantile)
    theirs = stats.bootstrap((values_S,), np.mean, confidence_level=level, method="percentile").confidence_interval
    found = estimate(values_S)
    # Two sets of 9999 draws: their quantiles differ by chance, a twentieth of the width at most.
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.05 * (found.high - found.low))


@pytest.mark.parametrize(
    ("num_seeds", "population", "share"),
    [
        (10, "normal", 0.95),
        (10, "exponential", 0.91),
        (10, "normal, half are 0", 0.93),
        (10, "normal, outliers", 0.94),
        (20, "normal", 0.95),
        (20, "exponential", 0.93),
        (3, "normal", 0.95),
    ],
)
def test_the_interval_holds_the_mean_as_often_as_is_told(num_seeds: int, population: str, share: float) -> None:
    # Of 1000 experiments: three standard errors of a share of 0.93 are 0.024.
    assert coverage(ours, population, num_seeds, 1000) == pytest.approx(share, abs=0.025)


@given(seeds(2, 12))
@settings(deadline=None)
def test_the_other_sign_swaps_the_bounds(values_S: np.ndarray) -> None:
    found, negated = estimate(values_S), estimate(-values_S)
    assert (-negated.high, -negated.low) == pytest.approx((found.low, found.high), abs=1e-9)


@given(seeds(2, 12), st.sampled_from([1e-6, 0.5, 1e6]), VALUES)
@settings(deadline=None)
def test_another_unit_scales_and_shifts_the_interval(values_S: np.ndarray, scale: float, shift: float) -> None:
    found, there = estimate(values_S), estimate(scale * values_S + shift)
    expected = [scale * each + shift for each in (found.value, found.low, found.high)]
    assert [there.value, there.low, there.high] == pytest.approx(expected, rel=1e-9, abs=1e-6 * scale + 1e-9)
    assert found.low <= found.value + 1e-9
    assert found.high >= found.value - 1e-9


# --------------------------------------------------------------------------------------------------------- rank test


def p_by_all_signs(differences_S: np.ndarray) -> float:
    """Of all signs that the differences might have had, the share whose sum of ranks is as far from the middle."""
    sizes = np.abs(differences_S[differences_S != 0.0])
    ranks = stats.rankdata(sizes)
    found = abs(ranks @ np.sign(differences_S[differences_S != 0.0]))
    sums = [abs(ranks @ np.array(signs)) for signs in product([-1.0, 1.0], repeat=len(ranks))]
    return float(np.mean([each >= found - 1e-9 for each in sums]))


@given(arrays(np.float64, st.integers(6, 9), elements=st.integers(-4, 4).map(float)))
@settings(max_examples=60, deadline=None)
def test_the_rank_test_counts_all_signs_also_where_differences_are_equal_or_0(differences_S: np.ndarray) -> None:
    if differences_S.any():
        assert signed_rank_p(differences_S) == pytest.approx(p_by_all_signs(differences_S), rel=1e-12)
    else:
        assert np.isnan(signed_rank_p(differences_S))


@pytest.mark.parametrize("num_seeds", [6, 10, 20, 40])
def test_the_rank_test_is_scipys_where_no_differences_are_equal(num_seeds: int) -> None:
    differences_S = np.random.default_rng(num_seeds).normal(0.3, size=num_seeds)
    theirs = stats.wilcoxon(differences_S, method="exact").pvalue
    assert signed_rank_p(differences_S) == pytest.approx(theirs, rel=1e-12)


def test_ten_seeds_on_one_side_are_as_clear_as_ten_seeds_can_be() -> None:
    assert signed_rank_p(np.arange(1.0, 11.0)) == 2 * 0.5**10


def test_a_difference_of_rounding_is_none() -> None:
    differences_S = np.array([0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7])
    nudged_S = np.append(differences_S, 1e-17)
    assert signed_rank_p(nudged_S) == signed_rank_p(differences_S)
    assert signed_rank_p([0.3, 0.1 + 0.2, -0.3, 1.0, 1.0, 1.0]) == signed_rank_p([0.3, 0.3, -0.3, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "differences", [[1.0], [1.0] * 5, [0.0] * 10, [1.0] * 9 + [float("nan")]], ids=["one", "five", "all 0", "a nan"]
)
def test_the_rank_test_says_nothing_of_too_few_seeds_or_none_that_differ(differences: list[float]) -> None:
    assert np.isnan(signed_rank_p(differences))


@given(seeds(6, 20), st.sampled_from([1e-9, 3.0]))
@settings(deadline=None)
def test_the_rank_test_knows_neither_sides_nor_units(differences_S: np.ndarray, scale: float) -> None:
    p = signed_rank_p(differences_S)
    assert signed_rank_p(-differences_S) == pytest.approx(p, nan_ok=True)
    assert signed_rank_p(scale * differences_S) == pytest.approx(p, nan_ok=True)
    assert np.isnan(p) or 0.0 < p <= 1.0


# -------------------------------------------------------------------------------------------------------------- Holm


def closed_bonferroni(p_values: list[float]) -> list[float]:
    """A hypothesis falls when all sets that it is part of do, each by Bonferroni: what Holm's is short for."""
    places = range(len(p_values))
    sets = list(chain.from_iterable(combinations(places, size) for size in range(1, len(p_values) + 1)))
    return [max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if place in s) for place in places]


def test_holms_correction_by_hand() -> None:
    # Sorted 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.022 * 2 = 0.044 but no less than 0.06, 0.5 * 1.
    assert holm([0.022, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


@given(st.lists(st.floats(0.0, 1.0), max_size=7))
@settings(deadline=None)
def test_holms_correction_is_the_closed_test(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed_bonferroni(p_values))


@given(st.lists(st.floats(0.0, 1.0), max_size=7), st.integers(0, 7))
@settings(deadline=None)
def test_a_nan_stays_and_does_not_count(p_values: list[float], place: int) -> None:
    with_nan = holm([*p_values[:place], float("nan"), *p_values[place:]])
    place = min(place, len(p_values))
    assert np.isnan(with_nan.pop(place))
    assert with_nan == holm(p_values)


@pytest.mark.parametrize("num_comparisons", [1, 2, 5, 6, 7, 20])
def test_with_the_seeds_needed_the_clearest_of_all_comparisons_tells(num_comparisons: int) -> None:
    def clearest(num_seeds: int) -> float:
        return holm([2 * 0.5**num_seeds, *[1.0] * (num_comparisons - 1)])[0]

    num_seeds = seeds_needed(num_comparisons)
    assert clearest(num_seeds) < 0.05 < clearest(num_seeds - 1)
    assert signed_rank_p(np.arange(1.0, num_seeds + 1)) == 2 * 0.5**num_seeds


def test_comparisons_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="num_comparisons must be at least 1, found 0"):
        seeds_needed(0)
