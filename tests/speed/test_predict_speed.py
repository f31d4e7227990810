"""How long a prediction takes. Reported, never asserted: `pytest tests/speed --benchmark-enable`."""

from itertools import cycle
from math import exp

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from predictors import Device, Graph, LatencyPredictor, LookupTable, Measurement, TableHeader, load_device
from search_spaces import Space, load_space

NUM_ARCHS = 200


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobilenet_v3")


def sampled(space: Space, seed: int) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(NUM_ARCHS)]


def graphs(space: Space, seed: int) -> list[Graph]:
    return [space.graph(arch) for arch in sampled(space, seed)]


def made_up_table(device: Device, networks: list[Graph]) -> LookupTable:
    """Noisy times of all kernels of some networks, so that every prediction measures, smooths and interpolates."""
    rng = np.random.default_rng(0)
    bare = LatencyPredictor(device, [])
    rows = {row.kernel: row for network in networks for row in bare.predict(network).kernels}
    header = TableHeader(
        device=device.name, runtime=device.runtime, runtime_version="1", dtype=device.dtype, threads=1,
        date="2026-01-01", reference_kernel="",
    )  # fmt: skip
    return LookupTable(
        header=header,
        entries={
            kernel: Measurement(latency_p50_s=row.latency_s * exp(rng.normal(0.0, 0.1)), spread=0.1, num_runs=9)
            for kernel, row in rows.items()
        },
    )


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
def test_one_arch_after_warm_up(benchmark: BenchmarkFixture, name: str) -> None:
    """From an arch to its costs: its graph, its kernels, their times. The kernels are known, the archs come again."""
    space = load_space(name).deployed(224)
    predictor = LatencyPredictor(load_device("mobile_gpu"), [])
    archs = sampled(space, 0)
    latencies = [predictor.predict(space.graph(arch)).latency_s for arch in archs]
    turn = cycle(archs)
    prediction = benchmark(lambda: predictor.predict(space.graph(next(turn))))
    assert prediction.latency_s in latencies


def test_one_graph_after_warm_up(benchmark: BenchmarkFixture, space: Space) -> None:
    predictor = LatencyPredictor(load_device("mobile_gpu"), [])
    graph = graphs(space, 0)[0]
    assert 100 < len(graph.nodes) < 300
    assert benchmark(predictor.predict, graph).latency_s > 0.0


def test_one_arch_that_was_never_seen(benchmark: BenchmarkFixture, space: Space) -> None:
    """As in a search: each arch comes once, most of its blocks are known."""
    predictor = LatencyPredictor(load_device("mobile_gpu"), [])
    for graph in graphs(space, 0):
        predictor.predict(graph)
    archs = iter(sampled(space, 1))
    found = benchmark.pedantic(
        lambda: predictor.predict(space.graph(next(archs))), rounds=NUM_ARCHS - 1, warmup_rounds=1
    )
    assert found.latency_s > 0.0


def test_one_kernel_that_is_interpolated(benchmark: BenchmarkFixture, space: Space) -> None:
    """What a kernel costs that no network had before: the interpolation among some thousand measured ones."""
    device = load_device("cpu_x86")
    predictor = LatencyPredictor(device, [made_up_table(device, graphs(space, 0)[:50])])
    unseen = {row.kernel for graph in graphs(space, 1)[:20] for row in predictor.predict(graph).kernels}
    kernels = [kernel for kernel in unseen if predictor.estimate(kernel).provenance == "interpolated"]
    assert kernels

    def interpolate() -> float:
        predictor._estimates.clear()
        return predictor.estimate(kernels[0]).latency_s

    assert benchmark(interpolate) > 0.0
