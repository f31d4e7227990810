"""What a device file can hold of a mixture of regimes: rates by class and extent, and their largest sources of error.

Regimes whose times add up have one mean rate exactly; of those where the longer counts, the longer of the means is
taken (`predictors.fitted_rates`), and all are brought to the level that the mixture gives to the measured networks:
0.4 % from the mixture in the mean over HELP's columns.

Shapes: N networks, K kernels, T terms, P regimes, R sorts of work, C cells (class and extent), X extents, F factors.
"""

from collections.abc import Iterable, Sequence
from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.fitted_rates import ANY_RATES, WORK, ClassRates, FittedRates, WorkRates
from predictors.regimes import (
    KNOT,
    LAUNCH,
    LEAST_WEIGHT,
    OVERHEAD,
    Array,
    KernelWork,
    Labels,
    Mixture,
    Part,
    at_knot,
    covariance,
    labels_of,
    part_seconds,
)

_FACTORS = 5
_UNUSUAL = 0.02
"""A cell counts as at least so much of the usual time when factors are chosen."""


class ExtentRates(NamedTuple):
    """Rates by dtype, and seconds of a network beyond its kernels."""

    rates: dict[str, FittedRates]
    overhead_s: float


def extent_rates(mixture: Mixture, source: str, more_classes: Iterable[tuple[str, str]] = ()) -> ExtentRates:
    """Rates by class and extent that say what the mean over the regimes does.

    Args:
        source: said of all numbers.
        more_classes: dtype and class of further ones, of which only the sheets and other classes tell.
    """
    work, counts_NK, parts = mixture.work, mixture.counts_NK, mixture.parts
    keys = sorted({*zip(work.dtypes, work.classes), *more_classes, *((dtype, ANY_RATES) for dtype in work.dtypes)})
    knots = _knots(work.terms.labels)
    done = _done_sorts(work, keys)
    labels = labels_of([(key, sort, knot) for key in keys for sort in done[key] for knot in knots], keys)
    across_FT = covariance(labels, work.terms.labels)
    fitted = [_extended(part, mixture, labels, across_FT) for part in parts]
    cells = _cells(work, counts_NK.mean(0), keys, knots)
    weight_longer = sum(part.weight for part in parts if part.longer)
    if weight_longer < LEAST_WEIGHT:
        kept = [index for index, part in enumerate(parts) if not part.longer]
    else:
        kept = list(range(len(parts)))
    total = sum(parts[index].weight for index in kept)
    weight_P = np.array([parts[index].weight / total for index in kept])
    longer_P = np.array([parts[index].longer for index in kept])
    rate_PT = np.exp(np.array([fitted[index].log_T for index in kept]))
    added_T, longer_T = (weight_P * ~longer_P) @ rate_PT, (weight_P * longer_P) @ rate_PT

    # Cells' seconds and how they depend on each term: member_CT has a launch of the class, and work at the knot.
    own_CT = cells.key_C[:, None] == labels.key_T
    here_CT = own_CT & (cells.knot_C[:, None] == labels.knot_T) & (labels.work_T < LAUNCH)
    amount_CT = np.where(here_CT, cells.amounts_CR[:, np.minimum(labels.work_T, LAUNCH - 1)], 0.0)
    launch_CT = (own_CT & (labels.work_T == LAUNCH)).astype(np.float64)
    members = []
    for index in kept:
        works_C, launches_C = mixture.regimes.are_bound(parts[index].regime, cells.amounts_CR)
        members.append(amount_CT * works_C[:, None] + launch_CT * launches_C[:, None])
    seconds_C = np.sum(
        [weight * each_CT @ rate_T for weight, each_CT, rate_T in zip(weight_P, members, rate_PT)], axis=0
    )
    usual_s = float(cells.usual_C @ seconds_C)
    overhead_P = rate_PT[:, -1]
    overhead = float(weight_P @ overhead_P)

    prior_TT = covariance(labels, labels)
    covariance_CC = np.zeros((len(seconds_C), len(seconds_C)))
    for weight, member_CT, index, rate_T in zip(weight_P, members, kept, rate_PT):
        # What the overhead errs is spread over the kernels, so that it cancels where it does in networks.
        by_CT = member_CT * rate_T + np.outer(seconds_C / usual_s, (labels.work_T == OVERHEAD) * rate_T)
        away_C = member_CT @ rate_T + seconds_C * ((rate_T[-1] - overhead) / usual_s) - seconds_C
        told_CN = by_CT @ fitted[index].gain_TN
        covariance_CC += weight * (
            np.outer(away_C, away_C)
            + by_CT @ prior_TT @ by_CT.T
            - told_CN @ np.linalg.solve(parts[index].spread_NN, told_CN.T)
        )
    factor_CF, own_C = _factors(covariance_CC / np.outer(seconds_C, seconds_C), cells.usual_C * seconds_C / usual_s)

    level = _level(mixture, labels, added_T, longer_T, overhead)
    scale = level * mixture.usual_s
    extents = tuple(float(round(exp(knot * KNOT))) for knot in knots)
    counts = dict.fromkeys(keys, 0)
    for key, count in zip(zip(work.dtypes, work.classes), counts_NK.sum(0)):
        counts[key] += int(count)
    found: dict[str, dict[str, ClassRates]] = {}
    for number, (dtype, name) in enumerate(keys):
        cell = cells.key_C == number
        found.setdefault(dtype, {})[name] = ClassRates(
            added=_work_rates(labels, number, added_T * scale),
            longer=_work_rates(labels, number, longer_T * scale) if longer_P.any() else WorkRates(),
            own_X=_rounded(own_C[cell]),
            shared_FX=tuple(_rounded(column) for column in factor_CF[cell].T),
            num_kernels=counts[dtype, name],
        )
    return ExtentRates(
        {dtype: FittedRates(extents=extents, classes=classes, source=source) for dtype, classes in found.items()},
        overhead * scale,
    )


