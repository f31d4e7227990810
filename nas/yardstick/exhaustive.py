"""Every network of a space: what small spaces with free accuracies allow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from nas.objectives import metric_named
from nas.pareto import pareto_front
from nas.task import SearchTask
from nas.yardstick.best_front import BestFront
from nas.yardstick.optimum import NoYardstickError, Optimum
from search_spaces.space import Arch

MAX_NETWORKS = 200_000
"""Spaces of more combinations of knobs are not gone through."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Everything:
    """All networks that meet the task's constraints, with every metric. `everything` makes it.

    Attributes:
        archs: canonical, N.
        metrics: `error` and all costs, in SI units, shape (N,) each.
    """

    archs: tuple[Arch, ...]
    metrics: Mapping[str, NDArray[np.float64]]

    def least(self, metric: str) -> Optimum:
        """The best value of any metric, the error included."""
        values_N = self.metrics[metric]
        at = int(values_N.argmax() if metric_named(metric).maximise else values_N.argmin())
        value = float(values_N[at])
        return Optimum(arch=self.archs[at], value=value, proven=True, limit=value)

    def front(self, objectives: Sequence[str]) -> BestFront:
        """The front of some metrics; one network of those that are equal in all."""
        columns = [-self.metrics[name] if metric_named(name).maximise else self.metrics[name] for name in objectives]
        losses_ND, first = np.unique(np.column_stack(columns), axis=0, return_index=True)
        on_front = pareto_front(losses_ND)
        on_front = on_front[np.argsort(losses_ND[on_front, -1], kind="stable")]
        losses_ND = losses_ND[on_front]
        archs = tuple(self.archs[index] for index in first[on_front])
        return BestFront(objectives=tuple(objectives), losses_ND=losses_ND, archs=archs, whole=True, outer_ND=losses_ND)


def everything(task: SearchTask, accuracies: Callable[[Arch], float]) -> Everything:
    """Every network of the space that meets the constraints.

    Args:
        accuracies: arch -> share of right answers; asked once for each network.

    Raises:
        NoYardstickError: the space has more than `MAX_NETWORKS` combinations of knobs.
        ValueError: no network meets the constraints.
    """
    space = task.space
    sizes = [len(values) for values in space.choices.values()]
    if prod(sizes) > MAX_NETWORKS:
        raise NoYardstickError(
            f"space {space.name!r} has {prod(sizes)} combinations of knobs, too many to go through all; the most is "
            f"{MAX_NETWORKS}"
        )
    every = space.decode(np.indices(sizes).reshape(len(sizes), -1).T)
    archs = list({tuple(arch.values()): arch for arch in map(space.canonical, every)}.values())
    indices_NK = space.encode(archs)
    is_kept = task.excess_many(indices_NK) <= 0.0
    archs = [archs[index] for index in np.flatnonzero(is_kept)]
    if not archs:
        bounds = " and ".join(f"{name} <= {bound:.6g}" for name, bound in task.constraints.items())
        raise ValueError(f"no network of space {space.name!r} has {bounds}; all were looked at")
    errors_N = np.array([1.0 - accuracies(arch) for arch in archs])
    return Everything(archs=tuple(archs), metrics={"error": errors_N, **task.costs_many(indices_NK[is_kept])})


def exhaustive_front(task: SearchTask, accuracies: Callable[[Arch], float]) -> BestFront:
    """The true front of the task's objectives, from every network. See `everything`."""
    return everything(task, accuracies).front(task.objectives)
