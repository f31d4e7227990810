"""NAS-Bench-201: one cell, repeated in three stages, whose six edges each choose one of five operations.

Source: Dong, Yang, "NAS-Bench-201", ICLR 2020, https://arxiv.org/abs/2001.00326, and its code (AutoDL-Projects).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING

from typing_extensions import Self

from predictors.graph import Graph, GraphBuilder
from predictors.nasbench201 import (
    NB201_EDGES,
    nb201_cell,
    nb201_head,
    nb201_official_order,
    nb201_reduction,
    nb201_stem,
    nb201_text,
    parse_nb201,
    without_dead_branches,
)
from predictors.operators import Shape
from predictors.sections import Position, Section, joined
from search_spaces.space import Arch, KnobSpace

if TYPE_CHECKING:
    from search_spaces.nasbench201_modules import NasBench201

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
"""What the values 0 to 4 of every knob stand for: MACs and parameters never fall from one to the next."""
KNOBS = tuple(f"edge_{target}_{source}" for source, target in NB201_EDGES)
"""`edge_{to}_{from}`, in the order in which the benchmark writes archs. Node 0 is the cell's input, 3 its output."""

_INDEX_OF = {operation: index for index, operation in enumerate(OPERATIONS)}
_CHOICES: Mapping[str, tuple[int, ...]] = {knob: tuple(range(len(OPERATIONS))) for knob in KNOBS}


