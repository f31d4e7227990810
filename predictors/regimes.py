"""Seconds of kernels on a device of which only a few whole networks are measured: no table, no data sheet.

A kernel takes the time of its work (flops, bytes of activations, bytes of weights, groups of a depthwise convolution)
and a launch: either both, or, where the host runs ahead of the device, the longer of the two. A handful of networks
cannot tell every kernel's rate, but they tell which work the device spends its time on. So the prior is a mixture of
regimes, each of which says what share of the usual network's time goes into which sort of work. Within a regime the
logarithms of the rates are Gaussian: kernels of one class deviate together, and so do kernels of like extent, whatever
their class (parallelism, caches). Each regime is fitted to its posterior's mode, robustly; all are averaged, weighted
by their evidence. Where something is known of the device, that is one more regime.

The numbers of the prior were chosen on the 26 columns of HELP's tables for NAS-Bench-201 and the FBNet space.

Source: Gelman et al., "Bayesian Data Analysis", 3rd ed., 2013, chapters 4.1 (normal approximation), 7.4 (evidence), 15
(hierarchies), 17 (Student-t errors by iterated weights).
Rates are known at extents two octaves apart and linear in the logarithm between them.

Shapes: N networks, K kernels, T terms (class, extent and work), R sorts of work, S the same and launches, G regimes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.fitted_rates import WORK, kernel_extent, rate_class, work_amounts
from predictors.fusion import Kernel, Runtime, fuse
from predictors.graph import Graph

Array = NDArray[np.float64]

MIN_NETWORKS = 3

_CLASS_STD = 0.6
_EXTENT_STD = 0.4
_EXTENT_SCALE = 3.0
_WORK_STD = 0.3
_DTYPE_STD = 0.5
_LAUNCH_STD = 0.15
_TERM_STD = 0.1
_ALL_STD = 0.15
"""Deviations of ln(rate) that terms share: of one class, of like extent (of the length scale in ln pixels), of one sort
of work, of one dtype where there are several, launches of one class, of their own, and all of them."""
_OVERHEAD_SHARE = 0.06
_OVERHEAD_STD = 1.0
"""What a network takes beyond its kernels: share of the usual time, and deviation of its logarithm."""
_LEAST_SHARE = 0.005
"""Where a regime gives a sort of work none of the time, the mean of its rate still gives it so much."""
_NOISES = (0.006, 0.015, 0.04, 0.1)
_FIRST_NOISE = 0.03
_FREEDOM = 4.0
"""Degrees of freedom of the errors' Student-t distribution."""
_RUNTIME_ODDS = 100.0
"""How much likelier another runtime must make the times than the first one: decisive, on Jeffreys' scale."""
_SHEET_PRIOR = 0.5
"""Prior probability that the device is like what is known of it."""

_FIRST_STEPS = 6
_STEPS = 12
_ROUNDS = 4
_LONGEST_STEP = 1.5
_KEPT = 20
_REFITTED = 24
"""Of regimes and noises, the likeliest, that are fitted anew where a network is left out."""
_REFIT_STEPS, _REFIT_ROUNDS = 6, 2
LEAST_WEIGHT = 0.01

KNOT = log(4.0)
"""Rates are known at extents so far apart, in ln(pixels)."""

LAUNCH, OVERHEAD = len(WORK), len(WORK) + 1

