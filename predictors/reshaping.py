"""An operator for inputs of other shapes: the same layer in a network whose resolution or width is another.

Sizes that a layer chooses stay (its output channels, its window), sizes that follow from its input follow. A reshape
says neither, so its axes are matched: those that did not change stay, those that did scale with what they came from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import isqrt, prod
from typing import Any

from predictors.movement import Step, Steps, shape_after
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Embedding,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    View,
)


class ReshapeError(ValueError):
    """What an operator does to inputs of other shapes does not follow from its record."""


def reshaped(operator: Operator, shapes: tuple[Shape, ...]) -> Operator:
    """The operator for inputs of these shapes; itself where they are its own.

    Raises:
        ReshapeError: it has no meaning for them, or its record does not say which.
    """
    if operator.input_shapes == shapes:
        return operator
    rule = _RULES.get(type(operator))
    if rule is None:
        raise ReshapeError(f"{operator.text} cannot be given inputs of shapes {shapes}")
    if [len(shape) for shape in operator.input_shapes] != [len(shape) for shape in shapes]:
        raise ReshapeError(f"{operator.text} cannot be given inputs of other ranks, found {shapes}")
    try:
        found: Operator = rule(operator, shapes)
    except ReshapeError:
        raise
    except ValueError as error:
        raise ReshapeError(f"{operator.text} cannot be given inputs of shapes {shapes}: {error}") from None
    if found.input_shapes != shapes:
        raise ReshapeError(f"{operator.text} cannot be given inputs of shapes {shapes}")
    return found


def reshape_target(shape: Shape, to: Shape, new: Shape) -> Shape:
    """What a reshape from `shape` to `to` makes of a tensor of shape `new`.

    Axes are matched in groups of equal products. A group that did not change stays; one that becomes a single axis
    follows; one that is split scales two axes alike where that is possible (an image from its pixels), else the first
    that can be scaled (windows of one size from a longer axis).

    >>> reshape_target((1, 196, 8), (1, 14, 14, 8), (1, 49, 8))
    (1, 7, 7, 8)
    >>> reshape_target((1, 56, 8), (1, 8, 7, 8), (1, 28, 8))
    (1, 4, 7, 8)

    Raises:
        ReshapeError: no axis can be scaled so.
    """
    found: list[int] = []
    for (begin, end), (to_begin, to_end) in matched_axes(shape, to):
        before, after, now = shape[begin:end], to[to_begin:to_end], new[begin:end]
        found += after if before == now else _scaled(after, Fraction(prod(now), prod(before)))
    return tuple(found)


def matched_axes(shape: Shape, to: Shape) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The least groups of consecutive axes of equal products of two shapes, as begin and end in each."""
    begin = to_begin = 0
    while begin < len(shape) or to_begin < len(to):
        end, to_end = min(begin + 1, len(shape)), min(to_begin + 1, len(to))
        while (left := prod(shape[begin:end])) != (right := prod(to[to_begin:to_end])):
            end, to_end = (end + 1, to_end) if left < right else (end, to_end + 1)
            if end > len(shape) or to_end > len(to):
                raise ReshapeError(f"shapes {shape} and {to} do not hold the same number of elements")
        yield (begin, end), (to_begin, to_end)
        begin, to_begin = end, to_end


# ------------------------------------------------------------------------------------------------------------ private


def _scaled(sizes: Sequence[int], factor: Fraction) -> tuple[int, ...]:
    if len(sizes) == 1:
        return (_whole(sizes[0] * factor),)
    axes = [axis for axis, size in enumerate(sizes) if size > 1] or list(range(len(sizes)))
    root = Fraction(isqrt(factor.numerator), isqrt(factor.denominator))
    choices = [[axis] for axis in axes]
    if root * root == factor:
        choices = [list(pair) for pair in pairwise(axes)] + choices
    for chosen in choices:
        by = factor if len(chosen) == 1 else root
        if all((sizes[axis] * by).denominator == 1 for axis in chosen):
            return tuple(int(size * by) if axis in chosen else size for axis, size in enumerate(sizes))
    raise ReshapeError(f"none of the sizes {tuple(sizes)} can be scaled by {factor}")


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise ReshapeError(f"a size would become {number}")
    return int(number)


def _convolution(operator: Any, shapes: tuple[Shape, ...]) -> Operator:
    batch, channels, height, width = shapes[0]
    groups = _groups(operator, channels)
    changed: Operator = replace(operator, batch=batch, in_channels=channels, height=height, width=width, **groups)
    return changed


