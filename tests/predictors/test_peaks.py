import re

import numpy as np
import pytest
import torch

from predictors.measure.clock import Clock
from predictors.measure.peaks import (
    WORKING_SETS_BYTES,
    Bandwidth,
    arithmetic_peaks,
    bandwidths,
    chain_slope,
    launch_cost_s,
    memory_levels,
)

KIB, MIB = 2**10, 2**20


class FixedClock(Clock):
    """Runs nothing: a run takes a second, or what it is told in turn, the last of it for ever."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds or (1.0,))

    def best_s(self, run, visits: int = 3) -> float:
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def test_levels_of_memory_are_the_plateaus_of_the_bandwidth():
    """From the second on the larger half counts: (44, 41) of (40, 44, 41), 11 of (10, 11)."""
    sizes = [2**exponent for exponent in range(10, 18)]
    levels = memory_levels(sizes, [100, 104, 97, 40, 44, 41, 10, 11])
    assert [level.capacity_bytes for level in levels] == [2**12, 2**15, None]
    assert [level.bytes_per_s for level in levels] == [104, 44, 11]


def test_levels_never_get_faster_with_size():
    """A small working set that noise made slow is a part of its neighbours' level."""
    levels = memory_levels([1, 2, 4, 8, 16], [60, 100, 90, 20, 30])
    assert [level.capacity_bytes for level in levels] == [4, None]
    assert len(memory_levels([1, 2, 4], [10, 20, 30])) == 1
    assert memory_levels([8], [10])[0].capacity_bytes is None


def test_a_working_set_between_two_levels_belongs_to_the_nearer_one_and_makes_none_of_its_own():
    """ln(100 / 60) = 0.51 and ln(60 / 20) = 1.10; ln(100 / 35) = 1.05 and ln(35 / 20) = 0.56."""
    sizes = [1, 2, 4, 8, 16, 32, 64]
    for between, capacity in ((60.0, 8), (35.0, 4)):
        levels = memory_levels(sizes, [100, 100, 100, between, 20, 20, 20])
        assert [level.capacity_bytes for level in levels] == [capacity, None]
        assert [level.bytes_per_s for level in levels] == [100, 20]


def test_what_the_cache_before_still_holds_does_not_count_for_a_level():
    levels = memory_levels([2**k for k in range(10)], [200, 200, 200, 200, 29, 24, 20, 21, 20, 20])
    assert [level.bytes_per_s for level in levels] == [200, 21]


