"""What a loss gets for a cost: a penalty beside a target, or a limit that training has to keep."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

Form = Literal["log_ratio", "hinge", "power"]


def cost_penalty(cost: torch.Tensor, target: float, weight: float, form: Form = "hinge") -> torch.Tensor:
    """A term to add to the loss, without unit.

    log_ratio: weight * log(cost / target): the same push at every ratio, negative below the target
    (https://arxiv.org/abs/1812.03443 multiplies losses by a power of the logarithm; the sum is its stable form).
    hinge: weight * max(cost / target - 1, 0): nothing below the target.
    power: weight * ((cost / target)^0.07 - 1): the reward of MnasNet (https://arxiv.org/abs/1807.11626, equation 2,
    exponent 0.07) as a term: a doubled latency weighs as 5 % more loss.

    Args:
        cost: expected cost, a scalar, in the unit of `target`.

    Raises:
        ValueError: an unknown form, a target that is not positive, or a negative weight.
    """
    if not target > 0:
        raise ValueError(f"cost_penalty: target must be positive, found {target}")
    if weight < 0:
        raise ValueError(f"cost_penalty: weight must not be negative, found {weight}")
    ratio = cost / target
    if form == "log_ratio":
        return weight * ratio.log()
    if form == "hinge":
        return weight * (ratio - 1.0).clamp(min=0.0)
    if form == "power":
        return weight * (ratio**0.07 - 1.0)
    raise ValueError(f"cost_penalty: unknown form {form!r}; known are 'log_ratio', 'hinge', 'power'")


class CostConstraint(nn.Module):
    """Limits of one or several costs, kept by an augmented Lagrangian; its multipliers are part of `state_dict`.

    penalty = sum over costs of (max(0, multiplier + stiffness * g)^2 - multiplier^2) / (2 * stiffness),
        g = cost / limit - 1 + margin
    and after each optimizer step `multiplier = max(0, multiplier + stiffness * rate * g)`. Source: J. Nocedal, S.
    Wright, "Numerical Optimization", 2006, section 17.4; the update is spread over steps by `rate`, since a training
    step is no minimisation.

    >>> constraint = CostConstraint(latency_s=5e-3)
    >>> float(constraint({"latency_s": torch.tensor(4e-3)}))
    0.0

    Args:
        limits: by the name under which the costs are given; several devices are several names.
        stiffness: of the quadratic term.
        rate: how much of a full update of the multipliers a step makes.
        margin: by what share costs should stay below; the discretised network is then easier under its limit.

    Raises:
        ValueError: no limit, or a limit, stiffness or rate that is not positive, or a negative margin.
    """

    def __init__(self, *, stiffness: float = 10.0, rate: float = 0.05, margin: float = 0.0, **limits: float) -> None:
        super().__init__()
        if not limits:
            raise ValueError("CostConstraint: no limit was given; write e.g. CostConstraint(latency_s=5e-3)")
        for name, value in {**limits, "stiffness": stiffness, "rate": rate}.items():
            if not value > 0:
                raise ValueError(f"CostConstraint: {name} must be positive, found {value}")
        if margin < 0:
            raise ValueError(f"CostConstraint: margin must not be negative, found {margin}")
        self.limits, self.stiffness, self.rate, self.margin = dict(limits), stiffness, rate, margin
        self.multipliers: torch.Tensor
        self.register_buffer("multipliers", torch.zeros(len(limits)))

    def forward(self, costs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The term to add to the loss, a scalar; it may be slightly negative while the limits hold with room.

        Args:
            costs: expected costs by the names of the limits, scalars in the unit of their limit.

        Raises:
            ValueError: a cost is missing, or one has no limit.
        """
        excess_L = self._excess(costs)
        multipliers_L = self.multipliers.to(excess_L)
        pushed_L = (multipliers_L + self.stiffness * excess_L).clamp(min=0.0)
        return ((pushed_L**2 - multipliers_L**2) / (2.0 * self.stiffness)).sum()

    @torch.no_grad()
    def update(self, costs: Mapping[str, torch.Tensor]) -> None:
        """Let the multipliers follow, after the optimizer's step."""
        excess_L = self._excess(costs).to(self.multipliers)
        self.multipliers.add_(self.stiffness * self.rate * excess_L).clamp_(min=0.0)

    def _excess(self, costs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if costs.keys() != self.limits.keys():
            raise ValueError(f"CostConstraint: limits are {list(self.limits)}, costs were given for {list(costs)}")
        return torch.stack([costs[name] / limit - 1.0 + self.margin for name, limit in self.limits.items()])
