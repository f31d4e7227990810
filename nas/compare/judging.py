"""Fronts as the yardstick sees them: what strategies chose, each by itself and paired with the baseline by seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.compare.records import BestKnown, Chosen, Curve, Estimate, Floats, Outcome, Standing, Versus, Yardstick
from nas.compare.statistics import estimate, estimates, holm, signed_rank_p
from nas.pareto import hypervolume
from nas.task import MARGIN, SearchTask
from search_spaces.space import Arch

NUM_PLACES = 50
"""Along a front."""

NEAR = 0.02
"""A network is near the best known front that takes at most so much longer than it, at its error."""

_WORST = 2.0
"""Networks that err more than so many times as much as the best are nobody's choice."""

_HEADLINE_STEPS = (0.005, 0.001)


def choose(outcome: Outcome, task: SearchTask, yardstick: Yardstick) -> Chosen:
    """What the user of a search would take home, its own front in its own objectives, as the yardstick sees it.

    Raises:
        ValueError: the yardstick says that a network takes no time, or for ever.
    """
    return _seen(outcome, np.array(outcome.chosen, dtype=np.int64), task, yardstick)


def evaluated(outcome: Outcome, task: SearchTask, yardstick: Yardstick) -> Chosen:
    """All networks that a search evaluated: what it might have chosen, had it known the yardstick.

    Raises:
        ValueError: the yardstick says that a network takes no time, or for ever.
    """
    return _seen(outcome, np.arange(len(outcome.indices_NK)), task, yardstick)


def largest_judged_error(best: BestKnown) -> float:
    """Up to this error networks are judged: twice the least one that is known, or the front's largest if that is less.

    A fraction. Where the best networks are never wrong, the front's largest.
    """
    errors_B = best.losses_B2[:, 0]
    return min(_WORST * float(errors_B.min()) or float("inf"), float(errors_B.max()))


def reference_point_of(best: BestKnown) -> tuple[float, float]:
    """Error (a fraction) and seconds that bound hypervolumes: `MARGIN` times the worst of the best known front.

    Of its networks within `largest_judged_error`; an error of 0 is taken for 1.
    """
    judged_B2 = best.losses_B2[best.losses_B2[:, 0] <= largest_judged_error(best)]
    error, seconds = judged_B2.max(axis=0)
    return MARGIN * (float(error) or 1.0), MARGIN * float(seconds)


def least_seconds(front_F2: Floats, errors_P: Floats) -> Floats:
    """L(e): the least seconds among networks of error <= e, shape (P,); inf where there are none.

    Args:
        front_F2: error and seconds; in any order, dominated ones make no difference.
        errors_P: fractions.

    >>> least_seconds(np.array([[0.3, 1.0], [0.2, 2.0]]), np.array([0.1, 0.2, 0.25, 0.3])).tolist()
    [inf, 2.0, 2.0, 1.0]
    """
    sorted_F2 = front_F2[np.argsort(front_F2[:, 0], kind="stable")]
    least_F = np.minimum.accumulate(sorted_F2[:, 1])
    found_P: Floats = np.append(np.inf, least_F)[np.searchsorted(sorted_F2[:, 0], errors_P, side="right")]
    return found_P


def least_errors(front_F2: Floats, seconds_P: Floats) -> Floats:
    """E(t): the least error among networks of seconds <= t, a fraction, shape (P,); inf where there are none."""
    return least_seconds(front_F2[:, ::-1], seconds_P)


def standing(
    strategy: str,
    chosen: Sequence[Chosen],
    evaluated: Sequence[Chosen] | None,
    best: BestKnown,
    reference_point: tuple[float, float],
    seconds: Sequence[float],
) -> Standing:
    """What a strategy's fronts are by themselves.

    Args:
        chosen: by seed, as `evaluated` and `seconds` are: those that a search took.
        evaluated: all networks that each seed evaluated; None if that is not asked for.
    """
    useful = [each.useful for each in chosen]
    volumes_S = _hypervolumes(useful, best, reference_point)
    knows_all = evaluated is not None and not any(each.num_unknown for each in evaluated)
    return Standing(
        strategy=strategy,
        hypervolumes_S=volumes_S,
        hypervolume=estimate(volumes_S),
        evaluated_hypervolume=estimate(_hypervolumes([each.useful for each in evaluated], best, reference_point))
        if evaluated is not None and knows_all
        else None,
        front_size=estimate([len(each.archs) + each.num_unknown for each in chosen]),
        useful_size=estimate([len(useful_F2) for useful_F2 in useful]),
        found=estimate(_shares_found(chosen, best.archs)) if best.archs else None,
        near=estimate([_share_near(useful_F2, best) for useful_F2 in useful]),
        least_error=estimate([each.losses_F2[:, 0].min(initial=np.inf) if each.archs else np.nan for each in chosen]),
        seconds=estimate(seconds),
    )


