"""How far a search is from the best networks that its space has."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nas.objectives import losses, metric_named
from nas.pareto import hypervolume
from nas.result import Candidate, SearchResult
from nas.surrogate import SurrogateAccuracy
from nas.tabular import TableAccuracy
from nas.task import SearchTask
from nas.yardstick.best_front import BestFront, best_front, most_accurate
from nas.yardstick.exhaustive import everything
from nas.yardstick.least import TIME_LIMIT_S, least
from nas.yardstick.optimum import Optimum
from search_spaces.space import Arch

_Found = TypeVar("_Found")

_MAX_VOLUME = 10_000_000
"""Number of points to the power of one less than the objectives; the hypervolume of larger fronts takes too long."""

EQUAL = 1e-12
"""One sum in two orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastDistance:
    """The best value of one metric there is under the constraints, and the best that the search found.

    Attributes:
        found: of the feasible candidates, None where there are none.
    """

    metric: str
    best: Optimum
    found: float | None

    @property
    def gap(self) -> float | None:
        """How much worse the search's is, as a share of the best value; of the error the difference."""
        if self.found is None:
            return None
        worse = self.best.value - self.found if metric_named(self.metric).maximise else self.found - self.best.value
        return worse if self.metric == "error" else worse / self.best.value


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FrontDistance:
    """The true front and the search's.

    Attributes:
        objectives: of the hypervolumes.
        hypervolume, best_hypervolume: that the search's networks and the best ones dominate, up to the search's
            reference point; `limit_hypervolume`: what no networks exceed, the second where the front is whole.
        trade_off: the true front of error against one cost.
        found_N: least error of the search's networks that cost no more than each of the trade-off; inf for none.
    """

    objectives: tuple[str, ...]
    hypervolume: float
    best_hypervolume: float
    limit_hypervolume: float
    trade_off: BestFront
    found_N: NDArray[np.float64]

    @property
    def share(self) -> float:
        """Of the hypervolume that can be reached, what the search reached: the least that it may be."""
        return self.hypervolume / self.limit_hypervolume if self.limit_hypervolume else 1.0

    @property
    def gaps(self) -> NDArray[np.float64]:
        """How much more the search's network errs at the cost of each of the trade-off, a fraction; inf for none."""
        gaps_N: NDArray[np.float64] = np.maximum(self.found_N - self.trade_off.losses_ND[:, 0], 0.0)
        return gaps_N

    @property
    def num_found(self) -> int:
        """Networks of the trade-off that the search found, or others that are as good in both."""
        return int((self.gaps <= EQUAL).sum())

    @property
    def largest_gap(self) -> tuple[float, float] | None:
        """The largest gap, a fraction, and the cost where it is; None where the search has no network to compare."""
        is_compared = np.isfinite(self.gaps)
        if not is_compared.any():
            return None
        at = int(np.where(is_compared, self.gaps, -1.0).argmax())
        return float(self.gaps[at]), float(self.trade_off.losses_ND[at, 1])

    @property
    def mean_gap(self) -> float | None:
        """The gap's mean over the costs from where the search's networks begin to the most accurate one's."""
        cost_N, compared = self.trade_off.losses_ND[:, 1], np.flatnonzero(np.isfinite(self.gaps))
        if len(compared) < 2:
            return float(self.gaps[compared].mean()) if len(compared) else None
        first = compared[0]
        widths_N = np.diff(cost_N[first:])
        return float(self.gaps[first:-1] @ widths_N / widths_N.sum())


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Distance:
    """How far a search is from the best there is.

    Attributes:
        least: of each objective whose best value is known.
        front: None where the true front is not known.
        reasons: why something is not known, sentences without a full stop.
        seconds: that it took to find out.
    """

    least: tuple[LeastDistance, ...]
    front: FrontDistance | None
    reasons: tuple[str, ...]
    seconds: float


