"""Fronts judged: by hand, by properties, and by how often two strategies that are the same are told apart."""

from collections.abc import Sequence

import numpy as np
import pytest
from false_claims import best_in, compare_the_same, drawn_fronts, is_claimed, judge, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from search_results import make_predictor

import nas.compare.judging
from nas.compare.attainment import attainment_surface
from nas.compare.judging import (
    NEAR,
    choose,
    evaluated,
    largest_judged_error,
    least_errors,
    least_seconds,
    reference_point_of,
    single_versus,
    standing,
)
from nas.compare.records import BestKnown, Chosen, Outcome, Standing, Versus
from nas.compare.report.verdict import Verdict
from nas.pareto import hypervolume
from nas.task import SearchTask
from search_spaces import load_space
from search_spaces.space import Arch

MS = 1e-3


def front(*networks: tuple[float, float]) -> np.ndarray:
    """Error and milliseconds of each."""
    return np.array(networks, dtype=np.float64).reshape(-1, 2) * [1.0, MS]


def chosen(losses_F2: np.ndarray, strategy: str = "ours", seed: int = 0, *, num_unknown: int = 0) -> Chosen:
    archs = tuple({"seconds": round(1e9 * s), "error": round(1e9 * e)} for e, s in losses_F2)
    return Chosen(strategy=strategy, seed=seed, archs=archs, losses_F2=losses_F2, num_unknown=num_unknown)


def by_seed(fronts: Sequence[np.ndarray], strategy: str) -> tuple[Chosen, ...]:
    return tuple(chosen(losses_F2, strategy, seed) for seed, losses_F2 in enumerate(fronts))


def best_of(losses_B2: np.ndarray) -> BestKnown:
    return BestKnown(archs=chosen(losses_B2).archs, losses_B2=losses_B2, text="the best front")


BEST = best_of(front((0.5, 0.5), (0.4, 1.0), (0.25, 2.0), (0.2, 4.0)))
REFERENCE = reference_point_of(BEST)


def standing_of(
    fronts: Sequence[Chosen], best: BestKnown = BEST, evaluated: Sequence[Chosen] | None = None
) -> Standing:
    return standing("ours", fronts, evaluated, best, reference_point_of(best), [1.0] * len(fronts))


# ------------------------------------------------------------------------------------------------------ what is judged


def test_the_least_seconds_at_an_error_are_those_of_the_fastest_network_that_errs_no_more() -> None:
    losses_F2 = front((0.2, 4.0), (0.4, 1.0), (0.3, 2.0), (0.35, 3.0))
    found = least_seconds(losses_F2, np.array([0.19, 0.2, 0.29, 0.3, 0.36, 0.4, 1.0]))
    np.testing.assert_allclose(found, np.array([np.inf, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0]) * MS, rtol=1e-12)


def test_the_least_error_within_seconds_is_that_of_the_best_network_that_takes_no_longer() -> None:
    losses_F2 = front((0.2, 4.0), (0.4, 1.0), (0.3, 2.0), (0.35, 3.0))
    found = least_errors(losses_F2, np.array([0.5, 1.0, 2.5, 3.0, 9.0]) * MS)
    assert found.tolist() == [np.inf, 0.4, 0.3, 0.3, 0.2]


def test_a_front_without_networks_reaches_nothing() -> None:
    assert least_seconds(np.empty((0, 2)), np.array([0.1, 1.0])).tolist() == [np.inf, np.inf]


def test_networks_that_err_more_than_twice_as_much_as_the_best_are_not_judged() -> None:
    assert largest_judged_error(BEST) == 0.4
    assert pytest.approx((1.1 * 0.4, 1.1 * 4.0 * MS)) == REFERENCE


def test_a_front_that_ends_earlier_is_judged_up_to_its_end() -> None:
    assert largest_judged_error(best_of(front((0.3, 1.0), (0.2, 2.0)))) == 0.3


