"""Devices as they are not: with other bandwidths or peaks, all else equal."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from predictors.device import Device, MemoryLevel, Quantity
from predictors.fitted_rates import FittedRates, WorkRates

_MEMORY_WORK = ("byte", "weight_byte")
_COMPUTE_WORK = ("flop", "group")
"""Sorts of work of fitted rates whose time is the memory's, and that of arithmetic."""


def with_bandwidth(device: Device, factor: float) -> Device:
    """The device with every memory's bandwidth times a factor, all else equal.

    Efficiencies are shares of the bandwidth and follow; rates that were fitted for bytes take 1 / factor of their
    seconds. Launches, overheads, the host and energy stay. Tables, which tell of the device as it is, go.

    Raises:
        ValueError: the factor is not positive.
    """
    memory = tuple(
        MemoryLevel(name=level.name, bandwidth=_times(level.bandwidth, factor, "bandwidth"), capacity=level.capacity)
        for level in device.memory
    )
    return replace(_with_rates(device, factor, _MEMORY_WORK, "bandwidth"), memory=memory)


def with_peaks(device: Device, factor: float) -> Device:
    """The device with its peak of every dtype times a factor, all else equal, as in `with_bandwidth`.

    Raises:
        ValueError: the factor is not positive.
    """
    peaks = {dtype: _times(peak, factor, "peak") for dtype, peak in device.peaks.items()}
    return replace(_with_rates(device, factor, _COMPUTE_WORK, "peak"), peaks=peaks)


# ------------------------------------------------------------------------------------------------------------ private


def _with_rates(device: Device, factor: float, sorts: Collection[str], what: str) -> Device:
    """Fitted rates of some sorts of work take 1 / factor of their seconds, under every runtime; no tables."""
    if factor <= 0.0:
        raise ValueError(f"{what} of {device.name!r} times {factor}: a factor is positive")
    return replace(
        device,
        fitted=_faster(device.fitted, factor, sorts, what),
        tables=(),
        runtimes={
            name: replace(numbers, fitted=_faster(numbers.fitted, factor, sorts, what), tables=())
            for name, numbers in device.runtimes.items()
        },
    )


def _faster(
    fitted: Mapping[str, FittedRates], factor: float, sorts: Collection[str], what: str
) -> dict[str, FittedRates]:
    return {
        dtype: FittedRates(
            extents=each.extents,
            classes={
                name: replace(
                    rates,
                    added=_faster_work(rates.added, factor, sorts),
                    longer=_faster_work(rates.longer, factor, sorts),
                )
                for name, rates in each.classes.items()
            },
            source=_noted(each.source, factor, what),
        )
        for dtype, each in fitted.items()
    }


def _faster_work(rates: WorkRates, factor: float, sorts: Collection[str]) -> WorkRates:
    per_unit_s = {
        sort: tuple(each / factor for each in values) if sort in sorts else values
        for sort, values in rates.per_unit_s.items()
    }
    return WorkRates(launch_s=rates.launch_s, per_unit_s=per_unit_s)


def _times(quantity: Quantity, factor: float, what: str) -> Quantity:
    return Quantity(value=factor * quantity.value, source=_noted(quantity.source, factor, what))


def _noted(source: str, factor: float, what: str) -> str:
    return f"{source}; {what} times {factor:g}"
