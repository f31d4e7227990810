"""From logits to the probabilities of an architecture's knobs: softmax, Gumbel-softmax, straight-through."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import nn

from predictors.predict_many import ArchSpace
from predictors.training.expected_cost import check_shapes

Mode = Literal["softmax", "gumbel", "straight_through"]


def probabilities_of(
    logits: Mapping[str, torch.Tensor],
    mode: Mode = "softmax",
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """Probabilities of each knob's values from its logits, shape (number of values,) each.

    softmax: softmax(logits / temperature). gumbel: the same of logits + Gumbel noise, a relaxed sample
    (https://arxiv.org/abs/1611.01144). straight_through: a hard sample, one value with probability 1, whose gradient is
    that of the relaxed one.

    Raises:
        ValueError: an unknown mode, or a temperature that is not positive.
    """
    if mode not in ("softmax", "gumbel", "straight_through"):
        raise ValueError(f"unknown mode {mode!r}; known are 'softmax', 'gumbel', 'straight_through'")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}")
    found = {}
    for knob, logits_V in logits.items():
        if mode != "softmax":
            noise_V = torch.empty_like(logits_V).exponential_(generator=generator)
            logits_V = logits_V - noise_V.log()
        relaxed_V = torch.softmax(logits_V / temperature, dim=0)
        if mode == "straight_through":
            hard_V = torch.zeros_like(relaxed_V).scatter_(0, relaxed_V.argmax(dim=0, keepdim=True), 1.0)
            relaxed_V = hard_V + relaxed_V - relaxed_V.detach()
        found[knob] = relaxed_V
    return found


class ArchitectureLogits(nn.Module):
    """One learnable logit for each value of each knob of a space; at first all are 0: every value is as likely.

    >>> from search_spaces import load_space
    >>> logits = ArchitectureLogits(load_space("mobilenet_v3_tiny"))
    >>> logits()["stage1_depth"].tolist()
    [0.3333333432674408, 0.3333333432674408, 0.3333333432674408]
    """

    def __init__(self, space: ArchSpace) -> None:
        super().__init__()
        self.space = space
        self.logits = nn.ParameterDict({knob: nn.Parameter(torch.zeros(len(v))) for knob, v in space.choices.items()})

    def forward(
        self, mode: Mode = "softmax", *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """`probabilities_of` its logits."""
        return probabilities_of(dict(self.logits.items()), mode, temperature=temperature, generator=generator)

    def arch(self) -> dict[str, int]:
        """The most probable arch, whatever it costs; `most_probable_arch` keeps limits."""
        return {knob: values[int(self.logits[knob].argmax())] for knob, values in self.space.choices.items()}

    @property
    def entropy(self) -> torch.Tensor:
        """Of all knobs' probabilities together, in nats: 0 once the architecture is decided."""
        log_p = [torch.log_softmax(logits_V, dim=0) for logits_V in self.logits.values()]
        total: torch.Tensor = sum((-(each.exp() * each).sum() for each in log_p), start=log_p[0].new_zeros(()))
        return total


def log_probabilities(probabilities: Mapping[str, torch.Tensor], space: ArchSpace) -> list[np.ndarray]:
    """Natural logarithms of each knob's probabilities, in the order of the space's knobs.

    Raises:
        ValueError: a knob is missing or unknown, or a shape is wrong.
    """
    check_shapes(probabilities, {knob: len(values) for knob, values in space.choices.items()}, "probabilities")
    floor = 1e-30
    return [np.log(np.maximum(probabilities[knob].detach().double().cpu().numpy(), floor)) for knob in space.choices]
