from collections import Counter

import numpy as np
import pytest
from simulated import SimulatedBackend, SimulatedClock, usual_seconds

from predictors import Graph, GraphBuilder, Measurement, Runtime, fuse, load_device, load_runtime
from predictors.latency import LatencyPredictor
from predictors.measure.in_place import Levels, measure_pieces
from predictors.measure.isolated import Bench
from predictors.measure.pieces import pieces
from predictors.measure.plan import pieces_plan
from predictors.measure.rounds import Effort
from predictors.operators import Input

RUNTIMES = [load_runtime(name) for name in ("torch_eager", "onnxruntime", "litert")]


def tower(widths: tuple[int, ...]) -> Graph:
    """Residual blocks with a gate, and a classifier."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 32, 32)), widths[0], kernel=3)
    for width in widths:
        inner = builder.activation(builder.batch_norm(builder.conv2d(x, 2 * width, kernel=1)), "relu")
        gate = builder.activation(builder.conv2d(builder.global_pool(inner), 2 * width, kernel=1), "sigmoid")
        y = builder.batch_norm(builder.conv2d(builder.elementwise("mul", inner, gate), width, kernel=3))
        x = builder.elementwise("add", x, y) if builder.shape(x) == builder.shape(y) else y
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))


GRAPH = tower((8, 8, 16, 16, 24, 24))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda each: each.name)
def test_a_piece_takes_one_tensor_and_holds_kernels_of_its_network(runtime: Runtime) -> None:
    own = {node.kernel for node in fuse(GRAPH, runtime, "float32")}
    found = list(pieces(GRAPH, runtime, "float32"))
    assert found
    for piece, kernels in found:
        nodes = fuse(piece.graph, runtime, "float32")
        assert sum(isinstance(node.operator, Input) for node in piece.graph.nodes) == 1
        assert tuple(nodes[index].kernel for index in piece.kept) == kernels
        assert set(kernels) <= own


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda each: each.name)
def test_no_kernel_that_touches_a_cut_counts(runtime: Runtime) -> None:
    """The first of a piece reads what comes in and the last writes what goes out, unless the network begins or ends."""
    image = GRAPH.nodes[0].operator
    for piece, _ in pieces(GRAPH, runtime, "float32"):
        nodes = fuse(piece.graph, runtime, "float32")
        kept = [nodes[index] for index in piece.kept]
        if piece.graph.nodes[0].operator != image:
            assert all(0 not in node.inputs for node in kept)
        ends = set(piece.graph.outputs)
        is_end_of_network = any(node.operator.kind == "linear" for node in piece.graph.nodes)
        assert is_end_of_network or not any(ends.intersection(node.nodes) for node in kept)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda each: each.name)
def test_pieces_together_hold_nearly_all_kernels(runtime: Runtime) -> None:
    own = {node.kernel for node in fuse(GRAPH, runtime, "float32")}
    held = {kernel for _, kernels in pieces(GRAPH, runtime, "float32") for kernel in kernels}
    assert len(held) >= 0.85 * len(own)


def test_kernels_in_pieces_take_what_they_take_in_networks() -> None:
    """A call costs 40 us beside its kernels, and the piece pays it alone: it is taken off again."""
    runtime = RUNTIMES[1]
    backend = CallingBackend(runtime)
    bench = Bench(backend=backend, clock=SimulatedClock(backend), launch_s=0.0)
    levels = Levels()
    some = [piece for piece, _ in pieces(GRAPH, runtime, "float32")][::3]
    measure_pieces(some, bench, runtime, np.random.default_rng(0), levels, Effort(precision=1.0))
    assert levels.of_kernel
    for kernel, found in levels.of_kernel.items():
        assert np.median(found) * bench.clock.reference_s == pytest.approx(usual_seconds(kernel), rel=0.02)


class CallingBackend(SimulatedBackend):
    """Every run begins with 40 us of the runtime's own."""

    def network(self, graph: Graph) -> "Calling":
        return Calling(super().network(graph), self)


class Calling:
    def __init__(self, inner: object, backend: SimulatedBackend) -> None:
        self.inner, self.backend = inner, backend

    def run(self) -> None:
        self.backend.now_s += 40e-6
        self.inner.run()  # type: ignore[attr-defined]


@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.6])
def test_a_plan_of_pieces_holds_at_most_its_fraction_of_the_kernels(fraction: float) -> None:
    graphs = [tower(widths) for widths in ((8, 8, 16), (8, 24, 24), (32, 40, 48), (8, 16, 64), (12, 20, 28))]
    backend = SimulatedBackend(load_runtime("torch_eager"))
    predictor = LatencyPredictor(load_device("cpu_x86"), tables=[], runtime="torch_eager")
    plan = pieces_plan(graphs, fraction=fraction)(backend, predictor)
    everything = Counter(node.kernel for graph in graphs for node in fuse(graph, predictor.runtime, "float32"))
    held = {fuse(piece.graph, predictor.runtime, "float32")[i].kernel for piece in plan.pieces for i in piece.kept}
    assert 0.4 * fraction * len(everything) <= len(held) <= fraction * len(everything)
    assert not plan.networks
    assert set(held) <= set(everything)


def test_a_plan_of_pieces_prefers_kernels_that_decide_the_time() -> None:
    """Of half of the kernels more than half of the time."""
    graphs = [tower(widths) for widths in ((8, 8, 16), (8, 24, 24), (32, 40, 48), (8, 16, 64))]
    backend = SimulatedBackend(load_runtime("torch_eager"))
    predictor = LatencyPredictor(load_device("cpu_x86"), tables=[], runtime="torch_eager")
    plan = pieces_plan(graphs, fraction=0.5)(backend, predictor)
    held = {fuse(piece.graph, predictor.runtime, "float32")[i].kernel for piece in plan.pieces for i in piece.kept}
    nodes = [node.kernel for graph in graphs for node in fuse(graph, predictor.runtime, "float32")]
    seconds = {kernel: predictor.estimate(kernel).latency_s for kernel in nodes}
    assert sum(seconds[kernel] for kernel in nodes if kernel in held) > 0.55 * sum(seconds[kernel] for kernel in nodes)


def test_a_fraction_beyond_one_is_refused() -> None:
    backend = SimulatedBackend(load_runtime("torch_eager"))
    predictor = LatencyPredictor(load_device("cpu_x86"), tables=[], runtime="torch_eager")
    with pytest.raises(ValueError, match=r"fraction must be above 0 and at most 1, found 1\.5"):
        pieces_plan([GRAPH], fraction=1.5)(backend, predictor)


def test_a_disturbed_visit_does_not_unsettle_a_kernel() -> None:
    """Eight visits agree, one took a hundred times as long since something else ran: its time stands, without it."""
    (kernel, *_) = (node.kernel for node in fuse(GRAPH, RUNTIMES[0], "float32"))
    calm = [1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.02, 0.98]
    found = Levels(of_kernel={kernel: [*calm, 100.0]}).measurements(reference_s=1e-3)[kernel]
    assert isinstance(found, Measurement)
    assert found.latency_p50_s == pytest.approx(1e-3)
    assert found.num_visits == 8
    assert found.spread < 0.01
    torn = Levels(of_kernel={kernel: [1.0, 1.0, 5.0, 5.0, 60.0]}).measurements(reference_s=1e-3)[kernel]
    assert isinstance(torn, str)
