"""int8 and half-precision ONNX models: each node's dtype, and conversions where dtypes meet."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnx_files import exported, floats, node, quietly, saved, variants
from torch import Tensor, nn

from predictors import (
    Graph,
    LatencyPredictor,
    UnknownOperatorError,
    fuse,
    kernel_cost,
    load_device,
    load_runtime,
    read_onnx,
    trace,
)
from predictors.cost import Cost
from predictors.precision import with_precision

ORT = "com.microsoft"
SCALES = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
MATRIX = {**SCALES, "w": np.zeros((4, 3), np.int8)}
IMAGE = {**SCALES, "w": np.zeros((4, 4, 1, 1), np.int8)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def quantised(name: str) -> list[Any]:
    """`{name}_q` in int8, `{name}_d` as floats again."""
    return [node("QuantizeLinear", f"{name} s z", f"{name}_q"), node("DequantizeLinear", f"{name}_q s z", f"{name}_d")]


def dtypes(graph: Graph) -> list[tuple[str, ...]]:
    """Of what moves data: its variant, what it computes in, and what it writes if that is another dtype."""
    return [
        tuple(filter(None, (each.operator.variant, each.dtype, each.write_dtype)))
        for each in graph.nodes
        if each.operator.moves_data
    ]


IN, OUT = ("cast", "float32", "int8"), ("cast", "int8", "float32")


# ------------------------------------------------------------------------------------------------------------- by hand


def test_between_conversions_an_operator_runs_in_int8(path: Path) -> None:
    nodes = [node("DequantizeLinear", "w s z", "wf"), *quantised("x"), node("Conv", "x_d wf", "c"),
             node("Relu", "c", "r"), *quantised("r"), node("MaxPool", "r_d", "p", kernel_shape=[2, 2]), *quantised("p"),
             node("Identity", "p_d", "y")]  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": (1, 4, 6, 6)}, weights=IMAGE))
    assert dtypes(graph) == [IN, ("conv2d", "int8"), ("relu", "int8"), ("max_pool2d", "int8"), OUT]
    assert graph.num_params == 16


def test_an_operator_that_no_runtime_has_in_int8_runs_in_floats_between_conversions(path: Path) -> None:
    nodes = [*quantised("x"), node("Exp", "x_d", "e"), *quantised("e"), node("Relu", "e_d", "r"), *quantised("r"),
             node("Identity", "r_d", "y")]  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": (1, 4)}, weights=SCALES))
    assert dtypes(graph) == [IN, OUT, ("exp", "float32"), IN, ("relu", "int8"), OUT]


def test_of_two_readers_only_that_of_floats_has_a_conversion(path: Path) -> None:
    """relu reads what was quantised, softmax what was turned back."""
    nodes = [*quantised("x"), node("Relu", "x_d", "r"), *quantised("r"), node("Softmax", "x_d", "t"),
             node("Add", "r_d t", "y")]  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": (1, 4)}, weights=SCALES))
    assert dtypes(graph) == [IN, ("relu", "int8"), OUT, ("softmax", "float32"), OUT, ("add", "float32")]


def test_a_convolution_that_writes_floats_is_one_of_floats_and_a_product_is_not(path: Path) -> None:
    """A runtime's int8 convolution quantises what it writes; a product may scale its sums to floats."""
    image = [node("DequantizeLinear", "w s z", "wf"), *quantised("x"), node("Conv", "x_d wf")]
    assert dtypes(read_onnx(saved(path, image, {"x": (1, 4, 6, 6)}, weights=IMAGE))) == [IN, OUT, ("conv2d", "float32")]
    matrix = [node("DequantizeLinear", "w s z", "wf"), *quantised("x"), node("MatMul", "x_d wf")]
    graph = read_onnx(saved(path, matrix, {"x": (2, 4)}, weights=MATRIX))
    assert dtypes(graph) == [IN, ("linear", "int8", "float32")]


def test_weights_alone_in_int8_leave_a_network_of_floats(path: Path) -> None:
    nodes = [node("DequantizeLinear", "w s z", "wf"), node("MatMul", "x wf")]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights=MATRIX))
    assert dtypes(graph) == [("linear",)]
    assert graph.num_params == 12


