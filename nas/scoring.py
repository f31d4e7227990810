"""Where the accuracies of a search come from: `configs/accuracy` names one of these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from nas.accuracy import Accuracy, SupernetAccuracy, check_data_fits
from nas.data import ImageData
from nas.training import Recipe, train_supernet
from predictors.paths import home
from search_spaces.space import Arch, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What judges archs. `extract` gives a trained stand-alone subnet, where there are weights."""

    accuracy: Accuracy
    extract: Callable[[Arch], nn.Module] | None = None


class AccuracySource(Protocol):
    """Where accuracies come from: a frozen dataclass whose fields are the keys of its file in configs/accuracy."""

    def check(self, space: Space, data: ImageData) -> None:
        """Raise ValueError where this data cannot judge networks of this space, before anything is trained."""

    def load(self, space: Space, data: ImageData, recipe: Recipe) -> Scoring: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSupernet:
    """Subnets of the supernet in the user's folder, which is trained first if there is none."""

    num_calibration: int = 400

    def check(self, space: Space, data: ImageData) -> None:
        check_data_fits(space, data)

    def load(self, space: Space, data: ImageData, recipe: Recipe) -> Scoring:
        supernet = train_supernet(space, data, recipe, home() / "supernets")
        accuracy = SupernetAccuracy(supernet, data, num_calibration=self.num_calibration)
        return Scoring(accuracy=accuracy, extract=accuracy.subnet)
