"""The search: Optuna proposes archs, the predictor and the accuracy score them, each finished one is stored at once.

The sampler works on a study in memory (`nas.live`). What keeps trials gets each as one record when it is finished,
since asking through it costs a synchronised write for every knob of every proposal; so a process that is killed loses
the trials that ran, and no more. Several processes that share a study say what they evaluate (`nas.ledger`).
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.samplers import NSGAIISampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from nas.constraints import violations
from nas.dashboard import describe_study
from nas.errors import TooManyFailuresError
from nas.evaluators import Evaluators
from nas.evaluators import Failure as FailedEvaluation
from nas.ledger import Claim, ForgetfulLedger, Ledger
from nas.live import LiveStudy, Proposal
from nas.objectives import losses, metric_named
from nas.pareto import Front, pareto_front
from nas.proposals import DistinctSampler, MakeSampler, SpaceExhaustedError, distributions
from nas.result import Candidate, Ending, Failure, SearchResult
from nas.storage import close_storage, storage_from
from nas.task import SearchTask
from nas.warm_start import WarmStart, best_starts
from predictors.latency import LatencyPredictor
from search_spaces.space import Arch, Space

MAX_FAILURES_IN_A_ROW = 10

_ASKED = "ridgeline:asked"
_POLL_S = 0.5
_NUM_WARM_STARTS = 10


def run_search(
    space: Space,
    predictor: LatencyPredictor,
    accuracy: Callable[[Arch], float],
    objectives: Sequence[str] = ("error", "latency_s"),
    *,
    deployed_space: Space | None = None,
    constraints: Mapping[str, float] | None = None,
    hard: bool = True,
    other_predictors: Mapping[str, LatencyPredictor] | None = None,
    num_trials: int = 200,
    sampler: MakeSampler = NSGAIISampler,
    storage: str | Path | BaseStorage | None = None,
    study_name: str = "search",
    num_workers: int = 1,
    warm_start: WarmStart = (),
    seed: int = 0,
    progress: bool = False,
) -> SearchResult:
    """Search a space for the best compromises between accuracy and what networks cost on devices.

    `search_task` says what is evaluated and what happens when it is interrupted.

    Args:
        accuracy: arch -> share of right answers in [0, 1].
        objectives: names in `METRICS`; on one of the other devices `DEVICE.METRIC`.
        deployed_space: whose graphs are costed, e.g. `space.deployed(224)`; None: the space itself.
        constraints: upper bounds by metric name, in SI units: `{"latency_s": 0.005}`.
        hard: networks beyond a bound are never evaluated; else the sampler is told by how much they are.
        other_predictors: of more devices, by the name that stands before the dot of a metric's name.
        num_trials: different networks, those included that the storage already holds.
        sampler: makes an Optuna sampler from `seed=`, e.g. `functools.partial(TPESampler, multivariate=True)`;
            or a class with `for_task`, such as `nas.samplers.PredictorSampler`.
        storage: where finished trials are kept: None forgets them; the path of a journal file; the URL of a database or
            of Optuna's gRPC proxy, which several processes may share; or an Optuna storage.
        num_workers: processes that evaluate accuracies; the accuracy is sent to each of them once.
        warm_start: of earlier searches of the space, for any device: `trials_of([read_earlier(folder, space)])`.

    Raises:
        ValueError: anything that is wrong with the arguments, constraints that no arch meets, a study that was begun
            for something else, or an accuracy outside of [0, 1].
        TooManyFailuresError: ten evaluations in a row failed.
    """
    task = SearchTask(
        space=space,
        deployed_space=deployed_space or space,
        predictor=predictor,
        objectives=tuple(objectives),
        constraints=constraints or {},
        hard=hard,
        other_predictors=other_predictors or {},
    )
    with opened_ledger(storage, study_name, task, {"seed": seed}) as ledger:
        return search_task(
            task,
            accuracy,
            ledger,
            num_trials=num_trials,
            sampler=sampler,
            num_workers=num_workers,
            warm_start=warm_start,
            seed=seed,
            progress=progress,
        )


def search_task(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    ledger: Ledger | ForgetfulLedger,
    *,
    num_trials: int = 200,
    sampler: MakeSampler = NSGAIISampler,
    num_workers: int = 1,
    warm_start: WarmStart = (),
    seed: int = 0,
    progress: bool = False,
) -> SearchResult:
    """Evaluate `num_trials` different networks, or all of the space if it has fewer, and return all that are known.

    Trials that the ledger already holds are not evaluated again and count towards `num_trials`. With one worker the
    same arguments give the same trials, also when the search is interrupted and continued. An evaluation that raises or
    gives NaN is recorded as failed and does not count. Ctrl-C ends the search early with what is there.

    Raises:
        ValueError, TooManyFailuresError: see `run_search`.
    """
    started = time.perf_counter()
    for name, number in (("num_trials", num_trials), ("num_workers", num_workers)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, found {number}")
    state = _Search(task, ledger, _bound(sampler, task, warm_start), warm_start, seed)
    known = len(state.candidates)
    bar = tqdm(total=max(num_trials, known), initial=known, desc="search", unit="arch", disable=not progress)
    ending = Ending.FINISHED
    try:
        with Evaluators(accuracy, num_workers) as evaluators:
            while len(state.candidates) < num_trials:
                while len(state.running) < num_workers and state.num_claimed < num_trials and not state.exhausted:
                    if claimed := state.next_claimed():
                        evaluators.submit(*claimed)
                if state.running:
                    waited = time.perf_counter()
                    finished = evaluators.wait()
                    state.accuracy_s += time.perf_counter() - waited
                    for key, outcome in finished:
                        state.finish(key, outcome)
                elif state.exhausted and not ledger.num_running_elsewhere():
                    ending = Ending.EXHAUSTED
                    break
                else:
                    time.sleep(_POLL_S)  # others evaluate the rest; should they die, it is evaluated here
                state.read_news()
                relative = state.front.hypervolume / task.unit_volume
                bar.set_postfix(hypervolume=f"{relative:.4f}", front=len(state.front), refresh=False)
                bar.update(len(state.candidates) - bar.n)
    except KeyboardInterrupt:
        ending = Ending.INTERRUPTED
        ledger.close()  # what ran here may be evaluated by others, also while a report is written
    finally:
        bar.close()
    return SearchResult(
        space=task.space,
        deployed_space=task.deployed_space,
        predictor=task.predictor,
        objectives=task.objectives,
        constraints=task.constraints,
        candidates=tuple(state.candidates),
        front=_front_positions(state.candidates, task.objectives),
        reference_point=task.reference_point,
        hypervolumes=tuple(state.hypervolumes),
        accuracy_s=state.accuracy_s,
        total_s=time.perf_counter() - started,
        ending=ending,
        failures=tuple(state.failures),
    )


@contextmanager
def opened_ledger(
    storage: BaseStorage | Path | str | None,
    study_name: str,
    task: SearchTask,
    identity: Mapping[str, Any],
    *,
    shared: bool | None = None,
) -> Iterator[Ledger | ForgetfulLedger]:
    """The ledger of the study of that name, made if there is none.

    Args:
        identity: whatever determines the result beside the task, JSON-able: the seed, the sampler, the training.
        shared: whether other processes may work on it; None: if it is kept neither in memory nor in a journal.

    Raises:
        ValueError: it was made for something else.
    """
    if storage is None:
        yield ForgetfulLedger()
        return
    opened = storage_from(storage)
    if shared is None:
        shared = not isinstance(opened, (InMemoryStorage, JournalStorage))
    asked = json.loads(json.dumps({**task.fingerprint, **identity}))
    try:
        with Ledger(opened, study_name, _directions(task), shared=shared) as ledger:
            _check_asked(ledger.study, asked)
            describe_study(ledger.study, task.objectives)
            yield ledger
    finally:
        close_storage(opened)


# ------------------------------------------------------------------------------------------------------------ private


class _Search:
    """What is known, what is running here, and who proposes what comes next."""

    def __init__(
        self,
        task: SearchTask,
        ledger: Ledger | ForgetfulLedger,
        make_sampler: MakeSampler,
        warm_start: WarmStart,
        seed: int,
    ) -> None:
        self.task, self.ledger = task, ledger
        self.candidates: list[Candidate] = []
        self.failures: list[Failure] = []
        self.front = Front.empty(np.array(task.reference_point))
        self.hypervolumes: list[float] = []
        self.accuracy_s = 0.0
        self.running: dict[int, tuple[Proposal, Claim]] = {}
        self.exhausted = False
        self._failures_in_a_row: list[str] = []
        start = [task.space.smallest(), task.space.largest(), task.feasible_arch]
        start += best_starts(task, warm_start, _NUM_WARM_STARTS) if warm_start else []
        finished = ledger.news()
        self._sampler = DistinctSampler(
            make_sampler,
            task.space,
            seed=seed,
            start=start,
            seen=[trial.user_attrs["arch"] for trial in finished],
            excess=task.excess_many if task.hard and task.constraints else None,
        )
        self._distributions = distributions(task.space)
        self._live = LiveStudy(_directions(task), self._sampler, make_sampler(seed=0), self._distributions)
        for trial in finished:
            self._live.take(trial)
            self._add(trial)

    @property
    def num_claimed(self) -> int:
        """Networks that are evaluated, or will be if nobody dies."""
        return len(self.candidates) + len(self.running) + self.ledger.num_running_elsewhere()

    def read_news(self) -> None:
        """Learn what others finished, and take over what others began before they died."""
        for trial in self.ledger.news():
            self._sampler.note(trial.user_attrs["arch"])
            self._live.take(trial)
            self._add(trial)
        if stale := self.ledger.stale():
            self._sampler.enqueue(stale)
            self.exhausted = False

    def next_claimed(self) -> tuple[int, Arch] | None:
        """What to evaluate next, and its key; None if somebody else began with it, or if there is nothing more."""
        try:
            proposal = self._live.propose()
        except SpaceExhaustedError:
            self.exhausted = True
            return None
        arch = self.task.space.canonical(proposal.params)
        claim = self.ledger.claim(arch, proposal.params, self._distributions)
        if claim is None:
            self._live.drop(proposal)
            return None
        self.running[proposal.trial_id] = proposal, claim
        return proposal.trial_id, arch

    def finish(self, key: int, outcome: float | FailedEvaluation) -> None:
        """Record what came of an evaluation.

        Raises:
            ValueError: an accuracy that is none.
            TooManyFailuresError: it is the tenth failure in a row.
        """
        proposal, claim = self.running.pop(key)
        if isinstance(outcome, FailedEvaluation):
            self._fail(proposal, claim, outcome.text)
        elif not isfinite(outcome):
            self._fail(proposal, claim, f"the accuracy is {outcome}")
        elif not 0.0 <= outcome <= 1.0:
            hint = "; is it in percent?" if 1.0 < outcome <= 100.0 else ""
            raise ValueError(f"accuracy must be in [0, 1], found {outcome} for arch {claim.arch}{hint}")
        else:
            costs, std_s = self.task.predicted(claim.arch)
            metrics = {"error": 1.0 - outcome, **costs}
            trial = self._live.finish(
                proposal,
                [metrics[name] for name in self.task.objectives],
                {"arch": claim.arch, "metrics": metrics, "latency_std_s": std_s},
                violations(metrics, self.task.constraints),
            )
            self.ledger.finish(claim, trial)
            self._add(trial)
            self._failures_in_a_row.clear()

    def _fail(self, proposal: Proposal, claim: Claim, text: str) -> None:
        trial = self._live.finish(proposal, None, {"arch": claim.arch, "failure": text})
        self.ledger.fail(claim, trial, text)
        self._add(trial)
        self._failures_in_a_row.append(text)
        if len(self._failures_in_a_row) == MAX_FAILURES_IN_A_ROW:
            raise TooManyFailuresError(MAX_FAILURES_IN_A_ROW, self._failures_in_a_row[0])

    def _add(self, trial: FrozenTrial) -> None:
        arch = trial.user_attrs["arch"]
        if trial.state is not TrialState.COMPLETE:
            self.failures.append(Failure(number=len(self.failures), arch=arch, error=trial.user_attrs["failure"]))
            return
        candidate = Candidate(
            number=len(self.candidates),
            arch=arch,
            metrics=trial.user_attrs["metrics"],
            latency_std_s=trial.user_attrs["latency_std_s"],
            feasible=all(excess <= 0.0 for excess in trial.constraints.values()),
        )
        self.candidates.append(candidate)
        if candidate.feasible:
            self.front = self.front.add(losses([candidate.metrics], self.task.objectives)[0])
        self.hypervolumes.append(self.front.hypervolume)


def _bound(sampler: MakeSampler, task: SearchTask, warm_start: WarmStart) -> MakeSampler:
    """A sampler that looks at the task gets it."""
    made, settings = (sampler.func, sampler.keywords) if isinstance(sampler, partial) else (sampler, {})
    for_task = getattr(made, "for_task", None)
    return sampler if for_task is None else partial(for_task, task, warm_start=warm_start, **settings)


def _check_asked(study: Study, asked: Mapping[str, Any]) -> None:
    """Note what a new study is for, and refuse one that is for something else."""
    found = study.user_attrs.get(_ASKED)
    if found is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(f"study {study.study_name!r} has trials that no search made; choose another study_name")
        study.set_user_attr(_ASKED, asked)
        return
    old, new = dict(_leaves(found)), dict(_leaves(asked))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"study {study.study_name!r} was begun with {key} {old.get(key)}, and {new.get(key)} is asked now; "
                "continue it as it was begun, or choose another run_dir or study_name"
            )


def _directions(task: SearchTask) -> list[StudyDirection]:
    return [
        StudyDirection.MAXIMIZE if metric_named(name).maximise else StudyDirection.MINIMIZE for name in task.objectives
    ]


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by their dotted keys."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _front_positions(candidates: Sequence[Candidate], objectives: Sequence[str]) -> tuple[int, ...]:
    """Positions of the feasible candidates that no feasible one dominates, by increasing latency."""
    feasible = [position for position, candidate in enumerate(candidates) if candidate.feasible]
    on_front = pareto_front(losses([candidates[position].metrics for position in feasible], objectives))
    return tuple(
        sorted((feasible[index] for index in on_front), key=lambda position: candidates[position].metrics["latency_s"])
    )
