"""TensorFlow Lite models written from graphs, run by LiteRT against PyTorch."""

import numpy as np
import pytest
from movements import LARGER, PLAIN

from predictors import GraphBuilder
from predictors.graph import Graph, Node
from predictors.measure.backend import NoKernelError, open_backend
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

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema

from predictors.measure.runtimes.litert import Event, events_of_operators
from predictors.measure.tflite_model import TfliteOperator, tflite_model

IMAGE = (1, 8, 12, 10)
CONV = {"in_channels": 8, "out_channels": 16, "height": 12, "width": 10}


def conv(**fields) -> Conv2d:
    return Conv2d(**(CONV | {"kernel": (3, 3)} | fields))


def conv_transpose(**fields) -> ConvTranspose2d:
    return ConvTranspose2d(**(CONV | {"kernel": (3, 3)} | fields))


def graph_of(operator: Operator) -> Graph:
    inputs = [Node(Input(shape=shape)) for shape in operator.input_shapes]
    return Graph((*inputs, Node(operator, tuple(range(len(inputs))))), (len(inputs),))


def names(graph: Graph) -> list[str]:
    return [operator.name for operator in tflite_model(graph).operators]


def unpacked(graph: Graph):
    return schema.ModelT.InitFromPackedBuf(tflite_model(graph).data)


def assert_equals_pytorch(graph: Graph) -> None:
    expected = open_backend("torch_eager").network(graph).outputs()
    found = open_backend("litert").network(graph).outputs()
    assert [each.shape for each in found] == [each.shape for each in expected]
    for each, right in zip(found, expected):
        assert np.abs(each - right).max() <= 1e-5 * max(np.abs(right).max(), 1.0)


