"""Networks changed: what is replaced, removed, inserted, and how the shapes behind it follow."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.graph import Graph, GraphBuilder
from predictors.graph_edit import Draft, with_inserted, with_operators, without_nodes
from predictors.operators import (
    Activation,
    Attention,
    Concat,
    Constant,
    Conv2d,
    Copy,
    Elementwise,
    Input,
    Linear,
    Normalization,
    Operator,
    Reduce,
    Resize,
    Unknown,
    View,
)
from predictors.reshaping import ReshapeError, matched_axes, reshape_target, reshaped
from search_spaces import load_space

SPACES = [load_space(name) for name in ("mobilenet_v3", "mobilenet_v3_tiny")]


def residual(size: int = 8) -> Graph:
    """0 input, 1 conv, 2 batch norm, 3 relu, 4 conv, 5 add of 3 and 4, 6 pooling, 7 flatten, 8 linear."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, size, size)), 8, kernel=3, stride=2, name="stem")
    x = builder.activation(builder.batch_norm(x, "norm"), "relu", "act")
    y = builder.elementwise("add", x, builder.conv2d(x, 8, kernel=3, name="conv"), name="add")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(y)), 10, name="head"))


def test_a_draft_without_changes_is_the_same_network() -> None:
    graph = residual()
    found = Draft(graph).graph()
    assert found == graph
    assert [node.name for node in found.nodes] == [node.name for node in graph.nodes]
    assert all(a.operator is b.operator for a, b in zip(found.nodes, graph.nodes))


@given(st.sampled_from(SPACES), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_draft_of_any_network_of_the_spaces_is_the_same_network(space: object, seed: int) -> None:
    graph = space.graph(space.sample(np.random.default_rng(seed)))  # type: ignore[attr-defined]
    assert Draft(graph).graph() == graph


def test_a_network_of_another_resolution_is_the_one_that_the_space_makes_for_it() -> None:
    arch = SPACES[0].sample(np.random.default_rng(0))
    small, large = (SPACES[0].deployed(resolution=size, batch=1).graph(arch) for size in (112, 224))
    images = {index: node.operator for index, node in enumerate(small.nodes) if isinstance(node.operator, Input)}
    assert with_operators(large, images) == small


def test_replacing_a_layer_changes_what_is_behind_it() -> None:
    graph = residual()
    wide = Conv2d(in_channels=3, out_channels=16, height=8, width=8, kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    same = Conv2d(in_channels=8, out_channels=16, height=4, width=4, kernel=(3, 3), padding=(1, 1))
    found = with_operators(graph, {1: wide, 4: same})
    assert found.nodes[2].operator == Normalization(shape=(1, 16, 4, 4), method="batch_norm", affine_params=32)
    assert found.nodes[4].operator == Conv2d(
        in_channels=16, out_channels=16, height=4, width=4, kernel=(3, 3), padding=(1, 1)
    )
    assert found.nodes[8].operator == Linear(shape=(1, 16), out_features=10, bias=True)
    with pytest.raises(ReshapeError, match="'add'"):
        with_operators(graph, {1: wide})  # 16 channels are added to 8


def test_removing_a_node_leaves_its_readers_its_first_input() -> None:
    graph = residual()
    found = without_nodes(graph, [5])  # the sum: what is behind reads the relu, the second convolution is not needed
    assert [node.operator.kind for node in found.nodes] == [
        "input", "conv2d", "normalization", "activation", "adaptive_pool2d", "view", "linear",
    ]  # fmt: skip
    assert found.outputs == (6,)
    with pytest.raises(ValueError, match="reads nothing"):
        without_nodes(graph, [0])
    assert without_nodes(graph, [8]).nodes[-1].operator.kind == "view"  # an output gives what it read


def test_an_inserted_operator_is_read_by_all_that_read_the_node() -> None:
    relu = Activation(shape=(1, 8, 4, 4), function="relu")
    found = with_inserted(residual(), {3: relu}, name="second")
    inserted = next(index for index, node in enumerate(found.nodes) if node.name == "second")
    assert found.nodes[inserted].inputs == (3,)
    assert sorted(index for index, node in enumerate(found.nodes) if inserted in node.inputs) == [5, 6]
    behind_output = with_inserted(residual(), {8: Activation(shape=(1, 10), function="relu")})
    assert behind_output.nodes[behind_output.outputs[0]].operator.kind == "activation"


def test_swapped_operators_keep_their_names() -> None:
    draft = Draft(residual())
    draft.swap(2, 3)
    found = draft.graph()
    assert [(node.name, node.operator.kind) for node in found.nodes[2:4]] == [
        ("act", "activation"), ("norm", "normalization"),
    ]  # fmt: skip
    assert [node.inputs for node in found.nodes[2:4]] == [(1,), (2,)]


def test_nodes_that_read_each_other_are_refused() -> None:
    draft = Draft(residual())
    draft.replace(1, draft[1].operator, 4)
    with pytest.raises(ValueError, match="needs what it writes itself"):
        draft.graph()


def test_what_nothing_read_before_stays() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 4))
    builder.activation(x, "relu")  # some runtimes run it all the same
    graph = builder.graph(builder.conv2d(x, 4, kernel=1))
    assert len(Draft(graph).graph().nodes) == 3


