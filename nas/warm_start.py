"""What earlier studies of a space found: archs and their errors, to begin another search with.

The earlier study may have been for other devices, objectives and bounds, and even for other data; the networks must be
those of the space.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from optuna import Study, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas.constraints import violations
from nas.objectives import losses
from nas.pareto import Front, pareto_front
from nas.storage import JOURNAL_NAME, close_storage, shown_url, storage_from
from nas.task import SearchTask
from search_spaces.loading import space_from_mapping
from search_spaces.space import Arch, Space

_ASKED = "ridgeline:asked"
_MAY_DIFFER = ("name", "num_classes", "in_channels", "deployed_resolution", "batch")
"""Fields of a space that other data and other devices change, and not what the knobs mean."""


class EarlierTrial(NamedTuple):
    """A network and the error that it had; `source` tells studies apart, whose errors may not compare."""

    arch: Arch
    error: float
    source: str = ""


WarmStart: TypeAlias = Sequence[tuple[Arch, float] | tuple[Arch, float, str] | EarlierTrial]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStudy:
    """What an earlier study found.

    Attributes:
        source: the folder, or the storage without a password and the study's name.
        trials: finished ones, in their order, archs in canonical form.
    """

    source: str
    trials: tuple[EarlierTrial, ...]


def read_earlier(source: str | Path | Study, space: Space, *, study_name: str | None = None) -> EarlierStudy:
    """The finished trials of an earlier search, or of any Optuna study over the knobs of the space.

    Args:
        source: the folder of a run with its journal, a journal file, the URL of a storage, or an Optuna study.
        study_name: in a storage; None takes the only one.

    Raises:
        ValueError: nothing is there, the study is of another space (what differs is named), it has no finished trial,
            or it does not tell which of its values is the error.
    """
    with _opened(source, study_name) as (study, shown):
        _check_space(study, space, shown)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = tuple(_earlier(trial, study, space, shown) for trial in complete)
    if not trials:
        raise ValueError(f"warm start from {shown}: it has no finished trial")
    return EarlierStudy(source=shown, trials=trials)


def trials_of(studies: Iterable[EarlierStudy]) -> list[EarlierTrial]:
    """All trials of some studies: the `warm_start` of `run_search` and `PredictorSampler`."""
    return [trial for study in studies for trial in study.trials]


def best_starts(task: SearchTask, pairs: WarmStart, num: int) -> list[Arch]:
    """At most `num` archs of the pairs' fronts under the costs of a task, those first that add the most hypervolume.

    Only archs that meet the task's constraints count. Errors of different studies do not compare, so each study has a
    front of its own, and they take turns.
    """
    by_source: dict[str, list[tuple[Arch, float]]] = {}
    for arch, error, *source in pairs:
        by_source.setdefault(str(source[0]) if source else "", []).append((arch, error))
    orders = [_by_gain(task, each, num) for each in by_source.values()]
    found: dict[tuple[int, ...], Arch] = {}
    for place in range(num):
        for order in orders:
            if place < len(order):
                found.setdefault(tuple(order[place].values()), order[place])
    return list(found.values())[:num]


# ------------------------------------------------------------------------------------------------------------ private


def _by_gain(task: SearchTask, pairs: Sequence[tuple[Arch, float]], num: int) -> list[Arch]:
    archs = [task.space.canonical(arch) for arch, _ in pairs]
    columns = task.costs_many(task.space.encode(archs))
    metrics = [
        {"error": float(error), **{name: float(column[row]) for name, column in columns.items()}}
        for row, (_, error) in enumerate(pairs)
    ]
    feasible = [
        row for row, each in enumerate(metrics) if max(violations(each, task.constraints).values(), default=0.0) <= 0.0
    ]
    losses_NM = losses([metrics[row] for row in feasible], task.objectives)
    rows = [int(row) for row in pareto_front(losses_NM)]
    front, order = Front.empty(np.array(task.reference_point)), list[int]()
    while rows and len(order) < num:
        best = max(rows, key=lambda row: front.add(losses_NM[row]).hypervolume)
        front = front.add(losses_NM[best])
        rows.remove(best)
        order.append(best)
    return [archs[feasible[row]] for row in order]


@contextmanager
def _opened(source: str | Path | Study, study_name: str | None) -> Iterator[tuple[Study, str]]:
    """A study, and how it is called without a password."""
    if isinstance(source, Study):
        yield source, f"study {source.study_name!r}"
        return
    if "://" in str(source):
        storage, shown = storage_from(str(source)), shown_url(str(source))
    else:
        path = Path(source).expanduser()
        path = path / JOURNAL_NAME if path.is_dir() else path
        if not path.is_file():
            what = f"{path.parent} has no {JOURNAL_NAME}" if path.name == JOURNAL_NAME else f"{path} does not exist"
            raise ValueError(
                f"warm start: {what}; give the folder of a run, or the URL of a storage with the study's name"
            )
        # Read only: a search may still write it.
        storage, shown = JournalStorage(JournalFileBackend(str(path))), str(path.parent)
    names = [study.study_name for study in storage.get_all_studies()]
    try:
        if study_name is None and len(names) != 1:
            raise ValueError(f"warm start from {shown}: it has {len(names)} studies, {names[:10]}; name one of them")
        name = names[0] if study_name is None else study_name
        if name not in names:
            raise ValueError(f"warm start from {shown}: it has no study {name!r}; it has {names[:10]}")
        yield load_study(study_name=name, storage=storage), f"{shown}, study {name!r}" if len(names) > 1 else shown
    finally:
        close_storage(storage)


def _check_space(study: Study, space: Space, shown: str) -> None:
    """Raise ValueError if the study says that its space is another."""
    asked = study.user_attrs.get(_ASKED)
    if asked is None:
        return
    found = asked.get("choices")
    wanted = {knob: list(values) for knob, values in space.choices.items()}
    if found is not None and found != wanted:
        different = [knob for knob in sorted({*found, *wanted}) if found.get(knob) != wanted.get(knob)]
        knob = different[0]
        raise ValueError(
            f"warm start from {shown}: it is of another space than {space.name!r}: knob {knob!r} takes "
            f"{found.get(knob, 'nothing')} there and {wanted.get(knob, 'nothing')} here"
        )
    if isinstance(asked.get("space"), Mapping):
        try:
            there = space_from_mapping(asked["space"]).identity
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"warm start from {shown}: its space is not known here: {error}") from None
        for field in sorted({*there, *space.identity}):
            old, new = _plain(there.get(field)), _plain(space.identity.get(field))
            if old != new and field not in _MAY_DIFFER:
                raise ValueError(
                    f"warm start from {shown}: it is of another space than {space.name!r}: {field} is {old!r} there "
                    f"and {new!r} here"
                )


def _earlier(trial: FrozenTrial, study: Study, space: Space, shown: str) -> EarlierTrial:
    where = f"warm start from {shown}, trial {trial.number}"
    arch: Mapping[str, Any] = trial.user_attrs.get("arch") or trial.params
    try:
        canonical = space.canonical(arch)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from None
    metrics = trial.user_attrs.get("metrics")
    if isinstance(metrics, Mapping) and "error" in metrics:
        error_found = float(metrics["error"])
    else:
        names = list(study.metric_names or ())
        if "error" not in names:
            raise ValueError(
                f"{where}: which of its {len(trial.values)} values is the error? Name them by study.set_metric_names, "
                f"one of them 'error'; found {names}"
            )
        error_found = float(trial.values[names.index("error")])
    if not 0.0 <= error_found <= 1.0:
        raise ValueError(f"{where}: an error is a fraction in 0..1, found {error_found}")
    return EarlierTrial(canonical, error_found, shown)


def _plain(value: Any) -> Any:
    """Without the difference between lists and tuples."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