@pytest.mark.parametrize(
    "operator",
    [
        conv(),
        conv(padding=(1, 1), bias=True),
        conv(padding=(1, 1), stride=(2, 2)),
        conv(padding=(2, 2), dilation=(2, 2)),
        conv(kernel=(1, 5), padding=(0, 2), stride=(1, 2)),
        conv(padding=(1, 1), groups=4),
        conv(padding=(1, 1), groups=8, out_channels=8),
        conv(padding=(1, 1), groups=8),
        conv(padding=(2, 2), dilation=(2, 2), groups=8, stride=(1, 1)),
        conv(kernel=(2, 2), padding=(1, 1)),
        conv(batch=3, padding=(1, 1)),
        conv_transpose(kernel=(2, 2), stride=(2, 2), bias=True),
        conv_transpose(kernel=(4, 4), stride=(2, 2), padding=(1, 1)),
        conv_transpose(stride=(2, 2), padding=(1, 1), output_padding=(1, 1)),
        conv_transpose(kernel=(5, 3), padding=(1, 1)),
        Linear(shape=(3, 8), out_features=5, bias=True),
        Linear(shape=(2, 7, 8), out_features=5),
        Linear(shape=(1, 7, 6, 8), out_features=5, bias=True),
        MatMul(left=(4, 5), right=(5, 6)),
        MatMul(left=(2, 3, 4, 5), right=(2, 3, 5, 6)),
        Attention(heads=2, query_length=5, key_length=7, head_dim=4, value_dim=6),
        Softmax(shape=(1, 3, 7)),
        Softmax(shape=IMAGE),
        Normalization(shape=IMAGE, method="batch_norm", affine_params=16),
        Normalization(shape=IMAGE, method="batch_norm"),
        Normalization(shape=(1, 7, 8), method="layer_norm", affine_params=16),
        Normalization(shape=(1, 7, 6, 8), method="layer_norm"),
        Pool2d(shape=IMAGE, method="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        Pool2d(shape=IMAGE, method="max", kernel=(3, 3), stride=(2, 2), ceil_mode=True),
        Pool2d(shape=IMAGE, method="avg", kernel=(3, 3), stride=(1, 1), padding=(1, 1)),
        Pool2d(shape=IMAGE, method="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        Pool2d(shape=(1, 8, 11, 9), method="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
        AdaptivePool2d(shape=IMAGE),
        AdaptivePool2d(shape=IMAGE, method="max"),
        AdaptivePool2d(shape=IMAGE, size=(4, 5)),
        Reduce(shape=IMAGE, method="mean", axes=(2, 3)),
        Reduce(shape=IMAGE, method="sum", axes=(1,), keepdim=True),
        Reduce(shape=IMAGE, method="max", axes=(1,)),
        Reduce(shape=IMAGE, method="min", axes=(2,)),
        Reduce(shape=(1, 7, 8), method="mean", axes=(1,)),
        Resize(shape=IMAGE, size=(24, 25), method="bilinear"),
        Resize(shape=IMAGE, size=(24, 25), method="nearest"),
        Elementwise(function="add", shapes=(IMAGE, (1, 8, 1, 1))),
        Elementwise(function="sub", shapes=((8, 12, 1), IMAGE)),
        Elementwise(function="mul", shapes=(IMAGE, (10,))),
        Elementwise(function="div", shapes=(IMAGE,)),
        Elementwise(function="maximum", shapes=((1, 7, 8), (7, 1))),
        Elementwise(function="minimum", shapes=(IMAGE, IMAGE)),
        Concat(shapes=(IMAGE, IMAGE), axis=1),
        Concat(shapes=(IMAGE, IMAGE), axis=3),
        Concat(shapes=(IMAGE,) * 6, axis=2),
        Concat(shapes=((1, 7, 8), (1, 1, 8)), axis=1),
        View(shape=IMAGE, to=(1, 8, 120)),
        View(shape=(1, 4, 6), to=(1, 2, 2, 6)),
        Softmax(shape=IMAGE, axis=1),
        Softmax(shape=IMAGE, axis=2),
        Softmax(shape=(1, 3, 7), axis=1),
        *PLAIN,
        *LARGER,
    ],
    ids=lambda operator: operator.text,
)
def test_an_operator_computes_what_pytorch_computes(operator: Operator) -> None:
    assert_equals_pytorch(graph_of(operator))


@pytest.mark.parametrize(
    "function",
    [
        "abs", "celu", "cos", "elu", "exp", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "neg",
        "relu", "relu6", "round", "sigmoid", "sign", "silu", "sin", "square", "tanh",
    ],
)  # fmt: skip
def test_an_activation_computes_what_pytorch_computes(function: str) -> None:
    """Of values up to about 8 in size, so that the bends at -3, 3 and 6 are passed."""
    builder = GraphBuilder()
    x = builder.input(IMAGE)
    for _ in range(3):
        x = builder.elementwise("add", x, x)
    assert_equals_pytorch(builder.graph(builder.activation(x, function)))


@pytest.mark.parametrize("function", ["relu", "relu6", "hardtanh"])
def test_convolution_batch_norm_and_relu_are_one_operator(function: str) -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input(IMAGE), 16, kernel=3)
    graph = builder.graph(builder.activation(builder.batch_norm(x), function))
    (operator,) = unpacked(graph).subgraphs[0].operators
    fused = {"relu": "RELU", "relu6": "RELU6", "hardtanh": "RELU_N1_TO_1"}[function]
    assert operator.builtinOptions.fusedActivationFunction == getattr(schema.ActivationFunctionType, fused)
    assert tflite_model(graph).operators[0].nodes == (1, 2, 3)
    assert_equals_pytorch(graph)


def test_what_another_reads_is_not_fused_over() -> None:
    builder = GraphBuilder()
    x = builder.batch_norm(builder.conv2d(builder.input(IMAGE), 16, kernel=1))
    graph = builder.graph(x, builder.activation(x, "relu"))
    assert names(graph) == ["CONV_2D", "RELU"]
    assert_equals_pytorch(graph)


def test_a_batch_norm_is_folded_into_linear_and_transposed_layers() -> None:
    builder = GraphBuilder()
    x = builder.add(conv_transpose(kernel=(2, 2), stride=(2, 2), bias=True), builder.input(IMAGE))
    graph = builder.graph(builder.activation(builder.batch_norm(x), "relu6"))
    assert names(graph) == ["TRANSPOSE_CONV"]
    assert_equals_pytorch(graph)

    builder = GraphBuilder()
    graph = builder.graph(builder.batch_norm(builder.linear(builder.input((4, 8)), 6)))
    assert names(graph) == ["FULLY_CONNECTED"]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (conv(), ["CONV_2D VALID"]),  # without padding
        (conv(kernel=(1, 1), stride=(2, 2)), ["CONV_2D VALID"]),
        (conv(padding=(1, 1)), ["CONV_2D SAME"]),  # stride 1: one on each side
        (conv(padding=(2, 2), dilation=(2, 2)), ["CONV_2D SAME"]),
        (conv(padding=(1, 1), stride=(2, 2), height=11, width=9), ["CONV_2D SAME"]),  # 6 = ceil(11 / 2): 1 and 1
        (conv(padding=(1, 1), stride=(2, 2)), ["PAD (1, 0) (1, 0)", "CONV_2D VALID"]),  # SAME would be 0 and 1
        (conv(kernel=(5, 5), padding=(1, 1)), ["PAD (1, 1) (1, 1)", "CONV_2D VALID"]),
        (conv(kernel=(7, 7), padding=(3, 3), stride=(2, 2)), ["PAD (3, 2) (3, 2)", "CONV_2D VALID"]),
        (conv(padding=(0, 1)), ["PAD (0, 0) (1, 1)", "CONV_2D VALID"]),
        (
            Pool2d(shape=IMAGE, method="avg", kernel=(3, 3), stride=(1, 1), padding=(1, 1)),
            ["PAD (1, 1) (1, 1)", "AVERAGE_POOL_2D VALID"],  # SAME would leave the padding out of the mean
        ),
        (Pool2d(shape=IMAGE, method="max", kernel=(3, 3), stride=(1, 1), padding=(1, 1)), ["MAX_POOL_2D SAME"]),
        (
            Pool2d(shape=IMAGE, method="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
            ["PADV2 (1, 0) (1, 0)", "MAX_POOL_2D VALID"],
        ),
    ],
    ids=lambda value: value.text if isinstance(value, Operator) else "",
)
def test_padding_is_written_as_the_mode_that_equals_it_or_else_before(operator: Operator, expected: list[str]) -> None:
    graph = graph_of(operator)
    model = unpacked(graph)
    (subgraph,) = model.subgraphs
    modes = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}
    found = []
    for name, each in zip(names(graph), subgraph.operators):
        if name.startswith("PAD"):
            paddings = model.buffers[subgraph.tensors[each.inputs[1]].buffer].data.view(np.int32).reshape(4, 2)
            assert not paddings[[0, 3]].any()
            found.append(f"{name} {tuple(paddings[1].tolist())} {tuple(paddings[2].tolist())}")
        else:
            found.append(f"{name} {modes[each.builtinOptions.padding]}")
    assert found == expected


