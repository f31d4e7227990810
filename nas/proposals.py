"""What to evaluate next: any Optuna sampler, made to propose every network of a space at most once."""

from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search_spaces.space import Arch, Space

_MAX_ENUMERATED = 1_000_000
_MAX_SAMPLES = 10_000


class SpaceExhaustedError(Exception):
    """Every network of the space has been proposed."""


class MakeSampler(Protocol):
    """Makes an Optuna sampler, e.g. `functools.partial(NSGAIISampler, population_size=50)`."""

    def __call__(self, *, seed: int) -> BaseSampler: ...


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Every knob of a space as Optuna knows it."""
    return {knob: CategoricalDistribution(values) for knob, values in space.choices.items()}


def arch_key(arch: Mapping[str, int]) -> tuple[int, ...]:
    """Hashable form of a canonical arch: the values by knob name."""
    return tuple(arch[knob] for knob in sorted(arch))


class DistinctSampler(BaseSampler):
    """Proposes the start archs, then what another sampler proposes; a repeated network is mutated until it is new.

    The other sampler is made anew for each trial and seeded by the trial's number, so a search that was killed and
    resumed proposes the same archs as one that ran through. What it keeps from trial to trial is then only what
    Optuna stores in the trials and the study.

    Parameters of a trial are what was proposed, knobs without effect included (they are genes that later generations
    may express); `space.canonical` tells which networks are the same.
    """

    def __init__(
        self, make_sampler: MakeSampler, space: Space, *, seed: int, start: Iterable[Arch], seen: Iterable[Arch] = ()
    ) -> None:
        self._make_sampler = make_sampler
        self._space = space
        self._seed = seed
        self._start = [dict(arch) for arch in start]
        self._seen = {arch_key(arch) for arch in seen}
        self._sampler = make_sampler(seed=seed)
        self._num_parents_known = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole arch whose network was never proposed before.

        Raises:
            SpaceExhaustedError: there is none.
        """
        number = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        seeds = np.random.SeedSequence((self._seed, number)).generate_state(2)
        self._sampler = self._make_sampler(seed=int(seeds[0]))
        self._sampler.before_trial(study, trial)
        proposed = self._propose(study, trial, search_space)
        for arch in self._start:
            if self._key(arch) not in self._seen:
                proposed = arch
                break
        arch = self._unseen(proposed, np.random.default_rng(seeds[1]))
        self._seen.add(self._key(arch))
        return arch

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not a knob of space {self._space.name}")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Arch:
        """A whole arch from the other sampler; genetic ones would compare the knobs of all past trials to find them."""
        if isinstance(self._sampler, BaseGASampler):
            self._settle_parents(self._sampler, study, self._sampler.get_trial_generation(study, trial))
            known = {knob: values for knob, values in search_space.items() if not values.single()}
        else:
            known = self._sampler.infer_relative_search_space(study, trial)
        arch = self._sampler.sample_relative(study, trial, known)
        for knob, distribution in search_space.items():
            if knob not in arch:
                arch[knob] = self._sampler.sample_independent(study, trial, knob, distribution)
        return {knob: int(arch[knob]) for knob in search_space}

    def _settle_parents(self, sampler: BaseGASampler, study: Study, generation: int) -> None:
        """Let Optuna store each generation's parents, so that they always come back in the order of their numbers.

        The call that selects them returns them in order of rank: drawing from that list would make the proposals
        depend on where a search was interrupted.
        """
        for each in range(self._num_parents_known + 1, generation + 1):
            sampler.get_parent_population(study, each)
        self._num_parents_known = max(self._num_parents_known, generation)

    def _key(self, arch: Arch) -> tuple[int, ...]:
        return arch_key(self._space.canonical(arch))

    def _unseen(self, proposed: Arch, rng: np.random.Generator) -> Arch:
        """The proposal if it is new, else the first new arch on a random walk away from it, one knob at a time."""
        free = [knob for knob, values in self._space.choices.items() if len(values) > 1]
        arch = dict(proposed)
        for _ in range(10 * len(free) + 1):
            if self._key(arch) not in self._seen:
                return arch
            if free:
                knob = free[rng.integers(len(free))]
                others = [value for value in self._space.choices[knob] if value != arch[knob]]
                arch[knob] = others[rng.integers(len(others))]
        return self._any_unseen(rng)

    def _any_unseen(self, rng: np.random.Generator) -> Arch:
        choices = self._space.choices
        if prod(map(len, choices.values())) <= _MAX_ENUMERATED:
            archs: Iterable[Arch] = (dict(zip(choices, values)) for values in product(*choices.values()))
        else:
            archs = (self._space.sample(rng) for _ in range(_MAX_SAMPLES))
        for arch in archs:
            if self._key(arch) not in self._seen:
                return arch
        raise SpaceExhaustedError(f"all {len(self._seen)} networks of space {self._space.name} have been evaluated")
