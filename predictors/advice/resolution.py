"""Smaller images."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil

from predictors.advice.rule import Context, Edit
from predictors.graph import Graph
from predictors.graph_edit import with_operators
from predictors.operators import Input, Operator
from predictors.reshaping import ReshapeError

_STEP = 32
_LEAST_SHARE = 0.7
"""Of the height, below which an image is another task."""
_CHANNELS_OF_AN_IMAGE = 4


def resolution(graph: Graph, context: Context) -> Iterable[Edit]:
    """The next smaller multiples of 32 down to 0.7 of an image's height, its width in proportion.

    Networks whose shapes do not follow from their input are left alone.
    """
    images = {
        index: node.operator
        for index, node in enumerate(graph.nodes)
        if isinstance(node.operator, Input)
        and len(node.operator.shape) == 4
        and node.operator.shape[1] <= _CHANNELS_OF_AN_IMAGE
    }
    sizes = {image.shape[2:] for image in images.values()}
    if len(sizes) != 1:
        return
    ((height, width),) = sizes
    for new_height in range((height - 1) // _STEP * _STEP, ceil(_LEAST_SHARE * height) - 1, -_STEP):
        new_width = Fraction(width * new_height, height)
        if new_width.denominator != 1:
            continue
        inputs: dict[int, Operator] = {
            index: Input(shape=(*image.shape[:2], new_height, int(new_width))) for index, image in images.items()
        }
        try:
            edited = with_operators(graph, inputs)
        except ReshapeError:
            continue
        yield Edit(
            text=f"images of {new_height}x{int(new_width)} instead of {height}x{width}",
            graph=edited,
            module_paths=tuple(context.name(index) for index in images),
        )
