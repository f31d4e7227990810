"""The graph: what it checks, what it sums, and the short forms of its builder."""

import pytest

from predictors.graph import Graph, GraphBuilder, Node
from predictors.operators import Activation, AdaptivePool2d, Concat, Conv2d, Elementwise, Input, Linear, Pool2d, View


def small() -> GraphBuilder:
    builder = GraphBuilder()
    builder.input((2, 3, 8, 8), "image")
    return builder


def test_costs_are_the_sums_over_the_nodes() -> None:
    builder = small()
    x = builder.activation(builder.batch_norm(builder.conv2d(0, 4, kernel=3, stride=2)), "relu")
    graph = builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))
    # conv 2*4*4*4 outputs * 27; batch norm 2 * 128; pooling reads 128; linear 2 rows * 4 * 10
    assert graph.macs == 2 * 4 * 4 * 4 * 27 + 2 * 128 + 128 + 2 * 4 * 10
    assert graph.num_params == 4 * 27 + 2 * 4 + (4 + 1) * 10
    assert graph.outputs == (6,)


def test_builder_gives_each_node_its_inputs_shape() -> None:
    builder = small()
    x = builder.conv2d(0, 4, kernel=(1, 5), dilation=(1, 2), bias=True, name="stem")
    y = builder.elementwise("add", x, x)
    builder.concat(x, y, x)
    builder.pool2d(0, "max", 3, stride=2, padding=1)
    assert [node.operator for node in builder.graph(0).nodes[1:]] == [
        Conv2d(
            batch=2, in_channels=3, out_channels=4, height=8, width=8, kernel=(1, 5), padding=(0, 4), dilation=(1, 2),
            bias=True,
        ),
        Elementwise(function="add", shapes=((2, 4, 8, 8), (2, 4, 8, 8))),
        Concat(shapes=((2, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8))),
        Pool2d(shape=(2, 3, 8, 8), method="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    ]  # fmt: skip
    assert [node.inputs for node in builder.graph(0).nodes] == [(), (0,), (1, 1), (1, 2, 1), (0,)]


def test_flatten_and_pooling_keep_the_batch() -> None:
    builder = small()
    assert builder.shape(builder.flatten(0)) == (2, 192)
    assert builder.shape(builder.global_pool(0)) == (2, 3, 1, 1)
    assert [type(node.operator) for node in builder.graph(0).nodes] == [Input, View, AdaptivePool2d]


def test_names_do_not_count_in_equality() -> None:
    first, second = small(), GraphBuilder()
    second.input((2, 3, 8, 8), "other")
    assert first.graph(0, name="a") == second.graph(0, name="b")
    assert hash(first.graph(0)) == hash(second.graph(0))


def test_equal_operators_are_made_once() -> None:
    first, second = small(), small()
    assert first.graph(0).nodes[0].operator is second.graph(0).nodes[0].operator


def test_a_node_may_read_earlier_nodes_only() -> None:
    node = Node(Activation(shape=(1, 4), function="relu"), (1,))
    with pytest.raises(ValueError, match=r"node 0 .*reads node 1, which is not before it"):
        Graph((node, Node(Input(shape=(1, 4)))), (0,))
    with pytest.raises(ValueError, match="reads node -1"):
        Graph((Node(Input(shape=(1, 4))), Node(Activation(shape=(1, 4), function="relu"), (-1,))), (0,))


def test_a_node_must_take_the_shapes_that_its_inputs_have() -> None:
    linear = Linear(shape=(1, 5), out_features=2)
    with pytest.raises(ValueError, match=r"node 1 'head' .*takes shapes .*1, 5.* inputs \(0,\) have .*1, 4"):
        Graph((Node(Input(shape=(1, 4))), Node(linear, (0,), "head")), (1,))
    with pytest.raises(ValueError, match=r"its inputs \(\) have \(\)"):
        Graph((Node(linear),), (0,))


@pytest.mark.parametrize("outputs", [(), (1,), (-1,)])
def test_outputs_must_name_nodes(outputs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must name some of the 1 nodes"):
        Graph((Node(Input(shape=(1, 4))),), outputs)
