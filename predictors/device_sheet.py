"""What a device's file says of the seconds that each sort of work takes, before any network is measured on it."""

from collections.abc import Sequence
from math import log

from predictors.class_terms import RAGGED
from predictors.device import ANY_CLASS, ClassEfficiency, Device
from predictors.fitted_rates import ANY_RATES, NO_EXTENT, WORK, FittedRates, place, rate_class
from predictors.fusion import Kernel
from predictors.regimes import Sheet

_GROUP = 0.01
"""Of a launch, what a group of a depthwise convolution takes; no file says."""


def device_sheet(device: Device, kernels: Sequence[Kernel], unknown: ClassEfficiency) -> Sheet:
    """ln of seconds per flop, byte of activations, byte of weights and group, and of a launch, by class.

    From rates that were fitted before, else from the class's efficiency, else from that of unknown classes.
    """
    names_of = {(kernel.dtype, rate_class(kernel)): kernel.classes for kernel in kernels}

    def sheet(dtype: str, name: str, sort: int, log_extent: float) -> float:
        if (fitted := device.fitted.get(dtype)) is not None:
            seconds = _fitted(fitted, name, sort, log_extent)
            if seconds > 0.0:
                return log(seconds)
        classes = device.efficiency.get(dtype, {})
        names = (name, *names_of.get((dtype, name), ()), f"{name}_s1", name.rsplit("_", 1)[0], ANY_CLASS)
        known = next((classes[each] for each in names if each in classes), None)
        efficiency = known or unknown
        launch_s = (efficiency.fixed_s if known else device.launch_s or efficiency.fixed_s) or _LEAST_LAUNCH_S
        if sort == len(WORK):
            return log(launch_s)
        return log(
            (
                1.0 / (efficiency.compute * device.peak_flops(dtype)),
                1.0 / ((efficiency.read * efficiency.write) ** 0.5 * device.bandwidth),
                1.0 / (efficiency.read * device.bandwidth),
                _GROUP * launch_s,
            )[sort]
        )

    return sheet


def sheet_classes(device: Device, dtype: str) -> tuple[str, ...]:
    """Classes of which the file says something, under the names that fitted rates have."""
    known = set(device.fitted[dtype].classes) if dtype in device.fitted else set(device.efficiency.get(dtype, ()))
    return tuple(
        sorted(
            name for name in known if not name.endswith((RAGGED, "_s1", "_s2")) and name not in (ANY_CLASS, ANY_RATES)
        )
    )


# ------------------------------------------------------------------------------------------------------------ private

_LEAST_LAUNCH_S = 1e-7
"""A launch where the file gives none."""


def _fitted(fitted: FittedRates, name: str, sort: int, log_extent: float) -> float:
    rates = fitted.classes.get(name) or fitted.classes[ANY_RATES]
    if sort == len(WORK):
        return rates.added.launch_s + rates.longer.launch_s
    index, share = place(max(log_extent, log(NO_EXTENT)), [log(each) for each in fitted.extents])
    after = min(index + 1, len(fitted.extents) - 1)
    rows = [each.per_unit_s[WORK[sort]] for each in (rates.added, rates.longer) if WORK[sort] in each.per_unit_s]
    return sum((1.0 - share) * row[index] + share * row[after] for row in rows)
