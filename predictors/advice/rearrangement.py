"""Operators that only move data: transposes, slices, gathers, copies of what a broadcast or a padding could do."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod

from predictors.advice.rule import Context, Edit, Place, edit_all, milliseconds, plural
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Conv2d, Copy, Elementwise, View


def rearrangement(graph: Graph, context: Context) -> Iterable[Edit]:
    """Paddings fold into convolutions, repetitions into broadcasts; all others become views, which move nothing.

    The latter is the most that a layout without them can save: a runtime that stores blocks of channels rearranges the
    data at the same place all the same.
    """
    folded: list[Place] = []
    moved: dict[str, list[Place]] = {}
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if not isinstance(operator, Copy) or operator.method == "cast" or index not in context.kernel_at:
            continue
        if (place := _fold(graph, context, index, operator)) is not None:
            folded.append(place)
        elif prod(operator.to) <= prod(operator.shape):
            place = Place(index=index, name=context.name(index), change=partial(_make_view, index=index))
            moved.setdefault(operator.method, []).append(place)
    yield from edit_all(
        graph, context, folded,
        lambda names, _: f"{names}: written anew although the operator behind pads or broadcasts by itself",
    )  # fmt: skip
    for method, found in moved.items():
        yield from edit_all(graph, context, found, partial(_text, context, method))


# ------------------------------------------------------------------------------------------------------------ private


def _text(context: Context, method: str, names: str, places: Sequence[Place]) -> str:
    rows = [context.kernel_at[place.index][1] for place in places]
    megabytes = sum(row.cost.traffic_bytes for row in rows) / 1e6
    return (
        f"{names}: {plural(len(places), 'operator')} of kind {method} only {'moves' if len(places) == 1 else 'move'} "
        f"{megabytes:.3g} MB in {milliseconds(sum(row.latency_s for row in rows))}; "
        "a layout that needs none of them saves up to this"
    )


def _fold(graph: Graph, context: Context, index: int, operator: Copy) -> Place | None:
    reader = context.only_reader(index)
    if reader is None or len(operator.steps) != 1:
        return None
    name, *arguments = operator.steps[0]
    behind = graph.nodes[reader].operator
    if name == "pad" and isinstance(behind, Conv2d):
        before, after = arguments
        if len(before) == 4 and before == after and before[:2] == (0, 0):
            return Place(
                index=index,
                name=context.name(index),
                change=partial(_pad_inside, index=index, reader=reader, by=before[2:]),
            )
    if name == "expand" and isinstance(behind, Elementwise):
        others = [graph.nodes[source] for source in graph.nodes[reader].inputs if source != index]
        if any(other.operator.output_shape == behind.output_shape for other in others):
            return Place(index=index, name=context.name(index), change=partial(Draft.remove, index=index))
    return None


def _pad_inside(draft: Draft, index: int, reader: int, by: tuple[int, int]) -> None:
    operator = draft[reader].operator
    assert isinstance(operator, Conv2d)
    padding = (operator.padding[0] + by[0], operator.padding[1] + by[1])
    draft.replace(
        reader,
        replace(operator, padding=padding, height=operator.height - 2 * by[0], width=operator.width - 2 * by[1]),
    )
    draft.remove(index)


def _make_view(draft: Draft, index: int) -> None:
    operator = draft[index].operator
    assert isinstance(operator, Copy)
    draft.replace(index, View(shape=operator.shape, to=operator.to))
