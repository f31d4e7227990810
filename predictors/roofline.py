"""The roofline: the least time that a device's peaks allow a kernel, and which of them sets it.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from dataclasses import dataclass
from typing import Literal

from predictors.cost import Cost
from predictors.device import ClassEfficiency, Device

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


def class_latency_s(cost: Cost, device: Device, efficiency: ClassEfficiency, dtype: str | None = None) -> float:
    """Seconds of a kernel whose class reaches known shares of the peaks; the formula stands at `ClassEfficiency`.

    The bandwidth is the one that `roofline` takes. `fixed_s` holds the launch, so the device's own is not added.

    Raises:
        ValueError: the device has no peak for the dtype.
    """
    bandwidth = device.bandwidth_for(cost.traffic_bytes)
    return (
        cost.flops / (efficiency.compute * device.peak_flops(dtype))
        + (cost.read_bytes + cost.weight_bytes) / (efficiency.read * bandwidth)
        + cost.write_bytes / (efficiency.write * bandwidth)
        + efficiency.fixed_s
    )
