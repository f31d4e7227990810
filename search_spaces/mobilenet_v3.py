"""The MobileNetV3 space of Once-for-All: elastic kernels, expansions and depths in stages of inverted residual blocks.

Structure: H. Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
https://arxiv.org/abs/1908.09791, and their code (`OFAMobileNetV3`, https://github.com/mit-han-lab/once-for-all).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import Self

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Shape
from predictors.sections import Position, Section, joined
from search_spaces.space import KnobSpace

if TYPE_CHECKING:
    from search_spaces.mobilenet_v3_modules import MobileNetV3

ACTIVATIONS = ("relu", "hardswish")
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


class Layout(NamedTuple):
    """All that the module of one arch is made of; its graph is made of the same specs, so neither can differ."""

    stem_channels: int
    stem_stride: int
    stem_activation: str
    first_block: BlockSpec
    stages: tuple[tuple[BlockSpec, ...], ...]
    head_channels: int
    feature_channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Space(KnobSpace):
    """Elastic MobileNetV3. Knobs: `stage{i}_depth`, `stage{i}_block{j}_kernel`, `stage{i}_block{j}_expansion`, from 1;
    and `resolution`, if there is more than one.

    Args:
        kernels, expansions, depths: choices of every block and stage, increasing; kernels are odd.
        resolutions: heights and widths of the input images in pixels, increasing.
        stage_widths, stage_strides, stage_se, stage_activations: one entry for each stage, before `width_multiplier`.
        stem_width, head_width, feature_width: channels of the first convolution and of the last two.
        width_multiplier: scales all widths, which are then rounded to multiples of 8.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is empty, out of order, not positive, or of a length that does not fit the others.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    resolutions: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    depths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    stage_strides: tuple[int, ...]
    stage_se: tuple[bool, ...]
    stage_activations: tuple[str, ...]
    stem_width: int
    stem_stride: int = 2
    stem_activation: str = "hardswish"
    head_width: int
    feature_width: int
    width_multiplier: float = 1.0
    deployed_resolution: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        asked = f"space {self.name!r}"
        for name in ("resolutions", "kernels", "expansions", "depths"):
            values = getattr(self, name)
            if not values or values[0] < 1 or list(values) != sorted(set(values)):
                raise ValueError(f"{asked}: {name} must be positive and increasing, found {list(values)}")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"{asked}: kernels must be odd, found {list(self.kernels)}")
        for name in ("stage_widths", "stage_strides", "stage_se", "stage_activations"):
            if not self.stage_widths or len(getattr(self, name)) != len(self.stage_widths):
                raise ValueError(
                    f"{asked}: {name} needs one entry for each of the {len(self.stage_widths)} stages, at least one, "
                    f"found {list(getattr(self, name))}"
                )
        positive = {
            name: getattr(self, name)
            for name in (
                "num_classes", "in_channels", "stem_width", "stem_stride", "head_width", "feature_width",
                "width_multiplier", "batch",
            )
        }  # fmt: skip
        for name, value in (*positive.items(), ("stage_widths", min(self.stage_widths))):
            if not value > 0:
                raise ValueError(f"{asked}: {name} must be positive, found {value!r}")
        if min(self.stage_strides) < 1:
            raise ValueError(f"{asked}: stage_strides must be positive, found {list(self.stage_strides)}")
        for activation in (self.stem_activation, *self.stage_activations):
            if activation not in ACTIVATIONS:
                raise ValueError(f"{asked}: unknown activation {activation!r}; there are {list(ACTIVATIONS)}")

    @property
    def resolution(self) -> int:
        return self.resolutions[-1]

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        knobs = {"resolution": self.resolutions} if len(self.resolutions) > 1 else {}
        for stage in range(1, len(self.stage_widths) + 1):
            knobs[f"stage{stage}_depth"] = self.depths
            for block in range(1, self.depths[-1] + 1):
                knobs[f"stage{stage}_block{block}_kernel"] = self.kernels
                knobs[f"stage{stage}_block{block}_expansion"] = self.expansions
        return knobs

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        for depth_knob, blocks in self._block_knobs:
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
            tuple(specs[arch[kernel], arch[expansion]] for kernel, expansion, specs in blocks[: arch[depth_knob]])
            for depth_knob, blocks in self._block_knobs
        )
        return self._fixed_layers._replace(stages=stages)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Stem, first block, every block of every stage, head. All depend on the image's size."""
        size = ("resolution",) if len(self.resolutions) > 1 else ()
        found = [Position(size, self._stem_at), Position(size, self._first_block_at)]
        for stage, (depth_knob, blocks) in enumerate(self._block_knobs):
            for block, (kernel_knob, expansion_knob, _) in enumerate(blocks):
                depth = () if block < self.depths[0] else (depth_knob,)
                found.append(
                    Position((*size, *depth, kernel_knob, expansion_knob), partial(self._block_at, stage, block))
                )
        return (*found, Position(size, self._head_at))

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "MobileNetV3":
        from search_spaces.mobilenet_v3_modules import MobileNetV3

        return MobileNetV3(self.layout(arch), self.in_channels)

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: resolution v becomes v * resolution / (largest resolution), images come in batches.

        Raises:
            ValueError: that is no positive whole number for one of the resolutions, or the batch is not positive.
        """
        if resolution is None:
            return replace(self, batch=batch)
        for each in self.resolutions:
            if resolution < 1 or each * resolution % self.resolution:
                raise ValueError(
                    f"space {self.name!r} cannot be deployed at resolution {resolution}: its resolution {each} of "
                    f"{list(self.resolutions)} would become {each * resolution / self.resolution:g}"
                )
        return replace(self, deployed_resolution=resolution, batch=batch)

    def _stem_at(self, knobs: Mapping[str, int]) -> Section:
        return _stem((self.batch, self.in_channels, *self._image(knobs)), self._fixed_layers[:3])

    def _first_block_at(self, knobs: Mapping[str, int]) -> Section:
        return _block(self._shape_after(0, 0, knobs), self._fixed_layers.first_block, "first_block")

    def _block_at(self, stage: int, block: int, knobs: Mapping[str, int]) -> Section | None:
        depth_knob, blocks = self._block_knobs[stage]
        if block >= knobs.get(depth_knob, self.depths[-1]):
            return None
        kernel, expansion, specs = blocks[block]
        shape = self._shape_after(stage, block, knobs)
        return _block(shape, specs[knobs[kernel], knobs[expansion]], f"stages.{stage}.{block}")

    def _head_at(self, knobs: Mapping[str, int]) -> Section:
        return _head(self._shape_after(len(self.stage_widths), 0, knobs), self._fixed_layers[5:])

    def _image(self, knobs: Mapping[str, int]) -> tuple[int, int]:
        size = self.image_size(knobs)
        if self.deployed_resolution is not None:
            size = size * self.deployed_resolution // self.resolution
        return size, size

    def _shape_after(self, num_stages: int, num_blocks: int, knobs: Mapping[str, int]) -> Shape:
        """What leaves so many whole stages, and so many blocks of the next one."""
        strides = self.stage_strides[: num_stages + (num_blocks > 0)]
        height, width = self._image(knobs)
        for stride in (self.stem_stride, *strides):  # odd kernels with half of them as padding
            height, width = -(-height // stride), -(-width // stride)
        channels = self._width(self.stage_widths[len(strides) - 1] if strides else self.stem_width)
        return self.batch, channels, height, width

    @cached_property
    def _fixed_layers(self) -> Layout:
        stem = self._width(self.stem_width)
        return Layout(
            stem_channels=stem,
            stem_stride=self.stem_stride,
            stem_activation=self.stem_activation,
            first_block=BlockSpec(stem, stem, stem, 3, 1, 0, "relu"),
            stages=(),
            head_channels=self._width(self.head_width),
            feature_channels=self._width(self.feature_width),
            num_classes=self.num_classes,
        )

    @cached_property
    def _block_knobs(self) -> tuple[tuple[str, tuple[tuple[str, str, dict[tuple[int, int], BlockSpec]], ...]], ...]:
        """For each stage its depth knob, and for each block its kernel and expansion knobs and what they make of it."""
        stages = []
        in_channels = self._width(self.stem_width)
        for stage, width in enumerate(self.stage_widths):
            blocks = []
            for block in range(self.depths[-1]):
                specs = {
                    (kernel, expansion): self._block_spec(stage, block, in_channels, kernel, expansion)
                    for kernel in self.kernels
                    for expansion in self.expansions
                }
                prefix = f"stage{stage + 1}_block{block + 1}"
                blocks.append((f"{prefix}_kernel", f"{prefix}_expansion", specs))
                in_channels = self._width(width)
            stages.append((f"stage{stage + 1}_depth", tuple(blocks)))
        return tuple(stages)

    def _block_spec(self, stage: int, block: int, in_channels: int, kernel: int, expansion: int) -> BlockSpec:
        hidden = make_divisible(in_channels * expansion)
        return BlockSpec(
            in_channels=in_channels,
            hidden_channels=hidden,
            out_channels=self._width(self.stage_widths[stage]),
            kernel=kernel,
            stride=self.stage_strides[stage] if block == 0 else 1,
            squeeze_channels=make_divisible(hidden // SQUEEZE_REDUCTION) if self.stage_se[stage] else 0,
            activation=self.stage_activations[stage],
        )

    def _width(self, base: int) -> int:
        return make_divisible(base * self.width_multiplier)


def make_divisible(channels: float, multiple: int = CHANNEL_MULTIPLE) -> int:
    """The nearest multiple, halves up, but at least one and never less than 90 % of `channels`, as in MobileNet's code.

    >>> make_divisible(24 * 1.2), make_divisible(12 // 4)
    (32, 8)
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


# Sections come from caches, so that equal ones of all spaces are one: a search asks for the same few thousand again and
# again, and predictors remember what each costs.


@lru_cache(maxsize=256)
def _stem(shape: Shape, layers: tuple[int, int, str]) -> Section:
    channels, stride, activation = layers
    builder = GraphBuilder()
    x = builder.input(shape, "input")
    x = _conv_bn(builder, x, "stem", channels, kernel=3, stride=stride, activation=activation)
    return Section(builder.graph(x))


@lru_cache(maxsize=1 << 15)
def _block(shape: Shape, spec: BlockSpec, name: str) -> Section:
    builder = GraphBuilder()
    x = y = builder.input(shape)
    hidden = spec.hidden_channels
    if hidden != spec.in_channels:
        y = _conv_bn(builder, y, f"{name}.expand", hidden, activation=spec.activation)
    y = _conv_bn(
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
    y = _conv_bn(builder, y, f"{name}.project", spec.out_channels)
    if spec.has_residual:
        y = builder.elementwise("add", x, y, name=name)
    return Section(builder.graph(y))


@lru_cache(maxsize=256)
def _head(shape: Shape, layers: tuple[int, int, int]) -> Section:
    head_channels, feature_channels, num_classes = layers
    builder = GraphBuilder()
    x = _conv_bn(builder, builder.input(shape), "head", head_channels, activation="hardswish")
    x = builder.global_pool(x, "pool")
    x = builder.conv2d(x, feature_channels, kernel=1, name="feature_mix.conv")
    x = builder.activation(x, "hardswish", "feature_mix.act")
    x = builder.linear(builder.flatten(x, "flatten"), num_classes, name="classifier")
    return Section(builder.graph(x))


def _conv_bn(
    builder: GraphBuilder, x: int, name: str, channels: int,
    kernel: int = 1, stride: int = 1, groups: int = 1, activation: str = "",
) -> int:  # fmt: skip
    x = builder.conv2d(x, channels, kernel=kernel, stride=stride, groups=groups, name=f"{name}.conv")
    x = builder.batch_norm(x, f"{name}.bn")
    return builder.activation(x, activation, f"{name}.act") if activation else x