def yardstick_of(
    task: SearchTask, result: SearchResult, accuracy: Callable[[Arch], float], *, time_limit_s: float = TIME_LIMIT_S
) -> Distance:
    """How far a search is from the best networks of its space, as far as that can be known.

    Accuracies of a table: from every network. Of a surrogate: exact optimisation. Of anything else: what the costs
    alone allow.

    Args:
        result: what the search of this task has found.
        accuracy: that the search asked.
        time_limit_s: of all integer programs together, about; what is not proven by then says so.
    """
    started = time.perf_counter()
    candidates = [each for each in result.candidates if each.feasible]
    cost = next((name for name in task.objectives if name != "error" and not metric_named(name).maximise), None)
    has_trade_off = cost is not None and "error" in task.objectives
    reference = dict(zip(task.objectives, task.reference_point))
    best_of: dict[str, Optimum | None] = {}
    front: FrontDistance | None = None
    reasons: list[str] = []

    def left_s() -> float:
        return max(time_limit_s - (time.perf_counter() - started), 1.0)

    def known(find: Callable[[], _Found]) -> _Found | None:
        try:
            return find()
        except ValueError as error:
            reasons.append(str(error))
            return None

    if isinstance(accuracy, TableAccuracy):
        if (networks := known(lambda: everything(task, accuracy))) is not None:
            best_of = {name: networks.least(name) for name in task.objectives}
            if has_trade_off:
                whole, trade_off = networks.front(task.objectives), networks.front(("error", str(cost)))
                best = whole if _is_measurable(whole) else trade_off
                front = _front_distance(candidates, best, trade_off, reference)
    else:
        for name in task.objectives:
            if name != "error":
                best_of[name] = known(lambda name=name: least(task, name, time_limit_s=left_s()))  # type: ignore[misc]
        if "error" in task.objectives and isinstance(accuracy, SurrogateAccuracy):
            surrogate = accuracy.surrogate
            best_of["error"] = known(lambda: most_accurate(task, surrogate, time_limit_s=left_s()))
            if has_trade_off and best_of["error"]:
                known_front = known(lambda: best_front(task, surrogate, str(cost), time_limit_s=left_s()))
                front = _front_distance(candidates, known_front, known_front, reference) if known_front else None
        elif "error" in task.objectives:
            reasons.append("how accurate networks are that were not evaluated is not known")
    return Distance(
        least=tuple(
            LeastDistance(metric=name, best=optimum, found=_best_found(candidates, name))
            for name in task.objectives
            if (optimum := best_of.get(name)) is not None
        ),
        front=front,
        reasons=tuple(dict.fromkeys(reasons)),
        seconds=time.perf_counter() - started,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _best_found(candidates: Sequence[Candidate], name: str) -> float | None:
    values = [each.metrics[name] for each in candidates]
    if not values:
        return None
    return max(values) if metric_named(name).maximise else min(values)


def _is_measurable(front: BestFront) -> bool:
    """Whether the hypervolume of a front is known within seconds."""
    num_points, num_objectives = front.losses_ND.shape
    return num_objectives == 2 or bool(num_points ** (num_objectives - 1) <= _MAX_VOLUME)


def _front_distance(
    candidates: Sequence[Candidate], best: BestFront, trade_off: BestFront, reference: Mapping[str, float]
) -> FrontDistance:
    reference_D = np.array([reference[name] for name in best.objectives])
    searched_ND = losses([each.metrics for each in candidates], best.objectives)
    return FrontDistance(
        objectives=best.objectives,
        hypervolume=hypervolume(searched_ND, reference_D),
        best_hypervolume=hypervolume(best.losses_ND, reference_D),
        limit_hypervolume=hypervolume(best.outer_ND, reference_D),
        trade_off=trade_off,
        found_N=_least_errors(losses([each.metrics for each in candidates], trade_off.objectives), trade_off),
    )


def _least_errors(searched_ND: NDArray[np.float64], trade_off: BestFront) -> NDArray[np.float64]:
    """The least error of what was searched at no more than each cost of the trade-off."""
    order = np.argsort(searched_ND[:, 1], kind="stable")
    least_N = np.append(np.inf, np.minimum.accumulate(searched_ND[order, 0]))
    at_most_N = trade_off.losses_ND[:, 1] * (1.0 + EQUAL)
    found_N: NDArray[np.float64] = least_N[np.searchsorted(searched_ND[order, 1], at_most_N, side="right")]
    return found_N
