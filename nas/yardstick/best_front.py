"""The true Pareto front of error against a cost where a surrogate says every accuracy.

`ln(ceiling - accuracy)` of the surrogate is a sum over stages and over pairs of their depths, and so are costs that add
up. So all networks need not be looked at: of a stage with a given depth only the rows that no other row beats in both
sums can be part of the front, and the same holds for stages put together. That gives the whole front. The host of a
device that queues kernels takes as long for all networks of the same depths, so its sum changes nothing of that. Other
costs that are the larger of several sums, and further bounds, leave an integer program for each of some bounds on the
cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nas.constraints import violations
from nas.objectives import metric_named
from nas.pareto import pareto_front
from nas.surrogate import Surrogate, terms_of
from nas.task import SearchTask
from nas.yardstick.least import TIME_LIMIT_S, arch_of, bounding_sums, check_cost, kept_solution, least
from nas.yardstick.optimum import NoYardstickError, Optimum
from nas.yardstick.sums import CostSums, Sum, cost_sums, num_rows, row_indices
from search_spaces.space import Arch, Space

NUM_BOUNDS = 24
"""On the cost, where the front is found bound by bound."""

_NUM_CHECKED = 64
_TOLERANCE = 1e-8
_ROUNDING = 1e-12
"""One sum in two orders."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class BestFront:
    """Networks of which no other network of the space is better in both error and cost.

    Attributes:
        objectives: names of metrics.
        losses_ND: one row a network, by increasing last objective; as `nas.objectives.losses` gives them.
        archs: canonical.
        whole: these are all losses of the front; else the front has more points in between.
        outer_ND: losses that no network of the space dominates, and that together dominate all networks: their
            hypervolume is an upper limit. `losses_ND` where the front is whole.
    """

    objectives: tuple[str, ...]
    losses_ND: NDArray[np.float64]
    archs: tuple[Arch, ...]
    whole: bool
    outer_ND: NDArray[np.float64]


