"""What can be cut of a user's own network: found once by tracing it, checked, and then done without tracing."""

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import count
from math import lcm
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from predictors.channel_groups import ChannelGroup, channel_groups, with_parameters
from predictors.graph import Graph
from predictors.operators import Shape, UnknownOperatorError, nearest_names
from predictors.reshaping import ReshapeError
from predictors.tracing import trace
from search_spaces.channel_cutting import cut, kept_places, part
from search_spaces.channel_sorting import norm_groups
from search_spaces.deployment import Foldable, as_deployed
from search_spaces.elastic_graph import BaseGraph
from search_spaces.space import Arch

if TYPE_CHECKING:
    from search_spaces.elastic import ElasticSpace


@dataclass(frozen=True, eq=False, kw_only=True)
class WidthKnob:
    """Channels of a layer, and of all that hang together with them.

    Attributes:
        groups: numbers of the groups that are cut.
        units: for each value how many units of the groups stay.
        within: depth knobs and blocks without which nothing of this is left.
    """

    name: str
    values: tuple[int, ...]
    groups: tuple[int, ...]
    units: Mapping[int, int]
    within: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthKnob:
    """Blocks of a sequence, `path`, of which the first ones stay."""

    name: str
    values: tuple[int, ...]
    path: str
    blocks: tuple[str, ...]
    within: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """A network and its knobs.

    Attributes:
        editable: graphs edited from the network's own are those that tracing finds; else archs are built and traced.
    """

    module: nn.Module
    groups: tuple[ChannelGroup, ...]
    widths: tuple[WidthKnob, ...]
    depths: tuple[DepthKnob, ...]
    editable: bool = True
    _bases: dict[Shape, BaseGraph] = field(default_factory=dict, repr=False)

    @cached_property
    def knobs(self) -> tuple[WidthKnob | DepthKnob, ...]:
        """In the order of the network."""
        place = {name: number for number, (name, _) in enumerate(self.module.named_modules())}
        knobs: list[WidthKnob | DepthKnob] = [*self.depths, *self.widths]
        return tuple(sorted(knobs, key=lambda knob: place[knob.name.rpartition("_")[0]]))

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Paths of the blocks that each depth knob counts."""
        return {knob.name: knob.blocks for knob in self.depths}

    def units(self, arch: Mapping[str, int]) -> dict[int, int]:
        """How many units of each elastic group an arch has."""
        return {group: knob.units[arch[knob.name]] for knob in self.widths for group in knob.groups}

    def copied(self) -> nn.Module:
        """The network itself."""
        return self._cut({}, weights=True)

    def build(self, arch: Arch) -> nn.Module:
        """The network of an arch with fresh weights, as far as its layers know how to draw them."""
        places = kept_places(self.groups, self.units(arch))
        module = self._cut(places, weights=False)
        for knob in self.depths:
            blocks = module.get_submodule(knob.path)
            for name in [block.rpartition(".")[2] for block in reversed(knob.blocks[arch[knob.name] :])]:
                del blocks._modules[name]
        drawn: set[str] = set()
        for path, each in module.named_modules():
            if callable(reset := getattr(each, "reset_parameters", None)):
                reset()
                drawn.update(f"{path}.{name}" if path else name for name in (*each._parameters, *each._buffers))
        with torch.no_grad():
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if name not in drawn:
                    tensor.copy_(part(_tensor(self.module, name), places.get(name, {})))
        return module

    def traced(self, arch: Arch, shape: Shape, name: str = "") -> Graph:
        """The graph of an arch as deployed, the slow way."""
        graph = trace(as_deployed(self.build(arch)), torch.empty(shape, device="meta"))
        return Graph(graph.nodes, graph.outputs, name)

    def base(self, shape: Shape) -> BaseGraph:
        """The network itself on images of that shape."""
        if shape not in self._bases:
            graph = trace(self.module, torch.empty(shape, device="meta"))
            self._bases[shape] = BaseGraph(graph, _groups(self.module, graph))
        return self._bases[shape]

    def _cut(self, places: dict[str, dict[int, np.ndarray]], weights: bool) -> nn.Module:
        module = cut(self.module, places, weights=weights)
        module.kept_places = places  # type: ignore[assignment]  # what `ElasticSupernet` slices by
        return module.train()


def num_logits(module: nn.Module, shape: Shape) -> int:
    """Classes of a network of images.

    Raises:
        ValueError: it returns anything else than logits (batch, classes).
    """
    graph = trace(module, torch.empty(shape, device="meta"))
    outputs = [graph.nodes[index].operator.output_shape for index in graph.outputs]
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][0] != shape[0]:
        raise ValueError(
            f"elastic: {type(module).__name__} has to return logits (batch, classes) of images {shape}, found {outputs}"
        )
    return outputs[0][1]


def make_plan(space: "ElasticSpace") -> Plan:
    """Find everything that a space asks for, and prove that it can be cut.

    Raises:
        ValueError: see `ElasticSpace`.
    """
    asked = f"space {space.name!r}"
    module = _network(space, asked)
    shape = (1, space.in_channels, space.resolution, space.resolution)
    if (found := num_logits(module, shape)) != space.num_classes:
        raise ValueError(f"{asked} has num_classes {space.num_classes}; its network has {found}")
    shapes: dict[str, tuple[Any, Any]] = {}
    graph = _traced_with_shapes(module, shape, shapes)
    for size in space.resolutions:
        try:
            trace(module, torch.empty(1, space.in_channels, size, size, device="meta"))
        except Exception as error:  # whatever the user's own code raises
            raise ValueError(
                f"{asked}: the network does not run on images of {size} pixels: {_first_line(error)}"
            ) from error
    groups = _groups(module, graph)
    depths = _depth_knobs(space, module, shapes, asked)
    widths = _width_knobs(space, module, groups, depths, asked)
    if not widths and not depths and len(space.resolutions) == 1:
        raise ValueError(f"{asked} has nothing elastic: give widths, depths or resolutions, or mark modules")
    depths = tuple(
        DepthKnob(
            name=knob.name, values=knob.values, path=knob.path, blocks=knob.blocks, within=_within([knob.path], depths)
        )
        for knob in depths
    )
    plan = Plan(
        module, groups, widths, depths, editable=not any(isinstance(each, Foldable) for each in module.modules())
    )
    return _checked(plan, shape, asked)


# ------------------------------------------------------------------------------------------------ a network by its name


def _network(space: "ElasticSpace", asked: str) -> nn.Module:
    made = space.network
    if isinstance(made, str):
        try:
            made = resolve_name(made)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # so that a space of one name has one identity
                made = made() if callable(made) and not isinstance(made, nn.Module) else made
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{asked}: network {space.network!r} is no package.module.function: {error}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"{asked}: network {space.network!r} has to be a torch module, or make one; found {made!r:.80}"
        )
    if space.weights is not None:
        _load(made, Path(space.weights).expanduser(), asked)
    return made


def _load(module: nn.Module, path: Path, asked: str) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{asked}: weights {str(path)!r} do not exist") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{asked}: weights {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"{asked}: weights {str(path)!r} are damaged: {error}") from None
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:3]) or str(error)
        raise ValueError(f"{asked}: weights {str(path)!r} do not fit the network: {lines:.300}") from None


# ---------------------------------------------------------------------------------------------------------- what it has


def _groups(module: nn.Module, graph: Graph) -> tuple[ChannelGroup, ...]:
    shapes = {name: tuple(each.shape) for name, each in (*module.named_parameters(), *module.named_buffers())}
    return with_parameters(channel_groups(graph, norm_groups(module)), shapes)


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    found = owner._parameters.get(last)
    return owner.get_buffer(last) if found is None else found


def _traced_with_shapes(module: nn.Module, shape: Shape, shapes: dict[str, tuple[Any, Any]]) -> Graph:
    """The graph; what goes into and comes out of each module by its path goes into `shapes`, None if it runs twice."""
    hooks = []

    def note(path: str, inputs: Any, output: Any) -> None:
        first = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else None
        alone = first is not None and isinstance(output, Tensor) and path not in shapes
        shapes[path] = (tuple(first.shape), tuple(output.shape)) if alone and first is not None else (None, None)

    for path, each in module.named_modules():
        hooks.append(each.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output)))
    try:
        return trace(module, torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()


def _matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Paths that fit a pattern part by part, so that a star stands for one name between dots."""
    parts = pattern.split(".")
    return [
        path
        for path in paths
        if len(found := path.split(".")) == len(parts) and all(fnmatchcase(*pair) for pair in zip(found, parts))
    ]