def test_flattening_keeps_the_order_of_channels_first() -> None:
    """(1, 8, 5, 4) has to be transposed before it becomes a vector, (1, 8, 1, 1) is the same in both layouts."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 5, 4)), 8, kernel=3)
    graph = builder.graph(builder.linear(builder.flatten(x), 6))
    assert names(graph) == ["CONV_2D", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"]
    assert [operator.nodes for operator in tflite_model(graph).operators] == [(1,), (), (2,), (3,)]
    assert_equals_pytorch(graph)

    builder = GraphBuilder()
    x = builder.global_pool(builder.conv2d(builder.input((1, 3, 5, 4)), 8, kernel=3))
    graph = builder.graph(builder.linear(builder.flatten(x), 6))
    assert names(graph) == ["CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"]
    assert_equals_pytorch(graph)


def test_tokens_with_four_axes_are_not_taken_for_images() -> None:
    builder = GraphBuilder()
    norm = Normalization(shape=(1, 4, 5, 8), method="layer_norm", affine_params=16)
    x = builder.linear(builder.add(norm, builder.input((1, 4, 5, 8))), 6)
    graph = builder.graph(builder.activation(x, "gelu"))
    assert "TRANSPOSE" not in names(graph)
    assert tflite_model(graph).channels_last == frozenset()
    assert_equals_pytorch(graph)


def test_images_and_tokens_can_meet() -> None:
    builder = GraphBuilder()
    image = builder.conv2d(builder.input((1, 4, 6, 5)), 8, kernel=3)
    tokens = builder.linear(image, 5)
    x = builder.elementwise("add", tokens, image)
    x = builder.elementwise("mul", x, builder.add(Constant(shape=(8, 1, 1))))
    assert_equals_pytorch(builder.graph(builder.conv2d(builder.concat(x, tokens), 4, kernel=1), tokens))


def test_channels_moved_last_cost_nothing_where_images_are_stored_so() -> None:
    """NHWC for a layer norm and back, as ConvNeXt does it: all that is left is a change of shape."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 6, 5)), 8, kernel=3)
    shape = (1, 8, 6, 5)
    steps = (("transpose", (0, 2, 3, 1)),)
    x = builder.add(View(shape=shape, to=(1, 6, 5, 8), steps=steps), x)
    x = builder.add(Normalization(shape=(1, 6, 5, 8), method="layer_norm"), x)
    back = (("transpose", (0, 3, 1, 2)),)
    x = builder.add(Copy(shape=(1, 6, 5, 8), to=shape, method="transpose", steps=back), x)
    graph = builder.graph(builder.conv2d(x, 4, kernel=1))
    assert "TRANSPOSE" not in names(graph)
    assert names(graph).count("RESHAPE") == 2
    assert_equals_pytorch(graph)


