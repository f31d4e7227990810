"""What is written for ncnn: single operators against PyTorch, what shares a layer, what is refused."""

import numpy as np
import pytest

pytest.importorskip("ncnn")

from movements import LARGER, PLAIN

from predictors import GraphBuilder, fuse, load_runtime
from predictors.graph import Graph, Node
from predictors.measure.backend import NoKernelError, open_backend
from predictors.measure.ncnn_model import ncnn_files
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Embedding,
    Input,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Softmax,
    View,
)

MAP = (1, 6, 9, 7)  # channels that are a multiple of no packing
PACKED = (1, 8, 9, 7)
TOKENS = (1, 5, 12)


def single(operator: Operator) -> Graph:
    """The operator on inputs of its shapes."""
    inputs = [Node(Input(shape=shape)) for shape in operator.input_shapes]
    return Graph((*inputs, Node(operator, tuple(range(len(inputs))))), (len(inputs),))


def assert_equals_pytorch(graph: Graph) -> None:
    expected = open_backend("torch_eager").network(graph).outputs()
    found = open_backend("ncnn").network(graph).outputs()
    for each, right in zip(found, expected):
        assert each.shape == right.shape
        assert np.abs(right).max() > 1e-3, "an output of zeros would prove nothing"
        np.testing.assert_allclose(each, right, rtol=1e-3, atol=1e-4)


def layer_types(graph: Graph) -> list[str]:
    return [line.split()[0] for line in ncnn_files(graph).param.splitlines()[2:]]


ACTIVATIONS = (
    "abs", "celu", "cos", "elu", "erf", "exp", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish",
    "neg", "relu", "relu6", "selu", "sigmoid", "silu", "sin", "softplus", "square", "tanh",
)  # fmt: skip

