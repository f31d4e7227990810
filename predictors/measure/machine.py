"""A machine's own numbers as they stand in a device file, and what launching a kernel costs under a runtime."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from predictors.fusion import Runtime, fuse
from predictors.graph import Graph, GraphBuilder
from predictors.measure.backend import Backend, Network, QueuedNetwork, QueuedProfile, queues
from predictors.measure.clock import Clock
from predictors.measure.device_file import measured_source, quantity
from predictors.measure.gpu_queue import GpuQueue, Launch
from predictors.measure.isolated import EMPTY
from predictors.measure.peaks import WORKING_SETS_BYTES, arithmetic_peaks, bandwidths, chain_slope, memory_levels
from predictors.measure.session import Settings, whole_network_seconds

_CHAIN_LENGTHS = (16, 64, 128)
_ROUNDS = 9
_WALL_RUNS = 200
_LEAST_HOST_S = 1e-7
_OWN_KERNELS = (
    "activation",
    "elementwise",
    "normalization",
    "softmax",
    "pool2d",
    "adaptive_pool2d",
    "reduce",
    "resize",
)
_LIBRARY_KERNELS = (
    "conv2d", "depthwise_conv2d", "grouped_conv2d", "conv_transpose2d", "linear", "matmul", "attention"
)  # fmt: skip
"""Kinds whose kernels a compiler writes itself, and those that it calls a library for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNumbers:
    """Plain mappings of a device file: `peak` by dtype, levels of `memory`, and what a GPU's driver says of it."""

    peak: dict[str, Any]
    memory: list[dict[str, Any]]
    processor: dict[str, Any]


def machine_numbers(backend: Backend, clock: Clock) -> MachineNumbers:
    """Measure arithmetic and bandwidths with the libraries at hand, whatever the runtime."""
    source = measured_source(f"torch {torch.__version__}", backend.threads)
    peaks = arithmetic_peaks(clock, clock.processor)
    sizes = WORKING_SETS_BYTES[clock.processor]
    found = bandwidths(clock, sizes, clock.processor)
    patterns = {each.bytes_per_s: each.reached_by for each in found}
    memory = []
    for level in memory_levels(sizes, [each.bytes_per_s for each in found]):
        nearest = min(patterns, key=lambda bytes_per_s: abs(bytes_per_s - level.bytes_per_s))
        entry: dict[str, Any] = {"name": "dram"}
        if level.capacity_bytes is not None:
            entry = {
                "name": f"cache of {level.capacity_bytes // 1024} KiB",
                "capacity": quantity(level.capacity_bytes / 1024, "KiB", f"{source}; bandwidth falls beyond it"),
            }
        bandwidth = quantity(level.bytes_per_s / 1e9, "GB/s", f"{source}; {patterns[nearest]}")
        memory.append({**entry, "bandwidth": bandwidth})
    return MachineNumbers(
        peak={
            dtype: quantity(
                peak.flops_per_s / 1e9, "GOP/s" if dtype == "int8" else "GFLOP/s", f"{source}; {peak.reached_by}"
            )
            for dtype, peak in peaks.items()
        },
        memory=memory,
        processor=_gpu_units() if clock.processor == "cuda" else {},
    )


def launch_s(backend: Backend, clock: Clock, settings: Settings) -> float:
    """Seconds that one more tiny kernel adds to a chain of them, under the runtime.

    Where kernels queue, those that the device takes; the host's are `host_seconds`.
    """
    if queues(backend):
        chains = [_queued(backend.network(_chain(length))) for length in _CHAIN_LENGTHS]
        queue = GpuQueue()
        runs = np.array([queue.seconds(lambda: [chain.launch for chain in chains]) for _ in range(_ROUNDS)])
        return chain_slope(_CHAIN_LENGTHS, np.median(runs, axis=0).tolist())
    seconds = whole_network_seconds([_chain(length) for length in _CHAIN_LENGTHS], backend, clock, settings)
    return chain_slope(_CHAIN_LENGTHS, seconds) or seconds[-1] / _CHAIN_LENGTHS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeconds:
    """What the host takes where kernels queue.

    Attributes:
        of_class: to issue one kernel of a class (the last of `Kernel.classes`).
        of_kernel: to issue one in the mean over those that were timed.
        of_network: to call a network and to wait for its last kernel, beyond issuing its kernels.
    """

    of_class: dict[str, float]
    of_kernel: float
    of_network: float