@dataclass(frozen=True, kw_only=True)
class NasBench201Space(KnobSpace):
    """Networks of NAS-Bench-201. Knobs: `KNOBS`, whose values are indices into `OPERATIONS`.

    Args:
        channels: of each stage; each stage after the first begins with a residual block of stride 2.
        num_cells: in each stage.
        image_resolution: height and width of the input images in pixels; halved without rest between stages.
        keeps_dead_branches: which network an arch stands for. False: what a converter such as TensorFlow Lite's leaves
            of it, without the edges that lie on no path through the cell; archs that differ in those alone are one. A
            cell without any path multiplies its input by zero. True: what PyTorch runs, every edge, `none` as a
            product with zero.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is not positive, or the image cannot be halved between stages.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    channels: tuple[int, ...] = (16, 32, 64)
    num_cells: int = 5
    image_resolution: int = 32
    keeps_dead_branches: bool = False
    deployed_resolution: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        asked = f"space {self.name!r}"
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"{asked}: channels must be positive, one for each stage, found {list(self.channels)}")
        for name in ("num_classes", "in_channels", "num_cells", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{asked}: {name} must be positive, found {getattr(self, name)}")
        if not self._can_be_halved(self.image_resolution):
            raise ValueError(
                f"{asked}: image_resolution {self.image_resolution} must be a positive multiple of "
                f"{self._smallest_image}, to be halved {len(self.channels) - 1} times"
            )

    @property
    def resolution(self) -> int:
        return self.image_resolution

    @property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        return _CHOICES

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        if self.keeps_dead_branches:
            return ()
        operations = _operations(arch)
        kept = without_dead_branches(operations)
        return [knob for knob, before, after in zip(KNOBS, operations, kept) if before != after]

    @property
    def live(self) -> Self:
        """The same archs without the branches that are on no path: networks that compute the same."""
        return replace(self, keeps_dead_branches=False)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Stem, then for each stage its reduction and its cells; the last cell is one section with the head.

        Where a single operator reads a cell's input, runtimes fuse it with what comes before the cell. Such a network
        is one section, and nothing stands at the other positions.
        """
        found = [Position(KNOBS, self._whole_at), Position(KNOBS, self._stem_at)]
        for stage in range(len(self.channels)):
            if stage:
                found.append(Position(KNOBS, partial(self._reduction_at, stage)))
            found += [Position(KNOBS, partial(self._cell_at, stage))] * self.num_cells
        return (*found[:-1], Position(KNOBS, self._last_cell_and_head_at))

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "NasBench201":
        """The module that the original code builds, with its ReLU-Conv-BN order, without dead branches unless kept."""
        from search_spaces.nasbench201_modules import NasBench201

        self.check(arch)
        operations = self._runs(arch)
        edges = [(each,) if each != "none" or self.keeps_dead_branches else () for each in operations]
        return NasBench201(edges, self.channels, self.num_cells, self.in_channels, self.num_classes)

    def shared_network(self) -> "NasBench201":
        from search_spaces.nasbench201_modules import NasBench201

        edges = [OPERATIONS] * len(KNOBS)
        return NasBench201(edges, self.channels, self.num_cells, self.in_channels, self.num_classes)

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: images of `resolution` pixels, in batches.

        Raises:
            ValueError: that resolution cannot be halved between stages, or the batch is not positive.
        """
        if resolution is None:
            return replace(self, batch=batch)
        if not self._can_be_halved(resolution):
            raise ValueError(
                f"space {self.name!r} cannot be deployed at resolution {resolution}: it must be a positive multiple "
                f"of {self._smallest_image}, to be halved {len(self.channels) - 1} times"
            )
        return replace(self, deployed_resolution=resolution, batch=batch)

    @property
    def _smallest_image(self) -> int:
        return 1 << (len(self.channels) - 1)

    def _can_be_halved(self, resolution: int) -> bool:
        return resolution > 0 and resolution % self._smallest_image == 0

    def _runs(self, arch: Mapping[str, int]) -> tuple[str, ...]:
        """The operations that run; `none` too, where dead branches are kept."""
        operations = _operations(arch)
        return operations if self.keeps_dead_branches else without_dead_branches(operations)

    def _shape(self, stage: int) -> Shape:
        """What enters the cells of a stage."""
        size = (self.deployed_resolution or self.image_resolution) >> stage
        return self.batch, self.channels[stage], size, size

    def _image(self) -> Shape:
        _, _, height, width = self._shape(0)
        return self.batch, self.in_channels, height, width

    def _whole_at(self, knobs: Mapping[str, int]) -> Section | None:
        operations = self._runs(knobs)
        if _begins_alone(operations, self.keeps_dead_branches):
            return _whole(
                self._image(), self.channels, self.num_cells, operations, self.keeps_dead_branches, self.num_classes
            )
        return None

    def _stem_at(self, knobs: Mapping[str, int]) -> Section | None:
        return None if self._is_whole(knobs) else _stem(self._image(), self.channels[0])

    def _reduction_at(self, stage: int, knobs: Mapping[str, int]) -> Section | None:
        return None if self._is_whole(knobs) else _reduction(self._shape(stage - 1), self.channels[stage], stage)

    def _cell_at(self, stage: int, knobs: Mapping[str, int]) -> Section | None:
        operations = self._runs(knobs)
        if _begins_alone(operations, self.keeps_dead_branches):
            return None
        return _cell(self._shape(stage), operations, self.keeps_dead_branches, stage, 0)

    def _last_cell_and_head_at(self, knobs: Mapping[str, int]) -> Section | None:
        operations = self._runs(knobs)
        if _begins_alone(operations, self.keeps_dead_branches):
            return None
        stage = len(self.channels) - 1
        return _cell(self._shape(stage), operations, self.keeps_dead_branches, stage, self.num_classes)

    def _is_whole(self, knobs: Mapping[str, int]) -> bool:
        return _begins_alone(self._runs(knobs), self.keeps_dead_branches)


def arch_from_string(space: NasBench201Space, text: str) -> Arch:
    """The arch that the benchmark writes like this, in the space's canonical form.

    Raises:
        ValueError: not six known operations with the inputs that a cell has.
    """
    return space.canonical(arch_from_operations(parse_nb201(text)))


def arch_from_index(space: NasBench201Space, index: int) -> Arch:
    """The arch of an index in the published benchmark, 0 to 15,624, in the space's canonical form.

    Raises:
        ValueError: no such index.
    """
    order = nb201_official_order()
    if not 0 <= index < len(order):
        raise ValueError(f"NAS-Bench-201 has archs 0 to {len(order) - 1}, found {index}")
    return space.canonical(arch_from_operations(order[index]))


def arch_string(arch: Mapping[str, int]) -> str:
    """An arch as the benchmark writes it.

    >>> arch_string({"edge_1_0": 4, "edge_2_0": 0, "edge_2_1": 1, "edge_3_0": 2, "edge_3_1": 3, "edge_3_2": 1})
    '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|'
    """
    return nb201_text(_operations(arch))


def arch_from_operations(operations: Iterable[str]) -> Arch:
    """An arch, not made canonical, from operations in the order of `KNOBS`."""
    return {knob: _INDEX_OF[operation] for knob, operation in zip(KNOBS, operations, strict=True)}


# ------------------------------------------------------------------------------------------------------------ private


def _operations(arch: Mapping[str, int]) -> tuple[str, ...]:
    return tuple([OPERATIONS[arch[knob]] for knob in KNOBS])


# Cells of a stage are one section: what it costs is asked once. So their nodes are named after the stage alone.

_NUM_CELLS = 1 << 14
"""More than the 9,445 different cells, so that those of a stage are made once when all archs are predicted."""


@lru_cache(maxsize=64)
def _stem(image: Shape, channels: int) -> Section:
    builder = GraphBuilder()
    return Section(builder.graph(nb201_stem(builder, builder.input(image, "input"), channels, "stem")))


@lru_cache(maxsize=64)
def _reduction(shape: Shape, channels: int, stage: int) -> Section:
    builder = GraphBuilder()
    x = nb201_reduction(builder, builder.input(shape), channels, f"stages.{stage}.reduction")
    return Section(builder.graph(x))


@lru_cache(maxsize=_NUM_CELLS)
def _cell(shape: Shape, operations: tuple[str, ...], keeps: bool, stage: int, num_classes: int) -> Section:
    """A cell, with the head behind it where there are classes."""
    builder = GraphBuilder()
    x = _cell_of(builder, builder.input(shape), operations, keeps, stage)
    if num_classes:
        x = nb201_head(builder, x, num_classes)
    return Section(builder.graph(x))


@lru_cache(maxsize=1 << 10)
def _whole(
    image: Shape, channels: tuple[int, ...], num_cells: int, operations: tuple[str, ...], keeps: bool, num_classes: int
) -> Section:
    builder = GraphBuilder()
    x = nb201_stem(builder, builder.input(image, "input"), channels[0], "stem")
    for stage, width in enumerate(channels):
        if stage:
            x = nb201_reduction(builder, x, width, f"stages.{stage}.reduction")
        for _ in range(num_cells):
            x = _cell_of(builder, x, operations, keeps, stage)
    return Section(builder.graph(nb201_head(builder, x, num_classes)))


@lru_cache(maxsize=_NUM_CELLS)
def _begins_alone(operations: tuple[str, ...], keeps: bool) -> bool:
    """Whether at most one operator of the cell reads its input, or the cell hands it on as it is."""
    builder = GraphBuilder()
    x = builder.input((1, 1, 1, 1))
    output = _cell_of(builder, x, operations, keeps, 0)
    return output == x or sum(node.inputs.count(x) for node in builder.graph(output).nodes) < 2


def _cell_of(builder: GraphBuilder, x: int, operations: tuple[str, ...], keeps: bool, stage: int) -> int:
    """`none` is a product like any other here: no runtime is assumed to see that it need not run."""
    return nb201_cell(builder, x, operations, f"stages.{stage}.cell", zero="mul", keeps_dead_branches=keeps)
