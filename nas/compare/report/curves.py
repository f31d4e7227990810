"""The numbers behind the pictures, in a person's units: what plotly and matplotlib both draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10

import numpy as np

from nas.compare.attainment import attainment_surface
from nas.compare.judging import least_errors
from nas.compare.records import Comparison, Curve, Estimate, Floats, Why
from nas.report import style
from nas.task import MARGIN
from predictors.explanation.style import BOUND_COLORS

BAND = (0.25, 0.75)
"""Shares of the seeds whose attainment surfaces bound a band: half of the seeds' fronts run within it."""

BEST_NAME = "best known"
BOUNDS = {**BOUND_COLORS, "overhead": style.OVERHEAD_COLOR}
BOUND_NAMES = {
    "compute": "compute-bound",
    "memory": "memory-bound",
    "launch": "launch-bound",
    "overhead": style.OVERHEAD,
}

_COLORS: Mapping[str, str] = {
    "flops_only": style.INK, "memory_aware": style.PALETTE["red"], "latency_only": style.PALETTE["blue"],
    "params_only": style.PALETTE["pink"], "traffic_only": style.PALETTE["green"], "random": style.NEUTRAL,
}  # fmt: skip
_OTHER_COLORS = tuple(style.PALETTE[name] for name in ("orange", "sky", "pink", "green", "blue", "red"))
_MARGIN = 0.06


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Steps:
    """A staircase: `y` holds from `x` to the next `x`. Milliseconds, and per cent of what is judged."""

    x: Floats
    y: Floats


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FrontCurves:
    """A strategy's fronts. `x_band`: places from which on a band reaches from `low` to `high`, per cent; it
    begins where three quarters of the seeds have a network.
    """

    median: Steps
    x_band: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What of a picture of fronts is shown: milliseconds and per cent.

    Latencies are logarithmic, so that as much faster is as far to the left everywhere.
    """

    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Band:
    """A mean over seeds along the front, with its interval; bounds are nan where there is no interval."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


def colors(comparison: Comparison) -> dict[str, str]:
    """By strategy: the same wherever it is drawn."""
    return colors_of([each.name for each in comparison.strategies])


def colors_of(strategies: Sequence[str]) -> dict[str, str]:
    """By a strategy's name."""
    others = [name for name in strategies if name not in _COLORS]
    own = {name: _OTHER_COLORS[at % len(_OTHER_COLORS)] for at, name in enumerate(others)}
    return {name: _COLORS.get(name) or own[name] for name in strategies}


def front_curves(comparison: Comparison) -> dict[str, FrontCurves]:
    """By strategy, those that chose anything: the median attainment surface, and those of a quarter and three quarters
    of the seeds around it.
    """
    found = {}
    for strategy in comparison.strategies:
        fronts = [each.useful for each in comparison.chosen[strategy.name]]
        few_F2, median_F2, many_F2 = (attainment_surface(fronts, share) for share in (BAND[0], 0.5, BAND[1]))
        if not len(median_F2):
            continue
        places = np.unique(np.concatenate([few_F2[:, 1], many_F2[:, 1]]))
        places = places[places >= many_F2[:, 1].min(initial=np.inf)]
        found[strategy.name] = FrontCurves(
            median=steps_of(median_F2),
            x_band=1e3 * places,
            low=_percent(least_errors(many_F2, places)),
            high=_percent(least_errors(few_F2, places)),
        )
    return found


def limit_steps(comparison: Comparison) -> dict[str, Steps]:
    """By strategy: what an unlimited budget would choose."""
    return {name: steps_of(limit.useful) for name, limit in comparison.limits.items() if len(limit.useful)}


def steps_of(front_F2: Floats) -> Steps:
    """A front of error and seconds by increasing seconds."""
    sorted_F2 = front_F2[np.lexsort((front_F2[:, 0], front_F2[:, 1]))]
    useful = sorted_F2[:, 0] < np.concatenate([[np.inf], np.minimum.accumulate(sorted_F2[:-1, 0])])
    return Steps(x=1e3 * sorted_F2[useful, 1], y=_percent(sorted_F2[useful, 0]))


def front_window(comparison: Comparison, curves: Mapping[str, FrontCurves]) -> Window:
    """What is judged, and what strategies need to come as far as the best known front."""
    lines = [steps_of(comparison.best.losses_B2), *(each.median for each in curves.values())]
    lines += limit_steps(comparison).values()
    floor = min(100.0 * (1.0 - comparison.reference_point[0] / MARGIN), *(line.y.max() for line in lines))
    top = max(line.y.max() for line in lines)
    shown = [line.x[line.y >= floor] for line in lines]
    least, most = min(x.min() for x in shown), max(x.max() for x in shown)
    beyond = max((most / least) ** _MARGIN, 1.01)
    margin = _MARGIN * (top - floor) or 0.5
    return Window(x=(least / beyond, most * beyond), y=(floor - margin, top + margin))


def latency_bands(comparison: Comparison) -> dict[str, Band]:
    """By strategy: how much more time than the baseline it takes (%), by what is judged (%)."""
    found = {}
    for name, versus in comparison.versus.items():
        if versus.latency is not None:
            band = _band(versus.latency, lambda log: 100.0 * np.expm1(log))
            order = np.argsort(-versus.latency.places_P)
            x = _percent(versus.latency.places_P)[order]
            found[name] = Band(x=x, y=band.y[order], low=band.low[order], high=band.high[order])
    return found


def accuracy_bands(comparison: Comparison) -> dict[str, Band]:
    """By strategy: how many points more than the baseline it reaches, by milliseconds."""
    found = {}
    for name, versus in comparison.versus.items():
        if len(versus.error.places_P):
            band = _band(versus.error, lambda error: -100.0 * error)
            found[name] = Band(x=1e3 * versus.error.places_P, y=band.y, low=band.high, high=band.low)
    return found


def bounds_of(estimate: Estimate) -> tuple[float, float]:
    """Lengths of an error bar to the left and to the right; nothing where there is no interval."""
    return (
        float(np.nan_to_num(estimate.value - estimate.low)),
        float(np.nan_to_num(estimate.high - estimate.value)),
    )


def spread(values: Sequence[float], gap: float, high: float = inf) -> list[float]:
    """Places for labels, as near to where they belong as they can be while each is at least `gap` from the next, and
    then none above `high`.

    Least squares by pooling neighbours that violate the order: Barlow et al., "Statistical inference under order
    restrictions", 1972.

    >>> spread([1.0, 5.0, 1.0], gap=1.0), spread([1.0, 5.0, 5.0], gap=1.0, high=5.0)
    ([0.5, 5.0, 1.5], [1.0, 4.0, 5.0])
    """
    order = sorted(range(len(values)), key=lambda at: values[at])
    pools: list[list[float]] = []
    for rank, at in enumerate(order):
        pools.append([values[at] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    placed = [float(np.mean(pool)) for pool in pools for _ in pool]
    found = [0.0] * len(values)
    for rank, at in enumerate(order):
        found[at] = min(placed[rank] + rank * gap, high - (len(values) - 1 - rank) * gap)
    return found


def jitter(number: int) -> Floats:
    """Where dots of one row stand, so that equal ones are seen: the same each time."""
    return 0.14 * np.sin(2.4 * np.arange(number)) if number > 1 else np.zeros(number)


def whys_of(comparison: Comparison) -> list[Why]:
    """In the order of the strategies."""
    return [comparison.whys[each.name] for each in comparison.strategies if each.name in comparison.whys]


def bar_ink(bound: str) -> str:
    """What can be read on a bar of that bound."""
    return style.INK if bound == "memory" else "white"


def saved(ratio: float) -> float:
    """Per cent of the time; nan where there was no common accuracy."""
    return 100.0 * (1.0 - ratio)


def intensity_window(whys: Sequence[Why], ridge_point: float) -> tuple[float, float]:
    """Of the picture of intensities, FLOP per byte."""
    values = [ridge_point, *(each.intensity.value for each in whys)]
    return min(values) / 1.6, max(values) * 1.6


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers, the more of a decade the shorter the axis is.

    >>> log_ticks(3.0, 60.0), log_ticks(0.5, 1500.0)
    ([5.0, 10.0, 20.0, 50.0], [1.0, 10.0, 100.0, 1000.0])
    >>> log_ticks(2.0, 9.0), log_ticks(1.03, 1.29)
    ([2.0, 3.0, 4.0, 5.0, 7.0], [1.05, 1.1, 1.15, 1.2, 1.25])
    """
    if high < 3.0 * low:
        step = next(each for power in range(-9, 12) for each in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
                    if (high - low) / each < 7.0)  # fmt: skip
        return [round(step * at, 9) for at in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
    steps = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0) if high < 12.0 * low else (1.0, 2.0, 5.0) if high < 1000.0 * low else (1.0,)
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [tick for decade in decades for step in steps if low <= (tick := round(step * 10.0**decade, 9)) <= high]


def band_window(bands: Mapping[str, Band]) -> tuple[float, float]:
    """All means, and of the intervals as much as leaves those readable."""
    means = np.concatenate([[0.0], *(band.y for band in bands.values())])
    edges = np.concatenate([means, *(np.concatenate([band.low, band.high]) for band in bands.values())])
    low, high = float(means.min()), float(means.max())
    height = high - low or 1.0
    least, most = float(np.nanmin(edges)), float(np.nanmax(edges))
    return max(least, low - height) - 0.06 * height, min(most, high + height) + 0.06 * height


# ------------------------------------------------------------------------------------------------------------ private


def _percent(errors: Floats) -> Floats:
    shares: Floats = 100.0 * (1.0 - np.asarray(errors, dtype=np.float64))
    return shares


def _band(curve: Curve, shown: Callable[[Floats], Floats]) -> Band:
    value_P, low_P, high_P = (
        shown(np.array([getattr(each, name) for each in curve.estimates])) for name in ("value", "low", "high")
    )
    return Band(x=curve.places_P, y=value_P, low=low_P, high=high_P)
