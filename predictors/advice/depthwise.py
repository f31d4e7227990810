"""Depthwise and grouped convolutions that wait for memory, and dense ones that take no longer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from predictors.advice.rule import TRADED, Context, Edit, Place, edit_all
from predictors.fusion import make_kernel
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Activation, Conv2d, Normalization

_MOST_CHANNELS = 4096


def depthwise(graph: Graph, context: Context) -> Iterable[Edit]:
    """A memory-bound depthwise or grouped convolution becomes dense, alone or together with the 1x1 before it.

    The second is the fused block of EfficientNetV2 (Tan, Le, ICML 2021) and EfficientNet-EdgeTPU.
    """
    bound = [
        index
        for index, node in enumerate(graph.nodes)
        if isinstance(node.operator, Conv2d)
        and node.operator.groups > 1
        and index in context.kernel_at
        and context.kernel_at[index][1].bound == "memory"
    ]
    dense = [Place(index=index, name=context.name(index), change=partial(_make_dense, index=index)) for index in bound]
    yield from edit_all(graph, context, dense, partial(_text, context, "a dense convolution in its place"), TRADED)
    fused = []
    for index in bound:
        if (pointwise := _pointwise_before(graph, context, index)) is not None:
            change = partial(_fuse, index=index, pointwise=pointwise)
            fused.append(Place(index=index, name=context.name(index), change=change))
    instead = "one dense convolution for it and the 1x1 before"
    yield from edit_all(graph, context, fused, partial(_text, context, instead), TRADED)


def equal_time_channels(context: Context, index: int) -> int:
    """Channels, in multiples of 8, of the widest dense convolution of a node's window, stride and image that takes no
    longer than the node's own kernel."""
    kernel_node, _ = context.kernel_at[index]
    operator = kernel_node.kernel.anchor
    assert isinstance(operator, Conv2d)
    allowed_s = context.predictor.estimate(kernel_node.kernel).latency_s

    def fits(channels: int) -> bool:
        wide = replace(operator, in_channels=channels, out_channels=channels, groups=1)
        kernel = make_kernel(wide, (), kernel_node.kernel.dtype)
        return context.predictor.estimate(kernel).latency_s <= allowed_s

    low, high = 0, _MOST_CHANNELS // 8
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(8 * middle) else (low, middle - 1)
    return 8 * low


# ------------------------------------------------------------------------------------------------------------ private


def _text(context: Context, instead: str, names: str, places: Sequence[Place]) -> str:
    first = places[0].index
    operator = context.prediction.graph.nodes[first].operator
    assert isinstance(operator, Conv2d)
    what = "depthwise" if operator.is_depthwise else "grouped"
    width = equal_time_channels(context, first)
    return (
        f"{names}: {what} convolutions that wait for memory; {instead} takes less time "
        f"(in the time of {places[0].name} a dense one of {width} channels runs)"
    )


def _make_dense(draft: Draft, index: int) -> None:
    operator = draft[index].operator
    assert isinstance(operator, Conv2d)
    draft.replace(index, replace(operator, groups=1))


def _fuse(draft: Draft, index: int, pointwise: int) -> None:
    operator, before = draft[index].operator, draft[pointwise].operator
    assert isinstance(operator, Conv2d)
    assert isinstance(before, Conv2d)
    draft.replace(index, replace(operator, groups=1, in_channels=before.in_channels), *draft[pointwise].inputs)


def _pointwise_before(graph: Graph, context: Context, index: int) -> int | None:
    """The dense 1x1 convolution that a convolution reads through a normalization and an activation only."""
    (source,) = graph.nodes[index].inputs
    while context.only_reader(source) is not None:
        operator = graph.nodes[source].operator
        if isinstance(operator, Conv2d):
            is_pointwise = operator.kernel == operator.stride == (1, 1) and operator.padding == (0, 0)
            return source if is_pointwise and operator.groups == 1 else None
        if not isinstance(operator, Activation | Normalization):
            return None
        (source,) = graph.nodes[source].inputs
    return None