def test_parts_of_images_are_cut_and_padded_as_they_are_stored() -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 6, 5)), 8, kernel=3)
    cut = (("slice", (0, 2, 0, 1), (1, 6, 6, 5), (1, 1, 1, 1)),)
    x = builder.add(Copy(shape=(1, 8, 6, 5), to=(1, 4, 6, 4), method="slice", steps=cut), x)
    pad = (("pad", (0, 0, 1, 0), (0, 2, 0, 3)),)
    x = builder.add(Copy(shape=(1, 4, 6, 4), to=(1, 6, 7, 7), method="pad", steps=pad), x)
    graph = builder.graph(builder.conv2d(x, 4, kernel=1))
    assert names(graph) == ["CONV_2D", "SLICE", "PAD", "CONV_2D"]
    assert_equals_pytorch(graph)


def test_constants_are_stored_as_they_are_read() -> None:
    """A factor of each channel, as torch broadcasts it to NCHW, and a summand of each pixel: nothing is moved."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 4, 6, 5)), 8, kernel=3)
    x = builder.elementwise("mul", x, builder.add(Constant(shape=(8, 1, 1))))
    graph = builder.graph(builder.elementwise("add", builder.add(Constant(shape=(1, 8, 6, 5))), x))
    assert names(graph) == ["CONV_2D", "MUL", "ADD"]
    assert_equals_pytorch(graph)


def test_dead_branches_are_not_written() -> None:
    builder = GraphBuilder()
    x = builder.input(IMAGE)
    builder.conv2d(builder.conv2d(x, 4, kernel=3), 4, kernel=3)
    graph = builder.graph(builder.activation(x, "relu"))
    assert names(graph) == ["RELU"]
    assert_equals_pytorch(graph)


def test_weights_lie_on_16_bytes_as_the_schema_asks() -> None:
    builder = GraphBuilder()
    graph = builder.graph(builder.linear(builder.conv2d(builder.input((1, 3, 5, 7)), 5, kernel=3), 3))
    data = tflite_model(graph).data
    assert data[4:8] == b"TFL3"
    model = schema.Model.GetRootAs(data)
    buffers = [model.Buffers(index) for index in range(1, model.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers]
    assert len(starts) >= 4
    assert [start % 16 for start in starts] == [0] * len(starts)


@pytest.mark.parametrize(
    "operator",
    [
        Copy(shape=IMAGE, to=(1, 8, 10, 12), method="transpose"),
        View(shape=IMAGE, to=(1, 8, 6, 5)),
        conv_transpose(groups=2),
        conv_transpose(dilation=(2, 2)),
        conv_transpose(kernel=(2, 2), stride=(2, 2), output_padding=(1, 1)),
        Normalization(shape=IMAGE, method="group_norm", affine_params=16),
        Activation(shape=IMAGE, function="mish"),
        Resize(shape=IMAGE, size=(24, 20), method="bicubic"),
        Reduce(shape=IMAGE, method="logsumexp", axes=(1,)),
        AdaptivePool2d(shape=IMAGE, size=(5, 5)),
        Pool2d(shape=IMAGE, method="max", kernel=(2, 2), stride=(1, 1), dilation=(2, 2)),
        Pool2d(shape=IMAGE, method="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True),
        Elementwise(function="where", shapes=(IMAGE, IMAGE, IMAGE)),
    ],
    ids=lambda operator: operator.text,
)
def test_what_tensorflow_lite_lacks_is_refused_by_name(operator: Operator) -> None:
    with pytest.raises(NoKernelError) as error:
        tflite_model(graph_of(operator))
    assert operator.text in str(error.value)


def test_a_batch_norm_over_tokens_is_not_folded_into_features() -> None:
    builder = GraphBuilder()
    graph = builder.graph(builder.batch_norm(builder.linear(builder.input((1, 7, 8)), 7)))
    with pytest.raises(NoKernelError, match="batch norm over an axis that is not its last"):
        tflite_model(graph)


# ---------------------------------------------------------------------------------- which events belong to which nodes


def operator(name: str, inputs: tuple[int, ...], output: int) -> TfliteOperator:
    return TfliteOperator(name=name, nodes=(output,), inputs=inputs, output=output)


def test_events_are_matched_in_the_order_in_which_partitions_run() -> None:
    """A nearest resize is none of XNNPACK's: what does not wait for it runs before it, though it is written after."""
    operators = [
        operator("CONV_2D", (0,), 1),
        operator("RESIZE_NEAREST_NEIGHBOR", (1,), 2),
        operator("LOGISTIC", (2,), 3),
        operator("TANH", (1,), 4),
        operator("ADD", (3, 4), 5),
    ]
    events = [
        Event("Convolution (NHWC, F32) IGEMM", None),
        Event("TanH (NC)", None),
        Event("RESIZE_NEAREST_NEIGHBOR", 1),
        Event("Sigmoid (NC)", None),
        Event("Add (ND)", None),
    ]
    assert events_of_operators(operators, events) == [[0], [2], [3], [1], [4]]


