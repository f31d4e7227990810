"""The hypervolume of a search as a curve over its evaluations: a few steps, and what is read off them."""

from collections.abc import Mapping, Sequence

import numpy as np

from nas.pareto import Front, hypervolume

Steps = tuple[tuple[int, float], ...]
"""(number of evaluations, hypervolume from there on), both increasing; before the first it is 0."""


def steps_of(losses_ND: np.ndarray, reference_point: Sequence[float]) -> Steps:
    """How the hypervolume grew while these points came in, as a share of the box below the reference point.

    Args:
        losses_ND: shape (num_evaluations, num_objectives), positive, in the order of evaluation.

    >>> steps_of(np.array([[1.0, 2.0], [2.0, 2.0], [2.0, 1.0]]), [4.0, 4.0])
    ((1, 0.375), (3, 0.5))
    """
    reference = np.asarray(reference_point, dtype=np.float64)
    front, found = Front.empty(np.ones(len(reference))), []
    for number, row in enumerate(losses_ND / reference, start=1):
        grown = front.add(row)
        if grown.hypervolume > front.hypervolume:
            found.append((number, grown.hypervolume))
        front = grown
    return tuple(found)


def value_after(steps: Steps, num_evaluations: int) -> float:
    """The hypervolume after so many evaluations.

    >>> value_after(((1, 0.375), (3, 0.5)), 2)
    0.375
    """
    return next((value for number, value in reversed(steps) if number <= num_evaluations), 0.0)


def evaluations_until(steps: Steps, goal: float) -> int | None:
    """The number of evaluations from which on the hypervolume is at least `goal`; None if it never was.

    >>> evaluations_until(((1, 0.375), (3, 0.5)), 0.5), evaluations_until(((1, 0.375), (3, 0.5)), 0.6)
    (3, None)
    """
    return next((number for number, value in steps if value >= goal), None)


def relative(steps: Steps, best: float) -> Steps:
    """The same curve as a share of the best hypervolume."""
    return tuple((number, value / best) for number, value in steps)


def shares_of_boxes(losses_ND: np.ndarray, reference_points: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Hypervolume of a front below each reference point, as a share of the box below it."""
    return {
        name: hypervolume(losses_ND / np.asarray(point), np.ones(len(point)))
        for name, point in reference_points.items()
    }
