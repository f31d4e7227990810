"""Upper bounds on what a candidate may cost: `constraints.latency_ms=5`, `constraints.mobile_cpu.latency_ms=30`."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.objectives import METRICS, metric_named
from nas.repair import Indices, neighbours
from predictors.device import available_devices
from predictors.mapping import check_type
from search_spaces.space import Arch, Space

CONSTRAINTS: dict[str, str] = {metric.bound: metric.name for metric in METRICS.values() if metric.bound is not None}
"""Names that a user writes, with the unit in the name, and the metric that each bounds in units of its scale."""

_ROUNDING = 1e-9
"""Costs of an arch differ by less, relative to them, with the order in which they are added up."""

_MAX_ENUMERATED = 20_000
_NUM_SAMPLES = 10_000
_NUM_SLOW_SAMPLES = 1_000
"""Of a space whose archs are predicted one by one."""
_NUM_DESCENTS = 4

Costs = Callable[[Indices], Mapping[str, NDArray[np.float64]]]
"""Costs of N archs, rows as `space.encode` gives them: arrays of shape (N,) by metric name."""


def constraints_from_mapping(mapping: Mapping[str, Any]) -> dict[str, float]:
    """Bounds by metric name in SI units; those given as None are left out, those of more devices stand in mappings.

    >>> constraints_from_mapping({"latency_ms": 5, "macs_m": None, "mobile_cpu": {"latency_ms": 30}})
    {'latency_s': 0.005, 'mobile_cpu.latency_s': 0.03}

    Raises:
        ValueError: an unknown name or device, no number, or a bound that is not positive.
    """
    bounds: dict[str, float] = {}
    for key, bound in mapping.items():
        if isinstance(bound, Mapping):
            _check_device(str(key))
            for below, value in bound.items():
                bounds |= _bound(str(below), value, str(key))
        else:
            bounds |= _bound(str(key), bound, "")
    return bounds


def other_devices(objectives: Sequence[str], constraints: Mapping[str, float]) -> tuple[str, ...]:
    """The devices that names of metrics mention, each once, in their order.

    >>> other_devices(("error", "latency_s", "v100.latency_s"), {"mobile_cpu.latency_s": 0.03, "v100.energy_j": 1.0})
    ('v100', 'mobile_cpu')
    """
    devices = (name.rpartition(".")[0] for name in (*objectives, *constraints))
    return tuple(dict.fromkeys(device for device in devices if device))


def relative_excess(cost: Any, bound: float) -> Any:
    """`cost / bound - 1` of a number or an array; what only rounding tells from the bound is on it: 0."""
    excess = cost / bound - 1.0
    return np.where(np.abs(excess) <= _ROUNDING, 0.0, excess)


def violations(metrics: Mapping[str, float], constraints: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is exceeded, relative to the bound: `value / bound - 1`, feasible where it is at most 0."""
    return {name: float(relative_excess(metrics[name], bound)) for name, bound in constraints.items()}


def largest_excess(costs: Mapping[str, NDArray[np.float64]], constraints: Mapping[str, float]) -> NDArray[np.float64]:
    """By how much each of N archs exceeds the bound that it exceeds most, relative to it: shape (N,).

    Args:
        costs: arrays of shape (N,) by metric name.
        constraints: one at least.
    """
    found: NDArray[np.float64] = np.max(
        [relative_excess(costs[name], bound) for name, bound in constraints.items()], axis=0
    )
    return found


def feasible_arch(
    space: Space, costs: Costs, constraints: Mapping[str, float], device_name: str, *, seed: int = 0
) -> Arch:
    """An arch that meets all constraints. The smallest is tried first, so most calls cost one prediction.

    Where it does not, all archs of a small space are looked at; of a large one random ones, of which the best are
    changed knob by knob as long as that helps.

    Raises:
        ValueError: there is none, or none was found. The message has the least value of each bounded metric, where a
            bound is below it, and else the arch that comes closest to all bounds.
    """
    if not constraints:
        return space.smallest()
    if largest_excess(costs(space.encode([space.smallest()])), constraints)[0] <= 0.0:
        return space.smallest()
    sizes = tuple(len(values) for values in space.choices.values())
    rows_NK = _some_rows(space, sizes, seed)

    def least(score: Callable[[Indices], NDArray[np.float64]]) -> Indices:
        return _least(rows_NK, score, sizes)

    closest_K = least(lambda rows: largest_excess(costs(rows), constraints))
    if largest_excess(costs(closest_K[None, :]), constraints)[0] <= 0.0:
        return space.canonical(space.decode(closest_K[None, :])[0])
    leasts = {
        name: float(costs(least(lambda rows, name=name: costs(rows)[name])[None, :])[name][0])  # type: ignore[misc]
        for name in constraints
    }
    if missed := [name for name, bound in constraints.items() if relative_excess(leasts[name], bound) > 0.0]:
        raise ValueError(
            "; ".join(
                f"constraint {_shown(name, constraints[name])}: the least that the space reaches on "
                f"{name.rpartition('.')[0] or device_name} is {_value(name, leasts[name])}"
                for name in missed
            )
        )
    asked, alone = (", ".join(_shown(name, cost) for name, cost in each.items()) for each in (constraints, leasts))
    reached = {name: float(cost[0]) for name, cost in costs(closest_K[None, :]).items()}
    closest = ", ".join(_shown(name, reached[name]) for name in constraints)
    which = "networks" if len(rows_NK) == prod(sizes) else "networks tried"
    raise ValueError(
        f"constraints {asked}: none of the {which} of space {space.name} on {device_name} meets all together; closest: "
        f"{closest}; the least of each alone: {alone}"
    )


