import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from movements import LARGER, PLAIN

from predictors import GraphBuilder
from predictors.graph import Graph, Node
from predictors.measure.backend import NoKernelError, Step
from predictors.measure.onnx_model import onnx_bytes, steps_of, tensor_name
from predictors.measure.torch_layers import GraphModule
from predictors.measure.values import given_value, input_indices
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

MAP = (1, 6, 9, 10)
ACTIVATIONS = (
    "abs", "celu", "cos", "elu", "erf", "exp", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish",
    "neg", "reciprocal", "relu", "relu6", "round", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "square",
    "tanh",
)  # fmt: skip

OPERATORS: tuple[Operator, ...] = (
    Conv2d(in_channels=6, out_channels=4, height=9, width=10, kernel=(3, 3)),
    Conv2d(
        batch=2, in_channels=6, out_channels=4, height=9, width=10, kernel=(3, 5), stride=(2, 1), padding=(1, 2),
        dilation=(2, 1), groups=2, bias=True,
    ),
    ConvTranspose2d(
        in_channels=6, out_channels=4, height=4, width=5, kernel=(3, 4), stride=(2, 3), padding=(1, 0),
        output_padding=(1, 2), groups=2, bias=True,
    ),
    Linear(shape=(2, 8), out_features=5, bias=True),
    Linear(shape=(2, 3, 8), out_features=5, bias=True),
    Linear(shape=(2, 3, 8), out_features=5),
    MatMul(left=(2, 4, 3, 8), right=(1, 4, 8, 5)),
    Attention(heads=2, query_length=5, key_length=7, head_dim=8, value_dim=6),
    *(Activation(shape=(1, 50), function=function) for function in ACTIVATIONS),
    Softmax(shape=(2, 3, 8)),
    Normalization(shape=MAP, method="batch_norm", affine_params=12),
    Normalization(shape=MAP, method="batch_norm"),
    Normalization(shape=(2, 3, 8), method="layer_norm", affine_params=16),
    Normalization(shape=(2, 3, 8), method="layer_norm"),
    Pool2d(shape=MAP, method="max", kernel=(3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1)),
    Pool2d(shape=MAP, method="max", kernel=(2, 2), stride=(3, 3), padding=(1, 1), ceil_mode=True),
    Pool2d(shape=MAP, method="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    Pool2d(shape=MAP, method="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
    AdaptivePool2d(shape=MAP),
    AdaptivePool2d(shape=MAP, method="max"),
    AdaptivePool2d(shape=MAP, size=(3, 5)),
    *(Reduce(shape=MAP, method=method, axes=(2, 3)) for method in ("mean", "sum", "max", "min")),
    Reduce(shape=MAP, method="mean", axes=(1,), keepdim=True),
    *(Resize(shape=MAP, size=(13, 5), method=method) for method in ("nearest", "bilinear", "bicubic")),
    *(
        Elementwise(function=function, shapes=(MAP, (1, 6, 1, 1)))
        for function in ("add", "sub", "mul", "div", "maximum", "minimum")
    ),
    Elementwise(function="mul", shapes=(MAP,)),
    Concat(shapes=(MAP, (1, 6, 9, 4)), axis=3),
    View(shape=MAP, to=(6, 90)),
    Softmax(shape=MAP, axis=1),
    *PLAIN,
    *LARGER,
)  # fmt: skip

REFUSED: tuple[Operator, ...] = (
    Copy(shape=MAP, to=(1, 6, 10, 9), method="transpose"),
    Embedding(shape=(1, 4), num_rows=10, features=3),
    Activation(shape=MAP, function="swizzle"),
    Normalization(shape=MAP, method="group_norm", affine_params=12),
    Pool2d(shape=MAP, method="avg", kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True),
    AdaptivePool2d(shape=MAP, size=(4, 5)),
    Reduce(shape=MAP, method="norm", axes=(1,)),
    Elementwise(function="pow", shapes=(MAP, MAP)),
    Elementwise(function="add", shapes=(MAP, MAP, MAP)),
    View(shape=MAP, to=(1, 6, 9, 5)),
)


def name_of(operator: Operator) -> str:
    return operator.text


def graph_of(operator: Operator) -> Graph:
    """The operator alone between inputs and output."""
    inputs = [Node(Input(shape=shape)) for shape in operator.input_shapes]
    return Graph((*inputs, Node(operator, tuple(range(len(inputs))))), (len(inputs),))


def run(graph: Graph, **options: object) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(onnx_bytes(graph, **options), providers=["CPUExecutionProvider"])
    return session.run(None, {tensor_name(index): given_value(graph, index) for index in input_indices(graph)})


def expected(graph: Graph) -> list[np.ndarray]:
    inputs = [torch.from_numpy(given_value(graph, index)) for index in input_indices(graph)]
    with torch.inference_mode():
        return [tensor.numpy() for tensor in GraphModule(graph)(*inputs)]


@pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
def test_an_operator_passes_the_checker_and_its_nodes_carry_its_index(operator: Operator) -> None:
    graph = graph_of(operator)
    model = onnx.load_from_string(onnx_bytes(graph))
    onnx.checker.check_model(model, full_check=True)
    index = graph.outputs[0]
    name = f"n{index}_{operator.kind}"
    assert model.graph.node[-1].name == name
    assert list(model.graph.node[-1].output) == [f"n{index}"]
    assert all(node.name.startswith(f"{name}.") for node in model.graph.node[:-1])
    (output,) = model.graph.output
    assert tuple(each.dim_value for each in output.type.tensor_type.shape.dim) == operator.output_shape


@pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
def test_an_operator_computes_what_its_torch_layer_computes(operator: Operator) -> None:
    graph = graph_of(operator)
    (right,), (found,) = expected(graph), run(graph)
    assert found.shape == right.shape
    assert np.abs(found - right).max() <= 1e-4 * max(1.0, np.abs(right).max())


@pytest.mark.parametrize("operator", REFUSED, ids=name_of)
def test_what_a_record_does_not_determine_is_refused_by_name(operator: Operator) -> None:
    with pytest.raises(NoKernelError) as caught:
        onnx_bytes(graph_of(operator))
    assert operator.text in str(caught.value)


@pytest.mark.parametrize(("function", "num_nodes"), [("hardswish", 2), ("mish", 3)])
def test_spelt_out_a_function_has_more_nodes_and_the_same_values(function: str, num_nodes: int) -> None:
    graph = graph_of(Activation(shape=MAP, function=function))
    nodes = onnx.load_from_string(onnx_bytes(graph, spelt_out=True)).graph.node
    assert (len(onnx.load_from_string(onnx_bytes(graph)).graph.node), len(nodes)) == (1, num_nodes)
    assert np.abs(run(graph, spelt_out=True)[0] - expected(graph)[0]).max() < 1e-5


def test_attention_adds_its_mask_to_the_scores() -> None:
    """All scores become -1000 but those of the first key, so every query gets the first value."""
    shapes = {"query_length": 3, "key_length": 4, "head_dim": 8, "value_dim": 5}
    graph = graph_of(Attention(heads=2, mask=(3, 4), **shapes))
    session = onnxruntime.InferenceSession(onnx_bytes(graph), providers=["CPUExecutionProvider"])
    values = {tensor_name(index): given_value(graph, index) for index in input_indices(graph)}
    values["n3"] = np.full((3, 4), -1000.0, np.float32)
    values["n3"][:, 0] = 0.0
    (found,) = session.run(None, values)
    assert np.allclose(found, np.repeat(values["n2"][:, :, :1], 3, axis=2), atol=1e-6)


def test_a_graph_in_float16_has_no_other_floats() -> None:
    builder = GraphBuilder()
    x = builder.batch_norm(builder.conv2d(builder.input(MAP), 4, kernel=3, bias=True))
    graph = builder.graph(builder.elementwise("mul", builder.activation(x, "relu6")))
    model = onnx.load_from_string(onnx_bytes(graph, dtype="float16"))
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT16}


