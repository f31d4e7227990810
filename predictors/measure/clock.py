"""Times that repeat on a machine that others use too.

A shared machine drifts: its cores change their speed, neighbours fill the caches. So a small matrix product, the
reference, runs before and after every sample; a sample counts in units of it; every network is visited several times,
in random order; and on one thread the thread's own CPU time is read, which stands still while others run.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from predictors.fusion import Kernel
from predictors.lookup_table import Measurement
from predictors.measure.torch_network import TorchNetwork

Run = Callable[[], object]
_Sample = TypeVar("_Sample")

REFERENCE_SIZE = 128
REFERENCE_KERNEL = f"matmul(left=({REFERENCE_SIZE}, {REFERENCE_SIZE}), right=({REFERENCE_SIZE}, {REFERENCE_SIZE}))"

_VISITS = 4
_RUNS = 5
_SAMPLE_S = 1e-3
_REFERENCE_RUNS = 4
_BEST_QUANTILE = 0.05
_LEAST_S = 1e-9
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Clock:
    """Reads times in seconds as they would be while the reference runs at its best.

    Args:
        threads: of the measured kernels; above one, wall time is read, since CPU time would count all of them.
    """

    def __init__(self, threads: int = 1) -> None:
        self._now = time.thread_time if threads == 1 else time.perf_counter
        left = torch.rand(REFERENCE_SIZE, REFERENCE_SIZE)
        right, product = torch.rand_like(left), torch.empty_like(left)
        self._reference: Run = lambda: torch.mm(left, right, out=product)
        self._reference_times: list[float] = []
        for _ in range(20):
            self._read_reference()
        self._read_s = self._time_s(self._now, 1000)

    @property
    def reference_s(self) -> float:
        """Seconds of the reference at its best: a low quantile of all its times so far."""
        return float(np.quantile(self._reference_times, _BEST_QUANTILE))

    def best_s(self, run: Run, visits: int = 3) -> float:
        """Seconds of one run, the least of a few visits: for peaks."""
        run()
        num_runs = max(1, int(_SAMPLE_S / max(self._time_s(run, 1), 1e-9)))
        samples = [self._between_references(lambda: self._time_s(run, num_runs)) for _ in range(visits)]
        return min(seconds / reference_s for seconds, reference_s in samples) * self.reference_s

    def visit(self, network: TorchNetwork) -> NDArray[np.float64]:
        """Run a network a few times after a warm-up; the median time of each node, in units of the reference."""
        network.run(self._now)
        ratios = []
        for _ in range(_RUNS):
            times, reference_s = self._between_references(lambda: network.run(self._now))
            ratios.append(np.maximum(np.diff(times) - self._read_s, _LEAST_S) / reference_s)
        ratio_N: NDArray[np.float64] = np.median(ratios, axis=0)
        return ratio_N

    def _between_references(self, sample: Callable[[], _Sample]) -> tuple[_Sample, float]:
        before_s = self._read_reference()
        found = sample()
        return found, 0.5 * (before_s + self._read_reference())

    def _time_s(self, run: Run, num_runs: int) -> float:
        begin = self._now()
        for _ in range(num_runs):
            run()
        return (self._now() - begin) / num_runs

    def _read_reference(self) -> float:
        seconds = self._time_s(self._reference, _REFERENCE_RUNS)
        self._reference_times.append(seconds)
        return seconds


def keep_freed_memory() -> None:
    """Let the process keep memory that tensors have freed, where its C library is glibc.

    By default glibc gives it back when it happens to lie at the end of the heap, and the kernel clears it page by page
    when the next tensor asks for it: the same network took 2.5 or 5.9 ms, by what had been allocated before it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)


def measure_kernels(
    networks: Sequence[tuple[TorchNetwork, Mapping[int, Kernel]]], clock: Clock, rng: np.random.Generator
) -> dict[Kernel, Measurement]:
    """Median time of each kernel in its place in the networks, from separate visits in random order.

    Why in place: in a loop by itself a kernel finds its weights, its code and the memory that it writes in the nearest
    cache. Sums of such times were 45 % below whole networks.

    The spread is the standard deviation between visits and places over the root of their number. A few can agree by
    chance, so a kernel's deviation counts as at least the median of all kernels that are measured with it.

    Args:
        networks: with the kernel of each node; nodes without one, such as views, run unmeasured.
    """
    if not networks:
        return {}
    found: dict[Kernel, list[float]] = {}
    for _ in range(_VISITS):
        for index in rng.permutation(len(networks)):
            network, kernels = networks[index]
            for node, ratio in zip(network.nodes, clock.visit(network)):
                if node in kernels:
                    found.setdefault(kernels[node], []).append(ratio)
    reference_s = clock.reference_s
    typical = float(np.median([np.std(ratios, ddof=1) / np.median(ratios) for ratios in found.values()]))
    return {
        kernel: Measurement(
            latency_p50_s=float(np.median(ratios)) * reference_s,
            spread=max(float(np.std(ratios, ddof=1) / np.median(ratios)), typical) / sqrt(len(ratios)),
            num_runs=_RUNS * len(ratios),
        )
        for kernel, ratios in found.items()
    }
