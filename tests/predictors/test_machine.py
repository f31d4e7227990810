"""What calling a network takes the host, split into the call and its kernels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.measure.machine import split_host

COUNTS = [(37, 38), (62, 64), (69, 87), (20, 90)]


def host_of(call_s: float, library_s: float, own_s: float) -> list[float]:
    return [call_s + library * library_s + own * own_s for library, own in COUNTS]


@given(call_us=st.floats(50.0, 400.0), library_us=st.floats(2.0, 30.0), own_us=st.floats(2.0, 30.0))
def test_known_shares_are_found_again(call_us, library_us, own_us):
    """Three networks wait for the GPU (it takes 1 s): wall = 1 s + call. The fourth waits for the host."""
    host_s = host_of(call_us * 1e-6, library_us * 1e-6, own_us * 1e-6)
    gpu_s = [1.0, 1.0, 1.0, 1e-4]
    wall_s = [*(seconds + call_us * 1e-6 for seconds in gpu_s[:3]), host_s[3]]
    found = split_host(host_s, gpu_s, wall_s, COUNTS)
    assert found.of_network == pytest.approx(call_us * 1e-6, rel=1e-6)
    assert found.of_class["conv2d"] == pytest.approx(library_us * 1e-6, rel=1e-4)
    assert found.of_class["activation"] == pytest.approx(own_us * 1e-6, rel=1e-4)


def test_where_all_networks_wait_for_the_host_the_call_is_at_most_what_any_takes_beyond_the_gpu():
    host_s = host_of(100e-6, 10e-6, 10e-6)
    gpu_s = [0.5 * seconds for seconds in host_s]
    found = split_host(host_s, gpu_s, host_s, COUNTS)
    assert found.of_network == pytest.approx(min(host_s) / 2)


def test_no_share_is_negative_where_the_times_contradict_each_other():
    found = split_host([1e-3, 0.5e-3, 2e-3, 0.1e-3], [2e-3] * 4, [2e-3] * 4, COUNTS)
    assert all(np.array(list(found.of_class.values())) > 0.0)
    assert found.of_network > 0.0
