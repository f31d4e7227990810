"""How long a prediction takes. Reported, never asserted: `pytest tests/speed --benchmark-enable`."""

from itertools import cycle, product
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


def known_kernels(space: Space, device: str) -> LatencyPredictor:
    """A predictor that has predicted other archs with the same blocks."""
    predictor = LatencyPredictor(load_device(device))
    predictor.predict_many(space, sampled(space, 0)[:1])
    return predictor


@pytest.mark.parametrize("device", ["mobile_gpu", "cpu_x86"])
def test_one_graph_of_a_space_whose_arch_was_never_seen(benchmark: BenchmarkFixture, space: Space, device: str) -> None:
    """The figure of one `predict(graph)`: each arch comes once, its graph freshly made, its kernels are known."""
    predictor = known_kernels(space, device)
    fresh = iter(graphs(space, 1))
    found = benchmark.pedantic(
        predictor.predict, setup=lambda: ((next(fresh),), {}), rounds=NUM_ARCHS - 1, warmup_rounds=1
    )
    assert len(found.graph.nodes) > 100


def test_one_traced_graph_whose_kernels_are_known(benchmark: BenchmarkFixture, space: Space) -> None:
    """The same graphs without the sections that they were joined of, as tracing gives them."""
    predictor = known_kernels(space, "mobile_gpu")
    fresh = iter(Graph(graph.nodes, graph.outputs) for graph in graphs(space, 1))
    found = benchmark.pedantic(
        predictor.predict, setup=lambda: ((next(fresh),), {}), rounds=NUM_ARCHS - 1, warmup_rounds=1
    )
    assert len(found.graph.nodes) > 100


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


def indices(space: Space, num_archs: int) -> np.ndarray:
    """Random archs as `encode` gives them."""
    sizes = [len(values) for values in space.choices.values()]
    return np.random.default_rng(0).integers(0, sizes, size=(num_archs, len(sizes)))


def per_arch(benchmark: BenchmarkFixture, num_archs: int) -> None:
    """Beside the times of the run: nanoseconds an arch, and archs a second, of the fastest round."""
    if benchmark.stats:
        least_s = benchmark.stats.stats.min
        benchmark.extra_info |= {"ns_per_arch": least_s / num_archs * 1e9, "archs_per_s": num_archs / least_s}


@pytest.mark.benchmark(group="many archs of mobilenet_v3")
@pytest.mark.parametrize("num_archs", [100_000, 1_000_000])
@pytest.mark.parametrize("device", ["mobile_gpu", "cpu_x86"])
def test_many_encoded_archs(benchmark: BenchmarkFixture, space: Space, device: str, num_archs: int) -> None:
    """The figure of `predict_many`: all metrics of all archs, from what `encode` gives. Run it on one core."""
    predictor = known_kernels(space, device)
    archs = indices(space, num_archs if benchmark.enabled else 1000)
    found = benchmark.pedantic(predictor.predict_many, (space, archs), rounds=5, warmup_rounds=1)
    per_arch(benchmark, len(archs))
    assert found.latency_s.min() > 0.0


def block_times(predictor: LatencyPredictor, space: Space) -> tuple[dict[tuple[int, ...], float], dict[int, float]]:
    """Seconds of each block by (resolution, stage, block, kernel, expansion), and of all other layers by resolution."""
    positions = space.positions
    blocks = [position for position in positions if len(position.knobs) > 1]
    times, others = {}, {}
    for resolution in space.choices["resolution"]:
        fixed = [position.at({"resolution": resolution}) for position in positions if position not in blocks]
        others[resolution] = sum(predictor.predict(section.graph).latency_s for section in fixed if section)
        for number, position in enumerate(blocks):
            for kernel, expansion in product((3, 5, 7), (3, 4, 6)):
                knobs = dict(zip(reversed(position.knobs), (expansion, kernel, 4)))
                section = position.at(knobs | {"resolution": resolution})
                assert section
                key = (resolution, number // 4 + 1, number % 4 + 1, kernel, expansion)
                times[key] = predictor.predict(section.graph).latency_s
    return times, others


@pytest.mark.benchmark(group="many archs of mobilenet_v3")
@pytest.mark.parametrize("keys", ["tuples", "text"])
def test_a_dictionary_sum_of_the_latency_alone(benchmark: BenchmarkFixture, space: Space, keys: str) -> None:
    """What others do: a loop over the blocks of an arch that adds up a table's times. With keys that are made ready,
    and with keys of text that are made block by block, as in Once-for-All's `MBv3LatencyTable`, whose text is longer
    (https://github.com/mit-han-lab/once-for-all, ofa/nas/efficiency_predictor/latency_lookup_table.py).
    """
    predictor = known_kernels(space, "mobile_gpu")
    times, others = block_times(predictor, space)
    archs = space.decode(indices(space, 2000))
    knobs = {
        stage: [(f"stage{stage}_block{block}_kernel", f"stage{stage}_block{block}_expansion") for block in range(1, 5)]
        for stage in range(1, 6)
    }

    def text(resolution: int, stage: int, block: int, kernel: int, expansion: int) -> str:
        return "-".join(
            [
                "expanded_conv", f"input:{resolution}", f"stage:{stage}", f"block:{block}", f"expand:{expansion}",
                f"kernel:{kernel}",
            ]
        )  # fmt: skip

    by_text = {text(*key): seconds for key, seconds in times.items()}

    def seconds_of(arch: dict[str, int]) -> float:
        resolution = arch["resolution"]
        total = others[resolution]
        for stage, blocks in knobs.items():
            for block in range(arch[f"stage{stage}_depth"]):
                kernel, expansion = blocks[block]
                total += times[resolution, stage, block + 1, arch[kernel], arch[expansion]]
        return total

    def seconds_by_text(arch: dict[str, int]) -> float:
        resolution = arch["resolution"]
        total = others[resolution]
        for stage in range(1, 6):
            for block in range(1, arch[f"stage{stage}_depth"] + 1):
                kernel, expansion = (
                    arch[f"stage{stage}_block{block}_kernel"],
                    arch[f"stage{stage}_block{block}_expansion"],
                )
                total += by_text[text(resolution, stage, block, kernel, expansion)]
        return total

    sum_of = {"tuples": seconds_of, "text": seconds_by_text}[keys]
    found = benchmark.pedantic(lambda: [sum_of(arch) for arch in archs], rounds=5, warmup_rounds=1)
    per_arch(benchmark, len(archs))
    assert found == pytest.approx(predictor.predict_many(space, archs).latency_s, rel=1e-9)


@pytest.mark.parametrize("device", ["mobile_gpu", "cpu_x86"])
def test_tables_of_all_blocks(benchmark: BenchmarkFixture, space: Space, device: str) -> None:
    """What the first call of `predict_many` costs a new predictor: every block at every resolution."""
    archs = indices(space, 1)

    def first_call() -> float:
        predictor = LatencyPredictor(load_device(device))
        return float(predictor.predict_many(space, archs).latency_s[0])

    assert benchmark.pedantic(first_call, rounds=2) > 0.0


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
