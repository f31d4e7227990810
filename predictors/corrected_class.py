"""Kernels of a class of which only a few are measured: what is known without them, corrected by what that errs on them.

A Gaussian process over the kernels' work interpolates ln(measured / said), and expects none of it far from all that was
measured. That a host launches more slowly than others, or that an activation is slower than most, shows in the first
kernel already. Some dozens of measured kernels tell as much by themselves (`predictors.efficiency`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.cost import Cost
from predictors.device import Device
from predictors.features import WORK_VIEW, view_features
from predictors.fusion import Kernel
from predictors.gaussian_process import Process, fit
from predictors.log_estimate import LogEstimate
from predictors.transfer import Prior
from predictors.unmeasured import OTHER_GPUS, Said, say

MAX_KERNELS = 40
"""Of a class on a GPU; with more of them other GPUs add nothing."""

_MAX_SCALE = 1.0
"""Logs of sizes are taken in units of at most one: a few kernels that lie far apart make nothing between them alike."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class CorrectedClass:
    """What is known of a class and what measured kernels add to it; `correct_class` makes it.

    Attributes:
        prior: what other GPUs say; None takes the shipped one.
        left_out: each measured kernel as the others predict it.
        dtypes: of the measured kernels.
        by_other_gpus: whether it rests on those, and so says nothing of kernels that they do not know.
    """

    device: Device
    prior: Prior | None
    process: Process
    left_out: Mapping[Kernel, LogEstimate]
    dtypes: frozenset[str]
    by_other_gpus: bool

    def at(self, kernels: Sequence[Kernel], costs: Sequence[Cost]) -> list[tuple[LogEstimate | None, float]]:
        """ln(efficiency), None of kernels that other GPUs do not know; and 0, for nothing is extrapolated: where the
        measured kernels tell nothing it is what is known without them, with that deviation.
        """
        said = _said(kernels, costs, self.device, self.prior)
        correction_K, std_K = self.process.at(_work(kernels, costs, self.device))
        said_std_K, own_std_K = np.array([(each.estimate.std, each.own_std) for each in said]).T
        of_class_K = np.sqrt(np.maximum(said_std_K**2 - own_std_K**2, 0.0))  # if nothing were measured
        of_class_K = np.maximum(std_K, self.process.untold(std_K) * of_class_K)
        mean_K = correction_K + [each.estimate.mean for each in said]
        rows = zip(said, mean_K.tolist(), np.hypot(of_class_K, own_std_K).tolist(), of_class_K.tolist())
        return [
            (LogEstimate(mean, std, of_class) if _by_other_gpus(each) == self.by_other_gpus else None, 0.0)
            for each, mean, std, of_class in rows
        ]


def correct_class(
    kernels: Sequence[Kernel],
    costs: Sequence[Cost],
    target_K: _Array,
    spread_K: _Array,
    device: Device,
    prior: Prior | None = None,
) -> CorrectedClass:
    """A fit to the measured kernels of a class; where other GPUs know some of them, to those.

    Args:
        target_K: ln(efficiency) as measured.
        spread_K: its standard deviation.
        prior: what other GPUs say; None takes the shipped one.
    """
    said = _said(kernels, costs, device, prior)
    by_other_gpus = any(_by_other_gpus(each) for each in said)
    known = [index for index, each in enumerate(said) if _by_other_gpus(each) == by_other_gpus]
    kernels, costs = [kernels[index] for index in known], [costs[index] for index in known]
    said = [said[index] for index in known]
    target_K, spread_K = target_K[known], spread_K[known]
    work_KF = _work(kernels, costs, device)
    error_K = target_K - np.array([each.estimate.mean for each in said])
    process = fit(work_KF, error_K, np.hypot(spread_K, [each.own_std for each in said]), mean=0.0, max_scale=_MAX_SCALE)
    miss_K, std_K = process.left_out()
    left_out_K = zip((target_K - miss_K).tolist(), np.sqrt(np.maximum(std_K**2 - spread_K**2, 1e-8)).tolist())
    return CorrectedClass(
        device=device,
        prior=prior,
        process=process,
        left_out={kernel: LogEstimate(mean, std) for kernel, (mean, std) in zip(kernels, left_out_K)},
        dtypes=frozenset(kernel.dtype for kernel in kernels),
        by_other_gpus=by_other_gpus,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _said(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device, prior: Prior | None) -> list[Said]:
    return [say(kernel, cost, device, prior, others_first=True) for kernel, cost in zip(kernels, costs)]


def _by_other_gpus(said: Said) -> bool:
    return said.group == OTHER_GPUS


def _work(kernels: Sequence[Kernel], costs: Sequence[Cost], device: Device) -> _Array:
    units = int(device.compute_units.value) if device.compute_units else None
    (work_KF,) = view_features(kernels, costs, (WORK_VIEW,), units)
    return work_KF
