"""How much of the roofline a kernel reaches, learned from measured kernels and interpolated in log space.

efficiency = roofline time / measured time. A Gaussian process per kernel class interpolates ln(efficiency) over
log features; it denoises the entries by their own spread and says how sure it is where nothing was measured.
Source: Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.cost import Cost, kernel_cost
from predictors.device import Device
from predictors.fusion import Kernel
from predictors.lookup_table import LookupTable
from predictors.operators import Conv2d
from predictors.roofline import roofline

MIN_KERNELS = 8
"""A class with fewer measured kernels than this is not interpolated."""

_LENGTH_SCALES = (1.0, 2.0, 4.0, 8.0)
_NOISES = (0.02, 0.05, 0.1, 0.2, 0.4)
_MAX_KERNELS = 1500


@dataclass(frozen=True, slots=True)
class LogEstimate:
    """ln(efficiency) and its standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Process:
    """A fitted Gaussian process over the measured kernels of one class; k kernels, f features."""

    features_KF: NDArray[np.float64]
    shift_F: NDArray[np.float64]
    scale_F: NDArray[np.float64]
    weights_K: NDArray[np.float64]
    inverse_factor_KK: NDArray[np.float64]
    mean: float
    variance: float
    noise: float
    length_scale: float

    def at(self, features_F: NDArray[np.float64]) -> LogEstimate:
        """Posterior of ln(efficiency) of an unseen kernel, the scatter between kernels of one class included."""
        point = (features_F - self.shift_F) / self.scale_F
        covariance_K = self.variance * _matern(_distances(self.features_KF, point[None]), self.length_scale)[:, 0]
        explained_K = self.inverse_factor_KK @ covariance_K
        variance = max(self.variance - float(explained_K @ explained_K), 0.0) + self.noise**2
        return LogEstimate(self.mean + float(covariance_K @ self.weights_K), sqrt(variance))


@dataclass(frozen=True, slots=True)
class LearnedEfficiency:
    """Interpolators by kernel class. `learn_efficiency` makes it; `at` answers None for a class it has not seen."""

    processes: Mapping[str, _Process]

    def at(self, kernel: Kernel, cost: Cost) -> LogEstimate | None:
        """ln(efficiency) of a kernel with that cost on the device that was learned from."""
        process = self.processes.get(kernel.kind)
        return process.at(kernel_features(kernel, cost)) if process else None


def learn_efficiency(tables: Sequence[LookupTable], device: Device) -> LearnedEfficiency:
    """Fit one interpolator for each kernel kind with at least `MIN_KERNELS` measured kernels."""
    rows: dict[str, list[tuple[NDArray[np.float64], float, float]]] = {}
    for table in tables:
        for kernel, measured in table.entries.items():
            cost = kernel_cost(kernel, device.channel_alignment)
            target = log(roofline(cost, device, kernel.dtype).latency_s / measured.latency_p50_s)
            rows.setdefault(kernel.kind, []).append((kernel_features(kernel, cost), target, measured.spread))
    return LearnedEfficiency(
        {
            kind: _fit(
                np.stack([features for features, _, _ in found]),
                np.array([target for _, target, _ in found]),
                np.array([spread for _, _, spread in found]),
            )
            for kind, found in rows.items()
            if len(found) >= MIN_KERNELS
        }
    )


def kernel_features(kernel: Kernel, cost: Cost) -> NDArray[np.float64]:
    """Log features that decide how much of a peak a kernel reaches: work, traffic, sizes, window and stride."""
    anchor = kernel.anchor
    output = anchor.output_shape
    channels = output[1] if len(output) >= 4 else output[-1]
    inputs = anchor.input_shapes[0] if anchor.input_shapes else (1,)
    channels_in = inputs[1] if len(inputs) >= 4 else inputs[-1]
    window, stride = (anchor.kernel[0], anchor.stride[0]) if isinstance(anchor, Conv2d) else (1, 1)
    return np.log(
        [
            1.0 + cost.macs,
            1.0 + cost.traffic_bytes,
            1.0 + cost.weight_bytes,
            channels,
            channels_in,
            anchor.write_elements / channels,
            window,
            stride,
            1.0 + len(kernel.fused),
        ]
    )