OPERATORS: dict[str, tuple[list[Any], dict[str, Any], list[tuple[str, ...]]]] = {
    "QLinearConv": ([node("QLinearConv", "x_q s z w s z s z", "q")], IMAGE, [("conv2d", "int8")]),
    "QLinearConv, channels last": (
        [node("Transpose", "x_q", "t", perm=[0, 2, 3, 1]),
         node("QLinearConv", "t s z w s z s z", "c", domain=ORT, channels_last=1),
         node("Transpose", "c", "q", perm=[0, 3, 1, 2])], IMAGE, [("conv2d", "int8")],
    ),
    "QLinearAdd": ([node("QLinearAdd", "x_q s z x_q s z s z", "q", domain=ORT)], SCALES, [("add", "int8")]),
    "QLinearMul": ([node("QLinearMul", "x_q s z x_q s z s z", "q", domain=ORT)], SCALES, [("mul", "int8")]),
    "QLinearSigmoid": ([node("QLinearSigmoid", "x_q s z s z", "q", domain=ORT)], SCALES, [("sigmoid", "int8")]),
    "QLinearConcat": (
        [node("QLinearConcat", "s z x_q s z x_q s z", "q", domain=ORT, axis=1)], SCALES, [("concat", "int8")]
    ),
    "QLinearGlobalAveragePool": (
        [node("QLinearGlobalAveragePool", "x_q s z s z", "q", domain=ORT)], SCALES, [("adaptive_avg_pool2d", "int8")]
    ),
    "MaxPool of integers": ([node("MaxPool", "x_q", "q", kernel_shape=[2, 2])], SCALES, [("max_pool2d", "int8")]),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_integers_run_in_int8(path: Path, name: str) -> None:
    nodes, weights, found = OPERATORS[name]
    nodes = [node("QuantizeLinear", "x s z", "x_q"), *nodes, node("DequantizeLinear", "q s z", "y")]
    graph = read_onnx(saved(path, nodes, {"x": (1, 4, 6, 6)}, weights=weights, domains=[ORT]))
    assert dtypes(graph) == [IN, *found, OUT]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("DynamicQuantizeLinear", "x", "q qs qz"), node("Mul", "qs s", "scale"),
         node("MatMulInteger", "q w qz z", "i"), node("Cast", "i", "f", to=TensorProto.FLOAT),
         node("Mul", "f scale", "m"), node("Add", "m b")],
        [node("DynamicQuantizeLinear", "x", "q qs qz"), node("MatMulIntegerToFloat", "q w qs s qz z b", domain=ORT)],
        [node("DynamicQuantizeMatMul", "x w s z b", domain=ORT)],
    ],
)  # fmt: skip
def test_a_product_whose_left_side_is_quantised_as_it_runs_writes_floats(path: Path, nodes: Any) -> None:
    """One conversion and one kernel, however the file writes it; the weights are int8, the bias belongs to them."""
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={**MATRIX, "b": floats(3)}, domains=[ORT]))
    assert dtypes(graph) == [IN, ("linear", "int8", "float32")]
    kernel = fuse(graph, load_runtime("onnxruntime"), "float32")[-1].kernel
    assert kernel_cost(kernel) == Cost(macs=24, read_bytes=8, weight_bytes=15, write_bytes=6 * 4)


def test_an_image_in_int8_is_read_as_it_comes(path: Path) -> None:
    nodes = [node("DequantizeLinear", "x s z", "x_d"), node("DequantizeLinear", "w s z", "wf"),
             node("Conv", "x_d wf", "c"), node("QuantizeLinear", "c s z", "y")]  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": ((1, 4, 6, 6), TensorProto.INT8)}, weights=IMAGE))
    assert dtypes(graph) == [("conv2d", "int8")]
    assert graph.nodes[0].dtype == "int8"


