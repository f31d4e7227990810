"""The search: Optuna proposes archs, the predictor and the accuracy score them, each finished one is stored at once.

The sampler works on a study in memory. A storage that keeps things gets each trial as one record when it is finished,
since asking through it costs a synchronised write for every knob of every proposal; so a process that is killed loses
the trial that ran, and no running trial is ever left behind.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study, create_study
from optuna.samplers import NSGAIISampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from nas.constraints import violations
from nas.objectives import cost_metrics, losses, metric_named
from nas.pareto import Front, pareto_front
from nas.proposals import DistinctSampler, MakeSampler, SpaceExhaustedError, distributions
from nas.result import Candidate, Ending, SearchResult
from nas.task import SearchTask
from search_spaces.space import Arch

_ASKED = "ridgeline:asked"


def run_search(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    *,
    num_trials: int = 200,
    sampler: MakeSampler = NSGAIISampler,
    study: Study | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SearchResult:
    """Evaluate `num_trials` different networks, or all of the space if it has fewer, and return all that are known.

    Trials that the study already holds are not evaluated again and count towards `num_trials`. The same arguments give
    the same trials, also when the search is interrupted and continued. Ctrl-C ends it early with what is there.

    Args:
        accuracy: arch -> share of right answers in [0, 1].
        sampler: makes an Optuna sampler from `seed=`.
        study: from `open_study`; None forgets the trials.

    Raises:
        ValueError: constraints that no arch meets, or an accuracy outside of [0, 1].
    """
    started = time.perf_counter()
    if num_trials < 1:
        raise ValueError(f"num_trials must be at least 1, found {num_trials}")
    start = (task.space.smallest(), task.space.largest(), task.feasible_arch)
    stored = study or open_study(InMemoryStorage(), "search", task, {})
    finished = stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    record = _Record(task)
    for trial in finished:
        record.add(trial)
    seen = [candidate.arch for candidate in record.candidates]
    live = create_study(
        directions=stored.directions, sampler=DistinctSampler(sampler, task.space, seed=seed, start=start, seen=seen)
    )
    live.add_trials(finished)
    ending = Ending.FINISHED
    bar = tqdm(total=max(num_trials, len(seen)), initial=len(seen), desc="search", unit="arch", disable=not progress)
    try:
        while len(record.candidates) < num_trials:
            trial = _evaluated(live, task, accuracy, record)
            stored.add_trial(trial)
            record.add(trial)
            relative = record.front.hypervolume / task.unit_volume
            bar.set_postfix(hypervolume=f"{relative:.4f}", front=len(record.front), refresh=False)
            bar.update()
    except SpaceExhaustedError:
        ending = Ending.EXHAUSTED
    except KeyboardInterrupt:
        ending = Ending.INTERRUPTED
    finally:
        bar.close()
    return SearchResult(
        space=task.space,
        deployed_space=task.deployed_space,
        predictor=task.predictor,
        objectives=task.objectives,
        constraints=task.constraints,
        candidates=tuple(record.candidates),
        front=_front_positions(record.candidates, task.objectives),
        reference_point=task.reference_point,
        hypervolumes=tuple(record.hypervolumes),
        accuracy_s=record.accuracy_s,
        total_s=time.perf_counter() - started,
        ending=ending,
    )


def open_study(storage: BaseStorage, study_name: str, task: SearchTask, identity: Mapping[str, Any]) -> Study:
    """The study of that name in a storage, made if there is none.

    Args:
        identity: whatever determines the result beside the task, JSON-able: the seed, the sampler, the training.

    Raises:
        ValueError: it was made for something else.
    """
    asked = json.loads(json.dumps({**task.fingerprint, **identity}))
    directions = [
        StudyDirection.MAXIMIZE if metric_named(name).maximise else StudyDirection.MINIMIZE for name in task.objectives
    ]
    study = create_study(storage=storage, study_name=study_name, directions=directions, load_if_exists=True)
    found = study.user_attrs.get(_ASKED)
    if found is None:
        study.set_user_attr(_ASKED, asked)
        return study
    old, new = dict(_leaves(found)), dict(_leaves(asked))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"study {study_name!r} was begun with {key} {old.get(key)}, and {new.get(key)} is asked now; "
                "continue it as it was begun, or choose another run_dir"
            )
    return study


# ------------------------------------------------------------------------------------------------------------ private


class _Record:
    """What the search has found so far."""

    def __init__(self, task: SearchTask) -> None:
        self.task = task
        self.candidates: list[Candidate] = []
        self.front = Front.empty(np.array(task.reference_point))
        self.hypervolumes: list[float] = []
        self.accuracy_s = 0.0

    def add(self, trial: FrozenTrial) -> None:
        candidate = Candidate(
            number=len(self.candidates),
            arch=dict(trial.user_attrs["arch"]),
            metrics=dict(trial.user_attrs["metrics"]),
            latency_std_s=trial.user_attrs["latency_std_s"],
            feasible=all(excess <= 0.0 for excess in trial.constraints.values()),
        )
        self.candidates.append(candidate)
        if candidate.feasible:
            self.front = self.front.add(losses([candidate.metrics], self.task.objectives)[0])
        self.hypervolumes.append(self.front.hypervolume)


def _evaluated(live: Study, task: SearchTask, accuracy: Callable[[Arch], float], record: _Record) -> FrozenTrial:
    """The next trial, finished."""
    trial = live.ask(distributions(task.space))
    arch = task.space.canonical(trial.params)
    prediction = task.predict(arch)
    started = time.perf_counter()
    share = float(accuracy(dict(arch)))
    record.accuracy_s += time.perf_counter() - started
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"accuracy must be in [0, 1], found {share} for arch {arch}")
    metrics = {"error": 1.0 - share, **cost_metrics(prediction)}
    trial.set_user_attr("arch", arch)
    trial.set_user_attr("metrics", metrics)
    trial.set_user_attr("latency_std_s", float(prediction.std_s))
    for name, excess in violations(metrics, task.constraints).items():
        trial.set_constraint(name, excess)
    return live.tell(trial, [metrics[name] for name in task.objectives])


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
