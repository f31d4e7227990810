"""Pieces of networks, in which a few kernels are timed in their place without running the whole network.

A whole network brings all of its kernels into a table. Where only some are to be measured, those that tell most, they
are measured in pieces of a few consecutive kernels around them. What lies at a cut is not counted: its time holds the
change of layout between the caller's data and the runtime's own.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from predictors.fusion import Kernel, KernelNode, Runtime, fuse
from predictors.graph import Graph, Node
from predictors.operators import Input

LENGTHS = (8, 16)
"""Kernels of a piece; at the end of a network also fewer, down to `_SHORTEST`."""

_SHORTEST = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a network as a network of its own.

    Attributes:
        kept: which of its kernels count, as indices into what `fuse` makes of the graph.
    """

    graph: Graph
    kept: tuple[int, ...]


def pieces(graph: Graph, runtime: Runtime, dtype: str) -> Iterator[tuple[Piece, tuple[Kernel, ...]]]:
    """Stretches of a network that read one tensor from outside, each with the kernels in it that count.

    A kernel counts if it is the network's own, reads nothing that comes in at a cut and writes nothing that goes out
    at one.
    """
    kernel_nodes = fuse(graph, runtime, dtype)
    owned = {index for node in kernel_nodes for index in node.nodes}
    for length in LENGTHS:
        for start in range(max(1, len(kernel_nodes) - _SHORTEST + 1)):
            found = _piece(graph, kernel_nodes[start : start + length], owned, runtime, dtype)
            if found is not None:
                yield found


# ------------------------------------------------------------------------------------------------------------ private


def _piece(
    graph: Graph, wanted: Collection[KernelNode], owned: Collection[int], runtime: Runtime, dtype: str
) -> tuple[Piece, tuple[Kernel, ...]] | None:
    """None where the stretch reads several tensors from outside, or has no kernel that counts."""
    inside = {index for node in wanted for index in node.nodes}
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    cuts: set[int] = set()

    def bring(index: int) -> int:
        """Index in the piece; what is neither inside nor a view or constant of its own comes in at a cut."""
        if index not in moved:
            node = graph.nodes[index]
            is_input = isinstance(node.operator, Input)
            if index in inside or is_input or (index not in owned and _leads_inside(graph, index, inside)):
                nodes.append(Node(node.operator, tuple([bring(source) for source in node.inputs]), node.name))
            else:
                nodes.append(Node(Input(shape=node.operator.output_shape), (), node.name))
                cuts.add(len(nodes) - 1)
            moved[index] = len(nodes) - 1
        return moved[index]

    for index in sorted(inside):
        bring(index)
    if sum(isinstance(node.operator, Input) for node in nodes) != 1:
        return None
    read = {source for node in nodes for source in node.inputs}
    back = {new: old for old, new in moved.items()}
    last = tuple(index for index in range(len(nodes)) if index not in read)
    ends = {index for index in last if back[index] not in graph.outputs}
    piece = Graph(tuple(nodes), last, graph.name)
    own = {(node.kernel, node.nodes) for node in wanted}
    kept, kernels = [], []
    for place, node in enumerate(fuse(piece, runtime, dtype)):
        is_own = (node.kernel, tuple(back[index] for index in node.nodes)) in own
        sources = {source for index in node.nodes for source in _through_views(piece, index)}
        if is_own and not sources & cuts and not ends.intersection(node.nodes):
            kept.append(place)
            kernels.append(node.kernel)
    return (Piece(piece, tuple(kept)), tuple(kernels)) if kept else None


def _leads_inside(graph: Graph, index: int, inside: set[int]) -> bool:
    """Whether a node that no kernel runs is a constant, or a view of something inside."""
    node = graph.nodes[index]
    return not isinstance(node.operator, Input) and all(
        source in inside or _leads_inside(graph, source, inside) for source in node.inputs
    )


def _through_views(graph: Graph, index: int) -> set[int]:
    """Nodes that this one reads, and behind views what those read."""
    found: set[int] = set()
    waiting = list(graph.nodes[index].inputs)
    while waiting:
        source = waiting.pop()
        found.add(source)
        if not graph.nodes[source].operator.moves_data:
            waiting += graph.nodes[source].inputs
    return found
