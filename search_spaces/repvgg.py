"""RepVGG: blocks of three branches while they are trained, each one 3x3 convolution once they are deployed.

Source: X. Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, https://arxiv.org/abs/2101.03697,
and their code (https://github.com/DingXiaoH/RepVGG).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Shape
from predictors.sections import Position, Section, joined
from search_spaces.resolutions import ResolutionSpace

if TYPE_CHECKING:
    from search_spaces.repvgg_modules import RepVGG

_KERNEL = 3
_PERCENT = 100


class BlockSpec(NamedTuple):
    """A block: the sum of a 3x3, a 1x1 and, where it has one, an identity branch, each normalised; then ReLU."""

    in_channels: int
    out_channels: int
    stride: int
    groups: int
    has_identity: bool


class Layout(NamedTuple):
    """All that the module of one arch is made of; its graph is made of the same specs, so neither can differ."""

    stem: BlockSpec
    stages: tuple[tuple[BlockSpec, ...], ...]
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class RepVGGSpace(ResolutionSpace):
    """Elastic RepVGG. Knobs, of those that have more than one choice: `resolution`, and for each stage from 1
    `stage{i}_depth`, its number of blocks, and `stage{i}_width`, the multiplier of its channels in per cent.

    All blocks of a stage have its width, so a block has an identity branch or not whatever the arch is: all but the
    stem and the first of each stage have one. (The paper gives one to every block that keeps its shape. With a stage
    of stride 1 its first block would then have one in some archs and none in others; here it never has.)

    Args:
        base_widths: channels of each stage at 100 per cent.
        widths: for each stage, the choices of its multiplier in per cent, increasing.
        depths: for each stage, the choices of its number of blocks, increasing.
        stem_width: channels of the stem; never more than those of the first stage.
        groups: of the convolutions of every second block of a stage; 2 and 4 make the paper's g2 and g4.

    Raises:
        ValueError: a field is empty, out of order, not positive, of a length that does not fit the others, or makes
            channels that are no whole number or do not divide into groups.
    """

    base_widths: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    depths: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    stem_width: int
    stem_stride: int = 2
    groups: int = 1

    def __post_init__(self) -> None:
        asked = f"space {self.name!r}"
        self._check_positive("num_classes", "in_channels", "stem_width", "stem_stride", "groups", "batch")
        self._check_stages("base_widths", "widths", "depths", "strides")
        for name, values in self._choice_lists():
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise ValueError(f"{asked}: {name} must be positive and increase, found {list(values)}")
        self._check_positive("base_widths", "strides")
        for base, percents in zip(self.base_widths, self.widths):
            for percent in percents:
                if base * percent % _PERCENT or base * percent // _PERCENT % self.groups:
                    raise ValueError(
                        f"{asked}: {percent} % of {base} channels are {base * percent / _PERCENT:g}, which must be a "
                        f"whole number and divide into {self.groups} groups"
                    )

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        return {name: values for name, values in self._choice_lists() if len(values) > 1}

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        return ()

    def layout(self, arch: Mapping[str, int]) -> Layout:
        """Channels, strides and branches of every block.

        Raises:
            ValueError: the arch is not one of this space.
        """
        self.check(arch)
        stages = tuple(
            tuple(self._block(stage, block, arch) for block in range(self._chosen(f"stage{stage + 1}_depth", arch)))
            for stage in range(len(self.base_widths))
        )
        return Layout(stem=self._stem(arch), stages=stages, num_classes=self.num_classes)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Stem, every block of every stage, head. All depend on the image's size."""
        found = [Position(self._knobs("resolution", "stage1_width"), self._stem_at)]
        for stage, depths in enumerate(self.depths):
            own, before = f"stage{stage + 1}", f"stage{max(stage, 1)}"
            for block in range(depths[-1]):
                depth = (f"{own}_depth",) if block >= depths[0] else ()
                widths = (f"{own}_width",) if block else (f"{before}_width", f"{own}_width")
                knobs = self._knobs("resolution", *depth, *widths)
                found.append(Position(knobs, partial(self._block_at, stage, block)))
        last = f"stage{len(self.base_widths)}_width"
        return (*found, Position(self._knobs("resolution", last), self._head_at))

    def graph(self, arch: Mapping[str, int]) -> Graph:
        """The network as deployed: one 3x3 convolution and a ReLU for each block."""
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "RepVGG":
        """The network as trained: three branches for each block."""
        from search_spaces.repvgg_modules import RepVGG

        return RepVGG(self.layout(arch), self.in_channels)

    def _choice_lists(self) -> list[tuple[str, tuple[int, ...]]]:
        """Every knob that there may be, with its values."""
        found = [("resolution", self.resolutions)]
        for number, (depths, widths) in enumerate(zip(self.depths, self.widths), start=1):
            found += [(f"stage{number}_depth", depths), (f"stage{number}_width", widths)]
        return found

    def _knobs(self, *names: str) -> tuple[str, ...]:
        """Those of the names that are knobs, each once."""
        return tuple(dict.fromkeys(name for name in names if name in self.choices))

    @cached_property
    def _only_values(self) -> Mapping[str, int]:
        return {name: values[0] for name, values in self._choice_lists() if len(values) == 1}

    def _chosen(self, name: str, arch: Mapping[str, int]) -> int:
        return arch[name] if name in self.choices else self._only_values[name]

    def _stage_channels(self, stage: int, arch: Mapping[str, int]) -> int:
        return self.base_widths[stage] * self._chosen(f"stage{stage + 1}_width", arch) // _PERCENT

    def _stem(self, arch: Mapping[str, int]) -> BlockSpec:
        channels = min(self.stem_width, self._stage_channels(0, arch))
        return BlockSpec(self.in_channels, channels, self.stem_stride, 1, has_identity=False)

    def _block(self, stage: int, block: int, arch: Mapping[str, int]) -> BlockSpec:
        channels = self._stage_channels(stage, arch)
        if block:
            groups = self.groups if block % 2 else 1  # stages begin with odd layers, of which the paper groups none
            return BlockSpec(channels, channels, 1, groups, has_identity=True)
        before = self._stage_channels(stage - 1, arch) if stage else self._stem(arch).out_channels
        return BlockSpec(before, channels, self.strides[stage], 1, has_identity=False)

    def _stem_at(self, knobs: Mapping[str, int]) -> Section:
        return _block_section(self._shape(self.in_channels, (), knobs), self._stem(knobs), "stem", True)

    def _block_at(self, stage: int, block: int, knobs: Mapping[str, int]) -> Section | None:
        depth = f"stage{stage + 1}_depth"
        if block >= (knobs[depth] if depth in knobs else self.depths[stage][-1]):
            return None
        spec = self._block(stage, block, knobs)
        strides = (self.stem_stride, *self.strides[: stage + (block > 0)])
        return _block_section(self._shape(spec.in_channels, strides, knobs), spec, f"stages.{stage}.{block}", False)

    def _head_at(self, knobs: Mapping[str, int]) -> Section:
        channels = self._stage_channels(len(self.base_widths) - 1, knobs)
        return _head(self._shape(channels, (self.stem_stride, *self.strides), knobs), self.num_classes)

    def _shape(self, channels: int, strides: Sequence[int], knobs: Mapping[str, int]) -> Shape:
        """An image's shape after layers of these strides."""
        size = self.input_shape(knobs)[-1]
        for stride in strides:  # 3x3 with a padding of 1
            size = -(-size // stride)
        return self.batch, channels, size, size


# ------------------------------------------------------------------------------------------------------------ private


# Sections come from caches, so that equal ones of all spaces are one: what a section costs is asked once.


@lru_cache(maxsize=1 << 14)
def _block_section(shape: Shape, spec: BlockSpec, name: str, is_first: bool) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape, "input" if is_first else "")
    x = builder.conv2d(x, spec.out_channels, _KERNEL, spec.stride, groups=spec.groups, bias=True, name=f"{name}.conv")
    return Section(builder.graph(builder.activation(x, "relu", f"{name}.act")))


@lru_cache(maxsize=1 << 10)
def _head(shape: Shape, num_classes: int) -> Section:
    builder = GraphBuilder()
    x = builder.global_pool(builder.input(shape), "pool")
    return Section(builder.graph(builder.linear(builder.flatten(x, "flatten"), num_classes, name="classifier")))
