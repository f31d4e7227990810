"""Graphs as ONNX and the way back: which of the graph's nodes a runtime ran, by the names that ONNX nodes have here.

Nodes are written one by one rather than exported by torch: no exporter decides how an operator is spelt, every node
keeps its name, and it takes milliseconds.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Step
from predictors.measure.values import Array, given_value, input_indices, weights_of
from predictors.movement import Step as Movement
from predictors.movement import Steps, shape_after
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Input,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    View,
)

OPSET = 20
"""The first with Gelu; newer ones add nothing that is needed here."""
IR_VERSION = 9
"""That of OPSET's release, so that no runtime is too old for it."""
NODE_NAME = re.compile(r"\bn(\d+)(?:_|\b)")
"""Finds the index in 'n12', 'n12_conv2d' and 'n12_nchwc', nothing in 'Constant_n12'."""


def onnx_bytes(graph: Graph, *, dtype: str = "float32", spelt_out: bool = False) -> bytes:
    """The graph as a serialized ONNX model of fixed shapes, with the constants and weights of `values`.

    Tensors are called `n{index}`, nodes `n{index}_{kind}`, with `.part` after it where an operator takes several.

    Args:
        graph: what is written.
        dtype: 'float32' or 'float16', of all tensors and weights.
        spelt_out: write HardSwish and Mish as the operators that ONNX defines them by. A runtime without kernels for
            them does so itself, but leaves their nodes without names.

    Raises:
        NoKernelError: ONNX has no operator for a node, or the node's record does not determine it; it is named.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    number = np.dtype(dtype)
    for index, node in enumerate(graph.nodes):
        operator = node.operator
        if isinstance(operator, Input):
            continue
        if isinstance(operator, Constant):
            value = given_value(graph, index).astype(number)
            initializers.append(numpy_helper.from_array(value, tensor_name(index)))
            continue
        writer = _Writer(index, operator, nodes, initializers, number, spelt_out)
        write = _WRITERS.get(type(operator))
        if write is None or not write(writer, operator, [tensor_name(source) for source in node.inputs]):
            raise NoKernelError(f"{operator.text} cannot be written as ONNX from its record, so it cannot be measured")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            graph.name or "graph",
            [_tensor(graph, index, number) for index in input_indices(graph)],
            [_tensor(graph, index, number) for index in dict.fromkeys(graph.outputs)],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = model.SerializeToString()
    return data


def tensor_name(index: int) -> str:
    """Name of what a node writes."""
    return f"n{index}"


def steps_of(
    graph: Graph, launches: Sequence[tuple[str, str]], seconds_RL: NDArray[np.float64]
) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
    """Steps of a runtime that has read `onnx_bytes`, and their seconds in each run, of shape (runs, steps).

    Launches that run parts of one node make one step. A node that no launch names was fused: a convolution or product
    into what reads it, as a batch norm that it was folded into names the launch; any other node into the last launch
    that it reads from, since the addition of a residual can only be done by the later of its producers.

    Args:
        graph: what `onnx_bytes` wrote.
        launches: of each launch, in the order of execution, what the runtime calls it and the names of the ONNX nodes
            in it, with anything between them; no names where it only moves data.
        seconds_RL: of each launch in each run.
    """
    step_names: list[str] = []
    step_of_launch: list[int] = []
    owners: dict[int, int] = {}  # node -> number of its step
    for launch, names in launches:
        found = [int(index) for index in NODE_NAME.findall(names)]
        step = next((owners[index] for index in found if index in owners), len(step_names))
        if step == len(step_names):
            step_names.append(launch)
        step_of_launch.append(step)
        for index in found:
            owners.setdefault(index, step)
    _claim_fused(graph, owners)
    steps = tuple(
        Step(name=name, nodes=tuple(sorted(index for index, owner in owners.items() if owner == number)))
        for number, name in enumerate(step_names)
    )
    seconds_RS = np.zeros((len(seconds_RL), len(steps)))
    for launch_index, step in enumerate(step_of_launch):
        seconds_RS[:, step] += seconds_RL[:, launch_index]
    return steps, seconds_RS


# ------------------------------------------------------------------------------------------------------------ private


def _claim_fused(graph: Graph, owners: dict[int, int]) -> None:
    nodes = graph.nodes
    readers: dict[int, list[int]] = {index: [] for index in graph.outputs}  # of nodes that some output depends on
    for index in range(len(nodes) - 1, -1, -1):
        if index in readers:
            for source in nodes[index].inputs:
                readers.setdefault(source, []).append(index)
    fused = [index for index in sorted(readers) if index not in owners]
    for index in fused:
        if isinstance(nodes[index].operator, _ANCHORS):
            last = index
            while last not in owners and len(readers[last]) == 1:
                last = readers[last][0]
            if last in owners:
                owners[index] = owners[last]
    for index in fused:
        found = [owners[source] for source in nodes[index].inputs if source in owners]
        if found and index not in owners and not isinstance(nodes[index].operator, _ANCHORS):
            owners[index] = max(found)


def _tensor(graph: Graph, index: int, number: np.dtype[Any]) -> onnx.ValueInfoProto:
    shape = graph.nodes[index].operator.output_shape
    return helper.make_tensor_value_info(tensor_name(index), helper.np_dtype_to_tensor_dtype(number), shape)


class _Writer:
    """Appends the ONNX nodes and initializers of one operator."""

    def __init__(
        self,
        index: int,
        operator: Operator,
        nodes: list[onnx.NodeProto],
        initializers: list[onnx.TensorProto],
        number: np.dtype[Any],
        spelt_out: bool,
    ) -> None:
        self.spelt_out = spelt_out
        self.weights = weights_of(operator, index)
        self._output = tensor_name(index)
        self._name = f"{self._output}_{operator.kind}"
        self._nodes = nodes
        self._initializers = initializers
        self._number = number

    def part(self, part: str, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node on the way to the operator's output; the name of what it writes."""
        return self._node(op_type, inputs, f"{self._name}.{part}", f"{self._output}.{part}", attributes)

    def last(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The node that writes the operator's output."""
        return self._node(op_type, inputs, self._name, self._output, attributes)

    def stored(self, part: str, values: Array | float) -> str:
        """An initializer of the model's dtype; its name."""
        return self._store(part, np.asarray(values, self._number))

    def stored_sizes(self, part: str, sizes: Sequence[int]) -> str:
        """An initializer of sizes or axes; its name."""
        return self._store(part, np.asarray(sizes, np.int64))

    def stored_weights(self, *names: str) -> list[str]:
        """Initializers of those weights that the operator has, in this order."""
        return [self.stored(name, self.weights[name]) for name in names if name in self.weights]

    def _store(self, part: str, array: NDArray[Any]) -> str:
        name = f"{self._output}.{part}"
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, op_type: str, inputs: Sequence[str], name: str, output: str, attributes: dict[str, Any]) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output