def _groups(operator: Any, channels: int) -> dict[str, int]:
    """A depthwise convolution has as many groups and outputs as its input asks for; others keep their groups."""
    if channels != operator.in_channels and isinstance(operator, Conv2d) and operator.is_depthwise:
        return {"groups": channels, "out_channels": channels * (operator.out_channels // operator.in_channels)}
    return {}


def _attention(operator: Attention, shapes: tuple[Shape, ...]) -> Operator:
    (batch, heads, query_length, head_dim), _, (_, _, key_length, value_dim), *mask = shapes
    return replace(
        operator,
        batch=batch, heads=heads, query_length=query_length, key_length=key_length, head_dim=head_dim,
        value_dim=value_dim, mask=mask[0] if mask else None,
    )  # fmt: skip


def _normalization(operator: Normalization, shapes: tuple[Shape, ...]) -> Operator:
    (shape,) = shapes
    axis = len(shape) - 1 if operator.method in ("layer_norm", "rms_norm") else min(1, len(shape) - 1)
    params = operator.affine_params
    if shape[axis] != operator.shape[axis]:
        params = _whole(params * Fraction(shape[axis], operator.shape[axis]))
    return replace(operator, shape=shape, affine_params=params)


def _resize(operator: Resize, shapes: tuple[Shape, ...]) -> Operator:
    (shape,) = shapes
    height, width = (
        _whole(size * Fraction(now, before)) for size, before, now in zip(operator.size, operator.shape[2:], shape[2:])
    )
    return replace(operator, shape=shape, size=(height, width))


def _moved(operator: Any, shapes: tuple[Shape, ...]) -> Operator:
    (shape,) = shapes
    steps = operator.all_steps if isinstance(operator, View) else operator.steps
    if steps:
        now = _steps(operator.shape, steps, shape)
        to = shape_after(shape, now)
        changed: Operator = replace(operator, shape=shape, to=to, steps=now if operator.steps else ())
    elif operator.shape == operator.to:
        changed = replace(operator, shape=shape, to=shape)
    else:
        raise ReshapeError(f"{operator.text} does not say what it does, so other shapes than its own say nothing")
    return changed


def _steps(shape: Shape, steps: Steps, new: Shape) -> Steps:
    found: list[Step] = []
    for step in steps:
        after = shape_after(shape, (step,))
        found.append(_step(shape, after, step, new))
        shape, new = after, shape_after(new, (found[-1],))
    return tuple(found)


def _step(shape: Shape, after: Shape, step: Step, new: Shape) -> Step:
    name, *arguments = step
    if name == "reshape":
        return name, reshape_target(shape, after, new)
    if name == "expand":
        return name, tuple(size if was == 1 else now for size, was, now in zip(arguments[0], shape, new))
    if name == "slice":
        cuts = [_cut(*each) for each in zip(*arguments, shape, new)]
        return name, *zip(*cuts)
    return step


def _cut(start: int, stop: int, by: int, size: int, new: int) -> tuple[int, int, int]:
    """A cut of a longer or shorter axis: what went to its end still does, a half stays a half, a number a number."""
    if size == new:
        return start, stop, by
    to_end = stop + by > size
    first, last = (Fraction(each * new, size) for each in (start, stop))
    if to_end and start < by:
        return start, new, by
    if first.denominator == last.denominator == 1:
        return int(first), int(last), by
    return start, new if to_end else stop, by


_RULES: dict[type[Operator], Callable[[Any, tuple[Shape, ...]], Operator]] = {
    Conv2d: _convolution,
    ConvTranspose2d: _convolution,
    Linear: lambda operator, shapes: replace(operator, shape=shapes[0]),
    MatMul: lambda operator, shapes: replace(operator, left=shapes[0], right=shapes[1]),
    Attention: _attention,
    Activation: lambda operator, shapes: replace(operator, shape=shapes[0]),
    Softmax: lambda operator, shapes: replace(operator, shape=shapes[0]),
    Normalization: _normalization,
    Pool2d: lambda operator, shapes: replace(operator, shape=shapes[0]),
    AdaptivePool2d: lambda operator, shapes: replace(operator, shape=shapes[0]),
    Reduce: lambda operator, shapes: replace(operator, shape=shapes[0]),
    Resize: _resize,
    Copy: _moved,
    View: _moved,
    Embedding: lambda operator, shapes: replace(operator, shape=shapes[0]),
    Elementwise: lambda operator, shapes: replace(operator, shapes=shapes),
    Concat: lambda operator, shapes: replace(operator, shapes=shapes),
}