# ------------------------------------------------------------------------------------------------------------ private


def _check_device(name: str) -> None:
    if name not in available_devices():
        raise ValueError(
            f"constraints.{name}: no device has that name; there are {available_devices()}, and bounds on the search's "
            f"own device are {list(CONSTRAINTS)}"
        )


def _bound(key: str, bound: Any, device: str) -> dict[str, float]:
    """One bound by metric name, none if it is None."""
    shown = f"{device}.{key}" if device else key
    if key not in CONSTRAINTS:
        more = "" if device else ", or a device's name with such names below it"
        raise ValueError(f"unknown constraint {shown!r}; allowed are {list(CONSTRAINTS)}{more}")
    metric = METRICS[CONSTRAINTS[key]]
    if device and not metric.on_device:
        raise ValueError(f"constraints.{shown}: {metric.title} are the same on every device; write constraints.{key}")
    if bound is None:
        return {}
    if not 0.0 < check_type(bound, (int, float), f"constraints.{shown}") < float("inf"):
        raise ValueError(f"constraints.{shown}: must be positive and finite, found {bound!r}")
    return {f"{device}.{metric.name}" if device else metric.name: bound * metric.scale}


def _shown(name: str, cost: float) -> str:
    """'mobile_cpu.latency_ms=30', as it is written on a command line."""
    device, _, plain = name.rpartition(".")
    key = next(key for key, bounded in CONSTRAINTS.items() if bounded == plain)
    return f"{device + '.' if device else ''}{key}={cost / METRICS[plain].scale:.4g}"


def _value(name: str, cost: float) -> str:
    metric = metric_named(name)
    return f"{cost / metric.scale:.4g} {metric.unit}"


def _some_rows(space: Space, sizes: tuple[int, ...], seed: int) -> Indices:
    """All archs of a small space; else its ends and random ones, each leaning to small or to large values."""
    many = len(space.positions) > 0
    number = prod(sizes)
    if number <= (_MAX_ENUMERATED if many else _NUM_SLOW_SAMPLES):
        return np.stack(np.unravel_index(np.arange(number), sizes), axis=1).astype(np.int64)
    rng = np.random.default_rng(seed)
    num_samples = _NUM_SAMPLES if many else _NUM_SLOW_SAMPLES
    leaning_N1 = rng.random((num_samples, 1))
    random_NK = rng.binomial(np.array(sizes) - 1, leaning_N1, size=(num_samples, len(sizes)))
    ends = space.encode([space.smallest(), space.largest()])
    return np.concatenate([ends, random_NK]).astype(np.int64)


def _least(rows_NK: Indices, score: Callable[[Indices], NDArray[np.float64]], sizes: tuple[int, ...]) -> Indices:
    """The arch of least score: of all, or of some, whose best are changed knob by knob as long as that lessens it."""
    scores_N = score(rows_NK)
    if len(rows_NK) == prod(sizes):
        lowest_K: Indices = rows_NK[np.argmin(scores_N)]
        return lowest_K
    best = np.argsort(scores_N, kind="stable")[:_NUM_DESCENTS]
    descended = [_descended(row_K, float(lowest), score, sizes) for row_K, lowest in zip(rows_NK[best], scores_N[best])]
    return min(descended, key=lambda each: each[0])[1]


def _descended(
    row_K: Indices, lowest: float, score: Callable[[Indices], NDArray[np.float64]], sizes: tuple[int, ...]
) -> tuple[float, Indices]:
    """The least score on the steepest way down from an arch, one knob at a time, and the arch that has it."""
    while True:
        rows_JK, _ = neighbours(row_K, sizes)
        scores_J = score(rows_JK)
        best = int(np.argmin(scores_J))
        if scores_J[best] >= lowest:
            return lowest, row_K
        row_K, lowest = rows_JK[best], float(scores_J[best])
