"""Costs inside a training loop: differentiable expectations, penalties, limits that hold. Needs torch."""

from predictors.training.expected_cost import METRICS, ExpectedCost
from predictors.training.limits import Limit, most_probable_arch
from predictors.training.penalties import CostConstraint, cost_penalty
from predictors.training.probabilities import ArchitectureLogits, Probabilities

__all__ = [
    "METRICS",
    "ArchitectureLogits",
    "CostConstraint",
    "ExpectedCost",
    "Limit",
    "Probabilities",
    "cost_penalty",
    "most_probable_arch",
]
