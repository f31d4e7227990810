import numpy as np
import pytest

from predictors import gaussian_process as module
from predictors.gaussian_process import fit

RNG = np.random.default_rng(0)
FEATURES_KF = RNG.uniform(-1.0, 1.0, (60, 3))
SPREAD_K = np.full(60, 0.02)


def smooth(features_KF):
    """Of the first two features; the third does not matter."""
    return np.sin(2.0 * features_KF[:, 0]) + 0.5 * features_KF[:, 1]


TARGET_K = smooth(FEATURES_KF) + 0.02 * RNG.standard_normal(60)


def test_the_gradient_is_the_slope_of_the_loss():
    at_P = np.array([0.3, -0.2, 0.8, -0.4, -2.0])
    _, gradient_P = module._loss(at_P, FEATURES_KF, TARGET_K, SPREAD_K**2)
    for index in range(len(at_P)):
        step_P = np.zeros(len(at_P))
        step_P[index] = 1e-5
        above, below = (module._loss(at_P + sign * step_P, FEATURES_KF, TARGET_K, SPREAD_K**2)[0] for sign in (1, -1))
        assert gradient_P[index] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-4)


def test_a_smooth_function_is_found_between_the_observations():
    unseen_LF = RNG.uniform(-0.9, 0.9, (40, 3))
    mean_L, std_L = fit(FEATURES_KF, TARGET_K, SPREAD_K).at(unseen_LF)
    assert np.abs(mean_L - smooth(unseen_LF)).max() < 0.15
    assert np.mean(np.abs(mean_L - smooth(unseen_LF)) < 2.0 * std_L) > 0.9


def test_a_feature_that_does_not_matter_gets_the_longest_length():
    lengths_F = fit(FEATURES_KF, TARGET_K, SPREAD_K).hyperparameters.log_lengths_F
    assert lengths_F[2] > max(lengths_F[:2])


def test_far_away_the_mean_returns_to_the_median_and_the_deviation_to_the_signal():
    process = fit(FEATURES_KF, TARGET_K, SPREAD_K)
    (mean,), (std,) = process.at(np.full((1, 3), 1e3))
    found = process.hyperparameters
    assert mean == pytest.approx(np.median(TARGET_K))
    assert std == pytest.approx(np.hypot(np.exp(found.log_signal), np.exp(found.log_noise)))


def test_left_out_predictions_are_those_of_a_process_without_the_observation():
    """The closed form against solving anew without each of three observations, hyperparameters kept."""
    process = fit(FEATURES_KF, TARGET_K, SPREAD_K)
    error_K, std_K = process.left_out()
    lengths_F = np.exp(process.hyperparameters.log_lengths_F)
    points_KF = (FEATURES_KF - process.shift_F) / process.scale_F * lengths_F
    for index in (0, 17, 59):
        rest = np.delete(np.arange(60), index)
        again = module.Process(
            shift_F=np.zeros(3), scale_F=lengths_F, mean=process.mean, hyperparameters=process.hyperparameters,
            **_solved(points_KF[rest], TARGET_K[rest] - process.mean, SPREAD_K[rest], process.hyperparameters),
        )  # fmt: skip
        (mean,), (std,) = again.at(points_KF[[index]])
        assert error_K[index] == pytest.approx(TARGET_K[index] - mean, rel=1e-6, abs=1e-6)
        assert std_K[index] == pytest.approx(np.hypot(std, SPREAD_K[index]), rel=1e-3)


def _solved(points_KF, residual_K, spread_K, found):
    scaled_KF = points_KF / np.exp(found.log_lengths_F)
    distance_KK = np.linalg.norm(scaled_KF[:, None] - scaled_KF[None], axis=-1)
    matern_KK = (1.0 + np.sqrt(3.0) * distance_KK) * np.exp(-np.sqrt(3.0) * distance_KK)
    signal, noise = np.exp(2.0 * found.log_signal), np.exp(2.0 * found.log_noise)
    precision_KK = np.linalg.inv(signal * matern_KK + np.diag(noise + spread_K**2 + 1e-8 * signal))
    return {"points_KF": scaled_KF, "weights_K": precision_KK @ residual_K, "precision_KK": precision_KK}