Sheet = Callable[[str, str, int, float], float]
"""What is known of a device: ln of seconds per unit, by dtype, class, index of the sort of work (launches last) and
ln(extent)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelWork:
    """What kernels have to do.

    Attributes:
        dtypes, classes: of each kernel.
        log_extent_K: ln of the pixels of its output.
        amounts_KR: flops, activation bytes, weight bytes, groups of a depthwise convolution.
    """

    dtypes: tuple[str, ...]
    classes: tuple[str, ...]
    log_extent_K: Array
    amounts_KR: Array

    @cached_property
    def terms(self) -> "_Terms":
        return _terms(self)


def kernel_work(kernels: Sequence[Kernel], alignment: int = 1) -> KernelWork:
    """What each kernel has to do, channels padded to the alignment."""
    return KernelWork(
        dtypes=tuple(kernel.dtype for kernel in kernels),
        classes=tuple(rate_class(kernel) for kernel in kernels),
        log_extent_K=np.array([log(kernel_extent(kernel)) for kernel in kernels]),
        amounts_KR=np.array([work_amounts(kernel, kernel_cost(kernel, alignment)) for kernel in kernels]),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelTimes:
    """Seconds of kernels as fitted, what a network takes beyond them, and how far both may be off.

    Attributes:
        kernel_s_K, overhead_s: expected seconds.
        noise: standard deviation of ln(measured / predicted) of a network when all rates are known.
        log_evidence: ln of the density of the measured times, up to a constant that depends on their number alone:
            compares runtimes, given the same networks.
        factor_JF: J = K + 1, the overhead last; `factor @ factor.T` is the covariance of the seconds.
    """

    kernel_s_K: Array
    overhead_s: float
    noise: float
    log_evidence: float
    factor_JF: Array

    def predict(self, counts_NK: Array) -> Array:
        """Seconds of networks that run so many of each kernel, (N,)."""
        latency_s_N: Array = counts_NK @ self.kernel_s_K + self.overhead_s
        return latency_s_N

    def std_s(self, counts_NK: Array) -> Array:
        """Standard deviation in seconds, (N,): the rates' own and the networks' noise."""
        spread_NF = counts_NK @ self.factor_JF[:-1] + self.factor_JF[-1]
        std_s_N: Array = np.sqrt((spread_NF**2).sum(1) + (self.noise * self.predict(counts_NK)) ** 2)
        return std_s_N


class Labels(NamedTuple):
    """What each term is: indices of its class among some keys, its dtype and class by name, its sort of work, its knot.

    `work_T` is `LAUNCH` for launches and `OVERHEAD` for what networks take beyond their kernels.
    """

    keys: tuple[tuple[str, str], ...]
    key_T: NDArray[np.int64]
    work_T: NDArray[np.int64]
    knot_T: NDArray[np.int64]

    def names(self, part: int) -> NDArray[np.str_]:
        """Of each term the dtype (part 0) or the class (part 1); none of the overhead."""
        return np.array([self.keys[key][part] if key >= 0 else "" for key in self.key_T])


class _Terms(NamedTuple):
    """Which kernel has which amount of which term; launches and the overhead are terms of their own, last of all.

    Attributes:
        member_JT: amount of each kernel, a launch is 1; the overhead is row and column of its own.
        covariance_TT: of ln(rate).
    """

    labels: Labels
    member_JT: Array
    covariance_TT: Array


class _Regimes(NamedTuple):
    """G regimes: which kernels' work and launches count, and the means of ln(rate) in units of the usual time.

    `bound_GS` are rates that decide what is longer, None where both count. `log_rate_G` is a row of ln(rate) by sort of
    work, or a sheet, with what is to be added to its own.
    """

    works_GK: NDArray[np.bool_]
    launches_GK: NDArray[np.bool_]
    bound_GS: list[Array | None]
    log_rate_G: list[Array | tuple[Sheet, float]]
    log_prior_G: Array

    def are_bound(self, index: int, amounts_KR: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the work, and whether the launch of kernels counts, (K,) each."""
        rate_S = self.bound_GS[index]
        every_K = np.ones(len(amounts_KR), dtype=bool)
        if rate_S is None:
            return every_K, every_K
        launches_K = rate_S[-1] > amounts_KR @ rate_S[:-1]
        return ~launches_K, launches_K

    def means(self, index: int, labels: Labels) -> Array:
        """Of ln(rate) of terms, (T,)."""
        found = self.log_rate_G[index]
        if isinstance(found, np.ndarray):
            by_sort_T: Array = found[labels.work_T]
            return by_sort_T
        sheet, shift = found
        return np.append(_said(sheet, labels) + shift, log(_OVERHEAD_SHARE))


