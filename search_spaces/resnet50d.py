"""The ResNet-50-D space of Once-for-All: bottleneck blocks with elastic depths, expansions and widths.

Structure: their code (`OFAResNets`, https://github.com/mit-han-lab/once-for-all) of H. Cai et al., "Once-for-All: Train
One Network and Specialize it for Efficient Deployment", ICLR 2020, https://arxiv.org/abs/1908.09791. The stem of three
convolutions and the shortcuts that average before they project are ResNet-D's: T. He et al., "Bag of Tricks for Image
Classification with Convolutional Neural Networks", CVPR 2019, https://arxiv.org/abs/1812.01187.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from predictors.graph import Graph, GraphBuilder, shared_operator
from predictors.operators import Pool2d, Shape
from predictors.sections import Position, Section, joined
from search_spaces.inverted_residuals import add_conv_bn, make_divisible
from search_spaces.resolutions import ResolutionSpace
from search_spaces.space import Arch

if TYPE_CHECKING:
    from search_spaces.resnet50d_modules import ResNet50D

THOUSANDTHS = 1000
STEM_DEPTHS = (0, 1)
NORM_EPSILON = 1e-5


class BottleneckSpec(NamedTuple):
    """Reduce by 1x1, convolve by 3x3 with the stride, expand by 1x1, add the shortcut: the input itself, or averaged
    over windows of the stride and projected by 1x1.
    """

    in_channels: int
    hidden_channels: int
    out_channels: int
    stride: int
    has_projection: bool


class StemSpec(NamedTuple):
    hidden_channels: int
    out_channels: int
    stride: int
    has_block: bool


class Layout(NamedTuple):
    """All that the module of one arch is made of; its graph is made of the same specs."""

    stem: StemSpec
    stages: tuple[tuple[BottleneckSpec, ...], ...]
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class ResNet50DSpace(ResolutionSpace):
    """Elastic ResNet-50-D. Knobs, counted from 1: `stem_hidden_width` of the first convolutions, `stem_depth` (1 with a
    residual convolution between the first and the last), `stem_width` of the last; `stage{i}_width`, `stage{i}_depth`
    in blocks, `stage{i}_block{j}_expansion`; and `resolution`, if there is more than one. Widths and expansions are in
    thousandths: 650 is Once-for-All's width multiplier 0.65, 350 its expansion ratio 0.35.

    Widths or expansions that round to the same channels are the same network: the canonical arch has the least.

    Args:
        resolutions: heights and widths of the input images in pixels, increasing.
        widths: multipliers of every width, in thousandths, increasing.
        expansions: a block's hidden channels, in thousandths of its output channels, increasing.
        extra_depths: blocks that a stage may have beside its least, increasing from 0.
        stage_widths, stage_strides, stage_depths: one entry for each stage: output channels at width 1000, and the
            least number of blocks.
        stem_width, stem_stride: the stem's output channels at width 1000, twice its hidden channels; the stride of its
            first convolution, behind the last comes a max pooling of stride 2.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is empty, out of order, not positive, or of a length that does not fit the others.
    """

    widths: tuple[int, ...]
    expansions: tuple[int, ...]
    extra_depths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    stage_depths: tuple[int, ...]
    stem_width: int
    stem_stride: int = 2

    def __post_init__(self) -> None:
        self._check_increasing("resolutions", "widths", "expansions")
        if not self.extra_depths or self.extra_depths[0] or list(self.extra_depths) != sorted(set(self.extra_depths)):
            raise ValueError(
                f"space {self.name!r}: extra_depths must be increasing from 0, found {list(self.extra_depths)}"
            )
        self._check_stages("stage_widths", "stage_strides", "stage_depths")
        self._check_positive(
            "num_classes", "in_channels", "stage_widths", "stage_strides", "stage_depths", "stem_width", "stem_stride",
            "batch",
        )  # fmt: skip

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        knobs = self.resolution_knobs
        knobs |= {"stem_hidden_width": self.widths, "stem_depth": STEM_DEPTHS, "stem_width": self.widths}
        for number, depths in enumerate(self._depths, start=1):
            knobs[f"stage{number}_width"] = self.widths
            knobs[f"stage{number}_depth"] = depths
            for block in range(1, depths[-1] + 1):
                knobs[f"stage{number}_block{block}_expansion"] = self.expansions
        return knobs

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        for number, depths in enumerate(self._depths, start=1):
            for block in range(arch[f"stage{number}_depth"] + 1, depths[-1] + 1):
                yield f"stage{number}_block{block}_expansion"

    def canonical(self, arch: Mapping[str, int]) -> Arch:
        """Also, of widths and of expansions that round to the same channels, the least."""
        canonical = super().canonical(arch)
        for knob, values in self.choices.items():
            if knob.endswith(("_width", "_expansion")):
                channels = self._channels_of(knob, canonical)
                canonical[knob] = next(
                    value for value in values if self._channels_of(knob, canonical | {knob: value}) == channels
                )
        return canonical

    def layout(self, arch: Mapping[str, int]) -> Layout:
        """Channels and strides of every layer.

        Raises:
            ValueError: the arch is not one of this space.
        """
        self.check(arch)
        stages = tuple(
            tuple(self._block_spec(stage, block, arch) for block in range(arch[f"stage{stage + 1}_depth"]))
            for stage in range(len(self.stage_widths))
        )
        return Layout(self._stem_spec(arch), stages, self.num_classes)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The stem's three parts, every block of every stage, head. All depend on the image's size."""
        size = tuple(self.resolution_knobs)
        found = [
            Position((*size, "stem_hidden_width"), self._stem_at),
            Position((*size, "stem_hidden_width", "stem_depth"), self._stem_block_at),
            Position((*size, "stem_hidden_width", "stem_width"), self._stem_out_at),
        ]
        for stage, depths in enumerate(self._depths):
            for block in range(depths[-1]):
                knobs = [*size, *self._block_knobs(stage, block)]
                if block >= depths[0]:
                    knobs.append(f"stage{stage + 1}_depth")
                found.append(Position(tuple(knobs), partial(self._block_at, stage, block)))
        return (*found, Position((*size, f"stage{len(self._depths)}_width"), self._head_at))

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "ResNet50D":
        from search_spaces.resnet50d_modules import ResNet50D

        return ResNet50D(self.layout(arch), self.in_channels)

    def _stem_at(self, knobs: Mapping[str, int]) -> Section:
        return _stem(self.input_shape(knobs), self._channels_of("stem_hidden_width", knobs), self.stem_stride)

    def _stem_block_at(self, knobs: Mapping[str, int]) -> Section | None:
        if not knobs["stem_depth"]:
            return None
        return _stem_block(self._shape_behind(1, self._channels_of("stem_hidden_width", knobs), knobs))

    def _stem_out_at(self, knobs: Mapping[str, int]) -> Section:
        shape = self._shape_behind(1, self._channels_of("stem_hidden_width", knobs), knobs)
        return _stem_out(shape, self._channels_of("stem_width", knobs))

    def _block_at(self, stage: int, block: int, knobs: Mapping[str, int]) -> Section | None:
        if block >= knobs.get(f"stage{stage + 1}_depth", self._depths[stage][-1]):
            return None
        spec = self._block_spec(stage, block, knobs)
        shape = self._shape_behind(2 + stage + (block > 0), spec.in_channels, knobs)
        return _block(shape, spec, f"stages.{stage}.{block}")

    def _head_at(self, knobs: Mapping[str, int]) -> Section:
        num_stages = len(self.stage_widths)
        channels = self._channels_of(f"stage{num_stages}_width", knobs)
        return _head(self._shape_behind(2 + num_stages, channels, knobs), self.num_classes)

    def _stem_spec(self, arch: Mapping[str, int]) -> StemSpec:
        hidden, out = (self._channels_of(knob, arch) for knob in ("stem_hidden_width", "stem_width"))
        return StemSpec(hidden, out, self.stem_stride, has_block=arch["stem_depth"] > 0)

    def _block_spec(self, stage: int, block: int, knobs: Mapping[str, int]) -> BottleneckSpec:
        """Of a block, from at least its `_block_knobs`."""
        *widths, expansion = self._block_knobs(stage, block)
        return BottleneckSpec(
            in_channels=self._channels_of(widths[0], knobs),
            hidden_channels=self._channels_of(expansion, knobs),
            out_channels=self._channels_of(widths[-1], knobs),
            stride=self.stage_strides[stage] if block == 0 else 1,
            has_projection=block == 0,
        )

    def _block_knobs(self, stage: int, block: int) -> tuple[str, ...]:
        """What a block's channels depend on, in order: its input's width, if that is another knob, its width, its
        expansion.
        """
        before = (f"stage{stage}_width" if stage else "stem_width",) if block == 0 else ()
        return (*before, f"stage{stage + 1}_width", f"stage{stage + 1}_block{block + 1}_expansion")

    def _channels_of(self, knob: str, knobs: Mapping[str, int]) -> int:
        """The channels that a width or an expansion makes; an expansion's depend on the width of its stage."""
        place, _, kind = knob.rpartition("_")
        if kind == "expansion":
            out_channels = self._channels_of(f"{place.partition('_')[0]}_width", knobs)
            return make_divisible(round(out_channels * (knobs[knob] / THOUSANDTHS)))
        base = self.stage_widths[int(place[5:]) - 1] if place.startswith("stage") else self.stem_width
        channels = make_divisible(base * (knobs[knob] / THOUSANDTHS))
        return make_divisible(channels // 2) if place == "stem_hidden" else channels

    def _shape_behind(self, num_strides: int, channels: int, knobs: Mapping[str, int]) -> Shape:
        """What leaves the first of the stem's convolutions, its pooling, the stages: so many of them."""
        batch, _, height, width = self.input_shape(knobs)
        for stride in (self.stem_stride, 2, *self.stage_strides)[:num_strides]:
            height, width = -(-height // stride), -(-width // stride)  # odd kernels with half of them as padding
        return batch, channels, height, width

    @cached_property
    def _depths(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(least + extra for extra in self.extra_depths) for least in self.stage_depths)


# Sections come from caches, so that equal ones of all spaces are one, and predictors remember what each costs.


@lru_cache(maxsize=256)
def _stem(shape: Shape, channels: int, stride: int) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape, "input")
    return Section(builder.graph(add_conv_bn(builder, x, "stem", channels, kernel=3, stride=stride, activation="relu")))


@lru_cache(maxsize=256)
def _stem_block(shape: Shape) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape)
    y = add_conv_bn(builder, x, "stem_block", shape[1], kernel=3, activation="relu")
    return Section(builder.graph(builder.elementwise("add", x, y, name="stem_block")))


