"""Vision transformers with elastic embedding, depth, heads and MLP ratios, as AutoFormer searches them.

Structure: M. Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021,
https://arxiv.org/abs/2107.00651, and their code (`Vision_TransformerSuper`, https://github.com/microsoft/Cream). Blocks
normalize before they compute, heads have a fixed width, so that queries, keys and values are `heads * head_dim` wide
whatever the embedding is. Left out are AutoFormer's relative position embeddings of keys and values: they make of each
attention products and gathers that no runtime runs as one kernel.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import Self

from predictors.graph import Graph, GraphBuilder, shared_operator
from predictors.movement import Steps, is_reshape, strided_steps
from predictors.operators import Attention, Constant, Copy, Normalization, Reduce, Shape, View
from predictors.sections import Position, Section, joined
from search_spaces.space import KnobSpace

if TYPE_CHECKING:
    from search_spaces.vit_modules import ViT

POOLINGS = ("mean", "token")


class EmbeddingSpec(NamedTuple):
    """Patches of `patch` pixels become vectors of `dim` numbers, to which a learned position is added.

    `grid` is how many patches the learned positions are high and wide, `position_std` how much they differ before
    anything is learned. With `has_token` a learned vector comes before the patches.
    """

    patch: int
    dim: int
    grid: int
    has_token: bool
    position_std: float

    @property
    def num_positions(self) -> int:
        return self.grid**2 + self.has_token


class BlockSpec(NamedTuple):
    """Attention of `heads` heads of `head_dim` numbers, then an MLP with `hidden` numbers inside."""

    heads: int
    head_dim: int
    hidden: int


class HeadSpec(NamedTuple):
    """What is left of the tokens, one of `POOLINGS`, and the classes."""

    pooling: str
    num_classes: int


class Layout(NamedTuple):
    """All that the module of one arch is made of; its graph is made of the same specs, so neither can differ."""

    embedding: EmbeddingSpec
    blocks: tuple[BlockSpec, ...]
    head: HeadSpec


@dataclass(frozen=True, kw_only=True)
class ViTSpace(KnobSpace):
    """Elastic vision transformers. Knobs: `embed_dim`, `depth`, and of each block, from 1, `block{i}_heads` and
    `block{i}_mlp_tenths`; and `resolution`, if there is more than one.

    Args:
        resolutions: heights and widths of the input images in pixels, increasing, multiples of `patch`. The learned
            positions are those of the largest; for other images they are interpolated.
        patch: height and width of a patch in pixels.
        embed_dims, depths, heads: choices, increasing.
        mlp_tenths: choices of every block, increasing: 35 makes the MLP 3.5 times as wide as the embedding, rounded
            down.
        head_dim: width of each head's queries, keys and values.
        pooling: what the classifier reads: `mean` of all patches, or a class `token` that is learned and comes before
            them. (AutoFormer's commands average the patches and keep a token that nobody reads at the end.)
        position_std: standard deviation of the positions before they are learned. The customary 0.02 is little beside
            the patches: with few steps nothing of where a patch stands is learned.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is empty, out of order or not positive, or a resolution is not a whole number of patches.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    resolutions: tuple[int, ...]
    patch: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_tenths: tuple[int, ...]
    head_dim: int = 64
    pooling: str = "mean"
    position_std: float = 0.02
    deployed_resolution: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        asked = f"space {self.name!r}"
        for name in ("resolutions", "embed_dims", "depths", "heads", "mlp_tenths"):
            values = getattr(self, name)
            if not values or values[0] < 1 or list(values) != sorted(set(values)):
                raise ValueError(f"{asked}: {name} must be positive and increasing, found {list(values)}")
        for name in ("num_classes", "in_channels", "patch", "head_dim", "position_std", "batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{asked}: {name} must be positive, found {getattr(self, name)!r}")
        for each in self.resolutions:
            if each % self.patch:
                raise ValueError(f"{asked}: resolution {each} is not a whole number of patches of {self.patch} pixels")
        if self.embed_dims[0] * self.mlp_tenths[0] < 10:
            raise ValueError(
                f"{asked}: embedding {self.embed_dims[0]} and mlp_tenths {self.mlp_tenths[0]} leave an MLP without "
                "width; 10 tenths are as wide as the embedding"
            )
        if self.pooling not in POOLINGS:
            raise ValueError(f"{asked}: unknown pooling {self.pooling!r}; there are {list(POOLINGS)}")

    @property
    def resolution(self) -> int:
        return self.resolutions[-1]

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        knobs = {"resolution": self.resolutions} if len(self.resolutions) > 1 else {}
        knobs |= {"embed_dim": self.embed_dims, "depth": self.depths}
        for heads_knob, mlp_knob in self._block_knobs:
            knobs |= {heads_knob: self.heads, mlp_knob: self.mlp_tenths}
        return knobs

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        for knobs in self._block_knobs[arch["depth"] :]:
            yield from knobs

    def layout(self, arch: Mapping[str, int]) -> Layout:
        """Widths of every layer.

        Raises:
            ValueError: the arch is not one of this space.
        """
        self.check(arch)
        blocks = tuple(self._block_spec(block, arch) for block in range(arch["depth"]))
        return Layout(self._embedding_spec(arch), blocks, self._head_spec)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The embedding, then every block, whichever is the last with the head behind it. (Alone, the head begins with
        a norm that some runtimes fuse into the sum before it: its costs would not simply add up.)
        """
        everywhere = (*(("resolution",) if len(self.resolutions) > 1 else ()), "embed_dim")
        found = [Position(everywhere, self._embedding_at)]
        for block, knobs in enumerate(self._block_knobs):
            depth = () if block + 1 < self.depths[0] else ("depth",)
            found.append(Position((*everywhere, *depth, *knobs), partial(self._block_at, block)))
        return tuple(found)

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        return joined(self.positions, arch, self.name)

    def build(self, arch: Mapping[str, int]) -> "ViT":
        from search_spaces.vit_modules import ViT

        return ViT(self.layout(arch), self.in_channels)

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: resolution v becomes v * resolution / (largest resolution), images come in batches.

        Other images have another number of patches; the learned positions, which stay as many, are interpolated to
        them (`search_spaces.vit_modules.interpolated`). That costs nothing when the network runs: it is a constant.

        Raises:
            ValueError: that is not a whole number of patches for one of the resolutions, or the batch is not positive.
        """
        if resolution is None:
            return replace(self, batch=batch)
        for each in self.resolutions:
            size = each * resolution / self.resolution
            if resolution < 1 or size % self.patch:
                raise ValueError(
                    f"space {self.name!r} cannot be deployed at resolution {resolution}: its resolution {each} of "
                    f"{list(self.resolutions)} would become {size:g}, which must be a positive multiple of the patch, "
                    f"{self.patch}"
                )
        return replace(self, deployed_resolution=resolution, batch=batch)

    def _embedding_at(self, knobs: Mapping[str, int]) -> Section:
        size = self._image_size(knobs)
        return _embedding((self.batch, self.in_channels, size, size), self._embedding_spec(knobs))

    def _block_at(self, block: int, knobs: Mapping[str, int]) -> Section | None:
        depth = knobs.get("depth", self.depths[-1])
        if block >= depth:
            return None
        num_tokens = (self._image_size(knobs) // self.patch) ** 2 + (self.pooling == "token")
        shape = (self.batch, num_tokens, knobs["embed_dim"])
        head = self._head_spec if block == depth - 1 else None
        return _block(shape, self._block_spec(block, knobs), f"blocks.{block}", head)

    def _image_size(self, knobs: Mapping[str, int]) -> int:
        size = self.image_size(knobs)
        return size if self.deployed_resolution is None else size * self.deployed_resolution // self.resolution

    def _embedding_spec(self, knobs: Mapping[str, int]) -> EmbeddingSpec:
        grid = self.resolution // self.patch
        return EmbeddingSpec(self.patch, knobs["embed_dim"], grid, self.pooling == "token", self.position_std)

    def _block_spec(self, block: int, knobs: Mapping[str, int]) -> BlockSpec:
        heads_knob, mlp_knob = self._block_knobs[block]
        return BlockSpec(knobs[heads_knob], self.head_dim, hidden=knobs["embed_dim"] * knobs[mlp_knob] // 10)

    @cached_property
    def _head_spec(self) -> HeadSpec:
        return HeadSpec(self.pooling, self.num_classes)

    @cached_property
    def _block_knobs(self) -> tuple[tuple[str, str], ...]:
        return tuple((f"block{i}_heads", f"block{i}_mlp_tenths") for i in range(1, self.depths[-1] + 1))


# Sections come from caches, so that equal ones of all spaces are one: a search asks for the same few thousand again and
# again, and predictors remember what each costs.


@lru_cache(maxsize=256)
def _embedding(shape: Shape, spec: EmbeddingSpec) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape, "input")
    x = builder.conv2d(x, spec.dim, spec.patch, spec.patch, padding=0, bias=True, name="embedding.patches")
    batch, dim, height, width = builder.shape(x)
    num_patches = height * width
    to, strides = (batch, num_patches, dim), (dim * num_patches, 1, num_patches)
    if spec.has_token:
        token = _token(builder, batch, dim)
        x = builder.concat(token, _view(builder, x, to, strides, name="embedding"), axis=1, name="embedding")
    elif num_patches > 1:
        x = _copy(builder, x, to, strides, "transpose", name="embedding")
    else:
        x = _view(builder, x, to, strides, name="embedding")
    positions = shared_operator(
        Constant, shape=(1, num_patches + spec.has_token, dim), learned_params=spec.num_positions * dim
    )
    x = builder.elementwise("add", x, builder.add(positions, name="embedding"), name="embedding")
    return Section(builder.graph(x))


@lru_cache(maxsize=1 << 14)
def _block(shape: Shape, spec: BlockSpec, name: str, head: HeadSpec | None) -> Section:
    builder = GraphBuilder()
    x = builder.input(shape)
    y = _layer_norm(builder, x, f"{name}.attention_norm")
    y = _attention(builder, y, spec, f"{name}.attention")
    x = builder.elementwise("add", x, y, name=name)
    y = _layer_norm(builder, x, f"{name}.mlp_norm")
    y = builder.linear(y, spec.hidden, name=f"{name}.mlp.expand")
    y = builder.activation(y, "gelu", f"{name}.mlp.act")
    y = builder.linear(y, shape[2], name=f"{name}.mlp.project")
    x = builder.elementwise("add", x, y, name=name)
    return Section(builder.graph(x if head is None else _head(builder, x, head)))


def _token(builder: GraphBuilder, batch: int, dim: int) -> int:
    """The class token, once for each image."""
    shape, to = (1, 1, dim), (batch, 1, dim)
    token = builder.add(shared_operator(Constant, shape=shape, learned_params=dim), name="embedding")
    if batch == 1:
        return token
    return _copy(builder, token, to, (0, dim, 1), "expand", name="embedding")


def _attention(builder: GraphBuilder, x: int, spec: BlockSpec, name: str) -> int:
    batch, length, dim = builder.shape(x)
    heads, head_dim = spec.heads, spec.head_dim
    inner = heads * head_dim
    qkv = builder.linear(x, 3 * inner, name=f"{name}.qkv")
    shape, strides = (batch, heads, length, head_dim), (3 * inner * length, 3 * head_dim, 3 * inner, 1)
    parts = [_view(builder, qkv, shape, strides, offset=part * head_dim, name=name) for part in range(3)]
    attention = shared_operator(
        Attention,
        batch=batch, heads=heads, query_length=length, key_length=length, head_dim=head_dim, value_dim=head_dim,
    )  # fmt: skip
    x = builder.add(attention, *parts, name=name)
    # Attention writes (batch, length, heads, head_dim): what follows reads its data as they lie.
    name = f"{name}.project"
    written = (inner * length, head_dim, inner, 1)
    x = _view(builder, x, (batch, length, inner), (inner * length, inner, 1), written, name=name)
    return builder.linear(x, dim, name=name)


def _head(builder: GraphBuilder, x: int, spec: HeadSpec) -> int:
    x = _layer_norm(builder, x, "norm")
    shape = batch, length, dim = builder.shape(x)
    if spec.pooling == "mean":
        x = builder.add(shared_operator(Reduce, shape=shape, method="mean", axes=(1,)), x, name="pool")
    elif batch == 1:
        x = _view(builder, x, (batch, dim), (length * dim, 1), name="classifier")
    else:  # the classifier's kernels want rows without gaps
        x = _copy(builder, x, (batch, dim), (length * dim, 1), "slice", name="classifier")
    return builder.linear(x, spec.num_classes, name="classifier")


def _layer_norm(builder: GraphBuilder, x: int, name: str) -> int:
    shape = builder.shape(x)
    norm = shared_operator(Normalization, shape=shape, method="layer_norm", affine_params=2 * shape[-1])
    return builder.add(norm, x, name=name)


def _view(
    builder: GraphBuilder, x: int, to: Shape, strides: Shape, lies: Shape = (), offset: int = 0, name: str = ""
) -> int:
    """What `x` wrote, read where it lies: in the order of its axes, or by the strides `lies`."""
    shape = builder.shape(x)
    steps = _steps(shape, lies or _dense(shape), to, strides, offset)
    view = shared_operator(View, shape=shape, to=to, steps=() if is_reshape(steps) else steps)
    return builder.add(view, x, name=name)


def _copy(builder: GraphBuilder, x: int, to: Shape, strides: Shape, method: str, name: str = "") -> int:
    """What `x` wrote, written once more in the order in which the strides read it."""
    shape = builder.shape(x)
    steps = _steps(shape, _dense(shape), to, strides)
    return builder.add(shared_operator(Copy, shape=shape, to=to, method=method, steps=steps), x, name=name)


def _steps(shape: Shape, lies: Shape, to: Shape, strides: Shape, offset: int = 0) -> Steps:
    steps = strided_steps(shape, lies, to, strides, offset)
    assert steps is not None, f"{to} with strides {strides} is no view of {shape}"
    return steps


def _dense(shape: Shape) -> Shape:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
