"""Seconds of whole networks as positive rates times known amounts of work, fitted on few networks.

seconds = sum over terms of rate * amount. A term is work of one sort (flops of 1x1 convolutions, bytes that pooling
moves, kernels launched); its rate is seconds per unit. Rates are fitted as logarithms: they stay positive, so that more
work never takes less time, and errors count as shares. What few networks cannot tell is decided by the prior.

The fit is the mode of the posterior under ln(measured) ~ N(ln(amounts @ rates), noise) and ln(rates) ~ N(mean,
covariance), found by Gauss-Newton steps with a line search; its covariance is Laplace's.
Source: Gelman et al., "Bayesian Data Analysis", 3rd ed., 2013, chapters 4.1 (normal approximation), 15 (hierarchies).
Shapes: N networks, T terms, D devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class RatePrior:
    """What is known of a device's rates before any network is measured.

    Attributes:
        mean_T: of ln(rate).
        covariance_TT: of ln(rate); a part that all terms share is the speed of the device as a whole.
        noise: standard deviation of ln(measured / predicted) of a network when all rates are known.
        centres_DT: ln(rate) of devices that a new one may be like; None where no devices were learned from.
    """

    mean_T: Array
    covariance_TT: Array
    noise: float
    centres_DT: Array | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Rates:
    """ln(rate) as fitted, how far it may be off, and what networks err beside it."""

    log_T: Array
    covariance_TT: Array
    noise: float

    def predict(self, terms_NT: Array) -> Array:
        """Seconds, (N,)."""
        latency_s_N: Array = terms_NT @ np.exp(self.log_T)
        return latency_s_N

    def log_std(self, terms_NT: Array) -> Array:
        """Standard deviation of ln(measured / predicted), (N,): the rates' own and the networks' noise."""
        share_NT = _shares(terms_NT, self.log_T)
        log_std_N: Array = np.sqrt(_variance(share_NT, self.covariance_TT) + self.noise**2)
        return log_std_N


def fit_rates(terms_NT: Array, measured_s_N: Array, prior: RatePrior) -> Rates:
    """The most probable rates, given measured seconds of networks and the prior.

    With centres the prior is a mixture: a device is like one of them, give or take `_LIKENESS` of what devices differ
    by and its own speed. The rates are the means of the fits about each, weighted by how likely that makes the times.

    All steps are taken in the space of the networks, ln(rates) = mean + covariance @ weights: T may be large.

    Args:
        terms_NT: amounts of work, not negative, each network with at least one that is positive.
        measured_s_N: seconds, positive.
        prior: of ln(rates) in seconds per the units of `terms_NT`.
    """
    if prior.centres_DT is not None:
        return _fit_mixture(terms_NT, measured_s_N, prior, prior.centres_DT)
    log_measured_N = np.log(measured_s_N)
    noise_NN = prior.noise**2 * np.eye(len(measured_s_N))

    def residuals(away_T: Array) -> Array:
        residual_N: Array = log_measured_N - np.log(terms_NT @ np.exp(prior.mean_T + away_T))
        return residual_N

    def loss(weight_T: Array, away_T: Array, residual_N: Array) -> float:
        return 0.5 * float(residual_N @ residual_N / prior.noise**2 + weight_T @ away_T)

    weight_T = np.zeros_like(prior.mean_T)
    away_T = np.zeros_like(prior.mean_T)
    residual_N = residuals(away_T)
    value = loss(weight_T, away_T, residual_N)
    for _ in range(_STEPS):
        share_NT = _shares(terms_NT, prior.mean_T + away_T)
        spread_TN = prior.covariance_TT @ share_NT.T
        wanted_N = residual_N + share_NT @ away_T
        goal_T = share_NT.T @ np.linalg.solve(share_NT @ spread_TN + noise_NN, wanted_N)
        step_T, length = goal_T - weight_T, 1.0
        moved_T = prior.covariance_TT @ step_T
        while length > 1e-6:
            new_N = residuals(away_T + length * moved_T)
            new = loss(weight_T + length * step_T, away_T + length * moved_T, new_N)
            if new <= value:
                break
            length *= 0.5
        else:
            break
        gain, value, residual_N = value - new, new, new_N
        weight_T, away_T = weight_T + length * step_T, away_T + length * moved_T
        if gain < _TOLERANCE:
            break
    log_T = prior.mean_T + away_T
    share_NT = _shares(terms_NT, log_T)
    spread_TN = prior.covariance_TT @ share_NT.T
    told_TT = spread_TN @ np.linalg.solve(share_NT @ spread_TN + noise_NN, spread_TN.T)
    return Rates(log_T=log_T, covariance_TT=prior.covariance_TT - told_TT, noise=prior.noise)


def leave_one_out(terms_NT: Array, measured_s_N: Array, prior: RatePrior) -> tuple[Array, Array]:
    """ln(measured / predicted) of each network by rates fitted on the others, and its expected deviation, (N,) each."""
    residuals, deviations = [], []
    for left_out in range(len(measured_s_N)):
        keep_N = np.arange(len(measured_s_N)) != left_out
        fit = fit_rates(terms_NT[keep_N], measured_s_N[keep_N], prior)
        row_1T = terms_NT[~keep_N]
        residuals.append(float(np.log(measured_s_N[left_out] / fit.predict(row_1T)[0])))
        deviations.append(float(fit.log_std(row_1T)[0]))
    return np.array(residuals), np.array(deviations)


def choose_rows(terms_NT: Array, prior: RatePrior, count: int) -> list[int]:
    """Networks whose measurement tells most about all of them: one after the other, that which leaves the least sum of
    expected deviations (a greedy design for prediction, linear about the prior's mean). It takes the noise for larger
    than it is, so as not to trust the model where it is extreme.

    Source: Chaloner, Verdinelli, "Bayesian experimental design: a review", Statistical Science 10(3), 1995.
    """
    share_NT = _shares(terms_NT, prior.mean_T)
    covariance_NN = share_NT @ prior.covariance_TT @ share_NT.T
    noise = _DESIGN_NOISE * prior.noise
    chosen: list[int] = []
    for _ in range(min(count, len(terms_NT))):
        variance_N = np.diag(covariance_NN)
        left_NN = variance_N[:, None] - covariance_NN**2 / (variance_N + noise**2)
        expected_N = np.sqrt(np.maximum(left_NN, 0.0) + noise**2).sum(axis=0)
        expected_N[chosen] = np.inf
        best = int(np.argmin(expected_N))
        chosen.append(best)
        gain_N = covariance_NN[:, best]
        covariance_NN = covariance_NN - np.outer(gain_N, gain_N) / (variance_N[best] + noise**2)
    return chosen


def learn_prior(
    terms_DNT: Sequence[Array],
    measured_s_DN: Sequence[Array],
    start: RatePrior,
    strength: float = 8.0,
    rounds: int = 20,
) -> RatePrior:
    """The rates of devices, their mean and covariance, and the noise of a typical one, by expectation maximisation.

    The covariance is shrunk to that of `start`, which counts as much as `strength` devices. Each device has its own
    noise, shrunk to the typical one: a device whose clock wanders tells less about rates.

    Args:
        terms_DNT, measured_s_DN: of each device its networks, whose number may differ, in the same terms.
        start: where to begin, and what the covariance is shrunk to.
    """
    prior = start
    noise_D = np.full(len(terms_DNT), start.noise)
    counts_D = np.array([len(measured_s_N) for measured_s_N in measured_s_DN])
    for _ in range(rounds):
        squares_D = np.zeros(len(terms_DNT))
        found_DT = np.zeros((len(terms_DNT), len(start.mean_T)))
        spread_TT = strength * start.covariance_TT
        for index, (terms_NT, measured_s_N) in enumerate(zip(terms_DNT, measured_s_DN)):
            own = RatePrior(mean_T=prior.mean_T, covariance_TT=prior.covariance_TT, noise=float(noise_D[index]))
            fit = fit_rates(terms_NT, measured_s_N, own)
            found_DT[index] = fit.log_T
            residual_N = np.log(measured_s_N / fit.predict(terms_NT))
            uncertain_N = _variance(_shares(terms_NT, fit.log_T), fit.covariance_TT)
            squares_D[index] = residual_N @ residual_N + uncertain_N.sum()
            spread_TT = spread_TT + fit.covariance_TT
        typical = float(np.exp(0.5 * np.mean(np.log(squares_D / counts_D))))
        noise_D = np.sqrt((_NOISE_STRENGTH * typical**2 + squares_D) / (_NOISE_STRENGTH + counts_D))
        mean_T = found_DT.mean(axis=0)
        away_DT = found_DT - mean_T
        prior = RatePrior(
            mean_T=mean_T,
            covariance_TT=(spread_TT + away_DT.T @ away_DT) / (len(found_DT) + strength),
            noise=typical,
        )
    return replace(prior, centres_DT=found_DT)


# ------------------------------------------------------------------------------------------------------------ private

_STEPS = 60
_TOLERANCE = 1e-9
_NOISE_STRENGTH = 6.0
_DESIGN_NOISE = 3.0
_LIKENESS = 0.5
_SPEED = 0.5
_LEAST_WEIGHT = 0.01


def _fit_mixture(terms_NT: Array, measured_s_N: Array, prior: RatePrior, centres_DT: Array) -> Rates:
    covariance_TT = _LIKENESS**2 * prior.covariance_TT + _SPEED**2
    evidence_D = np.array(
        [_evidence(terms_NT, measured_s_N, log_T, covariance_TT, prior.noise) for log_T in centres_DT]
    )
    weight_D = np.exp(evidence_D - evidence_D.max())
    weight_D[weight_D < _LEAST_WEIGHT * weight_D.sum()] = 0.0
    weight_D /= weight_D.sum()
    fits = [
        (
            weight,
            fit_rates(terms_NT, measured_s_N, RatePrior(mean_T=log_T, covariance_TT=covariance_TT, noise=prior.noise)),
        )
        for weight, log_T in zip(weight_D, centres_DT)
        if weight
    ]
    log_T = sum(weight * fit.log_T for weight, fit in fits)
    mixed_TT = sum(
        weight * (fit.covariance_TT + np.outer(fit.log_T - log_T, fit.log_T - log_T)) for weight, fit in fits
    )
    return Rates(log_T=np.asarray(log_T), covariance_TT=np.asarray(mixed_TT), noise=prior.noise)


def _evidence(terms_NT: Array, measured_s_N: Array, log_T: Array, covariance_TT: Array, noise: float) -> float:
    """ln(likelihood) of the times, linear about the centre."""
    share_NT = _shares(terms_NT, log_T)
    residual_N = np.log(measured_s_N / (terms_NT @ np.exp(log_T)))
    factor_NN = np.linalg.cholesky(share_NT @ covariance_TT @ share_NT.T + noise**2 * np.eye(len(residual_N)))
    white_N = np.linalg.solve(factor_NN, residual_N)
    return float(-0.5 * white_N @ white_N - np.log(np.diag(factor_NN)).sum())


def _shares(terms_NT: Array, log_T: Array) -> Array:
    """Of each network's predicted seconds the share of each term: the derivative of ln(seconds) by ln(rate)."""
    parts_NT = terms_NT * np.exp(log_T)
    share_NT: Array = parts_NT / parts_NT.sum(axis=1, keepdims=True)
    return share_NT


def _variance(share_NT: Array, covariance_TT: Array) -> Array:
    variance_N: Array = np.einsum("nt,tu,nu->n", share_NT, covariance_TT, share_NT, optimize=True)
    return variance_N