def most_accurate(
    task: SearchTask,
    surrogate: Surrogate,
    bounds: Mapping[str, float] | None = None,
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> Optimum:
    """The network of least error under bounds; `value` is its error, a fraction in 0..1.

    Args:
        bounds: upper bounds by metric name, of any of the task's devices; None takes the task's constraints.
        time_limit_s: after which what was found so far is returned, not proven.

    Raises:
        ValueError: the surrogate does not know the space, an unknown metric, or no network meets the bounds.
        NoYardstickError: costs or accuracies do not add up over stages, or nothing was found in the time.
    """
    bounds = task.constraints if bounds is None else bounds
    for name in bounds:
        check_cost(task, name)
    return _most_accurate(task, surrogate, *_stage_sums(task, surrogate), bounds, time_limit_s)


def best_front(
    task: SearchTask, surrogate: Surrogate, cost: str = "latency_s", *, time_limit_s: float = TIME_LIMIT_S
) -> BestFront:
    """The front of error against a cost of all networks that meet the task's constraints.

    Whole where the cost is one sum, or the larger of one and others that depths alone decide, and nothing but the cost
    is bounded. Else the most accurate network is found for each of `NUM_BOUNDS` bounds on the cost.

    Args:
        time_limit_s: of all integer programs together.

    Raises:
        ValueError: as of `most_accurate`.
        NoYardstickError: as of `most_accurate`, or the cost is one that should grow.
    """
    check_cost(task, cost)
    if metric_named(cost).maximise:
        raise NoYardstickError(f"the front of error against {metric_named(cost).title}, a quotient, is not computed")
    sums, logs = _stage_sums(task, surrogate)
    varying, *others = sums.parts(cost)
    by_depth = [_by_depth(_stages(task.space), sums, each) for each in others]
    if None not in by_depth and set(task.constraints) <= {cost}:
        floors = [(each.constant, table) for each, table in zip(others, by_depth) if table is not None]
        return _whole_front(task, surrogate, sums, logs, varying, floors, cost)
    return _front_by_bounds(task, surrogate, sums, logs, cost, time_limit_s / (NUM_BOUNDS + 2))


# ------------------------------------------------------------------------------------------------------------ private


def _stage_sums(task: SearchTask, surrogate: Surrogate) -> tuple[CostSums, Sum]:
    """Costs and `ln(ceiling - accuracy)` as sums over a table for each stage and one for each two stages' depths."""
    space = task.space
    surrogate.check(space)
    stages = _stages(space)
    depths = [[knob for knob in knobs if knob.endswith("_depth")] for knobs in stages]
    pairs = [(*one, *two) for one, two in combinations(depths, 2) if one and two]
    sums = cost_sums(task, [*stages, *pairs])
    if len(sums.tables) > len(stages) + len(pairs):
        others = sums.tables[len(stages) + len(pairs) :]
        raise NoYardstickError(f"costs of space {space.name!r} depend on knobs of several stages together: {others[0]}")
    alone = [_logs_of(space, surrogate, knobs) - surrogate.intercept for knobs in stages]
    depth_logs = [_logs_of(space, surrogate, knobs) - surrogate.intercept for knobs in depths]
    together = [
        (_logs_of(space, surrogate, (*depths[i], *depths[j])) - surrogate.intercept)
        - np.add.outer(depth_logs[i], depth_logs[j]).reshape(-1)
        for i, j in combinations(range(len(stages)), 2)
        if depths[i] and depths[j]
    ]
    logs = Sum(constant=surrogate.intercept, amounts=(*alone, *together))
    _check_logs(space, surrogate, sums, logs)
    return sums, logs


def _stages(space: Space) -> list[tuple[str, ...]]:
    """The knobs of each stage."""
    stages: dict[str, list[str]] = {}
    for knob in space.choices:
        stages.setdefault(knob.partition("_")[0], []).append(knob)
    return [tuple(knobs) for knobs in stages.values()]


def _logs_of(space: Space, surrogate: Surrogate, knobs: Sequence[str]) -> NDArray[np.float64]:
    """`ln(ceiling - accuracy)` for each combination of these knobs' values, the others at their first."""
    places = [list(space.choices).index(knob) for knob in knobs]
    indices_RK = np.zeros((num_rows(knobs, space.choices), len(space.choices)), dtype=np.int64)
    indices_RK[:, places] = row_indices(knobs, space.choices)
    return surrogate.logs(terms_of(space, indices_RK))


def _check_logs(space: Space, surrogate: Surrogate, sums: CostSums, logs: Sum) -> None:
    """Raise NoYardstickError unless the sum is what the surrogate says of some random networks."""
    rng = np.random.default_rng(0)
    indices_NK = space.encode([space.largest(), *(space.sample(rng) for _ in range(_NUM_CHECKED))])
    found_N = np.full(len(indices_NK), logs.constant)
    for knobs, amounts_R in zip(sums.tables, logs.amounts, strict=True):
        sizes = [len(space.choices[knob]) for knob in knobs]
        columns = [indices_NK[:, list(space.choices).index(knob)] for knob in knobs]
        found_N += amounts_R[np.ravel_multi_index(columns, sizes)]
    if not np.allclose(found_N, surrogate.logs(terms_of(space, indices_NK)), rtol=0.0, atol=1e-10):
        raise NoYardstickError(f"surrogate {surrogate.name!r} has terms of several stages other than their depths")


def _error(surrogate: Surrogate, space: Space, archs: Sequence[Arch]) -> NDArray[np.float64]:
    return 1.0 - surrogate.of_many(space, archs)[0]


def _most_accurate(
    task: SearchTask,
    surrogate: Surrogate,
    sums: CostSums,
    logs: Sum,
    bounds: Mapping[str, float],
    time_limit_s: float,
) -> Optimum:
    bounding = bounding_sums(sums, bounds)
    solution, arch = kept_solution(task, sums, [logs], bounding, bounds, time_limit_s)
    error = float(_error(surrogate, task.space, [arch])[0])
    limit = float(np.clip(1.0 - surrogate.ceiling + np.exp(solution.limit), 0.0, 1.0))
    if solution.proven and abs(limit - error) > _TOLERANCE:
        raise NoYardstickError(f"the error is {error:.12g} by the surrogate and {limit:.12g} as a sum of tables")
    return Optimum(
        arch=arch, value=error, proven=solution.proven, limit=error if solution.proven else min(limit, error)
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Partial:
    """Rows of the first stages, for one choice of their depths: the sums that no other rows beat."""

    cost_N: NDArray[np.float64]
    log_N: NDArray[np.float64]
    rows_NS: NDArray[np.int32]


def _whole_front(
    task: SearchTask,
    surrogate: Surrogate,
    sums: CostSums,
    logs: Sum,
    cost_sum: Sum,
    floors: Sequence[tuple[float, Sequence[Mapping[int, float]]]],
    cost: str,
) -> BestFront:
    """The cost is `cost_sum`, or a floor where that is larger: its constant and an amount for each stage's depth."""
    stages = _stages(task.space)
    partials: dict[tuple[int, ...], _Partial] = {
        (): _Partial(np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.int32))
    }
    for number, knobs in enumerate(stages):
        depth_R = _depths(knobs, sums)
        of_depth = {}
        for depth in np.unique(depth_R):
            rows = np.flatnonzero(depth_R == depth)
            rows = rows[_unbeaten(cost_sum.amounts[number][rows], logs.amounts[number][rows])]
            of_depth[int(depth)] = rows
        partials = {
            (*before, depth): _extended(
                partial, rows, number, cost_sum, logs, _pair_log(sums, logs, stages, (*before, depth))
            )
            for before, partial in partials.items()
            for depth, rows in of_depth.items()
        }
    cost_N = np.concatenate(
        [
            np.maximum(cost_sum.constant + partial.cost_N, _largest_floor(floors, depths))
            for depths, partial in partials.items()
        ]
    )
    log_N = np.concatenate([each.log_N for each in partials.values()])
    rows_NS = np.concatenate([each.rows_NS for each in partials.values()])
    front = rows_NS[_unbeaten(cost_N, log_N)]
    tables = [row_indices(knobs, sums.choices) for knobs in stages]
    archs = [
        arch_of(
            task,
            {
                knob: int(index)
                for knobs, table, row in zip(stages, tables, rows)
                for knob, index in zip(knobs, table[row])
            },
        )
        for rows in front
    ]
    cost_N = task.costs_many(task.space.encode(archs))[cost]
    kept = [violations({cost: each}, task.constraints).get(cost, 0.0) <= 0.0 for each in cost_N.tolist()]
    losses_ND = np.column_stack([_error(surrogate, task.space, archs), cost_N])[kept]
    if not len(losses_ND):
        raise ValueError(f"no network of space {task.space.name!r} has {cost} <= {task.constraints[cost]:.6g}")
    on_front = pareto_front(losses_ND)
    archs = [arch for arch, is_kept in zip(archs, kept) if is_kept]
    losses_ND = losses_ND[on_front]
    return BestFront(
        objectives=("error", cost),
        losses_ND=losses_ND,
        archs=tuple(archs[index] for index in on_front),
        whole=True,
        outer_ND=losses_ND,
    )


def _depths(knobs: Sequence[str], sums: CostSums) -> NDArray[np.int64]:
    """Index of the stage's depth in each row of its table; 0 where it has no such knob."""
    indices_RK = row_indices(knobs, sums.choices)
    at = [place for place, knob in enumerate(knobs) if knob.endswith("_depth")]
    return indices_RK[:, at[0]] if at else np.zeros(len(indices_RK), dtype=np.int64)


def _by_depth(stages: Sequence[tuple[str, ...]], sums: CostSums, part: Sum) -> list[dict[int, float]] | None:
    """By stage the amount of each depth, where that is the same for all rows of the depth; None where it is not."""
    found = []
    for knobs, amounts_R in zip(stages, part.amounts):
        depth_R = _depths(knobs, sums)
        least, most = (
            {int(depth): float(pick(amounts_R[depth_R == depth])) for depth in np.unique(depth_R)}
            for pick in (np.min, np.max)
        )
        if any(most[depth] - least[depth] > _ROUNDING * abs(most[depth]) for depth in most):
            return None
        found.append(most)
    return found


def _largest_floor(floors: Sequence[tuple[float, Sequence[Mapping[int, float]]]], depths: tuple[int, ...]) -> float:
    of_depths = [constant + sum(of[depth] for of, depth in zip(amounts, depths)) for constant, amounts in floors]
    return max(of_depths, default=0.0)


def _pair_log(sums: CostSums, logs: Sum, stages: Sequence[tuple[str, ...]], depths: tuple[int, ...]) -> float:
    """What the last of the depths adds together with each of those before it."""
    knob_of = [next((knob for knob in knobs if knob.endswith("_depth")), None) for knobs in stages]
    last = knob_of[len(depths) - 1]
    found = 0.0
    for knobs, amounts_R in zip(sums.tables[len(stages) :], logs.amounts[len(stages) :], strict=True):
        if knobs[1] == last:
            index = depths[knob_of.index(knobs[0])], depths[-1]
            found += amounts_R[np.ravel_multi_index(index, [len(sums.choices[knob]) for knob in knobs])]
    return found


def _extended(
    before: _Partial, rows: NDArray[np.int64], stage: int, cost_sum: Sum, logs: Sum, pair_log: float
) -> _Partial:
    """What no other beats of all that came before, each with each row of one more stage."""
    cost_NR = np.add.outer(before.cost_N, cost_sum.amounts[stage][rows])
    log_NR = np.add.outer(before.log_N, logs.amounts[stage][rows]) + pair_log
    kept = _unbeaten(cost_NR.reshape(-1), log_NR.reshape(-1))
    n, r = np.unravel_index(kept, cost_NR.shape)
    return _Partial(cost_NR[n, r], log_NR[n, r], np.column_stack([before.rows_NS[n], rows[r].astype(np.int32)]))


def _unbeaten(cost_N: NDArray[np.float64], log_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of the front of two columns, by increasing cost; one of equals."""
    order = np.lexsort((log_N, cost_N))
    sorted_N = log_N[order]
    is_new = np.append(True, sorted_N[1:] < np.minimum.accumulate(sorted_N)[:-1])
    unbeaten: NDArray[np.int64] = order[is_new]
    return unbeaten


def _front_by_bounds(
    task: SearchTask, surrogate: Surrogate, sums: CostSums, logs: Sum, cost: str, time_limit_s: float
) -> BestFront:
    cheapest = least(task, cost, time_limit_s=time_limit_s)
    best = _most_accurate(task, surrogate, sums, logs, task.constraints, time_limit_s)
    most = task.costs(best.arch)[cost]
    found, outer = [best], [(best.limit, most)]
    for bound in np.linspace(most, cheapest.value, NUM_BOUNDS)[1:].tolist():
        # Between this bound and the one before, nothing is better than the last one's limit at this one's cost.
        outer.append((found[-1].limit, bound))
        bounds = {**task.constraints, cost: bound}
        found.append(_most_accurate(task, surrogate, sums, logs, bounds, time_limit_s))
    outer.append((found[-1].limit, cheapest.limit))
    losses_ND = np.array([[each.value, task.costs(each.arch)[cost]] for each in found])
    losses_ND, first = np.unique(losses_ND[:, ::-1], axis=0, return_index=True)
    on_front = pareto_front(losses_ND)
    return BestFront(
        objectives=("error", cost),
        losses_ND=losses_ND[on_front, ::-1],
        archs=tuple(found[index].arch for index in first[on_front]),
        whole=False,
        outer_ND=np.array(outer),
    )
