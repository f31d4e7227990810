"""The most probable arch under limits as an integer program: exact wherever costs add up over positions.

Variables are one per value of each knob (x, chosen or not) and one per combination of values at each position (y, what
stands there). Each x is the sum of those y that have its value; the likelihood is linear in x, costs are linear in y,
and a maximum is a bound on each of its parts. Solved by HiGHS (https://highs.dev) through scipy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.latency import LatencyPredictor
from predictors.predict_many import COLUMNS, ArchSpace, PositionTable
from predictors.whole_network import energy_j

_PROVEN = 1e-9
"""Relative gap up to which a solution counts as the best."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearCost:
    """A cost is at most a bound exactly if `forms @ y + constants <= bound`, row for row; y is as in `Program`."""

    forms_FR: Any
    constants_F: NDArray[np.float64]

    @property
    def forms(self) -> list["LinearCost"]:
        """Each row by itself; the cost is the largest of them."""
        return [LinearCost(self.forms_FR[[row]], self.constants_F[[row]]) for row in range(len(self.constants_F))]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What may stand at the positions of a space's networks: `links @ [x, y] == sides`.

    Attributes:
        sizes: number of values of each knob; together X.
        num_rows: R, of all positions together.
    """

    sizes: tuple[int, ...]
    num_rows: int
    links: Any
    sides: NDArray[np.float64]

    def best(
        self,
        worth_X: NDArray[np.float64],
        upper: Sequence[tuple[LinearCost, float]],
        lower: Sequence[tuple[LinearCost, float]] = (),
    ) -> NDArray[np.int64] | None:
        """Indices of the knobs' values of the largest sum of worths between bounds; None where no arch keeps them."""
        below = [(LinearCost(-cost.forms_FR, 2.0 * bound - cost.constants_F), bound) for cost, bound in lower]
        return self._solved(worth_X, [*upper, *below], with_excess=False)

    def closest(self, limits: Sequence[tuple[LinearCost, float]]) -> NDArray[np.int64]:
        """The arch whose largest cost relative to its limit is the least."""
        found = self._solved(np.zeros(sum(self.sizes)), limits, with_excess=True)
        assert found is not None
        return found

    def _solved(
        self, worth_X: NDArray[np.float64], limits: Sequence[tuple[LinearCost, float]], *, with_excess: bool
    ) -> NDArray[np.int64] | None:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array, hstack, vstack

        num_values = len(worth_X)
        constraints = [LinearConstraint(_with_column(self.links, 0.0), self.sides, self.sides)]
        if limits:
            forms = vstack([cost.forms_FR / limit for cost, limit in limits], format="csr")
            upper = np.concatenate([1.0 - cost.constants_F / limit for cost, limit in limits])
            left = csr_array((forms.shape[0], num_values))
            constraints.append(LinearConstraint(_with_column(hstack([left, forms]), -1.0), -np.inf, upper))
        most = np.inf if with_excess else 0.0
        done = milp(
            np.concatenate([-worth_X, np.zeros(self.num_rows), [1.0]]),
            integrality=np.concatenate([np.ones(num_values), np.zeros(self.num_rows + 1)]),
            bounds=Bounds(
                np.concatenate([np.zeros(num_values + self.num_rows), [-1.0 if with_excess else 0.0]]),
                np.concatenate([np.ones(num_values + self.num_rows), [most]]),
            ),
            constraints=constraints,
            options={"mip_rel_gap": _PROVEN},
        )
        if done.x is None:
            assert done.status == 2, done.message  # infeasible
            return None
        starts = [0, *accumulate(self.sizes)]
        return np.array([int(np.argmax(done.x[start:end])) for start, end in pairwise(starts)])


