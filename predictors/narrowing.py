"""A network without some of its channels, as a graph: its layers narrower, everything behind them as it follows.

>>> from predictors import GraphBuilder
>>> from predictors.channel_groups import channel_groups
>>> builder = GraphBuilder()
>>> x = builder.conv2d(builder.input((1, 3, 8, 8), "input"), 16, kernel=3, name="stem")
>>> graph = builder.graph(builder.linear(builder.flatten(x), 10, name="classifier"))
>>> narrowed(graph, channel_groups(graph), {0: 4}).nodes[3].operator.input_shapes
((1, 256),)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from predictors.channel_groups import ChannelGroup
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Constant, Conv2d, ConvTranspose2d, Embedding, Linear, Operator
from predictors.volumes import Conv3d


def narrowed(graph: Graph, groups: Sequence[ChannelGroup], units: Mapping[int, int]) -> Graph:
    """The network when some groups keep only some of their units.

    Args:
        units: how many, by the number of the group; others are not cut.

    Raises:
        ReshapeError: what a node makes of fewer channels does not follow from its record.
    """
    draft = Draft(graph)
    for node, operator in narrower_layers(graph, groups, units, 0, len(graph.nodes)).items():
        draft.replace(node, operator)
    return draft.graph()


def narrower_layers(
    graph: Graph, groups: Sequence[ChannelGroup], units: Mapping[int, int], begin: int, end: int
) -> dict[int, Operator]:
    """The layers among nodes `begin` to `end`, included, that hold weights of channels that are cut, without these."""
    lost: dict[int, dict[str, int]] = {}
    axes: dict[int, int] = {}
    for number, kept in units.items():
        group = groups[number]
        for use in group.uses if kept != group.size else ():
            if begin <= use.node <= end:
                sides = lost.setdefault(use.node, {"in": 0, "out": 0})
                sides[use.side] += int((use.unit_of >= kept).sum())
                axes[use.node] = use.tensors[0][1] if use.tensors else -1
    found = {}
    for node, sides in lost.items():
        operator = graph.nodes[node].operator
        changed = _narrower(operator, sides["in"], sides["out"], axes[node])
        if changed is not operator:
            found[node] = changed
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _narrower(operator: Any, lost_in: int, lost_out: int, axis: int) -> Operator:
    """The layer without some channels; operators that have no weights follow what they read."""
    found: Operator = operator
    if isinstance(operator, Conv2d | ConvTranspose2d):
        in_channels, out_channels = operator.in_channels - lost_in, operator.out_channels - lost_out
        groups = operator.groups * in_channels // operator.in_channels if operator.groups > 1 else 1
        found = replace(operator, in_channels=in_channels, out_channels=out_channels, groups=groups)
    elif isinstance(operator, Conv3d):
        batch, channels, *size = operator.shape
        groups = operator.groups * (channels - lost_in) // channels if operator.groups > 1 else 1
        found = replace(
            operator,
            shape=(batch, channels - lost_in, *size),
            out_channels=operator.out_channels - lost_out,
            groups=groups,
        )
    elif isinstance(operator, Linear):
        shape = (*operator.shape[:-1], operator.in_features - lost_in)
        found = replace(operator, shape=shape, out_features=operator.out_features - lost_out)
    elif isinstance(operator, Embedding):
        found = replace(operator, features=operator.features - lost_out)
    elif isinstance(operator, Constant):
        shape = tuple(size - lost_in if each == axis else size for each, size in enumerate(operator.shape))
        whole = operator.learned_params == operator.write_elements
        found = Constant(shape=shape)
        found = Constant(shape=shape, learned_params=found.write_elements if whole else operator.learned_params)
    return found
