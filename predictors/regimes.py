"""Seconds of kernels on a device of which only a few whole networks are measured: no table, no data sheet.

A kernel takes the time of its work (flops, bytes of activations, bytes of weights, groups of a depthwise convolution)
and a launch: either both, or, where the host runs ahead of the device, the longer of the two. A handful of networks
cannot tell every kernel's rate, but they tell which work the device spends its time on. So the prior is a mixture of
regimes, each of which says what share of the usual network's time goes into which sort of work. Within a regime the
logarithms of the rates are Gaussian: kernels of one class deviate together, and so do kernels of like extent, whatever
their class (parallelism, caches). Each regime is fitted to its posterior's mode, robustly; all are averaged, weighted
by their evidence.

The numbers of the prior were chosen on the 26 columns of HELP's tables for NAS-Bench-201 and the FBNet space.

Source: Gelman et al., "Bayesian Data Analysis", 3rd ed., 2013, chapters 4.1 (normal approximation), 7.4 (evidence), 15
(hierarchies), 17 (Student-t errors by iterated weights).
Shapes: N networks, K kernels, T terms (class, extent and work), R sorts of work, S the same and launches, G regimes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.fusion import Kernel, Runtime, fuse
from predictors.graph import Graph
from predictors.operators import Conv2d

Array = NDArray[np.float64]

MIN_NETWORKS = 3
WORK = ("compute", "activations", "weights", "groups")
"""Sorts of work: flops, bytes read and written, bytes of weights, groups of a depthwise convolution."""

_CLASS_STD = 0.6
_EXTENT_STD = 0.4
_EXTENT_SCALE = 3.0
_WORK_STD = 0.3
_LAUNCH_STD = 0.15
_TERM_STD = 0.1
_ALL_STD = 0.15
"""Deviations of ln(rate) that terms share: of one class, of like extent (of the length scale in ln pixels), of one sort
of work, launches of one class, of their own, and all of them."""
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

_FIRST_STEPS = 6
_STEPS = 12
_ROUNDS = 4
_LONGEST_STEP = 1.5
_KEPT = 20
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelWork:
    """What kernels have to do.

    Attributes:
        classes: of each kernel.
        log_extent_K: ln of the pixels of its output.
        amounts_KR: flops, activation bytes, weight bytes, groups of a depthwise convolution.
    """

    classes: tuple[str, ...]
    log_extent_K: Array
    amounts_KR: Array

    @cached_property
    def terms(self) -> "_Terms":
        return _terms(self)


def kernel_work(kernels: Sequence[Kernel], alignment: int = 1) -> KernelWork:
    """What each kernel has to do, channels padded to the alignment."""
    amounts, extents = [], []
    for kernel in kernels:
        cost = kernel_cost(kernel, alignment)
        anchor = kernel.anchor
        shape = anchor.output_shape
        groups = anchor.groups if isinstance(anchor, Conv2d) and anchor.is_depthwise else 0
        amounts.append((cost.flops, cost.read_bytes + cost.write_bytes, cost.weight_bytes, groups))
        extents.append(log(shape[2] * shape[3]) if len(shape) == 4 else 0.0)
    return KernelWork(
        classes=tuple(_kernel_class(kernel) for kernel in kernels),
        log_extent_K=np.array(extents),
        amounts_KR=np.array(amounts, dtype=np.float64),
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


def fit_regimes(work: KernelWork, counts_NK: Array, measured_s_N: Array) -> KernelTimes:
    """Seconds of all kernels, from a few measured networks.

    Args:
        work: of the kernels, also of those that no measured network runs.
        counts_NK: how often each measured network runs each kernel.
        measured_s_N: seconds.

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

    regimes = _regimes(work, counts_NK.mean(0))
    terms_GNT = _amounts(terms, regimes, counts_NK)
    first = _fit(terms.covariance_TT, terms_GNT, regimes.mean_GT, log_measured_N, np.full(len(terms_GNT), _FIRST_NOISE))
    order_G = np.argsort(-first.evidence_G - regimes.log_prior_G, kind="stable")
    kept_G = np.repeat(order_G[:_KEPT], len(_NOISES))
    noise_G = np.resize(np.array(_NOISES), len(kept_G))
    fit = _fit(
        terms.covariance_TT, terms_GNT[kept_G], regimes.mean_GT[kept_G], log_measured_N, noise_G, _STEPS, _ROUNDS
    )

    evidence_G = fit.evidence_G + regimes.log_prior_G[kept_G] - np.log(len(_NOISES))
    best = evidence_G.max()
    weight_G = np.exp(evidence_G - best)
    log_evidence = float(best + np.log(weight_G.sum()))
    weight_G = np.where(weight_G < _LEAST_WEIGHT * weight_G.sum(), 0.0, weight_G)
    weight_G /= weight_G.sum()
    parts = [
        (weight_G[index], _seconds(terms, regimes, kept_G[index], fit.log_GT[index]), fit.covariance(int(index)))
        for index in np.flatnonzero(weight_G)
    ]
    mean_J = np.sum([weight * seconds_JT.sum(1) for weight, seconds_JT, _ in parts], axis=0)
    factors = [
        weight**0.5 * np.column_stack([seconds_JT.sum(1) - mean_J, seconds_JT @ _root(covariance_TT)])
        for weight, seconds_JT, covariance_TT in parts
    ]
    return KernelTimes(
        kernel_s_K=mean_J[:-1] * usual_s,
        overhead_s=float(mean_J[-1]) * usual_s,
        noise=float(weight_G @ noise_G),
        log_evidence=log_evidence,
        factor_JF=np.concatenate(factors, axis=1) * usual_s,
    )


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
    evidence = [fit.log_evidence for fit in fits]
    best = int(np.argmax(evidence))
    return best if evidence[best] > evidence[0] + log(_RUNTIME_ODDS) else 0


