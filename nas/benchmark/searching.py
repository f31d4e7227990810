"""One search of a benchmark: a sampler as it ships on a task, and the seconds that it took."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.storages import BaseStorage

from nas.objectives import losses
from nas.proposals import MakeSampler, sampler_from_mapping
from nas.result import SearchResult
from nas.study import run_search
from nas.task import SearchTask
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces.space import Arch

PREDICTOR, NSGA2_50 = "predictor", "nsga2_50"
"""Our sampler, bound to its task; and NSGA-II with Optuna's default population."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Found:
    """What a search evaluated, in order, with its losses as the search saw them, and the seconds that it took."""

    archs: tuple[Arch, ...]
    losses_ND: np.ndarray
    search_s: float
    sampler_s: float


def search(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    sampler: str,
    *,
    num_evaluations: int,
    seed: int,
    timed: bool = True,
) -> Found:
    """Search in memory with one process. What times the sampler costs some microseconds a trial."""
    clock, make = Clock(), make_sampler(sampler, task)
    sampling = clock.timed(make) if timed else make
    result = run_task(task, accuracy, num_evaluations=num_evaluations, sampler=sampling, seed=seed)
    return Found(
        archs=tuple(dict(candidate.arch) for candidate in result.candidates),
        losses_ND=losses([candidate.metrics for candidate in result.candidates], task.objectives),
        search_s=result.total_s,
        sampler_s=clock.seconds,
    )


def run_task(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    *,
    num_evaluations: int,
    sampler: MakeSampler,
    seed: int,
    storage: BaseStorage | None = None,
    study_name: str = "search",
    num_workers: int = 1,
) -> SearchResult:
    """`run_search` as a user calls it, on the fields of a task."""
    return run_search(
        task.space,
        task.predictor,
        accuracy,
        task.objectives,
        deployed_space=task.deployed_space,
        num_trials=num_evaluations,
        sampler=sampler,
        storage=storage,
        study_name=study_name,
        num_workers=num_workers,
        seed=seed,
    )


def make_sampler(name: str, task: SearchTask) -> MakeSampler:
    """The sampler of a file in configs/sampler, or `nsga2_50`.

    Raises:
        ValueError: there is none.
    """
    if name == PREDICTOR:
        from nas.samplers import PredictorSampler

        return partial(PredictorSampler.for_task, task)
    if name == NSGA2_50:
        return partial(NSGAIISampler, population_size=50)
    path = shipped("sampler") / f"{name}.yaml"
    if not path.is_file():
        known = sorted({PREDICTOR, NSGA2_50, *(each.stem for each in shipped("sampler").glob("*.yaml"))})
        raise ValueError(f"unknown sampler {name!r}; there are {known}")
    return sampler_from_mapping(read_yaml(path))


class Clock:
    """Seconds inside of samplers' methods, and while they are made."""

    METHODS: Sequence[str] = (
        "infer_relative_search_space", "sample_relative", "sample_independent", "before_trial", "after_trial",
        "get_trial_generation", "get_parent_population",
    )  # fmt: skip

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def timed(self, make_sampler: MakeSampler) -> MakeSampler:
        """The same samplers, watched: their methods are replaced, so they stay what they are to `isinstance`."""

        def make(*, seed: int) -> BaseSampler:
            with self._running():
                sampler = make_sampler(seed=seed)
            for name in self.METHODS:
                if hasattr(sampler, name):
                    setattr(sampler, name, self._watched(getattr(sampler, name)))
            return sampler

        return make

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            with self._running():
                return method(*arguments, **named)

        return watched

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Methods call each other: only the outermost counts."""
        self._depth += 1
        begin_s = time.perf_counter()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.seconds += time.perf_counter() - begin_s
