"""An Optuna sampler that predicts errors and knows costs: it proposes what promises the most hypervolume.

The costs of an arch are exact and free, only its error is unknown. A Gaussian process is fitted to the errors of the
finished trials (`error_model`), a hundred thousand archs are scored with it (`candidates`), and a batch is proposed
whose expected gain of hypervolume is the greatest (`gains`): one arch after the other, each time as if those before
had been found to have the error that is expected of them.

Source: Ginsbourger, Le Riche, Carraro, "Kriging is well-suited to parallelize optimization", 2010 (the kriging
believer); Knowles, "ParEGO", 2006, for surrogates of several objectives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import Self

from nas.objectives import check_objectives, metric_named
from nas.pareto import pareto_front
from nas.samplers.batch import Known, Oracle, best_batch, spread_batch
from nas.samplers.candidates import Candidates, Costs, Territory, random_indices
from nas.samplers.canonical import Indices, keys_of
from nas.samplers.error_model import Array, ErrorModel, Features, Hyperparameters, fit_errors, log_errors, tune
from nas.samplers.path_features import path_features
from nas.task import SearchTask
from search_spaces.space import Arch, Space

_PROPOSED = "ridgeline:proposed"

_NUM_FIRST = 10
"""Trials before the first fit."""
_NUM_BATCH = 6
"""Trials of a batch at first; `_TRIALS_PER_PLACE` more trials add one."""
_TRIALS_PER_PLACE = 20
_MAX_BATCH = 20
_NUM_SPARE = 6
"""Archs beside, for when others take some of the batch."""

_LEAST_KNOWN = 5
"""Errors that a fit needs."""
_MAX_KNOWN = 300
_MAX_TUNING = 200
_TUNING_GROWTH = 1.25
"""Hyperparameters are tuned again when there are so many times as many errors."""


class PredictorSampler(BaseSampler):
    """Proposes archs of a space whose costs are known; a plain sampler for any study over the space's knobs.

        sampler = PredictorSampler(space, task.costs_many, ("error", "latency_s"), seed=0)
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)

    What a trial of some number proposes depends on the seed and on the trials numbered below the first of its batch
    alone, so a study that is killed and resumed goes on as it would have. Archs of running trials are never proposed
    again, and are counted as if they had the error that is expected of them; failed ones are never proposed again.

    Args:
        costs: of many archs, by metric name, as `SearchTask.costs_many`; all it names help to predict errors, and so
            does how layers are connected (`path_features`).
        objectives: names in `nas.objectives.METRICS` in the order of the study's directions.
        constraints: upper bounds by metric name, of costs; what exceeds one is not proposed.
        warm_start: (arch, error) of earlier studies, and a third item that tells them apart if there are several. Their
            errors may lie higher or lower than here; how much they say of those here is found out.

    Raises:
        ValueError: an unknown objective, an arch that is not of the space, an error outside of 0 to 1.
    """

    reproducible = True
    """Proposals do not depend on how long an instance lives."""

    def __init__(
        self,
        space: Space,
        costs: Costs,
        objectives: Sequence[str],
        *,
        constraints: Mapping[str, float] | None = None,
        warm_start: Sequence[tuple[Any, ...]] = (),
        seed: int = 0,
    ) -> None:
        self._space = space
        self._seed = seed
        paths = path_features(space)
        self._territory = Territory(
            space=space,
            costs=lambda indices_NK: {**costs(indices_NK), **paths(indices_NK)},
            objectives=check_objectives(tuple(objectives)),
            constraints=dict(constraints or {}),
        )
        self._warm_start = _by_source(warm_start)
        self._earlier: tuple[ErrorModel, ...] | None = None
        self._tuned: tuple[bytes, Hyperparameters] | None = None
        self._batch: tuple[int, Indices] | None = None
        self._elsewhere: set[int] = set()

    @classmethod
    def for_task(cls, task: SearchTask, *, seed: int, warm_start: Sequence[tuple[Any, ...]] = ()) -> Self:
        """The sampler for a search."""
        return cls(
            task.space,
            task.costs_many,
            task.objectives,
            constraints=task.constraints,
            warm_start=warm_start,
            seed=seed,
        )

    def note(self, arch: Mapping[str, int]) -> None:
        """Somebody who does not share the study evaluates that network: do not propose it."""
        self._elsewhere.add(int(keys_of(self._territory.canonical(self._space.encode([arch])))[0]))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {knob: CategoricalDistribution(values) for knob, values in self._space.choices.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of all knobs.

        Raises:
            ValueError: the study has other directions than the objectives, or errors outside of 0 to 1.
        """
        self._check_directions(study)
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        start = _start_of_batch(trial.number)
        if self._batch is None or self._batch[0] != start:
            self._batch = start, self._proposals(others, start)
        indices_BK = self._batch[1]
        taken = {int(key) for key in keys_of(self._indices([each for each in others if each.number >= start]))}
        taken |= self._elsewhere
        place = trial.number - start
        order = [place % len(indices_BK), *range(_size_of_batch(start), len(indices_BK)), *range(len(indices_BK))]
        free = [at for at in order if int(keys_of(indices_BK[at : at + 1])[0]) not in taken]
        indices_K = indices_BK[(free or order)[0]]
        # Other workers see it before the trial has its parameters.
        study._storage.set_trial_system_attr(trial._trial_id, _PROPOSED, [int(index) for index in indices_K])
        return dict(self._space.decode(indices_K[None, :])[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        known = self._space.choices.get(param_name)
        raise ValueError(
            f"parameter {param_name!r} with {param_distribution}: PredictorSampler proposes the knobs of space "
            f"{self._space.name!r}, "
            + (f"where it takes {list(known)}" if known else f"which are {list(self._space.choices)}")
        )

    # -------------------------------------------------------------------------------------------------------- private

    def _check_directions(self, study: Study) -> None:
        wanted = [
            StudyDirection.MAXIMIZE if metric_named(name).maximise else StudyDirection.MINIMIZE
            for name in self._territory.objectives
        ]
        if study.directions != wanted:
            asked, found = ([each.name.lower() for each in directions] for directions in (wanted, study.directions))
            raise ValueError(
                f"objectives {list(self._territory.objectives)} have directions {asked}; the study has {found}"
            )

    def _indices(self, trials: Sequence[FrozenTrial]) -> Indices:
        """Canonical archs of trials that have one, (N, K)."""
        rows = [row for trial in trials if (row := self._row(trial)) is not None]
        return self._territory.canonical(np.array(rows, dtype=np.int64).reshape(-1, len(self._territory.sizes)))

    def _row(self, trial: FrozenTrial) -> list[int] | None:
        """Indices of the arch of a trial; None if it has none, or one of another space."""
        choices = self._space.choices
        if all(knob in trial.params for knob in choices):
            try:
                return [values.index(trial.params[knob]) for knob, values in choices.items()]
            except ValueError:
                return None
        proposed = trial.system_attrs.get(_PROPOSED)
        if proposed is None or len(proposed) != len(choices):
            return None
        return list(proposed)

    def _proposals(self, others: Sequence[FrozenTrial], start: int) -> Indices:
        """The batch that begins with a trial number, from the trials before it."""
        territory, size = self._territory, _size_of_batch(start)
        before = sorted((each for each in others if each.number < start), key=lambda trial: trial.number)
        rng = np.random.default_rng((self._seed, start))
        finished = [each for each in before if each.state is TrialState.COMPLETE and self._row(each) is not None]
        evaluated, errors_L = self._evaluated(finished)
        running = [each for each in before if each.state is TrialState.RUNNING]
        seen = np.array([*keys_of(self._indices(before)), *self._elsewhere], dtype=np.uint64)
        known = Known(
            losses_LM=_losses(evaluated, errors_L, territory.error_at),
            parents_PK=self._parents(evaluated, errors_L),
            pending=territory.of(self._indices(running)),
            seen=seen,
        )
        oracle = self._oracle(evaluated, errors_L)
        if oracle is None:
            batch = spread_batch(territory, known, size + _NUM_SPARE, rng)
        else:
            batch = best_batch(territory, known, oracle, size + _NUM_SPARE, rng)
        # Every arch has been seen: what is repeated is chance.
        return batch if len(batch) else random_indices(territory.sizes, size, rng)

    def _evaluated(self, finished: Sequence[FrozenTrial]) -> tuple[Candidates, Array]:
        """Archs and errors of finished trials, in their order; those whose error is infinite are left out."""
        at = self._territory.error_at
        errors_L = np.array([0.0 if at is None else each.values[at] for each in finished])
        if (errors_L < 0.0).any() or (np.isfinite(errors_L) & (errors_L > 1.0)).any():
            raise ValueError(f"errors are fractions in 0..1, found {errors_L[(errors_L < 0.0) | (errors_L > 1.0)][0]}")
        found = self._territory.in_order(self._indices(finished))
        finite_L = np.isfinite(errors_L)
        return found.rows(finite_L), errors_L[finite_L]

    def _parents(self, evaluated: Candidates, errors_L: Array) -> Indices:
        """The front, both ends of the space, and the best of earlier studies."""
        territory = self._territory
        ends_PK = territory.canonical(self._space.encode([self._space.smallest(), self._space.largest()]))
        parents = [ends_PK, evaluated.indices_NK[pareto_front(_losses(evaluated, errors_L, territory.error_at))]]
        for archs, errors in self._warm_start.values():
            earlier = territory.in_order(territory.canonical(self._space.encode(archs)))
            parents.append(earlier.indices_NK[pareto_front(_losses(earlier, errors, territory.error_at))])
        return np.concatenate(parents)

    def _oracle(self, evaluated: Candidates, errors_L: Array) -> Oracle | None:
        """What is thought of errors; None, if nothing can be yet."""
        if self._territory.error_at is None:
            return Oracle(None, self._features)
        if self._earlier is None:
            self._earlier = tuple(
                self._fitted(self._territory.in_order(self._territory.canonical(self._space.encode(archs))), errors, ())
                for archs, errors in self._warm_start.values()
                if len(archs) >= _LEAST_KNOWN
            )
        if len(errors_L) >= _LEAST_KNOWN:
            return Oracle(self._fitted(evaluated, errors_L, self._earlier), self._features)
        if self._earlier:
            return Oracle(self._earlier[0], self._features)
        return None

    def _features(self, candidates: Candidates) -> Features:
        return _features(candidates, self._earlier or ())

    def _fitted(self, known: Candidates, errors_L: Array, earlier: Sequence[ErrorModel]) -> ErrorModel:
        """A model of some of the errors, with hyperparameters that are tuned only when there are many more."""
        sizes = self._territory.sizes
        num_tuned = _LEAST_KNOWN
        while num_tuned * _TUNING_GROWTH <= len(errors_L):
            num_tuned = int(np.ceil(num_tuned * _TUNING_GROWTH))
        digest = known.keys_N[:num_tuned].tobytes() + errors_L[:num_tuned].tobytes()
        if self._tuned is None or self._tuned[0] != digest:
            rows = _representatives(num_tuned, _MAX_TUNING)
            at = tune(_features(known.rows(rows), earlier), log_errors(errors_L[rows]), sizes)
            self._tuned = digest, at
        rows = _representatives(len(errors_L), _MAX_KNOWN)
        return fit_errors(_features(known.rows(rows), earlier), log_errors(errors_L[rows]), sizes, self._tuned[1])


def _start_of_batch(number: int) -> int:
    """The first trial number of the batch that a trial belongs to."""
    start = 0
    while number >= start + _size_of_batch(start):
        start += _size_of_batch(start)
    return start


def _size_of_batch(start: int) -> int:
    return _NUM_FIRST if start == 0 else min(_NUM_BATCH + start // _TRIALS_PER_PLACE, _MAX_BATCH)


def _representatives(number: int, most: int) -> NDArray[np.intp]:
    """Rows of the trials that a model is fitted to: the last two thirds of them, and of the others evenly many."""
    if number <= most:
        return np.arange(number)
    num_old = most // 3
    last = number - (most - num_old)
    return np.concatenate([np.linspace(0, last - 1, num_old).round().astype(np.intp), np.arange(last, number)])


def _features(candidates: Candidates, earlier: Sequence[ErrorModel]) -> Features:
    alone = Features(candidates.indices_NK, candidates.logs_NC, np.empty((len(candidates.keys_N), 0)))
    predicted = [model.predict(alone)[0] for model in earlier]
    return alone._replace(earlier_NS=np.column_stack(predicted)) if predicted else alone


def _losses(evaluated: Candidates, errors_L: Array, error_at: int | None) -> Array:
    """Losses of the feasible archs that were evaluated, nan for the others."""
    losses_LM = evaluated.losses_NM.copy()
    if error_at is not None:
        losses_LM[:, error_at] = errors_L
    losses_LM[evaluated.violations_N > 0.0] = np.nan
    return losses_LM


def _by_source(pairs: Sequence[tuple[Any, ...]]) -> dict[str, tuple[list[Arch], Array]]:
    """Archs and errors of earlier studies by where they are from."""
    archs: dict[str, list[Arch]] = {}
    errors: dict[str, list[float]] = {}
    for arch, error, *source in pairs:
        if not 0.0 <= error <= 1.0:
            raise ValueError(f"warm_start: errors are fractions in 0..1, found {error}")
        name = str(source[0]) if source else ""
        archs.setdefault(name, []).append(dict(arch))
        errors.setdefault(name, []).append(float(error))
    return {name: (archs[name], np.array(errors[name])) for name in archs}