@pytest.mark.parametrize("seed", range(10))
def test_the_caches_of_a_made_up_machine_are_found_through_noise(seed):
    """Time of a byte in a working set W beyond a capacity C: a share C / W of the bytes is still served by the cache.
    Noise only ever slows down, by a twentieth in the mean.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array(WORKING_SETS_BYTES["cpu"])
    capacities, speeds = (32 * KIB, 512 * KIB, 16 * MIB), (200e9, 140e9, 75e9, 30e9)
    seconds_per_byte = np.full(len(sizes), 1.0 / speeds[0])
    for capacity, slower, faster in zip(capacities, speeds[1:], speeds):
        missed = np.clip(2.0 * (1.0 - capacity / sizes), 0.0, 1.0)
        seconds_per_byte += missed * (1.0 / slower - 1.0 / faster)
    noisy = 1.0 / (seconds_per_byte * (1.0 + rng.exponential(0.05, len(sizes))))
    levels = memory_levels(sizes.tolist(), noisy.tolist())
    assert len(levels) == 4
    for level, capacity, speed in zip(levels, (*capacities, None), speeds):
        assert level.bytes_per_s == pytest.approx(speed, rel=0.15)
        if capacity is not None:
            assert capacity / 1.5 <= level.capacity_bytes <= capacity * 1.5


@pytest.mark.parametrize(("sizes", "found"), [([], []), ([1, 2], [1.0])])
def test_levels_without_a_bandwidth_for_each_working_set_are_refused(sizes, found):
    with pytest.raises(ValueError, match=re.escape(f"found {found} for {sizes}")):
        memory_levels(sizes, found)


def test_a_chain_s_slope_is_that_of_a_line_and_ignores_what_every_chain_takes():
    """2 us a link and 5 us once; the middle one is 3 us late, which moves the mean and not the slope."""
    assert chain_slope([10, 20, 30], [25e-6, 48e-6, 65e-6]) == pytest.approx(2e-6)


def test_a_chain_s_slope_is_never_negative():
    assert chain_slope([1, 2], [2.0, 1.0]) == 0.0


@pytest.mark.parametrize(("lengths", "seconds"), [([4], [1.0]), ([4, 4], [1.0, 1.0]), ([4, 8], [1.0])])
def test_a_slope_of_one_length_is_refused(lengths, seconds):
    with pytest.raises(ValueError, match=re.escape(f"found {lengths} and {seconds}")):
        chain_slope(lengths, seconds)


def test_every_run_takes_a_second_so_the_peak_is_the_greatest_work():
    """3x3 from 256 to 256 channels, 56x56 pixels without padding: 2 * 256 * 256 * 9 * 54 * 54 = 3 439 853 568."""
    peak = arithmetic_peaks(FixedClock(), rounds=1)["float32"]
    assert peak.flops_per_s == 3_439_853_568
    assert peak.reached_by == "torch.conv2d 3x3 from 256 to 256 channels at 56x56, channels last"


def test_of_several_visits_the_quickest_counts():
    """Four float32 runs in each of two rounds, ten times quicker in the second; then bfloat16 and float16 crawl."""
    clock = FixedClock(*[10.0] * 4, *[1.0] * 4, 1e9)
    assert arithmetic_peaks(clock, rounds=2)["float32"].flops_per_s == 3_439_853_568


def test_a_dtype_that_is_emulated_has_no_peak():
    """Float32 takes a second a run, and then the other dtypes forty years, or a millisecond."""
    assert not {"bfloat16", "float16"} & set(arithmetic_peaks(FixedClock(*[1.0] * 4, 1e9), rounds=1))
    assert {"bfloat16", "float16"} <= set(arithmetic_peaks(FixedClock(*[1.0] * 4, 1e-3), rounds=1))


def test_what_the_patterns_read_and_write_counts():
    """In a second each. Of 4 MiB: accumulating reads both halves and writes one, 6 MiB; the others touch a byte once.
    Of 64 KiB 512 times over within a call: the first time is a copy, 64 KiB, the others 96 KiB each.
    """
    small, large = bandwidths(FixedClock(), (64 * KIB, 4 * MIB), rounds=1)
    assert large == Bandwidth(6 * MIB, "accumulating with NumPy")
    assert small == Bandwidth(64 * KIB + 511 * 96 * KIB, "accumulating with NumPy")


def test_threads_share_a_working_set():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counted = bandwidths(FixedClock(), (64 * KIB, 4 * MIB), rounds=1)
        timed = bandwidths(Clock(threads=2), (64 * KIB, 4 * MIB), rounds=1)
    finally:
        torch.set_num_threads(before)
    assert counted[1].bytes_per_s == 6 * MIB
    # a half of the working set twice as often, on each of two threads
    assert counted[0].bytes_per_s == 2 * (32 * KIB + 1023 * 48 * KIB)
    assert all(1e8 < found.bytes_per_s < 1e13 for found in timed)


def test_bandwidths_come_in_the_order_of_their_working_sets():
    sizes = (4 * MIB, 2 * MIB, 4 * MIB)
    assert [found.bytes_per_s for found in bandwidths(FixedClock(), sizes, rounds=1)] == [6 * MIB, 3 * MIB, 6 * MIB]


def test_peaks_are_those_of_a_computer():
    clock = Clock()
    for peak in arithmetic_peaks(clock, rounds=1).values():
        assert 1e8 < peak.flops_per_s < 1e15
    assert 0.0 < launch_cost_s(clock) < 1e-3
    for found in bandwidths(clock, (64 * KIB, 4 * MIB), rounds=1):
        assert 1e8 < found.bytes_per_s < 1e13


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_multiplies_faster_in_half_precision_and_its_cache_is_faster_than_its_memory():
    clock = Clock(processor="cuda")
    peaks = arithmetic_peaks(clock, "cuda", rounds=1)
    assert peaks["float16"].flops_per_s > peaks["float32"].flops_per_s
    cache, memory = bandwidths(clock, (2**24 + 2**12, 2**30 + 2**12), "cuda", rounds=1)
    assert cache.bytes_per_s > memory.bytes_per_s > 1e10
