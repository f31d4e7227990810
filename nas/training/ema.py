"""A moving average of a network's weights: smoother than the last step's, often a little more accurate.

Source: B. Polyak, A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30(4),
1992; as exponential average e.g. in https://arxiv.org/abs/1905.11946.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """average = d * average + (1 - d) * weights after each step, where d = min(decay, (1 + t) / (10 + t)) of step t.

    The second term lets the average leave the first, random weights sooner. Batch statistics are averaged, too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        weights = module.state_dict()
        floating = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floating], [weights[name].detach() for name in floating], 1 - decay
        )
        for name in weights.keys() - set(floating):
            self.average[name].copy_(weights[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged weights in this block."""
        weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.average)
        try:
            yield
        finally:
            module.load_state_dict(weights)

    def state(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "average": self.average}

    def load(self, state: Mapping[str, object]) -> None:
        average, num_updates = state["average"], state["num_updates"]
        assert isinstance(average, Mapping)
        assert isinstance(num_updates, int)
        self.num_updates = num_updates
        for name, tensor in average.items():
            self.average[name].copy_(tensor)