@lru_cache(maxsize=256)
def _stem_out(shape: Shape, channels: int) -> Section:
    builder = GraphBuilder()
    x = add_conv_bn(builder, builder.input(shape), "stem_out", channels, kernel=3, activation="relu")
    return Section(builder.graph(builder.pool2d(x, "max", kernel=3, stride=2, padding=1, name="max_pool")))


@lru_cache(maxsize=1 << 15)
def _block(shape: Shape, spec: BottleneckSpec, name: str) -> Section:
    builder = GraphBuilder()
    x = shortcut = builder.input(shape)
    hidden = spec.hidden_channels
    y = add_conv_bn(builder, x, f"{name}.reduce", hidden, activation="relu")
    y = add_conv_bn(builder, y, f"{name}.spatial", hidden, kernel=3, stride=spec.stride, activation="relu")
    y = add_conv_bn(builder, y, f"{name}.expand", spec.out_channels)
    if spec.stride > 1:
        window = (spec.stride, spec.stride)
        pool = shared_operator(Pool2d, shape=shape, method="avg", kernel=window, stride=window, ceil_mode=True)
        shortcut = builder.add(pool, shortcut, name=f"{name}.shortcut.pool")
    if spec.has_projection:
        shortcut = add_conv_bn(builder, shortcut, f"{name}.shortcut", spec.out_channels)
    y = builder.elementwise("add", y, shortcut, name=name)
    return Section(builder.graph(builder.activation(y, "relu", f"{name}.act")))


@lru_cache(maxsize=256)
def _head(shape: Shape, num_classes: int) -> Section:
    builder = GraphBuilder()
    x = builder.flatten(builder.global_pool(builder.input(shape), "pool"), "flatten")
    return Section(builder.graph(builder.linear(x, num_classes, name="classifier")))
