"""What error within what latency the searches of a strategy attain, and how often: fronts of several seeds in one.

A search attains an error and seconds where a network of its front has at most both.
"""

from collections.abc import Sequence

import numpy as np

from nas.compare.judging import least_errors
from nas.compare.records import Floats


def attainment_surface(fronts: Sequence[Floats], share: float) -> Floats:
    """The staircase that at least a share of the searches attains: its corners, error and seconds, shape (V, 2).

    By increasing seconds and decreasing error. At each latency it is the ceil(share * S)-th least of the errors
    E_s(t) that the S searches attain within it: 0.5 gives the median front, 1 what all attain.

    Args:
        fronts: error (a fraction) and seconds of each search, shape (F, 2), in any order; dominated networks make no
            difference.
        share: above 0, at most 1.

    Returns:
        No corners where fewer searches than that attain anything.

    Raises:
        ValueError: another share, or no fronts.

    Source: Fonseca and Fleming, "On the performance assessment and comparison of stochastic multiobjective
    optimizers", PPSN IV, 1996.

    >>> fronts = [np.array([[0.3, 1.0], [0.1, 3.0]]), np.array([[0.2, 2.0]])]
    >>> attainment_surface(fronts, 0.5).tolist(), attainment_surface(fronts, 1.0).tolist()
    ([[0.3, 1.0], [0.2, 2.0], [0.1, 3.0]], [[0.3, 2.0], [0.2, 3.0]])
    """
    if not 0.0 < share <= 1.0 or not fronts:
        raise ValueError(f"a share above 0 and at most 1 of at least one front, found {share} of {len(fronts)}")
    seconds_T = np.unique(np.concatenate([front_F2[:, 1] for front_F2 in fronts]))
    errors_ST = np.sort([least_errors(front_F2, seconds_T) for front_F2 in fronts], axis=0)
    number = int(np.ceil(round(share * len(fronts), 9)))
    errors_T = errors_ST[number - 1]
    is_corner_T = errors_T < np.append(np.inf, errors_T[:-1])
    corners_V2: Floats = np.column_stack([errors_T, seconds_T])[is_corner_T]
    return corners_V2
