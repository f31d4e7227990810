"""Costs of a task's networks as sums over tables: an amount for each choice of the few knobs that decide it.

What is exact here: everything that adds up over the positions of a network is one sum; peak memory, the most that a
position needs beside the weights, is the largest of one sum a table; latency on a device that queues is the larger of
the device's and the host's sum; arithmetic intensity is the quotient of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.objectives import metric_named
from nas.task import SearchTask
from nas.yardstick.optimum import NoYardstickError
from predictors.device import Device
from predictors.latency import LatencyPredictor
from predictors.predict_many import COLUMNS, PositionTable
from predictors.whole_network import energy_j, whole_network


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sum:
    """`constant` plus an amount of each table: that of the row which an arch's knobs choose.

    Attributes:
        amounts: for each table shape (R,), by the combinations of its knobs' values, the first knob's slowest.
    """

    constant: float
    amounts: tuple[NDArray[np.float64], ...]

    def scaled(self, factor: float) -> "Sum":
        return Sum(constant=factor * self.constant, amounts=tuple(factor * each for each in self.amounts))

    def plus(self, other: "Sum") -> "Sum":
        amounts = tuple(one + two for one, two in zip(self.amounts, other.amounts, strict=True))
        return Sum(constant=self.constant + other.constant, amounts=amounts)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class CostSums:
    """What the costs of a task's networks are sums of. `cost_sums` makes it.

    Attributes:
        tables: the knobs of each table.
        homes: by position of the networks, the table that its costs are added to.
        devices: by the name before the dot of a metric's name, "" for the task's own.
    """

    choices: Mapping[str, tuple[int, ...]]
    tables: tuple[tuple[str, ...], ...]
    homes: tuple[int, ...]
    devices: Mapping[str, tuple[Device, tuple[PositionTable, ...]]]

    def parts(self, name: str) -> tuple[Sum, ...]:
        """Sums the largest of which is the metric, in SI units.

        Raises:
            ValueError: no cost that the device has figures for, or arithmetic intensity, which is no such sum.
        """
        device, plain = self._device(name)
        if plain == "latency_s":
            return self._latency(name, device)
        if plain == "peak_memory_bytes":
            weights = self._total(name, "weight_bytes")
            return tuple(weights.plus(self._only(table, peaks)) for table, peaks in enumerate(self._peaks(name)))
        if plain == "energy_j":
            macs, traffic = self._total(name, "executed_macs"), self._total(name, "traffic_bytes")
            return (macs.scaled(energy_j(device, 1.0, 0.0)).plus(traffic.scaled(energy_j(device, 0.0, 1.0))),)
        if plain not in COLUMNS:
            raise ValueError(f"{name!r} is no sum of costs; such are {self.names}")
        return (self._total(name, plain),)

    def ratio(self, name: str) -> tuple[Sum, Sum]:
        """Numerator and denominator of arithmetic intensity: FLOP and bytes."""
        return self._total(name, "executed_macs").scaled(2.0), self._total(name, "traffic_bytes")

    @property
    def names(self) -> list[str]:
        plain = ["latency_s", "traffic_bytes", "peak_memory_bytes", "macs", "num_params", "energy_j"]
        return [f"{device}.{name}" if device else name for device in self.devices for name in plain]

    def _device(self, name: str) -> tuple[Device, str]:
        where, _, plain = metric_named(name).name.rpartition(".")
        if where not in self.devices:
            raise ValueError(
                f"{name!r}: there is no device {where!r}; there are {[each for each in self.devices if each]}"
            )
        return self.devices[where][0], plain

    def _latency(self, name: str, device: Device) -> tuple[Sum, ...]:
        """By the formula of `whole_network`, which is affine but for the larger of the device and its host."""
        kernels, number, host = (self._column(name, column) for column in ("latency_s", "num_kernels", "host_s"))
        unqueued = replace(device, host_launch=None)
        idle_s = float(whole_network(device, 0.0, 0, 0.0, 0.0).latency_s)
        busy = [whole_network(unqueued, *each, 0.0, 0.0).latency_s - idle_s for each in zip(kernels, number)]
        found = (self._sum(busy, idle_s),)
        if not device.host_launch:
            return found
        issued = [whole_network(device, 0.0, 0, 0.0, 0.0, each).latency_s - idle_s for each in host]
        return (*found, self._sum(issued, idle_s))

    def _column(self, name: str, column: str) -> list[NDArray[np.float64]]:
        positions = self.devices[name.rpartition(".")[0]][1]
        return [table.sums_RC[:, COLUMNS.index(column)] for table in positions]

    def _total(self, name: str, column: str) -> Sum:
        return self._sum(self._column(name, column), 0.0)

    def _sum(self, by_position: Sequence[NDArray[np.float64]], constant: float) -> Sum:
        amounts = self._zeros()
        for home, values_R in self._at_home(by_position):
            amounts[home] += values_R
        return Sum(constant=constant, amounts=tuple(amounts))

    def _peaks(self, name: str) -> list[NDArray[np.float64]]:
        peaks = self._zeros()
        for home, values_R in self._at_home([each.peaks_R for each in self.devices[name.rpartition(".")[0]][1]]):
            np.maximum(peaks[home], values_R, out=peaks[home])
        return peaks

    def _only(self, table: int, values_R: NDArray[np.float64]) -> Sum:
        amounts = self._zeros()
        amounts[table] = values_R
        return Sum(constant=0.0, amounts=tuple(amounts))

    def _zeros(self) -> list[NDArray[np.float64]]:
        return [np.zeros(num_rows(knobs, self.choices)) for knobs in self.tables]

    def _at_home(self, by_position: Sequence[NDArray[np.float64]]) -> list[tuple[int, NDArray[np.float64]]]:
        positions = next(iter(self.devices.values()))[1]
        return [
            (home, _spread(values_R, table.knobs, self.tables[home], self.choices))
            for home, table, values_R in zip(self.homes, positions, by_position, strict=True)
        ]


def cost_sums(task: SearchTask, wider: Sequence[tuple[str, ...]] = ()) -> CostSums:
    """What the costs of a task's networks, as deployed, are sums of.

    Args:
        wider: knobs of tables that are wanted; a position whose knobs are all in one is added to it.

    Raises:
        NoYardstickError: the costs do not add up over positions on one of the devices.
    """
    space, choices = task.deployed_space, task.deployed_space.choices
    predictors: dict[str, LatencyPredictor] = {"": task.predictor, **task.other_predictors}
    devices = {}
    for name, predictor in predictors.items():
        found = predictor.position_tables(space)
        if found is None:
            raise NoYardstickError(
                f"the costs of space {space.name!r} do not add up over positions under runtime "
                f"{predictor.runtime.name!r} of {predictor.device.name}: it has none, or kernels are fused across them"
            )
        devices[name] = predictor.device, found
    positions = devices[""][1]
    tables = list(wider)
    for table in sorted(positions, key=lambda each: -len(each.knobs)):
        if not any(set(table.knobs) <= set(knobs) for knobs in tables):
            tables.append(table.knobs)
    homes = [next(i for i, knobs in enumerate(tables) if set(each.knobs) <= set(knobs)) for each in positions]
    return CostSums(choices=choices, tables=tuple(tables), homes=tuple(homes), devices=devices)


def num_rows(knobs: Sequence[str], choices: Mapping[str, tuple[int, ...]]) -> int:
    return int(np.prod([len(choices[knob]) for knob in knobs], dtype=np.int64))


def row_indices(knobs: Sequence[str], choices: Mapping[str, tuple[int, ...]]) -> NDArray[np.int64]:
    """Index of each knob's value in each row of a table, shape (number of rows, number of knobs)."""
    sizes = [len(choices[knob]) for knob in knobs]
    return np.indices(sizes).reshape(len(sizes), num_rows(knobs, choices)).T.astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ private


def _spread(
    values_R: NDArray[np.float64],
    knobs: tuple[str, ...],
    wider: tuple[str, ...],
    choices: Mapping[str, tuple[int, ...]],
) -> NDArray[np.float64]:
    """A table's values for each row of a table that has its knobs among others."""
    grid = values_R.reshape([len(choices[knob]) for knob in knobs])
    grid = grid.transpose(sorted(range(len(knobs)), key=lambda axis: wider.index(knobs[axis])))
    grid = grid.reshape([len(choices[knob]) if knob in knobs else 1 for knob in wider])
    return np.broadcast_to(grid, [len(choices[knob]) for knob in wider]).reshape(-1)
