"""Networks that are joined of sections: the same graphs, the same predictions, by sums over what is known."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Graph, GraphBuilder, LatencyPredictor, load_device
from predictors import latency as latency_module
from predictors.operators import Constant, Copy
from predictors.sections import Position, Section, join, joined

SHAPE = (1, 8, 16, 16)
RUNTIMES = ("torch_eager", "torch_compile", "onnxruntime", "openvino", "litert", "ncnn", "tensorrt", "tvm_opencl")


def conv(builder, x, width=8, kernel=3, relu=True):
    x = builder.batch_norm(builder.conv2d(x, width, kernel=kernel, name="conv"), "bn")
    return builder.activation(x, "relu", "relu") if relu else x


def residual(builder, x):
    return builder.elementwise("add", x, conv(builder, conv(builder, x), relu=False), name="sum")


def gated(builder, x):
    gate = builder.activation(builder.conv2d(builder.global_pool(x), 8, kernel=1, bias=True), "hardsigmoid")
    return builder.elementwise("mul", x, gate)


def activation_first(builder, x):
    return builder.conv2d(builder.activation(builder.batch_norm(x), "relu"), 8, kernel=3)


def twice_activation_first(builder, x):
    y = builder.activation(x, "hardswish")
    return builder.elementwise("add", y, builder.conv2d(x, 8, kernel=3))


def dead_end(builder, x):
    y = conv(builder, x)
    builder.activation(y, "sigmoid", "nobody reads this")
    builder.activation(x, "tanh", "nor this")
    return builder.activation(y, "sigmoid")


def through_a_view(builder, x):
    flat = builder.flatten(x)
    return builder.add(Copy(shape=builder.shape(flat), to=SHAPE, method="reshape"), flat)


def plus_constant(builder, x):
    return builder.elementwise("add", x, builder.add(Constant(shape=SHAPE, learned_params=7)))


PIECES = (conv, residual, gated, activation_first, twice_activation_first, dead_end, through_a_view)


def section(piece, shape=SHAPE):
    builder = GraphBuilder()
    return Section(builder.graph(piece(builder, builder.input(shape))))


SECTIONS = tuple(map(section, PIECES))


def built(pieces):
    """The same network without sections."""
    builder = GraphBuilder()
    x = builder.input(SHAPE)
    for piece in pieces:
        x = piece(builder, x)
    return builder.graph(x)


def plain(graph):
    """The same graph without its sections."""
    return Graph(graph.nodes, graph.outputs, graph.name)


def agree(found, expected):
    for name in ("macs", "num_params", "cost", "peak_memory_bytes", "num_kernels", "kernel_nodes"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("latency_s", "std_s", "overhead_s"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name
    assert found.kernels == expected.kernels


@given(choices=st.lists(st.sampled_from(range(len(PIECES))), min_size=1, max_size=6))
def test_a_joined_graph_is_the_graph_that_is_built_at_once(choices):
    graph = join([SECTIONS[index] for index in choices], "joined")
    assert graph == built([PIECES[index] for index in choices])
    assert hash(graph) == hash(plain(graph))
    assert [node.name for node in graph.nodes] == [node.name for node in built([PIECES[i] for i in choices]).nodes]
    assert pickle.loads(pickle.dumps(graph)) == graph


PREDICTORS = {name: LatencyPredictor(load_device("v100"), [], runtime=name) for name in RUNTIMES}


@settings(deadline=None, max_examples=200)
@given(choices=st.lists(st.sampled_from(range(len(PIECES))), min_size=1, max_size=6), runtime=st.sampled_from(RUNTIMES))
def test_a_joined_graph_is_predicted_like_the_graph_that_is_built_at_once(choices, runtime):
    """Whatever is fused over the borders, dies, or is only viewed."""
    graph = join([SECTIONS[index] for index in choices])
    agree(PREDICTORS[runtime].predict(graph), PREDICTORS[runtime].predict(built([PIECES[i] for i in choices])))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("piece", range(len(PIECES)))
def test_constants_of_the_first_section_count_as_in_the_graph_that_is_built_at_once(piece, runtime):
    """A learned position, say: it is in memory from the start, and its parameters are those of the network."""
    graph = join([section(plus_constant), SECTIONS[piece]])
    assert graph == built([plus_constant, PIECES[piece]])
    assert graph.num_params == 7 + SECTIONS[piece].graph.num_params
    agree(PREDICTORS[runtime].predict(graph), PREDICTORS[runtime].predict(built([plus_constant, PIECES[piece]])))


def test_a_kernel_that_reaches_over_a_border_is_one_kernel():
    graph = join([section(lambda builder, x: builder.conv2d(x, 8, kernel=3)), section(activation_first)])
    prediction = LatencyPredictor(load_device("v100"), [], runtime="tvm_opencl").predict(graph)
    assert [row.kernel.text.count("+") for row in prediction.kernels] == [2, 0], "conv + batch_norm + relu, conv"
    assert len(prediction.parts) == 1
    apart = LatencyPredictor(load_device("v100"), [], runtime="torch_eager").predict(graph)
    assert len(apart.parts) == 2


def test_what_is_remembered_is_bounded_and_never_confused(monkeypatch):
    monkeypatch.setattr(latency_module, "_MAX_PARTS", 3)
    monkeypatch.setattr(latency_module, "_MAX_KERNELS", 4)
    predictor = LatencyPredictor(load_device("v100"), [])
    for width in range(8, 40):  # sections die, and others may come to stand at the same address
        builder = GraphBuilder()
        x = builder.conv2d(builder.input(SHAPE), width, kernel=3)
        graph = join([Section(builder.graph(x)), section(conv, (1, width, 16, 16))])
        agree(predictor.predict(graph), LatencyPredictor(load_device("v100"), []).predict(plain(graph)))
        assert len(predictor._parts) <= 3
        assert len(predictor._estimates) <= 4


def test_what_is_no_section_is_refused():
    builder = GraphBuilder()
    x = builder.input(SHAPE)
    y = builder.conv2d(x, 8, kernel=3)
    with pytest.raises(ValueError, match="has one output, its last node 2"):
        Section(builder.graph(y, builder.activation(y, "relu")))
    with pytest.raises(ValueError, match=r"which writes its data itself; found outputs \(3,\) and last view"):
        Section(builder.graph(builder.flatten(y)))
    builder = GraphBuilder()
    x = builder.input(SHAPE)
    with pytest.raises(ValueError, match=r"one input, its first node; node 1 \(input"):
        Section(builder.graph(builder.elementwise("add", x, builder.input(SHAPE))))
    builder = GraphBuilder()
    x = builder.add(Constant(shape=SHAPE))
    with pytest.raises(ValueError, match="a section begins with its input, found constant"):
        Section(builder.graph(builder.activation(x, "relu")))


def test_sections_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"takes \(1, 9, 16, 16\); the one before it writes \(1, 8, 16, 16\)"):
        join([SECTIONS[0], section(lambda builder, x: builder.activation(x, "relu"), (1, 9, 16, 16))])
    with pytest.raises(ValueError, match="at least one section"):
        join([])
    with pytest.raises(ValueError, match="only the first section of a network may hold constants"):
        join([SECTIONS[0], section(plus_constant)])


def test_a_position_asks_once_for_each_choice_of_its_knobs():
    asked = []

    def at(knobs):
        asked.append(dict(knobs))
        return SECTIONS[knobs["piece"]] if knobs["depth"] else None

    position = Position(("piece", "depth"), at)
    archs = [{"piece": piece, "other": other, "depth": 1} for piece in (0, 1) for other in (5, 6)]
    assert [position.at(arch) for arch in archs] == [SECTIONS[0], SECTIONS[0], SECTIONS[1], SECTIONS[1]]
    assert position.at({"piece": 0, "depth": 0}) is None
    assert asked == [{"piece": 0, "depth": 1}, {"piece": 1, "depth": 1}, {"piece": 0, "depth": 0}]
    fixed = Position((), lambda knobs: SECTIONS[0])
    assert joined([fixed, position], archs[2]).sections == (SECTIONS[0], SECTIONS[1])
    assert joined([fixed, position], {"piece": 0, "depth": 0}).sections == (SECTIONS[0],)
