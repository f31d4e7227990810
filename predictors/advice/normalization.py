"""An activation between a layer and its normalization keeps the runtime from fusing all three."""

from collections.abc import Iterable
from functools import partial

from predictors.advice.rule import Context, Edit, Place, edit_all
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Activation, Conv2d, ConvTranspose2d, Linear, Normalization


def activation_before_norm(graph: Graph, context: Context) -> Iterable[Edit]:
    """Conv -> activation -> batch norm becomes Conv -> batch norm -> activation."""

    def text(names: str, places: object) -> str:
        return f"{names}: put the activation behind the normalization, which then folds into the layer before it"

    yield from edit_all(graph, context, list(_places(graph, context)), text)


# ------------------------------------------------------------------------------------------------------------ private


def _places(graph: Graph, context: Context) -> Iterable[Place]:
    for index, node in enumerate(graph.nodes):
        if not isinstance(node.operator, Activation):
            continue
        (layer,), reader = node.inputs, context.only_reader(index)
        if reader is None or context.only_reader(layer) != index:
            continue
        norm = graph.nodes[reader].operator
        is_batch_norm = isinstance(norm, Normalization) and norm.method == "batch_norm"
        if is_batch_norm and isinstance(graph.nodes[layer].operator, Conv2d | ConvTranspose2d | Linear):
            yield Place(index=reader, name=context.name(reader), change=partial(Draft.swap, first=index, second=reader))
