"""A user's own network made elastic: widths of its layers, depths of its sequences, found by tracing it.

>>> from torch import nn, zeros
>>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(16, 10))
>>> space = elastic(net, zeros(1, 3, 3, 3), widths={"0": (0.25, 0.5, 1.0)})
>>> space.choices
{'0_width': (8, 16, 32)}
>>> space.build({"0_width": 8})[2].in_channels
8
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from predictors.graph import Graph
from predictors.operators import Shape
from predictors.sections import Position, Section, joined
from search_spaces.elastic_graph import BaseGraph
from search_spaces.resolutions import ResolutionSpace
from search_spaces.space import Arch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.elastic_plan import Plan
    from search_spaces.supernet import Supernet

_Module = TypeVar("_Module")


@dataclass(frozen=True, kw_only=True)
class ElasticSpace(ResolutionSpace):
    """The networks that remain of one network when layers lose channels and sequences lose their last blocks.

    Knobs: `{path of a layer}_width` in channels, `{path of a sequence}_depth` in blocks; and `resolution`, if there is
    more than one. The largest arch is the network itself; `supernet` starts from its weights, `build` draws fresh ones.

    Args:
        network: a torch module, or 'package.module.function' that makes one; marks of its modules count too.
        widths: by the path of a layer, or a pattern of paths ('layer1.*.conv1'): shares of its channels up to 1.0, or
            numbers of channels. Layers whose channels hang together, as in residual sums, share one knob.
        depths: by the path of a Sequential: how many of its first blocks stay. The others must keep their shape.
        multiple: shares are rounded to multiples of it.
        weights: a file of safetensors, or of torch, with the weights of a network that is given by its name.

    Raises:
        ValueError: a pattern fits nothing, a width or a depth cannot be cut (with the reason), a field is out of range.
    """

    network: object
    widths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    depths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    multiple: int = 8
    weights: str | None = None
    plan: Any = field(default=None, repr=False, compare=False)
    """What tracing the network found; made once, and shared by deployed spaces."""

    def __post_init__(self) -> None:
        self._check_increasing("resolutions")
        if self.plan is None:
            from search_spaces.elastic_plan import make_plan

            object.__setattr__(self, "plan", make_plan(self))
        if min(self.batch, self.multiple) < 1:
            raise ValueError(f"space {self.name!r}: batch and multiple must be positive")

    @cached_property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        return self.resolution_knobs | {knob.name: knob.values for knob in self._plan.knobs}

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        for knob in self._plan.knobs:
            if any(arch[depth] <= block for depth, block in knob.within):
                yield knob.name

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Pieces between places where all data pass through one node; none where blocks lie across such places, or
        where a piece can be filled in so many ways (dense connections) that it would hardly ever be met again.
        """
        base = self._base(self.input_shape(self.largest()))
        if base is None or (cuts := base.cuts(self._plan.blocks)) is None:
            return ()
        size = tuple(self.resolution_knobs)
        found = []
        for begin, end in zip((0, *cuts), cuts):
            within = [depth for depth, blocks in self._plan.blocks.items() if base.block_at(blocks, begin) is not None]
            widths = [knob.name for knob in self._plan.widths if base.touches(knob.groups, begin, end)]
            found.append(Position((*size, *within, *widths), partial(self._section, begin, end)))
        ways = [prod(len(self.choices[knob]) for knob in position.knobs) for position in found]
        return tuple(found) if max(ways) <= _MOST_WAYS else ()

    def graph(self, arch: Mapping[str, int]) -> Graph:
        self.check(arch)
        if self.positions:
            return joined(self.positions, arch, self.name)
        return self._whole_graph(tuple(self.canonical(arch).items()))

    def build(self, arch: Mapping[str, int]) -> "nn.Module":
        module: nn.Module = self._plan.build(self.canonical(arch))
        return module

    def shared_network(self) -> "nn.Module":
        """The network itself, with its weights."""
        return self._plan.copied()

    def supernet(self) -> "Supernet":
        from search_spaces.elastic_supernet import ElasticSupernet

        return ElasticSupernet(self)

    @cached_property
    def identity(self) -> Mapping[str, object]:
        return {
            "class": type(self).__qualname__,
            "name": self.name,
            "choices": {knob: list(values) for knob, values in self.choices.items()},
            "images": [self.in_channels, self.resolution],
            "network": _digest(self._plan.module),
        }

    @property
    def _plan(self) -> "Plan":
        plan: Plan = self.plan
        return plan

    def _base(self, shape: Shape) -> BaseGraph | None:
        """The network itself on images of that shape, to be edited; None where edits are not known to be right."""
        return self._plan.base(shape) if self._plan.editable else None

    @cached_property
    def _sections(self) -> dict[Any, Section | None]:
        """Those that were made, so that equal ones are one."""
        return {}

    def _section(self, begin: int, end: int, knobs: Mapping[str, int]) -> Section | None:
        key = (begin, *knobs.items())
        if key not in self._sections:
            self._sections[key] = self._made_section(begin, end, self.largest() | dict(knobs))
        return self._sections[key]

    def _made_section(self, begin: int, end: int, arch: Arch) -> Section | None:
        base = self._base(self.input_shape(arch))
        assert base is not None
        for depth, blocks in self._plan.blocks.items():
            block = base.block_at(blocks, begin)
            if block is not None and block >= arch[depth]:
                return None
        return base.section(self._plan.units(arch), begin, end)

    @cached_property
    def _whole_graph(self) -> Callable[[tuple[tuple[str, int], ...]], Graph]:
        @lru_cache(maxsize=1024)
        def graph(items: tuple[tuple[str, int], ...]) -> Graph:
            arch = dict(items)
            shape = self.input_shape(arch)
            base = self._base(shape)
            if base is None:
                return self._plan.traced(arch, shape, self.name)
            dropped = [blocks[arch[depth] :] for depth, blocks in self._plan.blocks.items()]
            return base.edited(self._plan.units(arch), [block for each in dropped for block in each], self.name)

        return graph


