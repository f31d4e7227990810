"""Canonical forms of many archs at once, given as indices into the choices of a space's knobs."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Space

Indices = NDArray[np.int64]

_MAX_COMBINATIONS = 20_000
_NUM_CHECKED = 300


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class CanonicalForms:
    """`space.canonical` of many archs. A space that shows which knobs stand together at a position is tabulated.

    Attributes:
        space: whose archs they are.
        tables: of each knob that is not always as it is written: its column, by how many rows a step of each knob moves
            in its table, and its canonical index by row; None where the space must be asked arch by arch.
    """

    space: Space
    tables: "tuple[_Table, ...] | None"

    @classmethod
    def of(cls, space: Space) -> "CanonicalForms":
        """Tabulate a space: a knob's canonical value depends on the knobs that it shares a position with, as a rule.

        The rule is tested on random archs; a space that it does not hold for is asked arch by arch.
        """
        forms = cls(space=space, tables=_tables(space))
        sizes_K = [len(values) for values in space.choices.values()]
        indices_NK = np.random.default_rng(0).integers(sizes_K, size=(_NUM_CHECKED, len(sizes_K)))
        holds = np.array_equal(forms(indices_NK), _one_by_one(space, indices_NK))
        return forms if holds else cls(space=space, tables=None)

    def __call__(self, indices_NK: Indices) -> Indices:
        """Indices of the canonical archs, (N, K)."""
        if self.tables is None:
            return _one_by_one(self.space, indices_NK)
        found_NK = indices_NK.copy()
        for knob, strides_K, index_R in self.tables:
            found_NK[:, knob] = index_R[indices_NK @ strides_K]
        return found_NK


def keys_of(indices_NK: Indices) -> NDArray[np.uint64]:
    """A number for each arch, (N,): equal for equal ones, different for others but for one chance in 10^19 a pair."""
    num_knobs = indices_NK.shape[1]
    factors_K = np.random.default_rng(0).integers(1, 2**64, size=num_knobs, dtype=np.uint64) | np.uint64(1)
    keys_N: NDArray[np.uint64] = ((indices_NK.astype(np.uint64) + np.uint64(1)) * factors_K).sum(axis=1)
    keys_N ^= keys_N >> np.uint64(31)
    return keys_N


# ------------------------------------------------------------------------------------------------------------ private

_Table = tuple[int, Indices, Indices]


def _one_by_one(space: Space, indices_NK: Indices) -> Indices:
    return space.encode([space.canonical(arch) for arch in space.decode(indices_NK)])


def _tables(space: Space) -> tuple[_Table, ...]:
    """Of all knobs but those that share positions with very many, as a depth does; they are taken for alive."""
    choices = space.choices
    found = []
    for column, knob in enumerate(choices):
        together = {knob: None}
        for position in space.positions:
            if knob in position.knobs:
                together |= dict.fromkeys(position.knobs)
        if len(choices[knob]) > 1 and prod(len(choices[each]) for each in together) <= _MAX_COMBINATIONS:
            found.append((column, *_table(space, knob, list(together))))
    return tuple(found)


def _table(space: Space, knob: str, together: list[str]) -> tuple[Indices, Indices]:
    """Strides of all knobs in a table over some of them, and the canonical index of one of them by its rows."""
    choices = space.choices
    strides_K = np.zeros(len(choices), dtype=np.int64)
    stride = 1
    for each in reversed(together):
        strides_K[list(choices).index(each)] = stride
        stride *= len(choices[each])
    rest = space.largest()
    combinations = product(*[choices[each] for each in together])
    archs = ({**rest, **dict(zip(together, values))} for values in combinations)
    return strides_K, np.array([choices[knob].index(space.canonical(arch)[knob]) for arch in archs])
