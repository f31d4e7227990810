"""The kernels of a network on several devices, side by side: what changes its bound, and what changes its rank."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from predictors.explanation.explaining import Explanation
from predictors.explanation.rows import KernelRow
from predictors.explanation.stages import stage_of
from predictors.graph import Graph
from predictors.operators import Operator

_Key: TypeAlias = tuple[str, Operator, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """What starts with one operator of the network, on each of D devices.

    Attributes:
        name, kind: path of the module, and variant, of that operator.
        rows: the kernel that starts with it; None where it is part of another one, or is never run.
        ranks: place of that kernel among the device's by time, from 1.
    """

    name: str
    kind: str
    rows: tuple[KernelRow | None, ...]
    ranks: tuple[int | None, ...]

    @property
    def bounds(self) -> tuple[str, ...]:
        """What bounds it, each only once, in the order of the devices."""
        return tuple(dict.fromkeys(row.bound for row in self.rows if row))

    @property
    def changes_bound(self) -> bool:
        return len(self.bounds) > 1

    @property
    def changes_roof(self) -> bool:
        """It is bound by compute on one device and by memory on another."""
        return {"compute", "memory"} <= set(self.bounds)

    @property
    def largest_share(self) -> float:
        """Of the time of any of the devices."""
        return max(row.share for row in self.rows if row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Kernels with the same bound on each device, in the order of the devices; '' where they are no kernels."""

    bounds: tuple[str, ...]
    kernels: tuple[Across, ...]

    def text(self, devices: Sequence[str]) -> str:
        """'compute on mobile_gpu and mobile_cpu, memory on v100'."""
        where: dict[str, list[str]] = {}
        for bound, device in zip(self.bounds, devices):
            if bound:
                where.setdefault(bound, []).append(device)
        return ", ".join(f"{bound} on {' and '.join(names)}" for bound, names in where.items())


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Explanations of one network, and its kernels across them in the order of execution."""

    explanations: tuple[Explanation, ...]
    kernels: tuple[Across, ...]

    @cached_property
    def changed(self) -> tuple[Across, ...]:
        """Kernels that not the same thing bounds everywhere."""
        return tuple(each for each in self.kernels if each.changes_bound)

    @cached_property
    def changes(self) -> tuple["Change", ...]:
        """The changed kernels by what bounds them where, the largest share first."""
        found: dict[tuple[str, ...], list[Across]] = {}
        for each in sorted(self.changed, key=lambda each: -each.largest_share):
            found.setdefault(tuple(row.bound if row else "" for row in each.rows), []).append(each)
        return tuple(Change(bounds=bounds, kernels=tuple(kernels)) for bounds, kernels in found.items())

    def rank_correlation(self, first: int, second: int) -> float | None:
        """Spearman's, of the seconds of those kernels that two devices both have; None where it says nothing."""
        both = [(each.rows[first], each.rows[second]) for each in self.kernels]
        pairs = [(one.latency_s, other.latency_s) for one, other in both if one and other]
        if len(pairs) < 3:
            return None
        ranks_2N = np.array([_ranks(each) for each in zip(*pairs)])
        if not np.ptp(ranks_2N, axis=1).all():
            return None
        return float(np.corrcoef(ranks_2N)[0, 1])

    def stage_rows(self) -> list[tuple[str, list[float]]]:
        """Share of each stage in each device's time, in the order of execution; without what belongs to no kernel."""
        depth = self.explanations[0].depth
        names = dict.fromkeys(stage_of(each.name, depth) for each in self.kernels)
        shares = [{stage.name: stage.share for stage in each.stages} for each in self.explanations]
        return [(name, [of_device.get(name, 0.0) for of_device in shares]) for name in names]


def side_by_side(explanations: Sequence[Explanation]) -> SideBySide:
    """Match the kernels of several devices by the operator that they start with. All are of one depth."""
    assert len({each.depth for each in explanations}) == 1, "stages of different depths"
    keys = [_keys(each.prediction.graph) for each in explanations]
    starts = [{keys[d][row.nodes[0]]: row for row in each.rows} for d, each in enumerate(explanations)]
    ranks = [
        {row.step: rank for rank, row in enumerate(sorted(each.rows, key=lambda row: -row.latency_s), start=1)}
        for each in explanations
    ]
    places: dict[_Key, int] = {}
    for of_graph, of_device in zip(keys, starts):
        for place, key in enumerate(of_graph):
            if key in of_device:
                places.setdefault(key, place)
    kernels = []
    for key in sorted(places, key=lambda key: places[key]):
        rows = tuple(of_device.get(key) for of_device in starts)
        kernels.append(
            Across(
                name=key[0],
                kind=key[1].variant,
                rows=rows,
                ranks=tuple(of_device[row.step] if row else None for row, of_device in zip(rows, ranks)),
            )
        )
    return SideBySide(explanations=tuple(explanations), kernels=tuple(kernels))


# ------------------------------------------------------------------------------------------------------------ private


def _keys(graph: Graph) -> list[_Key]:
    """A name for each node that it also has in the same network with other dtypes, where conversions stand between."""
    seen: Counter[tuple[str, Operator]] = Counter()
    found = []
    for node in graph.nodes:
        same = node.name, node.operator
        found.append((*same, seen[same]))
        seen[same] += 1
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    array = np.array(values)
    return [float((array < value).sum() + ((array == value).sum() + 1) / 2) for value in array]
