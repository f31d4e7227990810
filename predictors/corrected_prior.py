"""Kernels of a class of which only a few are measured on a GPU: what other GPUs say, corrected by what those err.

A Gaussian process over the kernels' work interpolates ln(measured / said), and expects none of it far from all that was
measured. That a host launches more slowly shows in the first kernel already. Some dozens of measured kernels tell as
much by themselves (`predictors.efficiency`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from predictors.cost import Cost
from predictors.device import Device
from predictors.features import WORK_VIEW, view_features
from predictors.fusion import Kernel
from predictors.gaussian_process import Process, fit
from predictors.log_estimate import LogEstimate
from predictors.measured_range import MeasuredRange
from predictors.transfer import Prior, transferred, unexplained_std

MAX_KERNELS = 40
"""Of a class; with more of them other GPUs add nothing."""

_OWN_SHARE = 0.5
"""Of the variance by which kernels miss even a GPU's own model, what none of their features explains."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class CorrectedPrior:
    """What other GPUs say of a class and what measured kernels add to it; `correct_prior` makes it.

    Attributes:
        left_out: each measured kernel as the others predict it.
        dtypes: of the measured kernels.
    """

    device: Device
    prior: Prior | None
    process: Process
    measured_range: MeasuredRange
    left_out: Mapping[Kernel, LogEstimate]
    dtypes: frozenset[str]

    def at(self, kernels: Sequence[Kernel], costs: Sequence[Cost]) -> list[tuple[float, float, float] | None]:
        """ln(efficiency), its deviation, and ln(factor) above what was measured; None where other GPUs tell nothing."""
        said = [transferred(kernel, cost, self.device, self.prior) for kernel, cost in zip(kernels, costs)]
        work_KF = _work(kernels, costs, self.device)
        correction_K, std_K = self.process.at(work_KF)
        above_K, beyond_std_K = self.measured_range.outside(work_KF)
        std_K = np.sqrt(std_K**2 + beyond_std_K**2 + _own_std(kernels, self.device, self.prior) ** 2)
        rows = zip(said, correction_K.tolist(), std_K.tolist(), above_K.tolist())
        return [None if each is None else (each.mean + more, std, above) for each, more, std, above in rows]


def correct_prior(
    kernels: Sequence[Kernel],
    costs: Sequence[Cost],
    target_K: _Array,
    spread_K: _Array,
    device: Device,
    prior: Prior | None = None,
) -> CorrectedPrior | None:
    """A fit to those measured kernels of a class that other GPUs tell something of; None where that is none of them.

    Args:
        target_K: ln(efficiency) as measured.
        spread_K: its standard deviation.
        prior: None takes the shipped one.
    """
    said = [transferred(kernel, cost, device, prior) for kernel, cost in zip(kernels, costs)]
    known = [index for index, each in enumerate(said) if each is not None]
    if not known:
        return None
    kernels, costs = [kernels[index] for index in known], [costs[index] for index in known]
    target_K, spread_K = target_K[known], spread_K[known]
    work_KF = _work(kernels, costs, device)
    said_K = np.array([each.mean for each in said if each is not None])
    own_K = np.hypot(spread_K, _own_std(kernels, device, prior))
    process = fit(work_KF, target_K - said_K, own_K, mean=0.0)
    miss_K, std_K = process.left_out()
    left_out = {
        kernel: LogEstimate(mean, sqrt(variance))
        for kernel, mean, variance in zip(
            kernels, (target_K - miss_K).tolist(), np.maximum(std_K**2 - spread_K**2, 1e-8).tolist()
        )
    }
    return CorrectedPrior(
        device=device,
        prior=prior,
        process=process,
        measured_range=MeasuredRange.of(work_KF),
        left_out=left_out,
        dtypes=frozenset(kernel.dtype for kernel in kernels),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _work(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device) -> _Array:
    assert device.compute_units is not None
    (work_KF,) = view_features(kernels, costs, (WORK_VIEW,), int(device.compute_units.value))
    return work_KF


def _own_std(kernels: Sequence[Kernel], device: Device, prior: Prior | None) -> _Array:
    return sqrt(_OWN_SHARE) * np.array([unexplained_std(kernel, device, prior) for kernel in kernels])
