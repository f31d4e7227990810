"""Which kernels a space of networks has, and which of its networks to measure first.

A space has far too many networks to list, but few distinct kernels: what a kernel is depends on a handful of choices.
So random networks are drawn until a long run of them brings no new kernel.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.efficiency import kernel_features
from predictors.fusion import Kernel, Runtime, fuse
from predictors.graph import Graph

Draw = Callable[[np.random.Generator], Graph]

PATIENCE = 1000
"""So many networks in a row without a new kernel end the survey."""

MIN_NETWORKS = 2

_MOST_NETWORKS = 20_000
_CANDIDATES = 200
_PRIOR_STD = 0.5
_NOISE = 0.05
_LENGTH_SCALE = 2.0
"""Before anything is measured: spread of ln(efficiency) within a kind, of a measurement, and how far apart kernels say
nothing of each other, in standard deviations of the features. As fitted on CPUs, rounded."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Kernels of a space.

    Attributes:
        draw, seed: give network i again, as `network(i)`.
        kernels: all that were found, in the order in which they were.
        members: for each network that was drawn, the indices of its kernels, repeated where it has one twice.
        unseen: estimated share of the kernels of a further network that no network here has (Good and Turing: the share
            of the draws that were seen once only).
    """

    draw: Draw
    seed: int
    kernels: tuple[Kernel, ...]
    members: tuple[NDArray[np.int64], ...]
    unseen: float

    def network(self, index: int) -> Graph:
        return self.draw(np.random.default_rng([self.seed, index]))


def survey(
    draw: Draw, runtime: Runtime, dtype: str, *, seed: int = 0, patience: int = PATIENCE, most: int = _MOST_NETWORKS
) -> Survey:
    """Draw networks until `patience` of them in a row bring no new kernel, or `most` are drawn."""
    index_of: dict[Kernel, int] = {}
    members: list[NDArray[np.int64]] = []
    counts: Counter[int] = Counter()
    last_new = 0
    while len(members) - last_new < patience and len(members) < most:
        graph = draw(np.random.default_rng([seed, len(members)]))
        before = len(index_of)
        found = [index_of.setdefault(node.kernel, len(index_of)) for node in fuse(graph, runtime, dtype)]
        members.append(np.array(found, dtype=np.int64))
        counts.update(found)
        if len(index_of) > before:
            last_new = len(members)
    once = sum(1 for count in counts.values() if count == 1)
    return Survey(
        draw=draw, seed=seed, kernels=tuple(index_of), members=tuple(members), unseen=once / max(1, counts.total())
    )


class Uncertainty:
    """How uncertain the times of kernels still are, under a Gaussian process on ln(efficiency) of each kind.

    Args:
        kernels: of one space.
        weights_K: how many seconds of the space's networks hang on each, in any unit.
    """

    def __init__(self, kernels: Sequence[Kernel], weights_K: NDArray[np.float64]) -> None:
        self._kernels = tuple(kernels)
        self._weights_K = weights_K
        self._place: list[tuple[str, int]] = []
        members: dict[str, list[int]] = {}
        for index, kernel in enumerate(self._kernels):
            here = members.setdefault(kernel.kind, [])
            self._place.append((kernel.kind, len(here)))
            here.append(index)
        self._members = {kind: np.array(found) for kind, found in members.items()}
        self._covariances = {kind: self._prior(found) for kind, found in self._members.items()}

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of ln(efficiency) of each kernel, as known so far, (kernels,)."""
        std_K = np.empty(len(self._kernels))
        for kind, found in self._members.items():
            std_K[found] = np.sqrt(np.maximum(np.diag(self._covariances[kind]), 0.0))
        return std_K

    def gain(self) -> NDArray[np.float64]:
        """What measuring each kernel, by itself, would take off the sum of (weight * deviation)^2, (kernels,)."""
        gain_K = np.empty(len(self._kernels))
        for kind, found in self._members.items():
            covariance_LL = self._covariances[kind]
            explained_L = (covariance_LL**2 * self._weights_K[found, None] ** 2).sum(0)
            gain_K[found] = explained_L / (np.diag(covariance_LL) + _NOISE**2)
        return gain_K

    def measure(self, index: int) -> None:
        """Count a kernel as measured."""
        kind, place = self._place[index]
        covariance_LL = self._covariances[kind]
        column_L = covariance_LL[:, place]
        self._covariances[kind] = covariance_LL - np.outer(column_L, column_L) / (column_L[place] + _NOISE**2)

    def _prior(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        features_LF = np.stack([kernel_features(self._kernels[i], kernel_cost(self._kernels[i])) for i in found])
        scale_F = features_LF.std(0)
        points_LF = (features_LF - features_LF.mean(0)) / np.where(scale_F > 1e-9, scale_F, 1.0)
        squared_LL = ((points_LF[:, None] - points_LF[None]) ** 2).sum(-1)
        scaled_LL = np.sqrt(5.0 * squared_LL) / _LENGTH_SCALE
        covariance_LL: NDArray[np.float64] = _PRIOR_STD**2 * (1.0 + scaled_LL + scaled_LL**2 / 3.0) * np.exp(-scaled_LL)
        return covariance_LL


def time_weights(found: Survey, seconds_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the surveyed networks' time that each kernel takes, if each takes `seconds_K`; they add up to 1."""
    counts_K = np.bincount(np.concatenate(found.members), minlength=len(found.kernels))
    share_K: NDArray[np.float64] = counts_K * seconds_K / (counts_K @ seconds_K)
    return share_K


def choose_networks(
    found: Survey,
    weights_K: NDArray[np.float64],
    *,
    fraction: float,
    seed: int = 0,
) -> tuple[int, ...]:
    """Networks to measure whole, the most telling first, that together have a fraction of the space's kernels.

    Of some random candidates the one is taken next whose kernels take most off the uncertainty of the space's times,
    for each kernel that it adds; where all are to be covered, the one that adds most kernels. At least `MIN_NETWORKS`
    are chosen: kernels of one network alone are much alike.

    Args:
        weights_K: from `time_weights`.
        fraction: of the distinct kernels; 1 covers all.

    Raises:
        ValueError: the fraction is not in 0 to 1.
    """
    return choose_members(found.kernels, found.members, weights_K, fraction=fraction, seed=seed)


def choose_members(
    kernels: Sequence[Kernel],
    members: Sequence[NDArray[np.int64]],
    weights_K: NDArray[np.float64],
    *,
    fraction: float,
    num_candidates: int = _CANDIDATES,
    seed: int = 0,
) -> tuple[int, ...]:
    """As `choose_networks`, of networks or pieces of them that are given as the indices of their kernels.

    Args:
        num_candidates: so many random ones are weighed against each other for each that is chosen.
    """
    _check_fraction(fraction)
    rng = np.random.default_rng(seed)
    uncertainty = Uncertainty(kernels, weights_K)
    is_measured_K = np.zeros(len(kernels), dtype=bool)
    budget = round(fraction * len(kernels))
    members = [np.unique(each) for each in members]
    reached_K = np.zeros(len(kernels), dtype=bool)
    reached_K[np.concatenate(members)] = True
    chosen: list[int] = []
    while is_measured_K.sum() < budget or 0 < len(chosen) < MIN_NETWORKS:
        if not (reached_K & ~is_measured_K).any():
            break
        candidates = _candidates(members, is_measured_K, rng, num_candidates)
        gain_K = np.where(is_measured_K, 0.0, uncertainty.gain())
        fresh = {index: members[index][~is_measured_K[members[index]]] for index in candidates}
        if fraction == 1.0:
            best = max(candidates, key=lambda index: (len(fresh[index]), gain_K[fresh[index]].sum()))
        else:
            best = max(candidates, key=lambda index: gain_K[fresh[index]].sum() / len(fresh[index]))
            if len(chosen) >= MIN_NETWORKS and is_measured_K.sum() + len(fresh[best]) > budget:
                break
        for kernel in fresh[best]:
            uncertainty.measure(int(kernel))
        is_measured_K[members[best]] = True
        chosen.append(best)
    return tuple(chosen)


def choose_kernels(kernels: Sequence[Kernel], weights_K: NDArray[np.float64], *, fraction: float) -> tuple[Kernel, ...]:
    """Kernels to measure one by one, the most telling first, for runtimes that time no kernels in their place.

    Raises:
        ValueError: the fraction is not in 0 to 1.
    """
    _check_fraction(fraction)
    uncertainty = Uncertainty(kernels, weights_K)
    is_measured_K = np.zeros(len(kernels), dtype=bool)
    chosen: list[Kernel] = []
    while is_measured_K.sum() < round(fraction * len(kernels)):
        best = int(np.where(is_measured_K, -1.0, uncertainty.gain()).argmax())
        uncertainty.measure(best)
        is_measured_K[best] = True
        chosen.append(kernels[best])
    return tuple(chosen)


# ------------------------------------------------------------------------------------------------------------ private


def _check_fraction(fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be above 0 and at most 1, found {fraction}")


def _candidates(
    members: Sequence[NDArray[np.int64]], is_measured_K: NDArray[np.bool_], rng: np.random.Generator, number: int
) -> list[int]:
    """Random networks that have an unmeasured kernel."""
    found: list[int] = []
    for index in rng.permutation(len(members)):
        if not is_measured_K[members[index]].all():
            found.append(int(index))
            if len(found) == number:
                break
    return found