# ------------------------------------------------------------------------------------------------------------ private


class _Extended(NamedTuple):
    """ln(rate) of more terms, (T,), and what the networks tell of them: gain, (T, N)."""

    log_T: Array
    gain_TN: Array


class _Cells(NamedTuple):
    """Kernels as they usually are, by class and knot: amounts, and how many of them a network has."""

    key_C: NDArray[np.int64]
    knot_C: NDArray[np.int64]
    amounts_CR: Array
    usual_C: Array


def _knots(labels: Labels) -> tuple[int, ...]:
    """From the least to the largest that measured kernels have."""
    knot_T = labels.knot_T[labels.work_T < LAUNCH]
    return tuple(range(int(knot_T.min()), int(knot_T.max()) + 1))


def _done_sorts(work: KernelWork, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
    """Sorts of work that each class has; those that no network has may have all but groups."""
    found: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        own_K = np.array([each == key for each in zip(work.dtypes, work.classes)])
        done_R = work.amounts_KR[own_K].any(axis=0) if own_K.any() else np.array([True, True, True, False])
        found[key] = np.flatnonzero(done_R).tolist()
    return found


def _extended(part: Part, mixture: Mixture, labels: Labels, across_TT: Array) -> _Extended:
    gain_TN = across_TT @ part.share_NT.T
    return _Extended(mixture.regimes.means(part.regime, labels) + gain_TN @ part.pull_N, gain_TN)


def _cells(work: KernelWork, usual_K: Array, keys: Sequence[tuple[str, str]], knots: Sequence[int]) -> _Cells:
    """The mean kernel of each class at each knot; where there is none, that of the class or of all."""
    at_KX = np.stack([at_knot(work, knot) for knot in knots], 1) * usual_K[:, None] + 1e-12
    key_C, knot_C, amounts, usual = [], [], [], []
    for number, key in enumerate(keys):
        own_K = np.array([each == key for each in zip(work.dtypes, work.classes)])
        kernels_K = own_K if own_K.any() else np.ones(len(own_K), dtype=bool)
        for column, knot in enumerate(knots):
            weight_K = at_KX[kernels_K, column]
            if weight_K.sum() < 1e-6:
                weight_K = usual_K[kernels_K] + 1e-12
            key_C.append(number)
            knot_C.append(knot)
            amounts.append(weight_K @ work.amounts_KR[kernels_K] / weight_K.sum())
            usual.append(float(at_KX[own_K, column].sum()))
    return _Cells(np.array(key_C), np.array(knot_C), np.array(amounts), np.array(usual))


def _factors(relative_CC: Array, share_C: Array) -> tuple[Array, Array]:
    """The largest factors of a covariance where cells count with their share of the time, and what each has beside."""
    size_C = np.maximum(share_C, _UNUSUAL * share_C.max())
    values_C, vectors_CC = np.linalg.eigh(relative_CC * np.outer(size_C, size_C))
    largest = np.argsort(-values_C, kind="stable")[:_FACTORS]
    factor_CF = vectors_CC[:, largest] * np.sqrt(np.maximum(values_C[largest], 0.0)) / size_C[:, None]
    own_C = np.sqrt(np.maximum(np.diag(relative_CC) - (factor_CF**2).sum(1), 0.0))
    return factor_CF, own_C


def _level(mixture: Mixture, labels: Labels, added_T: Array, longer_T: Array, overhead: float) -> float:
    """What the collapsed rates are to be multiplied by to give the mixture's seconds of the measured networks."""
    terms, counts_NK = mixture.work.terms, mixture.counts_NK
    mixed_J = np.sum([part.weight * part_seconds(terms, part).sum(1) for part in mixture.parts], axis=0)
    place_of = {
        (labels.keys[key], work_, knot): number
        for number, (key, work_, knot) in enumerate(zip(labels.key_T[:-1], labels.work_T[:-1], labels.knot_T[:-1]))
    }
    own = terms.labels
    index_T = np.array(
        [
            place_of[own.keys[key], work_, knot]
            for key, work_, knot in zip(own.key_T[:-1], own.work_T[:-1], own.knot_T[:-1])
        ]
    )
    member_KT = terms.member_JT[:-1, :-1]
    launch_T = own.work_T[:-1] == LAUNCH
    longer_K = np.maximum((member_KT * ~launch_T) @ longer_T[index_T], (member_KT * launch_T) @ longer_T[index_T])
    collapsed_N = counts_NK @ (member_KT @ added_T[index_T] + longer_K) + overhead
    mixed_N = counts_NK @ mixed_J[:-1] + mixed_J[-1]
    return float(np.exp(np.mean(np.log(mixed_N / collapsed_N))))


def _work_rates(labels: Labels, key: int, rate_T: Array) -> WorkRates:
    own_T = labels.key_T == key
    return WorkRates(
        launch_s=_rounded(rate_T[own_T & (labels.work_T == LAUNCH)])[0],
        per_unit_s={
            WORK[sort]: _rounded(rate_T[own_T & (labels.work_T == sort)])
            for sort in range(len(WORK))
            if (own_T & (labels.work_T == sort)).any()
        },
    )


def _rounded(values: Array) -> tuple[float, ...]:
    """Five digits are more than any fit knows, and keep files short."""
    return tuple(float(f"{value:.4e}") for value in values)
