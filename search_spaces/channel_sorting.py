"""Channels of a supernet in the order of their importance: the leading ones, which small subnets have, matter most.

Source: H. Cai et al., "Once-for-All", ICLR 2020, https://arxiv.org/abs/1908.09791, section 3.3 (elastic width), and
`re_organize_middle_weights` of https://github.com/mit-han-lab/once-for-all.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from predictors.channel_groups import ChannelGroup, channel_groups, with_parameters
from predictors.graph import Graph
from predictors.operators import AdaptivePool2d, Constant, Reduce, Shape
from predictors.tracing import trace
from search_spaces.space import Arch, Space
from search_spaces.supernet import Supernet, uninitialised

Order = dict[str, list[tuple[int, Tensor]]]
"""For each reordered tensor of `supernet.network`: its axes, and for each of their places which place it takes."""


def sort_channels(supernet: Supernet, keep: Iterable[Mapping[str, int]] = ()) -> Order:
    """Sort the channels of every elastic width, in place, the most important ones first; returns what moved where.

    A channel's importance is the L1 norm of the weights that read it. Gates that read a channel's mean alone
    (squeeze-and-excite) count only where nothing else reads the channel. The largest subnet computes what it did. Call
    it before the first step in which a width or an expansion becomes elastic; apply what it returns with `reorder` to
    anything else that lies along the weights: their averages, the optimizer's moments.

    Args:
        supernet: its shared weights, and the running statistics among the buffers, are reordered.
        keep: archs that are trained already: what is theirs stays theirs, sorted within.

    Raises:
        ValueError: an arch is not one of the space.
    """
    order = channel_order(supernet, keep)
    reorder(dict(supernet.network.named_parameters()) | dict(supernet.network.named_buffers()), order)
    return order


def channel_order(supernet: Supernet, keep: Iterable[Mapping[str, int]] = ()) -> Order:
    """What `sort_channels` would do, without doing it."""
    space, shared = supernet.space, supernet.network
    graph, groups = shared_groups(space, shared)
    kept = [_shapes(_skeleton(space, space.canonical(arch))) for arch in keep]
    narrowest = _shapes(_skeleton(space, narrowest_arch(space)))
    weights = dict(shared.named_parameters())
    moves: dict[str, dict[int, np.ndarray]] = {}
    for group in groups:
        width = _num_units(group, narrowest)
        if group.fixed or width is None or width == group.size:
            continue
        widths = {found for shapes in kept if (found := _num_units(group, shapes)) is not None}
        units = _sorted_units(_importance(group, graph, weights), sorted(widths))
        for use in group.uses:
            mine = use.unit_of >= 0
            index = use.reordered(units)
            for name, axis in use.tensors:
                places = moves.setdefault(name, {}).setdefault(axis, np.arange(len(index)))
                places[mine] = index[mine]
    return {name: [(axis, torch.from_numpy(each)) for axis, each in axes.items()] for name, axes in moves.items()}


def reorder(tensors: Mapping[str, Tensor], order: Mapping[str, Sequence[tuple[int, Tensor]]]) -> None:
    """Move channels of tensors, in place, by the names in `order`; those that are not there are left out."""
    with torch.no_grad():
        for name, moves in order.items():
            if (tensor := tensors.get(name)) is not None:
                for axis, index in moves:
                    tensor.copy_(tensor.index_select(axis, index.to(tensor.device)))


def shared_groups(space: Space, module: nn.Module) -> tuple[Graph, tuple[ChannelGroup, ...]]:
    """The largest network as it is trained, and its groups of channels with the names of a module's weights."""
    largest = space.largest()
    skeleton = _skeleton(space, largest)
    size = space.image_size(largest)
    graph = trace(skeleton, torch.empty(1, space.in_channels, size, size, device="meta"))
    return graph, with_parameters(channel_groups(graph, norm_groups(skeleton)), _shapes(module))


def norm_groups(module: nn.Module) -> dict[str, int]:
    """Groups of each group normalisation, by its path."""
    return {name: each.num_groups for name, each in module.named_modules() if isinstance(each, nn.GroupNorm)}


def narrowest_arch(space: Space) -> Arch:
    """The smallest arch among those that have every layer of the largest."""
    arch = space.largest()
    layers = set(_shapes(_skeleton(space, arch)))
    for knob, values in space.choices.items():
        if knob.endswith("_kernel") or knob == "resolution" or len(values) == 1:
            continue
        smaller = arch | {knob: values[0]}
        if set(_shapes(_skeleton(space, smaller))) == layers:
            arch = smaller
    return arch


# ------------------------------------------------------------------------------------------------------------ private


def _skeleton(space: Space, arch: Mapping[str, int]) -> nn.Module:
    with uninitialised():
        return space.build(arch)


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(each.shape) for name, each in (*module.named_parameters(), *module.named_buffers())}


def _num_units(group: ChannelGroup, shapes: Mapping[str, Shape]) -> int | None:
    """How many of a group's units another module of the space has; None where it has none of the layers."""
    for use in group.uses:
        for name, axis in use.tensors:
            if name in shapes and (use.unit_of >= 0).all():
                return shapes[name][axis] * group.size // len(use.unit_of)
    return None


def _importance(group: ChannelGroup, graph: Graph, weights: Mapping[str, Tensor]) -> np.ndarray:
    """L1 norm of the weights that read each unit; of those that write it, where none read it."""
    reading = [
        use for use in group.uses if use.side == "in" and not isinstance(graph.nodes[use.node].operator, Constant)
    ]
    reading = [use for use in reading if use.tensors]
    direct = [use for use in reading if not _reads_means(graph, use.node)]
    norm = np.zeros(group.size)
    for use in direct or reading or group.uses:
        for name, axis in use.tensors:
            if name not in weights:
                continue
            others = [each for each in range(weights[name].ndim) if each != axis]
            found = weights[name].detach().abs()
            sums = (found.sum(dim=others) if others else found).cpu().double().numpy()
            mine = use.unit_of >= 0
            np.add.at(norm, use.unit_of[mine], sums[mine])
    return norm


def _reads_means(graph: Graph, node: int) -> bool:
    """Between the layer and the nearest one that has weights its input is pooled over all positions."""
    while graph.nodes[node].inputs:
        node = graph.nodes[node].inputs[0]
        operator = graph.nodes[node].operator
        if isinstance(operator, Reduce) or (isinstance(operator, AdaptivePool2d) and operator.size == (1, 1)):
            return True
        if operator.num_params:
            return False
    return False


def _sorted_units(importance: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Units from the most important to the least, within each of the parts that the widths cut."""
    bounds = [0, *widths, len(importance)]
    parts = [begin + np.argsort(-importance[begin:end], kind="stable") for begin, end in pairwise(bounds)]
    return np.concatenate(parts)
