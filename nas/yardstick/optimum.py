"""What is known of the best network there is, and what is raised where nothing can be."""

from dataclasses import dataclass

from search_spaces.space import Arch


class NoYardstickError(ValueError):
    """The best networks of a task cannot be computed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best value of a metric that a network of the space reaches under the bounds that were asked.

    Attributes:
        arch: canonical.
        value: of that arch, in SI units.
        proven: no network of the space is better.
        limit: what no network is better than; `value` itself where that is proven.
    """

    arch: Arch
    value: float
    proven: bool
    limit: float
