"""How well a cost picks networks: rank correlation with measured latency, and the price of the front that it draws.

A cost that is known without measuring (MACs, traffic, a predicted latency...) is held against the accuracy of each
network; whoever trusts it takes home the front of error against that cost. Measured latency says what that front is
worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compare.judging import least_seconds
from nas.compare.records import Estimate, Floats
from nas.compare.statistics import CONFIDENCE, holm
from nas.pareto import pareto_front

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a cost is worth among some networks; intervals are over networks drawn anew.

    Attributes:
        spearman, kendall: of the cost and measured latency.
        num_picked: networks of the front of error against the cost.
        precision: share of those that the true front has. recall: share of the true front that they hold.
        price: seconds of the picked networks over those of the true front, at the errors of the true front's networks:
            geometric mean. 1: nothing is lost.
        spearman_gain: spearman - the baseline's.
        price_ratio: price / the baseline's; below 1 is better.
        spearman_p, price_p: that there is no difference, after Holm over all costs beside the baseline; nan for it.
    """

    cost: str
    spearman: Estimate
    kendall: float
    num_picked: int
    precision: Estimate
    recall: Estimate
    price: Estimate
    spearman_gain: Estimate
    price_ratio: Estimate
    spearman_p: float
    price_p: float


def judge(
    errors_N: Floats,
    seconds_N: Floats,
    costs: Mapping[str, Floats],
    baseline: str,
    num_resamples: int,
    seed: int = 0,
) -> tuple[Judged, ...]:
    """Each cost beside the baseline.

    Networks are drawn with replacement, all costs from the same draws; each draw has a true front of its own. Intervals
    are the central 95 % of the draws, moved so that their mean is the figure of all networks: how much it would differ
    had other networks of the kind been published. They are moved because a draw has 63 % of the networks and so fewer
    to be misled by, which flatters every cost. P-values are twice the share of moved draws on the other side of no
    difference. Variants of one design are drawn as if they were independent.

    Args:
        errors_N: fractions. seconds_N: measured.
        costs: by name, (N,) each; less is better.
        baseline: one of the costs.
    """
    from scipy.stats import kendalltau

    rng = np.random.default_rng(seed)
    num_networks = len(errors_N)
    draws = [np.arange(num_networks), *rng.integers(num_networks, size=(num_resamples, num_networks))]
    found_RCK = np.array([_figures(errors_N, seconds_N, costs, draw) for draw in draws])
    ours_K = found_RCK[:, list(costs).index(baseline)]
    gains_RC = found_RCK[:, :, 0] - ours_K[:, None, 0]
    ratios_RC = found_RCK[:, :, 3] - ours_K[:, None, 3]
    others = [place for place, cost in enumerate(costs) if cost != baseline]
    p_values = {}
    for name, values_RC in (("spearman", gains_RC), ("price", ratios_RC)):
        corrected = holm([_p_value(values_RC[:, place]) for place in others])
        p_values[name] = dict(zip(others, corrected))
    return tuple(
        Judged(
            cost=cost,
            spearman=_estimate(found_RCK[:, place, 0]),
            kendall=float(kendalltau(values_N, seconds_N).statistic),
            num_picked=len(front_of(errors_N, values_N)),
            precision=_share(found_RCK[:, place, 1]),
            recall=_share(found_RCK[:, place, 2]),
            price=_exp(_estimate(found_RCK[:, place, 3], least=0.0)),
            spearman_gain=_estimate(gains_RC[:, place]),
            price_ratio=_exp(_estimate(ratios_RC[:, place])),
            spearman_p=p_values["spearman"].get(place, float("nan")),
            price_p=p_values["price"].get(place, float("nan")),
        )
        for place, (cost, values_N) in enumerate(costs.items())
    )


def front_of(errors_N: Floats, costs_N: Floats) -> Indices:
    """Indices of the networks that no other beats in error and cost."""
    found: Indices = pareto_front(np.stack([errors_N, costs_N], axis=1))
    return found


def log_price(errors_N: Floats, seconds_N: Floats, picked: Indices, true: Indices) -> float:
    """ln(seconds of the picked networks / those of the true front) at equal error, the mean over the true front's.

    L(e) = least seconds among the picked of error <= e, at the errors of the true front's networks, each of which
    counts once. Never negative, since the picked networks are of those that the true front is the best of.
    """
    picked_F2 = np.stack([errors_N[picked], seconds_N[picked]], axis=1)
    return float(np.log(least_seconds(picked_F2, errors_N[true]) / seconds_N[true]).mean())


# ------------------------------------------------------------------------------------------------------------ private


def _figures(errors_N: Floats, seconds_N: Floats, costs: Mapping[str, Floats], draw: Indices) -> list[list[float]]:
    """Of each cost: spearman, precision, recall, ln(price)."""
    kept = np.unique(draw)  # copies change ranks, but no front
    errors, seconds = errors_N[kept], seconds_N[kept]
    true = front_of(errors, seconds)
    ranks = _ranks(seconds_N[draw])
    rows = []
    for values_N in costs.values():
        picked = front_of(errors, values_N[kept])
        both = len(np.intersect1d(picked, true))
        spearman = float(np.corrcoef(_ranks(values_N[draw]), ranks)[0, 1])
        rows.append([spearman, both / len(picked), both / len(true), log_price(errors, seconds, picked, true)])
    return rows


def _ranks(values_N: Floats) -> Floats:
    from scipy.stats import rankdata

    found: Floats = rankdata(values_N)
    return found


def _estimate(values_R: Floats, least: float = -np.inf, largest: float = np.inf) -> Estimate:
    """The figure of all networks, which is the first, with what the draws say; bounds stay where it can be."""
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(_moved(values_R), [tail, 1.0 - tail]) if len(values_R) > 1 else (np.nan, np.nan)
    return Estimate(value=float(values_R[0]), low=float(np.maximum(low, least)), high=float(np.minimum(high, largest)))


def _share(values_R: Floats) -> Estimate:
    return _estimate(values_R, 0.0, 1.0)


def _exp(estimate: Estimate) -> Estimate:
    value, low, high = np.exp([estimate.value, estimate.low, estimate.high]).tolist()
    return Estimate(value=value, low=low, high=high)


def _p_value(values_R: Floats) -> float:
    """Two-sided; draws on the border count for either side, and one more, since draws never prove impossibility."""
    if len(values_R) == 1:
        return float("nan")
    moved = _moved(values_R)
    fewer = min(int((moved <= 0.0).sum()), int((moved >= 0.0).sum()))
    return min(1.0, 2.0 * (fewer + 1) / (len(moved) + 1))


def _moved(values_R: Floats) -> Floats:
    """The draws, their mean where the figure of all networks is."""
    moved: Floats = values_R[1:] + (values_R[0] - values_R[1:].mean())
    return moved
