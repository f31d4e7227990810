"""The true least cost of a task's networks under bounds."""

import time
from collections.abc import Callable, Mapping, Sequence
from math import isclose

from nas.constraints import violations
from nas.objectives import metric_named
from nas.task import SearchTask
from nas.yardstick.optimum import NoYardstickError, Optimum
from nas.yardstick.program import Solution, solve
from nas.yardstick.sums import CostSums, Sum, cost_sums
from search_spaces.space import Arch

TIME_LIMIT_S = 60.0

_SHORTEST_S = 0.5
"""That an integer program is given, however little time is left."""

_TOLERANCE = 1e-9
_MAX_EXCLUDED = 50


def least(
    task: SearchTask, metric: str, bounds: Mapping[str, float] | None = None, *, time_limit_s: float = TIME_LIMIT_S
) -> Optimum:
    """The least value of a cost that a network reaches, the greatest of arithmetic intensity, in SI units.

    An integer program over the tables of what stands at each position of the networks; exact, whatever the size of the
    space. The ratio is maximised by W. Dinkelbach, "On nonlinear fractional programming", Management Science 13(7),
    1967: the largest of `FLOP - ratio * bytes` is 0 at the best ratio.

    Args:
        bounds: upper bounds by metric name, of any of the task's devices; None takes the task's constraints.
        time_limit_s: after which what was found so far is returned, not proven.

    Raises:
        ValueError: an unknown metric, or no network of the space meets the bounds, which is proven.
        NoYardstickError: costs of these networks do not add up over positions, or nothing was found in the time.
    """
    bounds = task.constraints if bounds is None else bounds
    for name in (metric, *bounds):
        check_cost(task, name)
    sums = cost_sums(task)
    bounding = bounding_sums(sums, bounds)
    deadline = time.monotonic() + time_limit_s

    def best(parts: Sequence[Sum]) -> tuple[Solution, Arch]:
        return kept_solution(task, sums, parts, bounding, bounds, max(deadline - time.monotonic(), _SHORTEST_S))

    if metric_named(metric).maximise:
        return _greatest_ratio(task, metric, *sums.ratio(metric), best)
    solution, arch = best(sums.parts(metric))
    value = task.costs(arch)[metric]
    if solution.proven and not isclose(value, solution.limit, rel_tol=_TOLERANCE):
        raise NoYardstickError(f"{metric} is {value:.12g} as predicted and {solution.limit:.12g} as a sum of tables")
    limit = value if solution.proven else min(solution.limit, value)
    return Optimum(arch=arch, value=value, proven=solution.proven, limit=limit)


def check_cost(task: SearchTask, name: str) -> None:
    """Raise ValueError unless the task predicts the metric."""
    known = task.costs(task.space.smallest())
    if name not in known:
        raise ValueError(f"{name!r} is no cost of this search; there are {list(known)}")


def bounding_sums(sums: CostSums, bounds: Mapping[str, float]) -> list[tuple[Sum, float]]:
    """Upper bounds of metrics as upper bounds of sums; by so much looser as rounding may be, which is judged later."""
    found = []
    for name, bound in bounds.items():
        bound *= 1.0 + _TOLERANCE
        if metric_named(name).maximise:
            numerator, denominator = sums.ratio(name)
            found.append((numerator.plus(denominator.scaled(-bound)), 0.0))
        else:
            found += [(each, bound) for each in sums.parts(name)]
    return found


def kept_solution(
    task: SearchTask,
    sums: CostSums,
    parts: Sequence[Sum],
    bounding: Sequence[tuple[Sum, float]],
    bounds: Mapping[str, float],
    time_limit_s: float,
) -> tuple[Solution, Arch]:
    """The best choice whose network keeps the bounds as they are predicted.

    The solver lets a bound be exceeded by its tolerance; a network that does is excluded and the next best is sought.
    """
    excluded: list[tuple[int, ...]] = []
    while len(excluded) <= _MAX_EXCLUDED:
        solution = solve(sums.tables, sums.choices, parts, bounding, excluded=excluded, time_limit_s=time_limit_s)
        if solution is None:
            asked = " and ".join(f"{name} <= {bound:.6g}" for name, bound in bounds.items())
            raise ValueError(f"no network of space {task.space.name!r} has {asked}; that is proven")
        arch = arch_of(task, solution.indices)
        if all(excess <= 0.0 for excess in violations(task.costs(arch), bounds).values()):
            return solution, arch
        excluded.append(solution.rows)
    raise NoYardstickError(f"{_MAX_EXCLUDED} networks lie above {dict(bounds)} by less than the solver's tolerance")


def arch_of(task: SearchTask, indices: Mapping[str, int]) -> Arch:
    """The canonical arch of the values' indices; knobs without any take their first value."""
    return task.space.canonical({knob: values[indices.get(knob, 0)] for knob, values in task.space.choices.items()})


# ------------------------------------------------------------------------------------------------------------ private


def _greatest_ratio(
    task: SearchTask,
    metric: str,
    numerator: Sum,
    denominator: Sum,
    best: Callable[[Sequence[Sum]], tuple[Solution, Arch]],
) -> Optimum:
    ratio, at = 0.0, task.space.smallest()
    while True:
        solution, arch = best([denominator.scaled(ratio).plus(numerator.scaled(-1.0))])
        found = task.costs(arch)[metric]
        if found <= ratio * (1.0 + _TOLERANCE):
            break
        ratio, at = found, arch
    # No network has more FLOP than ratio * its bytes - solution.limit, so none is above the ratio by more than this.
    fewest_bytes = denominator.constant + sum(float(each.min()) for each in denominator.amounts)
    slack = 0.0 if solution.proven else max(0.0, -solution.limit) / fewest_bytes
    return Optimum(arch=at, value=ratio, proven=solution.proven, limit=ratio + slack)
