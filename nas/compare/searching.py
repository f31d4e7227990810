"""All searches of a comparison: each strategy with each seed, the same sampler and number of evaluations for all."""

import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import optuna
from joblib.externals.loky import ProcessPoolExecutor, cpu_count  # type: ignore[import-untyped]
from optuna.samplers import RandomSampler
from tqdm import tqdm

from nas.cli import is_for_users
from nas.compare.outcomes import append_outcome, read_outcomes
from nas.compare.records import Outcome, Strategy
from nas.errors import TooManyFailuresError
from nas.evaluators import end_with, interrupts_blocked
from nas.ledger import ForgetfulLedger
from nas.proposals import MakeSampler
from nas.result import Ending
from nas.study import search_task
from nas.task import SearchTask
from search_spaces.space import Arch

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Searches:
    """What is searched for and how, for all strategies and seeds.

    Args:
        task: or a function that makes the task of a seed; its objectives are replaced by each strategy's.
        accuracy: arch -> share of right answers in [0, 1].
        sampler_name: tells samplers apart that are not the same.
        num_trials: different networks that each search evaluates.
    """

    task: SearchTask | Callable[[int], SearchTask]
    accuracy: Callable[[Arch], float]
    strategies: tuple[Strategy, ...]
    sampler: MakeSampler
    sampler_name: str
    num_trials: int
    seeds: tuple[int, ...]

    def task_of(self, seed: int, strategy: Strategy | None = None) -> SearchTask:
        """The task of a seed; with the objectives of a strategy, if one is given."""
        if seed not in self._tasks:
            self._tasks[seed] = self.task if isinstance(self.task, SearchTask) else self.task(seed)
        task = self._tasks[seed]
        return task if strategy is None else replace(task, objectives=strategy.objectives)

    def each(self) -> Iterator[tuple[Strategy, int]]:
        """All searches, seed by seed: what is finished early can be compared early."""
        return ((strategy, seed) for seed in self.seeds for strategy in self.strategies)

    def asked(self, strategy: Strategy, seed: int) -> str:
        """A digest of all that determines what a search finds."""
        task = self.task_of(seed, strategy)
        described = {
            "task": task.fingerprint,
            "accuracies": self._accuracies_of_ends,
            "sampler": "random" if strategy.is_random else [self.sampler_name, _settings(self.sampler)],
            "num_trials": self.num_trials,
            "seed": seed,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def search(self, strategy: Strategy, seed: int) -> Outcome:
        """One search, in memory.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            ValueError, TooManyFailuresError: see `nas.study.run_search`.
        """
        task = self.task_of(seed, strategy)
        result = search_task(
            task,
            self.accuracy,
            ForgetfulLedger(),
            num_trials=self.num_trials,
            sampler=RandomSampler if strategy.is_random else self.sampler,
            seed=seed,
        )
        if result.ending is Ending.INTERRUPTED:
            raise KeyboardInterrupt
        return Outcome(
            strategy=strategy.name,
            seed=seed,
            indices_NK=task.space.encode([each.arch for each in result.candidates]),
            errors_N=np.array([each.metrics["error"] for each in result.candidates]),
            chosen=result.front,
            seconds=result.total_s,
        )

    @cached_property
    def _tasks(self) -> dict[int, SearchTask]:
        return {}

    @cached_property
    def _accuracies_of_ends(self) -> list[str]:
        """Accuracies of the smallest and the largest network, with which every search begins."""
        space = self.task_of(self.seeds[0]).space
        return [_shown(self.accuracy, arch) for arch in (space.smallest(), space.largest())]


def search_all(searches: Searches, *, path: Path | None = None, jobs: int = 1) -> dict[str, tuple[Outcome, ...]]:
    """The outcomes of all searches by strategy, in the order of the seeds; with a bar and the time that is left.

    Args:
        path: of finished searches, which are not searched again; those that finish are appended at once.
        jobs: processes.

    Raises:
        ValueError: the accuracy cannot be sent to another process, or a process died.
        KeyboardInterrupt: Ctrl-C; what is finished stands in the file.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, found {jobs}")
    work = list(searches.each())
    asked = [searches.asked(*each) for each in work]
    found = read_outcomes(path) if path is not None else {}
    # A group under two names asks the same: searched once, it counts for both.
    waiting = [place for place in range(len(work)) if asked[place] not in found and asked.index(asked[place]) == place]
    num_known = sum(each in found for each in asked)
    with tqdm(total=len(work), initial=num_known, desc="searches", unit="search", disable=not waiting) as bar:
        for place, outcome in _finished(searches, [work[place] for place in waiting], min(jobs, len(waiting) or 1)):
            question = asked[waiting[place]]
            found[question] = outcome
            if path is not None:
                append_outcome(path, outcome, question)
            bar.update(asked.count(question))
    outcomes: dict[str, list[Outcome]] = {each.name: [] for each in searches.strategies}
    for (strategy, _), question in zip(work, asked):
        outcomes[strategy.name].append(replace(found[question], strategy=strategy.name))
    return {name: tuple(each) for name, each in outcomes.items()}


# ------------------------------------------------------------------------------------------------------------ private

_there: dict[str, Searches] = {}
"""In a worker."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """What a worker met, as data: exceptions do not travel whole."""

    text: str


@dataclass(frozen=True, slots=True)
class _Failed:
    num: int
    first: str


def _finished(searches: Searches, work: Sequence[tuple[Strategy, int]], jobs: int) -> Iterator[tuple[int, Outcome]]:
    """Places of searches and what they found, as they finish."""
    if jobs == 1:
        for place, each in enumerate(work):
            yield place, searches.search(*each)
        return
    threads = max(1, cpu_count() // jobs)
    arguments = (_pickled(searches), os.getpid(), threads)
    environment = dict.fromkeys(_THREADS, str(threads))
    pool = ProcessPoolExecutor(max_workers=jobs, initializer=_prepare, initargs=arguments, env=environment)
    is_finished = False
    try:
        with interrupts_blocked():
            futures = {pool.submit(_search_there, *each): place for place, each in enumerate(work)}
        for future in as_completed(futures):
            found = future.result()
            if isinstance(found, _Refused):
                raise ValueError(found.text)
            if isinstance(found, _Failed):
                raise TooManyFailuresError(found.num, found.first)
            yield futures[future], found
        is_finished = True
    except BrokenProcessPool as error:
        raise ValueError(
            f"one of {jobs} processes died, perhaps for want of memory: {error}; finished searches are kept: the same "
            "command goes on, with fewer jobs= if need be"
        ) from error
    finally:
        pool.shutdown(wait=True, kill_workers=not is_finished)


def _pickled(searches: Searches) -> bytes:
    try:
        return bytes(cloudpickle.dumps(searches))
    except Exception as error:
        raise ValueError(
            f"the task, the accuracy or the sampler cannot be sent to another process: {error}; use jobs=1"
        ) from error


def _prepare(payload: bytes, parent: int, num_threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tqdm.set_lock(threading.RLock())  # its usual one is a semaphore, which would outlive a worker that is killed
    _there["searches"] = cloudpickle.loads(payload)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def _search_there(strategy: Strategy, seed: int) -> Outcome | _Refused | _Failed:
    try:
        return _there["searches"].search(strategy, seed)
    except TooManyFailuresError as error:
        return _Failed(error.num, error.first)
    except ValueError as error:
        if not is_for_users(error.__traceback__):
            raise
        return _Refused(str(error))


def _settings(sampler: MakeSampler) -> Any:
    """What a sampler is made with, JSON-able."""
    if not isinstance(sampler, partial):
        return getattr(sampler, "__qualname__", type(sampler).__qualname__)
    positional = [_settings(each) if callable(each) else repr(each) for each in (sampler.func, *sampler.args)]
    return [*positional, {key: str(value) for key, value in sampler.keywords.items()}]


def _shown(accuracy: Callable[[Arch], float], arch: Arch) -> str:
    try:
        return f"{float(accuracy(arch)):.9g}"
    except Exception as error:  # a search records it as a failure and goes on
        return type(error).__name__
