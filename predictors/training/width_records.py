"""Operators of a network as functions of the widths of its layers.

Every number in the record of an operator (its channels, its groups, the shapes it reads) is linear in the widths: that
is found by cutting one unit of each group of channels, and checked at other widths. So the operators of a narrower
network are written down without editing its graph.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.channel_groups import ChannelGroup
from predictors.fusion import fuse
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.narrowing import narrowed
from predictors.operators import Operator, UnknownOperatorError
from predictors.reshaping import ReshapeError


@dataclass(frozen=True, eq=False)
class Widths:
    """A network and the groups of channels that may be cut, with the linear forms of every node's numbers.

    Attributes:
        graph: the network itself.
        groups: all of its groups of channels.
        numbers: of those that may be cut, G; the order of all arrays here.
        sizes_G, least_G: units that each has, and must keep.
        records: for each node the numbers of its record, its slopes (numbers, G).
        fixed: why groups that may not be cut have to stay, by number.
    """

    graph: Graph
    groups: tuple[ChannelGroup, ...]
    numbers: tuple[int, ...]
    sizes_G: NDArray[np.int64]
    least_G: NDArray[np.int64]
    records: tuple[NDArray[np.int64], ...]
    fixed: Mapping[int, str]

    def graph_at(self, units_G: Sequence[int]) -> Graph:
        """The network when each group keeps so many units."""
        return narrowed(self.graph, self.groups, dict(zip(self.numbers, map(int, units_G))))


def find_widths(
    graph: Graph, groups: tuple[ChannelGroup, ...], predictor: LatencyPredictor, keep: Collection[int] = ()
) -> Widths:
    """Which groups may be cut so that the costs of what remains are known.

    Left out are groups that are fixed, and those whose cutting leaves layers that do not follow from the graph, with
    the reason; and those to keep.
    """
    fixed = {number: group.fixed for number, group in enumerate(groups) if group.fixed}
    fixed.update(dict.fromkeys(keep, "they are to be kept"))
    leaves = [_leaves(node.operator) for node in graph.nodes]
    slopes: dict[int, list[NDArray[np.int64]]] = {}
    for number, group in enumerate(groups):
        if number in fixed:
            continue
        cut = _edited(graph, groups, {number: group.size - 1})
        if isinstance(cut, str):
            fixed[number] = cut
        else:
            slopes[number] = [before - after for before, after in zip(leaves, cut)]
    rng = np.random.default_rng(0)
    while True:
        numbers = tuple(sorted(slopes))
        sizes_G = np.array([groups[number].size for number in numbers], dtype=np.int64)
        records = tuple(
            np.stack([slopes[number][node] for number in numbers], axis=1) if numbers else each[:, None][:, :0]
            for node, each in enumerate(leaves)
        )
        probes = [np.ones_like(sizes_G), -(-sizes_G // 2), rng.integers(1, sizes_G + 1), rng.integers(1, sizes_G + 1)]
        wrong = next(
            (found for units_G in probes if (found := _wrong(graph, groups, numbers, leaves, records, units_G))), None
        )
        if wrong is None:
            break
        number, reason = wrong
        fixed[number] = reason
        del slopes[number]
    least_G = np.ones_like(sizes_G)
    structure = _structure(graph, predictor)
    for least in (1, 2, 4):  # at a width of 1 a depthwise layer is an ordinary one, which a runtime may fuse otherwise
        least_G = np.minimum(least, sizes_G)
        units = dict(zip(numbers, least_G.tolist()))
        if _structure(narrowed(graph, groups, units), predictor) == structure:
            break
    return Widths(graph, groups, numbers, sizes_G, least_G, records, fixed)


class Records:
    """Some nodes' operators as functions of the few sizes that they depend on, e.g. channels read and written.

    Attributes:
        forms: each size as a sum over the groups' units, none a sum of the others.
        scales: how many of the first number that a size decides one of it stands for.
    """

    def __init__(self, widths: Widths, nodes: Sequence[int]) -> None:
        operators = [widths.graph.nodes[node].operator for node in nodes]
        rows = [list(zip(_leaves(each).tolist(), widths.records[node])) for each, node in zip(operators, nodes)]
        basis: list[NDArray[np.int64]] = []
        scales: list[int] = []
        for _, row_G in (each for mine in rows for each in mine):
            if row_G.any() and _combination(basis, row_G) is None:
                scales.append(gcd(*row_G.tolist()))
                basis.append(row_G // scales[-1])
        self.forms = tuple(tuple(row_G.tolist()) for row_G in basis)
        self.scales = tuple(scales)
        self._operators = []
        for operator, mine in zip(operators, rows):
            names = [each.name for each in fields(operator) if each.init]  # type: ignore[arg-type]
            numbers = [_number(basis, number, row_G, widths.sizes_G) for number, row_G in mine]
            self._operators.append((operator, names, _values(operator), numbers, any(numbers)))

    def at(self, sizes: tuple[int, ...]) -> list[Operator]:
        """The operators at some sizes."""
        return [
            type(operator)(**dict(zip(names, _rebuilt(values, iter(numbers), sizes)))) if changes else operator
            for operator, names, values, numbers, changes in self._operators
        ]


# ------------------------------------------------------------------------------------------------------------ private


def _values(operator: Operator) -> tuple[Any, ...]:
    return tuple(getattr(operator, each.name) for each in fields(operator) if each.init)  # type: ignore[arg-type]


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _leaves(operator: Operator) -> NDArray[np.int64]:
    """All whole numbers of a record, in order."""
    return np.array(list(_numbers(_values(operator))), dtype=np.int64)


def _edited(graph: Graph, groups: Sequence[ChannelGroup], units: Mapping[int, int]) -> list[NDArray[np.int64]] | str:
    """Numbers of all nodes at other widths; or why there are none."""
    try:
        nodes = narrowed(graph, groups, units).nodes
    except (ReshapeError, UnknownOperatorError, ValueError) as error:
        return str(error)
    leaves = [_leaves(node.operator) for node in nodes]
    kinds = [(type(node.operator), len(each)) for node, each in zip(nodes, leaves)]
    if kinds != [(type(node.operator), len(_leaves(node.operator))) for node in graph.nodes]:
        return "without some of them the network has other layers"
    return leaves


def _wrong(
    graph: Graph,
    groups: Sequence[ChannelGroup],
    numbers: Sequence[int],
    leaves: Sequence[NDArray[np.int64]],
    records: Sequence[NDArray[np.int64]],
    units_G: NDArray[np.int64],
) -> tuple[int, str] | None:
    """A group to leave out since what edits make of some widths is not linear in them, with the reason."""
    sizes_G = np.array([groups[number].size for number in numbers], dtype=np.int64)
    found = _edited(graph, groups, dict(zip(numbers, units_G.tolist())))
    if isinstance(found, str):
        for number, units in zip(numbers, units_G.tolist()):
            if isinstance(alone := _edited(graph, groups, {number: units}), str):
                return number, alone
        return numbers[-1], found
    for node, (whole, record, edited) in enumerate(zip(leaves, records, found)):
        differ = np.flatnonzero(whole - record @ (sizes_G - units_G) != edited)
        if len(differ):
            involved = np.flatnonzero(record[differ].any(axis=0))
            smallest = min(involved.tolist(), key=lambda group: int(sizes_G[group]), default=len(numbers) - 1)
            operator = graph.nodes[node].operator.text
            return numbers[smallest], f"{operator} does not grow evenly with them"
    return None


def _structure(graph: Graph, predictor: LatencyPredictor) -> list[tuple[int, ...]]:
    return [node.nodes for node in fuse(graph, predictor.runtime, predictor.dtype)]


@dataclass(frozen=True, slots=True)
class _Number:
    """A number of a record: `start + weights @ sizes`."""

    start: float
    weights: tuple[float, ...]


def _number(
    basis: Sequence[NDArray[np.int64]], number: int, row_G: NDArray[np.int64], sizes_G: NDArray[np.int64]
) -> _Number | None:
    """How a number of the whole network's follows from the sizes; None for one that stays."""
    weights = _combination(basis, row_G) if row_G.any() else None
    return None if weights is None else _Number(float(number - row_G @ sizes_G), tuple(weights.tolist()))


def _combination(basis: Sequence[NDArray[np.int64]], row_G: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Weights with which the basis makes a row; None where it does not."""
    if not basis:
        return None
    matrix = np.stack(basis, axis=1).astype(np.float64)
    weights, *_ = np.linalg.lstsq(matrix, row_G.astype(np.float64), rcond=None)
    found: NDArray[np.float64] = np.round(weights, 9)
    return found if np.array_equal(np.round(matrix @ found, 6), row_G) else None


def _rebuilt(value: Any, leaves: Iterator[_Number | None], sizes: tuple[int, ...]) -> Any:
    if isinstance(value, tuple):
        return tuple([_rebuilt(each, leaves, sizes) for each in value])
    if isinstance(value, int) and not isinstance(value, bool):
        number = next(leaves)
        if number is None:
            return value
        return round(number.start + sum([weight * size for weight, size in zip(number.weights, sizes)]))
    return value
