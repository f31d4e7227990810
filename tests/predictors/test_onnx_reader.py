"""ONNX models as graphs: by hand, and from torch's two exporters with `trace` as the second route to every cost."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_files import cost, exported, floats, saved, texts, variants
from torch import Tensor, nn
from torch.nn import functional
from user_networks import Net

from predictors import UnknownOperatorError, read_onnx, trace
from predictors.onnx.file import KEPT_BYTES
from predictors.operators import Constant, Input


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


# ------------------------------------------------------------------------------------------------------------ by hand


def test_nodes_become_operators_with_their_names_and_their_wires(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "act"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "m"], ["y"], "head", transB=1),
    ]
    weights = {"w": floats(8, 3, 3, 3), "b": floats(8), "m": floats(5, 8)}
    graph = read_onnx(saved(path, nodes, {"x": (2, 3, 8, 8)}, weights=weights))
    assert texts(graph) == [
        "input(shape=(2, 3, 8, 8))",
        "conv2d(batch=2, in_channels=3, out_channels=8, height=8, width=8, kernel=(3, 3), stride=(2, 2), "
        "padding=(1, 1), bias=True)",
        "activation(shape=(2, 8, 4, 4), function='relu')",
        "adaptive_pool2d(shape=(2, 8, 4, 4))",
        "view(shape=(2, 8, 1, 1), to=(2, 8))",
        "linear(shape=(2, 8), out_features=5)",
    ]
    assert [node.inputs for node in graph.nodes] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert [node.name for node in graph.nodes] == ["x", "stem", "act", "pool", "head", "head"], "a view is its reader's"
    assert graph.num_params == 8 * 3 * 9 + 8 + 5 * 8
    assert graph.name == "model"


def test_glue_that_computes_shapes_leaves_no_operator(path: Path) -> None:
    """Reshape to (shape[0], -1), as exporters write it, of a tensor whose shape is known."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["f"]),
        helper.make_node("Sqrt", ["four"], ["two"]),
        helper.make_node("Div", ["f", "two"], ["y"]),
    ]
    weights = {
        "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]), "four": np.array([4.0], np.float32),
    }  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": (2, 3, 4)}, weights=weights))
    assert texts(graph)[1:] == ["view(shape=(2, 3, 4), to=(2, 12))", "elementwise(function='div', shapes=((2, 12),))"]


def test_windows_that_are_padded_unequally_are_padded_apart(path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")]
    graph = read_onnx(saved(path, nodes, {"x": (1, 3, 8, 8)}, weights={"w": floats(4, 3, 3, 3)}))
    # ceil(8 / 2) = 4 outputs reach over 3 * 2 + 3 = 9 elements: one more than there are, at the end
    assert texts(graph)[1].endswith("to=(1, 3, 9, 9), method='pad', steps=(('pad', (0, 0, 0, 0), (0, 0, 1, 1)),))")
    assert graph.nodes[2].operator.output_shape == (1, 4, 4, 4)


def test_a_branch_whose_condition_is_known_is_taken(path: Path) -> None:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["x"], [name])], name, [], [output])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh"))]
    graph = read_onnx(saved(path, nodes, {"x": (1, 4)}, weights={"c": np.array(False)}))
    assert variants(graph) == ["input", "tanh"]


def test_int8_runs_the_same_operators_and_converts_where_it_meets_float(path: Path) -> None:
    """x -> int8 | conv, relu | conv | -> float, softmax. Two conversions; none between the convolutions."""
    scale = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    weights = {"w": np.zeros((4, 4, 1, 1), np.int8), "b": np.zeros(4, np.int32), **scale}

    def quantized(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"], f"{name}_q"),
            helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"], f"{name}_d"),
        ]

    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bf"]),
        *quantized("x"),
        helper.make_node("Conv", ["x_d", "wf", "bf"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        *quantized("r"),
        helper.make_node("Conv", ["r_d", "wf"], ["e"]),
        *quantized("e"),
        helper.make_node("Softmax", ["e_d"], ["y"], axis=1),
    ]
    graph = read_onnx(saved(path, nodes, {"x": (1, 4, 6, 6)}, weights=weights))
    assert variants(graph) == ["input", "cast", "conv2d", "relu", "conv2d", "cast", "softmax"]
    assert [node.name for node in graph.nodes if node.operator.variant == "cast"] == ["x_q", "e_d"]
    assert graph.macs == 2 * 4 * 4 * 36
    assert graph.num_params == 2 * 16 + 4


def test_one_constant_that_two_read_is_one(path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "p"], ["a"]), helper.make_node("Mul", ["a", "p"], ["y"])]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"p": floats(4)}))
    assert [node.operator for node in graph.nodes if isinstance(node.operator, Constant)] == [
        Constant(shape=(4,), learned_params=4)
    ]


