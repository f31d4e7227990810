"""How much of the roofline a kernel reaches, learned from measured kernels and interpolated in log space.

efficiency = roofline time / measured time. For each kernel class two Gaussian processes interpolate ln(efficiency):
one over the kernel's shape, around class shares of the peaks fitted to the same kernels; one over its work, around the
class's median efficiency. They err in different ways, so their weighted mean errs less than either. Deviations are
scaled by what kernels that were left out show.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, log

import numpy as np
from numpy.typing import NDArray

from predictors.corrected_class import MAX_KERNELS, CorrectedClass, correct_class
from predictors.cost import Cost, kernel_cost
from predictors.device import Device
from predictors.features import SHAPE_VIEW, WORK_VIEW, view_features
from predictors.features import kernel_features as kernel_features
from predictors.fusion import Kernel
from predictors.gaussian_process import Process, fit
from predictors.log_estimate import LogEstimate
from predictors.lookup_table import LookupTable
from predictors.measured_range import MeasuredRange
from predictors.roofline import roofline
from predictors.transfer import Prior

MIN_KERNELS = 8
"""Of a class with fewer measured kernels than this what is known without them is corrected by them."""

DTYPE_STD = 0.3
"""Deviation of ln(efficiency) that a kernel in another dtype than the measured ones adds to theirs.

Two Adrenos' float16 kernels miss their float32 ones, and those that add up in float32, by 0.25 to 0.29."""

EXTRAPOLATION_FACTOR = 4.0
"""From so many times the largest measured work or traffic on an `ExtrapolationWarning` is given.

Below the smallest the deviation grows alike, but a tiny kernel takes hardly more than its launch, and a network of tiny
ones would be warned of in vain."""

_SPLIT = 1500
"""A kind with more kernels is learned window by window, then stride by stride: a process takes that many at most."""
_MIN_PART = 200
_FOLDS = 5
_MAX_FOLDED = 400
"""Up to so many kernels the deviations come from fits without each fold; beyond it from the closed form."""
_TUNING, _LARGE_TUNING, _FOLD_TUNING = 150, 400, 60
"""Kernels that hyperparameters are tuned on: of a class up to `_MAX_FOLDED`, of a larger one, and without a fold."""
_WEIGHT_PRIOR, _SCALE_PRIOR = 40, 10
"""Kernels that even weights of the two processes, and deviations as they are, count for."""

_Array = NDArray[np.float64]


class ExtrapolationWarning(UserWarning):
    """A kernel lies far above what was measured, or is in another dtype; its estimate has a larger deviation."""


@dataclass(frozen=True, eq=False, slots=True)
class LearnedEfficiency:
    """What was learned by kernel class. `learn_efficiency` makes it; a class is fitted when it is first asked for."""

    device: Device
    measured: Mapping[str, "_Measured"]
    corrected: Mapping[str, CorrectedClass]
    _models: dict[str, "_Model"] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def at(self, kernel: Kernel, cost: Cost) -> LogEstimate | None:
        """ln(efficiency) of a kernel with that cost on the device; None for a class without measured kernels.

        For a measured kernel it is what the others say of it, without its own entry; None if they are too few.

        Warns:
            ExtrapolationWarning: it is far larger than all that was measured, or of another dtype.
        """
        return self.many([kernel], [cost])[0]

    def many(self, kernels: Sequence[Kernel], costs: Sequence[Cost]) -> list[LogEstimate | None]:
        """`at` for several kernels at once, which takes less time for each."""
        found: list[LogEstimate | None] = [None] * len(kernels)
        unseen: dict[str, list[int]] = {}
        for index, kernel in enumerate(kernels):
            name = _class_of(kernel, self.measured)
            if name is None:
                continue
            left_out = self._model(name).left_out
            if kernel not in left_out:
                unseen.setdefault(name, []).append(index)
            elif len(left_out) >= MIN_KERNELS:
                found[index] = left_out[kernel]
        for name, members in unseen.items():
            model = self._model(name)
            some, their_costs = [kernels[index] for index in members], [costs[index] for index in members]
            for index, (estimate, above) in zip(members, model.at(some, their_costs)):
                is_other_dtype = kernels[index].dtype not in model.dtypes
                if estimate is not None and is_other_dtype:
                    estimate = replace(estimate, std=hypot(estimate.std, DTYPE_STD))
                if is_other_dtype or above > log(EXTRAPOLATION_FACTOR):
                    self._warn(name, kernels[index], above)
                found[index] = estimate
        return found

    def _model(self, name: str) -> "_Model | CorrectedClass":
        model = self.corrected.get(name) or self._models.get(name)
        if model is None:
            model = self._models[name] = _fit_class(self.measured[name], self.device)
        return model

    def _warn(self, name: str, kernel: Kernel, above: float) -> None:
        if name in self._warned:
            return
        self._warned.add(name)
        warnings.warn(
            f"{kernel.text} in {kernel.dtype} is {exp(above):.1f} times the largest measured of {name!r} on "
            f"{self.device.name!r} ({len(self.measured[name].kernels)} kernels, {sorted(self._model(name).dtypes)}); "
            "its time is extrapolated and its deviation larger (said once for each class)",
            ExtrapolationWarning,
            stacklevel=4,
        )


