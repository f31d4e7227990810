"""What to evaluate next: any Optuna sampler, made to propose networks at most once and only within bounds."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import signature
from math import prod
from typing import Any, Protocol

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.repair import Excess, Indices, neighbours, repaired
from predictors.mapping import check_keys
from search_spaces.space import Arch, Space

_GIVEN = ("task", "seed", "warm_start")
"""Arguments of a sampler that a search gives, not a file."""

_MAX_ENUMERATED = 1_000_000
_MAX_SAMPLES = 10_000
_MAX_STEPS = 20
_BLOCK = 20_000


class SpaceExhaustedError(Exception):
    """Every network of the space that meets the constraints has been proposed."""


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
    of_task = getattr(sampler_class, "for_task", None)
    known = [*signature(of_task or sampler_class).parameters] if isinstance(sampler_class, type) else []
    if not known or not issubclass(sampler_class, BaseSampler) or "seed" not in known:
        raise ValueError(f"sampler: {name!r} is no Optuna sampler that takes a seed")
    known = [each for each in known if each not in _GIVEN]
    check_keys(arguments, allowed=known, required=[], where=f"sampler {name}")
    if of_task is not None:
        return partial(sampler_class, **arguments)  # what it is made with is known with the task
    make: MakeSampler = partial(_without_warning, sampler_class, **arguments)
    try:
        make(seed=0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sampler {name}: {error}") from None
    return make


def _without_warning(sampler_class: type[BaseSampler], **arguments: Any) -> BaseSampler:
    """A sampler, made without Optuna's word that its class may still change: it would come with every proposal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return sampler_class(**arguments)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Every knob of a space as Optuna knows it."""
    return {knob: CategoricalDistribution(values) for knob, values in space.choices.items()}


def arch_key(arch: Mapping[str, int]) -> tuple[int, ...]:
    """Hashable form of a canonical arch: the values by knob name."""
    return tuple(arch[knob] for knob in sorted(arch))


