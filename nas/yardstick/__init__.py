"""How far a search is from the best networks its space has: exact optima, true fronts, and the distance to them."""

from nas.yardstick.best_front import BestFront, best_front, most_accurate
from nas.yardstick.distance import EQUAL, Distance, FrontDistance, LeastDistance, yardstick_of
from nas.yardstick.exhaustive import Everything, everything, exhaustive_front
from nas.yardstick.least import least
from nas.yardstick.optimum import NoYardstickError, Optimum

__all__ = [
    "EQUAL",
    "BestFront",
    "Distance",
    "Everything",
    "FrontDistance",
    "LeastDistance",
    "NoYardstickError",
    "Optimum",
    "best_front",
    "everything",
    "exhaustive_front",
    "least",
    "most_accurate",
    "yardstick_of",
]