class Part(NamedTuple):
    """One regime at one noise, with its posterior: mode, and what measured networks tell (gain = prior @ share.T).

    ln(rate) of any term is its mean + covariance with the terms @ share.T @ pull; its covariance is the prior's less
    gain @ spread^-1 @ gain.T.
    """

    weight: float
    regime: int
    works_K: NDArray[np.bool_]
    launches_K: NDArray[np.bool_]
    log_T: Array
    share_NT: Array
    spread_NN: Array
    noise_N: Array
    pull_N: Array

    @property
    def longer(self) -> bool:
        return not bool(self.launches_K.all())


class _Start(NamedTuple):
    """Regimes by index and noise, the likeliest first, with the modes of ln(rate)."""

    kept_G: NDArray[np.int64]
    noise_G: Array
    log_GT: Array


class Mixture(NamedTuple):
    """Regimes fitted to measured networks; `fit_mixture` makes it.

    Attributes:
        parts: regimes and noises that count, with their weights; times are relative to `usual_s`.
        noise: standard deviation of ln(measured / predicted) of a network when all rates are known.
        log_evidence: ln of the density of the measured times, up to a constant that depends on their number alone:
            compares runtimes, given the same networks.
    """

    work: KernelWork
    counts_NK: Array
    measured_s_N: Array
    regimes: _Regimes
    parts: list[Part]
    usual_s: float
    noise: float
    log_evidence: float
    start: _Start


def fit_mixture(work: KernelWork, counts_NK: Array, measured_s_N: Array, sheets: Sequence[Sheet] = ()) -> Mixture:
    """Regimes and their weights, from a few measured networks.

    Args:
        work: of the kernels, also of those that no measured network runs.
        counts_NK: how often each measured network runs each kernel.
        measured_s_N: seconds.
        sheets: what is known of the device.

    Raises:
        ValueError: fewer than `MIN_NETWORKS` networks, or times that are not positive.
    """
    if len(measured_s_N) < MIN_NETWORKS:
        raise ValueError(f"at least {MIN_NETWORKS} measured networks are needed, found {len(measured_s_N)}")
    if not (measured_s_N > 0.0).all():
        raise ValueError(f"measured times must be positive seconds, found {measured_s_N.min()}")
    usual_s = float(np.median(measured_s_N))
    log_measured_N = np.log(measured_s_N / usual_s)
    terms = work.terms

    regimes = _regimes(work, counts_NK.mean(0), sheets)
    means_GT = np.array([regimes.means(index, terms.labels) for index in range(len(regimes.works_GK))])
    terms_GNT = _amounts(terms, regimes.works_GK, regimes.launches_GK, counts_NK)
    first = _fit(terms.covariance_TT, terms_GNT, means_GT, log_measured_N, np.full(len(terms_GNT), _FIRST_NOISE))
    order_G = np.argsort(-first.evidence_G - regimes.log_prior_G, kind="stable")
    kept_G = np.repeat(order_G[:_KEPT], len(_NOISES))
    noise_G = np.resize(np.array(_NOISES), len(kept_G))
    fit = _fit(terms.covariance_TT, terms_GNT[kept_G], means_GT[kept_G], log_measured_N, noise_G, _STEPS, _ROUNDS)
    return _weighed(work, counts_NK, measured_s_N, regimes, kept_G, noise_G, fit, usual_s)


def fit_regimes(work: KernelWork, counts_NK: Array, measured_s_N: Array, sheets: Sequence[Sheet] = ()) -> KernelTimes:
    """Seconds of all kernels, from a few measured networks; arguments as of `fit_mixture`."""
    return kernel_times(fit_mixture(work, counts_NK, measured_s_N, sheets))