def host_seconds(graphs: Sequence[Graph], backend: Backend, runtime: Runtime) -> HostSeconds:
    """What the host takes to issue kernels: those of these networks, step by step where the runtime runs them so, else
    from whole networks."""
    profiles = [backend.profile(graph) for graph in graphs]
    stepped = [profile for profile in profiles if isinstance(profile, QueuedProfile)]
    if len(stepped) < len(graphs):
        return _host_of_whole(graphs, backend, runtime)
    found: dict[str, list[float]] = {}
    for graph, profile in zip(graphs, stepped):
        kernels = {node.nodes[0]: node.kernel for node in fuse(graph, runtime, backend.dtype)}
        profile.run()
        seconds_S = profile.host_seconds()
        steps, _ = profile.finish()
        for step, seconds in zip(steps, seconds_S):
            if step.nodes[0] in kernels:
                found.setdefault(kernels[step.nodes[0]].classes[-1], []).append(float(seconds))
    of_class = {name: float(np.median(each)) for name, each in found.items()}
    of_kernel = float(np.mean([each for some in found.values() for each in some]))
    empty_s = _wall_s(_queued(backend.network(EMPTY)))
    called_s = max(empty_s - of_class.get("activation", of_kernel), _LEAST_HOST_S)
    return HostSeconds(of_class=of_class, of_kernel=of_kernel, of_network=called_s)


def split_host(
    host_s_N: Sequence[float], gpu_s_N: Sequence[float], wall_s_N: Sequence[float], counts_N: Sequence[tuple[int, int]]
) -> HostSeconds:
    """What calling whole networks takes the host, as a share of the call, of library kernels and of the compiler's own.

    A network that waits for the GPU takes on the wall what the GPU does and the call before it: that is the share of
    the call. The rest is split by non-negative least squares of relative errors.

    Args:
        host_s_N: seconds until the host has issued each network.
        gpu_s_N, wall_s_N: that the GPU takes, and that pass on the wall until its end.
        counts_N: library kernels and others of each network.
    """
    waits = [(wall_s - gpu_s, gpu_s > host_s) for host_s, gpu_s, wall_s in zip(host_s_N, gpu_s_N, wall_s_N)]
    gaps = [gap_s for gap_s, for_gpu in waits if for_gpu]
    called_s = float(np.median(gaps)) if gaps else min(gap_s for gap_s, _ in waits)
    called_s = max(min(called_s, 0.9 * min(host_s_N)), _LEAST_HOST_S)
    weights_N = 1.0 / np.array(host_s_N)
    counts = np.array(counts_N, dtype=np.float64)
    (library_s, own_s), _ = nnls(counts * weights_N[:, None], (np.array(host_s_N) - called_s) * weights_N)
    per_kernel_s = float(((np.array(host_s_N) - called_s) / counts.sum(1)).mean())
    of_class = dict.fromkeys(_LIBRARY_KERNELS, max(float(library_s), _LEAST_HOST_S))
    of_class |= dict.fromkeys(_OWN_KERNELS, max(float(own_s), _LEAST_HOST_S))
    return HostSeconds(of_class=of_class, of_kernel=per_kernel_s, of_network=called_s)


# ------------------------------------------------------------------------------------------------------------ private


def _gpu_units() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    source = f"CUDA's driver, of {properties.name}"
    return {
        "compute_units": quantity(properties.multi_processor_count, "cores", source),
        "cache": quantity(properties.L2_cache_size / 2**20, "MiB", source),
    }


def _host_of_whole(graphs: Sequence[Graph], backend: Backend, runtime: Runtime) -> HostSeconds:
    queue = GpuQueue()
    times, counts = [], []
    for graph in graphs:
        times.append(_host_gpu_wall_s(_queued(backend.network(graph)), queue))
        kinds = [node.kernel.classes[-1] for node in fuse(graph, runtime, backend.dtype)]
        of_libraries = sum(kind in _LIBRARY_KERNELS for kind in kinds)
        counts.append((of_libraries, len(kinds) - of_libraries))
    host_s, gpu_s, wall_s = zip(*times)
    return split_host(host_s, gpu_s, wall_s, counts)


def _host_gpu_wall_s(network: QueuedNetwork, queue: GpuQueue) -> tuple[float, float, float]:
    def issue() -> Sequence[Launch]:
        return [network.launch]

    host_s = float(queue.host_seconds(issue)[0])
    hold_s = queue.hold_s(issue)
    gpu_s = float(np.median([queue.seconds(issue, hold_s)[0] for _ in range(_ROUNDS)]))
    return host_s, gpu_s, _wall_s(network)


def _wall_s(network: QueuedNetwork) -> float:
    """Median seconds of a network on the wall, its end waited for."""
    times = []
    for _ in range(_WALL_RUNS):
        torch.cuda.synchronize()
        begin_s = time.perf_counter()
        network.run()
        times.append(time.perf_counter() - begin_s)
    return float(np.median(times[_WALL_RUNS // 2 :]))


def _queued(network: Network) -> QueuedNetwork:
    assert isinstance(network, QueuedNetwork)
    return network


def _chain(length: int) -> Graph:
    """Convolutions with next to nothing to do: no runtime fuses one into another or leaves one out."""
    builder = GraphBuilder()
    x = builder.input((1, 8, 4, 4))
    for _ in range(length):
        x = builder.conv2d(x, 8, kernel=1)
    return builder.graph(x)