def _asked_for(
    given: Mapping[str, Any], mark: str, module: nn.Module, allowed: Sequence[str], what: str, asked: str
) -> dict[str, Any]:
    """Values by path, of patterns and of marks.

    Raises:
        ValueError: a pattern fits nothing, or a path is asked for twice with different values.
    """
    found: dict[str, Any] = {}
    marked = {path: getattr(each, mark) for path, each in module.named_modules() if hasattr(each, mark)}
    for pattern, values in (*marked.items(), *given.items()):
        paths = _matching(pattern, allowed)
        if not paths:
            near = nearest_names(pattern, allowed)
            listed = ", ".join(allowed[:40]) + (f" and {len(allowed) - 40} more" if len(allowed) > 40 else "")
            raise ValueError(f"{asked}: no {what} {pattern!r}{near}; there are {listed or 'none'}")
        for path in paths:
            if found.setdefault(path, tuple(values)) != tuple(values):
                raise ValueError(f"{asked}: {what} {path!r} is asked for as {list(found[path])} and as {list(values)}")
    return found


# --------------------------------------------------------------------------------------------------------------- depths


def _depth_knobs(
    space: "ElasticSpace", module: nn.Module, shapes: Mapping[str, tuple[Any, Any]], asked: str
) -> tuple[DepthKnob, ...]:
    sequences = [
        path for path, each in module.named_modules() if isinstance(each, nn.Sequential | nn.ModuleList) and path
    ]
    knobs = []
    for path, values in _asked_for(space.depths, "elastic_depth", module, sequences, "Sequential", asked).items():
        names = [name for name, _ in module.get_submodule(path).named_children()]
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if not values or not whole or list(values) != sorted(set(values)) or values[0] < 1 or values[-1] != len(names):
            raise ValueError(
                f"{asked}: depths of {path!r} are increasing numbers of its {len(names)} blocks, from 1, the last is "
                f"all of them; found {list(values)}"
            )
        blocks = tuple(f"{path}.{name}" for name in names)
        for number, block in enumerate(blocks):
            before, after = shapes.get(block, (None, None))
            if number >= values[0] and (before is None or before != after):
                how = f"makes {after} of {before}" if before else "does not run once on one tensor"
                raise ValueError(
                    f"{asked}: block {block!r} {how}, so it cannot be left out; depths of {path!r} have to begin at "
                    f"{number + 1} or more"
                )
        knobs.append(DepthKnob(name=f"{path}_depth", values=tuple(values), path=path, blocks=blocks))
    return tuple(knobs)