def kernel_times(mixture: Mixture) -> KernelTimes:
    """Seconds of all kernels: the mean over the regimes."""
    terms = mixture.work.terms
    seconds_P = [part_seconds(terms, part) for part in mixture.parts]
    mean_J = np.sum([part.weight * each_JT.sum(1) for part, each_JT in zip(mixture.parts, seconds_P)], axis=0)
    root_TT = np.linalg.cholesky(terms.covariance_TT)
    factors = [
        part.weight**0.5 * np.column_stack([each_JT.sum(1) - mean_J, _spread_by(each_JT @ root_TT, part, root_TT)])
        for part, each_JT in zip(mixture.parts, seconds_P)
    ]
    return KernelTimes(
        kernel_s_K=mean_J[:-1] * mixture.usual_s,
        overhead_s=float(mean_J[-1]) * mixture.usual_s,
        noise=mixture.noise,
        log_evidence=mixture.log_evidence,
        factor_JF=np.concatenate(factors, axis=1) * mixture.usual_s,
    )


def leave_networks_out(mixture: Mixture) -> tuple[Array, Array]:
    """ln(measured / predicted) of each network by a fit to the others, and its expected deviation, (N,) each.

    Only the regimes that are likeliest with all networks are fitted anew.
    """
    terms = mixture.work.terms
    residuals, deviations = [], []
    for left_out, measured_s in enumerate(mixture.measured_s_N):
        fewer = _without(mixture, left_out)
        row_J = np.append(mixture.counts_NK[left_out], 1.0)
        parts_PT = np.array([row_J @ part_seconds(terms, part) for part in fewer.parts])
        weight_P = np.array([part.weight for part in fewer.parts])
        seconds_P = parts_PT.sum(1)
        mean = float(weight_P @ seconds_P)
        variance = float(weight_P @ (seconds_P - mean) ** 2)
        for part, row_T in zip(fewer.parts, parts_PT):
            prior_T = terms.covariance_TT @ row_T
            told_N = part.share_NT @ prior_T
            variance += part.weight * float(row_T @ prior_T - told_N @ np.linalg.solve(part.spread_NN, told_N))
        residuals.append(float(np.log(measured_s / (mean * mixture.usual_s))))
        deviations.append(float(np.sqrt(variance / mean**2 + fewer.noise**2)))
    return np.array(residuals), np.array(deviations)


def count_kernels(graphs: Iterable[Graph], runtime: Runtime, dtype: str) -> tuple[tuple[Kernel, ...], Array]:
    """All kernels of some networks, and how often each network runs each, (N, K)."""
    index: dict[Kernel, int] = {}
    found = [[index.setdefault(node.kernel, len(index)) for node in fuse(graph, runtime, dtype)] for graph in graphs]
    counts_NK = np.array([np.bincount(row, minlength=len(index)) for row in found], dtype=np.float64)
    return tuple(index), counts_NK


class FewShot(NamedTuple):
    """Seconds of networks and their standard deviations, (N,), and the runtime that explains the measured ones best."""

    latency_s_N: Array
    std_s_N: Array
    runtime: Runtime


def predict_from_few(
    measured: Sequence[tuple[Graph, float]],
    graphs: Sequence[Graph],
    runtimes: Sequence[Runtime],
    dtype: str = "float32",
) -> FewShot:
    """Latency of networks on a device of which nothing is known but the seconds of a few other networks.

    Args:
        measured: graphs with their seconds.
        graphs: to be predicted.
        runtimes: that may have run them; another than the first is taken where it is `_RUNTIME_ODDS` times likelier.
        dtype: of all networks.
    """
    measured_s_N = np.array([seconds for _, seconds in measured])
    fits = []
    for runtime in runtimes:
        kernels, counts_NK = count_kernels([*(graph for graph, _ in measured), *graphs], runtime, dtype)
        fits.append((fit_regimes(kernel_work(kernels), counts_NK[: len(measured)], measured_s_N), counts_NK))
    best = choose_runtime([times for times, _ in fits])
    times, counts_NK = fits[best]
    rest_NK = counts_NK[len(measured) :]
    return FewShot(times.predict(rest_NK), times.std_s(rest_NK), runtimes[best])


def choose_runtime(fits: Sequence[KernelTimes]) -> int:
    """Index of the fit whose runtime explains the times best; the first one has the benefit of the doubt."""
    return choose_by_evidence([fit.log_evidence for fit in fits])


