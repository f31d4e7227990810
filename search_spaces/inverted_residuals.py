"""Networks of inverted residual blocks with elastic kernels, expansions and depths: what MobileNetV3 and ProxylessNAS
have in common in Once-for-All (https://arxiv.org/abs/1908.09791).
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Shape
from predictors.sections import Position, Section, joined
from search_spaces.resolutions import ResolutionSpace

if TYPE_CHECKING:
    from search_spaces.inverted_residual_modules import InvertedResidualNetwork

CHANNEL_MULTIPLE = 8
SQUEEZE_REDUCTION = 4


class BlockSpec(NamedTuple):
    """An inverted residual block: expand by 1x1, depthwise, squeeze-and-excite, project by 1x1.

    It has no expansion when `hidden_channels == in_channels`, no squeeze-and-excite when `squeeze_channels == 0`, and
    a residual connection when it keeps its shape.
    """

    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel: int
    stride: int
    squeeze_channels: int
    activation: str

    @property
    def has_residual(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


class StageSpec(NamedTuple):
    """Blocks that may be more or fewer; the first has the stride. `width` is before the multiplier."""

    width: int
    stride: int
    has_squeeze: bool
    activation: str
    depths: tuple[int, ...]


class Stem(NamedTuple):
    channels: int
    stride: int
    activation: str


class Head(NamedTuple):
    """A 1x1 convolution with a norm, the mean over the image, a 1x1 convolution without one (not when
    `feature_channels == 0`), and the classifier.
    """

    channels: int
    feature_channels: int
    activation: str
    num_classes: int


class Layout(NamedTuple):
    """All that the module of one arch is made of; its graph is made of the same specs, so neither can differ."""

    stem: Stem
    first_block: BlockSpec
    stages: tuple[tuple[BlockSpec, ...], ...]
    head: Head


@dataclass(frozen=True, kw_only=True)
class InvertedResidualSpace(ResolutionSpace):
    """Abstract. Knobs: `stage{i}_depth`, where a stage has a choice, `stage{i}_block{j}_kernel`,
    `stage{i}_block{j}_expansion`, from 1; and `resolution`, if there is more than one.

    Args:
        kernels, expansions, depths: choices of every block and stage, increasing; kernels are odd.
        stage_widths, stage_strides: one entry for each stage, before `width_multiplier`.
        width_multiplier: scales all widths, which are then rounded to multiples of 8.
    """

    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    depths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    stem_width: int
    stem_stride: int = 2
    feature_width: int
    width_multiplier: float = 1.0

    @property
    @abstractmethod
    def stage_specs(self) -> tuple[StageSpec, ...]: ...

    @property
    @abstractmethod
    def fixed_layers(self) -> Layout:
        """The layers that no knob changes; without stages."""

    @property
    @abstractmethod
    def norm_epsilon(self) -> float: ...

    def __post_init__(self) -> None:
        self._check_increasing("resolutions", "kernels", "expansions", "depths")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"space {self.name!r}: kernels must be odd, found {list(self.kernels)}")
        self._check_stages("stage_widths", "stage_strides")
        self._check_positive(
            "num_classes", "in_channels", "stem_width", "stem_stride", "feature_width", "width_multiplier", "batch",
            "stage_widths", "stage_strides",
        )  # fmt: skip

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        knobs = self.resolution_knobs
        for stage, (depth_knob, blocks) in zip(self.stage_specs, self._block_knobs):
            if depth_knob:
                knobs[depth_knob] = stage.depths
            for kernel_knob, expansion_knob, _ in blocks:
                knobs[kernel_knob] = self.kernels
                knobs[expansion_knob] = self.expansions
        return knobs

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        for depth_knob, blocks in self._block_knobs:
            if depth_knob:
                for kernel_knob, expansion_knob, _ in blocks[arch[depth_knob] :]:
                    yield kernel_knob
                    yield expansion_knob

    def layout(self, arch: Mapping[str, int]) -> Layout:
        """Channels, kernels and strides of every layer.

        Raises:
            ValueError: the arch is not one of this space.
        """
        self.check(arch)
        stages = tuple(
            tuple(
                specs[arch[kernel], arch[expansion]]
                for kernel, expansion, specs in (blocks[: arch[depth_knob]] if depth_knob else blocks)
            )
            for depth_knob, blocks in self._block_knobs
        )
        return self.fixed_layers._replace(stages=stages)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Stem, first block, every block of every stage, head. All depend on the image's size."""
        size = tuple(self.resolution_knobs)
        found = [Position(size, self._stem_at), Position(size, self._first_block_at)]
        for stage, (depth_knob, blocks) in enumerate(self._block_knobs):
            for block, (kernel_knob, expansion_knob, _) in enumerate(blocks):
                depth = () if block < self.stage_specs[stage].depths[0] else (depth_knob,)
                found.append(
                    Position((*size, *depth, kernel_knob, expansion_knob), partial(self._block_at, stage, block))
                )
        return (*found, Position(size, self._head_at))

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "InvertedResidualNetwork":
        from search_spaces.inverted_residual_modules import InvertedResidualNetwork

        return InvertedResidualNetwork(self.layout(arch), self.in_channels, self.norm_epsilon)

    def scaled(self, width: int) -> int:
        """Channels of a width."""
        return make_divisible(width * self.width_multiplier)

    def _stem_at(self, knobs: Mapping[str, int]) -> Section:
        return _stem(self.input_shape(knobs), self.fixed_layers.stem)

    def _first_block_at(self, knobs: Mapping[str, int]) -> Section:
        spec = self.fixed_layers.first_block
        return _block(self._shape_after(0, 0, spec.in_channels, knobs), spec, "first_block")

    def _block_at(self, stage: int, block: int, knobs: Mapping[str, int]) -> Section | None:
        depth_knob, blocks = self._block_knobs[stage]
        if block >= knobs.get(depth_knob, len(blocks)):
            return None
        kernel_knob, expansion_knob, specs = blocks[block]
        spec = specs[knobs[kernel_knob], knobs[expansion_knob]]
        return _block(self._shape_after(stage, block, spec.in_channels, knobs), spec, f"stages.{stage}.{block}")

    def _head_at(self, knobs: Mapping[str, int]) -> Section:
        num_stages, channels = len(self.stage_specs), self.scaled(self.stage_specs[-1].width)
        return _head(self._shape_after(num_stages, 0, channels, knobs), self.fixed_layers.head)

    def _shape_after(self, num_stages: int, num_blocks: int, channels: int, knobs: Mapping[str, int]) -> Shape:
        """What leaves so many whole stages, and so many blocks of the next one; none of them: what leaves the stem."""
        batch, _, height, width = self.input_shape(knobs)
        stages = self.stage_specs[: num_stages + (num_blocks > 0)]
        for stride in (self.fixed_layers.stem.stride, *(stage.stride for stage in stages)):
            height, width = -(-height // stride), -(-width // stride)  # odd kernels with half of them as padding
        return batch, channels, height, width

    @cached_property
    def _block_knobs(self) -> tuple[tuple[str, tuple[tuple[str, str, dict[tuple[int, int], BlockSpec]], ...]], ...]:
        """For each stage its depth knob, if it has one, and for each block its kernel and expansion knobs and what they
        make of it.
        """
        stages = []
        in_channels = self.fixed_layers.first_block.out_channels
        for number, stage in enumerate(self.stage_specs, start=1):
            blocks = []
            for block in range(stage.depths[-1]):
                specs = {
                    (kernel, expansion): self._block_spec(stage, block, in_channels, kernel, expansion)
                    for kernel in self.kernels
                    for expansion in self.expansions
                }
                prefix = f"stage{number}_block{block + 1}"
                blocks.append((f"{prefix}_kernel", f"{prefix}_expansion", specs))
                in_channels = self.scaled(stage.width)
            stages.append((f"stage{number}_depth" if len(stage.depths) > 1 else "", tuple(blocks)))
        return tuple(stages)

    def _block_spec(self, stage: StageSpec, block: int, in_channels: int, kernel: int, expansion: int) -> BlockSpec:
        hidden = make_divisible(in_channels * expansion)
        return BlockSpec(
            in_channels=in_channels,
            hidden_channels=hidden,
            out_channels=self.scaled(stage.width),
            kernel=kernel,
            stride=stage.stride if block == 0 else 1,
            squeeze_channels=make_divisible(hidden // SQUEEZE_REDUCTION) if stage.has_squeeze else 0,
            activation=stage.activation,
        )


def make_divisible(channels: float, multiple: int = CHANNEL_MULTIPLE) -> int:
    """The nearest multiple, halves up, but at least one and never less than 90 % of `channels`, as in MobileNet's code.

    >>> make_divisible(24 * 1.2), make_divisible(12 // 4)
    (32, 8)
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def add_conv_bn(
    builder: GraphBuilder, x: int, name: str, channels: int,
    kernel: int = 1, stride: int = 1, groups: int = 1, activation: str = "",
) -> int:  # fmt: skip
    """A convolution, its norm and activation, named like the module that `conv_bn` makes."""
    x = builder.conv2d(x, channels, kernel=kernel, stride=stride, groups=groups, name=f"{name}.conv")
    x = builder.batch_norm(x, f"{name}.bn")
    return builder.activation(x, activation, f"{name}.act") if activation else x


# Sections come from caches, so that equal ones of all spaces are one: a search asks for the same few thousand again and
# again, and predictors remember what each costs.


@lru_cache(maxsize=256)
def _stem(shape: Shape, stem: Stem) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape, "input")
    x = add_conv_bn(builder, x, "stem", stem.channels, kernel=3, stride=stem.stride, activation=stem.activation)
    return Section(builder.graph(x))


@lru_cache(maxsize=1 << 15)
def _block(shape: Shape, spec: BlockSpec, name: str) -> Section:
    builder = GraphBuilder()
    x = y = builder.input(shape)
    hidden = spec.hidden_channels
    if hidden != spec.in_channels:
        y = add_conv_bn(builder, y, f"{name}.expand", hidden, activation=spec.activation)
    y = add_conv_bn(
        builder, y, f"{name}.depthwise", hidden,
        kernel=spec.kernel, stride=spec.stride, groups=hidden, activation=spec.activation,
    )  # fmt: skip
    if spec.squeeze_channels:
        gate = builder.global_pool(y, f"{name}.squeeze.pool")
        gate = builder.conv2d(gate, spec.squeeze_channels, kernel=1, bias=True, name=f"{name}.squeeze.reduce")
        gate = builder.activation(gate, "relu", f"{name}.squeeze.act")
        gate = builder.conv2d(gate, hidden, kernel=1, bias=True, name=f"{name}.squeeze.expand")
        gate = builder.activation(gate, "hardsigmoid", f"{name}.squeeze.gate")
        y = builder.elementwise("mul", y, gate, name=f"{name}.squeeze")
    y = add_conv_bn(builder, y, f"{name}.project", spec.out_channels)
    if spec.has_residual:
        y = builder.elementwise("add", x, y, name=name)
    return Section(builder.graph(y))


@lru_cache(maxsize=256)
def _head(shape: Shape, head: Head) -> Section:
    builder = GraphBuilder()
    x = add_conv_bn(builder, builder.input(shape), "head", head.channels, activation=head.activation)
    x = builder.global_pool(x, "pool")
    if head.feature_channels:
        x = builder.conv2d(x, head.feature_channels, kernel=1, name="feature_mix.conv")
        x = builder.activation(x, head.activation, "feature_mix.act")
    x = builder.linear(builder.flatten(x, "flatten"), head.num_classes, name="classifier")
    return Section(builder.graph(x))