# ---------------------------------------------------------------------------------------------------- what may be asked


def test_open_axes_ask_for_sizes_and_take_them(path: Path) -> None:
    saved(path, [helper.make_node("Relu", ["x"], ["y"])], {"x": ("batch", 3, None, 8)})
    with pytest.raises(ValueError, match=r"model\.onnx: input 'x' of shape \(batch, 3, \?, 8\) has no size for axis 0"):
        read_onnx(path)
    with pytest.raises(ValueError, match=r"axis 0 \('batch'\), 2; give .* shapes=\{'x': \(1, 3, 224, 8\)\}"):
        read_onnx(path)
    assert read_onnx(path, {"x": (2, 3, 5, 8)}).nodes[0].operator == Input(shape=(2, 3, 5, 8))
    assert read_onnx(path, (2, 3, 5, 8)) == read_onnx(path, {"x": (2, 3, 5, 8)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 4, 5, 8)}, r"input 'x' has shape \(batch, 3, \?, 8\), which \(2, 4, 5, 8\) does not fit"),
        ({"x": (2, 3, 8)}, "does not fit"),
        ({"x": (2, 3, 0, 8)}, r"input 'x' is given the shape \(2, 3, 0, 8\); a shape is a tuple of positive integers"),
        ({"x": "2,3,5,8"}, "a shape is a tuple of positive integers"),
        ({"image": (2, 3, 5, 8)}, r"there is no input 'image'; there are \['x'\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(path: Path, shapes: Any, message: str) -> None:
    saved(path, [helper.make_node("Relu", ["x"], ["y"])], {"x": ("batch", 3, None, 8)})
    with pytest.raises(ValueError, match=message):
        read_onnx(path, shapes)


def test_one_shape_for_several_inputs_is_refused(path: Path) -> None:
    saved(path, [helper.make_node("Add", ["a", "b"], ["y"])], {"a": ("n",), "b": ("n",)})
    with pytest.raises(ValueError, match=r"inputs \['a', 'b'\]; give shapes by name"):
        read_onnx(path, (3,))


def test_an_input_without_any_shape_asks_for_one(path: Path) -> None:
    saved(path, [helper.make_node("Relu", ["x"], ["y"])], {"x": None})
    with pytest.raises(ValueError, match=r"input 'x' has no shape; give it, e\.g\. shapes=\{'x': \(1, 3, 224, 224\)\}"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("op_type", "message"),
    [
        ("Cov", "nearest are .*'Conv'"),
        ("NonMaxSuppression", "ONNX operator NonMaxSuppression of node 'odd'"),
    ],
)
def test_an_unknown_operator_is_named_with_its_node_and_its_neighbours(path: Path, op_type: str, message: str) -> None:
    saved(path, [helper.make_node(op_type, ["x"], ["y"], "odd")], {"x": (1, 4)})
    with pytest.raises(UnknownOperatorError, match=message):
        read_onnx(path)


def test_an_operator_without_formula_for_its_arguments_is_named_by_its_node(path: Path) -> None:
    saved(path, [helper.make_node("Acosh", ["x"], ["y"], "odd")], {"x": (1, 4)})
    with pytest.raises(UnknownOperatorError, match=r"ONNX operator Acosh of node 'odd': operator aten::acosh"):
        read_onnx(path)


def test_numbers_that_depend_on_the_input_are_asked_for_by_name(path: Path) -> None:
    saved(path, [helper.make_node("Reshape", ["x", "s"], ["y"], "odd")], {"x": (1, 4), "s": (2,)})
    with pytest.raises(ValueError, match="Reshape of node 'odd': it needs the numbers of 's', which depend on"):
        read_onnx(path)


def test_an_old_opset_is_refused_and_the_least_one_is_read(path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])]
    with pytest.raises(ValueError, match=r"opset 10; known are 11 to \d+, so export it anew"):
        read_onnx(saved(path, nodes, {"x": (1, 4)}, opset=10))
    assert variants(read_onnx(saved(path, nodes, {"x": (1, 4)}, opset=11))) == ["input", "reduce"]