def choose_by_evidence(log_evidence: Sequence[float]) -> int:
    """Index of the largest, if it is `_RUNTIME_ODDS` times as likely as the first; else the first."""
    best = int(np.argmax(log_evidence))
    return best if log_evidence[best] > log_evidence[0] + log(_RUNTIME_ODDS) else 0


# ------------------------------------------------------------------------------------------------------------ private


class _Fit(NamedTuple):
    log_GT: Array
    evidence_G: Array
    share_GNT: Array
    spread_GNN: Array
    noise_GN: Array
    pull_GN: Array


def _shares(parts: int) -> list[tuple[float, ...]]:
    """All ways to share the time among the sorts of work and launches, in steps of one over `parts`."""
    every = product(range(parts + 1), repeat=len(WORK) + 1)
    return [tuple(step / parts for step in steps) for steps in every if sum(steps) == parts]


_SUMS = tuple(_shares(3))
_LONGER = tuple(dict.fromkeys(each for parts in (3, 4) for each in _shares(parts) if 0.0 < each[-1] < 1.0))
"""Shares of the time, launches last, where work and launch add up, and where the longer counts. The latter need finer
steps: they decide which kernels are bound by what."""


def _knots(log_extent_K: Array) -> tuple[NDArray[np.int64], Array]:
    """Number of the last knot below each extent, and how far it is to the next."""
    at_K = log_extent_K / KNOT
    below_K = np.floor(at_K + 1e-9).astype(np.int64)
    return below_K, np.clip(at_K - below_K, 0.0, 1.0)


def at_knot(work: KernelWork, knot: int) -> Array:
    """How much of a knot's rate each kernel takes, (K,)."""
    below_K, beyond_K = _knots(work.log_extent_K)
    share_K: Array = np.where(below_K == knot, 1.0 - beyond_K, 0.0) + np.where(below_K + 1 == knot, beyond_K, 0.0)
    return share_K


def labels_of(occurring: Iterable[tuple[tuple[str, str], int, int]], keys: Sequence[tuple[str, str]]) -> Labels:
    """Of these terms, then launches of all classes, then the overhead."""
    index = {key: number for number, key in enumerate(keys)}
    rows = [(index[key], sort, knot) for key, sort, knot in occurring]
    rows += [(number, LAUNCH, 0) for number in range(len(keys))] + [(-1, OVERHEAD, 0)]
    key_T, work_T, knot_T = np.array(rows, dtype=np.int64).T
    return Labels(tuple(keys), key_T, work_T, knot_T)