def learn_efficiency(tables: Sequence[LookupTable], device: Device, prior: Prior | None = None) -> LearnedEfficiency:
    """What the tables say of each kernel class that has measured kernels.

    Args:
        prior: what other GPUs say; None takes the shipped prior.
    """
    kinds: dict[str, dict[Kernel, tuple[float, float]]] = {}
    for table in tables:
        for kernel, entry in table.entries.items():
            kinds.setdefault(kernel.kind, {})[kernel] = entry.latency_p50_s, entry.spread
    measured, corrected = {}, {}
    for kind, found in kinds.items():
        for name, kernels in _parts(kind, list(found)).items():
            costs = [kernel_cost(kernel, device.channel_alignment) for kernel in kernels]
            seconds, spreads = zip(*(found[kernel] for kernel in kernels))
            own = _Measured(kernels=kernels, costs=costs, measured_s_K=np.array(seconds), spread_K=np.array(spreads))
            measured[name] = own
            if len(kernels) <= (MAX_KERNELS if device.compute_units else MIN_KERNELS - 1):
                target_K = _roofline_log(kernels, costs, device) - np.log(own.measured_s_K)
                by_others = correct_class(kernels, costs, target_K, own.spread_K, device, prior)
                if by_others.by_other_gpus or len(kernels) < MIN_KERNELS:
                    corrected[name] = by_others
    return LearnedEfficiency(device, measured, corrected)


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Measured:
    """K measured kernels of one class."""

    kernels: Sequence[Kernel]
    costs: Sequence[Cost]
    measured_s_K: _Array
    spread_K: _Array


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Members:
    """The two processes: over shapes around class shares, over work around a constant."""

    log_factors_T: _Array
    by_shape: Process
    by_work: Process


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Model:
    """A fitted class.

    Attributes:
        shape_weight: of the process over shapes; the other has the rest.
        std_scale: factor on the processes' deviations.
        left_out: each measured kernel as the others predict it.
    """

    device: Device
    members: _Members
    shape_weight: float
    std_scale: float
    measured_range: MeasuredRange
    left_out: Mapping[Kernel, LogEstimate]
    dtypes: frozenset[str]

    def at(self, kernels: Sequence[Kernel], costs: Sequence[Cost]) -> list[tuple[LogEstimate | None, float]]:
        """ln(efficiency), and ln(factor) above the most work or traffic that was measured."""
        shape_KF, work_KF = _views(kernels, costs, self.device)
        terms_KT, roofline_K = _terms_s(kernels, costs, self.device), _roofline_log(kernels, costs, self.device)
        means_MK, stds_MK = _at_members(self.members, shape_KF, work_KF, terms_KT, roofline_K)
        mix_M = np.array([self.shape_weight, 1.0 - self.shape_weight])
        above_K, beyond_std_K = self.measured_range.outside(work_KF)
        std_K = np.hypot(self.std_scale * (mix_M @ stds_MK), beyond_std_K)
        rows = zip((mix_M @ means_MK).tolist(), std_K.tolist(), above_K.tolist())
        return [(LogEstimate(mean, std), above) for mean, std, above in rows]


def _parts(kind: str, kernels: list[Kernel]) -> dict[str, list[Kernel]]:
    """The kernels by the class that they are learned in, and all together (at most `_SPLIT`) under their kind."""
    if len(kernels) <= _SPLIT:
        return {kind: kernels}
    found: dict[str, list[Kernel]] = {}
    for level in (-2, -3):
        parts: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            if len(kernel.classes) >= -level:
                parts.setdefault(kernel.classes[level], []).append(kernel)
        found |= {name: members for name, members in parts.items() if len(members) >= _MIN_PART}
        if all(len(members) <= _SPLIT for members in parts.values()):
            break
    return {name: _sampled(members) for name, members in {**found, kind: kernels}.items()}


