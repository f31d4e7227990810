from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import (
    GraphBuilder,
    LatencyPredictor,
    LookupTable,
    Measurement,
    TableHeader,
    append_measurement,
    device_from_mapping,
    fuse,
    kernel_cost,
    load_device,
    load_runtime,
    roofline,
)


def quantity(value, unit):
    return {"value": value, "unit": unit, "source": "made for tests"}


def efficiency(**numbers):
    return {"compute": 0.5, "read": 0.5, "write": 0.5, "spread": 0.2, "source": "made for tests"} | numbers


MAPPING = {
    "name": "toy", "description": "", "runtime": "torch_eager", "dtype": "float32",
    "peak": {"float32": quantity(100, "GFLOP/s"), "float16": quantity(200, "GFLOP/s")},
    "memory": [{"name": "dram", "bandwidth": quantity(10, "GB/s")}],
    "launch": quantity(2, "us"),
    "efficiency": {dtype: {"conv2d": efficiency(), "relu": efficiency()} for dtype in ("float32", "float16")},
}  # fmt: skip
TOY = device_from_mapping(MAPPING)
HEADER = TableHeader(
    device="toy", runtime="torch_eager", runtime_version="1", dtype="float32", threads=1, date="2026-01-01",
    reference_kernel="",
)  # fmt: skip
RUNTIME = load_runtime("torch_eager")


def network(*widths, size=16, kernel=3):
    """Convolutions of these widths, each with a relu."""
    builder = GraphBuilder()
    x = builder.input((1, 3, size, size))
    for index, width in enumerate(widths):
        x = builder.activation(builder.conv2d(x, width, kernel=kernel, name=f"conv{index}"), "relu", f"relu{index}")
    return builder.graph(x)


def kernels_of(graph):
    return [node.kernel for node in fuse(graph, RUNTIME, "float32")]


def table(times, spread=0.0, **header):
    entries = {
        kernel: Measurement(latency_p50_s=seconds, spread=spread, num_runs=9) for kernel, seconds in times.items()
    }
    return LookupTable(header=replace(HEADER, **header), entries=entries)


def test_without_table_a_kernel_takes_its_class_shares_of_the_peaks():
    shares = efficiency(compute=0.25, read=0.5, write=0.1, fixed_s=3e-6)
    device = device_from_mapping(MAPPING | {"efficiency": {"float32": {"conv2d": shares, "relu": efficiency()}}})
    prediction = LatencyPredictor(device, []).predict(network(8))
    conv, relu = prediction.kernels
    # 16 * 16 * 8 * 27 macs at 25 GFLOP/s; 3 * 256 inputs, 8 * 27 weights at 5 GB/s; 8 * 256 outputs at 1 GB/s; 3 us
    assert conv.latency_s == pytest.approx(2 * 55296 / 25e9 + 4 * (768 + 216) / 5e9 + 4 * 2048 / 1e9 + 3e-6)
    assert relu.latency_s == pytest.approx(4 * 2048 / 5e9 + 4 * 2048 / 5e9)
    assert conv.std_s == pytest.approx(0.2 * conv.latency_s)
    assert [row.provenance for row in prediction.kernels] == ["roofline", "roofline"]
    assert [row.bound for row in prediction.kernels] == ["launch", "launch"]
    assert [row.name for row in prediction.kernels] == ["conv0", "relu0"]
    assert prediction.coverage == 0.0


def test_a_kernel_of_no_known_class_takes_its_roofline_or_more_and_is_unsure():
    kernel = kernels_of(network(8))[0]
    estimate = LatencyPredictor(device_from_mapping(MAPPING | {"efficiency": {}}), []).estimate(kernel)
    assert estimate.provenance == "roofline"
    assert estimate.latency_s >= roofline(estimate.cost, TOY).latency_s
    assert estimate.std_s > 0.5 * estimate.latency_s


def test_a_clean_measurement_is_returned_as_it_is():
    graph = network(8)
    times = dict(zip(kernels_of(graph), (7.7e-5, 3.3e-6)))
    prediction = LatencyPredictor(TOY, [table(times)]).predict(graph)
    assert [row.provenance for row in prediction.kernels] == ["measured", "measured"]
    assert [row.latency_s for row in prediction.kernels] == pytest.approx([7.7e-5, 3.3e-6], rel=1e-12)
    assert prediction.latency_s == pytest.approx(8.03e-5)
    assert prediction.std_s == pytest.approx(0.05 * 8.03e-5), "only what the whole table shares"
    assert prediction.coverage == 1.0


