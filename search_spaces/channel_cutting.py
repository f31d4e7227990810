"""Modules with fewer channels: weights of other sizes, and the layers that hold them told so."""

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from predictors.channel_groups import ChannelGroup
from predictors.tracing import trace

if TYPE_CHECKING:
    from predictors.training.differentiable_cost import DifferentiableCost

Places = dict[str, dict[int, np.ndarray]]
"""For each tensor that loses channels: which places stay along which of its axes, increasing."""


def kept_places(groups: Iterable[ChannelGroup], num_units: Mapping[int, int]) -> Places:
    """What stays of each tensor when some groups keep only their first units.

    Args:
        groups: with the names of a module's weights, see `predictors.channel_groups.with_parameters`.
        num_units: how many, by the number of the group; others are not cut.
    """
    groups = tuple(groups)
    kept = [np.arange(group.size) < num_units.get(number, group.size) for number, group in enumerate(groups)]
    return places_of(groups, kept)


def places_of(groups: Iterable[ChannelGroup], kept: Iterable[np.ndarray]) -> Places:
    """What stays of each tensor when groups keep some of their units.

    Args:
        groups: with the names of a module's weights, see `predictors.channel_groups.with_parameters`.
        kept: for each group which of its units stay, of shape (units,).
    """
    masks: dict[tuple[str, int], np.ndarray] = {}
    for group, units in zip(groups, kept):
        if units.all():
            continue
        for use in group.uses:
            mask = (use.unit_of < 0) | units[use.unit_of]
            for tensor in use.tensors:
                masks[tensor] = masks[tensor] & mask if tensor in masks else mask
    places: Places = {}
    for (name, axis), mask in masks.items():
        places.setdefault(name, {})[axis] = np.flatnonzero(mask)
    return places


def cut(module: nn.Module, places: Places, *, weights: bool = True) -> nn.Module:
    """A copy of a module without some channels.

    Args:
        weights: copy those that stay; else the copy's weights have any values, and the module's own are not read.
    """
    memo: dict[int, object] = {}
    for learned, named in ((True, module.named_parameters()), (False, module.named_buffers())):
        for name, tensor in named:
            with torch.no_grad():
                made = part(tensor, places.get(name, {})).clone() if weights else _like(tensor, places.get(name, {}))
            memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if learned else made
    smaller = copy.deepcopy(module, memo)
    for path in {name.rpartition(".")[0] for name in places}:
        _tell_sizes(smaller.get_submodule(path), module.get_submodule(path))
    return smaller


def pruned(module: nn.Module, example_input: Any, cost: "DifferentiableCost", kept: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module without the channels that are not kept, checked: it has the graph that the cost knows.

    Args:
        module: that the cost was made of, with any weights.
        example_input: as the cost was given it.
        kept: for each group of the cost which of its units stay, booleans of shape (units,), as `kept_within` gives.

    Raises:
        ValueError: groups or shapes are wrong, or the smaller network does not run, or does something else: the
            module's own code may hold numbers of channels.
    """
    if kept.keys() != cost.groups.keys():
        raise ValueError(f"pruned: kept has groups {list(kept)}, the cost has {list(cost.groups)}")
    for name, units in kept.items():
        if units.dtype != torch.bool or units.shape != (cost.groups[name],):
            raise ValueError(
                f"pruned: kept units of {name!r} must be {cost.groups[name]} booleans, found {units.dtype} of shape "
                f"{tuple(units.shape)}"
            )
    groups = [cost.channels[name] for name in kept]
    smaller = cut(module, places_of(groups, [units.cpu().numpy() for units in kept.values()]))
    widths = {name: int(units.sum()) for name, units in kept.items()}
    expected = cost.graph_at(widths)
    try:
        found = trace(smaller, example_input)
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(
            f"pruned: with widths {widths} {type(module).__name__} does not run, its own code may hold numbers of "
            f"channels: {error}"
        ) from error
    if found != expected:
        raise ValueError(
            f"pruned: with widths {widths} {type(module).__name__} computes something else than it did, its own code "
            "may depend on numbers of channels"
        )
    return smaller


def part(tensor: Tensor, places: Mapping[int, np.ndarray]) -> Tensor:
    """What stays of a tensor: a view of it along axes of which the leading places stay, else a copy."""
    for axis, kept in places.items():
        if _leading(kept):
            tensor = tensor.narrow(axis, 0, len(kept))
        else:
            tensor = tensor.index_select(axis, torch.from_numpy(kept).to(tensor.device))
    return tensor


def is_leading(places: Mapping[int, np.ndarray]) -> bool:
    """Whether what stays is the leading part along every axis."""
    return all(_leading(kept) for kept in places.values())


# ------------------------------------------------------------------------------------------------------------ private


def _leading(kept: np.ndarray) -> bool:
    return bool(len(kept)) and int(kept[-1]) == len(kept) - 1


def _like(tensor: Tensor, places: Mapping[int, np.ndarray]) -> Tensor:
    shape = [len(places[axis]) if axis in places else size for axis, size in enumerate(tensor.shape)]
    return tensor.new_empty(shape)


def _tell_sizes(layer: nn.Module, original: nn.Module) -> None:
    """The attributes of torch's own layers that say how many channels they have."""
    weight = getattr(layer, "weight", None)
    sizes = () if weight is None else tuple(weight.shape)
    if isinstance(layer, nn.modules.conv._ConvNd):
        first, second = ("in_channels", "out_channels") if layer.transposed else ("out_channels", "in_channels")
        if layer.groups > 1:
            layer.groups = layer.groups * sizes[0] // getattr(original, first)
        setattr(layer, first, sizes[0])
        setattr(layer, second, sizes[1] * layer.groups)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = sizes
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        layer.num_features = sizes[0] if sizes else len(_statistics(layer))
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups = max(1, layer.num_groups * sizes[0] // layer.num_channels) if layer.num_groups > 1 else 1
        layer.num_channels = sizes[0]
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = sizes
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = sizes[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = sizes[0]


def _statistics(layer: nn.modules.batchnorm._NormBase) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean
