"""What a rule of advice is given and what it gives; helpers that all rules share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from predictors.advice.gain import Gain, gain_between
from predictors.device import Device
from predictors.fusion import KernelNode
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.latency import KernelPrediction, LatencyPredictor, Prediction
from predictors.operators import Shape

TRADED = 1.0
"""Deviations that a place has to save where an edit trades one kind of work for another."""

_NAMES_LISTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A changed network.

    Attributes:
        text: what to change where, in one sentence without the gain.
        graph: the network as changed.
        module_paths: names of the nodes that change.
        prediction: of the changed network, where not the network but how it is run changes; None asks the predictor.
    """

    text: str
    graph: Graph
    module_paths: tuple[str, ...]
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere in the network where a rule has something to change: a node, its name, what to do to it."""

    index: int
    name: str
    change: Callable[[Draft], None]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The network's prediction, and the predictor for others."""

    predictor: LatencyPredictor
    prediction: Prediction
    _gains: dict[Graph, Gain] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> Device:
        return self.predictor.device

    def gain(self, graph: Graph) -> Gain:
        """What an edited network saves."""
        found = self._gains.get(graph)
        if found is None:
            found = self._gains[graph] = gain_between(self.prediction, self.predictor.predict(graph))
        return found

    @cached_property
    def kernel_at(self) -> dict[int, tuple[KernelNode, KernelPrediction]]:
        """The kernel that runs each node; views and inputs have none."""
        rows = zip(self.prediction.kernel_nodes, self.prediction.kernels)
        return {index: (node, row) for node, row in rows for index in node.nodes}

    @cached_property
    def readers(self) -> list[list[int]]:
        """Nodes that read each node."""
        found: list[list[int]] = [[] for _ in self.prediction.graph.nodes]
        for index, node in enumerate(self.prediction.graph.nodes):
            for source in dict.fromkeys(node.inputs):
                found[source].append(index)
        return found

    def only_reader(self, index: int) -> int | None:
        """The node that alone reads another, unless that is an output of the network too."""
        readers = self.readers[index]
        return readers[0] if len(readers) == 1 and index not in self.prediction.graph.outputs else None

    def name(self, index: int) -> str:
        """Path of the module that a node came from, or its kind and number where it has none."""
        node = self.prediction.graph.nodes[index]
        return node.name or f"{node.operator.variant} (node {index})"


class Rule(Protocol):
    """Edits that may save time, whether they do or not: what each saves is predicted."""

    def __call__(self, graph: Graph, context: Context) -> Iterable[Edit]: ...


def changed(graph: Graph, places: Iterable[Place]) -> Graph | None:
    """The network with some places changed; None where shapes do not fit, or where it would answer in another shape."""
    draft = Draft(graph)
    try:
        for place in places:
            place.change(draft)
        edited = draft.graph()
    except ValueError:
        return None
    return edited if output_shapes(edited) == output_shapes(graph) else None


def output_shapes(graph: Graph) -> list[Shape]:
    """Of what leaves the network."""
    return [graph.nodes[index].operator.output_shape for index in graph.outputs]


def gainful(
    graph: Graph, context: Context, places: Iterable[Place], deviations: float = 0.0
) -> list[tuple[Place, Gain]]:
    """The places whose change alone saves time, by more than so many deviations of what it saves."""
    found = []
    for place in places:
        edited = changed(graph, [place])
        if edited is not None and (gain := context.gain(edited)).gain_s > deviations * gain.std_s:
            found.append((place, gain))
    return found


def edit_all(
    graph: Graph,
    context: Context,
    places: Iterable[Place],
    text: Callable[[str, Sequence[Place]], str],
    deviations: float = 0.0,
) -> Iterable[Edit]:
    """One edit that changes all places which save time by themselves.

    Args:
        text: the sentence, given the names of those places and themselves.
        deviations: as `gainful` takes them. Above 0 where an edit trades one kind of work for another: of many places
            that change nothing, some would seem to save time, and choosing those would add up their errors.
    """
    found = [place for place, _ in gainful(graph, context, places, deviations)]
    edited = changed(graph, found) if found else None
    if edited is not None:
        names = [place.name for place in found]
        yield Edit(text=text(listed(names), found), graph=edited, module_paths=tuple(names))


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first few of them.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    names = list(dict.fromkeys(names))
    if len(names) <= _NAMES_LISTED:
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    rest = len(names) - _NAMES_LISTED
    return f"{', '.join(names[:_NAMES_LISTED])} and {rest} other{'s' if rest > 1 else ''}"


def milliseconds(seconds: float) -> str:
    """For a person: three significant digits.

    >>> milliseconds(0.00042)
    '0.42 ms'
    """
    return f"{seconds * 1e3:.3g} ms"


def plural(number: int, what: str) -> str:
    """E.g. '1 layer', '2 layers'."""
    return f"{number} {what}{'' if number == 1 else 's'}"
