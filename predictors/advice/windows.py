"""Convolutions that runtimes often have no fast kernels for: windows of 5x5 and 7x7, dilated ones, strides of 4."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from predictors.advice.rule import TRADED, Context, Edit, Place, edit_all, gainful
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import Conv2d

_NUMBER = {2: "two", 3: "three", 4: "four", 5: "five"}
_COMMON = 3


def windows(graph: Graph, context: Context) -> Iterable[Edit]:
    """A large window becomes several 3x3 that see as far, or one 3x3; a dilated one becomes dense, stride 4 twice 2.

    One 3x3 is told only where the large window is no more efficient than the small one: where it takes at least as many
    times longer as it has more products. Elsewhere the large window is the cheaper of the two for what it sees.
    """
    sizes: dict[int, list[int]] = {}
    dilated, strided = [], []
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if not isinstance(operator, Conv2d) or index not in context.kernel_at:
            continue
        if operator.dilation == (1, 1) and _is_large(operator):
            sizes.setdefault(operator.kernel[0], []).append(index)
        elif max(operator.dilation) > 1 and operator.kernel == (_COMMON, _COMMON) and _keeps_size(operator):
            dilated.append(Place(index=index, name=context.name(index), change=partial(_undilate, index=index)))
        elif operator.stride == (4, 4) and operator.kernel > operator.stride and _halves_twice(operator):
            strided.append(Place(index=index, name=context.name(index), change=partial(_halve_twice, index=index)))
    for size, found in sizes.items():
        number = (size - 1) // 2
        places = [Place(index=index, name=context.name(index), change=partial(_split, index=index)) for index in found]
        yield from edit_all(
            graph, context, places,
            partial(_text, f"{_NUMBER.get(number, str(number))} 3x3 see as far as a {size}x{size} and take less time"),
            TRADED,
        )  # fmt: skip
        inefficient = [
            place for index in found for place in gainful(graph, context, [_shrunk(index, context)])
            if place[1].gain_s >= (1.0 - (_COMMON / size) ** 2) * context.kernel_at[index][1].latency_s
        ]  # fmt: skip
        yield from edit_all(
            graph, context, [place for place, _ in inefficient],
            partial(_text, f"a {size}x{size} takes at least {size**2 / _COMMON**2:.2g} times as long as a 3x3 here"),
        )  # fmt: skip
    yield from edit_all(
        graph, context, strided, partial(_text, "two 3x3 of stride 2 take less time than stride 4"), TRADED
    )
    yield from edit_all(graph, context, dilated, partial(_text, "a dilated 3x3 takes longer than a dense one"))


# ------------------------------------------------------------------------------------------------------------ private


def _text(what: str, names: str, _: Sequence[Place]) -> str:
    return f"{names}: {what}"


def _is_large(operator: Conv2d) -> bool:
    size = operator.kernel[0]
    return (
        operator.kernel == (size, size)
        and size > _COMMON
        and size % 2 == 1
        and operator.padding == (size // 2, size // 2)
        and max(operator.stride) <= 2
        and (operator.groups == 1 or operator.in_channels == operator.out_channels)
    )


def _keeps_size(operator: Conv2d) -> bool:
    return operator.padding == operator.dilation


def _shrunk(index: int, context: Context) -> Place:
    return Place(index=index, name=context.name(index), change=partial(_shrink, index=index))


def _shrink(draft: Draft, index: int) -> None:
    operator = draft[index].operator
    assert isinstance(operator, Conv2d)
    draft.replace(index, replace(operator, kernel=(_COMMON, _COMMON), padding=(1, 1)))


def _split(draft: Draft, index: int) -> None:
    """The first small window takes the stride and the channels, the last the place, which has the bias."""
    operator = draft[index].operator
    assert isinstance(operator, Conv2d)
    small = replace(operator, kernel=(_COMMON, _COMMON), padding=(1, 1))
    following = replace(
        small, in_channels=operator.out_channels, stride=(1, 1), height=operator.height_out, width=operator.width_out
    )
    (x,) = draft[index].inputs
    for number in range((operator.kernel[0] - 1) // 2 - 1):
        node = draft[index]
        name = f"{node.name}.{number}" if node.name else ""
        x = draft.add(replace(following if number else small, bias=False), x, name=name, dtype=node.dtype)
    draft.replace(index, following, x)


def _halves(operator: Conv2d) -> tuple[Conv2d, Conv2d]:
    """Two convolutions of stride 2 for one of stride 4, with half its channels between them."""
    between = max(operator.out_channels // 2, 1)
    first = replace(
        operator, out_channels=between, kernel=(_COMMON, _COMMON), stride=(2, 2), padding=(1, 1), bias=False
    )
    second = replace(
        first, in_channels=between, out_channels=operator.out_channels, bias=operator.bias,
        height=first.height_out, width=first.width_out,
    )  # fmt: skip
    return first, second


def _halves_twice(operator: Conv2d) -> bool:
    dense = operator.groups == 1 and operator.dilation == (1, 1)
    return dense and _halves(operator)[1].output_shape == operator.output_shape


def _halve_twice(draft: Draft, index: int) -> None:
    node = draft[index]
    assert isinstance(node.operator, Conv2d)
    first, second = _halves(node.operator)
    x = draft.add(first, *node.inputs, name=f"{node.name}.0" if node.name else "", dtype=node.dtype)
    draft.replace(index, second, x)


def _undilate(draft: Draft, index: int) -> None:
    operator = draft[index].operator
    assert isinstance(operator, Conv2d)
    draft.replace(index, replace(operator, dilation=(1, 1), padding=(1, 1)))