def test_where_the_best_network_is_never_wrong_the_whole_front_is_judged() -> None:
    best = best_of(front((0.1, 1.0), (0.0, 2.0)))
    assert largest_judged_error(best) == 0.1
    alone = best_of(front((0.0, 2.0)))
    assert reference_point_of(alone) == pytest.approx((1.1, 2.2 * MS))
    assert standing_of([chosen(front((0.0, 2.0)))], alone).hypervolume.value == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------ a strategy by itself


def test_a_hypervolume_is_relative_to_the_best_known_fronts() -> None:
    # Below (0.44, 4.4): gains of the best front (0.04, 3.4), (0.19, 2.4), (0.24, 0.4), of which the union is
    # 0.24 * 0.4 + 0.19 * (2.4 - 0.4) + 0.04 * (3.4 - 2.4) = 0.516. Of one network 0.19 * 2.4 = 0.456.
    found = standing_of([chosen(front((0.25, 2.0))), chosen(BEST.losses_B2)])
    assert found.hypervolumes_S == pytest.approx([0.456 / 0.516, 1.0])
    assert found.hypervolume.value == pytest.approx((0.456 / 0.516 + 1.0) / 2)


def test_what_a_strategy_is_by_itself_by_hand() -> None:
    networks = front((0.2, 4.0), (0.25, 2.0 * (1 + NEAR) + 1e-6), (0.26, 2.5), (0.4, 1.0 * (1 + NEAR) - 1e-6))
    found = standing_of([chosen(networks, num_unknown=2)])
    assert found.front_size.value == 6.0
    assert found.useful_size.value == 3.0  # the one of 0.26 is beaten
    assert found.near.value == pytest.approx(2 / 3)  # the one of 0.25 takes a bit more than NEAR longer
    assert found.found is not None
    assert found.found.value == 0.25  # the first
    assert found.least_error.value == 0.2
    assert found.evaluated_hypervolume is None
    assert np.isnan(found.near.low)


def test_all_that_was_evaluated_counts_only_where_the_yardstick_knows_all_of_it() -> None:
    few, all_of_it = [chosen(front((0.25, 2.0)))] * 2, [chosen(BEST.losses_B2)] * 2
    found = standing_of(few, evaluated=all_of_it).evaluated_hypervolume
    assert found is not None
    assert found.value == pytest.approx(1.0)
    some_unknown = [all_of_it[0], chosen(BEST.losses_B2, num_unknown=1)]
    assert standing_of(few, evaluated=some_unknown).evaluated_hypervolume is None


def test_a_seed_without_any_known_network_has_no_volume_and_no_error() -> None:
    found = standing_of([chosen(BEST.losses_B2), chosen(np.empty((0, 2)), num_unknown=3)])
    assert found.hypervolumes_S == pytest.approx([1.0, 0.0])
    assert found.front_size.value == 3.5
    assert np.isnan([found.least_error.value, found.near.value]).all()


def test_best_networks_that_nobody_knows_leave_nothing_to_find() -> None:
    best = BestKnown(archs=(), losses_B2=BEST.losses_B2, text="published")
    assert standing_of([chosen(BEST.losses_B2)], best).found is None


# --------------------------------------------------------------------------------------------- beside the baseline


OURS, THEIRS = front((0.2, 3.0), (0.4, 1.5)), front((0.2, 6.0), (0.3, 2.0))


def test_the_ratio_of_latencies_along_the_front_by_hand() -> None:
    # 50 errors from 0.2 to 0.4: 25 below 0.3, where 3 ms stand against 6; 24 below 0.4, 3 against 2; one of 1.5 / 2.
    expected = (25 * np.log(0.5) + 24 * np.log(1.5) + np.log(0.75)) / 50
    assert single_versus(OURS, THEIRS, BEST) == pytest.approx(expected)
    versus = judge({"theirs": [THEIRS] * 3, "ours": [OURS] * 3}, "theirs", BEST)["ours"]
    assert versus.latency is not None
    assert versus.latency_ratio is not None
    assert versus.headline_ratio is not None
    assert versus.latency.places_P == pytest.approx(np.linspace(0.2, 0.4, 50))
    assert np.exp(versus.latency.values_SP[1, [0, 24, 25, 49]]) == pytest.approx([0.5, 0.5, 1.5, 0.75])
    assert versus.latency_ratio.value == pytest.approx(np.exp(expected))
    assert (versus.headline_error, versus.headline_ratio.value) == (0.3, pytest.approx(1.5))
    assert (versus.strategy, versus.baseline) == ("ours", "theirs")


