"""An accuracy for tests of the command: larger networks answer better, and nothing is trained."""

import time
from dataclasses import dataclass
from typing import ClassVar

from nas.data import ImageData
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe, training_key
from search_spaces.space import Arch, Space


@dataclass(frozen=True)
class MadeUp:
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    seconds: float = 0.0

    def check(self, space: Space, data: ImageData | None) -> None:
        """Anything can be made up."""

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        assert data is not None
        assert recipe is not None
        return training_key(space, data, recipe)

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        largest = space.graph(space.largest()).macs

        def accuracy(arch: Arch) -> float:
            time.sleep(self.seconds)
            return 0.5 + 0.4 * (space.graph(arch).macs / largest) ** 0.5

        return Scoring(accuracy=accuracy, judgement=Judgement(origin="made up"))
