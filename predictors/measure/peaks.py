"""What a machine can do at most: arithmetic, bandwidth by working set, and the cost of launching a kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from predictors.measure.clock import Clock

GEMM_SIZES = (256, 512, 1024)
WORKING_SETS_BYTES = tuple(2**exponent for exponent in range(16, 30))
CHAIN_LENGTHS = (16, 128)

_SAME_LEVEL = 1.35
"""Bandwidths of one level of memory lie within this factor."""


@dataclass(frozen=True, slots=True)
class Level:
    """A plateau of the bandwidth: up to `capacity_bytes` (None: any number of) bytes move at `bytes_per_s`."""

    bytes_per_s: float
    capacity_bytes: int | None


def gemm_peak(clock: Clock) -> tuple[float, int]:
    """The greatest FLOP/s of square float32 matrix products of several sizes, and the size that reached it."""
    found = []
    for size in GEMM_SIZES:
        left, right = torch.rand(size, size), torch.rand(size, size)
        product = torch.empty_like(left)
        seconds = clock.best_s(lambda left=left, right=right, product=product: torch.mm(left, right, out=product))  # type: ignore[misc]
        found.append((2 * size**3 / seconds, size))
    return max(found)


def copy_bandwidths(clock: Clock, working_sets_bytes: Sequence[int] = WORKING_SETS_BYTES) -> list[float]:
    """Bytes read and written per second by copies whose source and target fill a working set together.

    The time of a copy of one element, which is what calling it costs, is taken off.
    """
    source, target = torch.rand(1), torch.empty(1)
    call_s = clock.best_s(lambda: target.copy_(source))
    found = []
    for size in working_sets_bytes:
        source_N = torch.rand(size // 2 // 4)
        target_N = torch.empty_like(source_N)
        seconds = clock.best_s(lambda source=source_N, target=target_N: target.copy_(source))  # type: ignore[misc]
        found.append(size / max(seconds - call_s, 0.1 * seconds))
    return found


def memory_levels(working_sets_bytes: Sequence[int], bytes_per_s: Sequence[float]) -> list[Level]:
    """Levels of memory, the fastest first: plateaus of the bandwidth, once noise that makes it rise is averaged out.

    >>> [level.capacity_bytes for level in memory_levels([1, 2, 4, 8], [90.0, 95.0, 20.0, 21.0])]
    [2, None]
    """
    falling = _non_increasing(np.log(bytes_per_s))
    starts = [0]
    for index in range(1, len(falling)):
        if falling[starts[-1]] - falling[index] > np.log(_SAME_LEVEL):
            starts.append(index)
    ends = [*starts[1:], len(falling)]
    return [
        Level(
            bytes_per_s=float(np.exp(falling[start:end].mean())),
            capacity_bytes=working_sets_bytes[end - 1] if end < len(falling) else None,
        )
        for start, end in zip(starts, ends)
    ]


def launch_cost_s(clock: Clock) -> float:
    """Seconds that one more tiny kernel adds to a chain of them: the slope between a short and a long chain."""
    x = torch.zeros(8)
    layer = nn.ReLU()

    def chain(length: int) -> None:
        for _ in range(length):
            layer(x)

    seconds = [clock.best_s(lambda length=length: chain(length)) for length in CHAIN_LENGTHS]  # type: ignore[misc]
    (short, long), (short_s, long_s) = CHAIN_LENGTHS, seconds
    return max(long_s - short_s, 0.0) / (long - short) or long_s / long


def _non_increasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest non-increasing sequence in least squares: neighbours that rise are pooled into their mean.

    Source: Barlow et al., "Statistical Inference under Order Restrictions", 1972, pool-adjacent-violators.
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] < mean:
            before, members = pools.pop()
            mean = (before * members + mean * count) / (members + count)
            count += members
        pools.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in pools])
