"""How data lie anew, as steps that every runtime has: reshape, transpose, slice, expand, pad, flip, roll, repeat.

A `View` or a `Copy` with its steps is determined by its record: each runtime can be asked to do the same. Steps are
tuples of a name and its arguments, on shapes as torch and numpy see them:

    ("reshape", shape)                     ("transpose", axes)
    ("slice", starts, stops, strides)      of every axis; strides are positive
    ("expand", shape)                      axes of size 1 are repeated
    ("pad", before, after)                 of every axis, with zeros
    ("flip", axes)                         ("roll", shifts), of every axis
    ("repeat", counts)                     of every axis, the whole of it again
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

Shape = tuple[int, ...]
Step = tuple[Any, ...]
Steps = tuple[Step, ...]

_NUM_ARGUMENTS = {
    "reshape": 1, "transpose": 1, "slice": 3, "expand": 1, "pad": 2, "flip": 1, "roll": 1, "repeat": 1,
}  # fmt: skip


def shape_after(shape: Shape, steps: Steps) -> Shape:
    """Shape that the steps make of another one.

    >>> shape_after((1, 8, 6, 6), (("transpose", (0, 2, 3, 1)), ("slice", (0, 1, 0, 0), (1, 6, 6, 8), (1, 2, 1, 1))))
    (1, 3, 6, 8)

    Raises:
        ValueError: a step is unknown, or cannot be done to the shape before it.
    """
    for step in steps:
        shape = _after(shape, step)
    return shape


def strided_steps(
    shape: Shape, strides: Sequence[int], to: Shape, to_strides: Sequence[int], offset: int = 0
) -> Steps | None:
    """Steps from a tensor to a strided view of its memory; None where views overlap or wrap around.

    The memory is cut into nested axes, so that each axis of the view walks along one of them: where the view's strides
    ask for it, else where the tensor's own axes begin.

    Args:
        shape: of the tensor, which lies densely, its axes in any order.
        strides: of the tensor, in elements, as those of the view.
        to: shape of the view.
        to_strides: 0 for axes that repeat one element.
        offset: elements from the tensor's first to the view's first one.

    >>> strided_steps((2, 5, 24), (120, 24, 1), (2, 4, 5, 2), (120, 2, 24, 1), offset=8)
    (('reshape', (2, 5, 12, 2)), ('slice', (0, 0, 4, 0), (2, 5, 8, 2), (1, 1, 1, 1)), ('transpose', (0, 2, 1, 3)))
    """
    if shape[:1] == to[:1] == (1,):  # a batch of one stays the first axis
        inner = strided_steps(shape[1:], strides[1:], to[1:], to_strides[1:], offset)
        return None if inner is None else tuple(_with_batch(step) for step in inner)
    order = _memory_order(shape, strides)
    sizes = [shape[axis] for axis in order]
    real = [axis for axis in order if shape[axis] > 1]
    if any(strides[axis] != prod(shape[each] for each in real[place + 1 :]) for place, axis in enumerate(real)):
        return None
    walked = {axis: to_strides[axis] for axis, size in enumerate(to) if size > 1 and to_strides[axis] > 0}
    cuts = _cuts(sizes, [(to[axis], stride) for axis, stride in walked.items()], offset)
    if cuts is None or (dims := _dims(cuts, to, walked, offset)) is None:
        return None
    steps: list[Step] = []
    if [size for size, *_ in dims if size > 1] == [size for size in sizes if size > 1]:
        current: list[_Dim] = [_UNIT] * len(shape)  # the tensor's own axes, in their own order
        for axis, dim in zip(real, [dim for dim in dims if dim[0] > 1]):
            current[axis] = dim
    else:
        current = dims
        steps += [("transpose", tuple(order)), ("reshape", tuple(size for size, *_ in dims))]
    if any(count < size for size, _, count, _, _ in current):
        starts = tuple(start for _, start, *_ in current)
        stops = tuple(start + (count - 1) * by + 1 for _, start, count, by, _ in current)
        steps.append(("slice", starts, stops, tuple(by for *_, by, _ in current)))
    steps += _arranged(current, to, walked)
    return _tidy(shape, steps)


def is_reshape(steps: Steps) -> bool:
    """The data keep their order: there are no steps, or they give another shape only."""
    return all(name == "reshape" for name, *_ in steps)


# ------------------------------------------------------------------------------------------------------------ private

_Dim = tuple[int, int, int, int, int | None]
"""A nested axis of the memory: its size, what of it the view takes (start, count, by), and the view's axis, if any."""

_UNIT: _Dim = (1, 0, 1, 1, None)


