import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Cost, device_from_mapping, kernel_cost, load_device, roofline
from predictors.device import ClassEfficiency
from predictors.fusion import make_kernel
from predictors.operators import Conv2d
from predictors.roofline import class_latency_s


def quantity(value, unit):
    return {"value": value, "unit": unit, "source": "made for tests"}


MAPPING = {
    "name": "toy", "description": "", "runtime": "torch_eager", "dtype": "float32",
    "peak": {"float32": quantity(100, "GFLOP/s"), "float16": quantity(200, "GFLOP/s")},
    "memory": [{"name": "dram", "bandwidth": quantity(10, "GB/s")}],
}  # fmt: skip
TOY = device_from_mapping(MAPPING)
CACHED = device_from_mapping(
    {
        **MAPPING,
        "memory": [
            {"name": "l1", "capacity": quantity(1, "kB"), "bandwidth": quantity(100, "GB/s")},
            {"name": "l2", "capacity": quantity(1, "MB"), "bandwidth": quantity(50, "GB/s")},
            {"name": "dram", "bandwidth": quantity(10, "GB/s")},
        ],
    }
)
MOBILE_GPU = load_device("mobile_gpu")
LAUNCHED = device_from_mapping({**MAPPING, "launch": quantity(20, "us")})


def test_the_ridge_point_is_peak_over_bandwidth():
    assert TOY.ridge_point() == 10.0  # 100e9 FLOP/s / 10e9 byte/s
    assert TOY.ridge_point("float16") == 20.0


def test_attainable_performance_rises_to_the_ridge_and_stays():
    assert TOY.attainable_flops(2.5) == 25e9
    assert TOY.attainable_flops(10.0) == 100e9
    assert TOY.attainable_flops(1000.0) == 100e9


def test_a_dense_kernel_is_bound_by_compute():
    found = roofline(Cost(macs=10**9, read_bytes=10**6), TOY)
    assert (found.compute_s, found.memory_s) == (0.02, 1e-4)  # 2e9 / 100e9, 1e6 / 10e9
    assert (found.latency_s, found.bound) == (0.02, "compute")
    assert roofline(Cost(macs=10**9), TOY, "float16").latency_s == 0.01


def test_a_copy_is_bound_by_memory_and_never_free():
    found = roofline(Cost(read_bytes=10**7, write_bytes=10**7), TOY)
    assert (found.latency_s, found.bound) == (2e-3, "memory")


def test_launching_adds_to_the_time_and_can_bound_it():
    found = roofline(Cost(macs=10**5, read_bytes=1000), LAUNCHED)
    assert found.latency_s == pytest.approx(2e-6 + 20e-6)
    assert found.bound == "launch"
    assert roofline(Cost(macs=10**9), LAUNCHED).bound == "compute"


@pytest.mark.parametrize(
    ("traffic_bytes", "bandwidth"), [(1000, 100e9), (1001, 50e9), (10**6, 50e9), (10**6 + 1, 10e9)]
)
def test_the_smallest_memory_that_holds_the_working_set_sets_the_bandwidth(traffic_bytes, bandwidth):
    assert roofline(Cost(read_bytes=traffic_bytes), CACHED).memory_s == pytest.approx(traffic_bytes / bandwidth)


def test_a_dtype_without_a_peak_is_an_error():
    with pytest.raises(
        ValueError, match=r"device 'toy' has no peak for dtype 'int8'; it lists \['float32', 'float16'\]"
    ):
        roofline(Cost(macs=1), TOY, "int8")


def test_shares_of_the_peaks_add_up_to_the_time_of_a_class():
    shares = ClassEfficiency(compute=0.5, read=0.25, write=0.8, fixed_s=1e-5, spread=0.1, source="made for tests")
    cost = Cost(macs=10**6, read_bytes=3000, weight_bytes=7000, write_bytes=8000)
    # 2e6 / (0.5 * 100e9) + (3000 + 7000) / (0.25 * 10e9) + 8000 / (0.8 * 10e9) + 1e-5
    assert class_latency_s(cost, TOY, shares) == pytest.approx(40e-6 + 4e-6 + 1e-6 + 10e-6)


def convolution(in_channels, out_channels, size, kernel):
    conv = Conv2d(
        in_channels=in_channels, out_channels=out_channels, height=size, width=size, kernel=(kernel, kernel),
        padding=(kernel // 2, kernel // 2),
    )  # fmt: skip
    return make_kernel(conv, (), "float16")


@settings(deadline=None)
@given(
    in_channels=st.integers(1, 300),
    out_channels=st.integers(1, 300),
    size=st.integers(1, 64),
    kernel=st.sampled_from([1, 3, 5]),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from([0, 2])),
    device=st.sampled_from([TOY, CACHED, LAUNCHED, MOBILE_GPU]),
)
def test_latency_never_falls_when_work_is_added(in_channels, out_channels, size, kernel, more, device):
    small = kernel_cost(convolution(in_channels, out_channels, size, kernel), device.channel_alignment)
    large = kernel_cost(
        convolution(in_channels + more[0], out_channels + more[1], size + more[2], kernel + more[3]),
        device.channel_alignment,
    )
    assert roofline(large, device, "float16").latency_s >= roofline(small, device, "float16").latency_s
    for shares in device.efficiency.get("float16", {}).values():
        assert class_latency_s(large, device, shares, "float16") >= class_latency_s(small, device, shares, "float16")


@settings(deadline=None)
@given(size=st.integers(1, 64), channels=st.integers(1, 300), kernel=st.sampled_from([1, 3]))
def test_fitted_shares_never_beat_the_roofline(size, channels, kernel):
    device = MOBILE_GPU
    cost = kernel_cost(convolution(channels, channels, size, kernel), device.channel_alignment)
    for dtype, classes in device.efficiency.items():
        for shares in classes.values():
            assert class_latency_s(cost, device, shares, dtype) >= roofline(cost, device, dtype).latency_s
