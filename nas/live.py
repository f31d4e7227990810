"""The study in memory that a sampler works on: what Optuna's does, without its copies and scans.

Optuna's storage copies a trial for each of its knobs and looks through all trials at each proposal. Here a proposal is
one whole arch, a finished trial is put in once and whole, and a genetic sampler is shown only the trials that it can
still make parents of: what it proposes is the same, what it costs no longer grows with the trials.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from typing import Any, NamedTuple

from optuna import create_study
from optuna import logging as optuna_logging
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class Proposal(NamedTuple):
    """A running trial of a live study: values of all knobs, those without effect included."""

    trial_id: int
    params: Mapping[str, int]


class LiveStudy:
    """Proposals of a sampler that proposes whole archs, as `DistinctSampler` does.

    Args:
        sampler: asked for proposals.
        inner: a sampler like the one that `sampler` asks, which tells whether it breeds generations.
        distributions: of every knob.
    """

    def __init__(
        self,
        directions: Sequence[StudyDirection],
        sampler: BaseSampler,
        inner: BaseSampler,
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        self._storage = _LiveStorage(inner if isinstance(inner, BaseGASampler) else None)
        with _quiet():
            self._study = create_study(storage=self._storage, directions=list(directions), sampler=sampler)
        self._distributions = dict(distributions)

    def propose(self) -> Proposal:
        """What to evaluate next. Whatever the sampler raises leaves no running trial behind."""
        trial = self._study.ask()
        try:
            return Proposal(trial._trial_id, trial.relative_params)
        except BaseException:
            self._storage.drop(trial._trial_id)
            raise

    def finish(
        self,
        proposal: Proposal,
        values: Sequence[float] | None,
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        """The proposal as a finished trial, which the sampler learns from; failed, if there are no values."""
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        running = self._storage.get_trial(proposal.trial_id)
        self._study.sampler.after_trial(self._study, running, state, values)
        running = self._storage.get_trial(proposal.trial_id)
        trial = FrozenTrial(
            number=running.number,
            state=state,
            value=None,
            values=values,
            datetime_start=running.datetime_start,
            datetime_complete=datetime.now(),
            params=dict(proposal.params),
            distributions=self._distributions,
            user_attrs=dict(user_attrs),
            system_attrs=dict(running.system_attrs),
            intermediate_values={},
            trial_id=running._trial_id,
        )
        for name, excess in (constraints or {}).items():
            trial.set_constraint(name, excess)
        self._storage.put(trial)
        return trial

    def drop(self, proposal: Proposal) -> None:
        """Forget a proposal that will not be evaluated."""
        self._storage.drop(proposal.trial_id)

    def take(self, trial: FrozenTrial) -> None:
        """Learn from a trial that was finished elsewhere, or in an earlier run."""
        trial_id = self._storage.create_new_trial(self._study._study_id)
        number = self._storage.get_trial(trial_id).number
        self._storage.put(_renumbered(trial, number, trial_id))


# ------------------------------------------------------------------------------------------------------------ private


@contextmanager
def _quiet() -> Iterator[None]:
    """Nobody wants to read that a study in memory was made."""
    before = optuna_logging.get_verbosity()
    optuna_logging.set_verbosity(optuna_logging.WARNING)
    try:
        yield
    finally:
        optuna_logging.set_verbosity(before)


class _LiveStorage(InMemoryStorage):
    """Of one study. Trials that are put in are never changed afterwards, so nothing is copied."""

    def __init__(self, breeding: BaseGASampler | None) -> None:
        super().__init__()
        self._generation_key = breeding._get_generation_key() if breeding else ""
        self._parents_prefix = breeding._get_parent_cache_key_prefix() if breeding else ""
        self._visible: dict[int, FrozenTrial] = {}
        self._running: set[int] = set()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self._running.add(trial_id)
        return trial_id

    def put(self, trial: FrozenTrial) -> None:
        self._set_trial(trial._trial_id, trial)
        self._running.discard(trial._trial_id)
        self._visible[trial._trial_id] = trial

    def drop(self, trial_id: int) -> None:
        self.set_trial_state_values(trial_id, TrialState.FAIL)
        self._running.discard(trial_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        if self._parents_prefix and key.startswith(self._parents_prefix):
            # Of the generations before, only these parents can become parents again.
            generation, parents = int(key.removeprefix(self._parents_prefix)), set(value)
            self._visible = {
                trial_id: trial
                for trial_id, trial in self._visible.items()
                if trial_id in parents or trial.system_attrs.get(self._generation_key, -1) >= generation
            }
        super().set_study_system_attr(study_id, key, value)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if deepcopy:
            return super().get_all_trials(study_id, deepcopy, states)
        trials = [*self._visible.values(), *map(self._get_trial, sorted(self._running))]
        return trials if states is None else [trial for trial in trials if trial.state in states]


def _renumbered(trial: FrozenTrial, number: int, trial_id: int) -> FrozenTrial:
    renumbered = copy(trial)
    renumbered.number = number
    renumbered._trial_id = trial_id
    return renumbered
