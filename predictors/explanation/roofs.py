"""The roofs of a device: what its memories and its arithmetic allow at most.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from dataclasses import dataclass

from predictors.device import Device
from predictors.explanation.text import number_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """One level of memory under the peak: attainable FLOP/s = min(peak, intensity * bandwidth)."""

    name: str
    bandwidth: float
    peak_flops: float

    @property
    def ridge_point(self) -> float:
        """FLOP per byte from which on the peak decides."""
        return self.peak_flops / self.bandwidth

    @property
    def text(self) -> str:
        """'dram: 900 GB/s, ridge point 124 FLOP/byte'."""
        return f"{self.bandwidth_text}, ridge point {number_text(self.ridge_point)} FLOP/byte"

    @property
    def bandwidth_text(self) -> str:
        """'dram: 900 GB/s'."""
        return f"{self.name}: {number_text(self.bandwidth / 1e9)} GB/s"

    def attainable_flops(self, intensity: float) -> float:
        return min(self.peak_flops, intensity * self.bandwidth)


def roofs(device: Device, dtype: str) -> list[Roof]:
    """The device's roofs in a dtype, from the memory that holds everything to the smallest cache."""
    peak_flops = device.peak_flops(dtype)
    levels = reversed(device.memory)
    return [Roof(name=level.name, bandwidth=level.bandwidth.value, peak_flops=peak_flops) for level in levels]
