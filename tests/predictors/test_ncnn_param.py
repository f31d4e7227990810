"""ncnn's text graphs become graphs: layer by layer by hand, and whole against the shapes that the files hint at."""

from pathlib import Path

import pytest

from predictors import GraphBuilder, UnknownOperatorError, fuse, load_runtime, read_ncnn_param
from predictors.measure.ncnn_model import ncnn_files
from predictors.ncnn_param import _Layer, _layers, _Reader, is_quantised, ncnn_graph
from predictors.operators import Activation, Constant, Conv2d, Copy, Input, Linear, Pool2d, Reduce, View

PARAMS = Path(__file__).parents[3] / "shared" / "data" / "ncnn_benchmark" / "param"
INPUTS = {"FastestDet": {"in0": (3, 352, 352)}, "vision_transformer": {"input": (3, 384, 384)}}
FILES = sorted(PARAMS.glob("*.param"))

needs_data = pytest.mark.skipif(not FILES, reason="the benchmark's networks (../shared/data/ncnn_benchmark) are absent")


def graph_of(*layers: str, shape: str = "0=8 1=6 2=4", **inputs: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """A graph of lines after an Input layer `x` of 4 channels, 6 rows and 8 columns."""
    return ncnn_graph("\n".join(["7767517", "0 0", f"Input x 0 1 x {shape}", *layers, ""]), inputs or None)


def shapes(*layers: str) -> list[tuple[int, ...]]:
    graph = graph_of(*layers)
    return [graph.nodes[index].operator.output_shape for index in graph.outputs]


def test_a_convolution_and_its_fused_activation_are_two_nodes_that_fuse_again() -> None:
    graph = graph_of("Convolution c 1 1 x y 0=16 1=3 3=2 4=1 5=1 6=576 9=1")
    _, convolution, activation = (node.operator for node in graph.nodes)
    assert convolution == Conv2d(
        in_channels=4, out_channels=16, height=6, width=8, kernel=(3, 3), stride=(2, 2), padding=(1, 1), bias=True
    )
    assert activation == Activation(shape=(1, 16, 3, 4), function="relu")
    assert graph.macs == 16 * 3 * 4 * 4 * 9
    assert graph.num_params == 576 + 16
    assert len(fuse(graph, load_runtime("ncnn"), "float32")) == 1


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("Convolution c 1 1 x y 0=16 1=3 11=1 4=1 14=0 6=192", (1, 16, 6, 8)),
        ("Convolution c 1 1 x y 0=16 1=3 3=2 4=-233 6=576", (1, 16, 3, 4)),
        ("Convolution c 1 1 x y 0=16 1=3 3=2 4=0 14=0 15=1 16=1 6=576", (1, 16, 3, 4)),
        ("ConvolutionDepthWise c 1 1 x y 0=4 1=3 4=1 6=36 7=4", (1, 4, 6, 8)),
        ("DeconvolutionDepthWise c 1 1 x y 0=4 1=4 3=2 4=1 6=64 7=4", (1, 4, 12, 16)),
        ("Pooling p 1 1 x y 1=3 2=2", (1, 4, 3, 4)),
        ("Pooling p 1 1 x y 1=2 2=2 5=1", (1, 4, 3, 4)),
        ("Pooling p 1 1 x y 0=1 4=1", (1, 4, 1, 1)),
        ("InnerProduct f 1 1 x y 0=10 1=1 2=1920", (1, 10)),
        ("Flatten f 1 1 x y", (1, 192)),
        ("Reshape r 1 1 x y 0=-1 1=4", (1, 4, 48)),
        ("Permute p 1 1 x y 0=3", (1, 6, 8, 4)),
        ("Padding p 1 1 x y 0=1 1=2 2=1 3=2 7=0 8=4", (1, 8, 9, 11)),
        ("Interp i 1 1 x y 0=2 1=2.0 2=2.0", (1, 4, 12, 16)),
        ("Crop c 1 1 x y -23309=1,1 -23310=1,3 -23311=1,0", (1, 2, 6, 8)),
        ("Crop c 1 1 x y 2=2 3=8 4=6 5=2", (1, 2, 6, 8)),
        ("Reduction r 1 1 x y 0=3 1=0 -23303=2,1,2 4=1 5=1", (1, 4, 1, 1)),
        ("ShuffleChannel s 1 1 x y 0=2", (1, 4, 6, 8)),
        ("BinaryOp b 2 1 x x y 0=2", (1, 4, 6, 8)),
        ("Concat c 2 1 x x y", (1, 8, 6, 8)),
        ("Softmax s 1 1 x y 0=0", (1, 4, 6, 8)),
    ],
)
def test_shapes_are_those_of_the_runtime(line: str, shape: tuple[int, ...]) -> None:
    assert shapes(line) == [shape]


