import numpy as np
import pytest
import torch
from movements import LARGER, PLAIN
from torch import nn

from predictors import GraphBuilder, fuse, load_runtime
from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, open_backend
from predictors.measure.ladder import ladder
from predictors.measure.runtimes.torch_eager import TorchEager
from predictors.measure.torch_layers import GraphModule, build_layer
from predictors.measure.values import given_value, input_indices, weights_of
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
    Softmax(shape=IMAGE, axis=1),
    *PLAIN,
    *LARGER,
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
    with pytest.raises(NoKernelError) as caught:
        build_layer(operator)
    assert operator.text in str(caught.value)


def block() -> Graph:
    """A convolution whose output two others read, a view, and an output in the middle."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 8, 8)), 4, kernel=3)
    y = builder.elementwise("mul", x, builder.activation(builder.global_pool(x), "sigmoid"))
    return builder.graph(x, builder.linear(builder.flatten(y), 5))


def test_a_graph_as_a_module_gives_what_eager_gives_call_by_call() -> None:
    graph = block()
    module = GraphModule(graph).eval()
    with torch.inference_mode():
        found = module(*[torch.from_numpy(given_value(graph, index)) for index in input_indices(graph)])
    for each, right in zip(found, open_backend("torch_eager").network(graph).outputs()):
        assert np.array_equal(each.numpy(), right)


def test_eager_frees_what_no_node_reads_any_more() -> None:
    run = TorchEager().network(block())
    dead = [set(call.dead) for call in run.calls]
    # conv2d (1) is an output; pool (2) dies after sigmoid (3), which dies after mul (4), which dies behind its view (5)
    assert dead == [{0}, set(), {2}, {3}, {4}, {5}]


def test_layers_of_one_shape_do_not_share_weights() -> None:
    conv = Conv2d(in_channels=6, out_channels=4, height=9, width=10, kernel=(3, 3), bias=True)
    first, second = weights_of(conv, seed=1), weights_of(conv, seed=2)
    assert set(first) == {"weight", "bias"}
    assert not np.array_equal(first["weight"], second["weight"])
    assert np.array_equal(first["weight"], weights_of(conv, seed=1)["weight"])


def test_values_neither_grow_nor_fade_with_depth() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 16, 16, 16))
    for _ in range(30):
        x = builder.batch_norm(builder.conv2d(x, 16, kernel=3))
    (output,) = open_backend("torch_eager").network(builder.graph(x)).outputs()
    assert 1e-3 < output.std() < 1e3


def test_only_inputs_and_constants_have_given_values() -> None:
    with pytest.raises(ValueError, match=r"node 1 is no input or constant but conv2d\("):
        given_value(block(), 1)


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
