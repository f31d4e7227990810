"""Blocks so small that launching their kernels takes longer than running them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from predictors.advice.channels import ChannelGroup, channel_groups, set_channels
from predictors.advice.gain import is_host_bound
from predictors.advice.rule import TRADED, Context, Edit, Place, edit_all
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Activation, Elementwise


def small_blocks(graph: Graph, context: Context) -> Iterable[Edit]:
    """Of two equal residual blocks in a row one stays, twice as wide inside: the same work in half the launches.

    Only where launching decides: most kernels of the blocks are bound by it, or the host holds the network up.
    """
    blocks = list(_blocks(graph, context))
    groups = channel_groups(graph)
    places: list[Place] = []
    used: set[int] = set()
    for first in blocks:
        second = next((each for each in blocks if each.begin in first.ends), None)
        if second is None or used & {first.end, second.end} or not _alike(graph, first, second):
            continue
        inner = [group for group in groups if first.members.issuperset(group.producers)]
        if inner and _is_small(first, context):
            used |= {first.end, second.end}
            change = partial(_merge, first=first, second=second, inner=inner)
            places.append(Place(index=first.end, name=_name(context, first, second), change=change))
    yield from edit_all(graph, context, places, _text, TRADED)


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True)
class _Block:
    """From a tensor to the sum of it and what the members make of it; `ends` are the sum and its activation."""

    begin: int
    end: int
    members: frozenset[int]
    ends: tuple[int, ...]


def _text(names: str, _: Sequence[Place]) -> str:
    return f"{names}: launching takes longer than computing; one block of twice the inner width does the work of two"


def _name(context: Context, first: _Block, second: _Block) -> str:
    return f"{context.name(first.end)} and {context.name(second.end)}"


def _blocks(graph: Graph, context: Context) -> Iterable[_Block]:
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if not isinstance(operator, Elementwise) or operator.function != "add" or len(set(operator.shapes)) > 1:
            continue
        if len(node.inputs) != 2:
            continue
        begin, branch = min(node.inputs), max(node.inputs)
        members = _between(graph, begin, branch)
        if members:
            reader = context.only_reader(index)
            is_activation = reader is not None and isinstance(graph.nodes[reader].operator, Activation)
            ends = (index, reader) if is_activation and reader is not None else (index,)
            yield _Block(begin, index, members, ends)


def _between(graph: Graph, begin: int, end: int) -> frozenset[int]:
    """All nodes that lead from one node to another; empty where something else leads there too."""
    members: set[int] = set()
    waiting = [end]
    while waiting:
        index = waiting.pop()
        if index == begin or index in members:
            continue
        if index < begin or not graph.nodes[index].inputs:
            return frozenset()
        members.add(index)
        waiting += graph.nodes[index].inputs
    return frozenset(members)


def _alike(graph: Graph, first: _Block, second: _Block) -> bool:
    one, other = ([graph.nodes[index].operator for index in sorted(block.members)] for block in (first, second))
    return one == other


def _is_small(block: _Block, context: Context) -> bool:
    if is_host_bound(context.prediction):
        return True
    rows = {
        id(row): row for index in block.members if index in context.kernel_at for _, row in [context.kernel_at[index]]
    }
    return 2 * sum(row.bound == "launch" for row in rows.values()) > len(rows)


def _merge(draft: Draft, first: _Block, second: _Block, inner: Sequence[ChannelGroup]) -> None:
    for group in inner:
        set_channels(draft, group, 2 * group.channels)
    draft.read_instead(second.end, first.end)