# ----------------------------------------------------------------------------------------------------- files, weights


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no ONNX file '.*nowhere\.onnx'"):
        read_onnx(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", b"\x89PNG\r\n\x1a\n" * 20, b"\x08\x07", b"\x3a\xff\xff\xff\x7f"]
)
def test_what_is_no_onnx_model_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx' is no ONNX model"):
        read_onnx(path)


def test_every_prefix_of_a_model_is_refused(path: Path) -> None:
    saved(path, [helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 4)}, weights={"w": floats(4, 3)})
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="onnx"):
            read_onnx(path)


def outside(location: str, *dims: int) -> onnx.TensorProto:
    tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "C:\\w.bin", "a/../../w.bin", "link/w.bin"])
def test_weights_outside_of_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    model = saved(folder / "model.onnx", nodes, {"x": (1, 4)}, further=[outside(location, 4, 3)])
    with pytest.raises(ValueError, match=r"weights 'w' are said to lie in .* outside the model's folder"):
        read_onnx(model)


def test_weights_that_are_absent_cost_the_same(path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    there = read_onnx(saved(path, nodes, {"x": (1, 4)}, weights={"w": floats(4, 3)}))
    elsewhere = read_onnx(saved(path, nodes, {"x": (1, 4)}, further=[outside("weights/w.bin", 4, 3)]))
    nowhere = TensorProto(name="w", dims=(4, 3), data_type=TensorProto.FLOAT)
    assert there == elsewhere == read_onnx(saved(path, nodes, {"x": (1, 4)}, further=[nowhere]))
    assert there.macs == 4 * 3


def test_numbers_that_decide_a_shape_have_to_be_in_the_file(path: Path) -> None:
    shape = TensorProto(name="s", dims=(2,), data_type=TensorProto.INT64, data_location=TensorProto.EXTERNAL)
    shape.external_data.add(key="location", value="w.bin")
    saved(path, [helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": (1, 4)}, further=[shape])
    with pytest.raises(
        ValueError, match=r"of 's', which are said to lie in 'w\.bin' beside the model, which is missing"
    ):
        read_onnx(path)


def test_large_weights_are_not_read_into_memory(path: Path) -> None:
    """A file of 300 MB, most of it a hole on the disk; the process must not grow by its size."""
    size = 300_000_000
    rows = size // 4 // 1000
    small = saved(path, [helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, rows)}).read_bytes()
    dims = b"".join(b"\x08" + varint(each) for each in (rows, 1000))
    head = dims + b"\x10\x01" + b"\x42\x01w" + b"\x4a" + varint(size)  # float, name 'w', raw_data
    inner = b"\x2a" + varint(len(head) + size) + head
    with path.open("wb") as file:  # a second graph field is merged into the first, as protobuf says
        file.write(small + b"\x3a" + varint(len(inner) + size) + inner)
        file.truncate(file.tell() + size)
    tracemalloc.start()
    graph = read_onnx(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert graph.macs == rows * 1000
    assert most < 20 * KEPT_BYTES


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


# ----------------------------------------------------------------------------------------------- exporters and `trace`


IMAGE = torch.zeros(2, 8, 16, 16)
TOKENS = torch.zeros(2, 10, 16)
EXPORTERS = {
    "script_14": {"dynamo": False, "opset_version": 14},
    "script_20": {"dynamo": False, "opset_version": 20},
    "dynamo_18": {"dynamo": True, "opset_version": 18, "verbose": False},
}


def attention(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.qkv(x).reshape(2, 10, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
    x = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
    return self.out(x.transpose(1, 2).reshape(2, 10, 16))


def windows(self: Any, x: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
    x = self.fc(x.reshape(2, 4, 4, 4, 4, 8).transpose(2, 3).reshape(-1, 16, 8))
    return x.reshape(2, 4, 4, 4, 4, 8).transpose(2, 3).reshape(2, 16, 16, 8).permute(0, 3, 1, 2) * self.gamma


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 6, 1),
            nn.MaxPool2d(3, 2, 1), nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, 3),
        ),
        IMAGE,
    ),
    "attention": lambda: (
        Net(attention, qkv=nn.Linear(16, 48), out=nn.Linear(16, 16), bias=nn.Parameter(torch.zeros(1, 1, 10, 10))),
        TOKENS,
    ),
    "windows": lambda: (Net(windows, fc=nn.Linear(8, 8), gamma=nn.Parameter(torch.ones(8, 1, 1))), IMAGE),
    "activations": lambda: (
        nn.Sequential(
            nn.ReLU6(), nn.Mish(), nn.GELU(), nn.ELU(), nn.LeakyReLU(), nn.Softplus(), nn.PReLU(8), nn.Hardsigmoid(),
            nn.Hardtanh(), nn.Softmax(1),
        ),
        IMAGE,
    ),
    "norms": lambda: (
        nn.Sequential(nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True), nn.Flatten(2), nn.LayerNorm(256)), IMAGE
    ),
    "moves": lambda: (
        Net(lambda self, x: torch.cat([functional.pad(x[:, :2], (1, 1)), functional.pad(x.flip(1), (0, 2))], 1)), IMAGE
    ),
    "resizes": lambda: (
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample(size=(8, 8)), nn.PixelShuffle(2)), IMAGE
    ),
    "recurrent": lambda: (
        Net(lambda self, x: self.fc(self.lstm(x)[0]), lstm=nn.LSTM(16, 8), fc=nn.Linear(8, 2)), TOKENS
    ),
}  # fmt: skip


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETS)
def test_an_exported_model_costs_what_its_module_costs(name: str, exporter: str, path: Path) -> None:
    net, inputs = NETS[name]()
    expected, found = trace(net, inputs), read_onnx(exported(net, inputs, path, **EXPORTERS[exporter]))
    assert cost(found) == cost(expected)
    kinds = sorted(node.operator.text for node in expected.nodes if node.operator.moves_data)
    if name not in ("convolutions", "recurrent"):  # folded batch norms; states that begin as stored zeros
        assert sorted(node.operator.text for node in found.nodes if node.operator.moves_data) == kinds
        assert found.num_params == expected.num_params