def test_the_difference_of_errors_at_equal_latency_by_hand() -> None:
    # From 2 ms, the least of the slower of the two, to 4 ms, where the best front is most accurate. Ours errs 0.4 below
    # 3 ms and 0.2 from there on, theirs 0.3 all along. 2 * 2**(k / 49) < 3 for k < 28.66: 29 places, and 21.
    versus = judge({"theirs": [THEIRS] * 2, "ours": [OURS] * 2}, "theirs", BEST)["ours"]
    assert versus.error.places_P[[0, -1]] == pytest.approx([2.0 * MS, 4.0 * MS])
    assert np.diff(np.log(versus.error.places_P)) == pytest.approx(np.log(2) / 49)
    assert versus.error_difference.value == pytest.approx((29 * 0.1 - 21 * 0.1) / 50)
    assert versus.error.estimates[0].value == pytest.approx(0.1)


def test_the_worst_seed_says_which_errors_are_compared() -> None:
    worse = front((0.31, 6.0), (0.35, 2.0))
    versus = judge({"theirs": [THEIRS, worse], "ours": [OURS, OURS]}, "theirs", BEST)["ours"]
    assert versus.latency is not None
    assert versus.latency.places_P[[0, -1]] == pytest.approx([0.31, 0.4])


@pytest.mark.parametrize(
    ("least", "largest", "headline"),
    [(0.2, 0.4, 0.3), (0.212, 0.4, 0.305), (0.3962, 0.399, 0.398), (0.39611, 0.39649, 0.3963)],
    ids=["half a point", "rounded to it", "a tenth", "as it is"],
)
def test_the_headline_is_told_at_a_round_accuracy_in_the_middle(least: float, largest: float, headline: float) -> None:
    fronts = [front((least, 3.0), (0.45, 1.0))] * 2
    best = best_of(front((largest, 1.0), (0.2, 4.0)))
    versus = judge({"theirs": fronts, "ours": fronts}, "theirs", best)["ours"]
    assert versus.headline_error == pytest.approx(headline, abs=1e-12)


def test_fronts_that_are_the_same_have_a_ratio_of_1_and_nothing_to_claim() -> None:
    rng = np.random.default_rng(0)
    fronts = drawn_fronts(rng, 10)
    versus = judge({"a": fronts, "b": fronts}, "a", best_in(fronts))["b"]
    assert versus.latency_ratio is not None
    assert versus.headline_ratio is not None
    for ratio in (versus.latency_ratio, versus.headline_ratio):
        assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert (versus.error_difference.value, versus.error_difference.low) == (0.0, 0.0)
    assert np.isnan([versus.latency_p, versus.latency_p_holm, versus.hypervolume_p]).all()
    assert verdict(versus, num_seeds=10, num_others=1) is Verdict.NO_DIFFERENCE


def test_a_single_seed_has_ratios_without_bounds_or_tests() -> None:
    versus = judge({"theirs": [THEIRS], "ours": [OURS]}, "theirs", BEST)["ours"]
    assert versus.latency_ratio is not None
    assert versus.latency_ratio.value == pytest.approx(np.exp(single_versus(OURS, THEIRS, BEST)))
    assert np.isnan(
        [versus.latency_ratio.low, versus.latency_ratio.high, versus.latency_p, versus.latency_p_holm]
    ).all()


