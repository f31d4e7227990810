"""How much hypervolume a candidate is expected to add, where all its losses are known but the error's logarithm.

The region that a front leaves undominated is cut into boxes. What a candidate adds of a box is a product of lengths,
one for each objective; of a known loss it is a number, of an error e with ln(e) ~ N(mean, std) an expectation,
E[max(0, u - e)] = u Phi(z) - exp(mean + std^2 / 2) Phi(z - std) with z = (ln(u) - mean) / std.

Source: Emmerich, Yang, Deutz, "Infill criteria for multiobjective Bayesian optimization", 2020, for the boxes; the
expectation is that of Black and Scholes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MAX_CELLS = 4_000_000
"""Boxes times candidates that are worked on at once."""


class Boxes(NamedTuple):
    """B disjoint boxes that fill what is below a reference point and not dominated; (B, M) for M losses."""

    lower_BM: Array
    upper_BM: Array

    def without(self, losses_M: Array) -> "Boxes":
        """The boxes without what a point dominates.

        Each box that the point reaches into is cut at the point's losses one after the other: what is below is kept,
        what is above goes on to the next cut, and what is above in all of them is dropped.
        """
        reached_B = (self.upper_BM > losses_M).all(axis=1)
        lower_BM, upper_BM = self.lower_BM[reached_B], self.upper_BM[reached_B]
        kept = [(self.lower_BM[~reached_B], self.upper_BM[~reached_B])]
        for objective, loss in enumerate(losses_M):
            below_B = lower_BM[:, objective] < loss
            cut_BM = upper_BM[below_B].copy()
            cut_BM[:, objective] = loss
            kept.append((lower_BM[below_B], cut_BM))
            lower_BM = lower_BM.copy()
            lower_BM[:, objective] = np.maximum(lower_BM[:, objective], loss)
        lowers, uppers = zip(*kept)
        return Boxes(np.concatenate(lowers), np.concatenate(uppers))


def undominated(losses_NM: Array, reference_M: Array) -> Boxes:
    """The boxes between points and a reference point; without a lower end where nothing is known to be better."""
    boxes = Boxes(np.full((1, len(reference_M)), -np.inf), reference_M[None, :].copy())
    for losses_M in losses_NM:
        boxes = boxes.without(losses_M)
    return boxes


def expected_gains(boxes: Boxes, losses_NM: Array, error_at: int | None, std_N: Array) -> Array:
    """Expected hypervolume that each of N candidates adds, (N,).

    Args:
        losses_NM: of candidates; in the column of the error the mean of its logarithm.
        error_at: that column, None where the error is no objective.
        std_N: standard deviation of ln(error); where it is 0, exp(mean) is the error.
    """
    gains_N = np.zeros(len(losses_NM))
    step = max(1, _MAX_CELLS // max(len(boxes.lower_BM), 1))
    for start in range(0, len(gains_N), step):
        block = slice(start, start + step)
        gains_N[block] = _gains(boxes, losses_NM[block], error_at, std_N[block])
    return gains_N


# ------------------------------------------------------------------------------------------------------------ private


def _gains(boxes: Boxes, losses_NM: Array, error_at: int | None, std_N: Array) -> Array:
    volumes_NB = np.ones((len(losses_NM), len(boxes.lower_BM)))
    for objective, losses_N in enumerate(losses_NM.T):
        if objective != error_at:
            lower_B, upper_B = boxes.lower_BM[:, objective], boxes.upper_BM[:, objective]
            volumes_NB *= np.maximum(upper_B - np.maximum(lower_B, losses_N[:, None]), 0.0)
    if error_at is None:
        found_N: Array = volumes_NB.sum(axis=1)
        return found_N
    # Boxes share the ends of their errors, so the expectation is asked once for each end.
    ends_2B = np.stack([boxes.lower_BM[:, error_at], boxes.upper_BM[:, error_at]])
    ends_E, at = np.unique(ends_2B, return_inverse=True)
    below_NE = _expected_below(ends_E, losses_NM[:, error_at], std_N)
    lower_B, upper_B = at.reshape(ends_2B.shape)
    gains_N: Array = np.einsum("nb,nb->n", volumes_NB, below_NE[:, upper_B] - below_NE[:, lower_B])
    return gains_N


def _expected_below(ends_E: Array, mean_N: Array, std_N: Array) -> Array:
    """E[max(0, end - error)], (N, E); 0 for ends that are not positive."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore"):
        logs_E = np.log(np.maximum(ends_E, 0.0))
    std_N1 = np.maximum(std_N, 1e-9)[:, None]
    z_NE = (logs_E - mean_N[:, None]) / std_N1
    expected_N1 = np.exp(mean_N + 0.5 * std_N**2)[:, None]
    found_NE: Array = np.maximum(ends_E, 0.0) * ndtr(z_NE) - expected_N1 * ndtr(z_NE - std_N1)
    return np.maximum(found_NE, 0.0)