def test_a_clean_measurement_wins_over_measured_neighbours():
    graphs = [network(width) for width in range(4, 48, 4)]
    times = {kernels_of(graph)[0]: 1e-4 for graph in graphs}
    odd = kernels_of(graphs[5])[0]
    assert LatencyPredictor(TOY, [table(times | {odd: 9e-4})]).estimate(odd).latency_s == pytest.approx(9e-4)
    noisy = LatencyPredictor(TOY, [table(times | {odd: 9e-4}, spread=0.5)]).estimate(odd)
    assert noisy.latency_s < 6e-4, "its neighbours smooth a noisy one"
    assert noisy.provenance == "measured"


def test_each_kernel_says_where_its_time_comes_from():
    measured = [network(width) for width in range(4, 48, 4)]
    times = {kernels_of(graph)[0]: 1e-4 for graph in measured}
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 16, 16)), 8, kernel=3)
    x = builder.activation(builder.conv2d(x, 10, kernel=3), "relu")
    prediction = LatencyPredictor(TOY, [table(times)]).predict(builder.graph(builder.global_pool(x)))
    rows = prediction.kernels
    assert [row.provenance for row in rows] == ["measured", "interpolated", "roofline", "roofline"]
    assert rows[2].std_s == pytest.approx(0.2 * rows[2].latency_s), "the spread of its class"
    assert rows[3].std_s > 0.5 * rows[3].latency_s, "no class, no table"
    by_provenance = prediction.time_by_provenance
    assert by_provenance["measured"] == pytest.approx(1e-4)
    assert by_provenance["interpolated"] == rows[1].latency_s
    assert by_provenance["roofline"] == pytest.approx(rows[2].latency_s + rows[3].latency_s)
    assert prediction.coverage == pytest.approx(1e-4 / sum(by_provenance.values()))


def test_the_most_specific_class_counts():
    classes = {"conv2d": efficiency(compute=0.1), "conv2d_3x3": efficiency(compute=0.01, spread=0.4)}
    device = device_from_mapping(MAPPING | {"efficiency": {"float32": classes}})
    row = LatencyPredictor(device, []).predict(network(8)).kernels[0]
    assert row.std_s == pytest.approx(0.4 * row.latency_s)


def test_deviations_of_one_class_add_up_and_those_of_measured_kernels_do_not():
    graph = network(8, 8, 8)
    kernels = kernels_of(graph)
    rough = LatencyPredictor(TOY, []).predict(graph)
    convs = sum(row.std_s for row in rough.kernels if row.kernel.kind == "conv2d")
    relus = sum(row.std_s for row in rough.kernels if row.kernel.kind == "relu")
    assert rough.std_s == pytest.approx(sqrt(convs**2 + relus**2))
    measured = LatencyPredictor(TOY, [table(dict.fromkeys(kernels, 1e-4), spread=0.1)]).predict(graph)
    assert measured.std_s == pytest.approx(sqrt(6 * 1e-5**2 + (0.05 * 6e-4) ** 2)), "and what the table shares"


def test_the_time_is_that_of_the_kernels_and_the_overhead():
    device = device_from_mapping(
        MAPPING | {"network_overhead": quantity(100, "us"), "kernel_overhead": quantity(1, "us")}
    )
    graph = network(8, 16, 24)
    prediction = LatencyPredictor(device, []).predict(graph)
    assert prediction.overhead_s == pytest.approx(100e-6 + 6 * 1e-6)
    kernels_s = sum(row.latency_s for row in prediction.kernels)
    assert prediction.latency_s == pytest.approx(kernels_s + prediction.overhead_s)
    assert sum(prediction.time_by_provenance.values()) == pytest.approx(kernels_s)