def covariance(left: Labels, right: Labels) -> Array:
    """Of ln(rate) of two sets of terms."""

    def both(values: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = values[:, None] & others
        return found

    def same(values: NDArray[np.generic], others: NDArray[np.generic]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = values[:, None] == others
        return found

    works = both(left.work_T < LAUNCH, right.work_T < LAUNCH)
    launches = both(left.work_T == LAUNCH, right.work_T == LAUNCH)
    class_LR = same(left.names(1), right.names(1))
    dtype_LR = same(left.names(0), right.names(0))
    work_LR = same(left.work_T, right.work_T)
    term_LR = class_LR & dtype_LR & work_LR & same(left.knot_T, right.knot_T)
    apart_LR = KNOT * (left.knot_T[:, None] - right.knot_T)
    several = len({dtype for dtype, _ in (*left.keys, *right.keys)}) > 1
    overhead = both(left.work_T == OVERHEAD, right.work_T == OVERHEAD)
    covariance_LR: Array = (
        _ALL_STD**2
        + _WORK_STD**2 * work_LR
        + works * (_CLASS_STD**2 * class_LR + _EXTENT_STD**2 * np.exp(-(apart_LR**2) / (2.0 * _EXTENT_SCALE**2)))
        + (several * _DTYPE_STD**2) * (works & dtype_LR)
        + launches * class_LR * _LAUNCH_STD**2
        + _TERM_STD**2 * term_LR
        + _OVERHEAD_STD**2 * overhead
    )
    return covariance_LR


def _terms(work: KernelWork) -> _Terms:
    keys = sorted(set(zip(work.dtypes, work.classes)))
    index = {key: number for number, key in enumerate(keys)}
    key_K = np.array([index[key] for key in zip(work.dtypes, work.classes)])
    columns: list[Array] = []
    occurring = []
    knots = sorted({*_knots(work.log_extent_K)[0].tolist(), *(_knots(work.log_extent_K)[0] + 1).tolist()})
    shares = {knot: at_knot(work, knot) for knot in knots}
    for key in keys:
        for knot in knots:
            here_K = (key_K == index[key]) * shares[knot]
            for sort in range(len(WORK)):
                column_K = work.amounts_KR[:, sort] * here_K
                if column_K.any():
                    columns.append(column_K)
                    occurring.append((key, sort, knot))
    columns += [(key_K == number).astype(np.float64) for number in range(len(keys))]
    columns.append(np.zeros(len(key_K)))
    labels = labels_of(occurring, keys)
    member_JT = np.concatenate([np.stack(columns, 1), np.zeros((1, len(columns)))])
    member_JT[-1, -1] = 1.0
    return _Terms(labels, member_JT, covariance(labels, labels))


def _regimes(work: KernelWork, usual_K: Array, sheets: Sequence[Sheet]) -> _Regimes:
    """Those that give no time to work that nobody does. The shares add up to 1, the overhead comes on top."""
    totals_R = usual_K @ work.amounts_KR
    done_S = np.append(totals_R > 0.0, True)
    totals_S = np.append(np.maximum(totals_R, 1.0), usual_K.sum())
    works, launches, active = [], [], []
    bounds: list[Array | None] = []
    rates: list[Array | tuple[Sheet, float]] = []
    for shares, longer in [*((each, False) for each in _SUMS), *((each, True) for each in _LONGER)]:
        share_S = np.array(shares)
        if share_S[~done_S].any():
            continue
        rate_S = share_S / totals_S
        work_K = work.amounts_KR @ rate_S[:-1]
        launches_K = rate_S[-1] > work_K if longer else np.ones(len(usual_K), dtype=bool)
        works_K = ~launches_K if longer else launches_K
        total = float(usual_K @ (works_K * work_K + launches_K * rate_S[-1])) * (1.0 + _OVERHEAD_SHARE)
        works.append(works_K)
        launches.append(launches_K)
        bounds.append(rate_S if longer else None)
        rates.append(np.log(np.append(np.maximum(rate_S, _LEAST_SHARE / totals_S) / total, _OVERHEAD_SHARE)))
        active.append(int((share_S > 0.0).sum()))
    likely = np.bincount(active)
    log_prior_G = -np.log(likely[active] * (likely > 0).sum())
    if sheets:
        log_prior_G = np.append(
            log_prior_G + log(1.0 - _SHEET_PRIOR), np.full(len(sheets), log(_SHEET_PRIOR / len(sheets)))
        )
        labels, member_KT = work.terms.labels, work.terms.member_JT[:-1, :-1]
        for sheet in sheets:
            every = np.ones(len(usual_K), dtype=bool)
            works.append(every)
            launches.append(every)
            bounds.append(None)
            rate_T = np.exp(_said(sheet, labels))
            rates.append((sheet, -log(float(usual_K @ member_KT @ rate_T) * (1.0 + _OVERHEAD_SHARE))))
    return _Regimes(np.array(works), np.array(launches), bounds, rates, log_prior_G)


def _said(sheet: Sheet, labels: Labels) -> Array:
    """ln(rate) of all terms but the overhead, the last, as the sheet has it."""
    terms = list(zip(labels.key_T.tolist(), labels.work_T.tolist(), labels.knot_T.tolist()))[:-1]
    return np.array([sheet(labels.keys[key][0], labels.keys[key][1], work, knot * KNOT) for key, work, knot in terms])


def _amounts(terms: _Terms, works_GK: NDArray[np.bool_], launches_GK: NDArray[np.bool_], counts_NK: Array) -> Array:
    """Amounts of the terms in networks by regime, (G, N, T)."""
    work_KT = terms.member_JT[:-1] * (terms.labels.work_T < LAUNCH)
    launch_KT = terms.member_JT[:-1] * (terms.labels.work_T == LAUNCH)
    amounts_GNT: Array = (counts_NK * works_GK[:, None]) @ work_KT
    amounts_GNT += (counts_NK * launches_GK[:, None]) @ launch_KT
    amounts_GNT[:, :, -1] = 1.0
    return amounts_GNT


def _weighed(
    work: KernelWork,
    counts_NK: Array,
    measured_s_N: Array,
    regimes: _Regimes,
    kept_G: NDArray[np.int64],
    noise_G: Array,
    fit: _Fit,
    usual_s: float,
) -> Mixture:
    """Fits as parts, weighted by their evidence; what hardly counts is left out."""
    evidence_G = fit.evidence_G + regimes.log_prior_G[kept_G] - np.log(len(_NOISES))
    best = evidence_G.max()
    weight_G = np.exp(evidence_G - best)
    log_evidence = float(best + np.log(weight_G.sum()))
    weight_G = np.where(weight_G < LEAST_WEIGHT * weight_G.sum(), 0.0, weight_G)
    weight_G /= weight_G.sum()
    parts = [
        Part(
            weight=float(weight_G[index]),
            regime=int(kept_G[index]),
            works_K=regimes.works_GK[kept_G[index]],
            launches_K=regimes.launches_GK[kept_G[index]],
            log_T=fit.log_GT[index],
            share_NT=fit.share_GNT[index],
            spread_NN=fit.spread_GNN[index],
            noise_N=fit.noise_GN[index],
            pull_N=fit.pull_GN[index],
        )
        for index in np.flatnonzero(weight_G)
    ]
    likeliest = np.argsort(-evidence_G, kind="stable")[:_REFITTED]
    start = _Start(kept_G[likeliest], noise_G[likeliest], fit.log_GT[likeliest])
    noise = float(weight_G @ noise_G)
    return Mixture(work, counts_NK, measured_s_N, regimes, parts, usual_s, noise, log_evidence, start)


def _without(mixture: Mixture, left_out: int) -> Mixture:
    """The likeliest regimes and noises, fitted without one of the networks."""
    keep_N = np.arange(len(mixture.measured_s_N)) != left_out
    counts_NK, measured_s_N = mixture.counts_NK[keep_N], mixture.measured_s_N[keep_N]
    terms, start, regimes = mixture.work.terms, mixture.start, mixture.regimes
    fit = _fit(
        terms.covariance_TT,
        _amounts(terms, regimes.works_GK[start.kept_G], regimes.launches_GK[start.kept_G], counts_NK),
        np.array([regimes.means(index, terms.labels) for index in start.kept_G]),
        np.log(measured_s_N / mixture.usual_s),
        start.noise_G,
        _REFIT_STEPS,
        _REFIT_ROUNDS,
        start.log_GT,
    )
    return _weighed(mixture.work, counts_NK, measured_s_N, regimes, start.kept_G, start.noise_G, fit, mixture.usual_s)


def part_seconds(terms: _Terms, part: Part) -> Array:
    """Relative seconds by kernel and term, the overhead last, (J, T)."""
    launch_T = terms.labels.work_T == LAUNCH
    counts_KT = np.where(launch_T, part.launches_K[:, None], part.works_K[:, None])
    seconds_JT: Array = terms.member_JT * np.exp(part.log_T)
    seconds_JT[:-1] *= counts_KT
    return seconds_JT


def _spread_by(rooted_JT: NDArray[np.floating[Any]], part: Part, root_TT: NDArray[np.floating[Any]]) -> Array:
    """Times a root of the posterior's covariance, given what is times the prior's root.

    posterior = root (1 - A S^-1 A') root' with A = root' share' and S = A'A + noise^2: by the singular values of A over
    the noise, those directions shrink.
    """
    told_TN, size_N, _ = np.linalg.svd(root_TT.T @ part.share_NT.T / part.noise_N, full_matrices=False)
    kept_N = 1.0 - 1.0 / np.sqrt(1.0 + size_N**2)
    spread_JT: Array = rooted_JT - ((rooted_JT @ told_TN) * kept_N) @ told_TN.T
    return spread_JT


def _fit(
    prior_TT: Array,
    terms_GNT: Array,
    mean_GT: Array,
    log_measured_N: Array,
    noise_G: Array,
    steps: int = _FIRST_STEPS,
    rounds: int = 1,
    start_GT: Array | None = None,
) -> _Fit:
    """Modes of the posteriors by Gauss-Newton steps in the networks' space, weights of a Student-t by turns.

    The evidence is Laplace's, of Student-t errors, without the constants that all regimes share.
    """
    log_GT = mean_GT if start_GT is None else start_GT
    weight_GN = np.ones(terms_GNT.shape[:2])
    eye_NN = np.eye(terms_GNT.shape[1])

    def linearised(log_GT: Array) -> tuple[Array, Array, Array, Array]:
        parts_GNT = terms_GNT * np.exp(log_GT)[:, None]
        predicted_GN = parts_GNT.sum(2)
        share_GNT = parts_GNT / predicted_GN[:, :, None]
        gain_GNT = share_GNT @ prior_TT
        spread_GNN = gain_GNT @ share_GNT.transpose(0, 2, 1)
        spread_GNN += eye_NN * (noise_G[:, None] ** 2 / weight_GN)[:, None]
        return share_GNT, log_measured_N - np.log(predicted_GN), gain_GNT, spread_GNN

    for round_ in range(rounds):
        for _ in range(steps if round_ == 0 else steps // 2):
            share_GNT, residual_GN, gain_GNT, spread_GNN = linearised(log_GT)
            wanted_GN = residual_GN + (share_GNT @ (log_GT - mean_GT)[:, :, None])[:, :, 0]
            pull_GN = np.linalg.solve(spread_GNN, wanted_GN[:, :, None])[:, :, 0]
            step_GT = mean_GT + (gain_GNT.transpose(0, 2, 1) @ pull_GN[:, :, None])[:, :, 0] - log_GT
            length_G = np.minimum(1.0, _LONGEST_STEP / np.maximum(np.abs(step_GT).max(1), 1e-9))
            log_GT = log_GT + length_G[:, None] * step_GT
            if np.abs(step_GT).max() < 1e-3:
                break
        if round_ + 1 < rounds:
            _, residual_GN, _, _ = linearised(log_GT)
            scale_G = np.maximum(noise_G, 1.48 * np.median(np.abs(residual_GN), axis=1))
            weight_GN = np.asarray((_FREEDOM + 1.0) / (_FREEDOM + (residual_GN / scale_G[:, None]) ** 2), np.float64)
    share_GNT, residual_GN, _, spread_GNN = linearised(log_GT)
    away_GT = log_GT - mean_GT
    wanted_GN = residual_GN + (share_GNT @ away_GT[:, :, None])[:, :, 0]
    pulls_GN = np.asarray(np.linalg.solve(spread_GNN, wanted_GN[:, :, None])[:, :, 0])
    likelihood_G = -0.5 * (_FREEDOM + 1.0) * np.log1p((residual_GN / noise_G[:, None]) ** 2 / _FREEDOM).sum(1)
    occam_G = -0.5 * (np.linalg.slogdet(spread_GNN)[1] + np.log(weight_GN).sum(1))
    penalty_G = 0.5 * (away_GT * np.linalg.solve(prior_TT, away_GT.T).T).sum(1)
    noise_GN = np.asarray(noise_G[:, None] / np.sqrt(weight_GN), dtype=np.float64)
    return _Fit(log_GT, likelihood_G + occam_G - penalty_G, share_GNT, spread_GNN, noise_GN, pulls_GN)
