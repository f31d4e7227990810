"""Graphs of a network's narrower and shallower versions, edited from its own: no module is built, nothing is traced."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from predictors.channel_groups import ChannelGroup
from predictors.graph import Graph, Node
from predictors.graph_edit import Draft
from predictors.narrowing import narrower_layers
from predictors.operators import Constant, Conv2d, ConvTranspose2d, Input, Linear
from predictors.sections import Section
from predictors.volumes import Conv3d

_BEGINNING = (Conv2d, Conv3d, ConvTranspose2d, Linear)
"""Layers that begin a kernel in every runtime."""

Range = tuple[int, int]
"""First and last node of a block."""


@dataclass(frozen=True, eq=False)
class BaseGraph:
    """The largest network, its groups of channels, and where its blocks lie."""

    graph: Graph
    groups: tuple[ChannelGroup, ...]

    def edited(self, units: Mapping[int, int], dropped: Iterable[str] = (), name: str = "") -> Graph:
        """The network when some groups keep their first units, without some blocks.

        Raises:
            ReshapeError: what a node makes of fewer channels does not follow from its record.
        """
        draft = Draft(self.graph)
        self._cut(draft, units, 0, len(self.graph.nodes))
        for first, last in sorted((self.ranges[block] for block in dropped), reverse=True):
            draft.read_instead(last, self._source(first, last))
        graph = draft.graph()
        return replace(graph, name=name) if name else graph

    def section(self, units: Mapping[int, int], begin: int, end: int) -> Section:
        """The nodes behind `begin`, up to `end`, of the network when some groups keep their first units."""
        units = {number: kept for number, kept in units.items() if kept != self.groups[number].size}
        if begin and any(self._spans(number, begin) for number in units):
            return Section(_piece(self.edited(units), begin, end))
        draft = Draft(self._pieces.setdefault((begin, end), _piece(self.graph, begin, end)))
        self._cut(draft, units, begin, end)
        return Section(draft.graph())

    def cuts(self, blocks: Mapping[str, Sequence[str]]) -> tuple[int, ...] | None:
        """Ends of the pieces that the network is made of: nodes through which all data pass, and its last one.

        A piece ends where several nodes read what it writes, or a layer that no runtime fuses into the one before; and
        where a block that may be dropped begins or ends. None where such a block does not lie between such nodes.
        """
        nodes, last = self.graph.nodes, len(self.graph.nodes) - 1
        if self.graph.outputs != (last,) or not isinstance(nodes[0].operator, Input):
            return None
        if not nodes[last].operator.moves_data:
            return None
        readers: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            for source in node.inputs:
                readers[source].append(index)
        constants = [index for index, node in enumerate(nodes) if isinstance(node.operator, Constant)]
        dropped = [self.ranges[block] for group in blocks.values() for block in group]
        borders = {border for begin, end in dropped for border in (begin - 1, end)}
        found, furthest = [], max(constants, default=0)
        for index, node in enumerate(nodes[:-1]):
            alone = len(readers[index]) == 1 and not isinstance(nodes[readers[index][0]].operator, _BEGINNING)
            if index >= max(furthest, 1) and node.operator.moves_data and (not alone or index in borders):
                found.append(index)
            furthest = max(furthest, *readers[index], 0)
        return (*found, last) if borders <= {*found, last} else None

    def block_at(self, blocks: Sequence[str], begin: int) -> int | None:
        """Which of a sequence's blocks the piece behind a node belongs to."""
        for number, block in enumerate(blocks):
            first, last = self.ranges[block]
            if first <= begin + 1 <= last:
                return number
        return None

    def touches(self, groups: Iterable[int], begin: int, end: int) -> bool:
        """Whether the piece behind `begin`, up to `end`, may have channels of some groups in what it reads or holds."""
        return any(
            self._spans(number, begin) or any(begin < use.node <= end for use in self.groups[number].uses)
            for number in groups
        )

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """First and last node of each module, by its path."""
        found: dict[str, Range] = {}
        for index, node in enumerate(self.graph.nodes):
            path = node.name
            while path:
                found[path] = (found[path][0] if path in found else index, index)
                path = path.rpartition(".")[0]
        return found

    @cached_property
    def _pieces(self) -> dict[Range, Graph]:
        return {}

    def _spans(self, number: int, node: int) -> bool:
        """Whether what the node writes may have channels of the group: it has layers on both sides."""
        nodes = [use.node for use in self.groups[number].uses]
        return min(nodes) <= node < max(nodes)

    def _cut(self, draft: Draft, units: Mapping[int, int], begin: int, end: int) -> None:
        """Narrower layers in a draft of the piece behind `begin`, up to `end`."""
        for node, operator in narrower_layers(self.graph, self.groups, units, begin, end).items():
            draft.replace(node - begin, operator)

    def _source(self, first: int, last: int) -> int:
        """The one node outside of a block that it reads."""
        found = {
            source
            for node in self.graph.nodes[first : last + 1]
            for source in node.inputs
            if not first <= source <= last and not isinstance(self.graph.nodes[source].operator, Constant)
        }
        assert len(found) == 1, f"a block that reads nodes {sorted(found)}"
        return found.pop()


# ------------------------------------------------------------------------------------------------------------ private


def _piece(graph: Graph, begin: int, end: int) -> Graph:
    """The nodes behind `begin`, which becomes an input, up to `end`."""
    nodes = graph.nodes
    if begin == 0:
        return Graph(nodes[: end + 1], (end,))
    first = Node(Input(shape=nodes[begin].operator.output_shape), dtype=nodes[begin].written_dtype)
    inner = [
        replace(node, inputs=tuple(source - begin for source in node.inputs)) for node in nodes[begin + 1 : end + 1]
    ]
    return Graph((first, *inner), (end - begin,))
