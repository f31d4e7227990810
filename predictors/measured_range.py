"""How far a kernel lies outside of what was measured of its class."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.features import WORK_VIEW

EXTRAPOLATION_STD = 0.15
"""Deviation of ln(efficiency) for each factor e beyond the measured range of a size, of work or of traffic.

From predicting the larger half of the kernels from the smaller on six CPU runtimes, two Adrenos and a V100."""

_SIZES = ("macs", "traffic", "weights", "positions", "channels", "channels_in")
_COLUMNS = [WORK_VIEW.index(name) for name in _SIZES]
_WARNED_OF = 2  # the first of them: work and traffic

_Array = NDArray[np.float64]


class Outside(NamedTuple):
    """Logs of factors, (K,): above the most work or traffic that was measured, and the deviation that this and every
    other size beyond the measured ones add."""

    above_K: _Array
    std_K: _Array


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredRange:
    """Logs of the least and the greatest of each size among measured kernels, (R,) each."""

    least_R: _Array
    most_R: _Array

    @classmethod
    def of(cls, work_KF: _Array) -> "MeasuredRange":
        """Of kernels' features in `WORK_VIEW`."""
        sizes_KR = work_KF[:, _COLUMNS]
        return cls(sizes_KR.min(0), sizes_KR.max(0))

    def outside(self, work_KF: _Array) -> Outside:
        """How far other kernels lie outside."""
        sizes_KR = work_KF[:, _COLUMNS]
        above_KR, below_KR = sizes_KR - self.most_R, self.least_R - sizes_KR
        beyond_K = np.maximum(np.maximum(above_KR, below_KR).max(1), 0.0)
        return Outside(np.maximum(above_KR[:, :_WARNED_OF].max(1), 0.0), EXTRAPOLATION_STD * beyond_K)
