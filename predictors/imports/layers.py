"""Times of a network's layers as a log gives them, and the names that lead back to the graph."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from predictors.fusion import KernelNode
from predictors.graph import Graph
from predictors.matching import Seconds
from predictors.operators import OPERATORS


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """Layers of one log in the order of running.

    Attributes:
        names: what the runtime calls them.
        nodes: the graph's nodes that each runs, as far as the log says; none for layers of the runtime's own.
        seconds_RL: of shape (runs, layers); a log that only gives averages is one run.
        num_samples: how often the network ran for these times.
        resolution_s: the last digit of the log.
    """

    names: tuple[str, ...]
    nodes: tuple[tuple[int, ...], ...]
    seconds_RL: Seconds
    num_samples: int
    resolution_s: float = 0.0


_MENTION = re.compile(r"(?<![A-Za-z0-9_])n(\d+)(?:_([a-z0-9_]+))?(?![A-Za-z0-9])")


def nodes_in(name: str, graph: Graph, where: str) -> tuple[int, ...]:
    """Nodes that a name mentions: exported tensors are called `n7`, layers `n7_conv2d`, fused ones name several.

    >>> from predictors.graph import GraphBuilder
    >>> builder = GraphBuilder()
    >>> x = builder.activation(builder.conv2d(builder.input((1, 3, 8, 8)), 4, kernel=3), "relu")
    >>> nodes_in("n1_conv2d + PWN(n2_activation)", builder.graph(x), "log, line 7")
    (1, 2)

    Raises:
        ValueError: the graph has no such node, or one of another kind: the log is another network's.
    """
    found = []
    for number, kind in _MENTION.findall(name):
        index = int(number)
        if index >= len(graph.nodes):
            raise ValueError(
                f"{where}: {name!r} names node {index}, the model has {len(graph.nodes)}; is this another model's log?"
            )
        actual = graph.nodes[index].operator.kind
        if kind in OPERATORS and kind != actual:
            raise ValueError(
                f"{where}: {name!r} says that node {index} is a {kind}, in the model it is a {actual}; "
                "is this another model's log?"
            )
        found.append(index)
    return tuple(dict.fromkeys(found))


def seconds(text: str | float, unit_s: float, where: str) -> float:
    """A time of a log in seconds.

    Raises:
        ValueError: no number, negative, or not finite.
    """
    try:
        number = float(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: expected a time, found {text!r}") from None
    if not isfinite(number) or number < 0.0:
        raise ValueError(f"{where}: a time must be finite and not negative, found {text!r}")
    return number * unit_s


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is none, e.g. cut off.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None


def runs_of(records: Iterable[tuple[str, float]], where: str) -> tuple[tuple[str, ...], Seconds]:
    """Layers in order and their seconds of shape (runs, layers), from one run after another: a name that comes again
    begins the next run.

    Raises:
        ValueError: nothing was recorded, or one run has other layers than the first.
    """
    runs: list[dict[str, float]] = []
    for name, each_s in records:
        if not runs or name in runs[-1]:
            runs.append({})
        runs[-1][name] = each_s
    if not runs:
        raise ValueError(f"{where}: it times no layer")
    names = tuple(runs[0])
    for number, run in enumerate(runs, start=1):
        if run.keys() != runs[0].keys():
            other = sorted(run.keys() ^ runs[0].keys())
            raise ValueError(
                f"{where}: run {number} has other layers than run 1, such as {other[0]!r}; "
                "a log must hold whole runs of one model"
            )
    return names, np.array([[run[name] for name in names] for run in runs])


def with_absorbed(
    kernels: Sequence[KernelNode], layers: Sequence[tuple[int, ...]]
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Layers to which kernels are added that no layer names, and which kernels those are.

    A runtime that fuses more than its rules say runs such a kernel within another's layer: most likely in that of the
    kernel that it reads, of several the one that ran last; where it reads only inputs, in that of its first reader.
    """
    kernel_of = {node: index for index, kernel in enumerate(kernels) for node in kernel.nodes}
    layer_of: dict[int, int] = {}
    for layer, nodes in enumerate(layers):
        for node in nodes:
            if node in kernel_of:
                layer_of[kernel_of[node]] = layer
    sources = [[kernel_of[node] for node in kernel.inputs if node in kernel_of] for kernel in kernels]
    absorbed = []
    for index, read in enumerate(sources):
        if index not in layer_of and (known := [layer_of[source] for source in read if source in layer_of]):
            layer_of[index] = max(known)
            absorbed.append(index)
    for index in range(len(kernels) - 1, -1, -1):
        if index not in layer_of:
            known = [layer_of[reader] for reader, read in enumerate(sources) if index in read and reader in layer_of]
            if known:
                layer_of[index] = min(known)
                absorbed.append(index)
    extended = [list(nodes) for nodes in layers]
    for index in absorbed:
        extended[layer_of[index]] += kernels[index].nodes
    return tuple(map(tuple, extended)), tuple(sorted(absorbed))
