"""Seconds that a GPU itself takes: what is timed waits in its queue until all of it is there, so no host holds it up.

Events are recorded between the calls. What an event adds to the queue is measured on tiny kernels and taken off.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

Launch = Callable[[], object]
"""Issues work to the GPU without waiting for its end."""

_FILLER_BYTES = 2**31
_LARGEST_SHARE = 1 / 16
"""Of the GPU's memory, that the filler takes at most."""

_CALLS_AT_ONCE = 120
"""With an event each and a few kernels a call, far below the thousand or so that a queue holds."""

_HOLD_S = 4e-3
_MARGIN = 1.5
_EVENT_ISSUE_S = 5e-6
_ATTEMPTS = 3
_PROBES = 100
_ROUNDS = 9


class GpuQueue:
    """Times calls as the GPU runs them one after the other.

    Before every stretch of calls a buffer larger than the GPU's cache is written until the host has issued the whole
    stretch. So the first call of a stretch finds a cold cache, the others what those before them left, as in a network.
    A call that itself waits for the GPU cannot be issued ahead: its time holds the host's, as it does in deployment.

    Attributes:
        event_s: what an event between two kernels adds.
    """

    def __init__(self) -> None:
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        self._filler = torch.empty(
            min(_FILLER_BYTES, int(total_bytes * _LARGEST_SHARE)), dtype=torch.uint8, device="cuda"
        )
        self._fill_s = self._time_of_filling()
        self.event_s = 0.0
        tiny = torch.zeros(8, device="cuda")
        apart = [self.seconds(lambda: [tiny.relu_] * _PROBES).sum() for _ in range(_ROUNDS)]
        together = [self.seconds(lambda: [lambda: [tiny.relu_() for _ in range(_PROBES)]])[0] for _ in range(_ROUNDS)]
        self.event_s = max(0.0, float(np.median(apart) - np.median(together)) / (_PROBES - 1))

    def seconds(self, make_calls: Callable[[], Sequence[Launch]], hold_s: float = _HOLD_S) -> NDArray[np.float64]:
        """Seconds of each call on the GPU, in order.

        Args:
            make_calls: the calls anew, each time that they are issued.
            hold_s: for how long the GPU is held before each stretch, from `hold_s`; doubled a few times if too short.
        """
        for _ in range(_ATTEMPTS):
            calls = make_calls()
            found: list[float] = []
            was_ahead = True
            for start in range(0, len(calls), _CALLS_AT_ONCE):
                seconds, ahead = self._stretch(calls[start : start + _CALLS_AT_ONCE], hold_s)
                found += seconds
                was_ahead &= ahead
            if was_ahead:
                break
            hold_s *= 2.0
        return np.maximum(np.array(found) - self.event_s, 0.0)

    def hold_s(self, make_calls: Callable[[], Sequence[Launch]]) -> float:
        """For how long the GPU has to be held so that the host can issue any stretch of the calls ahead of it."""
        host_S = self.host_seconds(make_calls, rounds=2)
        stretches = [host_S[start : start + _CALLS_AT_ONCE] for start in range(0, len(host_S), _CALLS_AT_ONCE)]
        return _MARGIN * max(float(each.sum()) + len(each) * _EVENT_ISSUE_S for each in stretches)

    def host_seconds(self, make_calls: Callable[[], Sequence[Launch]], rounds: int = 30) -> NDArray[np.float64]:
        """Seconds in which the host issues each call, in order, as it does in deployment: medians, once warmed up."""
        found = []
        for _ in range(2 * rounds):
            calls = make_calls()
            torch.cuda.synchronize()
            times = [time.perf_counter()]
            for call in calls:
                call()
                times.append(time.perf_counter())
            torch.cuda.synchronize()
            found.append(np.diff(times))
        seconds: NDArray[np.float64] = np.median(found[rounds:], axis=0)
        return seconds

    def _stretch(self, calls: Sequence[Launch], hold_s: float) -> tuple[list[float], bool]:
        """Seconds between events, and whether all was issued before the GPU began."""
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]  # type: ignore[no-untyped-call]
        for _ in range(ceil(hold_s / self._fill_s)):
            self._filler.zero_()
        events[0].record()
        for call, event in zip(calls, events[1:]):
            call()
            event.record()
        was_ahead = not events[0].query()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) * 1e-3 for before, after in pairwise(events)], was_ahead

    def _time_of_filling(self) -> float:
        self._filler.zero_()
        torch.cuda.synchronize()
        begin_s = time.perf_counter()
        for _ in range(8):
            self._filler.zero_()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin_s) / 8
