"""Samplers of our own for Optuna studies."""

from nas.samplers.predictor import PredictorSampler

__all__ = ["PredictorSampler"]