class DistinctSampler(BaseSampler):
    """Proposes what is enqueued, then the start archs, then what another sampler proposes, no network twice.

    A network that was proposed before is changed knob by knob until it is new, and where there are bounds, one that
    exceeds them until it does not (`nas.repair`); start archs are no exception.

    Another sampler is made anew for each proposal, seeded by how many there were, so a search that was killed and
    resumed proposes the same archs as one that ran through: what is kept between trials is only what Optuna stores in
    them and in the study. One whose attribute `reproducible` is true promises that itself and is made once.

    Parameters of a trial are what was proposed, knobs without effect included (they are genes that later generations
    may express); `space.canonical` tells which networks are the same.

    Args:
        start: the first proposals.
        seen: what was proposed before, whether finished, failed or running.
        excess: of archs as rows of `space.encode`, by how much they exceed bounds; see `nas.repair.Excess`.
    """

    def __init__(
        self,
        make_sampler: MakeSampler,
        space: Space,
        *,
        seed: int,
        start: Iterable[Arch],
        seen: Iterable[Arch] = (),
        excess: Excess | None = None,
    ) -> None:
        self._make_sampler = make_sampler
        self._space = space
        self._seed = seed
        self._start = [dict(arch) for arch in start]
        self._excess = excess
        self._distributions = distributions(space)
        self._sizes = tuple(len(values) for values in space.choices.values())
        self._free = [knob for knob, values in space.choices.items() if len(values) > 1]
        self._anchor_K = self._first_feasible(self._start)
        self._sampler = make_sampler(seed=seed)
        self._num_parents_known = 0
        self._queue: deque[Arch] = deque()
        self._known = [arch_key(arch) for arch in seen]
        self._seen = set(self._known)
        self._num_proposed = len(self._known)
        self._rest: Iterator[Arch] | None = None

    def note(self, arch: Mapping[str, int]) -> None:
        """Somebody else evaluates that network."""
        key = self._key(arch)
        if key not in self._seen:
            self._seen.add(key)
            self._known.append(key)
            self._num_proposed += 1

    def forget(self, arch: Mapping[str, int]) -> None:
        """That network was proposed and will not be evaluated; it may be proposed again."""
        key = self._key(arch)
        if key in self._seen:
            self._seen.remove(key)
            self._known.remove(key)
            self._num_proposed -= 1
            self._rest = None

    def enqueue(self, archs: Iterable[Arch]) -> None:
        """Propose these next, whether they were proposed before or not."""
        self._queue.extend(dict(arch) for arch in archs)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole arch whose network was never proposed before, unless it was enqueued.

        Raises:
            SpaceExhaustedError: there is none.
        """
        seeds = np.random.SeedSequence((self._seed, self._num_proposed)).generate_state(2)
        if not getattr(self._sampler, "reproducible", False):
            self._sampler = self._make_sampler(seed=int(seeds[0]))
        self._sampler.before_trial(study, trial)
        proposed = self._propose(study, trial, search_space)
        if self._queue:
            arch = self._queue.popleft()
        else:
            if self._num_proposed < len(self._start) and self._is_new(self._start[self._num_proposed]):
                proposed = self._start[self._num_proposed]
            arch = self._admissible(proposed, np.random.default_rng(seeds[1]))
        self.note(arch)
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
            known = {knob: search_space[knob] for knob in self._free}
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

    def _key(self, arch: Mapping[str, int]) -> tuple[int, ...]:
        return arch_key(self._space.canonical(arch))

    def _is_new(self, arch: Mapping[str, int]) -> bool:
        return self._key(arch) not in self._seen

    def _feasible(self, rows_NK: Indices) -> Indices:
        """Those of the archs that keep to the bounds."""
        if self._excess is None or not len(rows_NK):
            return rows_NK
        return rows_NK[self._excess(rows_NK) <= 0.0]

    def _first_feasible(self, archs: Sequence[Arch]) -> Indices | None:
        feasible_NK = self._feasible(self._space.encode(archs))
        return feasible_NK[0] if len(feasible_NK) else None

    def _admissible(self, proposed: Arch, rng: np.random.Generator) -> Arch:
        """The proposal if it keeps to the bounds and is new, else an arch near it that does and is."""
        arch: Arch | None = proposed
        if self._excess is not None:
            row_K = self._space.encode([proposed])[0]
            found_K = repaired(row_K, self._excess, self._sizes, rng, self._anchor_K)
            if found_K is None:
                arch = None
            elif found_K is not row_K:
                arch = self._decoded(found_K)
        if arch is not None and not self._is_new(arch):
            arch = self._stroll(arch, rng) if self._excess is None else self._feasible_stroll(arch, rng)
        return self._any_new(rng) if arch is None else arch

    def _stroll(self, arch: Arch, rng: np.random.Generator) -> Arch | None:
        """The first new arch on a random walk of single knobs, None after many steps."""
        arch = dict(arch)
        for _ in range(10 * len(self._free)):
            knob = self._free[rng.integers(len(self._free))]
            others = [value for value in self._space.choices[knob] if value != arch[knob]]
            arch[knob] = others[rng.integers(len(others))]
            if self._is_new(arch):
                return arch
        return None

    def _feasible_stroll(self, arch: Arch, rng: np.random.Generator) -> Arch | None:
        """A new arch among the feasible ones that differ in one knob, or in one more at each of a few steps."""
        for _ in range(_MAX_STEPS):
            for row_K in rng.permutation(self._feasible_around(arch)):
                arch = self._decoded(row_K)
                if self._is_new(arch):
                    return arch
        return None

    def _feasible_around(self, arch: Arch) -> Indices:
        """The feasible archs that differ in one knob."""
        rows_JK, _ = neighbours(self._space.encode([arch])[0], self._sizes)
        return self._feasible(rows_JK)

    def _decoded(self, row_K: Indices) -> Arch:
        return self._space.decode(row_K[None, :])[0]

    def _any_new(self, rng: np.random.Generator) -> Arch:
        """A new feasible arch from anywhere.

        Raises:
            SpaceExhaustedError: there is none in a space small enough to look at all; elsewhere, none was found.
        """
        exact = prod(self._sizes) <= _MAX_ENUMERATED
        if not exact:
            rows_NK = self._feasible(rng.integers(self._sizes, size=(_MAX_SAMPLES, len(self._sizes))))
            for arch in self._space.decode(rows_NK):
                if self._is_new(arch):
                    return arch
        # Networks that were passed over stay known, so the search for the rest goes on where it stood.
        if self._rest is None:
            self._rest = self._everything() if exact else self._everything_near()
        for arch in self._rest:
            if self._is_new(arch):
                return arch
        self._rest = None
        within = "" if self._excess is None else " that meet the constraints"
        found = "" if exact else " and could be found"
        raise SpaceExhaustedError(
            f"all {len(self._seen)} networks of space {self._space.name}{within}{found} have been evaluated"
        )

    def _everything(self) -> Iterator[Arch]:
        """All feasible archs of a small space."""
        number = prod(self._sizes)
        for start in range(0, number, _BLOCK):
            indices = np.unravel_index(np.arange(start, min(start + _BLOCK, number)), self._sizes)
            yield from self._space.decode(self._feasible(np.stack(indices, axis=1).astype(np.int64)))

    def _everything_near(self) -> Iterator[Arch]:
        """All feasible archs that differ in one knob from one that was proposed, also from those proposed meanwhile.

        Where costs fall with every knob, any feasible arch is linked to the smallest by such steps.
        """
        knobs = sorted(self._space.choices)
        for key in self._known:  # which grows meanwhile
            yield from self._space.decode(self._feasible_around(dict(zip(knobs, key))))