def test_kernels_inside_a_network_take_another_time_than_by_themselves():
    """0.9 times as long, and the overheads on top; rows and overhead still add up to the whole."""
    graph = network(8, 16)
    alone = LatencyPredictor(TOY, []).predict(graph)
    corrections = {
        "in_network": quantity(0.9, "1"), "network_overhead": quantity(50, "us"), "kernel_overhead": quantity(3, "us"),
    }  # fmt: skip
    prediction = LatencyPredictor(device_from_mapping(MAPPING | corrections), []).predict(graph)
    assert prediction.latency_s == pytest.approx(0.9 * alone.latency_s + 50e-6 + 4 * 3e-6)
    assert prediction.std_s == pytest.approx(0.9 * alone.std_s)
    assert [row.latency_s for row in prediction.kernels] == pytest.approx(
        [0.9 * row.latency_s for row in alone.kernels]
    )
    assert sum(prediction.time_by_provenance.values()) + prediction.overhead_s == pytest.approx(prediction.latency_s)
    assert [estimate.latency_s for estimate in prediction.estimates] == [row.latency_s for row in alone.kernels]


def test_where_kernels_queue_a_network_takes_the_longer_of_issuing_and_running_them():
    """4 kernels: a host that needs 1 us for each is hidden; one that needs 1 ms is all that counts."""
    graph = network(8, 16)
    overhead = MAPPING | {"network_overhead": quantity(50, "us")}
    alone = LatencyPredictor(device_from_mapping(overhead), []).predict(graph)
    fast, slow = (
        LatencyPredictor(device_from_mapping(overhead | {"host_launch": quantity(each, "us")}), []).predict(graph)
        for each in (1, 1000)
    )
    assert fast.latency_s == pytest.approx(alone.latency_s)
    assert slow.latency_s == pytest.approx(50e-6 + 4 * 1e-3)
    of_class = {"host_launch": quantity(1000, "us"), "host_launch_of": {"conv2d": quantity(3000, "us")}}
    by_class = LatencyPredictor(device_from_mapping(overhead | of_class), []).predict(graph)
    num_convolutions = sum(row.kernel.kind == "conv2d" for row in slow.kernels)
    assert by_class.latency_s == pytest.approx(50e-6 + 4e-3 + num_convolutions * 2e-3)
    assert num_convolutions in (1, 2, 3)
    assert sum(row.latency_s for row in slow.kernels) + slow.overhead_s == pytest.approx(slow.latency_s)


def test_where_networks_were_compared_their_spread_takes_the_place_of_what_kernels_err_together():
    graph = network(8, 8, 8)
    kernels = kernels_of(graph)
    device = device_from_mapping(
        MAPPING | {"network_spread": quantity(0.04, "1"), "network_overhead": quantity(100, "us")}
    )
    rough = LatencyPredictor(device, []).predict(graph)
    alone = sum(row.std_s**2 for row in rough.kernels)
    assert rough.std_s == pytest.approx(sqrt(alone + (0.04 * rough.latency_s) ** 2))
    measured = LatencyPredictor(device, [table(dict.fromkeys(kernels, 1e-4), spread=0.1)]).predict(graph)
    assert measured.latency_s == pytest.approx(6e-4 + 1e-4)
    assert measured.std_s == pytest.approx(sqrt(6 * 1e-5**2 + (0.04 * 7e-4) ** 2))


def test_costs_are_those_of_all_kernels():
    graph = network(8, 16)
    prediction = LatencyPredictor(TOY, []).predict(graph)
    costs = [row.cost for row in prediction.kernels]
    assert prediction.traffic_bytes == sum(cost.traffic_bytes for cost in costs)
    assert prediction.cost.macs == sum(cost.macs for cost in costs) == prediction.macs == graph.macs
    assert prediction.num_params == graph.num_params
    assert prediction.num_kernels == len(costs) == 4
    assert prediction.arithmetic_intensity == 2 * prediction.macs / prediction.traffic_bytes
    assert costs == [kernel_cost(kernel) for kernel in kernels_of(graph)]


def test_energy_is_counted_from_what_the_device_gives():
    graph = network(8)
    with pytest.raises(ValueError, match="device 'toy' gives no energy per MAC or byte"):
        _ = LatencyPredictor(TOY, []).predict(graph).energy_j
    device = device_from_mapping(MAPPING | {"energy_per_mac": quantity(2, "pJ"), "energy_per_byte": quantity(50, "pJ")})
    prediction = LatencyPredictor(device, []).predict(graph)
    assert prediction.energy_j == pytest.approx(2e-12 * prediction.macs + 50e-12 * prediction.traffic_bytes)


def test_half_the_bytes_and_twice_the_peak_take_half_the_time():
    single, half = (LatencyPredictor(TOY, [], dtype=dtype).predict(network(8)) for dtype in ("float32", "float16"))
    assert half.dtype == "float16"
    assert half.latency_s == pytest.approx(single.latency_s / 2)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(
        ValueError, match=r"device 'toy' has no peak for dtype 'int8'; it lists \['float32', 'float16'\]"
    ):
        LatencyPredictor(TOY, [], dtype="int8")


