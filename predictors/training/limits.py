"""A hard limit that holds: the most probable architecture among those whose predicted costs are at or under it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from predictors.device import Device
from predictors.latency import LatencyPredictor
from predictors.predict_many import ArchSpace
from predictors.training.most_probable import (
    LinearCost,
    Program,
    linear_cost,
    merged_by_knobs,
    program_of,
)
from predictors.training.probabilities import log_probabilities
from predictors.training.spaces import HasSpace, predictor_of, space_of

_MOST_VARIABLES = 100_000
"""Programs with more are not solved exactly."""

_MOST_FORMS = 2
"""Costs that are the maximum of more are not bounded from below: that takes a program each."""

_TIGHTER = 1e-7
"""What a solver's tolerance may exceed a limit by, relative to it."""

_PRICES = np.geomspace(1.0, 1e4, 17)
"""Nats that an excess of one (twice the limit) weighs as much as, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `value` of a cost that `Predictions` has, in its unit, on the predictor's device.

    Args:
        predictor: of the device; or the device or its name, for its usual runtime and dtype.

    Raises:
        ValueError: the value is not positive, or there is no such device.
    """

    predictor: LatencyPredictor | Device | str
    metric: str
    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "predictor", predictor_of(self.predictor))
        if not self.value > 0:
            raise ValueError(f"a limit must be positive, found {self.metric} <= {self.value}")

    @property
    def of_device(self) -> LatencyPredictor:
        """The predictor itself."""
        assert isinstance(self.predictor, LatencyPredictor)
        return self.predictor

    def costs(self, space: ArchSpace, indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of N archs, in the metric's unit, shape (N,)."""
        cost_N = getattr(self.of_device.predict_many(space, indices_NK), self.metric, None)
        if cost_N is None:
            raise ValueError(f"device {self.of_device.device.name!r} has no figures for {self.metric!r}")
        return np.asarray(cost_N, dtype=np.float64)

    def excess(self, space: ArchSpace, indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        """cost / limit - 1 of N archs; at most 0 where the limit holds."""
        return self.costs(space, indices_NK) / self.value - 1.0

    def __str__(self) -> str:
        return f"{self.metric} <= {self.value:.4g} on {self.of_device.device.name}"


def most_probable_arch(
    space: ArchSpace | HasSpace,
    probabilities: Mapping[str, torch.Tensor],
    limits: Sequence[Limit],
    *,
    use: float = 0.95,
) -> dict[str, int]:
    """The most probable arch that keeps every limit by its predicted costs, and is not far below all of them.

    Without limits, or where they hold anyway, that is each knob's most probable value. Else it is the most probable of
    the archs that use at least the share `use` of one of the limits; where there are none, of all that keep them.
    Probabilities that were learned under a limit make cheaper networks more probable for being cheap, and a knob that
    is in two minds, such as the resolution, costs no likelihood: without that share much of a limit may be left.

    Where costs add up over
    positions (of shipped spaces all but nasbench201, of metrics all but `std_s` and `arithmetic_intensity`) it is the
    solution of an integer program, and none is more probable. Else it is as far as a search climbs: the likelihood
    minus a price of the excess, one knob at a time, for rising prices; from the end that keeps the limits, and from the
    arch of least excess, single and double changes that keep them.

    Args:
        space: as it will be deployed, or a module that has it as its `space`.
        probabilities: of each knob's values, shape (number of values,).
        use: 0 asks for the most probable of all that keep the limits. It changes nothing for a limit on
            peak_memory_bytes, nor where costs do not add up.

    Raises:
        ValueError: no arch keeps the limits; the message has the least there is. What is not known is named, too.
    """
    if not 0.0 <= use <= 1.0:
        raise ValueError(f"most_probable_arch: use is a share from 0 to 1, found {use}")
    space = space_of(space)
    log_p = log_probabilities(probabilities, space)
    start_K = np.array([int(each.argmax()) for each in log_p])
    if not limits or _excess(space, limits, start_K) <= 0:
        return space.decode(start_K[None])[0]
    program = _program(space, limits)
    best_K = _climbed_under(space, log_p, limits) if program is None else _solved(space, log_p, limits, *program, use)
    return space.decode(best_K[None])[0]


def check_reachable(space: ArchSpace | HasSpace, limits: Sequence[Limit]) -> None:
    """Before a training begins: whether there is any network that keeps all limits.

    Raises:
        ValueError: there is none; the message has the least there is.
    """
    space = space_of(space)
    any_is_as_likely = {knob: torch.full((len(values),), 1.0 / len(values)) for knob, values in space.choices.items()}
    most_probable_arch(space, any_is_as_likely, limits, use=0.0)


# ------------------------------------------------------------------------------------------------------------ private


def _program(space: ArchSpace, limits: Sequence[Limit]) -> tuple[Program, list[LinearCost]] | None:
    """None where costs do not add up over positions, or there is too much to choose from."""
    costs = []
    for limit in limits:
        found = limit.of_device.position_tables(space)
        if found is None or sum(len(table.peaks_R) for table in found) > _MOST_VARIABLES:
            return None
        tables = merged_by_knobs(found)
        cost = linear_cost(limit.of_device, limit.metric, tables)
        if cost is None:
            return None
        costs.append(cost)
    return program_of(space, tables), costs


def _solved(
    space: ArchSpace,
    log_p: Sequence[NDArray[np.float64]],
    limits: Sequence[Limit],
    program: Program,
    costs: Sequence[LinearCost],
    use: float,
) -> NDArray[np.int64]:
    upper = [(cost, limit.value) for cost, limit in zip(costs, limits)]
    worth_X = np.concatenate(log_p)

    def best(lower: Sequence[tuple[LinearCost, float]] = ()) -> NDArray[np.int64] | None:
        tighter = 0.0
        while tighter < 1e-3:  # a solver has a tolerance, a limit has none
            found_K = program.best(worth_X, [(cost, value * (1.0 - tighter)) for cost, value in upper], lower)
            if found_K is None or _excess(space, limits, found_K) <= 0:
                return found_K
            tighter = max(_TIGHTER, 4.0 * tighter)
        return None

    most_K = best()
    if most_K is None:
        _give_up(space, limits, program, costs)
    if _excess(space, limits, most_K) >= use - 1.0:
        return most_K
    near = [
        found_K
        for cost, value in upper
        if len(cost.constants_F) <= _MOST_FORMS
        for form in cost.forms
        if (found_K := best([(form, use * value)])) is not None
    ]
    return max(near, default=most_K, key=lambda at_K: _log_likelihood(log_p, at_K))


def _excess(space: ArchSpace, limits: Sequence[Limit], at_K: NDArray[np.int64]) -> float:
    """By how much an arch is above the limit that it exceeds most, relative to it."""
    return max(float(limit.excess(space, at_K[None])[0]) for limit in limits)


def _log_likelihood(log_p: Sequence[NDArray[np.float64]], at_K: NDArray[np.int64]) -> float:
    return float(sum(each[index] for each, index in zip(log_p, at_K)))


def _give_up(space: ArchSpace, limits: Sequence[Limit], program: Program, costs: Sequence[LinearCost]) -> NoReturn:
    leasts = []
    for limit, cost in zip(limits, costs):
        least = float(limit.costs(space, program.closest([(cost, limit.value)])[None])[0])
        if least > limit.value:
            leasts.append(f"no arch keeps {limit}: the least that any has is {least:.4g}")
    if leasts:
        raise ValueError("; ".join(leasts))
    closest_K = program.closest([(cost, limit.value) for cost, limit in zip(costs, limits)])
    above = _excess(space, limits, closest_K)
    raise ValueError(
        f"no arch keeps {', '.join(map(str, limits))} together, though each alone can be kept; the closest is "
        f"{above:.2%} above one of them"
    )


def _climbed_under(
    space: ArchSpace, log_p: Sequence[NDArray[np.float64]], limits: Sequence[Limit]
) -> NDArray[np.int64]:
    start_K = np.array([int(each.argmax()) for each in log_p])

    def excess(indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.max([limit.excess(space, indices_NK) for limit in limits], axis=0)
        return found

    def likelihood(indices_NK: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = [each[indices_NK[:, knob]] for knob, each in enumerate(log_p)]
        found: NDArray[np.float64] = np.sum(rows, axis=0)
        return found

    sizes = [len(each) for each in log_p]
    least_K = _climbed(start_K, sizes, lambda x: -excess(x))
    if excess(least_K[None])[0] > 0:
        found = ", ".join(f"{limit} ({limit.costs(space, least_K[None])[0]:.4g})" for limit in limits)
        raise ValueError(f"no arch was found that keeps {found}; in brackets what the closest has")

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
    return max(ends, key=lambda end_K: float(likelihood(end_K[None])[0]))


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