def test_a_batch_norm_that_is_kept_is_read_as_one(path: Path) -> None:
    net, inputs = NETS["convolutions"]()
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    expected = trace(net, inputs)
    found = read_onnx(exported(net, inputs, path, dynamo=False, opset_version=17, **kept))
    assert (found.macs, found.num_params) == (expected.macs, expected.num_params)
    assert variants(found) == variants(expected)


def test_the_new_exporter_says_which_module_a_node_is_of(path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    graph = read_onnx(exported(net, IMAGE, path, dynamo=True, verbose=False))
    assert [node.name for node in graph.nodes][1:] == ["0", "1.0", "1.1"]
    assert variants(graph)[-1] == "adaptive_avg_pool2d", "the exporter writes a mean"


def test_an_axis_that_was_exported_open_takes_any_size(path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
    exported(net, IMAGE, path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    for batch in (1, 5):
        shape = (batch, *IMAGE.shape[1:])
        assert cost(read_onnx(path, {"x": shape})) == cost(trace(net, torch.zeros(shape)))


def test_attention_that_is_spelt_out_stays_so(path: Path) -> None:
    def spelt_out(self: Any, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.transpose(-1, -2) * 0.25, -1) @ x

    net = Net(spelt_out)
    graph = read_onnx(exported(net, TOKENS, path, dynamo=False))
    assert variants(graph) == variants(trace(net, TOKENS))
    assert "attention" not in variants(graph)


def test_a_model_that_onnx_runtime_has_simplified_costs_the_same(path: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    net, inputs = NETS["convolutions"]()
    exported(net, inputs, path, dynamo=False, opset_version=11, do_constant_folding=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "simple.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert cost(read_onnx(tmp_path / "simple.onnx")) == cost(trace(net, inputs))
