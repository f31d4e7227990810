from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import GraphBuilder, fuse, kernel_cost, load_runtime
from predictors.fusion import kernel_from_text, runtime_from_mapping
from predictors.operators import OPERATORS
from predictors.paths import shipped

TVM = load_runtime("tvm_opencl")
EAGER = load_runtime("torch_eager")
RUNTIMES = [load_runtime(file.stem) for file in sorted(shipped("runtime").glob("*.yaml"))]


def kinds(graph, runtime=TVM):
    """Each kernel as 'anchor+fused+fused'."""
    return [
        "+".join(each.variant for each in (node.kernel.anchor, *node.kernel.fused))
        for node in fuse(graph, runtime, "float32")
    ]


def start(channels=8, size=4):
    builder = GraphBuilder()
    return builder, builder.input((1, channels, size, size))


def test_conv_bn_relu_is_one_kernel():
    builder, x = start()
    x = builder.activation(builder.batch_norm(builder.conv2d(x, 8, 3)), "relu")
    assert kinds(builder.graph(x)) == ["conv2d+batch_norm+relu"]


def test_conv_relu_bn_is_two_kernels():
    builder, x = start()
    x = builder.batch_norm(builder.activation(builder.conv2d(x, 8, 3), "relu"))
    assert kinds(builder.graph(x)) == ["conv2d+relu", "batch_norm"]


def test_eager_mode_fuses_nothing():
    builder, x = start()
    x = builder.activation(builder.batch_norm(builder.conv2d(x, 8, 3)), "relu")
    assert kinds(builder.graph(x), EAGER) == ["conv2d", "batch_norm", "relu"]


def test_a_branch_point_stops_fusion():
    builder, x = start()
    split = builder.conv2d(x, 8, 3)
    x = builder.elementwise("add", builder.activation(split, "relu"), split)
    assert kinds(builder.graph(x)) == ["conv2d", "relu+add"]


def test_an_output_in_the_middle_must_be_written_and_stops_fusion():
    builder, x = start()
    middle = builder.conv2d(x, 8, 3)
    end = builder.activation(middle, "relu")
    assert kinds(builder.graph(middle, end)) == ["conv2d", "relu"]


def test_a_residual_addition_joins_the_convolution_and_reads_the_other_branch():
    builder, x = start()
    x = builder.elementwise("add", builder.batch_norm(builder.conv2d(x, 8, 3)), x)
    (node,) = fuse(builder.graph(x), TVM, "float32")
    assert (node.nodes, node.inputs) == ((1, 2, 3), (0, 0))


def test_an_addition_of_two_convolutions_runs_once_after_both():
    builder, x = start()
    x = builder.elementwise("add", builder.conv2d(x, 8, 3), builder.conv2d(x, 8, 1))
    nodes = fuse(builder.graph(x), TVM, "float32")
    assert [node.nodes for node in nodes] == [(2,), (1, 3)]
    assert nodes[1].inputs == (0, 2)


def test_a_change_of_shape_is_not_fused():
    builder, x = start(channels=8, size=1)
    wide = builder.input((1, 8, 4, 4))
    x = builder.elementwise("mul", builder.conv2d(x, 8, 1), wide)
    assert kinds(builder.graph(x)) == ["conv2d", "mul"]


def test_dead_branches_run_only_where_the_runtime_keeps_them():
    builder, x = start()
    end = builder.activation(builder.conv2d(x, 8, 3), "relu")
    builder.activation(builder.conv2d(x, 8, 5), "relu")
    graph = builder.graph(end)
    assert kinds(graph) == ["conv2d+relu"]
    assert kinds(graph, EAGER) == ["conv2d", "relu", "conv2d", "relu"]


def test_a_dead_reader_does_not_stop_fusion():
    builder, x = start()
    convolved = builder.conv2d(x, 8, 3)
    end = builder.activation(convolved, "relu")
    builder.activation(convolved, "sigmoid")
    assert kinds(builder.graph(end)) == ["conv2d+relu"]


def test_views_vanish_and_readers_see_through_them():
    builder, x = start()
    x = builder.linear(builder.flatten(builder.activation(builder.conv2d(x, 8, 3), "relu")), 10)
    convolution, linear = fuse(builder.graph(x), TVM, "float32")
    assert convolution.nodes == (1, 2)
    assert linear.inputs == (2,)


def test_the_text_of_a_kernel_reads_back():
    builder, x = start()
    x = builder.activation(builder.batch_norm(builder.conv2d(x, 8, 3)), "relu")
    (node,) = fuse(builder.graph(x), TVM, "float16")
    assert kernel_from_text(node.kernel.text, "float16") is node.kernel


