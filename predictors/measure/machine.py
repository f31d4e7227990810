"""A machine's own numbers as they stand in a device file, and what launching a kernel costs under a runtime."""

from dataclasses import dataclass
from typing import Any

import torch

from predictors.graph import Graph, GraphBuilder
from predictors.measure.backend import Backend
from predictors.measure.clock import Clock
from predictors.measure.device_file import measured_source, quantity
from predictors.measure.peaks import WORKING_SETS_BYTES, arithmetic_peaks, bandwidths, chain_slope, memory_levels
from predictors.measure.session import Settings, whole_network_seconds

_CHAIN_LENGTHS = (16, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNumbers:
    """Plain mappings of a device file: `peak` by dtype, and levels of `memory`."""

    peak: dict[str, Any]
    memory: list[dict[str, Any]]


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
    )


def launch_s(backend: Backend, clock: Clock, settings: Settings) -> float:
    """Seconds that one more tiny kernel adds to a chain of them, under the runtime."""
    seconds = whole_network_seconds([_chain(length) for length in _CHAIN_LENGTHS], backend, clock, settings)
    return chain_slope(_CHAIN_LENGTHS, seconds) or seconds[-1] / _CHAIN_LENGTHS[-1]


# ------------------------------------------------------------------------------------------------------------ private


def _chain(length: int) -> Graph:
    """Convolutions with next to nothing to do: no runtime fuses one into another or leaves one out."""
    builder = GraphBuilder()
    x = builder.input((1, 8, 4, 4))
    for _ in range(length):
        x = builder.conv2d(x, 8, kernel=1)
    return builder.graph(x)
