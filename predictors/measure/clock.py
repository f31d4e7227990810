"""Times that repeat on a machine that others use too.

A shared machine drifts: its cores change their speed, neighbours fill the caches. So a reference runs before and after
every sample, and a sample counts in units of it. It is a block of a network and some matrix products in PyTorch, run
once before it is timed: products alone miss what busy neighbours do to caches, and a block that finds its own data and
code evicted would look slow after other runtimes and make them look fast (docs/decisions.md, 2026-11-25). On one thread
CPU time is read, which stands still while others run; it is the process's, since some runtimes compute on a thread of
their own.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[], object]

REFERENCE_KERNELS = {
    "cpu": (
        "PyTorch, warm: inverted residual block, 64 channels, 256 hidden, 3x3, 14x14, hardswish; 8 products of 128x128"
    ),
    "cuda": "PyTorch, warm: 10 products of 1024x1024 as the GPU times them",
}
"""By processor."""

_SAMPLE_S = 1e-3
_GPU_SAMPLE_S = 1e-2
_WARM_UP_RUNS = 20
_BEST_QUANTILE = 0.05
_LEAST_S = 1e-9
_FLUSHED_BYTES = 256 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True, slots=True)
class Sample:
    """One run.

    Attributes:
        seconds: as the clock reads them.
        wall_s: seconds on the wall; much more than `seconds` where others had the processor.
        reference_s: seconds of the reference, the mean of those before and after.
    """

    seconds: float
    wall_s: float
    reference_s: float


class Clock:
    """Reads times in seconds, and those of the reference beside them.

    On a GPU every run is waited for, and a buffer larger than its cache is written before it. Its reference is timed by
    the GPU itself: it tells of the GPU's clock, not of the host.

    Args:
        threads: of what is measured; above one, wall time is read, since CPU time would count all of them.
        processor: 'cpu' or 'cuda'.
        best_reference_s: what an earlier session on this machine found; a session that is never as fast counts in it.
    """

    def __init__(self, threads: int = 1, processor: str = "cpu", best_reference_s: float = inf) -> None:
        self.threads = threads
        self.processor = processor
        self.now = time.process_time if threads == 1 and processor == "cpu" else time.perf_counter
        self._reference = _reference(processor)
        self._flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device=processor) if self._on_gpu else None
        self._best_reference_s = best_reference_s
        self._reference_times: list[float] = []
        for _ in range(_WARM_UP_RUNS):
            self._read_reference()
        self._reference_times.clear()
        self._read_reference()
        self._read_s = _host_time_s(self.now, self.now, 1000)

    @property
    def reference_s(self) -> float:
        """Seconds of the reference at its best: a low quantile of all its times so far, or what was found earlier."""
        return min(self._best_reference_s, float(np.quantile(self._reference_times, _BEST_QUANTILE)))

    @property
    def drift(self) -> float:
        """How much slower than its best the reference was in the mean, e.g. 0.1 for a tenth."""
        return float(np.mean(self._reference_times)) / self.reference_s - 1.0

    def samples(self, run: Run, number: int) -> list[Sample]:
        """Run some times, with a reference before, between and after."""
        found = []
        before_s = self._read_reference()
        for _ in range(number):
            if self._flushed is not None:
                self._flushed.zero_()
                torch.cuda.synchronize()
            begin_wall, begin = time.perf_counter(), self.now()
            run()
            if self._on_gpu:
                torch.cuda.synchronize()
            end, end_wall = self.now(), time.perf_counter()
            after_s = self._read_reference()
            seconds = max(end - begin - self._read_s, _LEAST_S)
            found.append(Sample(seconds, end_wall - begin_wall, 0.5 * (before_s + after_s)))
            before_s = after_s
        return found

    def best_s(self, run: Run, visits: int = 3) -> float:
        """Seconds of one run, the least of a few visits: for peaks, which nothing can make look too good."""
        run()
        sample_s = _GPU_SAMPLE_S if self._on_gpu else _SAMPLE_S
        num_runs = max(1, int(sample_s / max(self._time_s(run, 1), 1e-9)))
        return min(self._time_s(run, num_runs) for _ in range(visits))

    @property
    def _on_gpu(self) -> bool:
        return self.processor == "cuda"

    def _time_s(self, run: Run, num_runs: int) -> float:
        return _gpu_time_s(run, num_runs) if self._on_gpu else _host_time_s(self.now, run, num_runs)

    def _read_reference(self) -> float:
        self._reference()
        seconds = self._time_s(self._reference, 1)
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


# ------------------------------------------------------------------------------------------------------------ private


def _host_time_s(now: Callable[[], float], run: Run, num_runs: int) -> float:
    begin_s = now()
    for _ in range(num_runs):
        run()
    return (now() - begin_s) / num_runs


def _gpu_time_s(run: Run, num_runs: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(num_runs):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3 / num_runs


def _reference(processor: str) -> Run:
    return _gpu_reference() if processor == "cuda" else _cpu_reference()


def _gpu_reference() -> Run:
    left, right, product = (torch.rand(1024, 1024, device="cuda") for _ in range(3))

    @torch.inference_mode()
    def run() -> None:
        for _ in range(10):
            torch.mm(left, right, out=product)

    return run


def _cpu_reference() -> Run:
    expand = nn.Conv2d(64, 256, 1)
    depthwise = nn.Conv2d(256, 256, 3, padding=1, groups=256)
    block = nn.Sequential(expand, nn.Hardswish(), depthwise, nn.Hardswish(), nn.Conv2d(256, 64, 1))
    block = block.eval()
    x_BCHW = torch.rand(1, 64, 14, 14)
    left, right, product = (torch.rand(128, 128) for _ in range(3))

    @torch.inference_mode()
    def run() -> Tensor:
        y_BCHW: Tensor = x_BCHW + block(x_BCHW)
        for _ in range(8):
            torch.mm(left, right, out=product)
        return y_BCHW

    return run