# ------------------------------------------------------------------------------------------------------------ private


class _Terms(NamedTuple):
    """Which kernel has which amount of which term; launches and the overhead are terms of their own, last of all.

    Attributes:
        member_JT: amount of each kernel, a launch is 1; the overhead is row and column of its own.
        work_T: index of the sort of work; `len(WORK)` for launches, one more for the overhead.
        covariance_TT: of ln(rate).
    """

    member_JT: Array
    work_T: NDArray[np.int64]
    covariance_TT: Array


class _Regimes(NamedTuple):
    """G regimes: which kernels' work and launches count, and the means of ln(rate) in units of the usual time."""

    works_GK: NDArray[np.bool_]
    launches_GK: NDArray[np.bool_]
    mean_GT: Array
    log_prior_G: Array


class _Fit(NamedTuple):
    log_GT: Array
    evidence_G: Array
    gain_GNT: Array
    spread_GNN: Array
    prior_TT: Array

    def covariance(self, index: int) -> Array:
        """Of ln(rate) about the mode."""
        gain_NT = self.gain_GNT[index]
        covariance_TT: Array = self.prior_TT - gain_NT.T @ np.linalg.solve(self.spread_GNN[index], gain_NT)
        return covariance_TT


def _shares(parts: int) -> list[tuple[float, ...]]:
    """All ways to share the time among the sorts of work and launches, in steps of one over `parts`."""
    every = product(range(parts + 1), repeat=len(WORK) + 1)
    return [tuple(step / parts for step in steps) for steps in every if sum(steps) == parts]


_SUMS = tuple(_shares(3))
_LONGER = tuple(dict.fromkeys(each for parts in (3, 4) for each in _shares(parts) if 0.0 < each[-1] < 1.0))
"""Shares of the time, launches last, where work and launch add up, and where the longer counts. The latter need finer
steps: they decide which kernels are bound by what."""


def _kernel_class(kernel: Kernel) -> str:
    """Convolutions by window whatever their stride, all others by variant."""
    classes = kernel.classes
    return classes[1] if isinstance(kernel.anchor, Conv2d) else classes[0]


def _terms(work: KernelWork) -> _Terms:
    names = sorted(set(work.classes))
    class_K = np.array([names.index(name) for name in work.classes])
    octave_K = np.round(work.log_extent_K / log(2.0)).astype(int)
    columns: list[Array] = []
    labels: list[tuple[int, int, float]] = []  # class, sort of work, ln(extent)
    for name, octave in sorted(set(zip(class_K.tolist(), octave_K.tolist()))):
        here_K = (class_K == name) & (octave_K == octave)
        for sort in range(len(WORK)):
            column_K = work.amounts_KR[:, sort] * here_K
            if column_K.any():
                columns.append(column_K)
                labels.append((name, sort, octave * log(2.0)))
    for name in range(len(names)):
        columns.append((class_K == name).astype(np.float64))
        labels.append((name, len(WORK), 0.0))
    columns.append(np.zeros(len(class_K)))
    labels.append((-1, len(WORK) + 1, 0.0))
    class_T, work_T, extent_T = map(np.array, zip(*labels))

    launch_T = work_T == len(WORK)
    works_TT = (work_T < len(WORK))[:, None] & (work_T < len(WORK))
    launches_TT = launch_T[:, None] & launch_T
    same_TT = class_T[:, None] == class_T
    like_TT = np.exp(-((extent_T[:, None] - extent_T) ** 2) / (2.0 * _EXTENT_SCALE**2))
    covariance_TT = (
        _ALL_STD**2
        + _WORK_STD**2 * (work_T[:, None] == work_T)
        + works_TT * (_CLASS_STD**2 * same_TT + _EXTENT_STD**2 * like_TT)
        + launches_TT * same_TT * _LAUNCH_STD**2
        + _TERM_STD**2 * np.eye(len(labels))
    )
    covariance_TT[-1, -1] += _OVERHEAD_STD**2
    member_JT = np.concatenate([np.stack(columns, 1), np.zeros((1, len(labels)))])
    member_JT[-1, -1] = 1.0
    return _Terms(member_JT, work_T, covariance_TT)


