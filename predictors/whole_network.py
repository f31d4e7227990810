"""What kernels add up to in a network: times, how they err by themselves and together, work, bytes.

`predict` and `predict_many` both add up these records, and both put the sums into `whole_network`.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from predictors.cost import Cost, peak_activation_bytes
from predictors.device import Device
from predictors.fusion import KernelNode
from predictors.graph import Graph
from predictors.roofline import Bound

Provenance = Literal["measured", "interpolated", "roofline", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEstimate:
    """What one kernel costs on the device: seconds, their standard deviation, where they come from, what bounds it.

    Attributes:
        variance_s2: of what the kernel errs by itself, seconds squared.
        shared_std_s: standard deviation of what it errs together with all kernels of its `group`, in seconds.
        host_s: seconds in which the host issues it, where kernels queue.
        shared: further groups with what it errs together with their kernels, in seconds; signs matter.
    """

    cost: Cost
    latency_s: float
    std_s: float
    provenance: Provenance
    bound: Bound
    variance_s2: float
    shared_std_s: float = 0.0
    group: str = ""
    host_s: float = 0.0
    shared: tuple[tuple[str, float], ...] = ()


class Sums(NamedTuple):
    """What adds up over the kernels of a network; `macs` and `num_params` are those of the network as written."""

    latency_s: float
    variance_s2: float
    host_s: float
    num_kernels: int
    macs: int
    num_params: int
    executed_macs: int
    read_bytes: int
    weight_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a section of a network, or a whole one, costs.

    Attributes:
        num_nodes: of the section's graph, its input included.
        shared_std_s: by group, standard deviations that add up over all kernels of the network.
        peak_activation_bytes: while one of its kernels runs; weights do not count.
        follow: names of the operators that would be fused into its last kernel if they came next.
        begin: names of the operator that alone reads the section's input.
    """

    num_nodes: int
    kernel_nodes: tuple[KernelNode, ...]
    estimates: tuple[KernelEstimate, ...]
    sums: Sums
    shared_std_s: tuple[tuple[str, float], ...]
    peak_activation_bytes: int
    follow: frozenset[str] = frozenset()
    begin: frozenset[str] = frozenset()


HOST_DRIFT = 0.15
"""Relative deviation of what the host takes to issue a network's kernels: behind one of two
machines with an H200 the same networks took 5 to 9 % more, and in a machine's first half minute a kernel up to 1.9
times as long."""


class Whole(NamedTuple):
    """Of one network, or of several: seconds, their standard deviation, and the seconds that belong to no kernel."""

    latency_s: Any
    std_s: Any
    overhead_s: Any


def whole_network(
    device: Device, kernels_s: Any, num_kernels: Any, variance_s2: Any, shared_s2: Any, host_s: Any = 0.0
) -> Whole:
    """Seconds of a network, and what it errs, from what its kernels add up to; numbers, or arrays of one shape.

    latency = in_network * sum of kernels + network_overhead + kernels * kernel_overhead,
        and where kernels queue at least network_overhead + what the host takes to issue them
    std^2 = in_network^2 * (variance_s2 + shared_s2) + (network_spread * latency)^2; where the network waits for the
        host, `HOST_DRIFT` of the host's seconds stands in place of what the kernels err

    Args:
        kernels_s: sum of the kernels' seconds.
        variance_s2, shared_s2: sum of what they err each by themselves, and of what the groups err, seconds squared.
        host_s: sum of the seconds in which the host issues them.
    """
    factor = device.in_network.value if device.in_network else 1.0
    spread = device.network_spread.value if device.network_spread else 0.0
    per_network = device.network_overhead.value if device.network_overhead else 0.0
    per_kernel = device.kernel_overhead.value if device.kernel_overhead else 0.0
    overhead_s = per_network + num_kernels * per_kernel
    latency_s = factor * kernels_s + overhead_s
    variance_s2 = factor * factor * (variance_s2 + shared_s2)
    if device.host_launch:
        waits = per_network + host_s > latency_s
        variance_s2 = np.where(waits, (HOST_DRIFT * host_s) ** 2, variance_s2)[()]
        latency_s = np.maximum(latency_s, per_network + host_s)
        overhead_s = latency_s - factor * kernels_s
    std_s = (variance_s2 + (spread * latency_s) ** 2) ** 0.5
    return Whole(latency_s, std_s, overhead_s)


def energy_j(device: Device, executed_macs: Any, traffic_bytes: Any) -> Any:
    """Joules: energy per MAC * macs + energy per byte * traffic, from whichever the device file gives.

    Raises:
        ValueError: it gives neither.
    """
    if not device.has_energy:
        raise ValueError(f"device {device.name!r} gives no energy per MAC or byte, so energy_j is unknown")
    per_mac = device.energy_per_mac.value if device.energy_per_mac else 0.0
    per_byte = device.energy_per_byte.value if device.energy_per_byte else 0.0
    return per_mac * executed_macs + per_byte * traffic_bytes


def part_of(
    graph: Graph,
    kernel_nodes: tuple[KernelNode, ...],
    estimates: tuple[KernelEstimate, ...],
    dtype: str,
    alignment: int = 1,
) -> Part:
    """The sums over the kernels of a section's graph, or of a whole network's."""
    latency_s = variance_s2 = host_s = 0.0
    macs = read = held = written = 0
    shared: dict[str, float] = {}
    for estimate in estimates:
        latency_s += estimate.latency_s
        variance_s2 += estimate.variance_s2
        host_s += estimate.host_s
        if estimate.shared_std_s:
            shared[estimate.group] = shared.get(estimate.group, 0.0) + estimate.shared_std_s
        for group, std_s in estimate.shared:
            shared[group] = shared.get(group, 0.0) + std_s
        cost = estimate.cost
        macs += cost.macs
        read += cost.read_bytes
        held += cost.weight_bytes
        written += cost.write_bytes
    return Part(
        num_nodes=len(graph.nodes),
        kernel_nodes=kernel_nodes,
        estimates=estimates,
        sums=Sums(
            latency_s, variance_s2, host_s, len(estimates), graph.macs, graph.num_params, macs, read, held, written
        ),
        shared_std_s=tuple(shared.items()),
        peak_activation_bytes=peak_activation_bytes(graph, kernel_nodes, dtype, alignment),
    )