def _within(paths: Sequence[str], depths: Sequence[DepthKnob]) -> tuple[tuple[str, int], ...]:
    """Depth knobs and the first of their blocks that all of these layers lie in or behind."""
    found = []
    for knob in depths:
        inside = [
            number
            for path in paths
            for number, block in enumerate(knob.blocks)
            if path == block or path.startswith(f"{block}.")
        ]
        if len(inside) == len(paths) and paths and min(inside) >= knob.values[0]:
            found.append((knob.name, min(inside)))
    return tuple(found)


# --------------------------------------------------------------------------------------------------------------- widths


def _width_knobs(
    space: "ElasticSpace", module: nn.Module, groups: Sequence[ChannelGroup], depths: Sequence[DepthKnob], asked: str
) -> tuple[WidthKnob, ...]:
    writers: dict[str, dict[int, int]] = {}  # path -> group -> channels
    for number, group in enumerate(groups):
        for use in group.uses:
            if use.side == "out":
                writers.setdefault(use.name, {})[number] = int((use.unit_of >= 0).sum())
    wanted: dict[int, tuple[str, tuple[int, ...]]] = {}
    for path, values in _asked_for(
        space.widths, "elastic_width", module, list(writers), "layer with channels", asked
    ).items():
        free = [number for number in writers[path] if not groups[number].fixed]
        if not free:
            reason = groups[next(iter(writers[path]))].fixed
            raise ValueError(f"{asked}: the channels of {path!r} cannot be cut: {reason}")
        if len(writers[path]) > 1:
            raise ValueError(f"{asked}: the channels of {path!r} play different parts, so they cannot be cut as one")
        group = groups[free[0]]
        widths = _widths(values, writers[path][free[0]], group.size, space.multiple, f"{asked}: widths of {path!r}")
        units = tuple(width * group.size // writers[path][free[0]] for width in widths)
        first, before = wanted.setdefault(free[0], (path, widths))
        if tuple(width * group.size // writers[first][free[0]] for width in before) != units:
            raise ValueError(
                f"{asked}: the channels of {first!r} and {path!r} hang together, so they have the same widths; found "
                f"{list(before)} and {list(widths)}"
            )
    return tuple(
        WidthKnob(
            name=f"{path}_width",
            values=widths,
            groups=(number,),
            units={width: width * groups[number].size // widths[-1] for width in widths},
            within=_within([use.name for use in groups[number].uses if use.side == "out"], depths),
        )
        for number, (path, widths) in wanted.items()
    )


def _widths(values: Sequence[float], channels: int, units: int, multiple: int, asked: str) -> tuple[int, ...]:
    """Numbers of channels: whole units, and shares rounded to multiples, halves up."""
    unit = channels // units
    found = set()
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= channels:
            raise ValueError(f"{asked} are shares up to 1.0 or numbers up to its {channels} channels, found {value!r}")
        if value > 1:
            if value % unit:
                raise ValueError(f"{asked} are multiples of {unit}, which hang together; found {value!r}")
            found.add(int(value))
        else:
            step = lcm(unit, multiple)
            step = step if step <= channels else unit
            found.add(channels if value == 1 else min(channels, max(step, int(value * channels / step + 0.5) * step)))
    if not found or max(found) != channels:
        raise ValueError(f"{asked} have to end with the whole layer, 1.0 or {channels}; found {list(values)}")
    return tuple(sorted(found))


# ------------------------------------------------------------------------------------------------------------ the proof


def _checked(plan: Plan, shape: Shape, asked: str) -> Plan:
    """The plan, once its smallest and some mixed networks run and have the graphs that editing says.

    Raises:
        ValueError: cutting one of the knobs leaves a network that does not run; it is named.
    """
    knobs = {knob.name: knob.values for knob in plan.knobs}
    largest = {name: values[-1] for name, values in knobs.items()}
    mixed = {name: values[place % len(values)] for place, (name, values) in zip(count(), knobs.items())}
    for arch in ({name: values[0] for name, values in knobs.items()}, mixed):
        try:
            graph = plan.traced(arch, shape)
        except Exception as error:  # whatever the user's own code raises
            for name, values in knobs.items():
                if (problem := _problem(plan, largest | {name: values[0]}, shape)) is not None:
                    raise ValueError(
                        f"{asked}: with {name} {values[0]} the network does not run, its own code may hold numbers of "
                        f"channels or blocks: {problem}"
                    ) from error
            raise ValueError(f"{asked}: with {arch} the network does not run: {_first_line(error)}") from error
        if plan.editable and not _edits_to(plan, arch, shape, graph):
            return Plan(plan.module, plan.groups, plan.widths, plan.depths, editable=False)
    return plan


def _problem(plan: Plan, arch: Arch, shape: Shape) -> str | None:
    try:
        plan.traced(arch, shape)
    except Exception as error:  # whatever the user's own code raises
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _edits_to(plan: Plan, arch: Arch, shape: Shape, graph: Graph) -> bool:
    dropped = [block for name, blocks in plan.blocks.items() for block in blocks[arch[name] :]]
    try:
        return plan.base(shape).edited(plan.units(arch), dropped) == graph
    except (ReshapeError, UnknownOperatorError, AssertionError, ValueError):
        return False