def _regimes(work: KernelWork, usual_K: Array) -> _Regimes:
    """Those that give no time to work that nobody does. The shares add up to 1, the overhead comes on top."""
    totals_R = usual_K @ work.amounts_KR
    done_S = np.append(totals_R > 0.0, True)
    totals_S = np.append(np.maximum(totals_R, 1.0), usual_K.sum())
    works, launches, means, active = [], [], [], []
    for shares, longer in [*((each, False) for each in _SUMS), *((each, True) for each in _LONGER)]:
        share_S = np.array(shares)
        if share_S[~done_S].any():
            continue
        rate_S = share_S / totals_S
        work_K = work.amounts_KR @ rate_S[:-1]
        launches_K = rate_S[-1] > work_K if longer else np.ones(len(usual_K), dtype=bool)
        works_K = ~launches_K if longer else launches_K
        total = float(usual_K @ (works_K * work_K + launches_K * rate_S[-1])) * (1.0 + _OVERHEAD_SHARE)
        rates = np.append(np.maximum(rate_S, _LEAST_SHARE / totals_S) / total, _OVERHEAD_SHARE)
        works.append(works_K)
        launches.append(launches_K)
        means.append(np.log(rates[work.terms.work_T]))
        active.append(int((share_S > 0.0).sum()))
    likely = np.bincount(active)
    log_prior_G = -np.log(likely[active] * (likely > 0).sum())
    return _Regimes(np.array(works), np.array(launches), np.array(means), log_prior_G)


def _amounts(terms: _Terms, regimes: _Regimes, counts_NK: Array) -> Array:
    """Amounts of the terms in networks by regime, (G, N, T)."""
    work_KT = terms.member_JT[:-1] * (terms.work_T < len(WORK))
    launch_KT = terms.member_JT[:-1] * (terms.work_T == len(WORK))
    amounts_GNT: Array = (counts_NK * regimes.works_GK[:, None]) @ work_KT
    amounts_GNT += (counts_NK * regimes.launches_GK[:, None]) @ launch_KT
    amounts_GNT[:, :, -1] = 1.0
    return amounts_GNT


def _seconds(terms: _Terms, regimes: _Regimes, regime: int, log_T: Array) -> Array:
    """Relative seconds by kernel and term, the overhead last, (J, T)."""
    launch_T = terms.work_T == len(WORK)
    counts_KT = np.where(launch_T, regimes.launches_GK[regime][:, None], regimes.works_GK[regime][:, None])
    seconds_JT: Array = terms.member_JT * np.exp(log_T)
    seconds_JT[:-1] *= counts_KT
    return seconds_JT


def _fit(
    prior_TT: Array,
    terms_GNT: Array,
    mean_GT: Array,
    log_measured_N: Array,
    noise_G: Array,
    steps: int = _FIRST_STEPS,
    rounds: int = 1,
) -> _Fit:
    """Modes of the posteriors by Gauss-Newton steps in the networks' space, weights of a Student-t by turns.

    The evidence is Laplace's, of Student-t errors, without the constants that all regimes share.
    """
    log_GT = mean_GT
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
            weight_GN = (_FREEDOM + 1.0) / (_FREEDOM + (residual_GN / scale_G[:, None]) ** 2)
    _, residual_GN, gain_GNT, spread_GNN = linearised(log_GT)
    away_GT = log_GT - mean_GT
    likelihood_G = -0.5 * (_FREEDOM + 1.0) * np.log1p((residual_GN / noise_G[:, None]) ** 2 / _FREEDOM).sum(1)
    occam_G = -0.5 * (np.linalg.slogdet(spread_GNN)[1] + np.log(weight_GN).sum(1))
    penalty_G = 0.5 * (away_GT * np.linalg.solve(prior_TT, away_GT.T).T).sum(1)
    return _Fit(log_GT, likelihood_G + occam_G - penalty_G, gain_GNT, spread_GNN, prior_TT)


def _root(covariance_TT: Array) -> Array:
    """A matrix whose square is the covariance."""
    values_T, vectors_TT = np.linalg.eigh(covariance_TT)
    root_TT: Array = vectors_TT * np.sqrt(np.maximum(values_T, 0.0))
    return root_TT
