"""Tensors of one shape that are joined where they could be added."""

from collections.abc import Iterable
from functools import partial

from predictors.advice.rule import Context, Edit, Place, edit_all
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Concat, Elementwise


def concatenation(graph: Graph, context: Context) -> Iterable[Edit]:
    """A concat of equal shapes along the channels becomes a sum; the layers behind read fewer channels."""
    places = []
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if isinstance(operator, Concat) and len(set(operator.shapes)) == 1 < len(operator.shapes):
            axis = 1 if len(operator.shapes[0]) >= 4 else len(operator.shapes[0]) - 1
            if operator.axis == axis:
                places.append(Place(index=index, name=context.name(index), change=partial(_add, index=index)))
    yield from edit_all(
        graph, context, places,
        lambda names, _: f"{names}: add these tensors instead of joining them; the layers behind read fewer channels",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ private


def _add(draft: Draft, index: int) -> None:
    node = draft[index]
    operator = node.operator
    assert isinstance(operator, Concat)
    added = Elementwise(function="add", shapes=operator.shapes[:2])
    x, *others = node.inputs
    for number, other in enumerate(others[:-1]):
        x = draft.add(added, x, other, name=f"{node.name}.{number}" if node.name else "", dtype=node.dtype)
    draft.replace(index, added, x, others[-1])