def program_of(space: ArchSpace, tables: Sequence[PositionTable]) -> Program:
    """The integer program of a space; its positions are those of any predictor's tables of it."""
    from scipy.sparse import coo_array

    sizes = {knob: len(values) for knob, values in space.choices.items()}
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0)))
    num_values = sum(sizes.values())
    entries: list[tuple[int, int, float]] = []
    sides: list[float] = []
    for knob, size in sizes.items():  # one value of each knob
        entries += [(len(sides), starts[knob] + value, 1.0) for value in range(size)]
        sides.append(1.0)
    first = num_values
    for table in tables:
        shape = [sizes[knob] for knob in table.knobs]
        rows = np.arange(prod(shape)).reshape(shape)
        if not shape:
            entries.append((len(sides), first, 1.0))
            sides.append(1.0)
        for axis, knob in enumerate(table.knobs):
            for value in range(sizes[knob]):  # what stands there has the value that was chosen
                entries += [(len(sides), first + row, 1.0) for row in rows.take(value, axis=axis).ravel().tolist()]
                entries.append((len(sides), starts[knob] + value, -1.0))
                sides.append(0.0)
        first += len(table.peaks_R)
    rows_E, columns_E, values_E = zip(*entries)
    links = coo_array((values_E, (rows_E, columns_E)), shape=(len(sides), first)).tocsr()
    return Program(tuple(sizes.values()), first - num_values, links, np.array(sides))


def linear_cost(predictor: LatencyPredictor, metric: str, tables: Sequence[PositionTable]) -> LinearCost | None:
    """A cost as linear forms of what stands at the positions; None where it is none (a deviation, a ratio)."""
    from scipy.sparse import csr_array

    device = predictor.device
    sums_RC = np.concatenate([table.sums_RC[:, : len(COLUMNS)] for table in tables])
    column: Mapping[str, NDArray[np.float64]] = dict(zip(COLUMNS, sums_RC.T))
    per_network = device.network_overhead.value if device.network_overhead else 0.0
    if metric == "latency_s":
        factor = device.in_network.value if device.in_network else 1.0
        per_kernel = device.kernel_overhead.value if device.kernel_overhead else 0.0
        forms = [factor * column["latency_s"] + per_kernel * column["num_kernels"]]
        if device.host_launch:
            forms.append(column["host_s"])
        return LinearCost(csr_array(np.array(forms)), np.full(len(forms), per_network))
    if metric == "energy_j" and device.has_energy:
        joules_R = energy_j(device, column["executed_macs"], column["traffic_bytes"])
        return LinearCost(csr_array(joules_R[None]), np.zeros(1))
    if metric == "peak_memory_bytes":  # the largest of the positions, each with all weights
        starts = np.cumsum([0, *(len(table.peaks_R) for table in tables)])
        peaks_PR = np.repeat(column["weight_bytes"][None], len(tables), axis=0)
        for row_R, start, table in zip(peaks_PR, starts, tables):
            row_R[start : start + len(table.peaks_R)] += table.peaks_R
        return LinearCost(csr_array(peaks_PR), np.zeros(len(tables)))
    if metric in ("traffic_bytes", "macs", "num_params", "num_kernels"):
        return LinearCost(csr_array(column[metric][None]), np.zeros(1))
    return None


def merged_by_knobs(tables: Sequence[PositionTable]) -> list[PositionTable]:
    """Positions that the same knobs decide as one: fewer variables for the same sums and maxima."""
    found: dict[tuple[str, ...], PositionTable] = {}
    for table in tables:
        if table.knobs in found:
            before = found[table.knobs]
            table = PositionTable(
                table.knobs,
                before.sums_RC[:, : len(COLUMNS)] + table.sums_RC[:, : len(COLUMNS)],
                np.maximum(before.peaks_R, table.peaks_R),
            )
        found[table.knobs] = table
    return list(found.values())


# ------------------------------------------------------------------------------------------------------------ private


def _with_column(matrix: Any, value: float) -> Any:
    """The matrix and one more column: how far limits are exceeded."""
    from scipy.sparse import csr_array, hstack

    return hstack([matrix, csr_array(np.full((matrix.shape[0], 1), value))], format="csr")
