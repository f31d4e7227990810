"""What is predicted where a device has no efficiency for a kernel's class."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import GraphBuilder, LatencyPredictor, available_devices, device_from_mapping, load_device
from predictors.device import DeviceNotMeasuredError, Quantity
from predictors.fusion import make_kernel
from predictors.operators import Conv2d

NUMBER = {"source": "made for tests"}
MAPPING = {
    "name": "toy", "description": "", "runtime": "tensorrt", "dtype": "float16",
    "peak": {"float16": {"value": 1, "unit": "TFLOP/s", **NUMBER}},
    "memory": [{"name": "dram", "bandwidth": {"value": 100, "unit": "GB/s", **NUMBER}}],
}  # fmt: skip
CONV = make_kernel(Conv2d(in_channels=8, out_channels=16, height=10, width=10, kernel=(1, 1)), (), "float16")
FLOPS = 2 * 8 * 16 * 100
READ = 2 * (8 * 100 + 8 * 16)  # inputs and weights, two bytes each
WRITTEN = 2 * 16 * 100


def shipped_devices():
    for name in available_devices():
        try:
            yield load_device(name)
        except DeviceNotMeasuredError:
            continue


DEVICES = {device.name: device for device in shipped_devices()}


def test_an_unknown_class_reaches_the_shares_that_kernels_reach_elsewhere():
    estimate = LatencyPredictor(device_from_mapping(MAPPING)).estimate(CONV)
    expected_s = FLOPS / (0.57 * 1e12) + READ / (0.26 * 1e11) + WRITTEN / (0.79 * 1e11) + 13e-6
    assert estimate.latency_s == pytest.approx(expected_s)
    assert estimate.std_s == pytest.approx(0.7 * expected_s)
    assert estimate.provenance == "roofline"


def test_a_known_launch_cost_takes_the_place_of_the_usual_one():
    device = replace(device_from_mapping(MAPPING), launch=Quantity(value=1e-4, source="made for tests"))
    expected_s = FLOPS / (0.57 * 1e12) + READ / (0.26 * 1e11) + WRITTEN / (0.79 * 1e11) + 1e-4
    assert LatencyPredictor(device).estimate(CONV).latency_s == pytest.approx(expected_s)


def test_a_class_for_any_kernel_serves_those_without_their_own():
    one = {"compute": 0.5, "read": 0.5, "write": 0.5, "spread": 0.3, "source": "made for tests"}
    own = {**one, "compute": 0.25}
    kernels = (
        CONV,
        make_kernel(Conv2d(in_channels=8, out_channels=16, height=10, width=10, kernel=(3, 3)), (), "float16"),
    )
    device = device_from_mapping({**MAPPING, "efficiency": {"float16": {"any": one, "conv2d_3x3": own}}})
    predictor = LatencyPredictor(device)
    assert predictor.estimate(kernels[0]).latency_s == pytest.approx(FLOPS / 0.5e12 + (READ + WRITTEN) / 0.5e11)
    # 8x8 outputs, nine times the weights: 2 * 8 * 16 * 9 * 64 flops, 2 * (800 + 1152 + 1024) bytes
    assert predictor.estimate(kernels[1]).latency_s == pytest.approx(147456 / 0.25e12 + 5952 / 0.5e11)


def test_edge_tpu_is_as_fast_as_the_network_that_its_bandwidth_was_derived_from():
    """MobileNet v2 (Sandler et al. 2018, arXiv:1801.04381, table 2) at almost 400 frames/s, data sheet 1.4."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 224, 224)), 32, 3, 2)
    channels = 32
    for expansion, out_channels, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for index in range(repeats):
            inner = x
            if expansion > 1:
                inner = builder.activation(builder.conv2d(x, channels * expansion, 1), "relu6")
            wide, step = channels * expansion, stride if index == 0 else 1
            inner = builder.activation(builder.conv2d(inner, wide, 3, step, groups=wide), "relu6")
            inner = builder.conv2d(inner, out_channels, 1)
            x = builder.elementwise("add", x, inner) if step == 1 and channels == out_channels else inner
            channels = out_channels
    x = builder.global_pool(builder.activation(builder.conv2d(x, 1280, 1), "relu6"))
    prediction = LatencyPredictor(load_device("edge_tpu")).predict(builder.graph(builder.conv2d(x, 1000, 1)))
    assert prediction.latency_s == pytest.approx(2.5e-3, rel=0.25)


@pytest.mark.parametrize("name", DEVICES)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_fused_addition_never_costs_more_than_one_by_itself(name, data):
    """By class efficiencies; of a measured machine within one level of memory: fusing enlarges the working set."""
    device = DEVICES[name]
    if device.tables:
        device = replace(device, memory=device.memory[-1:], tables=())
    size, channels = data.draw(st.integers(7, 300)), data.draw(st.integers(1, 600))
    window, batch = data.draw(st.sampled_from((1, 3, 5, 7))), data.draw(st.sampled_from((1, 64)))
    dtype = data.draw(st.sampled_from(device.dtypes))

    def graph(fused):
        builder = GraphBuilder()
        skip, x = (builder.input((batch, channels, size, size)) for _ in range(2))
        x = builder.conv2d(x, channels, window)
        outputs = (builder.elementwise("add", x, skip),) if fused else (builder.elementwise("add", x, skip), x)
        return builder.graph(*outputs)

    predictor = LatencyPredictor(device, dtype=dtype)
    assert predictor.predict(graph(fused=True)).latency_s <= predictor.predict(graph(fused=False)).latency_s


@pytest.mark.parametrize("name", DEVICES)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_latency_never_falls_when_work_is_added(name, data):
    device = DEVICES[name]
    sizes = {name: data.draw(st.integers(1, 300)) for name in ("in_channels", "out_channels")}
    more = {name: value + data.draw(st.integers(0, 100)) for name, value in sizes.items()}
    side, added = data.draw(st.integers(7, 200)), data.draw(st.integers(0, 50))
    predictor = LatencyPredictor(device, (), dtype=data.draw(st.sampled_from(device.dtypes)))
    seconds = [
        predictor.estimate(
            make_kernel(Conv2d(**each, height=height, width=height, kernel=(3, 3)), (), predictor.dtype)
        ).latency_s
        for each, height in ((sizes, side), (more, side + added))
    ]
    assert seconds[0] <= seconds[1]
