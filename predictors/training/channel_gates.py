"""Gates on the channels of a user's own network: a forward pass without the closed ones, learned with the loss."""

from typing import Any

import torch
from torch import nn

from predictors.training.differentiable_cost import DifferentiableCost
from predictors.training.probabilities import Probabilities


class ChannelGates(nn.Module):
    """A learnable logit for every unit of channels; `gates(x)` in place of `module(x)` runs the gated network.

    A unit whose logit is positive is open (1), others are closed (0); the logit gets the gradient that its sigmoid
    would have had (straight-through, https://arxiv.org/abs/1308.3432). A closed unit is one that no layer reads: the
    weights that read it are multiplied by 0, so that the network computes what is left once the unit is cut out. In
    every group the unit of the highest logit is open.

    At first all are open, ordered by importance: the sum of the absolute weights that read a unit, as its rank in its
    group. So what a cost closes first, where the loss does not object, is what matters least by that rule.

    The module itself is not changed and not registered here: its parameters go to the optimizer as before, the gates'
    beside them, without weight decay.

    Args:
        module: that `cost` was made of.
        cost: of any metric.

    Raises:
        ValueError: the module has not the weights that the cost was made of.
    """

    def __init__(self, module: nn.Module, cost: DifferentiableCost) -> None:
        super().__init__()
        self._module = (module,)  # in a tuple, so that it is no part of this one
        self.groups = dict(cost.groups)
        starts, total = {}, 0
        for name, size in self.groups.items():
            starts[name] = total
            total += size
        self._starts = starts
        places: dict[tuple[str, int], torch.Tensor] = {}
        parameters = dict(module.named_parameters())
        importance_U = torch.zeros(total, dtype=torch.float64)
        for name, group in cost.channels.items():
            for use in group.uses:
                mine = torch.from_numpy(use.unit_of.astype("int64"))
                for tensor, axis in use.tensors if use.side == "in" else ():
                    if tensor not in parameters:
                        raise ValueError(f"ChannelGates: {type(module).__name__} has no weight {tensor!r}")
                    index = places.setdefault((tensor, axis), torch.full((len(mine),), total))
                    index[mine >= 0] = mine[mine >= 0] + starts[name]
                    if tensor.endswith("weight"):
                        importance_U += _sums(parameters[tensor].detach(), axis, mine, starts[name], total)
        ranks = [each.argsort().argsort() / len(each) for each in torch.split(importance_U, list(self.groups.values()))]
        self.logits_U = nn.Parameter((_LEAST + (_MOST - _LEAST) * torch.cat(ranks)).float())
        self._axes = [*places]
        for number, index in enumerate(places.values()):
            self.register_buffer(f"_index{number}", index, persistent=False)
        sizes = torch.tensor(list(self.groups.values()))
        self._group_of_U: torch.Tensor
        self.register_buffer("_group_of_U", torch.repeat_interleave(sizes), persistent=False)
        self.to(next(module.parameters()).device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module makes of these inputs without the closed units."""
        (module,) = self._module
        return torch.func.functional_call(module, self.gated_weights(), args, kwargs)

    def masks(self) -> Probabilities:
        """The gates of each group, shape (units,), 0 or 1, with the gradients of the logits' sigmoids."""
        soft_U = torch.sigmoid(self.logits_U)
        logits_U = self.logits_U.detach()
        highest_G = logits_U.new_full((len(self.groups),), -torch.inf)
        highest_G = highest_G.scatter_reduce(0, self._group_of_U, logits_U, "amax")
        is_open_U = (logits_U > 0) | (logits_U == highest_G[self._group_of_U])
        return Probabilities(is_open_U.to(soft_U) + (soft_U - soft_U.detach()), self.groups)

    def scores(self) -> dict[str, torch.Tensor]:
        """Importance of each unit for `kept_within`: about 1 for open ones, about 0 for closed ones, in order."""
        found_U = self.masks().flat_V.detach() + 0.01 * torch.sigmoid(self.logits_U.detach())
        return dict(zip(self.groups, torch.split(found_U, list(self.groups.values()))))

    def gated_weights(self) -> dict[str, torch.Tensor]:
        """By name the weights that read channels, those of closed units 0."""
        (module,) = self._module
        flat_U = self.masks().flat_V
        gates_U = torch.cat([flat_U, flat_U.new_ones(1)])  # the one behind all is that of what is never cut
        found: dict[str, torch.Tensor] = {}
        for number, (name, axis) in enumerate(self._axes):
            weight = found[name] if name in found else module.get_parameter(name)
            gate = gates_U[self.get_buffer(f"_index{number}")].to(weight.dtype)
            found[name] = weight * gate.view([-1 if each == axis else 1 for each in range(weight.ndim)])
        return found


# ------------------------------------------------------------------------------------------------------------ private

_LEAST, _MOST = 0.5, 2.5
"""Logits of the least and of the most important unit of a group at first."""


def _sums(weight: torch.Tensor, axis: int, unit_of: torch.Tensor, start: int, total: int) -> torch.Tensor:
    """Sums of absolute weights by the unit that they read."""
    others = [each for each in range(weight.ndim) if each != axis]
    sums = (weight.abs().sum(dim=others) if others else weight.abs()).double().cpu()
    mine = unit_of >= 0
    return torch.zeros(total, dtype=torch.float64).index_add(0, unit_of[mine] + start, sums[mine])