def _sampled(kernels: list[Kernel]) -> list[Kernel]:
    if len(kernels) <= _SPLIT:
        return kernels
    return [kernels[index] for index in np.random.default_rng(0).choice(len(kernels), _SPLIT, replace=False)]


def _class_of(kernel: Kernel, known: Mapping[str, object]) -> str | None:
    return next((name for name in (*kernel.classes, kernel.kind) if name in known), None)


def _views(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device) -> tuple[_Array, ...]:
    units = int(device.compute_units.value) if device.compute_units else None
    return view_features(kernels, costs, (SHAPE_VIEW, WORK_VIEW), units)


def _terms_s(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device) -> _Array:
    """Seconds at full peaks for arithmetic, reading and writing, and one second, (kernels, 4)."""
    rows = []
    for kernel, cost in zip(kernels, costs):
        bandwidth = device.bandwidth_for(cost.traffic_bytes)
        compute_s = cost.flops / device.peak_flops(kernel.dtype)
        rows.append((compute_s, (cost.read_bytes + cost.weight_bytes) / bandwidth, cost.write_bytes / bandwidth, 1.0))
    return np.array(rows)


def _roofline_log(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device) -> _Array:
    seconds_K = np.array([roofline(cost, device, kernel.dtype).latency_s for kernel, cost in zip(kernels, costs)])
    logs_K: _Array = np.log(seconds_K)
    return logs_K


_FACTOR_PRIOR = np.array([(0.7, 1.0), (1.0, 1.0), (0.7, 1.0), (-2.0, 2.0)])
"""Mean and deviation of ln(1 / share of a peak) of arithmetic, reading and writing, and of ln(fixed / median time)."""
_FACTOR_STEPS = 30


def _log_factors(terms_KT: _Array, measured_s_K: _Array) -> _Array:
    """Logs of factors of the terms that bring their sums near the measured times, in log space; outliers pull less.

    Gauss-Newton steps on Cauchy-weighted residuals, with a prior for what the kernels do not tell apart.
    """
    prior_T, width_T = _FACTOR_PRIOR.T
    prior_T = prior_T + np.array([0.0, 0.0, 0.0, log(float(np.median(measured_s_K)))])
    at_T: _Array = prior_T
    for _ in range(_FACTOR_STEPS):
        parts_KT = terms_KT * np.exp(at_T)
        sum_K = parts_KT.sum(1)
        residual_K = np.log(sum_K / measured_s_K)
        slope_KT = parts_KT / sum_K[:, None]
        scale = max(1.5 * float(np.median(np.abs(residual_K))), 0.02)
        weight_K = 1.0 / (scale**2 * (1.0 + (residual_K / (2.0 * scale)) ** 2))
        curvature_TT = (slope_KT * weight_K[:, None]).T @ slope_KT + np.diag(1.0 / width_T**2)
        downhill_T = -(slope_KT.T @ (weight_K * residual_K)) - (at_T - prior_T) / width_T**2
        at_T = at_T + np.clip(np.linalg.solve(curvature_TT, downhill_T), -1.0, 1.0)
    return at_T


def _fit_members(
    shape_KF: _Array,
    work_KF: _Array,
    terms_KT: _Array,
    roofline_K: _Array,
    measured: _Measured,
    chosen_L: NDArray[np.int64],
    max_tuning: int,
) -> _Members:
    measured_log_L = np.log(measured.measured_s_K[chosen_L])
    spread_L = measured.spread_K[chosen_L]
    log_factors_T = _log_factors(terms_KT[chosen_L], measured.measured_s_K[chosen_L])
    expected_L = np.log(terms_KT[chosen_L] @ np.exp(log_factors_T))
    return _Members(
        log_factors_T=log_factors_T,
        by_shape=fit(shape_KF[chosen_L], expected_L - measured_log_L, spread_L, max_tuning),
        by_work=fit(work_KF[chosen_L], roofline_K[chosen_L] - measured_log_L, spread_L, max_tuning),
    )


