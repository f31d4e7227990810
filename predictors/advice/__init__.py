"""What to change in a network so that it takes less time on a device, each with what it saves there."""

from predictors.advice.advise import LEAST_DEVIATIONS, LEAST_SHARE, RULES, Advice, advise, advise_with
from predictors.advice.gain import Gain, gain_between
from predictors.advice.rule import Context, Edit, Rule

__all__ = [
    "LEAST_DEVIATIONS",
    "LEAST_SHARE",
    "RULES",
    "Advice",
    "Context",
    "Edit",
    "Gain",
    "Rule",
    "advise",
    "advise_with",
    "gain_between",
]
