"""What a search leaves: plain records that reports, tables and exports read. They know neither Optuna nor Hydra."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from predictors.latency import LatencyPredictor
from search_spaces.space import Arch, Space


class Ending(Enum):
    """Why a search ended."""

    FINISHED = "finished"
    EXHAUSTED = "the space has no more networks"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What `1 - error` of a candidate is, in words for a person.

    Attributes:
        name: "accuracy", or "score" for a number that only ranks networks.
        origin: where it comes from, the end of a sentence that begins "Accuracies are"; empty if nobody says.
    """

    name: str = "accuracy"
    origin: str = ""

    @property
    def is_accuracy(self) -> bool:
        return self.name == "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One evaluated arch. `metrics` has every metric that the device knows: `error` and the costs as deployed."""

    number: int
    arch: Arch
    metrics: Mapping[str, float]
    latency_std_s: float
    feasible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An arch whose evaluation raised, or gave no number; `error` is the traceback, or a sentence."""

    number: int
    arch: Arch
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """All finished candidates of a search, and what was asked.

    Attributes:
        space: as trained; `deployed_space` has the graphs whose costs were counted.
        objectives: names of metrics, in Optuna's order.
        constraints: upper bounds by metric name, in SI units (`{"latency_s": 0.005}`).
        candidates: in the order in which they were asked.
        front: positions in `candidates` of the feasible Pareto front, by increasing latency.
        reference_point: losses that bound the hypervolume, one for each objective.
        hypervolumes: after each candidate; same length as `candidates`.
        accuracy_s: seconds that this process spent on accuracies, or waiting for its workers; `total_s` altogether.
        ending: whether it was interrupted, or the space had fewer networks than asked for.
        judgement: what the networks' `1 - error` is.
        failures: archs that could not be evaluated, in the order in which that was found.
    """

    space: Space
    deployed_space: Space
    predictor: LatencyPredictor
    objectives: tuple[str, ...]
    constraints: Mapping[str, float]
    candidates: tuple[Candidate, ...]
    front: tuple[int, ...]
    reference_point: tuple[float, ...]
    hypervolumes: tuple[float, ...]
    accuracy_s: float
    total_s: float
    ending: Ending = Ending.FINISHED
    judgement: Judgement = Judgement()
    failures: tuple[Failure, ...] = ()
