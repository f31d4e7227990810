"""Chains of convolutions in int8 under ONNX Runtime: outputs requantised, or turned into floats around operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from predictors.graph import Graph
from predictors.measure.onnx_model import IR_VERSION, OPSET
from predictors.measure.values import weights_of
from predictors.operators import Conv2d, Input

_SCALE, _ZERO = 0.02, 128
_WEIGHT_SCALE = 0.01
_UINT8 = "tensor(uint8)"


class QuantisedChain:
    """A chain of convolutions whose layers are in int8 where `in_int8` says so, else in float32, on one thread.

    Args:
        graph: an input and convolutions, one after the other.
        in_int8: one for each convolution.
        through_floats: quantise before and dequantise after every convolution in int8, whatever stands beside it.
    """

    def __init__(self, graph: Graph, in_int8: Sequence[bool], *, through_floats: bool = False) -> None:
        self._bound = _Bound(chain_bytes(graph, in_int8, through_floats=through_floats))

    def run(self) -> None:
        """Run once."""
        self._bound.run()


class QuantisedAddition:
    """The sum of two tensors in int8, requantised, on one thread."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        writer = _Writer()
        reads = ["x", "scale", "zero", "y", "scale", "zero", "scale", "zero"]
        name = writer.add("QLinearAdd", reads, domain="com.microsoft")
        inputs = [helper.make_tensor_value_info(each, TensorProto.UINT8, shape) for each in ("x", "y")]
        self._bound = _Bound(writer.model(inputs, helper.make_tensor_value_info(name, TensorProto.UINT8, shape)))

    def run(self) -> None:
        """Run once."""
        self._bound.run()


def chain_bytes(graph: Graph, in_int8: Sequence[bool], *, through_floats: bool = False) -> bytes:
    """The model of a `QuantisedChain`. Its input and output are int8 where the layers beside them are."""
    layers = [node.operator for node in graph.nodes if isinstance(node.operator, Conv2d)]
    if len(layers) != len(in_int8) or len(layers) + 1 != len(graph.nodes):
        raise ValueError(f"a chain of {len(in_int8)} convolutions and nothing else is quantised, found {graph.nodes}")
    first = graph.nodes[0].operator
    assert isinstance(first, Input)
    writer = _Writer()
    is_int8 = in_int8[0] and not through_floats
    start_type = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    tensor, at_start = "x", helper.make_tensor_value_info("x", start_type, first.output_shape)
    for index, (layer, asked) in enumerate(zip(layers, in_int8)):
        if asked and not is_int8:
            tensor = writer.add("QuantizeLinear", [tensor, "scale", "zero"])
        elif is_int8 and not asked:
            tensor = writer.add("DequantizeLinear", [tensor, "scale", "zero"])
        tensor = writer.convolution(layer, tensor, index, in_int8=asked)
        is_int8 = asked
        if asked and through_floats:
            tensor, is_int8 = writer.add("DequantizeLinear", [tensor, "scale", "zero"]), False
    end_type = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    return writer.model([at_start], helper.make_tensor_value_info(tensor, end_type, layers[-1].output_shape))


# ------------------------------------------------------------------------------------------------------------ private


class _Bound:
    """A session whose inputs and outputs keep their memory."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Else a convolution in float32 between conversions would be quantised, weights and all.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        for seed, given in enumerate(self._session.get_inputs()):
            uniform = np.random.default_rng(seed).random(given.shape)
            value = (255 * uniform).astype(np.uint8) if given.type == _UINT8 else uniform.astype(np.float32)
            self._binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        for found in self._session.get_outputs():
            number = np.uint8 if found.type == _UINT8 else np.float32
            self._binding.bind_ortvalue_output(
                found.name, onnxruntime.OrtValue.ortvalue_from_shape_and_type(found.shape, number)
            )

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constant("scale", np.array(_SCALE, np.float32))
        self._constant("zero", np.array(_ZERO, np.uint8))
        self._constant("weight_scale", np.array(_WEIGHT_SCALE, np.float32))
        self._constant("weight_zero", np.array(0, np.int8))

    def add(self, kind: str, reads: Sequence[str], **attributes: Any) -> str:
        """Add a node; the name of what it writes."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(reads), [name], name=f"{kind}_{name}", **attributes))
        return name

    def model(self, inputs: Sequence[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> bytes:
        """What was added so far, serialized."""
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph(self.nodes, "quantised", inputs, [output], self.initializers)
        data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        return data

    def convolution(self, layer: Conv2d, tensor: str, index: int, *, in_int8: bool) -> str:
        weights = weights_of(layer, index)
        window: dict[str, Any] = {
            "kernel_shape": layer.kernel, "strides": layer.stride, "group": layer.groups,
            "pads": [*layer.padding, *layer.padding],
        }  # fmt: skip
        if not in_int8:
            self._constant(f"w{index}", weights["weight"])
            self._constant(f"b{index}", weights["bias"])
            return self.add("Conv", [tensor, f"w{index}", f"b{index}"], **window)
        integers = np.clip(np.round(weights["weight"] / _WEIGHT_SCALE), -127, 127).astype(np.int8)
        biases = np.round(weights["bias"] / (_SCALE * _WEIGHT_SCALE)).astype(np.int32)
        self._constant(f"w{index}", integers)
        self._constant(f"b{index}", biases)
        reads = [tensor, "scale", "zero", f"w{index}", "weight_scale", "weight_zero", "scale", "zero", f"b{index}"]
        return self.add("QLinearConv", reads, **window)

    def _constant(self, name: str, value: NDArray[np.generic]) -> None:
        self.initializers.append(numpy_helper.from_array(value, name))
