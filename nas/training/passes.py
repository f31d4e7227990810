"""The forward and backward passes of a step: which subnet, at which image size, and what it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from nas.accuracy import channels_last
from nas.data.inputs import resized
from nas.training.distillation import soft_loss, taught_loss
from nas.training.phases import RESOLUTION, phase_choices, sample_of, smallest_of
from nas.training.recipe import Recipe
from search_spaces.space import Arch, Space
from search_spaces.supernet import Supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and one backward pass of a step.

    Args:
        name: `largest`, `smallest`, `random` or `network`.
        arch: None for a network without a space.
        size: height and width of its images, in pixels.
        follows: it learns from the answers of the step's first pass, not from the labels.
    """

    name: str
    arch: Arch | None
    size: int
    follows: bool = False

    def __str__(self) -> str:
        if self.arch is None:
            return self.name
        return f"the random subnet {self.arch}" if self.name == "random" else f"the {self.name} subnet"


class Trainee(Protocol):
    """What is trained: a supernet, or one network."""

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> nn.Module:
        """Holds everything that is trained."""

    def passes(self, step: int) -> Sequence[Pass]:
        """What step number `step` does; the size of the first pass is that of the images read."""

    def logits(self, each: Pass, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Of shape (batch, num_classes), for images of any size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SupernetTrainee:
    """A supernet by the rule of its recipe.

    Source: J. Yu, T. Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019,
    https://arxiv.org/abs/1903.05134 (sandwich rule, in-place distillation); H. Cai et al., "Once-for-All", ICLR 2020,
    https://arxiv.org/abs/1908.09791 (sampled subnets, phases).
    """

    space: Space
    recipe: Recipe
    module: Supernet

    @property
    def name(self) -> str:
        return f"supernet {self.space.name}"

    def passes(self, step: int) -> Sequence[Pass]:
        phase = self.recipe.schedule[self.recipe.phase_at(step)[0]]
        num_random = self.recipe.num_random if phase.num_random is None else phase.num_random
        rng = np.random.default_rng([self.recipe.seed, step])
        if self.recipe.rule == "sampled":
            sizes = phase_choices(self.space, phase).get(RESOLUTION)
            size = {} if sizes is None else {RESOLUTION: sizes[rng.integers(len(sizes))]}
            drawn = [sample_of(self.space, phase, rng) | size for _ in range(num_random)]
            archs = [dict(items) for items in dict.fromkeys(tuple(arch.items()) for arch in drawn)]
            return [self._pass("random", arch) for arch in archs]
        return [
            self._pass("largest", self.space.largest()),
            self._pass("smallest", smallest_of(self.space, phase), follows=True),
            *(self._pass("random", sample_of(self.space, phase, rng), follows=True) for _ in range(num_random)),
        ]

    def logits(self, each: Pass, x_BCHW: torch.Tensor) -> torch.Tensor:
        assert each.arch is not None
        self.module.set_arch(each.arch)
        logits_BK: torch.Tensor = self.module(resized(x_BCHW, each.size))
        return logits_BK

    def _pass(self, name: str, arch: Arch, *, follows: bool = False) -> Pass:
        return Pass(name=name, arch=arch, size=self.space.image_size(arch), follows=follows)


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkTrainee:
    """One network, alone."""

    module: nn.Module
    size: int
    name: str = "network"

    def passes(self, step: int) -> Sequence[Pass]:
        return [Pass(name="network", arch=None, size=self.size)]

    def logits(self, each: Pass, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.module(x_BCHW)
        return logits_BK


def fresh_supernet(space: Space, seed: int) -> Supernet:
    """A supernet with random weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return channels_last(space.supernet())


def loss_of(
    each: Pass,
    logits_BK: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    leading_BK: torch.Tensor | None,
    teacher_BK: torch.Tensor | None,
    recipe: Recipe,
) -> torch.Tensor:
    """Mean loss of a pass over its images.

    Args:
        leading_BK: logits of the step's first pass, without gradients.
        teacher_BK: logits of the teacher, if there is one.
    """
    if each.follows:
        assert leading_BK is not None
        return soft_loss(logits_BK, leading_BK, recipe.temperature)
    return taught_loss(logits_BK, labels_B, teacher_BK, recipe)
