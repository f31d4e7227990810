"""Where the accuracies of a search come from: `configs/accuracy` names one of these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn

from nas.accuracy import NUM_CALIBRATION, Accuracy, SupernetAccuracy, check_data_fits
from nas.data import ImageData
from nas.files import one_at_a_time
from nas.result import Judgement
from nas.training import Recipe, train_supernet, training_key
from predictors.paths import home
from search_spaces.space import Arch, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What judges archs. `extract` gives a trained stand-alone subnet, where there are weights; `judgement` says to
    people what the numbers are.
    """

    accuracy: Accuracy
    judgement: Judgement
    extract: Callable[[Arch], nn.Module] | None = None


class AccuracySource(Protocol):
    """Where accuracies come from: a frozen dataclass whose fields are the keys of its file in configs/accuracy.

    `data` and `recipe` are None for a source that does not need them: nothing of `data=` and `training=` is read then.
    """

    @property
    def needs_data(self) -> bool: ...

    @property
    def needs_training(self) -> bool:
        """Whether weights are trained, as a recipe says."""

    def check(self, space: Space, data: ImageData | None) -> None:
        """Raise ValueError where this source cannot judge networks of this space, before anything is trained."""

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        """A hash of what determines the accuracies beside the config, e.g. of the files that are read."""

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSupernet:
    """Subnets of the supernet in the user's folder, which is trained first if there is none."""

    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    num_calibration: int = NUM_CALIBRATION

    def check(self, space: Space, data: ImageData | None) -> None:
        assert data is not None
        check_data_fits(space, data)

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        assert data is not None
        assert recipe is not None
        return training_key(space, data, recipe)

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        assert data is not None
        assert recipe is not None
        folder = home() / "supernets"
        # Several commands that search together need one supernet: the first trains it, the others wait.
        with one_at_a_time(home() / f".supernet-{training_key(space, data, recipe)[:12]}.lock"):
            supernet = train_supernet(space, data, recipe, folder)
        accuracy = SupernetAccuracy(supernet, data, num_calibration=self.num_calibration)
        origin = f"those of the trained supernet's subnets on the validation images of {data.name}"
        return Scoring(accuracy=accuracy, extract=accuracy.subnet, judgement=Judgement(origin=origin))
