import numpy as np
import pytest
from simulated import SimulatedBackend, SimulatedClock, network, usual_seconds

from predictors import GraphBuilder, fuse, load_runtime
from predictors.fusion import make_kernel
from predictors.graph import Graph
from predictors.measure.backend import open_backend
from predictors.measure.clock import Clock
from predictors.measure.isolated import Bench, Rotation, kernel_graph
from predictors.operators import Conv2d, Elementwise, Input, Linear

CONV = Conv2d(in_channels=8, out_channels=8, height=6, width=6, kernel=(3, 3), padding=(1, 1))
IMAGE = (1, 8, 6, 6)


@pytest.mark.parametrize(
    ("shapes", "inputs_of_add"),
    [
        ((IMAGE, IMAGE), (1, 2)),  # nodes: input, conv, input, add
        (((1, 8, 1, 1), IMAGE), (2, 1)),
    ],
)
def test_what_a_fused_operator_reads_beside_the_chain_is_an_input(shapes, inputs_of_add) -> None:
    add = Elementwise(function="add", shapes=shapes)
    graph = kernel_graph(make_kernel(CONV, (add,), "float32"))
    assert [type(node.operator) for node in graph.nodes] == [Input, Conv2d, Input, Elementwise]
    assert graph.nodes[3].inputs == inputs_of_add
    assert graph.outputs == (3,)


def test_the_network_of_a_kernel_fuses_into_that_kernel() -> None:
    space_like = network(8)
    for runtime in (load_runtime("onnxruntime"), load_runtime("tvm_opencl")):
        for node in fuse(space_like, runtime, "float32"):
            assert [each.kernel for each in fuse(kernel_graph(node.kernel), runtime, "float32")] == [node.kernel]


def test_a_kernels_time_is_that_of_its_network_without_the_call() -> None:
    """Every call costs 100 us here, which the empty network shows; the kernels' own times are what is left."""
    backend = SimulatedBackend(load_runtime("torch_eager"), lambda kernel: 1e-4 + usual_seconds(kernel))
    kernels = tuple(dict.fromkeys(node.kernel for node in fuse(network(8), backend.runtime, "float32")))
    rotation = rotation_of(kernels, Bench(backend=backend, clock=SimulatedClock(backend), launch_s=2e-6))
    for _ in range(2):
        rotation.run()
    steps, seconds_RS = rotation.finish()
    assert [step.nodes for step in steps] == [(index,) for index in range(len(kernels))]
    empty_s = usual_seconds(
        fuse(kernel_graph(make_kernel(_relu(), (), "float32")), backend.runtime, "float32")[0].kernel
    )
    expected = [usual_seconds(kernel) - empty_s + 2e-6 for kernel in kernels]
    assert seconds_RS == pytest.approx(np.array([expected, expected]), abs=1e-12)


def rotation_of(kernels, bench: Bench) -> Rotation:
    return Rotation({kernel: bench.backend.network(kernel_graph(kernel)) for kernel in kernels}, bench)


def _relu():
    builder = GraphBuilder()
    graph: Graph = builder.graph(builder.activation(builder.input((1, 1)), "relu"))
    return graph.nodes[1].operator


def test_a_larger_kernel_takes_longer_on_a_real_machine() -> None:
    small, large = (make_kernel(Linear(shape=(1, size), out_features=size), (), "float32") for size in (64, 2048))
    rotation = rotation_of([small, large], Bench(backend=open_backend("torch_eager"), clock=Clock(), launch_s=0.0))
    for _ in range(5):
        rotation.run()
    _, seconds_RS = rotation.finish()
    small_s, large_s = np.median(seconds_RS, axis=0)
    assert large_s > 3 * small_s
