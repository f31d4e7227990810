"""The error of archs from those that were evaluated: a Gaussian process over their knobs and what they cost.

ln(error) is a sum of independent parts, each with a variance that the data choose: a term for each knob's value, a term
for each cost's logarithm, a smooth function of the costs, a function of knobs and costs that is alike for archs that
differ in few knobs, a multiple of what each earlier study predicts, and noise. Costs are exact and known of every arch,
and rank errors long before the knobs do; the knobs tell archs of equal cost apart.

Source: Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006: algorithm 2.1 and equation 5.9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_ERROR = 1e-5
"""Errors below are taken for it, since their logarithm is modelled."""

_TAIL = 1.0
"""Logs of errors are cut off at so many times the distance from the best tenth to the worst tenth beyond the latter:
networks that do not work at all say nothing of those that do, beyond that they are bad."""

_NUM_STEPS = 30
_JITTER = 1e-6
_BLOCK = 2048
"""Archs that are predicted at once: their covariances stay in the cache."""

_AMPLITUDE = (-0.5, 1.0)
"""Mean and deviation of the prior of ln(deviation of a part), in deviations of ln(error)."""
_NOISE = (-2.5, 1.0)
_LENGTH = (1.0, 1.0)
"""Of ln(length scale) of a cost, in deviations of its logarithm."""
_REACH = 1.5
"""Expected distance, in the exponent, of two archs that differ in all knobs; `_RATE`: deviation of its logarithm."""
_RATE = 0.7
_BOUND = 5.0


class Features(NamedTuple):
    """N archs as the model sees them: indices of K knobs, logs of C costs, what S earlier studies predict."""

    indices_NK: NDArray[np.int64]
    costs_NC: Array
    earlier_NS: Array

    def rows(self, which: NDArray[np.intp] | slice) -> "Features":
        return Features(self.indices_NK[which], self.costs_NC[which], self.earlier_NS[which])

    def joined(self, other: "Features") -> "Features":
        return Features(
            np.concatenate([self.indices_NK, other.indices_NK]),
            np.concatenate([self.costs_NC, other.costs_NC]),
            np.concatenate([self.earlier_NS, other.earlier_NS]),
        )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Hyperparameters:
    """Logs of deviations (`*_dev`), of lengths of C costs, and of the rates at which K knobs make archs unlike."""

    knobs_dev: float
    costs_dev: float
    smooth_dev: float
    smooth_lengths_C: Array
    joint_dev: float
    joint_lengths_C: Array
    joint_rates_K: Array
    earlier_devs_S: Array
    noise_dev: float


class ErrorModel(NamedTuple):
    """A process over M evaluated archs; `fit_errors` makes it."""

    scale: "_Scale"
    at: Hyperparameters
    known: "_Inputs"
    precision_MM: Array
    weights_M: Array
    mean: float
    deviation: float

    def predict(self, features: Features) -> tuple[Array, Array]:
        """Mean and standard deviation of ln(error) of N archs, (N,) each, without the noise between like archs."""
        num_archs = len(features.indices_NK)
        mean_N, variance_N = np.empty(num_archs), np.empty(num_archs)
        known = self.known.astype(np.float32)
        precision_MM, weights_M = self.precision_MM.astype(np.float32), self.weights_M.astype(np.float32)
        for start in range(0, num_archs, _BLOCK):
            block = slice(start, start + _BLOCK)
            inputs = self.scale.of(features.rows(block), np.float32)
            covariance_BM = _covariance(self.at, self.scale, inputs, known)
            mean_N[block] = covariance_BM @ weights_M
            explained_B = np.einsum("bm,bm->b", covariance_BM @ precision_MM, covariance_BM)
            variance_N[block] = _variance(self.at, inputs) - explained_B
        least = 1e-4 * np.exp(2.0 * self.at.noise_dev)
        return self.mean + self.deviation * mean_N, self.deviation * np.sqrt(np.maximum(variance_N, least))

    def covariance(self, features: Features, others: Features) -> Array:
        """Posterior covariance of ln(error) of N archs with L others, (N, L)."""
        inputs, theirs = self.scale.of(features), self.scale.of(others)
        ours_NM = _covariance(self.at, self.scale, inputs, self.known)
        theirs_ML = _covariance(self.at, self.scale, self.known, theirs)
        prior_NL = _covariance(self.at, self.scale, inputs, theirs)
        found: Array = self.deviation**2 * (prior_NL - ours_NM @ self.precision_MM @ theirs_ML)
        return found

    @property
    def noise(self) -> float:
        """Standard deviation of ln(error) between archs that the model cannot tell apart."""
        return self.deviation * float(np.exp(self.at.noise_dev))


def log_errors(errors_N: Array) -> Array:
    """ln(error), cut off where a few are far worse than the others; see `_TAIL`."""
    logs_N = np.log(np.maximum(errors_N, LEAST_ERROR))
    best, worst = np.quantile(logs_N, [0.1, 0.9])
    return np.minimum(logs_N, worst + _TAIL * (worst - best)) if worst > best else logs_N


def tune(features: Features, logs_M: Array, sizes_K: Sequence[int]) -> Hyperparameters:
    """Hyperparameters near the greatest posterior density given M archs and their ln(error)."""
    from scipy.optimize import minimize

    scale = _scale_of(features, sizes_K)
    known = scale.of(features)
    target_M, *_ = _standardised(logs_M)
    means_P, deviations_P = _priors(scale)

    def loss(at_P: Array) -> tuple[float, Array]:
        found, gradient_P = _loss(_unpacked(at_P, scale), scale, known, target_M)
        away_P = (at_P - means_P) / deviations_P
        return found + 0.5 * float(away_P @ away_P), gradient_P + away_P / deviations_P

    found = minimize(
        loss, means_P, jac=True, method="L-BFGS-B", options={"maxiter": _NUM_STEPS},
        bounds=[(-_BOUND, _BOUND)] * len(means_P),
    )  # fmt: skip
    return _unpacked(found.x, scale)


def fit_errors(features: Features, logs_M: Array, sizes_K: Sequence[int], at: Hyperparameters) -> ErrorModel:
    """Fit a process to M archs and their ln(error).

    Args:
        sizes_K: number of values of each knob.
    """
    scale = _scale_of(features, sizes_K)
    known = scale.of(features)
    target_M, mean, deviation = _standardised(logs_M)
    precision_MM, _ = _inverse(_covariance(at, scale, known, known), at)
    return ErrorModel(scale, at, known, precision_MM, precision_MM @ target_M, mean, deviation)


# ------------------------------------------------------------------------------------------------------------ private


class _Inputs(NamedTuple):
    """Features scaled: D values that knobs have or have not, as they are and centred."""

    has_ND: NDArray[Any]
    centred_ND: NDArray[Any]
    costs_NC: NDArray[Any]
    earlier_NS: NDArray[Any]

    def astype(self, dtype: type[np.floating[Any]]) -> "_Inputs":
        return _Inputs(*(each.astype(dtype) for each in self))


class _Scale(NamedTuple):
    first_K: NDArray[np.intp]
    """Column of each knob's first value."""
    knob_D: NDArray[np.intp]
    has_mean_D: Array
    cost_mean_C: Array
    cost_deviation_C: Array
    earlier_mean_S: Array
    earlier_deviation_S: Array

    @property
    def num_knobs(self) -> int:
        return len(self.first_K)

    def of(self, features: Features, dtype: type[np.floating[Any]] = np.float64) -> _Inputs:
        has_ND = _has(features.indices_NK, self.first_K, len(self.knob_D)).astype(dtype)
        return _Inputs(
            has_ND,
            (has_ND - self.has_mean_D.astype(dtype)) / dtype(np.sqrt(max(self.num_knobs, 1) / 2.0)),
            ((features.costs_NC - self.cost_mean_C) / self.cost_deviation_C).astype(dtype),
            ((features.earlier_NS - self.earlier_mean_S) / self.earlier_deviation_S).astype(dtype),
        )