OPERATORS: tuple[Operator, ...] = (
    Conv2d(in_channels=6, out_channels=10, height=9, width=7, kernel=(3, 1), stride=(2, 1), padding=(1, 0)),
    Conv2d(in_channels=8, out_channels=16, height=9, width=7, kernel=(3, 3), dilation=(1, 2), bias=True),
    Conv2d(in_channels=8, out_channels=8, height=9, width=7, kernel=(5, 3), padding=(2, 1), groups=8, bias=True),
    Conv2d(in_channels=6, out_channels=12, height=9, width=7, kernel=(3, 3), groups=3),
    Conv2d(in_channels=8, out_channels=4, height=1, width=1, kernel=(1, 1), bias=True),
    ConvTranspose2d(in_channels=6, out_channels=8, height=5, width=4, kernel=(3, 2), stride=(2, 2), bias=True),
    ConvTranspose2d(
        in_channels=6, out_channels=4, height=5, width=4, kernel=(3, 3), stride=(2, 3), padding=(1, 1),
        output_padding=(1, 0), dilation=(1, 2),
    ),
    ConvTranspose2d(in_channels=6, out_channels=12, height=5, width=4, kernel=(3, 3), groups=3),
    ConvTranspose2d(in_channels=8, out_channels=8, height=5, width=4, kernel=(2, 2), stride=(2, 2), groups=8),
    Linear(shape=(1, 12), out_features=7, bias=True),
    Linear(shape=TOKENS, out_features=7),
    Linear(shape=(1, 1, 12), out_features=8, bias=True),
    Linear(shape=(1, 3, 5, 12), out_features=8, bias=True),
    MatMul(left=(1, 5, 12), right=(1, 12, 6)),
    MatMul(left=(1, 3, 5, 12), right=(1, 3, 12, 6)),
    Attention(heads=3, query_length=5, key_length=7, head_dim=8, value_dim=8),
    *(Activation(shape=MAP, function=function) for function in ACTIVATIONS),
    Softmax(shape=(1, 12)),
    Softmax(shape=TOKENS),
    Softmax(shape=PACKED),
    Normalization(shape=MAP, method="batch_norm", affine_params=12),
    Normalization(shape=PACKED, method="batch_norm"),
    Normalization(shape=TOKENS, method="layer_norm", affine_params=24),
    Normalization(shape=TOKENS, method="layer_norm"),
    Normalization(shape=(1, 12), method="layer_norm", affine_params=24),
    Normalization(shape=(1, 8, 4, 5), method="layer_norm", affine_params=10),
    Pool2d(shape=MAP, method="max", kernel=(3, 2), stride=(2, 1), padding=(1, 0)),
    Pool2d(shape=PACKED, method="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    Pool2d(shape=PACKED, method="avg", kernel=(2, 2), stride=(2, 2)),
    Pool2d(shape=PACKED, method="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
    Pool2d(shape=PACKED, method="max", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
    AdaptivePool2d(shape=PACKED),
    AdaptivePool2d(shape=MAP, method="max"),
    AdaptivePool2d(shape=MAP, size=(4, 3)),
    *(Reduce(shape=MAP, method=method, axes=(2, 3)) for method in ("mean", "sum", "max", "min")),
    Reduce(shape=PACKED, method="mean", axes=(2, 3), keepdim=True),
    Reduce(shape=MAP, method="mean", axes=(1,)),
    Reduce(shape=TOKENS, method="mean", axes=(1,)),
    *(Resize(shape=MAP, size=(18, 21), method=method) for method in ("nearest", "bilinear", "bicubic")),
    Resize(shape=PACKED, size=(5, 3), method="nearest"),
    *(Elementwise(function=name, shapes=(MAP, MAP)) for name in ("add", "sub", "mul", "maximum", "minimum")),
    Elementwise(function="sub", shapes=(PACKED, (1, 8, 1, 1))),
    Elementwise(function="sub", shapes=((1, 8, 1, 1), PACKED)),
    Elementwise(function="add", shapes=(PACKED, (1, 1, 9, 7))),
    Elementwise(function="mul", shapes=(TOKENS, (1, 1, 12))),
    Elementwise(function="mul", shapes=(TOKENS, (1, 5, 1))),
    *(Elementwise(function=name, shapes=(MAP,)) for name in ("add", "sub", "mul", "div")),
    Concat(shapes=(MAP, PACKED)),
    Concat(shapes=(TOKENS, (1, 3, 12))),
    Concat(shapes=(TOKENS, (1, 5, 4)), axis=2),
    View(shape=PACKED, to=(1, 504)),
    View(shape=PACKED, to=(1, 8, 63)),
    View(shape=TOKENS, to=(1, 5, 3, 4)),
    View(shape=(1, 8, 1, 1), to=(1, 8)),
    Softmax(shape=MAP, axis=1),
    Softmax(shape=TOKENS, axis=1),
    *PLAIN,
)  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.text)
def test_an_operator_computes_what_it_computes_in_pytorch(operator: Operator) -> None:
    assert_equals_pytorch(single(operator))


REFUSED: tuple[Operator, ...] = (
    *LARGER,
    Copy(shape=MAP, to=(1, 6, 7, 9), method="transpose"),
    Embedding(shape=(1, 5), num_rows=10, features=12),
    Activation(shape=MAP, function="sign"),
    Normalization(shape=MAP, method="group_norm", affine_params=12),
    Normalization(shape=TOKENS, method="layer_norm", affine_params=12),
    Pool2d(shape=MAP, method="max", kernel=(2, 2), stride=(2, 2), dilation=(2, 2)),
    Pool2d(shape=MAP, method="avg", kernel=(2, 2), stride=(2, 2), padding=(1, 1), ceil_mode=True),
    Pool2d(shape=(1, 6, 5, 5), method="max", kernel=(2, 2), stride=(3, 3), padding=(1, 1), ceil_mode=True),
    Reduce(shape=TOKENS, method="prod", axes=(1,)),
    Elementwise(function="atan2", shapes=(MAP, MAP)),
    Elementwise(function="add", shapes=(MAP, MAP, MAP)),
    Elementwise(function="add", shapes=((1, 6, 1, 1), (1, 1, 9, 7))),
    Elementwise(function="add", shapes=(TOKENS, (1, 12))),
    View(shape=TOKENS, to=(1, 4, 12)),
    View(shape=TOKENS, to=(1, 5, 3, 2, 2)),
    MatMul(left=(1, 12), right=(12, 6)),
    Attention(heads=2, query_length=5, key_length=5, head_dim=4, value_dim=4, mask=(5, 5)),
    Concat(shapes=(TOKENS, TOKENS), axis=0),
    Conv2d(batch=2, in_channels=6, out_channels=10, height=9, width=7, kernel=(3, 3)),
    Linear(shape=(2, 12), out_features=7),
)


@pytest.mark.parametrize("operator", REFUSED, ids=lambda operator: operator.text)
def test_what_ncnn_cannot_run_is_refused_by_its_text(operator: Operator) -> None:
    with pytest.raises(NoKernelError) as caught:
        ncnn_files(single(operator))
    assert operator.text in str(caught.value)


def test_a_batch_of_two_is_refused_with_the_reason() -> None:
    with pytest.raises(NoKernelError, match=r"activation\(shape=\(2, 6, 4, 4\).*the batch, must be 1"):
        ncnn_files(single(Activation(shape=(2, 6, 4, 4), function="relu")))


@pytest.mark.parametrize("function", ["relu", "leaky_relu", "relu6", "hardtanh", "sigmoid", "mish", "hardswish"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolution_batch_norm_and_activation_are_one_layer(function: str, groups: int) -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input(PACKED), 8, kernel=3, groups=groups, bias=groups == 2)
    graph = builder.graph(builder.activation(builder.batch_norm(x), function))
    assert layer_types(graph) == ["Input", "Convolution" if groups == 1 else "ConvolutionDepthWise"]
    ((step, blob),) = ncnn_files(graph).steps
    assert (step.nodes, blob) == ((1, 2, 3), "n3")
    assert_equals_pytorch(graph)


def test_grouped_transposed_convolution_takes_batch_norm_and_relu() -> None:
    up = ConvTranspose2d(in_channels=6, out_channels=9, height=9, width=7, kernel=(3, 2), groups=3, bias=True)
    builder = GraphBuilder()
    x = builder.batch_norm(builder.add(up, builder.input(MAP)))
    graph = builder.graph(builder.activation(x, "relu"))
    assert layer_types(graph) == ["Input", "DeconvolutionDepthWise"]
    assert_equals_pytorch(graph)


def test_an_activation_that_no_layer_takes_is_a_step_of_its_own() -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input(PACKED), 8, kernel=3)
    graph = builder.graph(builder.activation(builder.batch_norm(x), "silu"))
    assert layer_types(graph) == ["Input", "Convolution", "Swish"]
    assert [step.nodes for step, _ in ncnn_files(graph).steps] == [(1, 2), (3,)]
    assert_equals_pytorch(graph)


def test_a_batch_norm_whose_input_others_read_stays() -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input(PACKED), 8, kernel=3)
    graph = builder.graph(builder.elementwise("add", builder.batch_norm(x), x))
    assert layer_types(graph) == ["Input", "Convolution", "Split", "BatchNorm", "BinaryOp"]
    assert_equals_pytorch(graph)


def test_vectors_are_inner_products_and_tokens_are_gemm_each_with_their_activation_in_one_step() -> None:
    for shape, types in (((1, 12), ["Input", "InnerProduct"]), (TOKENS, ["Input", "Gemm", "ReLU"])):
        builder = GraphBuilder()
        graph = builder.graph(builder.activation(builder.linear(builder.input(shape), 8), "relu"))
        assert layer_types(graph) == types
        ((step, blob),) = ncnn_files(graph).steps
        assert (step.nodes, blob) == ((1, 2), "n2")
        assert_equals_pytorch(graph)


def test_squeeze_and_excitation_multiplies_by_a_vector() -> None:
    builder = GraphBuilder()
    x = builder.activation(builder.input(PACKED), "relu")
    gate = builder.activation(builder.conv2d(builder.global_pool(x), 4, kernel=1, bias=True), "relu")
    gate = builder.activation(builder.conv2d(gate, 8, kernel=1, bias=True), "hardsigmoid")
    graph = builder.graph(builder.elementwise("mul", gate, x))
    assert sorted(layer_types(graph)) == sorted(
        ["Input", "ReLU", "Split", "Pooling", "InnerProduct", "InnerProduct", "HardSigmoid", "BinaryOp"]
    )
    assert_equals_pytorch(graph)


@pytest.mark.parametrize(
    "operator",
    [
        Conv2d(in_channels=8, out_channels=8, height=1, width=1, kernel=(3, 3), padding=(1, 1)),
        Conv2d(in_channels=8, out_channels=8, height=1, width=1, kernel=(1, 1), groups=8),
        Resize(shape=(1, 8, 1, 1), size=(4, 3), method="bilinear"),
        Concat(shapes=((1, 8, 1, 1),)),
        Softmax(shape=(1, 8, 1, 1)),
        View(shape=(1, 8, 1, 1), to=(1, 8)),
        View(shape=(1, 8, 1, 1), to=(1, 2, 4)),
        Linear(shape=(1, 8, 1, 1), out_features=3),
        Normalization(shape=(1, 8, 1, 1), method="batch_norm", affine_params=16),
        Elementwise(function="mul", shapes=((1, 8, 1, 1),)),
    ],
    ids=lambda operator: operator.text,
)
def test_what_follows_global_pooling_gets_the_shape_that_it_expects(operator: Operator) -> None:
    pool = AdaptivePool2d(shape=PACKED)
    graph = Graph((Node(Input(shape=PACKED)), Node(pool, (0,)), Node(operator, (1,))), (2, 1))
    assert_equals_pytorch(graph)


def test_an_outer_sum_of_a_pooled_vector_and_a_map_of_one_channel_is_refused() -> None:
    add = Elementwise(function="add", shapes=((1, 8, 1, 1), (1, 1, 9, 7)))
    nodes = (Node(Input(shape=PACKED)), Node(AdaptivePool2d(shape=PACKED), (0,)), Node(Input(shape=(1, 1, 9, 7))))
    with pytest.raises(NoKernelError, match="must have the output's shape"):
        ncnn_files(Graph((*nodes, Node(add, (1, 2))), (3,)))


def test_constants_are_read_and_stand_in_no_step() -> None:
    nodes = (Node(Input(shape=TOKENS)), Node(Constant(shape=TOKENS)), Node(Constant(shape=(1, 1, 12))))
    add = Node(Elementwise(function="add", shapes=(TOKENS, TOKENS)), (0, 1))
    mul = Node(Elementwise(function="mul", shapes=(TOKENS, (1, 1, 12))), (3, 2))
    graph = Graph((*nodes, add, mul), (4,))
    assert [step.nodes for step, _ in ncnn_files(graph).steps] == [(3,), (4,)]
    assert_equals_pytorch(graph)


def test_readers_of_one_blob_and_the_caller_get_a_copy_each() -> None:
    """In light mode a blob is freed once it was read, and layers in place write over it."""
    builder = GraphBuilder()
    x = builder.activation(builder.input(PACKED), "sigmoid")
    y = builder.elementwise("mul", x, x)
    graph = builder.graph(x, builder.activation(x, "neg"), y, y)
    files = ncnn_files(graph)
    # x is read by the product twice, by the negation and by the caller; y by the caller twice
    assert [line for line in files.param.splitlines() if line.startswith("Split")] == [
        "Split n1_split 1 4 n1 n1_split_0 n1_split_1 n1_split_2 n1_split_3",
        "Split n2_split 1 2 n2 n2_split_0 n2_split_1",
    ]
    assert len(set(files.outputs)) == 4
    assert_equals_pytorch(graph)


def test_what_no_output_needs_is_not_written() -> None:
    builder = GraphBuilder()
    x = builder.input(MAP)
    builder.add(Copy(shape=MAP, to=(1, 6, 7, 9), method="transpose"), x)
    assert layer_types(builder.graph(builder.activation(x, "relu"))) == ["Input", "ReLU"]


def test_running_twice_gives_the_same_outputs() -> None:
    network = open_backend("ncnn").network(single(Activation(shape=PACKED, function="square")))
    first = network.outputs()[0]
    network.run()
    np.testing.assert_array_equal(network.outputs()[0], first)


def test_timed_steps_are_the_kernels_of_the_rules_and_views_that_move_data() -> None:
    builder = GraphBuilder()
    x = builder.activation(builder.batch_norm(builder.conv2d(builder.input(PACKED), 16, kernel=3)), "relu")
    x = builder.linear(builder.flatten(builder.pool2d(x, "max", kernel=3, stride=3)), 5)
    graph = builder.graph(x)
    profile = open_backend("ncnn").profile(graph)
    assert profile is not None
    for _ in range(2):
        profile.run()
    steps, seconds_RS = profile.finish()
    assert [step.name for step in steps] == ["n3_Convolution", "n4_Pooling", "n5_Flatten", "n6_InnerProduct"]
    kernels = {kernel.nodes for kernel in fuse(graph, load_runtime("ncnn"), "float32")}
    assert {step.nodes for step in steps} == kernels | {(5,)}
    assert seconds_RS.shape == (2, 4)
    assert seconds_RS[:, 0].min() > 0.0
