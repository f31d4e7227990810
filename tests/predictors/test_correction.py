from dataclasses import replace

import numpy as np
import pytest
from simulated import network, usual_seconds

from predictors import Device, LatencyPredictor, LookupTable, Measurement, TableHeader, fuse, load_device, load_runtime
from predictors.correction import correct
from predictors.device import Quantity

EAGER = load_runtime("torch_eager")
NETWORKS = tuple(network(width, depth) for width in (4, 8, 16, 24, 32) for depth in (1, 3, 6, 10))


def device() -> Device:
    return load_device("cpu_x86").in_runtime("torch_eager")


def table() -> LookupTable:
    """All kernels of the networks, measured without error."""
    header = TableHeader(
        device="cpu_x86", runtime="torch_eager", runtime_version="1", dtype="float32", threads=1, date="2026-11-26",
        reference_kernel="none",
    )  # fmt: skip
    kernels = {node.kernel for graph in NETWORKS for node in fuse(graph, EAGER, "float32")}
    entries = {kernel: Measurement(latency_p50_s=usual_seconds(kernel), spread=0.0, num_runs=9) for kernel in kernels}
    return LookupTable(header=header, entries=entries)


def kernels_s(graph: object) -> float:
    return sum(usual_seconds(node.kernel) for node in fuse(graph, EAGER, "float32"))  # type: ignore[arg-type]


def test_what_lies_between_kernels_is_found() -> None:
    """1.08 of the kernels, 1 us a network and 0.2 us a kernel; ten networks, the others are predicted."""
    measured = [
        (graph, 1.08 * kernels_s(graph) + 1e-6 + 2e-7 * len(fuse(graph, EAGER, "float32"))) for graph in NETWORKS
    ]
    found = correct(device(), measured[::2], tables=[table()])
    assert found.in_network is not None
    assert found.in_network.value == pytest.approx(1.08, abs=0.07)
    predictor = LatencyPredictor(found, [table()])
    for graph, seconds in measured[1::2]:
        assert predictor.predict(graph).latency_s == pytest.approx(seconds, rel=0.02)


def test_networks_that_are_the_sum_of_their_kernels_are_left_alone() -> None:
    found = correct(device(), [(graph, kernels_s(graph)) for graph in NETWORKS[::2]], tables=[table()])
    assert found.in_network is not None
    assert found.in_network.value == pytest.approx(1.0, abs=0.01)
    graph = NETWORKS[1]
    assert LatencyPredictor(found, [table()]).predict(graph).latency_s == pytest.approx(kernels_s(graph), rel=0.005)


def test_nothing_is_negative_where_networks_are_faster_than_their_kernels() -> None:
    """Half of the sum: warm caches may make it so; an overhead may not."""
    measured = [(graph, 0.5 * kernels_s(graph)) for graph in NETWORKS[::2]]
    found = correct(device(), measured, tables=[table()])
    assert found.in_network is not None
    assert found.in_network.value == pytest.approx(0.5, abs=0.02)
    assert found.network_overhead is None
    assert found.kernel_overhead is None


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_deviation_is_that_of_networks_left_out(noise: float) -> None:
    rng = np.random.default_rng(3)
    spreads = []
    for _ in range(10):
        measured = [(graph, kernels_s(graph) * float(np.exp(noise * rng.normal()))) for graph in NETWORKS]
        found = correct(device(), measured[::2], tables=[table()])
        assert found.network_spread is not None
        spreads.append(found.network_spread.value)
    passes = 0.024  # what passes differ by as a whole
    assert np.mean(spreads) == pytest.approx(np.hypot(noise, passes), rel=0.3)


def test_an_earlier_correction_is_replaced_not_compounded() -> None:
    measured = [(graph, 1.2 * kernels_s(graph)) for graph in NETWORKS[::2]]
    once = correct(device(), measured, tables=[table()])
    twice = correct(once, measured, tables=[table()])
    assert once.in_network == twice.in_network
    odd = replace(device(), in_network=Quantity(value=7.0, source="odd"))
    assert correct(odd, measured, tables=[table()]).in_network == once.in_network


def test_two_networks_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 3 measured networks, found 2"):
        correct(device(), [(graph, 1.0) for graph in NETWORKS[:2]], tables=[table()])