def _scale_of(features: Features, sizes_K: Sequence[int]) -> _Scale:
    sizes = np.array(sizes_K, dtype=np.intp)
    first_K = np.cumsum(sizes) - sizes
    return _Scale(
        first_K,
        np.repeat(np.arange(len(sizes)), sizes),
        _has(features.indices_NK, first_K, int(sizes.sum())).mean(axis=0),
        features.costs_NC.mean(axis=0),
        _spread(features.costs_NC),
        features.earlier_NS.mean(axis=0),
        _spread(features.earlier_NS),
    )


def _has(indices_NK: NDArray[np.int64], first_K: NDArray[np.intp], num_values: int) -> NDArray[np.bool_]:
    has_ND = np.zeros((len(indices_NK), num_values), dtype=bool)
    np.put_along_axis(has_ND, indices_NK + first_K, True, axis=1)
    return has_ND


def _spread(columns_NC: Array) -> Array:
    found_C = columns_NC.std(axis=0)
    return np.where(found_C > 1e-9, found_C, 1.0)


def _standardised(logs_M: Array) -> tuple[Array, float, float]:
    mean, deviation = float(logs_M.mean()), float(logs_M.std())
    deviation = deviation if deviation > 1e-9 else 1.0
    return (logs_M - mean) / deviation, mean, deviation