def test_precisions_stay_with_their_nodes() -> None:
    draft = Draft(residual())
    for index in range(9):
        draft.set_dtype(index, "float16")
    found = draft.graph()
    assert {node.dtype for node in found.nodes} == {"float16"}
    draft = Draft(found)
    draft.insert_after(3, Activation(shape=(1, 8, 4, 4), function="relu"))
    assert {node.dtype for node in draft.graph().nodes} == {"float16"}


# ----------------------------------------------------------------------------------------------- operators reshaped


@pytest.mark.parametrize(
    ("operator", "shapes", "expected"),
    [
        (
            Conv2d(in_channels=8, out_channels=8, height=9, width=9, kernel=(3, 3), groups=8),
            ((2, 4, 5, 7),),
            Conv2d(batch=2, in_channels=4, out_channels=4, height=5, width=7, kernel=(3, 3), groups=4),
        ),
        (
            Normalization(shape=(1, 8, 4), method="layer_norm", affine_params=8),
            ((1, 6, 3),),
            Normalization(shape=(1, 6, 3), method="layer_norm", affine_params=6),
        ),
        (Resize(shape=(1, 8, 4, 6), size=(8, 3)), ((1, 8, 6, 4),), Resize(shape=(1, 8, 6, 4), size=(12, 2))),
        (
            Reduce(shape=(1, 8, 4, 4), method="mean", axes=(2, 3)),
            ((1, 8, 2, 2),),
            Reduce(shape=(1, 8, 2, 2), method="mean", axes=(2, 3)),
        ),
        (
            Copy(shape=(1, 4, 2, 6), to=(1, 2, 6, 4), method="transpose", steps=(("transpose", (0, 2, 3, 1)),)),
            ((1, 3, 5, 7),),
            Copy(shape=(1, 3, 5, 7), to=(1, 5, 7, 3), method="transpose", steps=(("transpose", (0, 2, 3, 1)),)),
        ),
        (
            Attention(heads=2, query_length=9, key_length=9, head_dim=8, value_dim=8),
            ((1, 2, 4, 8),) * 3,
            Attention(heads=2, query_length=4, key_length=4, head_dim=8, value_dim=8),
        ),
        (Copy(shape=(1, 4), to=(1, 4), method="cast"), ((1, 6),), Copy(shape=(1, 6), to=(1, 6), method="cast")),
        (Concat(shapes=((1, 4), (1, 6))), ((1, 5), (1, 7)), Concat(shapes=((1, 5), (1, 7)))),
    ],
)
def test_an_operator_keeps_what_it_chose_and_follows_its_inputs(
    operator: Operator, shapes: tuple[tuple[int, ...], ...], expected: Operator
) -> None:
    assert reshaped(operator, shapes) == expected
    assert reshaped(expected, operator.input_shapes) == operator  # and back
    assert reshaped(operator, operator.input_shapes) is operator