@pytest.mark.parametrize(("field", "value"), [("device", "v100"), ("runtime", "onnxruntime"), ("dtype", "float16")])
def test_a_table_of_another_device_runtime_or_dtype_is_refused(field, value):
    with pytest.raises(ValueError, match=f"the table was measured with {field} '{value}'; the predictor is for"):
        LatencyPredictor(TOY, [table({}, **{field: value})])


def test_the_tables_that_the_device_names_are_read_if_they_have_the_dtype(tmp_path):
    graph = network(8)
    for dtype in ("float32", "float16"):
        LookupTable.open(tmp_path / f"{dtype}.jsonl", replace(HEADER, dtype=dtype))
    for kernel in kernels_of(graph):
        entry = Measurement(latency_p50_s=1e-4, spread=0.0, num_runs=1)
        append_measurement(tmp_path / "float32.jsonl", kernel, entry)
    tables = {"tables": ["float32.jsonl", "float16.jsonl"]}
    device = device_from_mapping(MAPPING | tables, source=str(tmp_path / "toy.yaml"))
    assert LatencyPredictor(device).predict(graph).coverage == 1.0
    assert LatencyPredictor(device, dtype="float16").predict(graph).coverage == 0.0


def test_another_runtime_fuses_otherwise():
    graph = network(8)
    assert len(LatencyPredictor(TOY, []).predict(graph).kernels) == 2
    (fused,) = LatencyPredictor(TOY, [], runtime="onnxruntime").predict(graph).kernels
    assert [operator.variant for operator in fused.kernel.fused] == ["relu"]


def test_asking_twice_gives_the_same():
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    graph = network(8, 16)
    assert predictor.predict(graph) == predictor.predict(graph)


def test_interpolation_reaches_unseen_kernels_of_a_whole_network():
    """Every measured kernel takes three times its roofline, so a network of unseen ones does too."""
    kernels = {kernel for width in range(4, 64, 4) for kernel in kernels_of(network(width, width + 4))}
    times = {kernel: 3.0 * roofline(kernel_cost(kernel), TOY).latency_s for kernel in kernels}
    prediction = LatencyPredictor(TOY, [table(times)]).predict(network(10, 22, 34))
    bare_s = sum(roofline(row.cost, TOY).latency_s for row in prediction.kernels)
    assert {row.provenance for row in prediction.kernels} == {"interpolated"}
    assert prediction.latency_s == pytest.approx(3.0 * bare_s, rel=0.02)


SIZES = st.integers(1, 64)


@settings(deadline=None)
@given(device=st.sampled_from(["mobile_gpu", "v100", "edge_tpu"]), width=SIZES, size=SIZES, more=st.integers(0, 16))
def test_latency_never_falls_when_work_is_added(device, width, size, more):
    predictor = LatencyPredictor(load_device(device), [])
    small = predictor.predict(network(width, size=size)).latency_s
    assert predictor.predict(network(width + more, size=size)).latency_s >= small * (1 - 1e-12)
    assert predictor.predict(network(width, size=size + more)).latency_s >= small * (1 - 1e-12)
    assert predictor.predict(network(width, width, size=size)).latency_s > small


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), spread=st.floats(0.01, 1.0))
def test_a_smoothed_measurement_lies_between_itself_and_its_neighbours(seed, spread):
    rng = np.random.default_rng(seed)
    kernels = [kernels_of(network(width))[0] for width in range(4, 44, 4)]
    times = {kernel: 1e-4 * exp(rng.normal(0, 0.3)) for kernel in kernels}
    predictor = LatencyPredictor(TOY, [table(times, spread=spread)])
    for kernel in kernels:
        cost = kernel_cost(kernel)
        learned = predictor._learned_in(kernel.dtype).at(kernel, cost)
        neighbours_s = roofline(cost, TOY).latency_s * exp(-learned.mean)
        found = predictor.estimate(kernel)
        low, high = sorted((times[kernel], neighbours_s))
        assert low * (1 - 1e-9) <= found.latency_s <= high * (1 + 1e-9)
        assert found.std_s <= found.latency_s * min(spread, learned.std) * (1 + 1e-9)