def _distances(a_NC: NDArray[Any], b_LC: NDArray[Any], logs_C: Array) -> NDArray[Any]:
    """Squared distances in length scales, whose logarithms are given."""
    lengths_C = np.exp(logs_C).astype(a_NC.dtype)
    a_NC, b_LC = a_NC / lengths_C, b_LC / lengths_C
    found_NL: NDArray[Any] = a_NC @ b_LC.T
    found_NL *= -2.0
    found_NL += (a_NC**2).sum(axis=1)[:, None]
    found_NL += (b_LC**2).sum(axis=1)
    np.maximum(found_NL, 0.0, out=found_NL)
    return found_NL


class _Parts(NamedTuple):
    """Covariances of N archs with L others by the part of the model."""

    knobs_NL: NDArray[Any]
    costs_NL: NDArray[Any]
    smooth_NL: NDArray[Any]
    slope_NL: NDArray[Any] | None
    """Minus twice the derivative of `smooth_NL` by the squared distance."""
    joint_NL: NDArray[Any]


def _parts(at: Hyperparameters, scale: _Scale, a: _Inputs, b: _Inputs, with_slope: bool = False) -> _Parts:
    dtype = a.has_ND.dtype.type
    rates_K = np.exp(at.joint_rates_K)
    scaled_NL = np.sqrt(dtype(5.0) * _distances(a.costs_NC, b.costs_NC, at.smooth_lengths_C))
    decay_NL = np.exp(-scaled_NL)
    decay_NL *= dtype(np.exp(2.0 * at.smooth_dev))
    joint_NL = (a.has_ND * rates_K[scale.knob_D].astype(dtype)) @ b.has_ND.T
    joint_NL -= dtype(rates_K.sum())
    joint_NL -= dtype(0.5) * _distances(a.costs_NC, b.costs_NC, at.joint_lengths_C)
    np.exp(joint_NL, out=joint_NL)
    joint_NL *= dtype(np.exp(2.0 * at.joint_dev))
    slope_NL = dtype(5.0 / 3.0) * (1.0 + scaled_NL) * decay_NL if with_slope else None
    smooth_NL = scaled_NL / dtype(3.0)
    smooth_NL += dtype(1.0)
    smooth_NL *= scaled_NL
    smooth_NL += dtype(1.0)
    smooth_NL *= decay_NL
    return _Parts(
        knobs_NL=dtype(np.exp(2.0 * at.knobs_dev)) * (a.centred_ND @ b.centred_ND.T),
        costs_NL=dtype(np.exp(2.0 * at.costs_dev) / max(a.costs_NC.shape[1], 1)) * (a.costs_NC @ b.costs_NC.T),
        smooth_NL=smooth_NL,
        slope_NL=slope_NL,
        joint_NL=joint_NL,
    )


def _covariance(at: Hyperparameters, scale: _Scale, a: _Inputs, b: _Inputs) -> Array:
    """Of N archs with L others, (N, L), in the type of the inputs."""
    parts = _parts(at, scale, a, b)
    found_NL: Array = parts.knobs_NL
    found_NL += parts.costs_NL
    found_NL += parts.smooth_NL
    found_NL += parts.joint_NL
    found_NL += _earlier(at, a, b).sum(axis=0) if len(at.earlier_devs_S) else 0.0
    return found_NL


def _earlier(at: Hyperparameters, a: _Inputs, b: _Inputs) -> NDArray[Any]:
    """Covariances by earlier study, (S, N, L)."""
    devs_S = np.exp(2.0 * at.earlier_devs_S).astype(a.has_ND.dtype)
    found_SNL: NDArray[Any] = devs_S[:, None, None] * a.earlier_NS.T[:, :, None] * b.earlier_NS.T[:, None, :]
    return found_SNL


def _variance(at: Hyperparameters, a: _Inputs) -> Array:
    """The diagonal of the covariance of N archs with themselves, (N,)."""
    num_costs = max(a.costs_NC.shape[1], 1)
    found_N: Array = np.exp(2.0 * at.knobs_dev) * (a.centred_ND**2).sum(axis=1)
    found_N = found_N + np.exp(2.0 * at.costs_dev) / num_costs * (a.costs_NC**2).sum(axis=1)
    found_N = found_N + a.earlier_NS**2 @ np.exp(2.0 * at.earlier_devs_S)
    found_N += np.exp(2.0 * at.smooth_dev) + np.exp(2.0 * at.joint_dev)
    return found_N