def _after(shape: Shape, step: Step) -> Shape:
    name, *arguments = step
    if len(arguments) != _NUM_ARGUMENTS.get(name) or not all(
        isinstance(each, tuple) and all(isinstance(number, int) for number in each) for each in arguments
    ):
        raise ValueError(f"{step!r} is no step; there are {sorted(_NUM_ARGUMENTS)}, see predictors.movement")
    first: Shape = arguments[0]
    rank = len(shape)
    fits = len(first) == rank
    after = shape
    if name == "reshape":
        after, fits = first, prod(first) == prod(shape)
    elif name == "transpose":
        fits = sorted(first) == list(range(rank))
        after = tuple(shape[axis] for axis in first) if fits else shape
    elif name == "slice":
        stops, every = arguments[1:]
        fits = fits and all(
            0 <= start < stop <= size and by > 0 for start, stop, by, size in zip(first, stops, every, shape)
        )
        after = tuple(-(-(stop - start) // by) for start, stop, by in zip(first, stops, every))
    elif name == "expand":
        fits = fits and all(size in (1, new) for size, new in zip(shape, first))
        after = first
    elif name == "pad":
        fits = fits and len(arguments[1]) == rank and min(*first, *arguments[1]) >= 0
        after = tuple(map(sum, zip(first, shape, arguments[1])))
    elif name == "flip":
        fits = all(0 <= axis < rank for axis in first)
    elif name == "repeat":
        after = tuple(count * size for count, size in zip(first, shape))
    if not fits or min(after, default=1) < 1:
        raise ValueError(f"step {step!r} cannot be done to shape {shape}")
    return after


def _with_batch(step: Step) -> Step:
    """The step for tensors with an axis of size 1 before all others."""
    name, first, *rest = step
    if name == "transpose":
        return name, (0, *(axis + 1 for axis in first))
    if name == "slice":
        stops, every = rest
        return name, (0, *first), (1, *stops), (1, *every)
    return name, (1, *first)


def _memory_order(shape: Shape, strides: Sequence[int]) -> list[int]:
    """Axes from the outermost in memory to the innermost; those of size 1 keep their places."""
    order = list(range(len(shape)))
    real = [axis for axis in order if shape[axis] > 1]
    for place, axis in zip(real, sorted(real, key=lambda axis: -strides[axis])):
        order[place] = axis
    return order


def _cuts(sizes: Sequence[int], walks: Sequence[tuple[int, int]], offset: int) -> list[int] | None:
    """Elements at which nested axes begin, ascending from 1 to the number of all.

    A cut is one at which walks below never carry over into an axis above, wherever the walks above have come to.
    """
    walks = sorted(walks, key=lambda walk: walk[1])

    def carries(cut: int) -> bool:
        return offset % cut + sum((count - 1) * stride for count, stride in walks if stride < cut) >= cut

    total = prod(sizes)
    own = {prod(sizes[place:]) for place in range(len(sizes) + 1)}
    cuts = sorted({1, total} | {cut for cut in own if not carries(cut)})
    for (_, below), (_, stride) in pairwise(walks):
        if any(below < cut <= stride for cut in cuts[:-1]):
            continue
        lower = max(cut for cut in cuts if cut <= stride)
        upper = min(cut for cut in cuts if cut > stride) if stride < total else total
        if stride % lower or upper % stride or carries(stride):
            return None
        cuts = sorted({*cuts, stride})
    return None if carries(total) else cuts


def _dims(cuts: Sequence[int], to: Shape, walked: dict[int, int], offset: int) -> list[_Dim] | None:
    dims: list[_Dim] = []
    for lower, upper in pairwise(cuts):
        size, start = upper // lower, offset % upper // lower
        axes = [axis for axis, stride in walked.items() if lower <= stride < upper]
        if not axes:
            dims.append((size, start, 1, 1, None))
            continue
        axis = axes[0]
        by, rest = divmod(walked[axis], lower)
        if rest or len(axes) > 1:  # views that overlap
            return None
        dims.append((size, start, to[axis], by, axis))
    return dims[::-1]


def _arranged(current: Sequence[_Dim], to: Shape, walked: dict[int, int]) -> list[Step]:
    """Steps from the sliced nested axes to the view's own: their order, axes of size 1, repetition."""
    places = {axis: place for place, (*_, axis) in enumerate(current) if axis is not None}
    units = [place for place, (*_, axis) in enumerate(current) if axis is None]
    before = tuple(to[axis] if axis in walked else 1 for axis in range(len(to)))
    steps: list[Step] = []
    in_order = list(places) == sorted(places)
    if in_order:
        steps.append(("reshape", before))
    elif len(current) == len(to):
        spare = iter(units)
        steps.append(("transpose", tuple(places[axis] if axis in places else next(spare) for axis in range(len(to)))))
    else:
        steps.append(("reshape", tuple(to[axis] for axis in places)))
        ranks = {axis: rank for rank, axis in enumerate(places)}
        steps += [("transpose", tuple(ranks[axis] for axis in sorted(places))), ("reshape", before)]
    return [*steps, ("expand", to)]


def _tidy(shape: Shape, steps: Sequence[Step]) -> Steps:
    """Without steps that change nothing; of two reshapes in a row only the later."""
    kept: list[Step] = []
    for step in steps:
        if kept and kept[-1][0] == step[0] == "reshape":
            kept.pop()
        before = shape_after(shape, tuple(kept))
        nothing = step[1] == (tuple(range(len(before))) if step[0] == "transpose" else before)
        if not (nothing and step[0] in ("transpose", "reshape", "expand")):
            kept.append(step)
    return tuple(kept)
