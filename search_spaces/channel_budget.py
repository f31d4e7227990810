"""Pruning to a budget in three lines of a user's own loop: gates, costs, limits, and what remains at the end."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed, nn

from predictors.device import Device
from predictors.latency import LatencyPredictor
from predictors.training import ChannelGates, CostConstraint, DifferentiableCost, widths_within
from predictors.training.width_limits import kept
from search_spaces.channel_cutting import pruned


class ChannelBudget(nn.Module):
    """Channels of a network that are closed while it trains until its predicted costs are at or under their limits.

        budget = ChannelBudget(network, example_input, device, latency_s=5e-3)    # before the loop
        loss = criterion(budget(x), y) + budget.penalty()                         # in it, in place of network(x)
        network = budget.pruned()                                                 # behind it

    The gates are `ChannelGates`, the penalty is a `CostConstraint` of a `DifferentiableCost` for each limit. The gates'
    logits follow their gradients by Adam (https://arxiv.org/abs/1412.6980) with a rate of their own, at the next call
    of `penalty`: the user's optimizer, its schedule and its `zero_grad` have nothing to do with them, so `parameters()`
    of this module belong to no optimizer. All of that is in `state_dict`. Where several processes train, the logits'
    gradients are averaged over them; those of the module's weights are not, since no wrapper's forward is called.

    Args:
        module: with its weights, trained or not; they are trained as before.
        example_input: as it will be deployed, batch and resolution included.
        device: the predictor, or the device itself.
        rate: of the logits, a step. All gates are open at first, logits from 0.5 to 2.5 by importance, so 0.02 takes
            some 100 steps.
        limits: by the metrics of `WIDTH_METRICS`, in their units.

    Attributes:
        kept_whole: groups of channels that are left alone, since the module does not run without some of them: its own
            code holds their number (heads of attention in timm). With what it says then.

    Raises:
        ValueError: no limit, one below the cost of the narrowest network (with that), and as `DifferentiableCost`.
    """

    def __init__(
        self,
        module: nn.Module,
        example_input: Any,
        device: LatencyPredictor | Device,
        *,
        rate: float = 0.02,
        **limits: float,
    ) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"ChannelBudget: rate must be positive, found {rate}")
        self.constraint = CostConstraint(rate=_MULTIPLIER_RATE, **limits)
        predictor = device if isinstance(device, LatencyPredictor) else LatencyPredictor(device)
        first = DifferentiableCost(module, example_input, predictor, next(iter(limits)))
        self.kept_whole = _not_cut(module, example_input, first)
        keep = tuple(self.kept_whole)
        self.costs = nn.ModuleDict(
            {metric: DifferentiableCost(module, example_input, predictor, metric, keep=keep) for metric in limits}
        )
        for metric, limit in limits.items():
            if (least := self._cost(metric).least()) > limit:
                raise ValueError(
                    f"ChannelBudget: no widths keep {metric} <= {limit:.4g} on {predictor.device.name}; the narrowest "
                    f"network has {least:.4g}, the whole one {self._cost(metric).exact():.4g}"
                )
        self.limits, self.rate, self._module, self._example_input = dict(limits), rate, (module,), example_input
        self.gates = ChannelGates(module, self.cost)
        self.moments_2U: torch.Tensor
        self.num_steps: torch.Tensor
        self.register_buffer("moments_2U", torch.zeros(2, len(self.gates.logits_U)))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self._last: dict[str, torch.Tensor] = {}
        self.to(self.gates.logits_U.device)

    @property
    def cost(self) -> DifferentiableCost:
        """Of the first limit."""
        return self._cost(next(iter(self.costs)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module makes of these inputs without the closed channels."""
        return self.gates(*args, **kwargs)

    def penalty(self) -> torch.Tensor:
        """A term to add to the loss, once a step; before, gates and multipliers follow the last step's gradients."""
        self._follow()
        masks = self.gates.masks()
        costs = {metric: self._cost(metric)(masks) for metric in self.limits}
        if torch.is_grad_enabled():
            self._last = {metric: cost.detach() for metric, cost in costs.items()}
        penalty: torch.Tensor = self.constraint(costs)
        return penalty

    def predicted(self) -> dict[str, float]:
        """The costs of the network without the closed channels, by metric."""
        return {metric: self._cost(metric).exact(self._widths()) for metric in self.limits}

    def kept(self) -> dict[str, torch.Tensor]:
        """Which units stay so that all limits hold, as boolean masks: see `widths_within`."""
        scores = self.gates.scores()
        return kept(scores, widths_within(scores, [(self._cost(each), limit) for each, limit in self.limits.items()]))

    def pruned(self) -> nn.Module:
        """A copy of the module, with its weights as they are now, without the channels that do not stay."""
        (module,) = self._module
        return pruned(module, self._example_input, self.cost, self.kept())

    # ------------------------------------------------------------------------------------------------------- private

    def _cost(self, metric: str) -> DifferentiableCost:
        cost = self.costs[metric]
        assert isinstance(cost, DifferentiableCost)
        return cost

    def _widths(self) -> Mapping[str, int]:
        return {name: int(mask.detach().round().sum()) for name, mask in self.gates.masks().items()}

    @torch.no_grad()
    def _follow(self) -> None:
        """Adam's step of the logits, and the multipliers'; nothing before the first backward pass."""
        logits_U = self.gates.logits_U
        if logits_U.grad is None or not self._last:
            return
        gradient_U = logits_U.grad
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(gradient_U)
            gradient_U /= distributed.get_world_size()
        self.constraint.update(self._last)
        self._last = {}
        self.num_steps += 1
        moments = (gradient_U, gradient_U**2)
        for moment_U, found_U, decay in zip(self.moments_2U, moments, _DECAYS):
            moment_U.lerp_(found_U, 1.0 - decay)
        mean_U, square_U = (
            moment_U / (1.0 - decay**self.num_steps) for moment_U, decay in zip(self.moments_2U, _DECAYS)
        )
        logits_U.sub_(self.rate * mean_U / (square_U.sqrt() + 1e-12))
        logits_U.grad = None


# ------------------------------------------------------------------------------------------------------------ private


def _not_cut(module: nn.Module, example_input: Any, cost: DifferentiableCost) -> dict[str, str]:
    """Groups without half of which the module does not run, or not as its graph says, and why."""
    halves = {name: torch.arange(size) < max(1, size // 2) for name, size in cost.groups.items()}
    whole = {name: torch.ones(size, dtype=torch.bool) for name, size in cost.groups.items()}

    def problem(kept: Mapping[str, torch.Tensor]) -> str:
        try:
            pruned(module, example_input, cost, kept)
        except ValueError as error:
            return str(error)
        return ""

    if not problem(halves):
        return {}
    found = {name: text for name, half in halves.items() if (text := problem(whole | {name: half}))}
    if text := problem(halves | {name: whole[name] for name in found}):
        raise ValueError(f"ChannelBudget: the groups can be cut one by one, but not together: {text}")
    return found


_DECAYS = (0.9, 0.99)
"""Of Adam's moments: the second is short, since the penalty's gradient changes much while limits are neared."""

_MULTIPLIER_RATE = 0.0005
"""Slow, so that the multipliers' share of the pressure ends soon after the limits hold, and not far below them."""