def test_a_constant_is_stored_and_an_output_that_is_asked_for_twice_is_written_once() -> None:
    add = Elementwise(function="add", shapes=((1, 4), (1, 4)))
    graph = Graph((Node(Input(shape=(1, 4))), Node(Constant(shape=(1, 4))), Node(add, (0, 1))), (2, 2))
    model = onnx.load_from_string(onnx_bytes(graph))
    assert [each.name for each in model.graph.input] == ["n0"]
    assert [each.name for each in model.graph.initializer] == ["n1"]
    assert [each.name for each in model.graph.output] == ["n2"]
    assert np.array_equal(run(graph)[0], given_value(graph, 0) + given_value(graph, 1))


def residual_block() -> Graph:
    """0 input, 1 conv, 2 batch norm, 3 relu, 4 conv, 5 batch norm, 6 add of 3 and 5, 7 hardswish, 8 dead relu."""
    builder = GraphBuilder()
    x = builder.activation(builder.batch_norm(builder.conv2d(builder.input(MAP), 6, kernel=3)), "relu")
    y = builder.batch_norm(builder.conv2d(x, 6, kernel=3))
    y = builder.activation(builder.elementwise("add", x, y), "hardswish")
    builder.activation(y, "relu")
    return builder.graph(y)


def test_nodes_that_no_launch_names_belong_to_what_they_were_fused_into() -> None:
    """Both convolutions are called after their batch norm; the addition can only run in the second."""
    launches = [("reorder", ""), ("a", "n2_nchwc"), ("b", "fused n5_normalization"), ("reorder", "")]
    steps, seconds_RS = steps_of(residual_block(), launches, np.array([[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 7.0, 9.0]]))
    assert steps == (
        Step(name="reorder", nodes=()),
        Step(name="a", nodes=(1, 2, 3)),
        Step(name="b", nodes=(4, 5, 6, 7)),
        Step(name="reorder", nodes=()),
    )
    assert seconds_RS.tolist() == [[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 7.0, 9.0]]


def test_launches_of_one_node_make_one_step_with_their_sum() -> None:
    launches = [("a", "n1,n2,n3"), ("b", "n4_conv2d,n6"), ("gate", "n7_activation.gate"), ("mul", "n7_activation")]
    steps, seconds_RS = steps_of(residual_block(), launches, np.array([[1.0, 2.0, 4.0, 8.0]]))
    assert [step.nodes for step in steps] == [(1, 2, 3), (4, 5, 6), (7,)]
    assert seconds_RS.tolist() == [[1.0, 2.0, 12.0]]


def test_numbers_in_other_names_are_no_nodes() -> None:
    (step,), _ = steps_of(residual_block(), [("x", "Constant_n3 ConvBn_n2 m1 n4x")], np.zeros((1, 1)))
    assert step.nodes == ()