def test_a_slice_divides_what_its_fixed_parts_leave() -> None:
    assert shapes("Slice s 1 2 x a b -23300=2,-233,-233") == [(1, 2, 6, 8), (1, 2, 6, 8)]
    assert shapes("Slice s 1 2 x a b -23300=2,1,-233") == [(1, 1, 6, 8), (1, 3, 6, 8)]


def test_a_vector_spreads_over_the_rows_and_columns_of_a_tensor() -> None:
    graph = graph_of("Pooling p 1 1 x v 0=1 4=1", "InnerProduct f 1 1 v w 0=4 2=16 9=4", "BinaryOp m 2 1 x w y 0=2")
    assert graph.nodes[-1].operator.input_shapes == ((1, 4, 6, 8), (1, 4, 1, 1))


def test_splits_and_noops_launch_nothing_and_unread_blobs_are_outputs() -> None:
    graph = graph_of("Split s 1 2 x a b", "ReLU r 1 1 a c", "Sigmoid t 1 1 b d", "Noop n 2 1 c d out")
    assert [type(node.operator) for node in graph.nodes] == [Input, Activation, Activation]
    assert graph.outputs == (1, 2)


def test_attention_is_three_projections_a_core_and_a_projection() -> None:
    graph = graph_of("MultiHeadAttention m 1 1 x y 0=8 1=2 2=64", shape="0=8 1=5")
    assert [node.operator.kind for node in graph.nodes if not isinstance(node.operator, View)] == [
        "input", "linear", "linear", "linear", "attention", "linear",
    ]  # fmt: skip
    assert graph.macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    assert graph.num_params == 4 * (64 + 8)


def test_detections_read_all_candidates() -> None:
    graph = graph_of(
        "Flatten a 1 1 x offsets", "Flatten b 1 1 x scores", "PriorBox p 1 1 x boxes -23300=1,1.0 -23302=1,2.0",
        "DetectionOutput d 3 1 offsets scores boxes out 0=4",
        shape="0=2 1=2 2=12",
    )  # fmt: skip
    suppressed = next(node.operator for node in graph.nodes if isinstance(node.operator, Reduce))
    assert suppressed.shape == (1, 48)
    assert len(graph.outputs) == 2