def _window(operator: Conv2d | ConvTranspose2d | Pool2d) -> dict[str, Any]:
    return {"kernel_shape": operator.kernel, "strides": operator.stride, "pads": operator.padding * 2}


def _convolution(writer: _Writer, operator: Conv2d, inputs: list[str]) -> str:
    return writer.last(
        "Conv", inputs + writer.stored_weights("weight", "bias"),
        dilations=operator.dilation, group=operator.groups, **_window(operator),
    )  # fmt: skip


def _transposed(writer: _Writer, operator: ConvTranspose2d, inputs: list[str]) -> str:
    return writer.last(
        "ConvTranspose", inputs + writer.stored_weights("weight", "bias"),
        dilations=operator.dilation, group=operator.groups, output_padding=operator.output_padding, **_window(operator),
    )  # fmt: skip


def _linear(writer: _Writer, operator: Linear, inputs: list[str]) -> str:
    if len(operator.shape) == 2:
        return writer.last("Gemm", inputs + writer.stored_weights("weight", "bias"), transB=1)
    inputs = [*inputs, writer.stored("weight", writer.weights["weight"].T)]
    if not operator.bias:
        return writer.last("MatMul", inputs)
    return writer.last("Add", [writer.part("product", "MatMul", inputs), *writer.stored_weights("bias")])


def _attention(writer: _Writer, operator: Attention, inputs: list[str]) -> str:
    query, key, value, *mask = inputs
    key = writer.part("transposed", "Transpose", [key], perm=(0, 1, 3, 2))
    scores = writer.part("scores", "MatMul", [query, key])
    scores = writer.part("scaled", "Mul", [scores, writer.stored("scale", operator.head_dim**-0.5)])
    if mask:
        scores = writer.part("masked", "Add", [scores, *mask])
    return writer.last("MatMul", [writer.part("softmax", "Softmax", [scores], axis=-1), value])