def elastic(
    module: "nn.Module",
    example_input: "Tensor",
    widths: Mapping[str, Sequence[float]] | None = None,
    depths: Mapping[str, Sequence[int]] | None = None,
    *,
    resolutions: Sequence[int] = (),
    name: str = "",
    multiple: int = 8,
) -> ElasticSpace:
    """The space of a network's narrower and shallower versions, see `ElasticSpace`.

    Args:
        module: maps images to logits (batch, classes); it is not changed, and must not be afterwards.
        example_input: images (batch, channels, size, size); only their shape counts.
        widths, depths: by paths or patterns of paths; those that `mark_width` and `mark_depth` set count too.
        resolutions: heights and widths of the images in pixels, by default that of the example alone.
        name: by default that of the module's class.

    Raises:
        ValueError: see `ElasticSpace`; or the images are not square, or the network returns no logits.
    """
    shape = tuple(example_input.shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(
            f"elastic: the example input has to be square images (batch, channels, size, size), found {shape}"
        )
    from search_spaces.elastic_plan import num_logits

    return ElasticSpace(
        name=name or type(module).__name__.lower(),
        num_classes=num_logits(module, shape),
        in_channels=shape[1],
        resolutions=tuple(resolutions) or (shape[2],),
        network=module,
        widths={pattern: tuple(values) for pattern, values in (widths or {}).items()},
        depths={pattern: tuple(values) for pattern, values in (depths or {}).items()},
        multiple=multiple,
    )


def mark_width(layer: _Module, values: Sequence[float]) -> _Module:
    """The layer, marked to be elastic in its output channels, as `widths` of `elastic` would."""
    layer.elastic_width = tuple(values)  # type: ignore[attr-defined]
    return layer


def mark_depth(blocks: _Module, values: Sequence[int]) -> _Module:
    """The Sequential, marked to be elastic in its number of blocks, as `depths` of `elastic` would."""
    blocks.elastic_depth = tuple(values)  # type: ignore[attr-defined]
    return blocks


# ------------------------------------------------------------------------------------------------------------ private

_MOST_WAYS = 4096


def _digest(module: "nn.Module") -> str:
    """Of the structure and the weights."""
    found = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(_uint8()).numpy().tobytes())
    return found.hexdigest()


def _uint8() -> Any:
    import torch

    return torch.uint8
