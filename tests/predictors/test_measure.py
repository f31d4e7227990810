import time

import numpy as np
import pytest
import torch
from torch import nn

from predictors import GraphBuilder, fuse, load_runtime
from predictors.fusion import make_kernel
from predictors.graph import Graph, Node
from predictors.measure.clock import Clock, measure_kernels
from predictors.measure.ladder import ladder
from predictors.measure.peaks import copy_bandwidths, gemm_peak, launch_cost_s, memory_levels
from predictors.measure.torch_network import NoTorchKernelError, TorchNetwork, build_layer
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Embedding,
    Linear,
    MatMul,
    Normalization,
    Pool2d,
    Reduce,
    Resize,
    Softmax,
    View,
)

IMAGE = (2, 6, 9, 10)
BUILDABLE = [
    Conv2d(
        batch=2, in_channels=6, out_channels=4, height=9, width=10, kernel=(3, 5), stride=(2, 1), padding=(1, 2),
        dilation=(2, 1), groups=2, bias=True,
    ),
    ConvTranspose2d(
        batch=2, in_channels=6, out_channels=4, height=9, width=10, kernel=(3, 3), stride=(2, 2), padding=(1, 1),
        output_padding=(1, 1), groups=2,
    ),
    Linear(shape=(2, 3, 8), out_features=5, bias=True),
    MatMul(left=(2, 3, 4), right=(2, 4, 5)),
    Attention(batch=2, heads=3, query_length=4, key_length=5, head_dim=6, value_dim=7),
    *(Activation(shape=IMAGE, function=name) for name in ("relu", "hardswish", "hardsigmoid", "silu", "gelu", "exp")),
    Softmax(shape=IMAGE),
    Normalization(shape=IMAGE, method="batch_norm", affine_params=12),
    Normalization(shape=IMAGE, method="batch_norm"),
    Normalization(shape=(2, 3, 8), method="layer_norm", affine_params=16),
    Pool2d(shape=IMAGE, method="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2)),
    Pool2d(shape=IMAGE, method="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
    AdaptivePool2d(shape=IMAGE),
    AdaptivePool2d(shape=IMAGE, method="max", size=(3, 2)),
    Reduce(shape=IMAGE, method="mean", axes=(2, 3)),
    Reduce(shape=IMAGE, method="max", axes=(1,), keepdim=True),
    Resize(shape=IMAGE, size=(18, 20), method="bilinear"),
    Elementwise(function="mul", shapes=(IMAGE, (2, 6, 1, 1))),
    Elementwise(function="add", shapes=(IMAGE,)),
    Concat(shapes=(IMAGE, (2, 1, 9, 10))),
    View(shape=IMAGE, to=(2, 540)),
]  # fmt: skip
NOT_BUILDABLE = [
    Normalization(shape=IMAGE, method="group_norm", affine_params=12),
    Activation(shape=IMAGE, function="clamp"),
    Elementwise(function="where", shapes=(IMAGE, IMAGE, IMAGE)),
    Reduce(shape=IMAGE, method="argmax", axes=(1,)),
    Copy(shape=IMAGE, to=(2, 6, 10, 9), method="transpose"),
    Embedding(shape=(2, 3), num_rows=10, features=4),
    View(shape=IMAGE, to=(2, 100)),
]


@pytest.mark.parametrize("operator", BUILDABLE, ids=lambda operator: operator.text[:40])
def test_a_layer_writes_the_shape_and_holds_the_parameters_that_its_operator_says(operator):
    layer = build_layer(operator)
    with torch.inference_mode():
        output = layer(*[torch.rand(shape) for shape in operator.input_shapes])
    assert output.shape == operator.output_shape
    held = sum(parameter.numel() for parameter in layer.parameters()) if isinstance(layer, nn.Module) else 0
    assert held == operator.num_params


@pytest.mark.parametrize("operator", NOT_BUILDABLE, ids=lambda operator: operator.text[:40])
def test_an_operator_that_its_record_does_not_determine_is_refused_by_name(operator):
    with pytest.raises(NoTorchKernelError) as caught:
        build_layer(operator)
    assert operator.text in str(caught.value)


def block() -> Graph:
    """A convolution whose output two others read, a view, and an output in the middle."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 8, 8)), 4, kernel=3)
    y = builder.elementwise("mul", x, builder.activation(builder.global_pool(x), "sigmoid"))
    return builder.graph(x, builder.linear(builder.flatten(y), 5))


def ticks():
    """A clock that moves on by 1 whenever it is read."""
    now = 0.0

    def read() -> float:
        nonlocal now
        now += 1.0
        return now

    return read


def test_a_network_runs_all_nodes_but_its_inputs_and_reads_the_clock_between_them():
    network = TorchNetwork(block())
    assert network.nodes == (1, 2, 3, 4, 5, 6)
    assert network.run(ticks()) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_network_frees_what_no_node_reads_any_more():
    network = TorchNetwork(block())
    dead = [set(step.dead) for step in network._steps]
    # conv2d (1) is an output; pool (2) dies after sigmoid (3), which dies after mul (4), which dies behind its view (5)
    assert dead == [{0}, set(), {2}, {3}, {4}, {5}]


def test_a_network_with_an_operator_that_cannot_be_built_is_refused():
    graph = block()
    transpose = Copy(shape=(1, 5), to=(5, 1), method="transpose")
    graph = Graph((*graph.nodes, Node(transpose, (6,))), (7,))
    with pytest.raises(NoTorchKernelError, match="copy"):
        TorchNetwork(graph)


class Sleeper:
    """Stands for a network: burns CPU time for given seconds at each node."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds
        self.nodes = tuple(range(len(seconds)))

    def run(self, now):
        times = [now()]
        for seconds in self.seconds:
            end = now() + seconds
            while now() < end:
                pass
            times.append(now())
        return times


def kernel(features):
    return make_kernel(Linear(shape=(1, 8), out_features=features), (), "float32")


def test_each_kernel_gets_the_time_of_its_node():
    """In units of the reference, which drifts on a busy machine: so the ratio of two kernels is what is tested."""
    networks = [(Sleeper(2e-4, 6e-4), {0: kernel(1), 1: kernel(2)}), (Sleeper(6e-4, 1e-4), {0: kernel(2)})]
    found = measure_kernels(networks, Clock(), np.random.default_rng(0))
    assert set(found) == {kernel(1), kernel(2)}, "a node without a kernel is not measured"
    assert found[kernel(2)].latency_p50_s / found[kernel(1)].latency_p50_s == pytest.approx(3.0, rel=0.5)
    assert found[kernel(2)].num_runs == 2 * found[kernel(1)].num_runs, "it stands in two networks"
    assert all(0.0 < each.spread < 1.0 for each in found.values())


def test_on_one_thread_time_stands_still_while_the_thread_sleeps():
    clock = Clock(threads=1)
    assert clock.best_s(lambda: time.sleep(0.005)) < 0.001
    assert Clock(threads=2).best_s(lambda: time.sleep(0.005)) > 0.001


def test_levels_of_memory_are_the_plateaus_of_the_bandwidth():
    sizes = [2**exponent for exponent in range(10, 18)]
    levels = memory_levels(sizes, [100, 104, 97, 40, 44, 41, 10, 11])
    assert [level.capacity_bytes for level in levels] == [2**12, 2**15, None]
    assert [level.bytes_per_s for level in levels] == pytest.approx([100.3, 41.7, 10.5], rel=0.01)


def test_levels_never_get_faster_with_size():
    """A small copy that noise made slow is averaged with its neighbours rather than made a level."""
    levels = memory_levels([1, 2, 4, 8, 16], [60, 100, 90, 20, 30])
    speeds = [level.bytes_per_s for level in levels]
    assert speeds == sorted(speeds, reverse=True)
    assert levels[-1].capacity_bytes is None
    assert len(memory_levels([1, 2, 4], [10, 20, 30])) == 1


def test_peaks_are_those_of_a_computer():
    clock = Clock()
    flops, size = gemm_peak(clock)
    assert 1e8 < flops < 1e14
    assert size in (256, 512, 1024)
    assert 0.0 < launch_cost_s(clock) < 1e-3
    small, large = copy_bandwidths(clock, (2**18, 2**22))
    assert 1e8 < small < 1e13
    assert 1e8 < large < 1e13


def test_the_ladder_holds_the_usual_kernels_and_every_one_can_be_run():
    graphs = ladder()
    runtime = load_runtime("torch_eager")
    kernels = {node.kernel for graph in graphs for node in fuse(graph, runtime, "float32")}
    classes = {each.classes[0] for each in kernels}
    windows = {f"depthwise_conv2d_{size}x{size}_s{stride}" for size in (3, 5, 7) for stride in (1, 2)}
    assert classes >= windows | {"conv2d_1x1_s1", "conv2d_3x3_s1", "conv2d_3x3_s2", "linear", "batch_norm", "relu"}
    assert classes >= {"hardswish", "hardsigmoid", "add", "mul", "adaptive_avg_pool2d"}
    for each in kernels:
        build_layer(each.anchor)