def test_other_widths_are_refused(path: Path) -> None:
    weights = {"s": SCALES["s"], "z": np.array(0, np.int16)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    with pytest.raises(UnknownOperatorError, match="it quantises to int16; known are int8 and uint8"):
        read_onnx(saved(path, nodes, {"x": (1, 4)}, weights=weights, opset=21))


# ------------------------------------------------------------------------------------------------------ half precision


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")])
def test_a_model_of_halves_says_so_and_converts_where_it_is_cast(path: Path, kind: int, dtype: str) -> None:
    """As autocast writes it: a norm in float32 between products in halves."""
    nodes = [node("MatMul", "x w", "a"), node("Cast", "a", "f", to=TensorProto.FLOAT),
             node("LayerNormalization", "f g", "n"), node("Cast", "n", "h", to=kind),
             node("MatMul", "h w", "y")]  # fmt: skip
    weight = TensorProto(name="w", dims=(4, 4), data_type=kind, raw_data=b"\0" * 32)
    graph = read_onnx(saved(path, nodes, {"x": ((2, 4), kind)}, weights={"g": floats(4)}, further=[weight]))
    assert dtypes(graph) == [
        ("linear", dtype), ("cast", dtype, "float32"), ("layer_norm", "float32"), ("cast", "float32", dtype),
        ("linear", dtype),
    ]  # fmt: skip
    assert graph.nodes[0].dtype == dtype


def test_a_model_of_float32_says_no_dtype_so_that_one_may_be_asked_for(path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Cast", "a", "y", to=TensorProto.FLOAT)]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"w": floats(4, 4)}))
    assert dtypes(graph) == [("linear",)]
    with_precision(graph, "float16")


# --------------------------------------------------------------------------------- quantised, and with_precision(trace)


class Small(nn.Module):
    """A residual block, pooling, a concatenation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.pool = nn.MaxPool2d(2)
        self.gate = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(x + self.pointwise(self.depthwise(x)))
        x = torch.cat([x, torch.sigmoid(self.gate(x))], 1)
        return torch.softmax(self.head(x.mean((2, 3))), -1)


NETWORKS = {"small": ((1, 3, 32, 32), {"softmax": "int8"}), "mobilenetv2_100": ((1, 3, 96, 96), {})}


def network(name: str) -> nn.Module:
    if name == "small":
        return Small().eval()
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm.create_model(name).eval()  # type: ignore[no-any-return]


def quantised_by_onnxruntime(net: nn.Module, shape: tuple[int, ...], folder: Path, form: str) -> Path:
    """By onnxruntime's own quantiser: 'QDQ' and 'QOperator' beforehand, 'dynamic' as it runs."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    source = exported(net, torch.zeros(shape), folder / "float.onnx", dynamo=False, opset_version=17, input_names=["x"])
    target = folder / f"{form}.onnx"

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        images = iter([{"x": np.ones(shape, np.float32)}, {"x": np.zeros(shape, np.float32)}])

        def get_next(self) -> Any:
            return next(self.images, None)

    with quietly(), warnings.catch_warnings():
        if form == "dynamic":
            quantization.quantize_dynamic(source, target)
        else:
            quantization.quantize_static(source, target, Images(), quant_format=quantization.QuantFormat[form])
    return target


def kernels(graph: Graph) -> Counter[Any]:
    """Kinds, dtypes and costs of all kernels; what a clamp adds is nothing, so it may be in the kernel or not."""
    found = fuse(graph, load_runtime("onnxruntime"), "float32")
    return Counter(
        (each.kernel.kind, each.kernel.dtype, each.kernel.write_dtype, kernel_cost(each.kernel)) for each in found
    )


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_quantised_file_costs_what_its_module_costs_in_int8(name: str, form: str, tmp_path: Path) -> None:
    """Kernel by kernel, to the byte. Quantised as it runs, weighted operators write floats."""
    shape, exceptions = NETWORKS[name]
    net = network(name)
    beforehand = form != "dynamic"
    expected = with_precision(
        trace(net, torch.zeros(shape)), "int8", exceptions=exceptions if beforehand else {}, requantise=beforehand
    )
    found = read_onnx(quantised_by_onnxruntime(net, shape, tmp_path, form))
    assert kernels(found) == kernels(expected)
    folded = sum(each.num_features for each in net.modules() if isinstance(each, nn.BatchNorm2d))
    assert found.num_params == expected.num_params - folded, "of a batch norm without bias before it the bias stays"


def test_what_the_quantiser_leaves_in_floats_stands_between_conversions_in_both(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardswish(), nn.Conv2d(8, 8, 1))
    found = read_onnx(quantised_by_onnxruntime(net, (1, 3, 8, 8), tmp_path, "QDQ"))
    conv = ("conv2d", "int8")
    assert dtypes(found) == [IN, conv, OUT, ("hardswish", "float32"), IN, conv, OUT]
    assert dtypes(found) == dtypes(with_precision(trace(net, torch.zeros(1, 3, 8, 8)), "int8"))


def test_a_quantised_file_needs_no_dtype_to_be_predicted(tmp_path: Path) -> None:
    net, shape = Small().eval(), (1, 3, 32, 32)
    device = load_device("a100")
    graph = read_onnx(quantised_by_onnxruntime(net, shape, tmp_path, "QDQ"))
    expected = with_precision(trace(net, torch.zeros(shape)), "int8", exceptions={"softmax": "int8"})
    found = LatencyPredictor(device).predict(graph).latency_s
    assert found == pytest.approx(LatencyPredictor(device).predict(expected).latency_s, rel=1e-9)


def test_a_file_in_halves_costs_what_its_module_costs_in_halves(tmp_path: Path) -> None:
    """Inputs and outputs stay float32, as onnxruntime's converter leaves them."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16", reason="onnxruntime is not installed")
    import onnx

    net, shape = Small().eval(), (1, 3, 32, 32)
    source = exported(net, torch.zeros(shape), tmp_path / "float.onnx", dynamo=False, opset_version=17)
    with quietly():
        made = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(made, tmp_path / "half.onnx")
    found = read_onnx(tmp_path / "half.onnx")
    expected = with_precision(trace(net, torch.zeros(shape)), "float16", io_dtype="float32")
    assert kernels(found) == kernels(expected)
    assert variants(found).count("cast") == 2
