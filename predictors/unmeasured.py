"""What is known of a kernel that no table tells of: other GPUs, its class's efficiency, or a default."""

from dataclasses import replace
from math import log, sqrt
from typing import NamedTuple

from predictors.class_terms import efficiency_names
from predictors.cost import Cost
from predictors.device import ANY_CLASS, ClassEfficiency, Device
from predictors.fusion import Kernel
from predictors.log_estimate import LogEstimate
from predictors.operators import Unknown
from predictors.roofline import class_latency_s, roofline
from predictors.transfer import Prior, transferred, unexplained_std

UNKNOWN_EFFICIENCY = ClassEfficiency(
    compute=0.57,
    read=0.26,
    write=0.79,
    fixed_s=1.3e-5,
    spread=0.7,
    source="shares of all classes together on Adreno 660 (TVM) and V100 (TensorRT, batch 1), 2026-11-24",
)
"""For a kernel whose class has no known efficiency; a launch cost that the device gives takes the place of `fixed_s`.

`spread` is the root mean square of ln(measured / predicted) on devices and runtimes left out: V100 from Adreno 660
alone 0.88, Adreno 660 from V100 alone 0.40, five GPUs under PyTorch 0.60. The bare roofline errs by 2.0, one factor on
it by 1.4. All of these are GPUs: for other devices it is a guess. Figures: docs/decisions.md, 2026-11-24.
"""


UNKNOWN_OPERATOR_STD = 1.0
"""Relative deviation of a kernel without a formula, which is taken to move its inputs and its output: as large as its
time. What it computes is not known, so this is a guess and no fit."""

_OWN_SHARE = 0.25
"""Of the variance by which kernels miss even a GPU's own model, what none of their features explains."""
_OWN_STD = 0.25
"""Of ln(seconds) of a kernel about the efficiency of its class, once that is known."""


class Said(NamedTuple):
    """ln(efficiency), the group of kernels that share its error, and what of its deviation is the kernel's own."""

    estimate: LogEstimate
    group: str
    own_std: float


OTHER_GPUS = "other GPUs"
"""Group of what is known from other GPUs."""


def say(kernel: Kernel, cost: Cost, device: Device, prior: Prior | None = None, *, others_first: bool = False) -> Said:
    """What is known of a kernel with that cost without measured kernels of its class.

    Args:
        prior: what other GPUs say; None takes the shipped one.
        others_first: ask those also where the device's file has class efficiencies, which may have been fitted to
            the very kernels that are to correct what is said.
    """
    classes = device.efficiency.get(kernel.dtype, {})
    if (others_first or not classes) and (by_others := transferred(kernel, cost, device, prior)) is not None:
        return Said(by_others, OTHER_GPUS, sqrt(_OWN_SHARE) * unexplained_std(kernel, device, prior))
    known = next((classes[name] for name in (*efficiency_names(kernel), ANY_CLASS) if name in classes), None)
    efficiency = known or _unknown_efficiency(device)
    class_s = class_latency_s(cost, device, efficiency, kernel.dtype)
    spread = UNKNOWN_OPERATOR_STD if isinstance(kernel.anchor, Unknown) else efficiency.spread
    estimate = LogEstimate(log(roofline(cost, device, kernel.dtype).latency_s / class_s), spread)
    return Said(estimate, kernel.kind, min(spread, _OWN_STD))


# ------------------------------------------------------------------------------------------------------------ private


def _unknown_efficiency(device: Device) -> ClassEfficiency:
    return replace(UNKNOWN_EFFICIENCY, fixed_s=device.launch_s) if device.launch else UNKNOWN_EFFICIENCY