@pytest.mark.parametrize(
    ("arguments", "classes"),
    [
        ({"kernel": 3, "stride": 2}, ("conv2d_3x3_s2", "conv2d_3x3", "conv2d")),
        ({"kernel": 5, "groups": 8}, ("depthwise_conv2d_5x5_s1", "depthwise_conv2d_5x5", "depthwise_conv2d")),
        ({"kernel": 1, "groups": 2}, ("grouped_conv2d_1x1_s1", "grouped_conv2d_1x1", "grouped_conv2d")),
    ],
)
def test_classes_go_from_the_specific_to_the_general(arguments, classes):
    builder, x = start()
    (node,) = fuse(builder.graph(builder.conv2d(x, 8, **arguments)), EAGER, "float32")
    assert node.kernel.classes == classes


@st.composite
def random_graphs(draw):
    """Chains with residual additions and dead ends; the builder checks every shape."""
    builder, x = start(channels=draw(st.integers(1, 9)), size=3)
    written = [x]
    for _ in range(draw(st.integers(1, 8))):
        x = draw(st.sampled_from(written))
        choice = draw(st.sampled_from(["conv", "bn", "relu", "add", "pool"]))
        channels = builder.shape(x)[1]
        if choice == "conv":
            x = builder.conv2d(x, channels, draw(st.sampled_from([1, 3])))
        elif choice == "bn":
            x = builder.batch_norm(x)
        elif choice == "relu":
            x = builder.activation(x, "relu")
        elif choice == "add":
            x = builder.elementwise("add", x, draw(st.sampled_from(written)))
        else:
            x = builder.pool2d(x, "max", 3, 1, 1)
        written.append(x)
    return builder.graph(written[-1])


@settings(deadline=None)
@given(graph=random_graphs(), runtime=st.sampled_from(RUNTIMES), alignment=st.sampled_from([1, 4, 8]))
def test_fusing_never_moves_more_bytes_and_runs_every_operator_once(graph, runtime, alignment):
    keeps = replace(runtime, rules=())
    fused, plain = fuse(graph, runtime, "float32"), fuse(graph, keeps, "float32")
    assert sorted(index for node in fused for index in node.nodes) == sorted(node.nodes[0] for node in plain)

    def traffic(nodes):
        return sum(kernel_cost(node.kernel, alignment).traffic_bytes for node in nodes)

    assert traffic(fused) <= traffic(plain)


@settings(deadline=None)
@given(graph=random_graphs(), runtime=st.sampled_from(RUNTIMES))
def test_every_kernel_runs_after_the_kernels_that_it_reads(graph, runtime):
    written = {index for index, node in enumerate(graph.nodes) if not node.operator.moves_data}
    for node in fuse(graph, runtime, "float32"):
        assert set(node.inputs) <= written
        written.add(node.nodes[-1])


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_every_shipped_runtime_names_only_operators_that_exist(runtime):
    activations = {
        "relu", "relu6", "sigmoid", "tanh", "leaky_relu", "hardsigmoid", "hardtanh", "mish", "hardswish", "silu",
        "gelu", "elu", "softplus", "exp",
    }  # fmt: skip
    known = {*OPERATORS, *activations, "batch_norm", "layer_norm", "add", "mul", "sub", "div"}
    for rule in runtime.rules:
        assert rule.anchors <= known
        for slot in rule.slots:
            assert slot.names <= known
    assert runtime.source


def test_errors_of_a_runtime_file_say_where_and_what():
    good = {"name": "x", "description": "", "source": "s", "removes_dead_branches": True, "fusion": []}
    with pytest.raises(ValueError, match=r"runtime: unknown key 'fusions'; allowed are \['description'"):
        runtime_from_mapping({**good, "fusions": []})
    with pytest.raises(ValueError, match="runtime: key 'source' is missing"):
        runtime_from_mapping({key: value for key, value in good.items() if key != "source"})
    with pytest.raises(ValueError, match=r"fusion\[0\]: anchors: expected list, found 'conv2d'"):
        runtime_from_mapping({**good, "fusion": [{"anchors": "conv2d", "then": []}]})
    with pytest.raises(ValueError, match=r"fusion\[0\]: then\[0\]: unknown key 'repeats'; allowed are \['repeat'\]"):
        runtime_from_mapping({**good, "fusion": [{"anchors": ["add"], "then": [{"repeats": ["relu"]}]}]})
    with pytest.raises(ValueError, match="removes_dead_branches: expected bool, found 'yes'"):
        runtime_from_mapping({**good, "removes_dead_branches": "yes"})
    with pytest.raises(ValueError, match=r"unknown runtime 'tensor_rt'; nearest are \['tensorrt', .*; there are "):
        load_runtime("tensor_rt")
