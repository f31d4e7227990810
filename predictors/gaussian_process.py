"""Gaussian process regression in plain NumPy: a length scale for each feature, left-out predictions in closed form.

Source: Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006: algorithm 2.1, equations 5.9 to 5.13; the
step rule is iRprop-, Igel, Hüsken, "Improving the Rprop learning algorithm", 2000.
"""

from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

_LENGTH_PRIOR = (1.5, 1.0)
"""Mean and deviation of ln(length scale) in deviations of a feature: most features hardly matter."""
_SIGNAL_PRIOR = (-1.0, 1.0)
_NOISE_PRIOR = (-3.0, 1.0)
"""Of ln(deviation): what the features explain is e^-1 about, what they do not 5 %."""

_NUM_STEPS = 20
_FIRST_STEP, _LEAST_STEP, _LARGEST_STEP = 0.3, 1e-3, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Logs of the F length scales, and of the deviations of what the features explain and of what they do not.

    Attributes:
        log_lengths_F: of the standardised features.
        log_signal, log_noise: of the target's own unit.
    """

    log_lengths_F: _Array
    log_signal: float
    log_noise: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Process:
    """A fitted process over K observations of F features; `fit` makes it. Points are in length scales."""

    shift_F: _Array
    scale_F: _Array
    points_KF: _Array
    weights_K: _Array
    precision_KK: _Array
    mean: float
    hyperparameters: Hyperparameters

    def at(self, features_LF: _Array) -> tuple[_Array, _Array]:
        """Mean and standard deviation at L points, the noise between alike things included, (L,) each."""
        points_LF = (features_LF - self.shift_F) / self.scale_F
        signal = exp(2.0 * self.hyperparameters.log_signal)
        covariance_LK = signal * _matern(_squared_distances(points_LF, self.points_KF))[0]
        explained_L = (covariance_LK @ self.precision_KK * covariance_LK).sum(1)
        noise = exp(2.0 * self.hyperparameters.log_noise)
        return self.mean + covariance_LK @ self.weights_K, np.sqrt(np.maximum(signal - explained_L, 0.0) + noise)

    def untold(self, std_K: _Array) -> _Array:
        """Share of the variance of what the features explain that is left open where the deviation is such, (K,)."""
        noise, signal = exp(2.0 * self.hyperparameters.log_noise), exp(2.0 * self.hyperparameters.log_signal)
        return np.clip((std_K**2 - noise) / signal, 0.0, 1.0)

    def left_out(self) -> tuple[_Array, _Array]:
        """Errors (observed less predicted) of predicting each observation from all others, and their deviations, (K,).

        The observation's own noise is part of the deviation.
        """
        precision_K = np.diag(self.precision_KK)
        return self.weights_K / precision_K, 1.0 / np.sqrt(precision_K)


def fit(
    features_KF: _Array,
    target_K: _Array,
    spread_K: _Array,
    max_tuning: int = 150,
    mean: float | None = None,
    max_scale: float = inf,
) -> Process:
    """Fit a process to observations, each with a noise of its own beside that which all share.

    Args:
        features_KF: K observations of F features, in any unit.
        target_K: what was observed.
        spread_K: standard deviation of each observation.
        max_tuning: the hyperparameters are tuned on at most that many observations, drawn with a fixed seed.
        mean: what is expected far from all observations; None takes the observations' median.
        max_scale: features are taken in their deviations, but in no larger unit than this: a handful of observations
            far from each other does not make what lies between them alike.
    """
    shift_F = features_KF.mean(0)
    deviation_F = features_KF.std(0)
    scale_F = np.minimum(np.where(deviation_F > 1e-9, deviation_F, 1.0), max_scale)
    points_KF = (features_KF - shift_F) / scale_F
    mean = float(np.median(target_K)) if mean is None else mean
    residual_K, variance_K = target_K - mean, spread_K**2

    chosen = np.arange(len(target_K))
    if len(target_K) > max_tuning:
        chosen = np.random.default_rng(0).choice(len(target_K), max_tuning, replace=False)
    found = _tune(points_KF[chosen], residual_K[chosen], variance_K[chosen])

    lengths_F = np.exp(found.log_lengths_F)
    points_KF = points_KF / lengths_F
    precision_KK = _inverse(_covariance(points_KF, variance_K, found)[0])
    return Process(
        shift_F=shift_F, scale_F=scale_F * lengths_F, points_KF=points_KF, weights_K=precision_KK @ residual_K,
        precision_KK=precision_KK, mean=mean, hyperparameters=found,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ private


def _squared_distances(a_KF: _Array, b_LF: _Array) -> _Array:
    squared_KL: _Array = (a_KF**2).sum(1)[:, None] + (b_LF**2).sum(1) - 2.0 * a_KF @ b_LF.T
    return np.maximum(squared_KL, 0.0)


def _matern(squared_KL: _Array) -> tuple[_Array, _Array]:
    """Matern 3/2 covariance of unit variance, and minus twice its derivative by the squared distance.

    Rough enough for the cliffs of tiles and algorithms.
    """
    scaled_KL = np.sqrt(3.0 * squared_KL)
    decay_KL = np.exp(-scaled_KL)
    return (1.0 + scaled_KL) * decay_KL, 3.0 * decay_KL


def _covariance(points_KF: _Array, variance_K: _Array, at: Hyperparameters) -> tuple[_Array, _Array, _Array]:
    """Covariance of the observations, that of the signal alone, and the slope of the latter."""
    signal = exp(2.0 * at.log_signal)
    matern_KK, slope_KK = _matern(_squared_distances(points_KF, points_KF))
    signal_KK = signal * matern_KK
    noise_K = exp(2.0 * at.log_noise) + variance_K + 1e-8 * signal
    return signal_KK + np.diag(noise_K), signal_KK, signal * slope_KK


def _inverse(covariance_KK: _Array) -> _Array:
    inverse_factor_KK = np.linalg.inv(np.linalg.cholesky(covariance_KK))
    precision_KK: _Array = inverse_factor_KK.T @ inverse_factor_KK
    return precision_KK


def _tune(points_KF: _Array, residual_K: _Array, variance_K: _Array) -> Hyperparameters:
    """Hyperparameters near the greatest posterior density, by the signs of its gradient."""
    num_features = points_KF.shape[1]
    spread = max(float(residual_K.std()), 1e-2)
    at_P = np.concatenate([np.full(num_features, _LENGTH_PRIOR[0]), [log(spread), _NOISE_PRIOR[0]]])
    step_P, previous_P = np.full(len(at_P), _FIRST_STEP), np.zeros(len(at_P))
    best, best_P = np.inf, at_P
    for _ in range(_NUM_STEPS):
        loss, gradient_P = _loss(at_P, points_KF, residual_K, variance_K)
        if loss < best:
            best, best_P = loss, at_P
        turned_P = gradient_P * previous_P
        grown_P = np.where(turned_P > 0.0, 1.3 * step_P, np.where(turned_P < 0.0, 0.5 * step_P, step_P))
        step_P = np.clip(grown_P, _LEAST_STEP, _LARGEST_STEP)
        gradient_P = np.where(turned_P < 0.0, 0.0, gradient_P)
        at_P = at_P - np.sign(gradient_P) * step_P
        previous_P = gradient_P
    return _hyperparameters(best_P)


def _hyperparameters(at_P: _Array) -> Hyperparameters:
    return Hyperparameters(log_lengths_F=at_P[:-2], log_signal=float(at_P[-2]), log_noise=float(at_P[-1]))


def _loss(at_P: _Array, points_KF: _Array, residual_K: _Array, variance_K: _Array) -> tuple[float, _Array]:
    """Minus the log posterior density of hyperparameters, and its gradient.

    The gradient by a length scale is a sum over pairs of weight * (difference of the feature)^2, which needs no matrix
    for each feature.
    """
    at = _hyperparameters(at_P)
    scaled_KF = points_KF / np.exp(at.log_lengths_F)
    covariance_KK, signal_KK, slope_KK = _covariance(scaled_KF, variance_K, at)
    factor_KK = np.linalg.cholesky(covariance_KK)
    inverse_factor_KK = np.linalg.inv(factor_KK)
    precision_KK = inverse_factor_KK.T @ inverse_factor_KK
    weights_K = precision_KK @ residual_K
    loss = 0.5 * float(residual_K @ weights_K) + float(np.log(np.diag(factor_KK)).sum())

    change_KK = np.outer(weights_K, weights_K) - precision_KK
    pair_KK = change_KK * slope_KK
    by_length_F = pair_KK.sum(1) @ scaled_KF**2 - np.einsum("kf,kf->f", scaled_KF, pair_KK @ scaled_KF)
    by_signal = float((change_KK * signal_KK).sum())
    by_noise = exp(2.0 * at.log_noise) * float(np.trace(change_KK))
    gradient_P = -np.concatenate([by_length_F, [by_signal, by_noise]])

    num_features = points_KF.shape[1]
    center_P = np.concatenate([np.full(num_features, _LENGTH_PRIOR[0]), [_SIGNAL_PRIOR[0], _NOISE_PRIOR[0]]])
    width_P = np.concatenate([np.full(num_features, _LENGTH_PRIOR[1]), [_SIGNAL_PRIOR[1], _NOISE_PRIOR[1]]])
    away_P = (at_P - center_P) / width_P
    return loss + 0.5 * float(away_P @ away_P), gradient_P + away_P / width_P