def versus_all(
    chosen: Mapping[str, Sequence[Chosen]], standings: Mapping[str, Standing], baseline: str, best: BestKnown
) -> dict[str, Versus]:
    """Every other strategy beside the baseline, paired by seed, with p-values corrected for all of them.

    Latency at equal error is compared at `NUM_PLACES` evenly spaced errors from the largest of all seeds' least error
    to `largest_judged_error`: ln(L_strategy(e) / L_baseline(e)). Accuracy at equal latency at as many seconds, evenly
    spaced in their logarithm, from the largest of all seeds' least seconds to those of the best known front's most
    accurate network: E_strategy(t) - E_baseline(t). The rank tests take the mean along the front of each seed.

    Of 600 comparisons in which all six strategies were the same, 3.7 % claimed (`nas.compare.report.verdict`) that any
    differs with 10 seeds, and 2.3 % with 20: `python tests/nas/false_claims.py`.

    Args:
        chosen: by strategy and seed, the same seeds in the same order for all.
        standings: of the same strategies.

    Raises:
        ValueError: the seeds of a strategy are not those of the baseline.
    """
    ours = chosen[baseline]
    others = [strategy for strategy in chosen if strategy != baseline]
    for strategy in others:
        seeds, wanted = [each.seed for each in chosen[strategy]], [each.seed for each in ours]
        if seeds != wanted:
            raise ValueError(
                f"strategies are compared seed by seed: {strategy!r} has seeds {seeds}, the baseline {baseline!r} "
                f"has {wanted}"
            )
    latencies = {strategy: _latency_curve(chosen[strategy], ours, best) for strategy in others}
    errors = {strategy: _error_curve(chosen[strategy], ours, best) for strategy in others}
    latency_p = [_p_along(latencies[strategy]) for strategy in others]
    volume_p = [
        signed_rank_p(standings[strategy].hypervolumes_S - standings[baseline].hypervolumes_S) for strategy in others
    ]
    found = {}
    for strategy, p, p_holm, hv_p, hv_p_holm in zip(others, latency_p, holm(latency_p), volume_p, holm(volume_p)):
        latency, error = latencies[strategy], errors[strategy]
        headline = None if latency is None else _round_error(latency.places_P)
        found[strategy] = Versus(
            strategy=strategy,
            baseline=baseline,
            latency=latency,
            latency_ratio=None if latency is None else _ratio(estimate(latency.values_SP.mean(axis=1))),
            error=error,
            error_difference=_mean_along(error),
            latency_p=p,
            latency_p_holm=p_holm,
            hypervolume_p=hv_p,
            hypervolume_p_holm=hv_p_holm,
            headline_error=headline,
            headline_ratio=None
            if headline is None
            else _ratio(estimate(_log_ratios(chosen[strategy], ours, np.array([headline]))[:, 0])),
        )
    return found


def single_versus(front_F2: Floats, baseline_F2: Floats, best: BestKnown) -> float:
    """ln(seconds / the baseline's seconds) at equal error, the mean along two single fronts as `versus_all` takes it.

    nan where they reach no common error.
    """
    places_P = _common_errors([front_F2, baseline_F2], best)
    if not len(places_P):
        return float("nan")
    return float(np.log(least_seconds(front_F2, places_P) / least_seconds(baseline_F2, places_P)).mean())


# ------------------------------------------------------------------------------------------------------------ private


def _seen(outcome: Outcome, positions_C: NDArray[np.int64], task: SearchTask, yardstick: Yardstick) -> Chosen:
    _, first_U = np.unique(outcome.indices_NK[positions_C], axis=0, return_index=True)
    positions_U = positions_C[np.sort(first_U)]
    archs = task.space.decode(outcome.indices_NK[positions_U])
    seconds_U = np.asarray(yardstick.latency_s(archs), dtype=np.float64) if archs else np.empty(0)
    known_U = ~np.isnan(seconds_U)
    wrong_U = known_U & ~((seconds_U > 0.0) & np.isfinite(seconds_U))
    if wrong_U.any():
        position = int(np.argmax(wrong_U))
        raise ValueError(
            f"{yardstick.text}: {seconds_U[position]} s for {archs[position]}; a latency is positive and finite"
        )
    return Chosen(
        strategy=outcome.strategy,
        seed=outcome.seed,
        archs=tuple(arch for arch, known in zip(archs, known_U) if known),
        losses_F2=np.column_stack([outcome.errors_N[positions_U], seconds_U])[known_U],
        num_unknown=int((~known_U).sum()),
    )


