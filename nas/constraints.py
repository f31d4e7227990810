"""Upper bounds on what a candidate may cost on the device, e.g. `constraints.latency_ms=5`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nas.objectives import METRICS
from predictors.mapping import check_type
from search_spaces.space import Arch, Space

CONSTRAINTS: dict[str, str] = {metric.bound: metric.name for metric in METRICS.values() if metric.bound is not None}
"""Names that a user writes, with the unit in the name, and the metric that each bounds in units of its scale."""


def constraints_from_mapping(mapping: Mapping[str, Any]) -> dict[str, float]:
    """Bounds by metric name in SI units; those given as None are left out.

    >>> constraints_from_mapping({"latency_ms": 5, "macs_m": None})
    {'latency_s': 0.005}

    Raises:
        ValueError: an unknown name, no number, or a bound that is not positive.
    """
    bounds = {}
    for key, bound in mapping.items():
        if key not in CONSTRAINTS:
            raise ValueError(f"unknown constraint {key!r}; allowed are {list(CONSTRAINTS)}")
        if bound is None:
            continue
        if not 0.0 < check_type(bound, (int, float), f"constraints.{key}") < float("inf"):
            raise ValueError(f"constraints.{key}: must be positive and finite, found {bound!r}")
        metric = METRICS[CONSTRAINTS[key]]
        bounds[metric.name] = bound * metric.scale
    return bounds


def violations(metrics: Mapping[str, float], constraints: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is exceeded, relative to the bound: `value / bound - 1`, feasible where it is at most 0."""
    return {name: metrics[name] / bound - 1.0 for name, bound in constraints.items()}


def feasible_arch(
    space: Space,
    costs: Callable[[Arch], Mapping[str, float]],
    constraints: Mapping[str, float],
    device_name: str,
    *,
    num_samples: int = 1000,
    seed: int = 0,
) -> Arch:
    """An arch that meets all constraints. The smallest is tried first, so most calls cost one prediction.

    Where it does not, the least value of every bounded metric, and after them the least violation of all together,
    are sought among random archs and by greedy descent from the best one.

    Raises:
        ValueError: a constraint is below the least value found, or no arch was found that meets all together.
    """

    def excess(arch: Arch) -> float:
        return max(violations(costs(arch), constraints).values(), default=0.0)

    def min_cost(metric: str) -> float:
        return costs(_least(space, lambda arch: costs(arch)[metric], num_samples, seed))[metric]

    if excess(space.smallest()) <= 0.0:
        return space.smallest()
    for metric, bound in constraints.items():
        least = min_cost(metric)
        if least > bound:
            raise ValueError(
                f"constraint {_shown(metric, bound)}: the least that the space reaches on {device_name} is "
                f"{least / METRICS[metric].scale:.3g} {METRICS[metric].unit}"
            )
    closest = _least(space, excess, num_samples, seed)
    if excess(closest) > 0.0:
        asked = ", ".join(_shown(metric, bound) for metric, bound in constraints.items())
        found = ", ".join(_shown(metric, costs(closest)[metric]) for metric in constraints)
        raise ValueError(f"constraints {asked}: none of the archs tried on {device_name} meets all; closest: {found}")
    return closest


# ------------------------------------------------------------------------------------------------------------ private


def _shown(metric: str, bound: float) -> str:
    key = next(key for key, name in CONSTRAINTS.items() if name == metric)
    return f"{key}={bound / METRICS[metric].scale:.4g}"


def _least(space: Space, cost: Callable[[Arch], float], num_samples: int, seed: int) -> Arch:
    """The arch of least cost among the smallest and random ones, then descended knob by knob to a local minimum."""
    rng = np.random.default_rng(seed)
    best = min((space.smallest(), *(space.sample(rng) for _ in range(num_samples))), key=cost)
    lowest = cost(best)
    while True:
        step = min(_neighbours(space, best), key=cost, default=best)
        if cost(step) >= lowest:
            return best
        best, lowest = step, cost(step)


def _neighbours(space: Space, arch: Arch) -> Iterator[Arch]:
    """All archs that differ in one knob."""
    for knob, values in space.choices.items():
        for value in values:
            if value != arch[knob]:
                yield space.canonical({**arch, knob: value})