def test_padding_inside_a_convolution_has_no_event_and_a_reshape_before_a_product_belongs_to_it() -> None:
    operators = [operator("PAD", (0,), 1), operator("CONV_2D", (1,), 2), operator("FULLY_CONNECTED", (2,), 3)]
    events = [
        Event("Convolution (NHWC, F32) IGEMM", None),
        Event("Static Reshape (NC)", None),
        Event("Fully Connected (NC, F32) GEMM", None),
    ]
    assert events_of_operators(operators, events) == [[], [0], [1, 2]]


@pytest.mark.parametrize("found", [["Add (ND)"], ["Multiply (ND)", "Clamp (NC)"], []])
def test_events_that_are_not_understood_are_not_guessed(found: list[str]) -> None:
    events = [Event(name, None) for name in found]
    assert events_of_operators([operator("MUL", (0,), 1)], events) is None


def test_steps_cover_a_network_with_operators_that_xnnpack_lacks() -> None:
    backend = open_backend("litert")
    builder = GraphBuilder()
    x = builder.conv2d(builder.input(IMAGE), 16, kernel=3, stride=2)
    up = builder.add(Resize(shape=(1, 16, 6, 5), size=(12, 10), method="nearest"), x)
    x = builder.elementwise("add", builder.activation(builder.conv2d(up, 16, kernel=1), "silu"), up)
    profile = backend.profile(builder.graph(x))
    if profile is None:
        pytest.skip("steps are known for LiteRT 2.3 only")
    profile.run()
    steps, seconds_RS = profile.finish()
    assert [step.nodes for step in steps] == [(1,), (2,), (3,), (4,), (5,)]
    assert steps[3].name == "Sigmoid (NC) + Multiply (ND)"
    assert seconds_RS.shape == (1, 5)