def _hypervolumes(fronts: Sequence[Floats], best: BestKnown, reference_point: tuple[float, float]) -> Floats:
    """Relative to the best known front's."""
    reference = np.array(reference_point)
    volumes_S = np.array([hypervolume(front_F2, reference) for front_F2 in fronts])
    return volumes_S / hypervolume(best.losses_B2, reference)


def _shares_found(chosen: Sequence[Chosen], archs: Sequence[Arch]) -> list[float]:
    wanted = {_key(arch) for arch in archs}
    return [len(wanted & {_key(arch) for arch in each.archs}) / len(wanted) for each in chosen]


def _key(arch: Arch) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(arch.items()))


def _share_near(useful_F2: Floats, best: BestKnown) -> float:
    if not len(useful_F2):
        return float("nan")
    bounds_F = (1.0 + NEAR) * least_seconds(best.losses_B2, useful_F2[:, 0])
    return float((useful_F2[:, 1] <= bounds_F).mean())


def _common_errors(fronts: Sequence[Floats], best: BestKnown) -> Floats:
    """Evenly spaced errors that all fronts reach, shape (P,); P is 0 where there are none."""
    first, last = max(front_F2[:, 0].min(initial=np.inf) for front_F2 in fronts), largest_judged_error(best)
    return np.linspace(first, last, NUM_PLACES) if first < last else np.full(int(first == last), first)


def _common_seconds(fronts: Sequence[Floats], best: BestKnown) -> Floats:
    """Seconds, evenly spaced in their logarithm, within which all fronts have a network, shape (P,); P may be 0."""
    first = max(front_F2[:, 1].min(initial=np.inf) for front_F2 in fronts)
    last = float(best.losses_B2[np.argmin(best.losses_B2[:, 0]), 1])
    return np.geomspace(first, last, NUM_PLACES) if first < last else np.full(int(first == last), first)


def _fronts(*chosen: Sequence[Chosen]) -> list[Floats]:
    return [each.losses_F2 for side in chosen for each in side]


def _log_ratios(theirs: Sequence[Chosen], ours: Sequence[Chosen], errors_P: Floats) -> Floats:
    """Shape (S, P)."""
    return np.array(
        [
            np.log(least_seconds(their.losses_F2, errors_P) / least_seconds(our.losses_F2, errors_P))
            for their, our in zip(theirs, ours)
        ]
    )


def _latency_curve(theirs: Sequence[Chosen], ours: Sequence[Chosen], best: BestKnown) -> Curve | None:
    places_P = _common_errors(_fronts(theirs, ours), best)
    if not len(places_P):
        return None
    values_SP = _log_ratios(theirs, ours, places_P)
    return Curve(places_P=places_P, values_SP=values_SP, estimates=estimates(values_SP))


def _error_curve(theirs: Sequence[Chosen], ours: Sequence[Chosen], best: BestKnown) -> Curve:
    """Without places where no latency is common."""
    places_P = _common_seconds(_fronts(theirs, ours), best)
    values_SP = np.array(
        [
            least_errors(their.losses_F2, places_P) - least_errors(our.losses_F2, places_P)
            for their, our in zip(theirs, ours)
        ]
    )
    return Curve(places_P=places_P, values_SP=values_SP, estimates=estimates(values_SP))


def _mean_along(curve: Curve) -> Estimate:
    if not len(curve.places_P):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    return estimate(curve.values_SP.mean(axis=1))


def _p_along(curve: Curve | None) -> float:
    return float("nan") if curve is None else signed_rank_p(curve.values_SP.mean(axis=1))


def _ratio(log: Estimate) -> Estimate:
    return Estimate(value=float(np.exp(log.value)), low=float(np.exp(log.low)), high=float(np.exp(log.high)))


def _round_error(places_P: Floats) -> float:
    """The middle of the places, rounded to half a point; to a tenth, or not at all, if that is outside of them."""
    first, last = float(places_P[0]), float(places_P[-1])
    middle = (first + last) / 2.0
    for step in _HEADLINE_STEPS:
        rounded = round(round(middle / step) * step, 4)
        if first <= rounded <= last:
            return rounded
    return middle