def _activation(writer: _Writer, operator: Activation, inputs: list[str]) -> str | None:
    function = operator.function
    if function == "silu":  # Swish comes with opset 24
        return writer.last("Mul", [*inputs, writer.part("sigmoid", "Sigmoid", inputs)])
    if function == "hardswish" and writer.spelt_out:
        return writer.last("Mul", [*inputs, writer.part("gate", "HardSigmoid", inputs, **_HARDSIGMOID)])
    if function == "mish" and writer.spelt_out:
        gate = writer.part("gate", "Tanh", [writer.part("softplus", "Softplus", inputs)])
        return writer.last("Mul", [*inputs, gate])
    if function == "square":
        return writer.last("Mul", inputs * 2)
    if function in _CLIPS:
        low, high = _CLIPS[function]
        return writer.last("Clip", [*inputs, writer.stored("low", low), writer.stored("high", high)])
    if function not in _ACTIVATIONS:
        return None
    op_type, attributes = _ACTIVATIONS[function]
    return writer.last(op_type, inputs, **attributes)


def _normalization(writer: _Writer, operator: Normalization, inputs: list[str]) -> str | None:
    shape = operator.shape
    if operator.method == "batch_norm" and len(shape) > 1:
        writer.weights.setdefault("weight", np.ones(shape[1], np.float32))
        writer.weights.setdefault("bias", np.zeros(shape[1], np.float32))
        names = ("weight", "bias", "running_mean", "running_var")
        return writer.last("BatchNormalization", inputs + writer.stored_weights(*names), epsilon=1e-5)
    if operator.method == "layer_norm" and operator.affine_params in (0, shape[-1], 2 * shape[-1]):
        writer.weights.setdefault("weight", np.ones(shape[-1], np.float32))
        return writer.last(
            "LayerNormalization", inputs + writer.stored_weights("weight", "bias"), axis=-1, epsilon=1e-5
        )
    return None


def _pool(writer: _Writer, operator: Pool2d, inputs: list[str]) -> str | None:
    # Runtimes differ in what ceil_mode means, so the padding at the end says it.
    window = zip(operator.shape[2:], operator.output_shape[2:], operator.kernel, operator.stride, operator.dilation)
    spans = [(out - 1) * stride + dilation * (kernel - 1) + 1 - size for size, out, kernel, stride, dilation in window]
    ends = [max(span - padding, padding) for span, padding in zip(spans, operator.padding)]
    attributes = {**_window(operator), "pads": [*operator.padding, *ends]}
    if operator.method == "max":
        return writer.last("MaxPool", inputs, dilations=operator.dilation, **attributes)
    overhangs = tuple(ends) != operator.padding
    if overhangs and operator.padding != (0, 0):
        return None  # torch counts the padding into the mean, but not what a window has beyond it
    return writer.last("AveragePool", inputs, count_include_pad=int(not overhangs), **attributes)


