"""Visits to what is measured: interleaved, in random order, until each is known well enough or the budget is spent.

A visit is a warm-up and a few runs between references. Its level is the median of their times over the reference's.
Visits lie apart in time, so that what drifts more slowly than a visit shows in their scatter.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.measure.clock import Clock, Sample

RUNS = 5
"""Runs of a visit, behind one that warms up."""

_OUTLIER = 0.10
"""A visit further than this from the median of its task's visits is not explained by the reference; it is repeated."""

_PREEMPTED = 1.15
"""Wall time over CPU time beyond which others had the processor during a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to visit.

    Attributes:
        precision: relative standard error that is asked of every task.
        end_s: reading of `time.monotonic` at which no further round begins once every task has `min_visits`.
        min_visits, max_visits: of each task, whatever its standard error.
    """

    precision: float
    end_s: float = inf
    min_visits: int = 3
    max_visits: int = 12


class Runnable(Protocol):
    def run(self) -> object: ...


@dataclass(slots=True)
class Visits:
    """All runs of one task, in order; the first of each visit warms up and does not count.

    Attributes:
        samples: one for each run, the warm-ups among them.
        visit_of: number of the visit of each run, or -1 for a warm-up.
        rejected: numbers of the visits that were outliers and were taken again.
    """

    samples: list[Sample] = field(default_factory=list)
    visit_of: list[int] = field(default_factory=list)
    rejected: set[int] = field(default_factory=set)

    @property
    def num_visits(self) -> int:
        """Visits that count."""
        return len(set(self.visit_of) - {-1} - self.rejected)

    def levels(self, values_R: Sequence[float] | NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Level of each visit that counts, in units of the reference.

        Args:
            values_R: seconds of a part of each run, for all runs; None takes the whole runs.
        """
        seconds_R = np.array([sample.seconds for sample in self.samples] if values_R is None else values_R)
        ratio_R = seconds_R / np.array([sample.reference_s for sample in self.samples])
        visit_R = np.array(self.visit_of)
        calm_R = np.array([sample.wall_s <= _PREEMPTED * sample.seconds for sample in self.samples])
        found = []
        for visit in range(max(self.visit_of, default=-1) + 1):
            if visit not in self.rejected:
                of_visit_R = visit_R == visit
                counted_R = of_visit_R & calm_R if (of_visit_R & calm_R).any() else of_visit_R
                found.append(float(np.median(ratio_R[counted_R])))
        return np.array(found)

    @property
    def standard_error(self) -> float:
        """Relative standard error of the median of the levels; infinite before the second visit."""
        levels = self.levels()
        if len(levels) < 2:
            return inf
        return float(np.std(levels, ddof=1) / np.median(levels)) / sqrt(len(levels))


def visit_all(tasks: Sequence[Runnable], clock: Clock, rng: np.random.Generator, effort: Effort) -> list[Visits]:
    """Visit all tasks `min_visits` times, then those again whose standard error exceeds the precision."""
    found = [Visits() for _ in tasks]
    waiting = list(range(len(tasks)))
    while waiting:
        for index in rng.permutation(waiting):
            _visit(tasks[index], found[index], clock)
        for index in waiting:
            _reject_outliers(found[index])
        late = time.monotonic() > effort.end_s
        waiting = [index for index, visits in enumerate(found) if _goes_on(visits, effort, late)]
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _visit(task: Runnable, visits: Visits, clock: Clock) -> None:
    number = max(visits.visit_of, default=-1) + 1
    visits.samples += clock.samples(task.run, 1 + RUNS)
    visits.visit_of += [-1] + RUNS * [number]


def _goes_on(visits: Visits, effort: Effort, late: bool) -> bool:
    number = max(visits.visit_of, default=-1) + 1
    if number < effort.min_visits:
        return True
    unsettled = visits.num_visits < effort.min_visits or visits.standard_error > effort.precision
    return unsettled and not late and number < effort.max_visits


def _reject_outliers(visits: Visits) -> None:
    """Mark visits far from the median of all; with two visits neither can be told to be the odd one."""
    kept, visits.rejected = visits.rejected, set()
    levels = visits.levels()
    if len(levels) < 3:
        visits.rejected = kept
        return
    far = np.abs(levels / np.median(levels) - 1.0) > _OUTLIER
    visits.rejected = {int(number) for number in np.flatnonzero(far)} if far.sum() <= len(levels) // 3 else set()
