"""What a network costs at any widths of its layers, kernel by kernel, and how that grows with each width. No torch.

The kernels of a narrower network are written down without editing its graph (`width_records`), and what each costs is
asked of the predictor once for each size that it meets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, lcm, log, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.cost import bytes_per_element, kernel_cost
from predictors.fusion import KernelNode, fuse, make_kernel
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.operators import Operator, padded_shape
from predictors.training.width_records import Records, Widths
from predictors.whole_network import energy_j

WIDTH_METRICS = ("latency_s", "traffic_bytes", "macs", "num_params", "peak_memory_bytes", "energy_j")

_VECTOR = 8
"""Channels between which slopes are taken at least, whatever alignment a device has: learned efficiencies go up and
down with the vectors of 4 and 8 that a device computes in."""

_KNOTS = 16
"""About how many pieces the widths of a layer are cut into: slopes are those of whole pieces."""

_SMOOTHNESS = 0.02
"""Of the maximum over a network's kernels in slopes of peak memory, as a share of the largest."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric at some widths, in its unit.

    Attributes:
        value: at the nearest whole widths, exact.
        smooth: interpolated between aligned widths.
        slopes_G: of `smooth`, for each unit of each group.
    """

    value: float
    smooth: float
    slopes_G: NDArray[np.float64]


class WidthCost:
    """One metric of a network on one device, for any widths.

    The kernel at widths between two aligned ones is interpolated linearly: from the lower corner of its cell to the
    upper, one size after the other, the one furthest along first (Kuhn's triangulation; H. Kuhn, "Some combinatorial
    lemmas in topology", 1960). Where a step costs nothing, or less than nothing, the mean slope from the least width
    stands in its place, so that no plateau is without a slope.

    Args:
        metric: one of `WIDTH_METRICS`.
    """

    def __init__(self, widths: Widths, predictor: LatencyPredictor, metric: str) -> None:
        self.widths, self.predictor, self.metric = widths, predictor, metric
        kernels = fuse(widths.graph, predictor.runtime, predictor.dtype)
        self._num_kernels = len(kernels)
        self._parts = _parts(widths, kernels, predictor, metric)
        spans = [each.lives for each in self._parts if each.lives is not None]
        num_sums = 1 + max([end for _, end in spans], default=0) if spans else 0
        num_values = sum(each.num_values for each in self._parts)
        fixed_sums = max((each.num_values for each in self._parts if each.lives is None), default=0)
        weights_SV = np.zeros((fixed_sums + num_sums, num_values))
        self._starts, self._first_form = [], []
        value = form = 0
        forms: list[tuple[int, ...]] = []
        pairs_value: list[int] = []
        pairs_form: list[int] = []
        for part in self._parts:
            self._starts.append(value)
            self._first_form.append(form)
            for column in range(part.num_values):
                if part.lives is None:
                    weights_SV[column, value + column] = 1.0
                else:
                    begin, end = part.lives
                    weights_SV[fixed_sums + begin : fixed_sums + end, value + column] = 1.0
                pairs_value += [value + column] * part.num_forms
                pairs_form += range(form, form + part.num_forms)
            forms += list(part.forms)
            value += part.num_values
            form += part.num_forms
        self._weights_SV = weights_SV
        num_groups = len(widths.numbers)
        self._forms_FG = np.array(forms, dtype=np.float64).reshape(-1, num_groups)
        self._pair_value = np.array(pairs_value, dtype=np.int64)
        self._pair_form = np.array(pairs_form, dtype=np.int64)
        steps = [step for part in self._parts for step in part.steps]
        self._steps_F = np.array(steps, dtype=np.float64)
        positive, negative = np.maximum(self._forms_FG, 0), np.minimum(self._forms_FG, 0)
        self._least_F = positive @ widths.least_G + negative @ widths.sizes_G
        self._most_F = positive @ widths.sizes_G + negative @ widths.least_G
        self._softness = 1.0
        if metric == "peak_memory_bytes":
            self._softness = _SMOOTHNESS * float(self.sums(widths.sizes_G)[1:].max())
        self._last: tuple[bytes, Estimate] | None = None

    def __deepcopy__(self, memo: object) -> "WidthCost":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return WidthCost, (self.widths, self.predictor, self.metric)

    def at(self, widths_G: NDArray[np.float64]) -> Estimate:
        """The metric at widths that need not be whole."""
        key = widths_G.tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, self._at(widths_G)
        return self._last[1]

    def exact(self, units_G: NDArray[np.int64]) -> float:
        """The metric at whole widths, as the predictor has it for the network that is cut to them."""
        return self.metric_of(self._weights_SV @ self.values(units_G))

    # ---------------------------------------------------------------------------------- for searches that go by steps

    def values(self, units_G: NDArray[np.int64]) -> NDArray[np.float64]:
        """What each part costs at whole widths, shape (values,)."""
        sizes = (self._forms_FG @ units_G).astype(np.int64).tolist()
        found: list[float] = []
        for part, form in zip(self._parts, self._first_form):
            found += part.at(tuple(sizes[form : form + part.num_forms]))
        return np.array(found)

    def sums(self, units_G: NDArray[np.int64]) -> NDArray[np.float64]:
        """What `metric_of` makes the metric of, at whole widths."""
        found: NDArray[np.float64] = self._weights_SV @ self.values(units_G)
        return found

    def change(self, units_G: NDArray[np.int64], group: int, to: int) -> NDArray[np.float64]:
        """How the sums change when one group gets another width; only what it touches is looked at."""
        change_S = np.zeros(len(self._weights_SV))
        other_G = units_G.copy()
        other_G[group] = to
        for number in self.touched[group]:
            part, form, start = self._parts[number], self._first_form[number], self._starts[number]
            forms_FG = self._forms_FG[form : form + part.num_forms]
            before = part.at(tuple((forms_FG @ units_G).astype(np.int64).tolist()))
            after = part.at(tuple((forms_FG @ other_G).astype(np.int64).tolist()))
            for column in range(part.num_values):
                change_S += self._weights_SV[:, start + column] * (after[column] - before[column])
        return change_S

    def metric_of(self, sums_S: NDArray[np.float64]) -> float:
        """The metric from its sums, exactly."""
        return self._metric(sums_S, smooth=False)[0]

    @cached_property
    def touched(self) -> tuple[tuple[int, ...], ...]:
        """For each group the parts whose costs depend on it."""
        of_part = [np.abs(np.array(part.forms)).sum(axis=0) > 0 if part.forms else None for part in self._parts]
        return tuple(
            tuple(number for number, mine_G in enumerate(of_part) if mine_G is not None and mine_G[group])
            for group in range(len(self.widths.numbers))
        )

    # ------------------------------------------------------------------------------------------------------- private

    def _at(self, widths_G: NDArray[np.float64]) -> Estimate:
        widths = self.widths
        widths_G = np.clip(widths_G, widths.least_G, widths.sizes_G)
        exact = (self._forms_FG @ np.floor(widths_G + 0.5)).astype(np.int64).tolist()
        sizes_F = self._forms_FG @ widths_G
        low_F = np.floor(sizes_F / self._steps_F) * self._steps_F
        low_F = np.where(low_F >= self._most_F, low_F - self._steps_F, low_F)
        high_F = np.minimum(low_F + self._steps_F, self._most_F)
        low_F = np.maximum(low_F, self._least_F)
        along_F = sizes_F - low_F
        lows, highs = low_F.astype(np.int64).tolist(), high_F.astype(np.int64).tolist()
        shares = (along_F / np.maximum(high_F - low_F, 1.0)).tolist()
        leasts = self._least_F
        values: list[float] = []
        corners: list[float] = []
        slopes: list[float] = []
        for part, form in zip(self._parts, self._first_form):
            end = form + part.num_forms
            values += part.at(tuple(exact[form:end]))
            order = tuple(sorted(range(part.num_forms), key=shares[form:end].__getitem__, reverse=True))
            cell = (tuple(lows[form:end]), tuple(highs[form:end]), order)
            corner, slope = part.cells.get(cell) or part.cell(cell, leasts[form:end])
            corners += corner
            slopes += slope
        slopes_P = np.array(slopes)
        smooth_V = np.array(corners)
        np.add.at(smooth_V, self._pair_value, slopes_P * along_F[self._pair_form])
        value, _ = self._metric(self._weights_SV @ np.array(values), smooth=False)
        smooth, slope_S = self._metric(self._weights_SV @ smooth_V, smooth=True)
        slope_V = slope_S @ self._weights_SV
        slope_F = np.bincount(self._pair_form, slopes_P * slope_V[self._pair_value], len(self._forms_FG))
        return Estimate(value, smooth, slope_F @ self._forms_FG)

    def _metric(self, sums_S: NDArray[np.float64], smooth: bool) -> tuple[float, NDArray[np.float64]]:
        """The metric from the sums that make it, and its slope for each of them."""
        device = self.predictor.device
        slope_S = np.zeros_like(sums_S)
        if self.metric == "latency_s":  # as `whole_network` has it
            factor = device.in_network.value if device.in_network else 1.0
            per_network = device.network_overhead.value if device.network_overhead else 0.0
            per_kernel = device.kernel_overhead.value if device.kernel_overhead else 0.0
            latency = factor * float(sums_S[0]) + (per_network + self._num_kernels * per_kernel)
            if device.host_launch and per_network + float(sums_S[1]) > latency:
                slope_S[1] = 1.0
                return per_network + float(sums_S[1]), slope_S
            slope_S[0] = factor
            return latency, slope_S
        if self.metric == "energy_j":
            slope_S[:] = energy_j(device, 1.0, 0.0), energy_j(device, 0.0, 1.0)
            return float(energy_j(device, sums_S[0], sums_S[1])), slope_S
        slope_S[0] = 1.0
        if self.metric != "peak_memory_bytes":
            return float(sums_S[0]), slope_S
        live_S = sums_S[1:]
        largest = float(live_S.max())
        if not smooth:
            return float(sums_S[0]) + largest, slope_S
        swollen_S = np.exp((live_S - largest) / self._softness)
        total = float(swollen_S.sum())
        slope_S[1:] = swollen_S / total
        return float(sums_S[0]) + largest + self._softness * log(total), slope_S


# ------------------------------------------------------------------------------------------------------------ private

_Cell = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(eq=False)
class _Part:
    """A kernel, a node or a tensor: what it costs as a function of the few sizes that it depends on.

    Attributes:
        forms: each size as a sum over the groups' units.
        steps: sizes between which slopes are taken.
        make: the costs at some sizes.
        lives: first kernel before or while which a tensor is alive, and the one behind its last; None for other parts.
    """

    forms: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    make: Callable[[tuple[int, ...]], tuple[float, ...]]
    num_values: int
    lives: tuple[int, int] | None = None
    known: dict[tuple[int, ...], tuple[float, ...]] = field(default_factory=dict)
    cells: dict[_Cell, tuple[tuple[float, ...], list[float]]] = field(default_factory=dict)

    @property
    def num_forms(self) -> int:
        return len(self.forms)

    def at(self, sizes: tuple[int, ...]) -> tuple[float, ...]:
        found = self.known.get(sizes)
        if found is None:
            _make_room(self.known)
            found = self.known[sizes] = self.make(sizes)
        return found

    def cell(self, cell: _Cell, leasts: NDArray[np.float64]) -> tuple[tuple[float, ...], list[float]]:
        """Costs at the lower corner, and slopes for each of them along each size."""
        low, high, order = cell
        at = list(low)
        corner = before = self.at(low)
        slopes = np.zeros((self.num_values, self.num_forms))
        for form in order:
            if high[form] == low[form]:  # a size that has to stay
                continue
            at[form] = high[form]
            after = self.at(tuple(at))
            for column in range(self.num_values):
                slope = (after[column] - before[column]) / (high[form] - low[form])
                if slope <= 0.0:
                    least = int(leasts[form])
                    lowest = self.at((*at[:form], least, *at[form + 1 :]))
                    slope = max(slope, (after[column] - lowest[column]) / (high[form] - least))
                slopes[column, form] = slope
            before = after
        _make_room(self.cells)
        found = self.cells[cell] = corner, slopes.ravel().tolist()
        return found


_MOST_KNOWN = 1 << 14
"""Sizes that a part remembers."""


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= _MOST_KNOWN:
        known.clear()


def _parts(
    widths: Widths, kernels: Sequence[KernelNode], predictor: LatencyPredictor, metric: str
) -> tuple[_Part, ...]:
    alignment = predictor.device.channel_alignment
    vector = lcm(alignment, _VECTOR)

    def step(form: tuple[int, ...], scale: int) -> int:
        aligned = vector // gcd(scale, vector)
        span = int(np.abs(np.array(form)) @ (widths.sizes_G - widths.least_G))
        return aligned * max(1, round(span / (_KNOTS * aligned)))

    def part(members: Sequence[int], num_values: int, cost: Any, lives: tuple[int, int] | None = None) -> _Part:
        records = Records(widths, members)
        steps = tuple(map(step, records.forms, records.scales))
        return _Part(records.forms, steps, lambda sizes: cost(records.at(sizes)), num_values, lives)

    if metric in ("macs", "num_params"):
        return tuple(
            part([index], 1, lambda made: (float(getattr(made[0], metric)),))
            for index in range(len(widths.graph.nodes))
        )

    def kernel_part(node: KernelNode, num_values: int, cost: Any) -> _Part:
        dtype, write_dtype = node.kernel.dtype, node.kernel.write_dtype

        def made(operators: list[Operator]) -> tuple[float, ...]:
            found: tuple[float, ...] = cost(make_kernel(operators[0], tuple(operators[1:]), dtype, write_dtype))
            return found

        return part(node.nodes, num_values, made)

    if metric == "latency_s":

        def times(kernel: Any) -> tuple[float, ...]:
            estimate = predictor.estimate(kernel)
            return estimate.latency_s, estimate.host_s

        return tuple(kernel_part(node, 2, times) for node in kernels)
    if metric == "energy_j":

        def work(kernel: Any) -> tuple[float, ...]:
            cost = kernel_cost(kernel, alignment)
            return float(cost.macs), float(cost.traffic_bytes)

        return tuple(kernel_part(node, 2, work) for node in kernels)
    column = "weight_bytes" if metric == "peak_memory_bytes" else "traffic_bytes"
    found = [
        kernel_part(node, 1, lambda each: (float(getattr(kernel_cost(each, alignment), column)),)) for node in kernels
    ]
    if metric == "peak_memory_bytes":
        for index, (dtype, begin, end) in _lives(widths.graph, kernels, predictor.dtype).items():
            size = bytes_per_element(dtype)
            found.append(
                part(
                    [index],
                    1,
                    lambda made, size=size: (float(prod(padded_shape(made[0].output_shape, alignment)) * size),),
                    (begin, end),
                )
            )
    return tuple(found)


def _lives(graph: Graph, kernels: Sequence[KernelNode], dtype: str) -> dict[int, tuple[str, int, int]]:
    """For each tensor its dtype, the first moment at which it is alive and the one behind the last; moment 0 is before
    the first kernel, as in `predictors.cost.live_activation_bytes`."""
    nodes = graph.nodes
    last_use = {origin: step for step, node in enumerate(kernels) for origin in node.inputs}
    written = {node.nodes[-1]: (step, node.kernel.written_dtype) for step, node in enumerate(kernels)}
    for index in graph.outputs:
        while index not in written and nodes[index].inputs:
            index = nodes[index].inputs[0]
        last_use[index] = len(kernels) - 1
    found = {}
    for index, (step, write_dtype) in written.items():
        found[index] = (write_dtype, step + 1, max(last_use.get(index, step), step) + 2)
    for index, step in last_use.items():
        if index not in written:
            found[index] = (nodes[index].written_dtype or dtype, 0, step + 2)
    return found