def combine(measured_log: float, spread: float, interpolated: LogEstimate | None) -> LogEstimate:
    """A measurement smoothed by its neighbours: both weighted by the inverse of their variance, in log space.

    A clean measurement (spread 0) is kept as it is.
    """
    if interpolated is None or spread == 0.0:
        return LogEstimate(measured_log, spread)
    trust = interpolated.std**2 / (interpolated.std**2 + spread**2)
    mean = trust * measured_log + (1.0 - trust) * interpolated.mean
    return LogEstimate(mean, sqrt(trust) * spread)


# ------------------------------------------------------------------------------------------------------------ private


def _distances(a_KF: NDArray[np.float64], b_LF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances, (k, l)."""
    squared_KL = (a_KF**2).sum(1)[:, None] + (b_LF**2).sum(1) - 2.0 * a_KF @ b_LF.T
    distance_KL: NDArray[np.float64] = np.sqrt(np.maximum(squared_KL, 0.0))
    return distance_KL


def _matern(distance_KL: NDArray[np.float64], length_scale: float) -> NDArray[np.float64]:
    """Matern 5/2 covariance of unit variance: smooth, yet not so smooth that cliffs ring."""
    scaled_KL = sqrt(5.0) * distance_KL / length_scale
    covariance_KL: NDArray[np.float64] = (1.0 + scaled_KL + scaled_KL**2 / 3.0) * np.exp(-scaled_KL)
    return covariance_KL


def _fit(features_KF: NDArray[np.float64], target_K: NDArray[np.float64], spread_K: NDArray[np.float64]) -> _Process:
    """Length scale and scatter by the greatest marginal likelihood on a small grid."""
    if len(target_K) > _MAX_KERNELS:
        keep = np.random.default_rng(0).choice(len(target_K), _MAX_KERNELS, replace=False)
        features_KF, target_K, spread_K = features_KF[keep], target_K[keep], spread_K[keep]
    shift_F = features_KF.mean(0)
    scale_F = np.where(features_KF.std(0) > 1e-9, features_KF.std(0), 1.0)
    points_KF = (features_KF - shift_F) / scale_F
    mean = float(np.median(target_K))
    residual_K = target_K - mean
    variance = max(float(residual_K.var()), 1e-4)

    distance_KK = _distances(points_KF, points_KF)

    def factor(length_scale: float, noise: float) -> tuple[float, Any, Any]:
        covariance_KK = variance * _matern(distance_KK, length_scale)
        factor_KK = np.linalg.cholesky(covariance_KK + np.diag(noise**2 + spread_K**2))
        weights_K = np.linalg.solve(factor_KK.T, np.linalg.solve(factor_KK, residual_K))
        evidence = -0.5 * float(residual_K @ weights_K) - float(np.log(np.diag(factor_KK)).sum())
        return evidence, factor_KK, weights_K

    grid = [(length_scale, noise) for length_scale in _LENGTH_SCALES for noise in _NOISES]
    length_scale, noise = max(grid, key=lambda point: factor(*point)[0])
    _, factor_KK, weights_K = factor(length_scale, noise)
    return _Process(
        features_KF=points_KF,
        shift_F=shift_F,
        scale_F=scale_F,
        weights_K=weights_K,
        inverse_factor_KK=np.linalg.inv(factor_KK),
        mean=mean,
        variance=variance,
        noise=noise,
        length_scale=length_scale,
    )


def latency_of(roofline_s: float, log_efficiency: LogEstimate) -> tuple[float, float]:
    """Seconds and their standard deviation from a roofline time and ln(efficiency)."""
    latency_s = roofline_s * exp(-log_efficiency.mean)
    return latency_s, latency_s * log_efficiency.std
