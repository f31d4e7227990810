"""Costs inside a training loop: differentiable expectations, penalties, limits that hold. Needs torch."""

from predictors.training.callbacks import huggingface_callback, lightning_callback, log_costs
from predictors.training.channel_gates import ChannelGates
from predictors.training.cost_objective import CostObjective
from predictors.training.differentiable_cost import DifferentiableCost
from predictors.training.expected_cost import METRICS, ExpectedCost
from predictors.training.limits import Limit, check_reachable, most_probable_arch
from predictors.training.penalties import CostConstraint, cost_penalty
from predictors.training.predicted_costs import device_predictors, predicted_costs
from predictors.training.probabilities import ArchitectureLogits, Probabilities
from predictors.training.width_cost import WIDTH_METRICS
from predictors.training.width_limits import widths_within

__all__ = [
    "METRICS",
    "WIDTH_METRICS",
    "ArchitectureLogits",
    "ChannelGates",
    "CostConstraint",
    "CostObjective",
    "DifferentiableCost",
    "ExpectedCost",
    "Limit",
    "Probabilities",
    "check_reachable",
    "cost_penalty",
    "device_predictors",
    "huggingface_callback",
    "lightning_callback",
    "log_costs",
    "most_probable_arch",
    "predicted_costs",
    "widths_within",
]