def test_an_unknown_layer_stops_the_reading_with_its_name_and_type() -> None:
    with pytest.raises(UnknownOperatorError, match=r"layer 'odd' is of the unknown type 'LSTM'; known are"):
        graph_of("LSTM odd 1 1 x y 0=16")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ReLU r 1 1 nowhere y", "layer 'r' reads blob 'nowhere', which no layer before it writes"),
        ("BinaryOp b 2 1 x x y 0=99", r"layer 'b' \(BinaryOp\): unknown op_type 99"),
        ("Convolution c 1 1 x y 0=8 1=1 6=32 9=77", "unknown activation_type 77"),
        ("Interp i 1 1 x y 0=9 1=2.0 2=2.0", "unknown resize_type 9"),
        ("ReLU r 1", "line 4: not a layer"),
        ("ReLU r 2 1 x y", "line 4: 'r' names fewer blobs than it counts"),
    ],
)
def test_a_malformed_layer_is_refused_with_its_place(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph_of(line)


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not an ncnn \.param file: its first line is 'ir_version: 8'"):
        ncnn_graph("ir_version: 8\n")
    with pytest.raises(ValueError, match="has no layers"):
        ncnn_graph("7767517\n0 0\n")


def test_an_input_without_a_size_asks_for_it() -> None:
    text = "7767517\n2 2\nInput in0 0 1 in0\nReLU r 1 1 in0 y\n"
    with pytest.raises(ValueError, match=r"give input_shapes=\{'in0': \(channels, height, width\)\}"):
        ncnn_graph(text)
    assert ncnn_graph(text, {"in0": (3, 5, 7)}).nodes[1].operator.output_shape == (1, 3, 5, 7)


def test_int8_is_told_from_the_weights_precision() -> None:
    head = "7767517\n2 2\nInput x 0 1 x 0=8 1=6 2=4\n"
    assert is_quantised(head + "Convolution c 1 1 x y 0=16 1=1 6=64 8=2\n")
    assert not is_quantised(head + "Convolution c 1 1 x y 0=16 1=1 6=64\n")


def test_what_is_written_for_ncnn_reads_back_with_the_same_work() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 3, 32, 32))
    x = builder.activation(builder.batch_norm(builder.conv2d(x, 16, kernel=3, stride=2)), "relu")
    y = builder.activation(builder.batch_norm(builder.conv2d(x, 16, kernel=5, groups=16)), "hardswish")
    x = builder.concat(x, builder.elementwise("add", x, builder.conv2d(y, 16, kernel=1, bias=True)))
    x = builder.pool2d(x, "max", 3, 2, 1)
    graph = builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))
    files = ncnn_files(graph)
    again = ncnn_graph(files.param, {f"n{index}_Input": (3, 32, 32) for index in files.inputs} | {"n0": (3, 32, 32)})
    kinds = [[kernel.kernel.kind for kernel in fuse(each, load_runtime("ncnn"), "float32")] for each in (graph, again)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    weighted = [
        sum(node.operator.macs for node in each.nodes if isinstance(node.operator, Conv2d | Linear))
        for each in (graph, again)
    ]
    assert weighted[0] == weighted[1]


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shapes_agree_with_the_hints_that_the_file_holds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    reader = _Reader(GraphBuilder(), dict(INPUTS.get(path.stem, {})), path.stem)
    for layer in _layers(text, path.stem):
        reader.add(layer)
        if "DetectionOutput" in layer.type:
            continue
        for hint, blob in zip(_hints(layer), layer.outputs):
            found = reader.builder.shape(reader.blobs[blob][0])[1:]
            assert found == hint or (len(hint) == 1 and found == (*hint, 1, 1)), f"{layer.name}: {found}, hint {hint}"


def _hints(layer: _Layer) -> list[tuple[int, ...]]:
    """Four numbers a blob: how many axes, then width, height, channels."""
    numbers = [int(value) for value in layer.params.get(-23330, ())]
    hints = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    return [tuple(reversed(sizes[:axes])) for axes, *sizes in hints]


@needs_data
@pytest.mark.parametrize(
    ("name", "macs", "num_params"),
    [
        # torchvision's documentation (2024); Howard et al., MobileNets, 2017, table 4.
        ("mobilenet", 569e6, 4.2e6),
        ("mobilenet_v2", 301e6, 3.5e6),
        ("resnet18", 1.814e9, 11.69e6),
        ("vgg16", 15.47e9, 138.4e6),
        ("alexnet", 0.714e9, 61.1e6),
    ],
)
def test_published_networks_have_their_published_work(name: str, macs: float, num_params: float) -> None:
    graph = read_ncnn_param(PARAMS / f"{name}.param")
    convolved = sum(node.operator.macs for node in graph.nodes if isinstance(node.operator, Conv2d | Linear))
    assert convolved == pytest.approx(macs, rel=0.05)
    assert graph.num_params == pytest.approx(num_params, rel=0.02)


@needs_data
def test_every_network_of_the_benchmark_is_read_and_fuses() -> None:
    assert len(FILES) == 35
    for path in FILES:
        graph = read_ncnn_param(path, INPUTS.get(path.stem))
        kernels = fuse(graph, load_runtime("ncnn"), "float32")
        assert not any(isinstance(node.kernel.anchor, Constant | Input | View) for node in kernels)
        assert any(isinstance(node.kernel.anchor, Conv2d | Pool2d | Copy) for node in kernels)
