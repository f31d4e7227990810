"""Archs that break bounds, moved until they keep them: by knobs that save something, drawn at random by how much.

Archs are rows of indices into the choices of K knobs, as `space.encode` gives them.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

Excess = Callable[[Indices], NDArray[np.float64]]
"""Of N archs, (N, K): by how much each exceeds the bounds, relative to them, (N,); those up to 0 are feasible."""


def neighbours(row_K: Indices, sizes: tuple[int, ...]) -> tuple[Indices, Indices]:
    """The J archs that differ from one in a single knob, (J, K), and which knob that is, (J,).

    >>> neighbours(np.array([1, 0]), (3, 2))[0].tolist()
    [[0, 0], [2, 0], [1, 1]]
    """
    knob_T, index_T = _values(sizes)
    is_other_T = row_K[knob_T] != index_T
    knob_J = knob_T[is_other_T]
    rows_JK = np.repeat(row_K[None, :], len(knob_J), axis=0)
    rows_JK[np.arange(len(knob_J)), knob_J] = index_T[is_other_T]
    return rows_JK, knob_J


def repaired(
    row_K: Indices,
    excess: Excess,
    sizes: tuple[int, ...],
    rng: np.random.Generator,
    anchor_K: Indices | None = None,
) -> Indices | None:
    """A feasible arch near a given one, which is returned itself where it is feasible; None, if none was reached.

    Where one change of a knob is enough, it is drawn among all that are. Else the changes that lessen the excess are
    put in a random order, in which large ones tend to come first, and made one after the other until the arch is
    feasible; then knobs get their values back as long as it stays so. Where no single change helps, the arch moves
    towards the anchor, whose knobs it takes over in a random order.

    Args:
        row_K: indices, (K,).
        sizes: number of values of each knob.
        anchor_K: a feasible arch.
    """
    asked_K, worst = row_K, float(excess(row_K[None, :])[0])
    while worst > 0.0:
        rows_JK, knob_J = neighbours(row_K, sizes)
        excess_J = excess(rows_JK)
        enough = np.flatnonzero(excess_J <= 0.0)
        if len(enough):
            return _given_back(rows_JK[rng.choice(enough)], asked_K, excess, rng)
        path_LK = _path(row_K, rows_JK, knob_J, worst - excess_J, rng)
        if not len(path_LK):
            return _towards(row_K, anchor_K, asked_K, excess, rng)
        excess_L = excess(path_LK)
        at = _first_feasible(excess_L)
        if at is not None:
            return _given_back(path_LK[at], asked_K, excess, rng)
        at = int(np.argmin(excess_L))
        row_K, worst = path_LK[at], float(excess_L[at])
    return row_K


# ------------------------------------------------------------------------------------------------------------ private


@lru_cache(maxsize=64)
def _values(sizes: tuple[int, ...]) -> tuple[Indices, Indices]:
    """Every value of every knob: the knob and the value's index, (sum of sizes,) each."""
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])


def _path(
    row_K: Indices, rows_JK: Indices, knob_J: Indices, saved_J: NDArray[np.float64], rng: np.random.Generator
) -> Indices:
    """The changes that save something made one after the other, (L, K), of each knob one at most.

    The order is that of drawing without replacement in proportion to what is saved.

    Source: Efraimidis, Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97, 2006.
    """
    helpful_I = np.flatnonzero(saved_J > 0.0)
    drawn_I = np.log(rng.random(len(helpful_I))) / saved_J[helpful_I]
    order_I = helpful_I[np.argsort(-drawn_I, kind="stable")]
    _, first_L = np.unique(knob_J[order_I], return_index=True)
    change_L = order_I[np.sort(first_L)]
    knob_L, target_K = knob_J[change_L], row_K.copy()
    target_K[knob_L] = rows_JK[change_L, knob_L]
    return _replaced(row_K, target_K, knob_L)


def _towards(
    row_K: Indices, anchor_K: Indices | None, asked_K: Indices, excess: Excess, rng: np.random.Generator
) -> Indices | None:
    """The first feasible arch on a way of single knobs to the anchor, with what of the arch asked for it can have."""
    if anchor_K is None:
        return None
    path_LK = _replaced(row_K, anchor_K, rng.permutation(np.flatnonzero(row_K != anchor_K)))
    at = _first_feasible(excess(path_LK)) if len(path_LK) else None
    return None if at is None else _given_back(path_LK[at], asked_K, excess, rng)


def _given_back(row_K: Indices, asked_K: Indices, excess: Excess, rng: np.random.Generator) -> Indices:
    """A feasible arch with as many knobs as it was asked for, in a random order, as keep it feasible together."""
    changed_L = np.flatnonzero(row_K != asked_K)
    if len(changed_L) < 2:
        return row_K
    alone_LK = np.repeat(row_K[None, :], len(changed_L), axis=0)
    alone_LK[np.arange(len(changed_L)), changed_L] = asked_K[changed_L]
    path_LK = _replaced(row_K, asked_K, rng.permutation(changed_L[excess(alone_LK) <= 0.0]))
    if not len(path_LK):
        return row_K
    broken = np.flatnonzero(excess(path_LK) > 0.0)
    num_kept = int(broken[0]) if len(broken) else len(path_LK)
    return path_LK[num_kept - 1] if num_kept else row_K


def _replaced(row_K: Indices, other_K: Indices, order_L: NDArray[np.intp]) -> Indices:
    """An arch that takes the knobs of another one after the other, (L, K)."""
    path_LK = np.repeat(row_K[None, :], len(order_L), axis=0)
    for step, knob in enumerate(order_L):
        path_LK[step:, knob] = other_K[knob]
    return path_LK


def _first_feasible(excess_L: NDArray[np.float64]) -> int | None:
    feasible = np.flatnonzero(excess_L <= 0.0)
    return int(feasible[0]) if len(feasible) else None