def test_strategies_that_reach_no_common_error_have_no_ratio_and_do_not_count() -> None:
    rng = np.random.default_rng(1)
    fronts = drawn_fronts(rng, 10)
    fast = [each * [1.0, 0.5] for each in fronts]
    found = judge({"a": fronts, "hopeless": [front((0.9, 0.1))] * 10, "b": fast}, "a", best_in(fast))
    hopeless, faster = found["hopeless"], found["b"]
    assert hopeless.latency is hopeless.latency_ratio is hopeless.headline_error is hopeless.headline_ratio is None
    assert np.isnan([hopeless.latency_p, hopeless.latency_p_holm]).all()
    assert hopeless.error_difference.value > 0.0
    assert faster.latency_p_holm == faster.latency_p == 2 * 0.5**10
    assert np.isnan(single_versus(front((0.9, 0.1)), OURS, BEST))


def test_strategies_that_share_no_latency_have_no_difference_of_errors() -> None:
    slow = [front((0.2, 9.0))] * 6
    versus = judge({"theirs": slow, "ours": [OURS] * 6}, "theirs", BEST)["ours"]
    assert versus.error.places_P.shape == (0,)
    assert versus.error.values_SP.shape == (6, 0)
    assert versus.error.estimates == ()
    assert np.isnan(versus.error_difference.value)
    assert versus.latency_ratio is not None


def test_a_seed_without_known_networks_leaves_nothing_in_common() -> None:
    versus = judge({"theirs": [THEIRS, THEIRS], "ours": [OURS, np.empty((0, 2))]}, "theirs", BEST)["ours"]
    assert versus.latency is None
    assert len(versus.error.places_P) == 0


def test_fronts_of_one_network_are_compared_where_it_is() -> None:
    versus = judge({"theirs": [front((0.4, 2.0))] * 2, "ours": [front((0.4, 1.0))] * 2}, "theirs", BEST)["ours"]
    assert versus.latency is not None
    assert versus.latency.places_P.tolist() == [0.4]
    assert versus.latency_ratio is not None
    assert versus.latency_ratio.value == pytest.approx(0.5)
    assert versus.headline_error == 0.4


def test_seeds_that_are_not_the_baselines_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'b' has seeds \[0\], the baseline 'a' has \[0, 1\]"):
        judge({"a": [OURS, OURS], "b": [OURS]}, "a", BEST)


def test_p_values_are_corrected_for_all_that_is_held_against_the_baseline() -> None:
    rng = np.random.default_rng(2)
    fronts = drawn_fronts(rng, 8)
    others = {f"x{factor}": [each * [1.0, factor] for each in fronts] for factor in (0.5, 0.8, 1.5)}
    found = judge({"a": fronts, **others}, "a", best_in([*fronts, *others["x0.5"]]))
    assert [each.latency_p for each in found.values()] == [2 * 0.5**8] * 3
    assert [each.latency_p_holm for each in found.values()] == [3 * 2 * 0.5**8] * 3
    ratios = [each.latency_ratio.value for each in found.values() if each.latency_ratio]
    assert ratios == pytest.approx([0.5, 0.8, 1.5])
    verdicts = [verdict(each, num_seeds=8, num_others=3) for each in found.values()]
    assert verdicts == [Verdict.FASTER, Verdict.FASTER, Verdict.SLOWER]


# ----------------------------------------------------------------------------------------------------------- properties


LOSSES = st.lists(st.tuples(st.integers(20, 60), st.integers(1, 40)), min_size=1, max_size=8).map(
    lambda rows: np.array(rows) * [0.01, 1.0 * MS]
)
PAIRS = st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=7)


def judged_pair(pairs: list[tuple[np.ndarray, np.ndarray]], best: BestKnown, *, swap: bool = False) -> Versus:
    ours, theirs = zip(*pairs)
    return judge({"ours": ours, "theirs": theirs}, "ours" if swap else "theirs", best)["theirs" if swap else "ours"]


