"""What bounds the networks that a strategy chose, on a board and networks whose times are derived by hand."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from search_results import make_predictor
from small_search import BOARD, quantity

from nas.compare.imagined import with_peaks
from nas.compare.judging import least_seconds
from nas.compare.records import Chosen
from nas.compare.why import BOUNDS, NUM_NETWORKS, bound_shares, spread_over, terms_of, why
from nas.task import SearchTask
from predictors import Graph, GraphBuilder, LatencyPredictor, device_from_mapping, load_device
from predictors.device import ClassEfficiency
from predictors.fitted_rates import ClassRates, FittedRates, WorkRates
from search_spaces import load_space
from search_spaces.space import Arch

WHOLE = ClassEfficiency(compute=1.0, read=1.0, write=1.0, fixed_s=50e-6, spread=0.1, source="made up for tests")
"""Every kernel takes flops / peak + bytes / bandwidth + 50 us, and the device gives no cost of a launch."""

SLOWER = {
    "peak": {"float32": quantity(4, "GFLOP/s")},
    "memory": [{"name": "dram", "bandwidth": quantity(1, "GB/s")}],
    "network_overhead": quantity(100, "us"),
}

CONV_US = 2_097_152 / 4e3 + (2 * 65_536 + 16_384) / 1e3 + 50.0
"""64 * 64 * 256 MACs; 64 * 256 elements read, as many written, 64 * 64 weights: 524 us of arithmetic, 147 of memory."""

DEPTHWISE_US = 294_912 / 4e3 + (2 * 65_536 + 2_304) / 1e3 + 50.0
"""9 * 64 * 256 MACs, the same pictures, 9 * 64 weights: 74 us of arithmetic, 133 of memory."""

LINEAR_US = 1_280 / 4e3 + 4 * (64 + 640 + 10) / 1e3 + 50.0
"""64 * 10 MACs: 0.3 us of arithmetic and 2.9 of memory, less than the 50 that every kernel takes."""

LARGE_US, SMALL_US = CONV_US + DEPTHWISE_US + 100.0, LINEAR_US + 100.0


def large() -> Graph:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 64, 16, 16)), 64, kernel=1, bias=False)
    return builder.graph(builder.conv2d(x, 64, kernel=3, groups=64, bias=False))


def small() -> Graph:
    builder = GraphBuilder()
    return builder.graph(builder.linear(builder.input((1, 64)), 10, bias=False))


class Networks:
    """What `why` asks of a task: predictions of networks by a number, counted."""

    def __init__(self) -> None:
        device = replace(device_from_mapping({**BOARD, **SLOWER}), efficiency={"float32": {"any": WHOLE}})
        self.predictor = LatencyPredictor(device)
        self.asked: list[int] = []

    def predict(self, arch: Arch) -> Any:
        self.asked.append(arch["network"])
        return self.predictor.predict(large() if arch["network"] == 0 else small())


def chosen(seed: int, networks: Mapping[int, tuple[float, float]]) -> Chosen:
    """Error and seconds by the number of the network."""
    archs = tuple({"network": number} for number in networks)
    losses_F2 = np.array(list(networks.values()), dtype=np.float64).reshape(-1, 2)
    return Chosen(strategy="flops_only", seed=seed, archs=archs, losses_F2=losses_F2)


# ---------------------------------------------------------------------------------------------------------- by hand


def test_shares_are_those_derived_by_hand() -> None:
    networks = Networks()
    terms = terms_of(networks.predictor)
    shares = bound_shares(networks.predict({"network": 0}), terms)
    assert shares == pytest.approx(
        {
            "compute": CONV_US / LARGE_US, "memory": DEPTHWISE_US / LARGE_US,
            "launch": 0.0, "overhead": 100.0 / LARGE_US,
        }
    )  # fmt: skip
    tiny = bound_shares(networks.predict({"network": 1}), terms)
    assert tiny == pytest.approx(
        {"compute": 0.0, "memory": 0.0, "launch": LINEAR_US / SMALL_US, "overhead": 100.0 / SMALL_US}
    )


def test_what_a_device_counts_as_efficiency_is_no_memory_where_it_is_a_launch() -> None:
    """The roofline knows of no launch and calls the linear layer bound by memory, as its transfers take 3 of 53 us."""
    prediction = Networks().predict({"network": 1})
    assert [kernel.bound for kernel in prediction.kernels] == ["memory"]
    space = load_space("mobilenet_v3", resolutions=[224])
    v100 = LatencyPredictor(load_device("v100"))
    one, many = (
        bound_shares(v100.predict(space.deployed(None, batch).graph(space.largest())), terms_of(v100))
        for batch in (1, 128)
    )
    assert one["launch"] > 0.8
    assert many["launch"] < 0.2
    assert many["memory"] > 0.5


def test_of_measured_kernels_the_roofline_says_what_bounds_them() -> None:
    predictor = make_predictor()
    space = load_space("mobilenet_v3_tiny").deployed(64)
    prediction = predictor.predict(space.graph(space.smallest()))
    terms = terms_of(predictor)
    measured = [kernel for kernel in prediction.kernels if kernel.provenance == "measured"]
    assert measured
    assert [terms.bound(kernel) for kernel in measured] == [kernel.bound for kernel in measured]


@pytest.mark.parametrize("name", ["mobile_gpu", "v100", "edge_tpu", "cpu_x86"])
def test_with_other_peaks_arithmetic_follows_and_transfers_do_not(name: str) -> None:
    device = load_device(name)
    builder = GraphBuilder()
    dense = builder.graph(builder.conv2d(builder.input((64, 4096, 64, 64)), 4096, kernel=3))
    builder = GraphBuilder()
    thin = builder.graph(builder.activation(builder.input((512, 256, 112, 112)), "relu"))
    slow = with_peaks(device, 0.25)
    before, after = (LatencyPredictor(each, tables=[]) for each in (device, slow))
    assert after.predict(dense).latency_s > 3.2 * before.predict(dense).latency_s
    assert after.predict(thin).latency_s == pytest.approx(before.predict(thin).latency_s, rel=0.02)
    assert slow.ridge_point() == pytest.approx(0.25 * device.ridge_point())


def test_rates_that_were_fitted_for_arithmetic_follow_the_peak() -> None:
    """2,097,152 FLOP of 1 ns and 131,072 bytes of 2 ns, beside 1 ms."""
    rates = ClassRates(added=WorkRates(launch_s=1e-3, per_unit_s={"flop": (1e-9,), "byte": (2e-9,)}), own_X=(0.1,))
    fitted = FittedRates(extents=(1.0,), classes={"any": rates}, source="fitted for tests")
    device = replace(device_from_mapping(BOARD), fitted={"float32": fitted})
    builder = GraphBuilder()
    graph = builder.graph(builder.conv2d(builder.input((1, 64, 16, 16)), 64, kernel=1))
    predicted = LatencyPredictor(with_peaks(device, 2.0)).predict(graph)
    assert predicted.latency_s == pytest.approx(1e-3 + 2.097152e-3 / 2 + 0.262144e-3)
    assert terms_of(LatencyPredictor(device)).bound(predicted.kernels[0]) == "compute"


def test_means_are_over_networks_and_then_over_seeds() -> None:
    """Seed 0 chose both networks, seed 1 the small one: the large one counts a quarter, not a third."""
    found = why(
        cast(SearchTask, Networks()),
        "flops_only",
        [chosen(0, {0: (0.1, 2.0), 1: (0.15, 1.0)}), chosen(1, {1: (0.15, 1.0)})],
    )
    assert found.strategy == "flops_only"
    assert found.num_networks == 3
    assert sum(found.bound_shares.values()) == pytest.approx(1.0)
    assert found.bound_shares["compute"] == pytest.approx(0.25 * CONV_US / LARGE_US)
    assert found.bound_shares["launch"] == pytest.approx(0.75 * LINEAR_US / SMALL_US)
    assert found.depthwise_time.value == pytest.approx(0.25 * DEPTHWISE_US / LARGE_US)
    assert found.depthwise_macs.value == pytest.approx(0.25 * 9 / (9 + 64))
    assert found.macs.value == pytest.approx(0.25 * (64 + 9) * 64 * 256 + 0.75 * 640)
    assert found.traffic_bytes.value == pytest.approx(0.25 * (147_456 + 133_376) + 0.75 * 2_856)
    assert found.num_kernels.value == pytest.approx(0.25 * 2 + 0.75 * 1)
    assert found.intensity.value == pytest.approx(0.25 * 2_392_064 / 280_832 + 0.75 * 1_280 / 2_856)


def test_only_what_is_compared_is_looked_at() -> None:
    """Network 2 is beaten by 1 in both, 3 errs more than twice as much as the best: neither is asked for."""
    networks = Networks()
    front = {0: (0.1, 2.0), 1: (0.15, 1.0), 2: (0.16, 1.5), 3: (0.4, 0.5)}
    found = why(cast(SearchTask, networks), "flops_only", [chosen(0, front), chosen(1, {0: (0.1, 2.0)})])
    assert set(networks.asked) == {0, 1}
    assert found.num_networks == 3
    assert networks.asked.count(0) == 1  # both seeds chose it


def test_seeds_without_a_known_network_are_left_out_and_without_any_nothing_is_said() -> None:
    empty = chosen(0, {})
    found = why(cast(SearchTask, Networks()), "flops_only", [empty, chosen(1, {1: (0.15, 1.0)})])
    assert found.num_networks == 1
    with pytest.raises(ValueError, match="'flops_only' chose no network whose latency is known"):
        why(cast(SearchTask, Networks()), "flops_only", [empty])


# ------------------------------------------------------------------------------------------------------------- any


FRONTS = arrays(
    np.float64,
    st.tuples(st.integers(1, 60), st.just(2)),
    elements=st.floats(0.0625, 1.0, width=32),
)


@settings(max_examples=60, deadline=None)
@given(losses_F2=FRONTS, largest_error=st.floats(0.0, 1.2))
def test_networks_that_are_looked_at_are_the_fastest_at_their_error(
    losses_F2: np.ndarray, largest_error: float
) -> None:
    places = spread_over(losses_F2, largest_error)
    assert 1 <= len(places) <= NUM_NETWORKS
    assert len(set(places.tolist())) == len(places)
    errors_N, seconds_N = losses_F2[places].T
    np.testing.assert_array_equal(least_seconds(losses_F2, errors_N), seconds_N)
    least = losses_F2[:, 0].min()
    assert errors_N.min() == least
    assert errors_N.max() <= max(largest_error, least) + 1e-12


def test_of_a_long_front_as_many_are_looked_at_as_may_be() -> None:
    """1000 networks from 10 % to 30 % error: 15 of them up to 20 %, evenly spaced."""
    errors_F = np.linspace(0.1, 0.3, 1001)
    places = spread_over(np.column_stack([errors_F, 1.0 / errors_F]), 0.2)
    assert len(places) == NUM_NETWORKS
    np.testing.assert_allclose(np.sort(errors_F[places]), np.linspace(0.1, 0.2, NUM_NETWORKS), atol=2.1e-4)


@pytest.mark.parametrize("device", ["mobile_gpu", "mobile_cpu", "v100", "h200", "edge_tpu", "a100", "jetson_nano"])
def test_on_every_device_the_shares_add_up_to_the_whole_time(device: str) -> None:
    space = load_space("mobilenet_v3_tiny")
    predictor = LatencyPredictor(load_device(device), tables=[])
    for arch in (space.smallest(), space.largest()):
        prediction = predictor.predict(space.graph(arch))
        shares = bound_shares(prediction, terms_of(predictor))
        assert tuple(shares) == BOUNDS
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(share >= 0.0 for share in shares.values())
