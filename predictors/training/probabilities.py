"""From logits to the probabilities of an architecture's knobs: softmax, Gumbel-softmax, straight-through."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import nn

from predictors.predict_many import ArchSpace
from predictors.training.spaces import HasSpace, space_of

Mode = Literal["softmax", "gumbel", "straight_through"]
_SUM_TOLERANCE = 1e-3


class Probabilities(Mapping[str, torch.Tensor]):
    """For each knob its values' probabilities, shape (number of values,), all of them views of one tensor: a cost of 45
    knobs then takes as few operations as that of one.

    Attributes:
        flat_V: knob after knob, shape (number of all values,).
        choices: number of values of each knob.
    """

    def __init__(self, flat_V: torch.Tensor, choices: Mapping[str, int]) -> None:
        self.flat_V, self.choices = flat_V, dict(choices)

    def __getitem__(self, knob: str) -> torch.Tensor:
        start = 0
        for name, number in self.choices.items():
            if name == knob:
                return self.flat_V[start : start + number]
            start += number
        raise KeyError(knob)

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)


class ArchitectureLogits(nn.Module):
    """A learnable logit for each value of each knob of a space; at first all are 0: every value is as likely.

    >>> from search_spaces import load_space
    >>> logits = ArchitectureLogits(load_space("mobilenet_v3_tiny"))
    >>> [round(float(each), 3) for each in logits()["stage1_depth"].detach()]
    [0.333, 0.333, 0.333]
    """

    def __init__(self, space: ArchSpace | HasSpace) -> None:
        super().__init__()
        space = self.space = space_of(space)
        self.choices = {knob: len(values) for knob, values in space.choices.items()}
        sizes = np.array(list(self.choices.values()))
        self.flat_V = nn.Parameter(torch.zeros(int(sizes.sum())))
        places_KM = np.cumsum(sizes)[:, None] - sizes[:, None] + np.arange(sizes.max())
        is_value_KM = np.arange(sizes.max()) < sizes[:, None]
        self._places_KM: torch.Tensor
        self._values_V: torch.Tensor
        # One row a knob, filled up with the place behind the last logit.
        self.register_buffer(
            "_places_KM", torch.from_numpy(np.where(is_value_KM, places_KM, sizes.sum())), persistent=False
        )
        self.register_buffer("_values_V", torch.from_numpy(np.flatnonzero(is_value_KM)), persistent=False)

    def forward(
        self, mode: Mode = "softmax", *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Probabilities:
        """Probabilities of the knobs' values.

        softmax: softmax(logits / temperature). gumbel: the same of logits + Gumbel noise, a relaxed sample
        (https://arxiv.org/abs/1611.01144). straight_through: a hard sample, one value with probability 1, whose
        gradient is that of the relaxed one.

        Raises:
            ValueError: an unknown mode, or a temperature that is not positive.
        """
        if mode not in ("softmax", "gumbel", "straight_through"):
            raise ValueError(f"unknown mode {mode!r}; known are 'softmax', 'gumbel', 'straight_through'")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        flat_V: torch.Tensor = self.flat_V
        if mode != "softmax":
            flat_V = flat_V - torch.empty_like(flat_V).exponential_(generator=generator).log()
        relaxed_KM = torch.softmax(self._by_knob(flat_V) / temperature, dim=1)
        if mode == "straight_through":
            hard_KM = torch.zeros_like(relaxed_KM).scatter_(1, relaxed_KM.argmax(dim=1, keepdim=True), 1.0)
            relaxed_KM = hard_KM + relaxed_KM - relaxed_KM.detach()
        return Probabilities(relaxed_KM.flatten().index_select(0, self._values_V), self.choices)

    def arch(self) -> dict[str, int]:
        """The most probable arch, whatever it costs; `most_probable_arch` keeps limits."""
        places = self._by_knob(self.flat_V.detach()).argmax(dim=1).tolist()
        return {knob: values[place] for (knob, values), place in zip(self.space.choices.items(), places)}

    @property
    def entropy(self) -> torch.Tensor:
        """Of all knobs' probabilities together, in nats: 0 once the architecture is decided."""
        flat_V = self().flat_V
        total: torch.Tensor = -torch.special.xlogy(flat_V, flat_V).sum()
        return total

    def _by_knob(self, flat_V: torch.Tensor) -> torch.Tensor:
        """One row a knob; beyond its values -inf."""
        filled = torch.cat([flat_V, flat_V.new_full((1,), -torch.inf)])
        return filled.index_select(0, self._places_KM.flatten()).view(self._places_KM.shape)


def flat_probabilities(
    probabilities: Mapping[str, torch.Tensor], choices: Mapping[str, int], *, check_values: bool = True
) -> torch.Tensor:
    """All probabilities one after the other, shape (number of all values,).

    Args:
        check_values: costs a transfer from a GPU, and waits for it.

    Raises:
        ValueError: a knob is missing or unknown, a shape is wrong, or probabilities do not sum to 1 or are negative.
    """
    if isinstance(probabilities, Probabilities) and probabilities.choices == choices:
        flat_V = probabilities.flat_V
    else:
        if probabilities.keys() != choices.keys():
            missing = sorted(set(choices) - set(probabilities))
            unknown = sorted(set(probabilities) - set(choices))
            raise ValueError(
                f"probabilities: knobs {missing} are missing, {unknown} are unknown; the space has {list(choices)}"
            )
        for knob, number in choices.items():
            if probabilities[knob].shape != (number,):
                raise ValueError(
                    f"probabilities of knob {knob!r} have shape {tuple(probabilities[knob].shape)}; it has {number} "
                    f"values, so ({number},) is expected"
                )
        flat_V = torch.cat([probabilities[knob] for knob in choices])
    if check_values:
        _check_sums(flat_V.detach(), choices)
    return flat_V


def log_probabilities(probabilities: Mapping[str, torch.Tensor], space: ArchSpace) -> list[np.ndarray]:
    """Natural logarithms of each knob's probabilities, in the order of the space's knobs.

    Raises:
        ValueError: as `flat_probabilities`.
    """
    choices = {knob: len(values) for knob, values in space.choices.items()}
    flat_V = flat_probabilities(probabilities, choices).detach().double().cpu().numpy()
    return np.split(np.log(np.maximum(flat_V, 1e-30)), np.cumsum(list(choices.values()))[:-1])


# ------------------------------------------------------------------------------------------------------------ private


def _check_sums(flat_V: torch.Tensor, choices: Mapping[str, int]) -> None:
    values_V = flat_V.double().cpu().numpy()
    sizes = np.array(list(choices.values()))
    starts = np.cumsum(sizes) - sizes
    sums, least = np.add.reduceat(values_V, starts), np.minimum.reduceat(values_V, starts)
    for knob, total, smallest in zip(choices, sums, least):
        if not (abs(total - 1.0) <= _SUM_TOLERANCE and smallest >= -_SUM_TOLERANCE):
            raise ValueError(
                f"probabilities of knob {knob!r} must be at least 0 and sum to 1; the smallest is {smallest:.4g}, "
                f"the sum {total:.4g} (are they logits? softmax makes probabilities of them)"
            )
