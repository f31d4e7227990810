"""What could be evaluated next: archs of a space with what they cost, all of a small space, bred in a large one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.objectives import metric_named
from nas.samplers.canonical import CanonicalForms, Indices, keys_of
from search_spaces.space import Space

Array = NDArray[np.float64]

Costs = Callable[[Indices], Mapping[str, Array]]
"""Costs of N archs given as indices into the choices of K knobs, (N, K): arrays (N,) by metric name."""

MAX_ENUMERATED = 40_000

_LEAST_COST = 1e-30
_MARGIN = 1.1
"""As in `nas.task`: the reference point lies so much beyond the larger cost of the smallest and the largest arch."""


class Candidates(NamedTuple):
    """N different archs in canonical form.

    Attributes:
        logs_NC: logarithms of their costs, by `Territory.cost_names`.
        losses_NM: by objective; in the error's column nan.
        violations_N: largest excess over a bound relative to it; feasible where it is at most 0.
    """

    indices_NK: Indices
    keys_N: NDArray[np.uint64]
    logs_NC: Array
    losses_NM: Array
    violations_N: Array

    def rows(self, which: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Candidates":
        return Candidates(
            self.indices_NK[which],
            self.keys_N[which],
            self.logs_NC[which],
            self.losses_NM[which],
            self.violations_N[which],
        )

    def joined(self, other: "Candidates") -> "Candidates":
        return Candidates(
            np.concatenate([self.indices_NK, other.indices_NK]),
            np.concatenate([self.keys_N, other.keys_N]),
            np.concatenate([self.logs_NC, other.logs_NC]),
            np.concatenate([self.losses_NM, other.losses_NM]),
            np.concatenate([self.violations_N, other.violations_N]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Territory:
    """A space with what its archs cost, what is minimised, and upper bounds by metric name."""

    space: Space
    costs: Costs
    objectives: tuple[str, ...]
    constraints: Mapping[str, float]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.space.choices.values())

    @cached_property
    def is_small(self) -> bool:
        return prod(self.sizes) <= MAX_ENUMERATED

    @cached_property
    def canonical(self) -> CanonicalForms:
        return CanonicalForms.of(self.space)

    @cached_property
    def everything(self) -> Candidates:
        """All archs of a small space."""
        return self.of(np.array(list(product(*map(range, self.sizes))), dtype=np.int64))

    @cached_property
    def reference(self) -> Array:
        """Losses that bound the hypervolume, as those of `SearchTask.reference_point`."""
        ends = self.costs(self.space.encode([self.space.smallest(), self.space.largest()]))
        return np.array([_bound(name, ends) for name in self.objectives])

    @property
    def error_at(self) -> int | None:
        return self.objectives.index("error") if "error" in self.objectives else None

    def of(self, indices_NK: Indices) -> Candidates:
        """The different archs among N, in canonical form."""
        indices_NK = self.canonical(indices_NK)
        keys_N, first_N = np.unique(keys_of(indices_NK), return_index=True)
        indices_NK = indices_NK[first_N]
        found = self.costs(indices_NK)
        columns = [np.asarray(column, dtype=np.float64) for column in found.values()]
        losses_NM = np.full((len(indices_NK), len(self.objectives)), np.nan)
        for at, name in enumerate(self.objectives):
            if name != "error":
                losses_NM[:, at] = -found[name] if metric_named(name).maximise else found[name]
        violations_N = np.zeros(len(indices_NK))
        for name, bound in self.constraints.items():
            violations_N = np.maximum(violations_N, found[name] / bound - 1.0)
        logs_NC = np.log(np.maximum(np.column_stack(columns), _LEAST_COST)) if columns else np.empty((len(keys_N), 0))
        return Candidates(indices_NK, keys_N, logs_NC, losses_NM, violations_N)

    def in_order(self, indices_NK: Indices) -> Candidates:
        """These canonical archs in their order, repeated ones too."""
        found = self.of(indices_NK)
        return found.rows(np.searchsorted(found.keys_N, keys_of(indices_NK)))


def random_indices(sizes: Sequence[int], num_archs: int, rng: np.random.Generator) -> Indices:
    """Half of them uniform; the others each have a leaning of its own to small or to large values.

    Archs with uniform knobs cost about the same: a sum of many. Those that lean reach both ends of the costs.
    """
    num_uniform = num_archs // 2
    uniform_NK = rng.integers(sizes, size=(num_uniform, len(sizes)))
    leaning_N = rng.random((num_archs - num_uniform, 1))
    leaning_NK = rng.binomial(np.array(sizes) - 1, leaning_N, size=(num_archs - num_uniform, len(sizes)))
    found: Indices = np.concatenate([uniform_NK, leaning_NK]).astype(np.int64)
    return found


def bred_indices(parents_PK: Indices, sizes: Sequence[int], num_archs: int, rng: np.random.Generator) -> Indices:
    """Children of P parents: half of them have two, and each knob of a child changes with a chance of 1 or 3 in K."""
    num_knobs = len(sizes)
    first_N, second_N = rng.integers(len(parents_PK), size=(2, num_archs))
    crossed_N1 = rng.random((num_archs, 1)) < 0.5
    from_second_NK = crossed_N1 & (rng.random((num_archs, num_knobs)) < 0.5)
    children_NK = np.where(from_second_NK, parents_PK[second_N], parents_PK[first_N])
    chance_N1 = rng.choice([1.0, 3.0], size=(num_archs, 1)) / num_knobs
    mutated_NK = rng.random((num_archs, num_knobs)) < chance_N1
    return np.where(mutated_NK, rng.integers(sizes, size=(num_archs, num_knobs)), children_NK)


# ------------------------------------------------------------------------------------------------------------ private


def _bound(name: str, ends: Mapping[str, Array]) -> float:
    if name == "error":
        return 1.0
    return 0.0 if metric_named(name).maximise else _MARGIN * float(np.max(ends[name]))
