"""What a user's own network costs while its channels are masked: exact in value, with a slope for every mask.

>>> from torch import nn, zeros
>>> from predictors import load_device
>>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(16, 10))
>>> cost = DifferentiableCost(net, zeros(1, 3, 3, 3), load_device("mobile_gpu"))
>>> cost.groups
{'0': 32, '2': 16}
>>> masks = {"0": torch.full((32,), 0.4, requires_grad=True), "2": torch.ones(16)}
>>> cost(masks).backward()
>>> bool((masks["0"].grad > 0).all())
True
"""

from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn

from predictors.channel_groups import ChannelGroup, channel_groups, with_parameters
from predictors.device import Device
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.operators import nearest_names
from predictors.tracing import trace
from predictors.training.probabilities import Probabilities
from predictors.training.width_cost import WIDTH_METRICS, WidthCost
from predictors.training.width_records import find_widths


class DifferentiableCost(nn.Module):
    """One cost of a network whose channels are masked, on a device, found by tracing the network once.

    In value it is exact: with masks of zeros and ones it is what the predictor says of the network that is cut to them,
    with every step of padding, vectors and tiles that the predictor knows; with masks in between it is that of the
    nearest whole widths (the sum of a mask is its width). In slope it is that of each kernel between its neighbouring
    aligned widths, straight through the steps (https://arxiv.org/abs/1308.3432), so a plateau has one too.
    `interpolated` is the function that has these slopes.

    Channels that hang together (residual sums, depthwise layers, gates) are one group with one mask; what the network
    takes and returns is in none. Costs are those of the example input's shape, so give the deployed one: its batch,
    its resolution. It holds no parameters and adds nothing to `state_dict`; masks may be on any device. Each call reads
    the widths on the host, which on a GPU waits for the masks.

    Args:
        module: left as it is; its weights are not read.
        example_input: as `predictors.trace` takes it; only shapes count.
        device: the predictor of it; or the device itself, for its usual runtime and dtype.
        metric: one of `WIDTH_METRICS`. Peak memory has the slope of a smooth maximum over kernels.
        keep: groups that stay whole, by name: of layers that other code relies on.

    Raises:
        ValueError: an unknown metric or group, a metric that the device has no figures for, a network whose graph is
            not the same in every call or depends on the data, or one of which nothing can be cut (with the reasons).
    """

    def __init__(
        self,
        module: nn.Module,
        example_input: Any,
        device: LatencyPredictor | Device,
        metric: str = "latency_s",
        *,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__()
        predictor = device if isinstance(device, LatencyPredictor) else LatencyPredictor(device)
        if metric not in WIDTH_METRICS:
            near = nearest_names(metric, WIDTH_METRICS)
            raise ValueError(f"DifferentiableCost: unknown metric {metric!r}; known are {list(WIDTH_METRICS)}{near}")
        if metric == "energy_j" and not predictor.device.has_energy:
            raise ValueError(
                f"DifferentiableCost: device {predictor.device.name!r} gives no energy per MAC or byte, so energy_j is "
                "unknown"
            )
        self.predictor, self.metric = predictor, metric
        self.graph = _same_graph(module, example_input)
        self.all_groups = _groups(module, self.graph)
        names = _names(self.all_groups)
        if unknown := [name for name in keep if name not in names]:
            raise ValueError(f"DifferentiableCost: keep has unknown groups {unknown}; there are {names}")
        widths = find_widths(self.graph, self.all_groups, predictor, [names.index(name) for name in keep])
        self.channels = {names[number]: self.all_groups[number] for number in widths.numbers}
        """The groups that may be cut: which places of which layers each unit takes."""
        self.groups = {name: group.size for name, group in self.channels.items()}
        """Units of each group, which are its channels unless several hang together."""
        self.fixed = {names[number]: reason for number, reason in widths.fixed.items()}
        """Why other channels cannot be cut."""
        if not self.groups:
            reasons = "; ".join(f"{name!r}: {reason}" for name, reason in self.fixed.items()) or "it has no channels"
            raise ValueError(f"DifferentiableCost: nothing of {type(module).__name__} can be cut ({reasons:.600})")
        self.width_cost = WidthCost(widths, predictor, metric)
        self._handle = _remember(self.width_cost)
        self._checked = False
        self._group_of_U: torch.Tensor
        sizes = torch.tensor(list(self.groups.values()))
        self.register_buffer("_group_of_U", torch.repeat_interleave(sizes), persistent=False)

    def forward(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The cost of the masked network, a scalar in the unit of the metric's name, on the masks' device.

        Args:
            masks: for each group its units' gates, from 0 to 1, floating point of shape (units,).

        Raises:
            ValueError: a group is missing or unknown, a shape is wrong, or a gate is not from 0 to 1 (looked at in
                every call on the CPU, in the first one elsewhere).
        """
        return self._straight_through(self._widths_of(masks), exact=True)

    def of_widths(self, widths: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As `forward`, of each group's width in units, a scalar that need not be whole.

        Raises:
            ValueError: a group is missing or unknown, or a width is no scalar, nan, negative or above the group's size.
        """
        return self._straight_through(self._stacked(widths), exact=True)

    def interpolated(self, widths: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The cost interpolated between aligned widths, whose slopes `forward` and `of_widths` have.

        Raises:
            ValueError: as `of_widths`.
        """
        return self._straight_through(self._stacked(widths), exact=False)

    def exact(self, widths: Mapping[str, int] | None = None) -> float:
        """What the predictor says of the network that keeps so many units of each group; others are whole.

        Raises:
            ValueError: an unknown group, or a width that it cannot have.
        """
        return self.width_cost.exact(self.units(widths or {}))

    def least(self) -> float:
        """The cost of the narrowest network, one unit of each group."""
        return self.width_cost.exact(self.width_cost.widths.least_G)

    def graph_at(self, widths: Mapping[str, int]) -> Graph:
        """The graph of the network that keeps so many units of each group; others are whole.

        Raises:
            ValueError: as `exact`.
        """
        return self.width_cost.widths.graph_at(self.units(widths).tolist())

    def widths_within(self, scores: Mapping[str, torch.Tensor], limit: float) -> dict[str, int]:
        """The widths that keep the most of the scores at a cost at or under the limit, see `widths_within`.

        Raises:
            ValueError: as `widths_within`.
        """
        from predictors.training.width_limits import widths_within

        return widths_within(scores, [(self, limit)])

    def kept_within(self, scores: Mapping[str, torch.Tensor], limit: float) -> dict[str, torch.Tensor]:
        """Which units stay, as boolean masks: those of the highest scores, as many as `widths_within` says.

        Raises:
            ValueError: as `widths_within`.
        """
        from predictors.training.width_limits import kept

        return kept(scores, self.widths_within(scores, limit))

    def units(self, widths: Mapping[str, int]) -> np.ndarray:
        """Whole widths in the order of `groups`.

        Raises:
            ValueError: as `exact`.
        """
        self._check_names(widths, "widths", every=False)
        sizes, leasts = self.width_cost.widths.sizes_G.tolist(), self.width_cost.widths.least_G.tolist()
        found = []
        for name, size, least in zip(self.groups, sizes, leasts):
            width = widths.get(name, size)
            if int(width) != width or not least <= width <= size:
                raise ValueError(f"the width of {name!r} must be a whole number from {least} to {size}, found {width}")
            found.append(int(width))
        return np.array(found, dtype=np.int64)

    def extra_repr(self) -> str:
        return f"{self.metric} on {self.predictor.device.name}, {len(self.groups)} groups"

    # ------------------------------------------------------------------------------------------------------- private

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = _remember(self.width_cost)

    def _straight_through(self, widths_G: torch.Tensor, exact: bool) -> torch.Tensor:
        if widths_G.dtype not in (torch.float32, torch.float64):
            widths_G = widths_G.float()
        given_G = widths_G.detach()
        # As an operator of torch it takes twice as long, so only compilers get it so.
        ask = _estimate if torch.compiler.is_compiling() else _asked
        found = ask(given_G, self._handle)
        value, slopes_G = found[0 if exact else 1], found[2:]
        return value + slopes_G @ (widths_G - given_G)

    def _widths_of(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if isinstance(masks, Probabilities) and masks.choices == self.groups:
            flat_U = masks.flat_V
        else:
            self._check_names(masks, "masks")
            for name, size in self.groups.items():
                if masks[name].shape != (size,):
                    raise ValueError(
                        f"the mask of {name!r} has shape {tuple(masks[name].shape)}; it has {size} units, so ({size},) "
                        "is expected"
                    )
            flat_U = torch.cat([masks[name] for name in self.groups])
        if not torch.compiler.is_compiling() and (flat_U.device.type == "cpu" or not self._checked):
            self._check_gates(flat_U.detach())
            self._checked = True
        if flat_U.dtype not in (torch.float32, torch.float64):
            flat_U = flat_U.float()
        group_of_U = self._group_of_U.to(flat_U.device)
        return flat_U.new_zeros(len(self.groups)).index_add(0, group_of_U, flat_U)

    def _check_gates(self, flat: torch.Tensor) -> None:
        if bool(((flat >= -_TOLERANCE) & (flat <= 1.0 + _TOLERANCE)).all()):
            return
        for name, gates in zip(self.groups, torch.split(flat, list(self.groups.values()))):
            wrong = gates[~((gates >= -_TOLERANCE) & (gates <= 1.0 + _TOLERANCE))]
            if len(wrong):
                raise ValueError(
                    f"gates of {name!r} must be from 0 to 1, found {float(wrong[0]):.4g} (are they logits? sigmoid "
                    "makes gates of them)"
                )

    def _stacked(self, widths: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self._check_names(widths, "widths")
        for name in self.groups:
            if widths[name].numel() != 1:
                raise ValueError(f"the width of {name!r} must be a scalar, found shape {tuple(widths[name].shape)}")
        return torch.stack([widths[name].reshape(()) for name in self.groups])

    def _check_names(self, given: Mapping[str, Any], what: str, every: bool = True) -> None:
        missing = [name for name in self.groups if name not in given] if every else []
        unknown = [name for name in given if name not in self.groups]
        if missing or unknown:
            reasons = "".join(f"; {name!r} cannot be cut: {self.fixed[name]}" for name in unknown if name in self.fixed)
            raise ValueError(
                f"{what}: groups {missing} are missing, {unknown} are unknown; there are {list(self.groups)}{reasons}"
            )


# ------------------------------------------------------------------------------------------------------------ private

_TOLERANCE = 1e-4

_known: WeakValueDictionary[int, WidthCost] = WeakValueDictionary()
"""Operators of torch take numbers, no objects: this is what their numbers stand for."""


def _remember(cost: WidthCost) -> int:
    handle = id(cost)
    _known[handle] = cost
    return handle


def _asked(widths_G: torch.Tensor, handle: int) -> torch.Tensor:
    """The exact value, the interpolated one, and the slopes, one after the other."""
    cost = _known[handle]
    given_G = widths_G.double().cpu().numpy()
    sizes_G = cost.widths.sizes_G
    wrong = ~((given_G >= -_TOLERANCE) & (given_G <= sizes_G * (1.0 + _TOLERANCE)))
    if wrong.any():
        place = int(wrong.argmax())
        name = _names(cost.widths.groups)[cost.widths.numbers[place]]
        raise ValueError(f"the width of {name!r} must be from 0 to {sizes_G[place]}, found {given_G[place]:.4g}")
    found = cost.at(given_G)
    made = np.concatenate([[found.value, found.smooth], found.slopes_G])
    return torch.from_numpy(made).to(device=widths_G.device, dtype=widths_G.dtype)


@torch.library.custom_op("ridgeline::cost_of_widths", mutates_args=())
def _estimate(widths_G: torch.Tensor, handle: int) -> torch.Tensor:
    """`_asked` as an operator, which compilers leave alone."""
    return _asked(widths_G, handle)


@_estimate.register_fake
def _(widths_G: torch.Tensor, handle: int) -> torch.Tensor:
    return widths_G.new_empty(len(widths_G) + 2)


def _same_graph(module: nn.Module, example_input: Any) -> Graph:
    name = type(module).__name__
    try:
        graph = trace(module, example_input)
    except ValueError as error:
        raise ValueError(f"DifferentiableCost: {name} cannot be traced: {error}") from error
    if trace(module, example_input) != graph:
        raise ValueError(
            f"DifferentiableCost: the graph of {name} changes from call to call, so no cost of it holds; let its "
            "forward do the same in eval mode every time"
        )
    return graph


def _groups(module: nn.Module, graph: Graph) -> tuple[ChannelGroup, ...]:
    norm_groups = {path: each.num_groups for path, each in module.named_modules() if isinstance(each, nn.GroupNorm)}
    shapes = {path: tuple(each.shape) for path, each in (*module.named_parameters(), *module.named_buffers())}
    return with_parameters(channel_groups(graph, norm_groups), shapes)


def _names(groups: tuple[ChannelGroup, ...]) -> list[str]:
    """Of each group the first layer that writes it; where a layer writes several, they are numbered."""
    found: list[str] = []
    for group in groups:
        name, number = group.name, 1
        while name in found:
            number += 1
            name = f"{group.name}#{number}"
        found.append(name)
    return found
