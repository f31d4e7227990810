"""How often intervals of a mean hold the true mean: `python tests/nas/interval_coverage.py` prints the table that
`nas.compare.statistics.estimates` tells."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nas.compare.records import Floats
from nas.compare.statistics import estimates

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
Interval = Callable[[Floats], tuple[Floats, Floats]]

POPULATIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "normal, half are 0": (lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.5), 0.0),
    "normal, outliers": (lambda rng, shape: rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 5.0, 1.0), 0.0),
}
"""What a seed's value is drawn from, and its mean."""

_NUM_RESAMPLES = 1999
_BLOCK = 100


def coverage(interval: Interval, population: str, num_seeds: int, num_experiments: int) -> float:
    """Share of experiments whose interval holds the true mean."""
    draw, mean = POPULATIONS[population]
    values_SN = draw(np.random.default_rng(1), (num_seeds, num_experiments))
    holds = 0
    for start in range(0, num_experiments, _BLOCK):
        lows_N, highs_N = interval(values_SN[:, start : start + _BLOCK])
        holds += int(((lows_N <= mean) & (mean <= highs_N)).sum())
    return holds / num_experiments


def ours(values_SN: Floats) -> tuple[Floats, Floats]:
    found = estimates(values_SN)
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def of_scipy(method: str) -> Interval:
    def interval(values_SN: Floats) -> tuple[Floats, Floats]:
        found = stats.bootstrap(
            (values_SN,), np.mean, axis=0, method=method, n_resamples=_NUM_RESAMPLES, rng=np.random.default_rng(2)
        ).confidence_interval
        return found.low, found.high

    return interval


def studentised(values_SN: Floats) -> tuple[Floats, Floats]:
    num_seeds = len(values_SN)
    means_N, std_N = values_SN.mean(axis=0), values_SN.std(axis=0)
    shares_RS = np.random.default_rng(3).multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=_NUM_RESAMPLES)
    shares_RS = shares_RS / num_seeds
    deviations_SN = values_SN - means_N
    drawn_RN = shares_RS @ deviations_SN
    variances_RN = np.maximum(shares_RS @ deviations_SN**2 - drawn_RN**2, 1e-12 * std_N**2)
    low_N, high_N = np.quantile(drawn_RN / np.sqrt(variances_RN), [0.025, 0.975], axis=0)
    return means_N - high_N * std_N, means_N - low_N * std_N


def student(values_SN: Floats) -> tuple[Floats, Floats]:
    num_seeds = len(values_SN)
    half_N = stats.t.ppf(0.975, num_seeds - 1) * values_SN.std(axis=0, ddof=1) / num_seeds**0.5
    return values_SN.mean(axis=0) - half_N, values_SN.mean(axis=0) + half_N


INTERVALS: dict[str, Interval] = {
    "this one": ours,
    "BCa": of_scipy("BCa"),
    "percentile": of_scipy("percentile"),
    "studentised": studentised,
    "t": student,
}

if __name__ == "__main__":
    print(f"{'values of a seed':24}" + "".join(f"{name:>13}" for name in INTERVALS))
    for num_seeds in (3, 5, 6, 10, 20):
        for population in POPULATIONS:
            with np.errstate(invalid="ignore", divide="ignore"):
                row = [coverage(interval, population, num_seeds, 4000) for interval in INTERVALS.values()]
            print(f"{num_seeds:2}, {population:20}" + "".join(f"{100 * each:12.1f}%" for each in row), flush=True)