def numbers(versus: Versus) -> list[float]:
    """Of all that is compared as ln and differences; the bounds too."""
    ratios = [each for each in (versus.latency_ratio, versus.headline_ratio) if each is not None]
    logs = [np.log(number) for each in ratios for number in (each.value, each.low, each.high)]
    error = versus.error_difference
    return [*logs, error.value, error.low, error.high]


@given(PAIRS)
@settings(max_examples=30, deadline=None)
def test_swapping_strategy_and_baseline_negates(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    best = best_in([each for pair in pairs for each in pair])
    found, swapped = judged_pair(pairs, best), judged_pair(pairs, best, swap=True)
    triples = np.array(numbers(found)).reshape(-1, 3), np.array(numbers(swapped)).reshape(-1, 3)
    np.testing.assert_allclose(triples[0], -triples[1][:, [0, 2, 1]], atol=1e-9)
    assert found.headline_error == swapped.headline_error
    assert (found.latency_p, found.hypervolume_p) == pytest.approx(
        (swapped.latency_p, swapped.hypervolume_p), nan_ok=True
    )


@given(PAIRS, st.sampled_from([1e-3, 0.25, 64.0]))
@settings(max_examples=30, deadline=None)
def test_another_unit_of_time_changes_no_ratio(pairs: list[tuple[np.ndarray, np.ndarray]], factor: float) -> None:
    best = best_in([each for pair in pairs for each in pair])
    scaled = [(ours * [1.0, factor], theirs * [1.0, factor]) for ours, theirs in pairs]
    scaled_best = best_of(best.losses_B2 * [1.0, factor])
    found, there = judged_pair(pairs, best), judged_pair(scaled, scaled_best)
    latency = slice(0, -3)
    np.testing.assert_allclose(numbers(found)[latency], numbers(there)[latency], atol=1e-9)
    assert found.latency_p == pytest.approx(there.latency_p, nan_ok=True)
    ours = [
        standing_of(by_seed([pair[0] for pair in each], "ours"), its).hypervolumes_S
        for each, its in ((pairs, best), (scaled, scaled_best))
    ]
    np.testing.assert_allclose(ours[0], ours[1], rtol=1e-9, atol=1e-12)


@given(PAIRS, st.data())
@settings(max_examples=30, deadline=None)
def test_a_dominated_network_changes_no_figure(pairs: list[tuple[np.ndarray, np.ndarray]], data: st.DataObject) -> None:
    best = best_in([each for pair in pairs for each in pair])
    more = []
    for ours, theirs in pairs:
        beaten = ours[data.draw(st.integers(0, len(ours) - 1))] * [1.0, 1.0] + [0.01, MS]
        more.append((np.vstack([beaten, ours]), theirs))
    found, there = judged_pair(pairs, best), judged_pair(more, best)
    np.testing.assert_array_equal(numbers(found), numbers(there))
    ours = [standing_of(by_seed([pair[0] for pair in each], "ours"), best) for each in (pairs, more)]
    np.testing.assert_array_equal(ours[0].hypervolumes_S, ours[1].hypervolumes_S)
    assert (ours[0].useful_size, ours[0].near) == (ours[1].useful_size, ours[1].near) or len(pairs) == 1


@given(PAIRS)
@settings(max_examples=30, deadline=None)
def test_curves_hold_the_best_network_at_each_place_of_each_seed(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    versus = judged_pair(pairs, best_in([each for pair in pairs for each in pair]))
    for curve, within, sought in ((versus.latency, 0, 1), (versus.error, 1, 0)):
        if curve is None:
            continue
        for place, values_S in zip(curve.places_P, curve.values_SP.T):
            for (ours, theirs), value in zip(pairs, values_S):
                our, their = (min(row[sought] for row in each if row[within] <= place) for each in (ours, theirs))
                assert value == pytest.approx(np.log(our / their) if sought else our - their, abs=1e-12)


@given(PAIRS)
@settings(max_examples=30, deadline=None)
def test_no_front_is_beyond_the_best_of_all(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    best = best_in([each for pair in pairs for each in pair])
    ours = by_seed([pair[0] for pair in pairs], "ours")
    shares_S = standing_of(ours, best).hypervolumes_S
    assert (shares_S >= 0.0).all()
    assert (shares_S <= 1.0 + 1e-12).all()
    ratios = [single_versus(each.losses_F2, best.losses_B2, best) for each in ours]
    assert all(np.isnan(each) or each >= -1e-12 for each in ratios)
    reference = np.array(reference_point_of(best))
    for each, share in zip(ours, shares_S):
        assert share * hypervolume(best.losses_B2, reference) == pytest.approx(hypervolume(each.losses_F2, reference))


# --------------------------------------------------------------------------------------------------- false positives


def test_strategies_that_are_the_same_are_seldom_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.compare.judging, "NUM_PLACES", 8)  # for speed
    rng = np.random.default_rng(0)
    drawn = [compare_the_same(rng, 10) for _ in range(30)]
    num_wrong = sum(is_claimed(found, 10) for found in drawn)
    p_values = [each.latency_p for found in drawn for each in found.values()]
    # Of 30 comparisons of five strategies at most 5 % should claim anything; more than 5 of them: once in 300 tests.
    assert num_wrong <= 5
    # P-values of a test that is neither blind nor rash; those of one comparison share a baseline.
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.12
    assert 0.35 <= np.mean(np.array(p_values) < 0.5) <= 0.65


def test_a_strategy_that_is_a_quarter_faster_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.compare.judging, "NUM_PLACES", 8)
    rng = np.random.default_rng(1)
    num_found = 0
    for _ in range(10):
        fronts = {"baseline": drawn_fronts(rng, 10, 400)}
        fronts["faster"] = [each * [1.0, 0.75] for each in drawn_fronts(rng, 10, 400)]
        found = judge(fronts, "baseline", best_in([each for of_one in fronts.values() for each in of_one]))
        num_found += verdict(found["faster"], num_seeds=10, num_others=1) is Verdict.FASTER
    assert num_found >= 8


# -------------------------------------------------------------------------------------------- from outcomes to fronts


class Stopwatch:
    """Knows the seconds of the networks that it is told, by their depth; nan for others."""

    is_measured = True
    text = "latency measured on a board"

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds

    def latency_s(self, archs: Sequence[Arch]) -> np.ndarray:
        return np.array([self.seconds.get(arch["resolution"], np.nan) for arch in archs])


@pytest.fixture(scope="module")
def task() -> SearchTask:
    space = load_space("mobilenet_v3_tiny", resolutions=[32, 48, 64])
    return SearchTask(space=space, deployed_space=space, predictor=make_predictor(), objectives=("error", "latency_s"))


def outcome_of(task: SearchTask, resolutions: Sequence[int], errors: Sequence[float], front: Sequence[int]) -> Outcome:
    archs = [{**task.space.smallest(), "resolution": resolution} for resolution in resolutions]
    return Outcome(
        strategy="ours",
        seed=3,
        indices_NK=task.space.encode(archs),
        errors_N=np.array(errors),
        chosen=tuple(front),
        seconds=1.0,
    )


def test_a_search_chose_its_own_front_and_evaluated_more(task: SearchTask) -> None:
    outcome = outcome_of(task, [64, 32, 48], [0.2, 0.4, 0.3], [1, 0])
    stopwatch = Stopwatch({32: 1.0, 48: 2.0, 64: 3.0})
    front = choose(outcome, task, stopwatch)
    assert [arch["resolution"] for arch in front.archs] == [32, 64]
    assert front.losses_F2.tolist() == [[0.4, 1.0], [0.2, 3.0]]
    assert (front.strategy, front.seed, front.num_unknown) == ("ours", 3, 0)
    assert evaluated(outcome, task, stopwatch).losses_F2.tolist() == [[0.2, 3.0], [0.4, 1.0], [0.3, 2.0]]


def test_a_network_that_was_evaluated_twice_counts_once(task: SearchTask) -> None:
    front = choose(outcome_of(task, [64, 32, 64], [0.2, 0.4, 0.2], [0, 1, 2]), task, Stopwatch({32: 1.0, 64: 3.0}))
    assert front.losses_F2.tolist() == [[0.2, 3.0], [0.4, 1.0]]


def test_networks_that_the_yardstick_does_not_know_are_counted_and_left_out(task: SearchTask) -> None:
    outcome = outcome_of(task, [64, 32, 48], [0.2, 0.4, 0.3], [0, 1, 2])
    front = choose(outcome, task, Stopwatch({48: 2.0}))
    assert (front.losses_F2.tolist(), len(front.archs), front.num_unknown) == ([[0.3, 2.0]], 1, 2)
    nothing = choose(outcome, task, Stopwatch({}))
    assert (nothing.losses_F2.shape, nothing.archs, nothing.num_unknown) == ((0, 2), (), 3)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf")])
def test_a_latency_that_is_none_is_refused(task: SearchTask, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"latency measured on a board: .* a latency is positive and finite"):
        choose(outcome_of(task, [32], [0.4], [0]), task, Stopwatch({32: seconds}))


# ----------------------------------------------------------------------------------------------------------- attainment


def test_the_surface_that_a_share_of_the_searches_attains_by_hand() -> None:
    fronts = [front((0.4, 1.0), (0.2, 4.0)), front((0.3, 2.0)), front((0.5, 1.0), (0.1, 3.0))]
    one, two, all_three = (attainment_surface(fronts, share) for share in (1 / 3, 0.5, 1.0))
    assert one.tolist() == front((0.4, 1.0), (0.3, 2.0), (0.1, 3.0)).tolist()
    assert two.tolist() == front((0.5, 1.0), (0.4, 2.0), (0.3, 3.0), (0.2, 4.0)).tolist()
    assert all_three.tolist() == front((0.5, 2.0), (0.4, 3.0), (0.3, 4.0)).tolist()


def test_a_share_that_is_a_whole_number_of_searches_is_not_rounded_up() -> None:
    assert 0.28 * 25 > 7
    fronts = [front((0.1 + 0.01 * number, 1.0)) for number in range(25)]
    assert attainment_surface(fronts, 0.28).tolist() == [[pytest.approx(0.16), 1.0 * MS]]


def test_searches_without_networks_attain_nothing() -> None:
    fronts = [front((0.1, 1.0)), np.empty((0, 2)), np.empty((0, 2))]
    assert attainment_surface(fronts, 0.3).tolist() == [[0.1, 1.0 * MS]]
    assert attainment_surface(fronts, 0.5).shape == (0, 2)
    assert attainment_surface(fronts[1:], 1.0).shape == (0, 2)


@pytest.mark.parametrize(("num_fronts", "share"), [(1, 0.0), (1, 1.1), (0, 0.5)])
def test_shares_and_fronts_that_are_none_are_refused(num_fronts: int, share: float) -> None:
    with pytest.raises(ValueError, match="a share above 0 and at most 1 of at least one front"):
        attainment_surface([OURS] * num_fronts, share)


@given(st.lists(LOSSES, min_size=1, max_size=6), st.integers(1, 6), st.integers(19, 61), st.integers(0, 41))
@settings(deadline=None)
def test_what_lies_above_the_surface_is_what_so_many_searches_attain(
    fronts: list[np.ndarray], number: int, error: int, milliseconds: int
) -> None:
    number = min(number, len(fronts))
    point = np.array([0.01 * error, MS * milliseconds])
    num_that_attain = sum(bool((losses <= point).all(axis=1).any()) for losses in fronts)
    surface = attainment_surface(fronts, number / len(fronts))
    assert bool((surface <= point).all(axis=1).any()) == (num_that_attain >= number)
    assert (np.diff(surface[:, 0]) < 0.0).all()
    assert (np.diff(surface[:, 1]) > 0.0).all()
