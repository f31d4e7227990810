"""What to evaluate next: any Optuna sampler, made to propose every network of a space at most once."""

from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from predictors.mapping import check_keys
from search_spaces.space import Arch, Space

_MAX_ENUMERATED = 1_000_000
_MAX_SAMPLES = 10_000


class SpaceExhaustedError(Exception):
    """Every network of the space has been proposed."""


class MakeSampler(Protocol):
    """Makes an Optuna sampler, e.g. `functools.partial(NSGAIISampler, population_size=50)`."""

    def __call__(self, *, seed: int) -> BaseSampler: ...


def sampler_from_mapping(mapping: Mapping[str, Any]) -> MakeSampler:
    """The sampler of a file in configs/sampler: `class` names it, the other keys are its arguments.

    Raises:
        ValueError: it cannot be imported, is no Optuna sampler that takes a seed, or refuses its arguments.
    """
    arguments = dict(check_keys(mapping, allowed=mapping, required=["class"], where="sampler"))
    name = str(arguments.pop("class"))
    module_name, _, class_name = name.rpartition(".")
    try:
        sampler_class = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"sampler: {name!r} cannot be imported as package.module.Class: {error}") from None
    known = [*signature(sampler_class).parameters] if isinstance(sampler_class, type) else []
    if not known or not issubclass(sampler_class, BaseSampler) or "seed" not in known:
        raise ValueError(f"sampler: {name!r} is no Optuna sampler that takes a seed")
    known.remove("seed")
    check_keys(arguments, allowed=known, required=[], where=f"sampler {name}")
    make: MakeSampler = partial(sampler_class, **arguments)
    try:
        make(seed=0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sampler {name}: {error}") from None
    return make


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
            self._settle_parents(study, self._sampler.get_trial_generation(study, trial))
            known = {knob: values for knob, values in search_space.items() if not values.single()}
        else:
            known = self._sampler.infer_relative_search_space(study, trial)
        arch = self._sampler.sample_relative(study, trial, known)
        for knob, distribution in search_space.items():
            if knob not in arch:
                arch[knob] = self._sampler.sample_independent(study, trial, knob, distribution)
        return {knob: int(arch[knob]) for knob in search_space}

    def _settle_parents(self, study: Study, generation: int) -> None:
        """Let Optuna select and store the parents of each generation, with a seed of the generation's own.

        The selection may draw at random, and the call that selects returns the parents in another order than later
        calls do: both would make the proposals depend on where a search was interrupted.
        """
        for each in range(self._num_parents_known + 1, generation + 1):
            seed = np.random.SeedSequence((self._seed, each), spawn_key=(1,)).generate_state(1)[0]
            selector = self._make_sampler(seed=int(seed))
            assert isinstance(selector, BaseGASampler)
            selector.get_parent_population(study, each)
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
