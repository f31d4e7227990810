"""Accuracies of networks that are trained one by one: what everything else stands in for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from nas.accuracy import accuracy, channels_last, check_data_fits, folded
from nas.data import ImageData
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe, network_key, train_network
from predictors.paths import home
from search_spaces.space import Arch, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Networks with fresh weights, each trained by itself; weights are kept in the user's folder.

    Args:
        num_steps: instead of the recipe's; of a recipe with phases, None takes all their steps together.
        seed: of the first weights.
    """

    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    num_steps: int | None = None
    seed: int = 0

    def check(self, space: Space, data: ImageData | None) -> None:
        assert data is not None
        check_data_fits(space, data)
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, found {self.num_steps}")

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        assert data is not None
        assert recipe is not None
        determined = {"space": dict(space.identity), "images": data.digest, "recipe": asdict(self.recipe_of(recipe))}
        return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        assert data is not None
        assert recipe is not None
        judge = TrainedAlone(space, data, self.recipe_of(recipe), home() / "alone", seed=self.seed)
        origin = f"those of networks trained one by one, on the validation images of {data.name}"
        return Scoring(accuracy=judge, extract=judge.network, judgement=Judgement(origin=origin))

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """The supernet's recipe for one network: one phase of all steps."""
        rates = [phase.learning_rate for phase in recipe.phases] or [recipe.learning_rate]
        num_steps = sum(phase.num_steps for phase in recipe.phases) or recipe.num_steps
        return replace(recipe, phases=(), num_steps=self.num_steps or num_steps, learning_rate=rates[0])


class TrainedAlone:
    """Trains the network of an arch when it is first asked for."""

    def __init__(self, space: Space, data: ImageData, recipe: Recipe, folder: Path, *, seed: int = 0) -> None:
        self.space, self.data, self.recipe, self.folder, self.seed = space, data, recipe, folder, seed

    def __call__(self, arch: Mapping[str, int]) -> float:
        network = folded(channels_last(self.network(dict(arch))))
        if torch.cuda.is_available():
            network = network.cuda()
        return accuracy(network, self.data, self.data.valid, self.space.image_size(arch))

    def network(self, arch: Arch) -> nn.Module:
        """The trained network, in evaluation mode, on the processor."""
        arch = self.space.canonical(arch)
        size = self.space.image_size(arch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.space.build(arch)
        key = network_key(network, self.data, self.recipe, size=size)
        file = self.folder / f"{self.space.name}-{key[:12]}.safetensors"
        return train_network(network, self.data, self.recipe, size=size, file=file, progress=False)
