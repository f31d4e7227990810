"""What ran in XNNPACK, and for which nodes: matched by hand, and in real programs."""

import flatbuffers
import pytest

pytest.importorskip("executorch")

from predictors import GraphBuilder
from predictors.graph import Graph
from predictors.measure.backend import Step, open_backend
from predictors.measure.runtimes.executorch import Asked, events_of, match_operators, steps_of


def table(builder: flatbuffers.Builder, fields: dict[int, tuple[str, int]]) -> int:
    """A table with some fields: their numbers, types and values."""
    builder.StartObject(8)
    for number, (kind, value) in fields.items():
        getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
    return builder.EndObject()


def vector(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for each in reversed(tables):
        builder.PrependUOffsetTRelative(each)
    return builder.EndVector()


def etdump(runs: list[tuple[str, list[tuple[str, str, int, int, int]]]]) -> bytes:
    """A file with blocks of events: name, delegate's name, instruction, begin and end in ticks of a nanosecond."""
    builder = flatbuffers.Builder()
    blocks = []
    for title, events in runs:
        made = []
        for name, delegated, instruction, begin, end in events:
            texts = {
                number: ("UOffsetTRelative", builder.CreateString(text))
                for number, text in ((0, name), (4, delegated))
                if text
            }
            times = {2: ("Int32", instruction), 6: ("Uint64", begin), 7: ("Uint64", end)}
            profile = table(builder, texts | times)
            made.append(table(builder, {0: ("UOffsetTRelative", profile)}))
        made.append(table(builder, {}))  # an allocation
        listed, named = vector(builder, made), builder.CreateString(title)
        blocks.append(table(builder, {0: ("UOffsetTRelative", named), 3: ("UOffsetTRelative", listed)}))
    builder.FinishSizePrefixed(table(builder, {1: ("UOffsetTRelative", vector(builder, blocks))}))
    return bytes(builder.Output())


def test_events_are_those_of_operators_in_each_run() -> None:
    runs = [
        ("Default", [("Program::load_method", "", 0, 10, 99)]),
        (
            "Execute",
            [
                ("native_call_mean.out", "", 1, 100, 150),
                ("OPERATOR_CALL", "", 1, 90, 160),
                ("", "Add (ND) #1", 2, 200, 3200),
                ("DELEGATE_CALL", "", 2, 190, 9000),
            ],
        ),
        ("Execute", []),
    ]
    (kernel, add), nothing = events_of(etdump(runs))
    assert (kernel.instruction, add.instruction, add.name) == (1, 2, "Add (ND) #1")
    assert kernel.seconds == pytest.approx(70e-9)
    assert add.seconds == pytest.approx(3.5e-6)  # 3 whole microseconds, and half of the one that was cut off
    assert nothing == []


def test_operators_are_matched_in_order_and_merged_ones_left_out() -> None:
    conv, add, low, high = Asked("XNNConv2d", 1), Asked("XNNAdd", 3), Asked("XNNClamp", 4), Asked("XNNClamp", 4)
    turn = Asked("XNNStaticTranspose", None)
    ran = ["Transpose (ND, X32) #1", "Fully Connected (NC, F32) GEMM #1", "Add (ND) #1", "Clamp (NC) #1"]
    assert match_operators(ran, [turn, conv, add, low, high, turn]) == [turn, conv, add, low]


def test_an_operator_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"ran Sigmoid \(NC\) #1 where XNNConv2d was to come"):
        match_operators(["Sigmoid (NC) #1"], [Asked("XNNConv2d", 1)])
    with pytest.raises(ValueError, match=r"ran Clamp \(NC\) #1, which was not asked for"):
        match_operators(["Clamp (NC) #1"], [])


def test_an_operator_that_computes_is_never_left_out() -> None:
    with pytest.raises(ValueError, match="ran nothing more where XNNHardswish was to come"):
        match_operators(["Add (ND) #1"], [Asked("XNNAdd", 1), Asked("XNNHardswish", 2)])


def squeeze() -> Graph:
    """Node 1 a convolution, 2 its batch norm, 3 a hardsigmoid, 4 a branch that nobody reads, 5 a pool, 6 a view."""
    builder = GraphBuilder()
    x = builder.batch_norm(builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=3))
    y = builder.activation(x, "hardsigmoid")
    builder.activation(x, "relu")
    return builder.graph(builder.flatten(builder.global_pool(y)))


def test_launches_of_one_node_are_one_step_and_fused_nodes_belong_to_their_producer() -> None:
    launches = [("copy", 3), ("Transpose", None), ("Conv", 1), ("Add", 3), ("Div", 3), ("Transpose", None), ("Mean", 5)]
    assert steps_of(squeeze(), launches, {1, 2, 3, 5, 6}) == {
        Step(name="Transpose", nodes=()): [5],
        Step(name="Conv", nodes=(1, 2)): [2],
        Step(name="copy, Add, Div", nodes=(3,)): [0, 3, 4],
        Step(name="Mean", nodes=(5,)): [6],
    }


def nodes_of_steps(graph: Graph) -> list[tuple[int, ...]]:
    profile = open_backend("executorch").profile(graph)
    assert profile is not None
    profile.run()
    steps, seconds_RS = profile.finish()
    assert seconds_RS.shape == (1, len(steps))
    return [step.nodes for step in steps if step.nodes]


def test_a_sum_is_clamped_by_an_operator_of_its_own_and_a_convolution_is_not() -> None:
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=3), "relu")
    y = builder.batch_norm(builder.conv2d(x, 4, kernel=3))
    graph = builder.graph(builder.activation(builder.elementwise("add", x, y), "relu"))
    assert nodes_of_steps(graph) == [(1, 2), (3, 4), (5,), (6,)]


def test_a_batch_norm_without_a_convolution_before_it_has_a_step() -> None:
    builder = GraphBuilder()
    x = builder.pool2d(builder.input((1, 4, 8, 8)), "max", kernel=2, stride=2)
    graph = builder.graph(builder.activation(builder.batch_norm(x), "relu"))
    assert nodes_of_steps(graph) == [(1,), (2, 3)]


def test_a_profile_that_never_ran_has_steps_and_no_seconds() -> None:
    builder = GraphBuilder()
    profile = open_backend("executorch").profile(builder.graph(builder.activation(builder.input((1, 8)), "relu")))
    assert profile is not None
    steps, seconds_RS = profile.finish()
    assert [step.nodes for step in steps] == [(1,)]
    assert seconds_RS.shape == (0, 1)


def test_operators_outside_of_the_delegate_are_steps_too() -> None:
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=3), "erf")
    assert nodes_of_steps(builder.graph(builder.activation(x, "tanh"))) == [(1,), (2,), (3,)]