def _at_members(
    members: _Members, shape_KF: _Array, work_KF: _Array, terms_KT: _Array, roofline_K: _Array
) -> tuple[_Array, _Array]:
    """Means and deviations of ln(efficiency) by shape and by work, (2, kernels) each."""
    by_shape_K, shape_std_K = members.by_shape.at(shape_KF)
    by_work_K, work_std_K = members.by_work.at(work_KF)
    by_shape_K = by_shape_K + roofline_K - np.log(terms_KT @ np.exp(members.log_factors_T))
    return np.stack([by_shape_K, by_work_K]), np.stack([shape_std_K, work_std_K])


def _fit_class(measured: _Measured, device: Device) -> _Model:
    kernels, costs = measured.kernels, measured.costs
    shape_KF, work_KF = _views(kernels, costs, device)
    terms_KT, roofline_K = _terms_s(kernels, costs, device), _roofline_log(kernels, costs, device)
    target_K = roofline_K - np.log(measured.measured_s_K)
    count = len(kernels)
    tuning = _TUNING if count <= _MAX_FOLDED else _LARGE_TUNING
    members = _fit_members(shape_KF, work_KF, terms_KT, roofline_K, measured, np.arange(count), tuning)

    spread_K = measured.spread_K
    left_out = [process.left_out() for process in (members.by_shape, members.by_work)]
    error_MK = np.stack([error_K for error_K, _ in left_out])
    std_MK = np.stack([np.sqrt(np.maximum(std_K**2 - spread_K**2, 1e-8)) for _, std_K in left_out])
    apart_MK, apart_std_MK = error_MK, std_MK
    if count <= _MAX_FOLDED:
        apart_MK, apart_std_MK = np.empty_like(error_MK), np.empty_like(std_MK)
        for fold in np.array_split(np.random.default_rng(0).permutation(count), min(_FOLDS, count)):
            others = np.setdiff1d(np.arange(count), fold)
            fitted = _fit_members(shape_KF, work_KF, terms_KT, roofline_K, measured, others, _FOLD_TUNING)
            means_MK, stds_MK = _at_members(fitted, shape_KF[fold], work_KF[fold], terms_KT[fold], roofline_K[fold])
            apart_MK[:, fold], apart_std_MK[:, fold] = target_K[fold] - means_MK, stds_MK
    weight = _shape_weight(apart_MK)
    mix_M = np.array([weight, 1.0 - weight])
    scale = _std_scale(np.abs(mix_M @ apart_MK), mix_M @ apart_std_MK, spread_K)
    estimates = zip(kernels, target_K - mix_M @ error_MK, scale * (mix_M @ std_MK))
    return _Model(
        device=device,
        members=members,
        shape_weight=weight,
        std_scale=scale,
        measured_range=MeasuredRange.of(work_KF),
        left_out={kernel: LogEstimate(float(mean), float(std)) for kernel, mean, std in estimates},
        dtypes=frozenset(kernel.dtype for kernel in kernels),
    )


def _shape_weight(error_MK: _Array) -> float:
    """Weight of the first of two predictions that least squares gives, drawn to one half as by some more kernels."""
    apart_K = error_MK[1] - error_MK[0]
    prior = _WEIGHT_PRIOR * float(np.mean(apart_K**2)) + 1e-12
    return float(np.clip((error_MK[1] @ apart_K + 0.5 * prior) / (apart_K @ apart_K + prior), 0.0, 1.0))


_SCALES = np.exp(np.linspace(log(0.3), log(5.0), 60))


def _std_scale(error_K: _Array, std_K: _Array, spread_K: _Array) -> float:
    """Factor on the processes' deviations after which 68 % of the kernels lie within one deviation and 95 % within two.

    Errors have heavier tails than a normal distribution, so no factor gives both: the geometric mean of those that give
    each. The spread of the left-out measurement itself is not scaled; a kernel whose spread hides the process' error
    tells nothing of it. What few kernels tell is drawn to 1.
    """
    distance_SK = error_K / np.hypot(_SCALES[:, None] * std_K, spread_K)
    within_one_S, within_two_S = np.quantile(distance_SK, (0.68, 0.95), axis=1)
    best = int(np.argmin(np.abs(np.log(within_one_S * within_two_S / 2.0))))
    telling = float(((std_K**2 / (std_K**2 + spread_K**2)) ** 2).sum())
    return float(_SCALES[best] ** (telling / (telling + _SCALE_PRIOR)))
