"""A hard limit that holds: the most probable architecture among those whose predicted costs are at or under it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from predictors.latency import LatencyPredictor
from predictors.predict_many import ArchSpace
from predictors.training.probabilities import log_probabilities

_PRICES = np.geomspace(1.0, 1e4, 17)
"""Nats that an excess of one (twice the limit) weighs as much as, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `value` of a cost that `Predictions` has, in its unit, on the predictor's device.

    Raises:
        ValueError: the value is not positive.
    """

    predictor: LatencyPredictor
    metric: str
    value: float

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"a limit must be positive, found {self.metric} <= {self.value}")

    def excess(self, space: ArchSpace, indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        """cost / limit - 1 of N archs; at most 0 where the limit holds."""
        cost_N = getattr(self.predictor.predict_many(space, indices_NK), self.metric, None)
        if cost_N is None:
            raise ValueError(f"device {self.predictor.device.name!r} has no figures for {self.metric!r}")
        return np.asarray(cost_N, dtype=np.float64) / self.value - 1.0


def most_probable_arch(
    space: ArchSpace, probabilities: Mapping[str, torch.Tensor], limits: Sequence[Limit]
) -> dict[str, int]:
    """The most probable arch that keeps every limit by its predicted costs, as far as a search finds it.

    Without limits, or where they hold anyway, that is each knob's most probable value. Else the likelihood minus a
    price of the excess is climbed, one knob at a time, for rising prices; from the end that keeps the limits, and from
    the arch of least excess, single and double changes that keep them are made as long as they make the arch more
    probable.

    Args:
        probabilities: of each knob's values, shape (number of values,).

    Raises:
        ValueError: no arch was found that keeps the limits; the message has the least that was reached.
    """
    log_p = log_probabilities(probabilities, space)
    start_K = np.array([int(each.argmax()) for each in log_p])

    def excess(indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.max([limit.excess(space, indices_NK) for limit in limits], axis=0)
        return found

    def likelihood(indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = [each[indices_NK[:, knob]] for knob, each in enumerate(log_p)]
        found: NDArray[np.float64] = np.sum(rows, axis=0)
        return found

    if not limits or excess(start_K[None])[0] <= 0:
        return space.decode(start_K[None])[0]
    sizes = [len(each) for each in log_p]
    least_K = _climbed(start_K, sizes, lambda x: -excess(x))
    if (least := excess(least_K[None])[0]) > 0:
        asked = ", ".join(f"{each.metric} <= {each.value:.4g} on {each.predictor.device.name}" for each in limits)
        raise ValueError(f"no arch was found that keeps {asked}; the closest is {least:.1%} above")

    def priced(price: float, indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        return likelihood(indices_NK) - price * np.maximum(excess(indices_NK), 0.0)

    ends, at_K = [least_K], start_K
    for price in _PRICES:
        at_K = _climbed(at_K, sizes, partial(priced, price))
        if excess(at_K[None])[0] <= 0:
            ends.append(at_K)
            break

    def kept(indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(excess(indices_NK) <= 0, likelihood(indices_NK), -np.inf)

    ends = [_climbed(end_K, sizes, kept, _double_changes) for end_K in ends]
    best_K = max(ends, key=lambda end_K: float(likelihood(end_K[None])[0]))
    return space.decode(best_K[None])[0]


# ------------------------------------------------------------------------------------------------------------ private

_Score = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def _climbed(
    start_K: NDArray[np.int64],
    sizes: Sequence[int],
    score: _Score,
    more: Callable[[NDArray[np.int64], Sequence[int]], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """The best neighbour again and again, until none is better; `more` neighbours are looked at only then."""
    at_K, height = start_K, score(start_K[None])[0]
    while True:
        for neighbours in (_single_changes, more):
            if neighbours is None:
                continue
            near_NK = neighbours(at_K, sizes)
            heights_N = score(near_NK)
            best = int(np.argmax(heights_N))
            if heights_N[best] > height:
                at_K, height = near_NK[best], heights_N[best]
                break
        else:
            return at_K


def _single_changes(at_K: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Every arch that differs in one knob; the arch itself where no knob has two values."""
    changed = [(knob, value) for knob, size in enumerate(sizes) for value in range(size) if value != at_K[knob]]
    near_NK = np.repeat(at_K[None], max(len(changed), 1), axis=0)
    for row, (knob, value) in enumerate(changed):
        near_NK[row, knob] = value
    return near_NK


def _double_changes(at_K: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Every arch that differs in two knobs."""
    changed = [(knob, value) for knob, size in enumerate(sizes) for value in range(size) if value != at_K[knob]]
    pairs = [(first, second) for first, second in combinations(changed, 2) if first[0] != second[0]]
    near_NK = np.repeat(at_K[None], max(len(pairs), 1), axis=0)
    if pairs:
        firsts_N2, seconds_N2 = np.array(pairs).transpose(1, 0, 2)
        rows_N = np.arange(len(pairs))
        near_NK[rows_N, firsts_N2[:, 0]] = firsts_N2[:, 1]
        near_NK[rows_N, seconds_N2[:, 0]] = seconds_N2[:, 1]
    return near_NK