@pytest.mark.parametrize(
    ("operator", "shapes"),
    [
        (Conv2d(in_channels=8, out_channels=8, height=9, width=9, kernel=(3, 3), groups=4), ((1, 6, 9, 9),)),
        (Conv2d(in_channels=8, out_channels=8, height=9, width=9, kernel=(7, 7)), ((1, 8, 5, 5),)),
        (Elementwise(function="add", shapes=((1, 8), (1, 8))), ((1, 8), (1, 6))),
        (Copy(shape=(1, 9), to=(1, 4), method="gather"), ((1, 8),)),
        (Unknown(name="mystery", shapes=((1, 9),), to=(1, 9)), ((1, 8),)),
        (Linear(shape=(1, 8), out_features=4), ((1, 2, 4),)),
        (View(shape=(1, 49, 6), to=(1, 7, 7, 6)), ((1, 50, 6),)),
        (Resize(shape=(1, 8, 4, 4), size=(6, 6)), ((1, 8, 5, 5),)),
    ],
)
def test_what_does_not_follow_from_the_record_is_refused(
    operator: Operator, shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(ReshapeError):
        reshaped(operator, shapes)


@pytest.mark.parametrize(
    ("shape", "to", "new", "expected"),
    [
        ((1, 8, 7, 7), (1, 392), (1, 4, 3, 3), (1, 36)),
        ((1, 196, 8), (1, 14, 14, 8), (1, 144, 8), (1, 12, 12, 8)),  # an image from its pixels
        ((1, 56, 56, 8), (1, 8, 7, 8, 7, 8), (1, 28, 28, 8), (1, 4, 7, 4, 7, 8)),  # windows keep their size
        ((1, 49, 96), (1, 49, 3, 32), (1, 49, 64), (1, 49, 2, 32)),  # heads keep their size
        ((1, 116, 4, 4), (1, 2, 58, 4, 4), (1, 112, 4, 4), (1, 2, 56, 4, 4)),  # 2 * 112 / 116 is no whole number
        ((1, 8, 1, 1), (1, 8), (1, 6, 1, 1), (1, 6)),
    ],
)
def test_a_reshape_scales_the_axes_that_changed(
    shape: tuple[int, ...], to: tuple[int, ...], new: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert reshape_target(shape, to, new) == expected


@given(st.lists(st.integers(2, 6), min_size=1, max_size=5), st.data())
def test_a_reshape_keeps_the_number_of_elements(sizes: list[int], data: st.DataObject) -> None:
    shape = tuple(sizes)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shape)), max_size=3)) | {0, len(shape)})
    to = tuple(prod(shape[a:b]) for a, b in pairwise(cuts))
    new = tuple(size * data.draw(st.integers(1, 3)) for size in shape)
    assert prod(reshape_target(shape, to, new)) == prod(new)
    assert prod(reshape_target(to, shape, reshape_target(shape, to, new))) == prod(new)
    assert reshape_target(shape, to, shape) == to
    groups = list(matched_axes(shape, to))
    assert [prod(shape[a:b]) for (a, b), _ in groups] == [prod(to[a:b]) for _, (a, b) in groups]


@pytest.mark.parametrize(
    ("cut", "size", "new", "expected"),
    [
        ((0, 1, 1), 197, 50, (0, 1, 1)),  # the class token
        ((1, 197, 1), 197, 50, (1, 50, 1)),  # all others
        ((0, 4, 1), 8, 6, (0, 3, 1)),  # the first half
        ((4, 8, 1), 8, 6, (3, 6, 1)),  # the second
        ((1, 8, 2), 8, 6, (1, 6, 2)),  # every second
        ((2, 5, 1), 8, 6, (2, 5, 1)),  # three from the third on
    ],
)
def test_a_slice_of_a_longer_axis_keeps_what_it_meant(
    cut: tuple[int, int, int], size: int, new: int, expected: tuple[int, int, int]
) -> None:
    start, stop, by = cut
    length = -(-(stop - start) // by)
    operator = Copy(shape=(size,), to=(length,), method="slice", steps=(("slice", (start,), (stop,), (by,)),))
    found = reshaped(operator, ((new,),))
    assert isinstance(found, Copy)
    assert found.steps == (("slice", *((each,) for each in expected)),)


def test_position_embeddings_follow_the_tokens() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 9, 4))
    table = builder.add(Constant(shape=(1, 9, 4), learned_params=36))
    token = builder.add(Constant(shape=(1, 1, 4), learned_params=4))
    graph = builder.graph(builder.concat(token, builder.elementwise("add", x, table), axis=1))
    found = with_operators(graph, {0: Input(shape=(1, 4, 4))})
    assert [node.operator for node in found.nodes if isinstance(node.operator, Constant)] == [
        Constant(shape=(1, 4, 4), learned_params=16), Constant(shape=(1, 1, 4), learned_params=4),
    ]  # fmt: skip
    assert found.nodes[-1].operator.output_shape == (1, 5, 4)


def test_a_vision_transformer_reshapes_to_what_is_traced_at_that_size() -> None:
    timm = pytest.importorskip("timm")
    import torch

    from predictors import trace

    def made(size: int) -> Graph:
        module = timm.create_model("vit_tiny_patch16_224", img_size=size, depth=2)
        return trace(module, torch.zeros(1, 3, size, size))

    large = made(224)
    (image,) = (index for index, node in enumerate(large.nodes) if isinstance(node.operator, Input))
    assert with_operators(large, {image: Input(shape=(1, 3, 96, 96))}) == made(96)
