"""What an unlimited budget would choose, and the best front that is known: no seeds, no luck of a search.

A strategy that looks at error and one cost would, in the end, find the exact front of those two. Judged by the
yardstick, that front tells what the wrong objective costs by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.compare.records import BestKnown, Chosen, Floats, Strategy, Yardstick
from nas.pareto import pareto_front
from nas.surrogate import SurrogateAccuracy
from nas.tabular import TableAccuracy
from nas.task import SearchTask
from nas.yardstick import BestFront, NoYardstickError, best_front, everything
from search_spaces.space import Arch

_EQUAL = 1e-9
"""Relative; a latency as a sum over positions, and as it is predicted."""


def limit_of(task: SearchTask, accuracy: Callable[[Arch], float], strategy: Strategy) -> tuple[Arch, ...] | None:
    """The networks that a strategy would choose if it evaluated the whole space, canonical.

    The exact front of error against its other objective, under the task's constraints: by sums over stages where a
    surrogate says the accuracies, from every network where the space is small and a table does.

    Returns:
        None where that is not known: other accuracies, spaces whose costs do not add up, more than two objectives, and
        a strategy that draws at random, which would draw everything.

    Raises:
        ValueError: no network meets the constraints.
    """
    costs = [name for name in strategy.objectives if name != "error"]
    if strategy.is_random or "error" not in strategy.objectives or len(costs) != 1:
        return None
    front = exact_front(task, accuracy, costs[0])
    return front.archs if front is not None and front.whole else None


def exact_front(task: SearchTask, accuracy: Callable[[Arch], float], cost: str) -> BestFront | None:
    """The front of error against a metric of all networks that meet the task's constraints; None if it is not known.

    Where it is not `whole`, some of its networks are known, each proven to be the most accurate within a bound.

    Raises:
        ValueError: no network meets the constraints.
    """
    try:
        if isinstance(accuracy, SurrogateAccuracy):
            return best_front(task, accuracy.surrogate, cost)
        if isinstance(accuracy, TableAccuracy):
            return everything(task, accuracy).front(("error", cost))
    except NoYardstickError:
        pass
    return None


def best_known(
    task: SearchTask, accuracy: Callable[[Arch], float], yardstick: Yardstick, evaluated: Sequence[Chosen]
) -> BestKnown:
    """The best front of error against the yardstick's latency that is known.

    The exact one of the whole space where that can be computed: from every network where the space is small, a table
    says the accuracies and the yardstick knows all latencies; by sums over stages where a surrogate does and the
    yardstick says what the task predicts. Else that of all networks that any search evaluated.

    Args:
        evaluated: as `nas.compare.judging.evaluated` gives them, of all strategies and seeds.

    Raises:
        ValueError: nothing was evaluated that the yardstick knows, or no network meets the constraints.
    """
    archs = tuple(arch for each in evaluated for arch in each.archs)
    losses_F2 = np.concatenate([np.empty((0, 2)), *(each.losses_F2 for each in evaluated)])
    if not archs:
        raise ValueError(
            f"the strategies share no yardstick: of the networks that the searches evaluated, none has a known latency "
            f"(judged by {yardstick.text})"
        )
    text = "the best of all networks that the searches evaluated"
    exact = _exact(task, accuracy, yardstick)
    if exact is not None and exact.whole:
        archs, losses_F2, text = exact.archs, exact.losses_ND, "the exact front of the whole space"
    elif exact is not None:  # what was evaluated may be better between the bounds
        archs, losses_F2 = (*archs, *exact.archs), np.concatenate([losses_F2, exact.losses_ND])
        text += ", and the most accurate ones of the space within some bounds on the latency"
    first = _front_by_seconds(losses_F2)
    return BestKnown(archs=tuple(archs[index] for index in first), losses_B2=losses_F2[first], text=text)


# ------------------------------------------------------------------------------------------------------------ private


def _exact(task: SearchTask, accuracy: Callable[[Arch], float], yardstick: Yardstick) -> BestFront | None:
    """The front of the whole space by the yardstick; None where that is not known."""
    if isinstance(accuracy, TableAccuracy):
        try:
            networks = everything(task, accuracy)
        except NoYardstickError:
            return None
        seconds_N = yardstick.latency_s(networks.archs)
        if np.isnan(seconds_N).any():
            return None
        return replace(networks, metrics={**networks.metrics, "latency_s": seconds_N}).front(("error", "latency_s"))
    if yardstick.is_measured or (found := exact_front(task, accuracy, "latency_s")) is None:
        return None
    is_same = np.allclose(yardstick.latency_s(found.archs), found.losses_ND[:, 1], rtol=_EQUAL, atol=0.0)
    return found if is_same else None


def _front_by_seconds(losses_F2: Floats) -> NDArray[np.int64]:
    """Places of the networks that none beats in both, by increasing seconds; one of those that are equal."""
    _, first_U = np.unique(losses_F2[:, ::-1], axis=0, return_index=True)
    kept: NDArray[np.int64] = first_U[pareto_front(losses_F2[first_U])]
    return kept
