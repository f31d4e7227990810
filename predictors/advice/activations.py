"""An activation that the runtime launches by itself, where it would fuse another one into the layer before it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from predictors.advice.rule import Context, Edit, Place, edit_all
from predictors.fusion import names_that_follow
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Activation

_NEAREST = {
    "silu": ("hardswish", "relu"),
    "gelu": ("hardswish", "relu"),
    "mish": ("hardswish", "relu"),
    "hardswish": ("relu",),
    "elu": ("leaky_relu", "relu"),
    "celu": ("leaky_relu", "relu"),
    "selu": ("leaky_relu", "relu"),
    "leaky_relu": ("relu",),
    "prelu": ("leaky_relu", "relu"),
    "relu6": ("relu",),
    "hardtanh": ("relu",),
    "sigmoid": ("hardsigmoid",),
    "hardsigmoid": ("sigmoid",),
}
"""Functions that may stand for another, the most alike first."""


def unfused_activation(graph: Graph, context: Context) -> Iterable[Edit]:
    """Activations that stand alone become the most alike of those that the runtime fuses there."""
    places: dict[tuple[str, str], list[Place]] = {}
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if not isinstance(operator, Activation) or operator.function not in _NEAREST or index not in context.kernel_at:
            continue
        (source,) = node.inputs
        if context.kernel_at[index][0].nodes[0] != index or source not in context.kernel_at:
            continue
        before = context.kernel_at[source][0]
        fusing = names_that_follow(before.kernel, context.predictor.runtime)
        other = next((name for name in _NEAREST[operator.function] if name in fusing), None)
        if other is not None and before.nodes[-1] == source and context.only_reader(source) == index:
            change = partial(Draft.replace, index=index, operator=replace(operator, function=other))
            place = Place(index=index, name=context.name(index), change=change)
            places.setdefault((operator.function, other), []).append(place)
    for (function, other), found in places.items():

        def text(names: str, _: Sequence[Place], function: str = function, other: str = other) -> str:
            runtime = context.predictor.runtime.name
            return f"{names}: {runtime} launches {function} by itself here and fuses {other} into the layer before it"

        yield from edit_all(graph, context, found, text)
