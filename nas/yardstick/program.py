"""The integer program: which row of each table, so that all agree on the knobs, the bounds hold and a sum is least.

A binary for each row that is worth choosing, and one for each value of each knob that several tables share: the rows
of a table that have the value add up to it. Solved by HiGHS (Q. Huangfu, J. Hall, "Parallelizing the dual revised
simplex method", Mathematical Programming Computation 10, 2018) through `scipy.optimize.milp`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nas.pareto import pareto_front
from nas.yardstick.optimum import NoYardstickError
from nas.yardstick.sums import Sum, row_indices

_SIZE = 1e3
"""Values of a line of the program are at most so large: the solver's absolute tolerance of 1e-6 is 1e-9 of it."""

_OPTIMAL, _INFEASIBLE = 0, 2
"""`status` of `scipy.optimize.milp`."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Solution:
    """Rows that make the largest of the sums least.

    Attributes:
        rows: of each table.
        indices: of the value of every knob that a table has.
        limit: the least that any choice may reach, as far as was proven.
        proven: the search for a better choice was finished.
    """

    rows: tuple[int, ...]
    indices: Mapping[str, int]
    limit: float
    proven: bool


def solve(
    tables: Sequence[tuple[str, ...]],
    choices: Mapping[str, tuple[int, ...]],
    parts: Sequence[Sum],
    bounds: Sequence[tuple[Sum, float]],
    *,
    excluded: Sequence[tuple[int, ...]] = (),
    time_limit_s: float,
) -> Solution | None:
    """The choice of rows whose largest of `parts` is least among those that keep every `sum <= bound`; None: there is
    none.

    Args:
        tables: the knobs of each.
        excluded: choices of rows that are not wanted.

    Raises:
        NoYardstickError: no choice was found in the time.
    """
    sums = [*parts, *(each for each, _ in bounds)]
    shared = _shared(tables)
    indices = [row_indices(knobs, choices) for knobs in tables]
    amounts = [np.stack([each.amounts[table] for each in sums], axis=1) for table in range(len(tables))]
    kept = [
        _worth_choosing(amounts_RF, indices_RK[:, [place for place, knob in enumerate(knobs) if knob in shared]])
        for amounts_RF, indices_RK, knobs in zip(amounts, indices, tables)
    ]
    # One row of each table is chosen, so what all of them cost at least is a constant.
    least = [amounts_RF[rows].min(axis=0) for amounts_RF, rows in zip(amounts, kept)]
    above_YF = np.concatenate([amounts_RF[rows] - each for amounts_RF, rows, each in zip(amounts, kept, least)])
    base_F = np.array([each.constant for each in sums]) + np.sum(least, axis=0)
    starts = [0, *accumulate(len(rows) for rows in kept)]
    top = starts[-1] + sum(len(choices[knob]) for knob in shared)

    lines = _Lines()
    place = starts[-1]
    for start, rows in zip(starts, kept):
        lines.add(range(start, start + len(rows)), np.ones(len(rows)), 1.0, 1.0)
    for knob in shared:
        for value in range(len(choices[knob])):
            for knobs, start, rows, indices_RK in zip(tables, starts, kept, indices):
                if knob in knobs:
                    here = start + np.flatnonzero(indices_RK[rows, knobs.index(knob)] == value)
                    lines.add([*here, place], [*np.ones(len(here)), -1.0], 0.0, 0.0)
            place += 1
    for number, (_, bound) in enumerate(bounds, start=len(parts)):
        scale = _scale(above_YF[:, number])
        lines.add(range(starts[-1]), scale * above_YF[:, number], -np.inf, scale * (bound - base_F[number]))
    scale = _scale(above_YF[:, : len(parts)])
    for number in range(len(parts)):
        # The largest part is `top / scale + base_F[0]`.
        values = [*(scale * above_YF[:, number]), -1.0]
        lines.add([*range(starts[-1]), top], values, -np.inf, scale * (base_F[0] - base_F[number]))
    for chosen in excluded:
        columns = [start + int(np.searchsorted(rows, row)) for start, rows, row in zip(starts, kept, chosen)]
        lines.add(columns, np.ones(len(columns)), -np.inf, len(tables) - 1.0)

    found = _minimised(lines, top, time_limit_s)
    if found is None:
        return None
    x_Y, limit, proven = found
    chosen = tuple(int(rows[x_Y[start : start + len(rows)].argmax()]) for rows, start in zip(kept, starts))
    return Solution(
        rows=chosen,
        indices={
            knob: int(index)
            for knobs, indices_RK, row in zip(tables, indices, chosen)
            for knob, index in zip(knobs, indices_RK[row], strict=True)
        },
        limit=limit / scale + float(base_F[0]),
        proven=proven,
    )


# ------------------------------------------------------------------------------------------------------------ private


class _Lines:
    """Lines `low <= sum of value * column <= high` of a sparse matrix, as they are added."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, columns: Iterable[int], values: Iterable[float], low: float, high: float) -> None:
        self.columns += [int(each) for each in columns]
        self.values += [float(each) for each in values]
        self.rows += [len(self.low)] * (len(self.columns) - len(self.rows))
        self.low.append(low)
        self.high.append(high)


def _minimised(lines: _Lines, top: int, time_limit_s: float) -> tuple[NDArray[np.float64], float, bool] | None:
    """Values of all columns, the least that column `top`, the only one that is no binary, can be, and whether it is."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    is_top = np.arange(top + 1) == top
    matrix = coo_array((lines.values, (lines.rows, lines.columns)), shape=(len(lines.low), top + 1)).tocsr()
    found = milp(
        is_top.astype(np.float64),
        constraints=LinearConstraint(matrix, np.array(lines.low), np.array(lines.high)),
        integrality=np.where(is_top, 0, 1),
        bounds=Bounds(np.where(is_top, -np.inf, 0.0), np.where(is_top, np.inf, 1.0)),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    if found.status == _INFEASIBLE:
        return None
    if found.x is None:
        raise NoYardstickError(f"no network was found within {time_limit_s:.3g} s: {found.message}")
    return found.x, float(found.mip_dual_bound), found.status == _OPTIMAL


def _scale(above: NDArray[np.float64]) -> float:
    """What brings a line's values to `_SIZE`."""
    largest = float(above.max())
    return _SIZE / largest if largest else 1.0


def _shared(tables: Sequence[tuple[str, ...]]) -> list[str]:
    """Knobs that several tables have."""
    every = [knob for knobs in tables for knob in knobs]
    return [knob for knob in dict.fromkeys(every) if every.count(knob) > 1]


def _worth_choosing(amounts_RF: NDArray[np.float64], shared_RK: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows, increasing, that no other with the same values of the shared knobs is nowhere above in any sum."""
    _, member_R = np.unique(shared_RK, axis=0, return_inverse=True)
    order = np.argsort(member_R.reshape(-1), kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(member_R.reshape(-1)[order])) + 1)
    kept = []
    for rows in groups:
        distinct, first = np.unique(amounts_RF[rows], axis=0, return_index=True)
        kept.append(rows[first[pareto_front(np.unique(distinct, axis=1))]])
    return np.sort(np.concatenate(kept))
