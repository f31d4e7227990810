"""The roofline: the least time that a device's peaks allow a kernel, and which of them sets it.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from dataclasses import dataclass
from typing import Literal

from predictors.cost import Cost
from predictors.device import Device

Bound = Literal["compute", "memory", "launch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Seconds that one kernel needs at least, by resource."""

    compute_s: float
    memory_s: float
    launch_s: float

    @property
    def latency_s(self) -> float:
        """max(compute, memory) + launch: arithmetic and transfers overlap, launching does not."""
        return max(self.compute_s, self.memory_s) + self.launch_s

    @property
    def bound(self) -> Bound:
        """What takes longest: 'compute', 'memory' or 'launch'."""
        if self.launch_s > max(self.compute_s, self.memory_s):
            return "launch"
        return "compute" if self.compute_s > self.memory_s else "memory"


def roofline(cost: Cost, device: Device, dtype: str | None = None) -> Roofline:
    """Roofline of a kernel on a device.

    compute = flops / peak[dtype]; memory = traffic / bandwidth of the smallest level that holds the traffic.

    Raises:
        ValueError: the device has no peak for the dtype.
    """
    traffic = cost.traffic_bytes
    return Roofline(
        compute_s=cost.flops / device.peak_flops(dtype),
        memory_s=traffic / device.bandwidth_for(traffic),
        launch_s=device.launch_s,
    )