def _adaptive_pool(writer: _Writer, operator: AdaptivePool2d, inputs: list[str]) -> str | None:
    name = {"avg": "Average", "max": "Max"}[operator.method]
    if operator.size == (1, 1):
        return writer.last(f"Global{name}Pool", inputs)
    steps = [size // out for size, out in zip(operator.shape[2:], operator.size)]
    if tuple(step * out for step, out in zip(steps, operator.size)) != operator.shape[2:]:
        return None
    return writer.last(f"{name}Pool", inputs, kernel_shape=steps, strides=steps)


def _reduce(writer: _Writer, operator: Reduce, inputs: list[str]) -> str | None:
    if operator.method not in _REDUCTIONS or not operator.axes:
        return None
    axes = writer.stored_sizes("axes", operator.axes)
    return writer.last(_REDUCTIONS[operator.method], [*inputs, axes], keepdims=int(operator.keepdim))


def _resize(writer: _Writer, operator: Resize, inputs: list[str]) -> str:
    return writer.last(
        "Resize", [*inputs, "", "", writer.stored_sizes("size", operator.output_shape)], **_RESIZES[operator.method]
    )


def _elementwise(writer: _Writer, operator: Elementwise, inputs: list[str]) -> str | None:
    if operator.function not in _ELEMENTWISE or len(inputs) > 2:
        return None
    if len(inputs) == 1:
        inputs = [*inputs, writer.stored("number", 1.5)]  # as in torch_layers
    return writer.last(_ELEMENTWISE[operator.function], inputs)


def _moved(writer: _Writer, operator: View | Copy, steps: Steps | None, inputs: list[str]) -> str | None:
    """Steps one by one; the last of them writes the operator's output."""
    if not steps:
        return None
    (x,) = inputs
    shape = operator.shape
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        x = _step(writer, x, shape, step, f"step{number}", is_last)
        shape = shape_after(shape, (step,))
    return x


def _step(writer: _Writer, x: str, shape: Shape, step: Movement, part: str, is_last: bool) -> str:
    name, *arguments = step
    first = arguments[0]

    def node(op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        if is_last:
            return writer.last(op_type, inputs, **attributes)
        return writer.part(part, op_type, inputs, **attributes)

    def stored(*lists: Sequence[int], of: str = part) -> list[str]:
        return [writer.stored_sizes(f"{of}.{number}", each) for number, each in enumerate(lists)]

    if name == "transpose":
        return node("Transpose", [x], perm=first)
    if name == "pad":
        return node("Pad", [x, *stored((*first, *arguments[1]))])
    if name == "slice":
        cut = [axis for axis, size in enumerate(shape_after(shape, (step,))) if size != shape[axis]]
        starts, stops, every = ([numbers[axis] for axis in cut] for numbers in arguments)
        return node("Slice", [x, *stored(starts, stops, cut, every)])
    if name == "flip":
        far = -(1 << 31)
        return node("Slice", [x, *stored([-1] * len(first), [far] * len(first), first, [-1] * len(first))])
    if name == "roll":
        rolled = [axis for axis, shift in enumerate(first) if shift]
        for axis in rolled:
            bounds = stored([-first[axis]], [shape[axis]], [axis], [0], of=f"{part}.{axis}")
            ends = [
                writer.part(f"{part}.end{axis}", "Slice", [x, bounds[0], bounds[1], bounds[2]]),
                writer.part(f"{part}.begin{axis}", "Slice", [x, bounds[3], bounds[0], bounds[2]]),
            ]
            if axis == rolled[-1]:
                return node("Concat", ends, axis=axis)
            x = writer.part(f"{part}.{axis}", "Concat", ends, axis=axis)
        return node("Identity", [x])
    return node({"reshape": "Reshape", "expand": "Expand", "repeat": "Tile"}[name], [x, *stored(first)])


_ANCHORS = (Conv2d, ConvTranspose2d, Linear, MatMul)

_HARDSIGMOID = {"alpha": 1 / 6, "beta": 0.5}

_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "abs": ("Abs", {}),
    "celu": ("Celu", {}),
    "cos": ("Cos", {}),
    "elu": ("Elu", {}),
    "erf": ("Erf", {}),
    "exp": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "hardsigmoid": ("HardSigmoid", _HARDSIGMOID),
    "hardswish": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "mish": ("Mish", {}),
    "neg": ("Neg", {}),
    "reciprocal": ("Reciprocal", {}),
    "relu": ("Relu", {}),
    "round": ("Round", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "sign": ("Sign", {}),
    "sin": ("Sin", {}),
    "softplus": ("Softplus", {}),
    "tanh": ("Tanh", {}),
}

_CLIPS = {"relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}

_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}

_ELEMENTWISE = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min"}

# As torch.nn.Upsample without align_corners reads.
_RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
}

_WRITERS: dict[type[Operator], Callable[[_Writer, Any, list[str]], str | None]] = {
    Conv2d: _convolution,
    ConvTranspose2d: _transposed,
    Linear: _linear,
    MatMul: lambda writer, operator, inputs: writer.last("MatMul", inputs),
    Attention: _attention,
    Activation: _activation,
    Softmax: lambda writer, operator, inputs: writer.last("Softmax", inputs, axis=operator.axis),
    Normalization: _normalization,
    Pool2d: _pool,
    AdaptivePool2d: _adaptive_pool,
    Reduce: _reduce,
    Resize: _resize,
    Elementwise: _elementwise,
    Concat: lambda writer, operator, inputs: writer.last("Concat", inputs, axis=operator.axis),
    View: lambda writer, operator, inputs: _moved(writer, operator, operator.all_steps, inputs),
    Copy: lambda writer, operator, inputs: _moved(writer, operator, operator.steps, inputs),
}