def _inverse(covariance_MM: Array, at: Hyperparameters) -> tuple[Array, float]:
    """Inverse of the covariance with noise, and half of the logarithm of its determinant."""
    noisy_MM = covariance_MM.copy()
    noisy_MM[np.diag_indices_from(noisy_MM)] += np.exp(2.0 * at.noise_dev) + _JITTER * np.trace(noisy_MM) / len(
        noisy_MM
    )
    factor_MM = np.linalg.cholesky(noisy_MM)
    inverse_factor_MM = np.linalg.inv(factor_MM)
    return inverse_factor_MM.T @ inverse_factor_MM, float(np.log(np.diag(factor_MM)).sum())


def _loss(at: Hyperparameters, scale: _Scale, known: _Inputs, target_M: Array) -> tuple[float, Array]:
    """Minus the log likelihood, and its gradient by the hyperparameters in their order.

    Gradients by length scales and rates are sums over pairs of archs of a weight times what the pair differs in, which
    needs no matrix for each cost or knob.
    """
    parts, earlier_SMM = _parts(at, scale, known, known, with_slope=True), _earlier(at, known, known)
    assert parts.slope_NL is not None
    covariance_MM = parts.knobs_NL + parts.costs_NL + parts.smooth_NL + parts.joint_NL + earlier_SMM.sum(axis=0)
    precision_MM, half_log_determinant = _inverse(covariance_MM, at)
    weights_M = precision_MM @ target_M
    loss = 0.5 * float(target_M @ weights_M) + half_log_determinant
    change_MM = precision_MM - np.outer(weights_M, weights_M)

    joint_MM = change_MM * parts.joint_NL
    alike_D = (known.has_ND * (joint_MM @ known.has_ND)).sum(axis=0)
    unlike_K = joint_MM.sum() - np.bincount(scale.knob_D, alike_D, minlength=scale.num_knobs)
    gradient_P = np.concatenate(
        [
            [(change_MM * parts.knobs_NL).sum(), (change_MM * parts.costs_NL).sum()],
            [(change_MM * parts.smooth_NL).sum()],
            _by_lengths(change_MM * parts.slope_NL, known.costs_NC, at.smooth_lengths_C),
            [joint_MM.sum()],
            _by_lengths(joint_MM, known.costs_NC, at.joint_lengths_C),
            -0.5 * np.exp(at.joint_rates_K) * unlike_K,
            (change_MM * earlier_SMM).sum(axis=(1, 2)),
            [np.exp(2.0 * at.noise_dev) * np.trace(change_MM)],
        ]
    )
    return loss, gradient_P


def _by_lengths(pair_MM: Array, costs_MC: Array, logs_C: Array) -> Array:
    """Half the sum over pairs of a weight times the squared difference of each cost in length scales, (C,)."""
    scaled_MC = costs_MC / np.exp(logs_C)
    found_C: Array = pair_MM.sum(axis=1) @ scaled_MC**2 - (scaled_MC * (pair_MM @ scaled_MC)).sum(axis=0)
    return found_C


def _priors(scale: _Scale) -> tuple[Array, Array]:
    """Means and deviations of the hyperparameters, in their order."""
    num_costs, num_earlier = len(scale.cost_mean_C), len(scale.earlier_mean_S)
    rate = (np.log(_REACH / max(scale.num_knobs, 1)), _RATE)
    pairs = [
        _AMPLITUDE, _AMPLITUDE, _AMPLITUDE, *[_LENGTH] * num_costs, _AMPLITUDE, *[_LENGTH] * num_costs,
        *[rate] * scale.num_knobs, *[_AMPLITUDE] * num_earlier, _NOISE,
    ]  # fmt: skip
    means_P, deviations_P = np.array(pairs).T
    return means_P, deviations_P


def _unpacked(at_P: Array, scale: _Scale) -> Hyperparameters:
    num_costs, num_knobs = len(scale.cost_mean_C), scale.num_knobs
    ends = np.cumsum([1, 1, 1, num_costs, 1, num_costs, num_knobs, len(scale.earlier_mean_S)])
    knobs, costs, smooth, smooth_C, joint, joint_C, rates_K, earlier_S, noise = np.split(at_P, ends)
    return Hyperparameters(
        knobs_dev=float(knobs[0]),
        costs_dev=float(costs[0]),
        smooth_dev=float(smooth[0]),
        smooth_lengths_C=smooth_C,
        joint_dev=float(joint[0]),
        joint_lengths_C=joint_C,
        joint_rates_K=rates_K,
        earlier_devs_S=earlier_S,
        noise_dev=float(noise[0]),
    )
