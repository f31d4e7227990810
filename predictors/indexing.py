"""Data that computed indices pick, place or order: which of them move is known only when the network runs."""

from functools import cached_property
from math import prod

from predictors.operators import Operator, Shape, check_method, check_positive, check_shape, operator, padded_shape


@operator
class Gather(Operator):
    """Elements of `shape` that computed indices pick; it reads what it picks, and the indices."""

    kind = "gather"
    shape: Shape
    indices: tuple[Shape, ...]
    to: Shape

    def __post_init__(self) -> None:
        for shape in (self.shape, *self.indices, self.to):
            check_shape(self.kind, shape)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape, *self.indices)

    @cached_property
    def output_shape(self) -> Shape:
        return self.to

    @cached_property
    def read_elements(self) -> int:
        return prod(self.to) + sum(map(prod, self.indices))

    def padded(self, alignment: int) -> "Gather":
        return Gather(
            shape=padded_shape(self.shape, alignment), indices=self.indices, to=padded_shape(self.to, alignment)
        )


@operator
class Scatter(Operator):
    """Data written into a part of `shape`, whose other elements stay as they are and are not touched.

    It reads its sources, values and computed indices, and writes `num_written` elements. Its result is its first input
    changed in place.
    """

    kind = "scatter"
    shape: Shape
    sources: tuple[Shape, ...]
    num_written: int

    def __post_init__(self) -> None:
        for shape in (self.shape, *self.sources):
            check_shape(self.kind, shape)
        check_positive(self.kind, num_written=self.num_written)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape, *self.sources)

    @cached_property
    def output_shape(self) -> Shape:
        return self.shape

    @cached_property
    def read_elements(self) -> int:
        return sum(map(prod, self.sources))

    @cached_property
    def write_elements(self) -> int:
        return self.num_written

    def padded(self, alignment: int) -> "Scatter":
        """The part grows as the sources do, or as the whole does where it has none."""
        shape = padded_shape(self.shape, alignment)
        sources = tuple(padded_shape(source, alignment) for source in self.sources)
        small, large = (self.sources, sources) if self.sources else ((self.shape,), (shape,))
        num_written = -(-self.num_written * sum(map(prod, large)) // sum(map(prod, small)))
        return Scatter(shape=shape, sources=sources, num_written=num_written)


@operator
class Sort(Operator):
    """Elements in order along one axis, all of them or the first `count`; it writes the values and their places.

    The output is both, (2, ...): values first. macs = 0.
    """

    kind = "sort"
    shape: Shape
    axis: int = -1
    count: int = 0
    """How many are kept ('topk'); 0 for all."""

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        if self.axis != -1 and not 0 <= self.axis < len(self.shape) - 1:
            raise ValueError(f"sort: axis {self.axis} is neither -1 nor in 0..{len(self.shape) - 2}")
        if not 0 <= self.count <= (self.shape[self.axis] if self.shape else 1):
            raise ValueError(f"sort: {self.count} of the elements of axis {self.axis} of {self.shape} cannot be kept")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        kept = list(self.shape)
        if self.count:
            kept[self.axis] = self.count
        return (2, *kept)

    @property
    def variant(self) -> str:
        return "topk" if self.count else "sort"

    def padded(self, alignment: int) -> "Sort":
        return Sort(shape=padded_shape(self.shape, alignment), axis=self.axis, count=self.count)


@operator
class GridSample(Operator):
    """Values of (batch, channels, height, width) interpolated at computed places, (batch, height, width, 2).

    macs = 4 for each output element, as fvcore counts; it reads the image, at most as much as it writes 4 times.
    """

    kind = "grid_sample"
    shape: Shape
    grid: Shape
    method: str = "bilinear"

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, 4)
        check_shape(self.kind, self.grid, 4)
        check_method(self.kind, self.method, ("bicubic", "bilinear", "nearest"))

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape, self.grid)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape[:2], *self.grid[1:3]

    @cached_property
    def macs(self) -> int:
        return 4 * self.write_elements

    @cached_property
    def read_elements(self) -> int:
        return min(prod(self.shape), 4 * self.write_elements) + prod(self.grid)

    def padded(self, alignment: int) -> "GridSample":
        return GridSample(shape=padded_shape(self.shape, alignment), grid=self.grid, method=self.method)
