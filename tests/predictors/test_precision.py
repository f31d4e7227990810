"""Networks in mixed precision: where conversions stand, what they and the kernels around them move."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.cost import kernel_cost, peak_activation_bytes
from predictors.device import Device, device_from_mapping
from predictors.fusion import Kernel, fuse, kernel_from_text, load_runtime
from predictors.graph import Graph, GraphBuilder
from predictors.graph_file import read_graphs, write_graphs
from predictors.indexing import Gather
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable, Measurement, TableHeader, append_measurement
from predictors.operators import Activation, Constant, Embedding, Normalization, Softmax, Unknown
from predictors.precision import is_conversion, with_precision
from predictors.sections import Section, join

RUNTIME = load_runtime("onnxruntime")


def number(value: float, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "test"}


def toy(*dtypes: str) -> Device:
    return device_from_mapping(
        {
            "name": "toy", "description": "toy", "runtime": "onnxruntime", "dtype": dtypes[0],
            "peak": {dtype: number(1e12, "FLOP/s") for dtype in dtypes},
            "memory": [{"name": "dram", "bandwidth": number(1e10, "B/s")}],
        }
    )  # fmt: skip


ALL = toy("float32", "float16", "tf32", "int8")


def two_convolutions(batch_norm: bool = True) -> Graph:
    """8x8 of 4 channels -> 1x1 convolution to 8 -> (batch norm) -> relu -> 1x1 convolution to 2."""
    builder = GraphBuilder()
    x = builder.input((1, 4, 8, 8), name="image")
    x = builder.conv2d(x, 8, kernel=1, name="first")
    if batch_norm:
        x = builder.batch_norm(x, name="norm")
    x = builder.activation(x, "relu", name="clamp")
    return builder.graph(builder.conv2d(x, 2, kernel=1, name="second"))


def residual() -> Graph:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=1, name="stem")
    y = builder.conv2d(x, 4, kernel=1, name="branch")
    return builder.graph(builder.activation(builder.elementwise("add", y, x, name="add"), "relu"))


def attention_like(softmaxes: int = 1) -> Graph:
    builder = GraphBuilder()
    x = builder.linear(builder.input((1, 16, 8)), 8, bias=False, name="query")
    for index in range(softmaxes):
        x = builder.add(Softmax(shape=(1, 16, 8)), x, name=f"softmax{index}")
    return builder.graph(builder.linear(x, 8, bias=False, name="head"))


def kernels_of(graph: Graph, dtype: str = "float32") -> list[Kernel]:
    return [node.kernel for node in fuse(graph, RUNTIME, dtype)]


def precisions(graph: Graph) -> list[tuple[str, str, str]]:
    return [(kernel.kind, kernel.dtype, kernel.written_dtype) for kernel in kernels_of(graph)]


def traffic(graph: Graph, dtype: str = "float32") -> int:
    return sum(kernel_cost(kernel).traffic_bytes for kernel in kernels_of(graph, dtype))


# ------------------------------------------------------------------------------------------------------------- int8


def test_a_requantised_network_converts_once_at_its_input_and_once_at_its_output():
    assert precisions(with_precision(two_convolutions(), "int8")) == [
        ("cast", "float32", "int8"),
        ("conv2d", "int8", "int8"),
        ("conv2d", "int8", "int8"),
        ("cast", "int8", "float32"),
    ]


def test_a_requantised_network_moves_a_quarter_of_the_bytes_beside_its_conversions():
    inner = with_precision(two_convolutions(), "int8", io_dtype="int8")
    assert not any(map(is_conversion, inner.nodes))
    # 256 read + 32 weights + 8 biases (folded batch norm) + 512 written, then 512 + 16 + 128: 1,464 elements
    assert traffic(inner) == 1464
    assert traffic(two_convolutions()) == 4 * 1464
    # quantise 256 elements: 4 + 1 bytes each; dequantise 128: 1 + 4
    assert traffic(with_precision(two_convolutions(), "int8")) == 1464 + 5 * 256 + 5 * 128


def test_without_requantisation_weighted_operators_write_floats_and_read_them_through_a_quantisation():
    graph = with_precision(two_convolutions(), "int8", requantise=False)
    assert precisions(graph) == [
        ("cast", "float32", "int8"),
        ("conv2d", "int8", "float32"),
        ("cast", "float32", "int8"),
        ("conv2d", "int8", "float32"),
    ]
    second = kernels_of(graph)[1]
    assert [operator.variant for operator in second.fused] == ["batch_norm", "relu"]
    # quantise 256: 1,280; read 256 + weights 40 + write 4 * 512; quantise 512: 2,560; 512 + 16 + 4 * 128
    assert traffic(graph) == 1280 + (256 + 40 + 2048) + 2560 + (512 + 16 + 512)


def test_a_fused_addition_reads_its_other_operand_in_what_the_kernel_writes():
    (_, _, branch, _) = kernels_of(with_precision(residual(), "int8"))
    assert [operator.variant for operator in branch.fused] == ["add", "relu"]
    assert kernel_cost(branch).read_bytes == 256 + 256

    kernels = kernels_of(with_precision(residual(), "int8", requantise=False))
    assert [operator.variant for operator in kernels[-1].fused] == ["add", "relu"]
    assert kernels[-1].text.endswith(" -> float32")
    cost = kernel_cost(kernels[-1])
    assert (cost.read_bytes, cost.weight_bytes, cost.write_bytes) == (256 + 4 * 256, 16, 4 * 256)


def test_softmax_runs_in_float_between_a_dequantisation_and_a_quantisation():
    assert precisions(with_precision(attention_like(), "int8", io_dtype="int8")) == [
        ("linear", "int8", "int8"),
        ("cast", "int8", "float32"),
        ("softmax", "float32", "float32"),
        ("cast", "float32", "int8"),
        ("linear", "int8", "int8"),
    ]


def test_floats_of_an_int8_network_may_be_half_precision():
    graph = with_precision(attention_like(), "int8", float_dtype="float16")
    assert {(kernel.dtype, kernel.written_dtype) for kernel in kernels_of(graph)} == {
        ("int8", "int8"), ("int8", "float16"), ("float16", "float16"), ("float16", "int8"),
    }  # fmt: skip


@pytest.mark.parametrize("function", ["gelu", "hardswish", "some_new_function"])
def test_functions_that_few_runtimes_have_in_int8_run_in_float(function):
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 4, 8, 8)), 8, kernel=1), function)
    graph = with_precision(builder.graph(builder.conv2d(x, 2, kernel=1)), "int8")
    assert (function, "float32", "float32") in precisions(graph)


@pytest.mark.parametrize("method", ["layer_norm", "group_norm", "rms_norm"])
def test_norms_that_compute_statistics_run_in_float_and_batch_norms_in_int8(method):
    def normalised(name):
        builder = GraphBuilder()
        x = builder.conv2d(builder.input((1, 4, 8, 8)), 8, kernel=1)
        return builder.graph(builder.add(Normalization(shape=(1, 8, 8, 8), method=name), x))

    assert {node.dtype for node in with_precision(normalised(method), "int8").nodes[-1:]} == {"float32"}
    assert precisions(with_precision(normalised("batch_norm"), "int8"))[1] == ("conv2d", "int8", "int8")


def test_a_tensor_is_converted_once_for_all_that_read_it():
    builder = GraphBuilder()
    x = builder.input((1, 4, 8, 8))
    branches = [builder.conv2d(x, 4, kernel=1) for _ in range(3)]
    graph = with_precision(builder.graph(builder.concat(*branches)), "int8", requantise=False)
    assert [kind for kind, *_ in precisions(graph)] == ["cast", "conv2d", "conv2d", "conv2d", "concat"]


def test_views_of_one_tensor_share_its_conversion():
    builder = GraphBuilder()
    x = builder.input((1, 4, 8, 8))
    flat = builder.flatten(x)
    graph = builder.graph(builder.linear(flat, 2), builder.conv2d(x, 4, kernel=1))
    converted = with_precision(graph, "int8", requantise=False)
    assert sum(map(is_conversion, converted.nodes)) == 1


def test_a_constant_is_stored_in_the_dtype_of_its_reader_and_counted_once():
    builder = GraphBuilder()
    x = builder.linear(builder.input((1, 16, 8)), 8)
    position = builder.add(Constant(shape=(1, 16, 8), learned_params=128))
    x = builder.elementwise("add", x, position)
    y = builder.add(Softmax(shape=(1, 16, 8)), builder.elementwise("pow", x, position))
    plain = builder.graph(y)
    graph = with_precision(plain, "int8")
    constants = [node for node in graph.nodes if isinstance(node.operator, Constant)]
    assert [node.dtype for node in constants] == ["int8", "float32"]
    assert graph.num_params == plain.num_params
    # input, and the sum: nothing converts a constant
    assert sum(map(is_conversion, graph.nodes)) == 2


def test_indices_are_not_converted():
    builder = GraphBuilder()
    x = builder.add(Embedding(shape=(1, 16), num_rows=100, features=8), builder.input((1, 16)))
    graph = with_precision(builder.graph(builder.linear(x, 4, bias=False)), "int8", io_dtype="int8")
    assert [kind for kind, *_ in precisions(graph)] == ["embedding", "cast", "linear"]
    graph = with_precision(builder.graph(x), "int8", exceptions={"embedding": "int8"})
    assert [kind for kind, *_ in precisions(graph)] == ["embedding", "cast"]

    builder = GraphBuilder()
    places, image = builder.input((1, 4)), builder.input((1, 16))
    x = builder.add(Gather(shape=(1, 16), indices=((1, 4),), to=(1, 4)), image, places)
    graph = with_precision(builder.graph(x), "float16", io_dtype="float32")
    assert [(kind, write) for kind, _, write in precisions(graph)] == [
        ("cast", "float16"), ("gather", "float16"), ("cast", "float32"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("key", ["linear", "*head", "head", "*ea?"])
def test_exceptions_are_named_by_kind_or_module_path(key):
    graph = with_precision(attention_like(), "float16", exceptions={key: "float32"}, io_dtype="float16")
    assert precisions(graph)[-2:] == [("linear", "float32", "float32"), ("cast", "float32", "float16")]
    assert (precisions(graph)[0] == ("linear", "float16", "float16")) == (key != "linear")


def test_a_module_path_counts_before_a_class_and_a_class_before_a_kind():
    exceptions = {"conv2d": "float16", "conv2d_1x1": "float32", "first": "int8"}
    graph = with_precision(two_convolutions(), "float16", exceptions=exceptions, requantise=False)
    found = {node.name: node.dtype for node in graph.nodes if not is_conversion(node)}
    assert (found["first"], found["second"]) == ("int8", "float32")
    assert found["norm"] == found["clamp"] == "float16", "an int8 operator that does not requantise writes its float"


def test_batch_norms_and_clamps_go_with_the_operator_before_them():
    graph = with_precision(two_convolutions(), "int8", exceptions={"first": "float32"})
    assert precisions(graph) == [
        ("conv2d", "float32", "float32"),
        ("cast", "float32", "int8"),
        ("conv2d", "int8", "int8"),
        ("cast", "int8", "float32"),
    ]
    assert [operator.variant for operator in kernels_of(graph)[0].fused] == ["batch_norm", "relu"]


def test_what_runs_in_float_by_default_may_be_put_in_int8():
    graph = with_precision(attention_like(), "int8", exceptions={"softmax": "int8"}, io_dtype="int8")
    assert {kernel.dtype for kernel in kernels_of(graph)} == {"int8"}


def test_an_exception_that_fits_nothing_is_refused_and_one_for_a_known_operator_is_not():
    with pytest.raises(ValueError, match=r"exception 'sotfmax' fits no operator .* nearest are \['softmax'\]"):
        with_precision(attention_like(), "int8", exceptions={"sotfmax": "float32"})
    with_precision(two_convolutions(), "int8", exceptions={"softmax": "float32", "gelu": "float32"})


def test_unknown_dtypes_and_networks_that_have_theirs_are_refused():
    for arguments in ({"dtype": "fp8"}, {"dtype": "int8", "exceptions": {"linear": "half"}}):
        with pytest.raises(ValueError, match="unknown dtype"):
            with_precision(attention_like(), **arguments)
    with pytest.raises(ValueError, match="has dtype 'float32' already"):
        with_precision(with_precision(attention_like(), "int8"), "float16")
    with pytest.raises(ValueError, match="float_dtype is 'int8'"):
        with_precision(attention_like(), "int8", float_dtype="int8")


# ------------------------------------------------------------------------------------------------- floats of two sizes


def test_half_precision_with_a_single_precision_softmax_has_two_conversions():
    graph = with_precision(attention_like(), "float16", exceptions={"softmax": "float32"})
    # linear: 2 * (128 + 64 + 128) each; casts 128 * (2 + 4) each; softmax 4 * (128 + 128)
    assert traffic(graph) == 2 * 640 + 2 * 768 + 1024


def test_tf32_and_float32_are_stored_alike_and_need_no_conversion():
    graph = with_precision(two_convolutions(), "tf32", exceptions={"second": "float32", "relu": "float32"})
    assert precisions(graph) == [("conv2d", "tf32", "tf32"), ("conv2d", "float32", "float32")]
    assert len(kernels_of(graph)[0].fused) == 2, "a float32 clamp is fused into a tf32 convolution"
    assert traffic(graph) == traffic(two_convolutions())


@given(
    exceptions=st.dictionaries(
        st.sampled_from(["first", "norm", "clamp", "second", "conv2d", "relu"]),
        st.sampled_from(["float32", "float16", "bfloat16", "tf32", "int8"]),
        max_size=4,
    ),
    dtype=st.sampled_from(["float32", "float16", "bfloat16", "tf32", "int8"]),
    requantise=st.booleans(),
)
def test_every_node_has_a_dtype_and_the_work_stays_the_same(exceptions, dtype, requantise):
    plain = two_convolutions()
    graph = with_precision(plain, dtype, exceptions=exceptions, requantise=requantise)
    assert all(node.dtype for node in graph.nodes)
    assert (graph.macs, graph.num_params) == (plain.macs, plain.num_params)
    assert [node.operator for node in graph.nodes if not is_conversion(node)] == [node.operator for node in plain.nodes]
    written = [node.dtype for node in graph.nodes if node.name == "image"][:1]
    assert written == [dtype if dtype != "int8" else "float32"]


@given(channels=st.integers(1, 16), size=st.integers(1, 12), depth=st.integers(1, 4))
def test_requantised_moves_less_than_not_requantised(channels, size, depth):
    builder = GraphBuilder()
    x = builder.input((1, channels, size, size))
    for _ in range(depth):
        x = builder.activation(builder.batch_norm(builder.conv2d(x, channels, kernel=3)), "relu")
    x = builder.global_pool(x)
    requantised, dequantised = (with_precision(builder.graph(x), "int8", requantise=each) for each in (True, False))
    assert traffic(requantised) < traffic(dequantised) + 5 * channels
    if depth > 1:
        assert traffic(requantised) < traffic(dequantised)


# ------------------------------------------------------------------------------------------- what carries the dtypes


def test_a_uniform_precision_costs_what_the_predictor_says_of_that_dtype():
    for graph in (two_convolutions(), residual(), attention_like()):
        for dtype in ("float32", "float16"):
            plain = LatencyPredictor(ALL, [], dtype=dtype).predict(graph)
            mixed = LatencyPredictor(ALL, []).predict(with_precision(graph, dtype))
            assert mixed.latency_s == plain.latency_s
            assert mixed.cost == plain.cost
            assert mixed.peak_memory_bytes == plain.peak_memory_bytes


def test_a_node_must_read_what_was_written():
    builder = GraphBuilder()
    x = builder.add(Softmax(shape=(1, 8)), builder.input((1, 8)), dtype="float32")
    x = builder.add(Softmax(shape=(1, 8)), x, name="late", dtype="float16")
    with pytest.raises(ValueError, match=r"node 2 'late' .* reads float16, node 1 writes float32; a conversion"):
        builder.graph(x)


def test_a_follower_in_another_precision_is_a_kernel_of_its_own():
    plain = two_convolutions(batch_norm=False)
    nodes = list(plain.nodes)
    nodes[2] = replace(nodes[2], dtype="float16")
    assert [kernel.kind for kernel in kernels_of(Graph(tuple(nodes), plain.outputs))] == ["conv2d", "relu", "conv2d"]


def test_a_follower_that_writes_another_precision_is_a_kernel_of_its_own():
    plain = two_convolutions(batch_norm=False)
    nodes = list(plain.nodes)
    nodes[2] = replace(nodes[2], write_dtype="float16")
    assert [kernel.kind for kernel in kernels_of(Graph(tuple(nodes), plain.outputs))] == ["conv2d", "relu", "conv2d"]


def test_kernels_in_other_precisions_are_read_back_from_their_text():
    for kernel in kernels_of(with_precision(residual(), "int8", requantise=False)):
        assert kernel_from_text(kernel.text, kernel.dtype) is kernel
    (kernel, *_) = kernels_of(two_convolutions())
    assert Kernel(kernel.anchor, kernel.fused, "int8", "int8") == Kernel(kernel.anchor, kernel.fused, "int8")
    assert Kernel(kernel.anchor, kernel.fused, "int8", "float32") != Kernel(kernel.anchor, kernel.fused, "int8")


def test_files_of_networks_keep_the_dtypes(tmp_path):
    graphs = {"mixed": with_precision(residual(), "int8", requantise=False), "plain": residual()}
    write_graphs(tmp_path / "all.graphs.jsonl", graphs)
    assert read_graphs(tmp_path / "all.graphs.jsonl") == graphs


def test_an_unknown_dtype_in_a_file_is_refused(tmp_path):
    path = tmp_path / "all.graphs.jsonl"
    write_graphs(path, {"mixed": with_precision(residual(), "int8")})
    path.write_text(path.read_text().replace('"int8"', '"int7"'))
    with pytest.raises(ValueError, match=r"nodes\[\d+\]: unknown dtype 'int7'"):
        read_graphs(path)


def test_sections_keep_the_dtypes_where_they_are_joined():
    builder = GraphBuilder()
    block = builder.graph(builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=1))
    section = Section(with_precision(block, "int8", io_dtype="int8"))
    graph = join([section, section])
    assert [(kernel.dtype, kernel.kind) for kernel in kernels_of(graph)] == [("int8", "conv2d")] * 2
    predictor = LatencyPredictor(ALL, [])
    assert predictor.predict(graph).latency_s == predictor.predict(Graph(graph.nodes, graph.outputs)).latency_s


def test_sections_that_pass_another_precision_on_are_not_joined():
    builder = GraphBuilder()
    block = builder.graph(builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=1))
    with pytest.raises(ValueError, match=r"a section takes .* in int8; the one before it writes .* in float16"):
        join([Section(with_precision(block, dtype, io_dtype=dtype)) for dtype in ("float16", "int8")])


def test_activations_count_in_the_dtype_that_each_was_written_in():
    graph = with_precision(two_convolutions(), "int8")
    nodes = fuse(graph, RUNTIME, "float32")
    # image 4 * 256; + quantised 256; 256 + 512; 512 + 128; 128 + 4 * 128
    assert peak_activation_bytes(graph, nodes, "float32") == 1024 + 256
    nodes = fuse(two_convolutions(), RUNTIME, "float32")
    assert peak_activation_bytes(two_convolutions(), nodes, "float32") == 4 * (256 + 512)


# --------------------------------------------------------------------------------------------------------- prediction


def test_each_kernel_is_predicted_with_the_table_of_its_dtype(tmp_path):
    graph = with_precision(two_convolutions(), "int8")
    for dtype in ("float32", "int8"):
        path = tmp_path / f"{dtype}.jsonl"
        LookupTable.open(
            path,
            TableHeader(
                device="toy", runtime="onnxruntime", runtime_version="1", dtype=dtype, threads=1, date="2026-11-26",
                reference_kernel="none",
            ),
        )  # fmt: skip
        for kernel in kernels_of(graph):
            if kernel.dtype == dtype:
                seconds = 1e-3 if dtype == "int8" else 5e-3
                append_measurement(path, kernel, Measurement(latency_p50_s=seconds, spread=0.0, num_runs=1))
    tables = [LookupTable.read(tmp_path / f"{dtype}.jsonl") for dtype in ("float32", "int8")]
    prediction = LatencyPredictor(ALL, tables).predict(graph)
    assert prediction.coverage == 1.0
    assert [row.latency_s for row in prediction.kernels] == pytest.approx([5e-3, 1e-3, 1e-3, 1e-3])
    assert [table.header.dtype for table in LatencyPredictor(ALL, tables, dtype="int8").tables] == ["int8"]


def test_rows_say_their_dtypes_nodes_and_the_module_of_their_anchor():
    graph = with_precision(two_convolutions(), "int8", requantise=False)
    rows = LatencyPredictor(ALL, []).predict(graph).kernels
    assert [(row.name, row.dtype, row.write_dtype, row.nodes) for row in rows] == [
        ("image", "float32", "int8", (1,)),
        ("first", "int8", "float32", (2, 3, 4)),
        ("clamp", "float32", "int8", (5,)),
        ("second", "int8", "float32", (6,)),
    ]


def test_a_kernel_whose_dtype_the_device_does_not_compute_in_stops_the_run():
    with pytest.raises(ValueError, match=r"no peak for dtype 'int8' of conv2d\(.*; it lists \['float32', 'float16'\]"):
        LatencyPredictor(toy("float32", "float16"), []).predict(
            with_precision(two_convolutions(), "int8", io_dtype="int8")
        )


def test_an_operator_without_formula_is_a_guess_that_says_so():
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 4, 8, 8)), 8, kernel=1)
    x = builder.add(Unknown(name="aten::fft", shapes=((1, 8, 8, 8),), to=(1, 8, 8, 8)), x, name="spectrum")
    prediction = LatencyPredictor(ALL, []).predict(builder.graph(x))
    (row,) = prediction.unknown_kernels
    assert (row.name, row.provenance, row.bound) == ("spectrum", "unknown", "memory")
    assert row.latency_s > 0
    assert row.std_s == row.latency_s
    # 512 elements read and written at the shares that all classes reach: 0.26 and 0.79, and 13 us
    assert row.latency_s == pytest.approx(2048 / (0.26 * 1e10) + 2048 / (0.79 * 1e10) + 1.3e-5)
    assert prediction.time_by_provenance["unknown"] == row.latency_s
    assert prediction.std_s >= row.std_s
    in_int8 = LatencyPredictor(ALL, []).predict(with_precision(builder.graph(x), "int8"))
    assert [each.dtype for each in in_int8.unknown_kernels] == ["float32"]


def test_no_operator_without_formula_is_fused():
    builder = GraphBuilder()
    x = builder.add(Unknown(name="aten::fft", shapes=((1, 8),), to=(1, 8)), builder.input((1, 8)))
    x = builder.add(Activation(shape=(1, 8), function="relu"), x)
    assert len(kernels_of(builder.graph(x))) == 2


# -------------------------------------------------------------------------------------------------- a second route


@pytest.mark.parametrize(("function", "name"), [("relu", "Relu"), ("hardswish", "HardSwish"), ("sigmoid", "Sigmoid")])
def test_onnx_runtime_converts_where_the_model_says_it_does(tmp_path, function, name):
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    helper, numpy_helper, rng = onnx.helper, onnx.numpy_helper, np.random.default_rng(0)

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(2)]

        def get_next(self):
            return self.left.pop() if self.left else None

    weights = {
        name: rng.standard_normal((8, inputs, 1, 1)).astype(np.float32)
        for name, inputs in (("w1", 4), ("w2", 8), ("w3", 8))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node(name, ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["y"]),
    ]
    tensor = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [tensor("x", 1, [1, 4, 8, 8])], [tensor("y", 1, [1, 8, 1, 1])],
            [numpy_helper.from_array(values, name) for name, values in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    model.ir_version = 8
    plain, quantised, optimised = (tmp_path / f"{each}.onnx" for each in ("plain", "quantised", "optimised"))
    onnx.save(model, plain)
    quantization.quantize_static(plain, quantised, Images(), activation_type=quantization.QuantType.QUInt8)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3
    ort.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    run = [node.op_type for node in onnx.load(optimised).graph.node]

    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 4, 8, 8)), 8, kernel=1), function)
    x = builder.elementwise("add", x, builder.conv2d(x, 8, kernel=1))
    graph = with_precision(builder.graph(builder.global_pool(builder.conv2d(x, 8, kernel=1))), "int8")
    found = [(node.dtype, node.write_dtype) for node in graph.nodes if is_conversion(node)]
    # ONNX Runtime writes hard-swish as hard sigmoid, in float, and a product in int8.
    assert found.count(("float32", "int8")) == run.count("QuantizeLinear")
    assert found.count(("int8", "float32")) == run.count("DequantizeLinear")
    assert run.count("QLinearConv") == 3
