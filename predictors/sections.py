"""Networks in sections: pieces with one input and one output, made once, shared, and joined into whole networks.

The networks of a search space repeat the same few hundred blocks. What a block costs is then asked once, and a network
of known blocks is a sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

from predictors.graph import Graph, Node
from predictors.operators import Constant, Input, Shape


@dataclass(frozen=True, eq=False)
class Section:
    """A piece of a network with one input, its first node, and one output, its last. Each is itself: compared by
    identity, to be made once and shared.

    Raises:
        ValueError: another input than the first node, or an output that is not the last node or only a view.
    """

    graph: Graph
    input_shape: Shape = field(init=False)
    output_shape: Shape = field(init=False)
    takes: tuple[Shape, str] = field(init=False, repr=False)
    """Shape and dtype of its input, and of its output in `writes`; the dtype is empty where the network's is meant."""
    writes: tuple[Shape, str] = field(init=False, repr=False)
    has_constants: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        if not isinstance(nodes[0].operator, Input):
            raise ValueError(f"a section begins with its input, found {nodes[0].operator.text}")
        for index, node in enumerate(nodes[1:], start=1):
            if not node.inputs and not isinstance(node.operator, Constant):
                raise ValueError(f"a section has one input, its first node; node {index} ({node.operator.text}) too")
        last = len(nodes) - 1
        if self.graph.outputs != (last,) or not nodes[last].operator.moves_data:
            raise ValueError(
                f"a section has one output, its last node {last}, which writes its data itself; found outputs "
                f"{self.graph.outputs} and last {nodes[last].operator.text}"
            )
        object.__setattr__(self, "input_shape", nodes[0].operator.output_shape)
        object.__setattr__(self, "output_shape", nodes[last].operator.output_shape)
        object.__setattr__(self, "takes", (self.input_shape, nodes[0].written_dtype))
        object.__setattr__(self, "writes", (self.output_shape, nodes[last].written_dtype))
        object.__setattr__(self, "has_constants", any(isinstance(node.operator, Constant) for node in nodes))


@dataclass(frozen=True, eq=False)
class Position:
    """A place in the networks of a space, and what stands there. `section` is asked once for each choice of `knobs`.

    Args:
        knobs: that decide what stands there, the size of what enters it included.
        section: of the values of those knobs; None where the network has nothing at this place.
    """

    knobs: tuple[str, ...]
    section: Callable[[Mapping[str, int]], Section | None]
    _known: dict[Any, Section | None] = field(init=False, repr=False, default_factory=dict)
    _values: Callable[[Mapping[str, int]], Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_values", itemgetter(*self.knobs) if self.knobs else _nothing)

    def at(self, arch: Mapping[str, int]) -> Section | None:
        """The section of an arch that has at least the knobs of this position."""
        values = self._values(arch)
        try:
            return self._known[values]
        except KeyError:
            found = self._known[values] = self.section({knob: arch[knob] for knob in self.knobs})
            return found


def join(sections: Sequence[Section], name: str = "") -> Graph:
    """The network in which each section's output is the next one's input. The graph remembers its sections.

    Raises:
        ValueError: no sections, one that takes another shape or dtype than the one before it writes, or one behind the
            first that holds a constant: it is in memory from the start, which no sum over sections would see.
    """
    if not sections:
        raise ValueError("a network has at least one section")
    nodes = list(sections[0].graph.nodes)
    written = sections[0].writes
    for section in sections[1:]:
        if section.takes != written:
            raise ValueError(f"a section takes {_tensor(section.takes)}; the one before it writes {_tensor(written)}")
        if section.has_constants:
            raise ValueError("only the first section of a network may hold constants; a later one does")
        written = section.writes
        nodes += _moved(section, len(nodes) - 1)
    # Every section was checked when it was made, and the borders are checked above.
    graph = object.__new__(Graph)
    graph.__dict__.update(nodes=tuple(nodes), outputs=(len(nodes) - 1,), name=name, sections=tuple(sections))
    return graph


def joined(positions: Sequence[Position], arch: Mapping[str, int], name: str = "") -> Graph:
    """The network of an arch of a space with these positions."""
    return join([section for position in positions if (section := position.at(arch)) is not None], name)


def _tensor(shape_dtype: tuple[Shape, str]) -> str:
    shape, dtype = shape_dtype
    return f"{shape} in {dtype}" if dtype else f"{shape}"


def _nothing(arch: Mapping[str, int]) -> tuple[()]:
    return ()


@lru_cache(maxsize=1 << 13)
def _moved(section: Section, shift: int) -> tuple[Node, ...]:
    """The nodes after the section's input, in a network where node `shift` takes the input's place."""
    return tuple(
        Node(node.operator, tuple([index + shift for index in node.inputs]), node.name, node.dtype, node.write_dtype)
        for node in section.graph.nodes[1:]
    )
