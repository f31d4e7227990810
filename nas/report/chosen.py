"""The few subnets of a search that a person looks at first: the extremes of the front and its knee."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.constraints import violations
from nas.result import Candidate, SearchResult
from predictors.latency import Prediction

ROLES = MOST_ACCURATE, BEST_SCORE, KNEE, FASTEST, NEAREST = (
    "most accurate", "best score", "knee", "fastest", "nearest miss",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSubnet:
    """A subnet with the roles it plays, e.g. 'knee'; `name` is that of its folder."""

    roles: tuple[str, ...]
    candidate: Candidate
    prediction: Prediction

    @property
    def title(self) -> str:
        return " and ".join(self.roles)

    @property
    def name(self) -> str:
        return folder_name(self.roles[0])


def choose(result: SearchResult) -> tuple[ChosenSubnet, ...]:
    """The most accurate, the knee and the fastest of the front, each subnet once; fewer where the front is smaller.

    Where candidates have a score that is no accuracy, the first is the one of the best score.
    Without a feasible candidate: the one that comes closest to the constraints.

    Raises:
        ValueError: the search has no candidate.
    """
    if not result.candidates:
        raise ValueError("the search has no finished candidate, so there is nothing to report")
    roles: dict[int, list[str]] = {}
    if result.front:
        front = [result.candidates[index] for index in result.front]
        points = np.array([(each.metrics["latency_s"], each.metrics["error"]) for each in front])
        fastest, most_accurate = np.lexsort(points.T[::-1])[0], np.lexsort(points.T)[0]
        best = MOST_ACCURATE if result.judgement.is_accuracy else BEST_SCORE
        roles.setdefault(result.front[most_accurate], []).append(best)
        roles.setdefault(result.front[fastest], []).append(FASTEST)
        if len(roles) == 2 and len(front) > 2:
            roles[result.front[knee(points, int(fastest), int(most_accurate))]] = [KNEE]
    else:
        excess = [
            sum(max(0.0, each) for each in violations(candidate.metrics, result.constraints).values())
            for candidate in result.candidates
        ]
        roles[int(np.argmin(excess))] = [NEAREST]
    ordered = sorted(roles, key=lambda index: -result.candidates[index].metrics["latency_s"])
    return tuple(_subnet(result, index, roles[index]) for index in ordered)


def folder_name(role: str) -> str:
    """'most_accurate' for 'most accurate'."""
    return role.replace(" ", "_")


def knee(points: np.ndarray, first: int, last: int) -> int:
    """Index of the point that bulges most from the line between two extremes towards the ideal point.

    Args:
        points: float array of shape (num_points, 2), both columns to be minimised.
        first, last: the extremes, different in both columns; neither is ever the knee.

    Source: Das, "On characterizing the knee of the Pareto curve based on normal-boundary intersection",
    Structural Optimization 18, 1999.
    """
    low, high = points[[first, last]].min(axis=0), points[[first, last]].max(axis=0)
    bulge = 1.0 - ((points - low) / (high - low)).sum(axis=1)
    bulge[[first, last]] = -np.inf
    return int(np.argmax(bulge))


def _subnet(result: SearchResult, index: int, roles: Sequence[str]) -> ChosenSubnet:
    candidate = result.candidates[index]
    prediction = result.predictor.predict(result.deployed_space.graph(candidate.arch))
    return ChosenSubnet(roles=tuple(roles), candidate=candidate, prediction=prediction)
