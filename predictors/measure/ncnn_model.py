"""Graphs as ncnn's two files: layers as text (.param) and their weights as raw floats (.bin), written directly.

Written as ncnn's converter pnnx and its optimiser ncnnoptimize would: what fuses is in `configs/runtime/ncnn.yaml`,
tokens are multiplied by Gemm, and global pooling gives a vector, which 1x1 convolutions read as InnerProduct and which
binary operators spread over height and width. Blobs have no batch axis, so the batch must be 1. Layers stand in the
order in which ncnn runs them when the outputs are asked for one after the other.

Sources: github.com/Tencent/ncnn, docs/developer-guide/{operators,param-and-model-file-structure}.md, tools/pnnx/src/
pass_ncnn/{nn_Linear,legalize_global_pooling_layout}.cpp
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.fusion import fuse, load_runtime
from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Step
from predictors.measure.values import given_value, weights_of
from predictors.movement import Step as Movement
from predictors.movement import shape_after
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

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcnnFiles:
    """A network that ncnn can load.

    Attributes:
        param: layers, as text; a layer is called n{index of its last node}_{type}, its blob n{index}. Split layers give
            each of several readers its own n{index}_split_{number}.
        weights: of the layers, in their order.
        inputs: names of the blobs to set, by the index of their node.
        outputs: names of the blobs to extract, in the order of the graph's outputs.
        steps: what runs, in order, each with the blob whose extraction runs it when all before it have run.
    """

    param: str
    weights: bytes
    inputs: Mapping[int, str]
    outputs: tuple[str, ...]
    steps: tuple[tuple[Step, str], ...]


def ncnn_files(graph: Graph) -> NcnnFiles:
    """The graph with the weights of `values.weights_of` as ncnn's files.

    Raises:
        NoKernelError: ncnn has no layer for an operator, or its record does not determine it.
    """
    kernels = {kernel.nodes[0]: kernel.nodes for kernel in fuse(graph, load_runtime("ncnn"), "float32")}
    followers = {index for nodes in kernels.values() for index in nodes[1:]}
    writer = _Writer(graph)
    for index in _run_order(graph):
        if index not in followers:
            writer.add(kernels.get(index, (index,)))
    layers, outputs = _with_splits(writer.layers, [writer.blobs[index] for index in graph.outputs])
    lines = [layer.line for layer in layers]
    num_blobs = sum(len(layer.outputs) for layer in layers)
    return NcnnFiles(
        param="\n".join(("7767517", f"{len(layers)} {num_blobs}", *lines, "")),
        weights=b"".join(layer.weights for layer in layers),
        inputs={index: blob for index, blob in writer.blobs.items() if isinstance(graph.nodes[index].operator, Input)},
        outputs=outputs,
        steps=tuple(writer.steps),
    )


# ------------------------------------------------------------------------------------------------------------ private

_Param = int | float | tuple[int, ...] | tuple[float, ...]

_EPSILON = 1e-5  # torch's default of batch and layer norm


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A line of the .param file and its part of the .bin file."""

    type: str
    params: Mapping[int, _Param]
    weights: bytes = b""
    name: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        params = [_param(key, value) for key, value in self.params.items()]
        counts = (str(len(self.inputs)), str(len(self.outputs)))
        return " ".join((self.type, self.name, *counts, *self.inputs, *self.outputs, *params))


class _Writer:
    """Layers so far, without Split layers, and what they compute.

    Attributes:
        blobs: of each node that has one, by its index.
        vectors: nodes whose shape is (1, C, 1, 1), but whose blob has one axis.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.layers: list[_Layer] = []
        self.blobs: dict[int, str] = {}
        self.vectors: set[int] = set()
        self.steps: list[tuple[Step, str]] = []

    def add(self, nodes: Sequence[int]) -> None:
        """Write a kernel's nodes; those that its first layer does not take become layers of the same step."""
        first = nodes[0]
        operator = self._graph.nodes[first].operator
        if isinstance(operator, Input | Constant):
            self._given(first, operator)
            return
        _check_shapes(operator)
        if isinstance(operator, View) and self._is_same_blob(first, operator):
            self.blobs[first] = self.blobs[self._graph.nodes[first].inputs[0]]
            return
        rest = self._weighted(nodes) if isinstance(operator, Conv2d | ConvTranspose2d | Linear) else nodes
        for index in rest:
            self._plain(index)
        last = self.layers[-1]
        self.steps.append((Step(name=last.name, nodes=tuple(nodes)), last.outputs[0]))

    def _given(self, index: int, operator: Input | Constant) -> None:
        weights = given_value(self._graph, index).tobytes() if isinstance(operator, Constant) else b""
        layer_type = "MemoryData" if isinstance(operator, Constant) else "Input"
        self._append(index, _Layer(type=layer_type, params=_sizes(operator.shape), weights=weights), ())

    def _is_same_blob(self, index: int, view: View) -> bool:
        is_vector = self._graph.nodes[index].inputs[0] in self.vectors
        return view.to == (view.shape[:2] if is_vector else view.shape)

    def _weighted(self, nodes: Sequence[int]) -> Sequence[int]:
        """Write a layer with weights and all that it takes; the nodes that it left."""
        first = nodes[0]
        operator: Any = self._graph.nodes[first].operator
        source = self._graph.nodes[first].inputs[0]
        is_vector = source in self.vectors and _is_pointwise(operator)
        is_gemm = isinstance(operator, Linear) and len(operator.shape) > 2
        weight, bias = _kernel_first(operator, first)
        rest = list(nodes[1:])
        activation = None
        if not is_gemm:
            following = [self._graph.nodes[index].operator for index in rest]
            if following and isinstance(norm := following[0], Normalization):
                scale, shift = _scale_and_shift(norm, rest.pop(0))
                weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
                bias = shift if bias is None else bias * scale + shift
                following.pop(0)
            if following and isinstance(function := following[0], Activation):
                activation = _FUSED[function.function]
                rest.pop(0)
        index = nodes[len(nodes) - len(rest) - 1]
        if is_gemm:
            self._gemm(index, operator, weight, bias)
        elif is_vector or isinstance(operator, Linear):
            self._append(index, _inner_product(weight, bias, activation), (self.blobs[source],))
        else:
            self._append(index, _convolution(operator, weight, bias, activation), (self._whole(source, index),))
        if is_vector:
            self.vectors.add(index)
        return rest

    def _gemm(self, index: int, operator: Linear, weight: Array, bias: Array | None) -> None:
        """Gemm takes a matrix, so further axes are joined before and parted after it."""
        source = self._graph.nodes[index].inputs[0]
        rows = prod(operator.shape[:-1])
        blob = self.blobs[source]
        if len(operator.shape) > 3:
            blob = self._helper(index, "rows", _reshape((1, rows, operator.in_features)), blob)
        layer = _gemm(rows, weight, bias)
        if len(operator.shape) > 3:
            blob = self._helper(index, "product", layer, blob)
            layer = _reshape(operator.output_shape)
        self._append(index, layer, (blob,))

    def _plain(self, index: int) -> None:
        """Write a layer of its own."""
        operator = self._graph.nodes[index].operator
        sources = self._graph.nodes[index].inputs
        if isinstance(operator, Copy) or (isinstance(operator, View) and operator.steps):
            self._moved(index, operator)
            return
        layer = _normalization(operator, index) if isinstance(operator, Normalization) else _layer(operator)
        vectors = [source in self.vectors for source in sources]
        if isinstance(operator, Activation | Normalization | Elementwise) and all(vectors):
            self.vectors.add(index)
            reads = [self.blobs[source] for source in sources]
        elif isinstance(operator, Elementwise) and any(vectors) and operator.output_shape in operator.shapes:
            reads = [self.blobs[source] for source in sources]  # ncnn spreads a vector of channels over the other axes
        elif isinstance(operator, View):
            reads = [self.blobs[sources[0]]]
        else:
            reads = [self._whole(source, index) for source in sources]
        if isinstance(operator, AdaptivePool2d) and operator.size == (1, 1):
            self.vectors.add(index)
        self._append(index, layer, reads)

    def _moved(self, index: int, operator: View | Copy) -> None:
        """A layer for each axis that a step changes, or one for all; a rolled axis is cut in two and joined again."""
        if not operator.steps:
            raise _refusal(operator, "its record does not say what is done")
        blob, shape = self._whole(self._graph.nodes[index].inputs[0], index), operator.shape
        layers: list[_Layer] = []
        for step in operator.steps:
            after = shape_after(shape, (step,))
            if shape[:1] != (1,) or after[:1] != (1,) or not 2 <= len(after) <= 4:
                raise _refusal(operator, "on the way shapes must have a batch of 1 before 1 to 3 other axes")
            layers += _movements(operator, shape, after, step)
            shape = after
        for number, layer in enumerate(layers[:-1]):
            blob = self._rolled(index, number, layer, blob) or self._helper(index, f"step{number}", layer, blob)
        last = layers[-1]
        if rolled := self._rolled(index, len(layers) - 1, last, blob):
            blob, last = rolled, _Layer(type="Noop", params={})
        self._append(index, last, (blob,))

    def _rolled(self, index: int, number: int, layer: _Layer, blob: str) -> str | None:
        """The end of an axis before its begin, where the layer says so; its blob."""
        if layer.type != "Roll":
            return None
        axis, cut, size = (int(layer.params[key]) for key in range(3))  # type: ignore[arg-type]
        parts = tuple(
            self._helper(
                index, f"{part}{number}", _Layer(type="Crop", params={9: (start,), 10: (stop,), 11: (axis,)}), blob
            )
            for part, start, stop in (("end", cut, size), ("begin", 0, cut))
        )
        made = f"n{index}_step{number}"
        self.layers.append(
            _Layer(type="Concat", params={0: axis}, name=f"{made}_Concat", inputs=parts, outputs=(made,))
        )
        return made

    def _whole(self, source: int, reader: int) -> str:
        """Blob of a node with all axes of its shape."""
        if source not in self.vectors:
            return self.blobs[source]
        shape = self._graph.nodes[source].operator.output_shape
        return self._helper(reader, f"whole{source}", _reshape(shape), self.blobs[source])

    def _append(self, index: int, layer: _Layer, inputs: Sequence[str]) -> None:
        blob = self.blobs[index] = f"n{index}"
        self.layers.append(replace(layer, name=f"n{index}_{layer.type}", inputs=tuple(inputs), outputs=(blob,)))

    def _helper(self, index: int, what: str, layer: _Layer, blob: str) -> str:
        """Add a layer that prepares another one; its blob."""
        made = f"n{index}_{what}"
        self.layers.append(replace(layer, name=f"{made}_{layer.type}", inputs=(blob,), outputs=(made,)))
        return made


def _run_order(graph: Graph) -> list[int]:
    """Nodes that the outputs need, in the order of ncnn's depth-first calls."""
    order: dict[int, None] = {}
    stack = list(reversed(graph.outputs))
    while stack:
        index = stack.pop()
        waiting = [source for source in graph.nodes[index].inputs if source not in order]
        if index in order:
            continue
        if waiting:
            stack += [index, *reversed(waiting)]
        else:
            order[index] = None
    return list(order)


def _with_splits(layers: Sequence[_Layer], outputs: Sequence[str]) -> tuple[list[_Layer], tuple[str, ...]]:
    """A blob may be read once, by a layer or the caller: readers of one blob get a copy each, which share its data."""
    num_readers = Counter([blob for layer in layers for blob in layer.inputs] + list(outputs))
    num_used: Counter[str] = Counter()

    def own(blob: str) -> str:
        if num_readers[blob] == 1:
            return blob
        num_used[blob] += 1
        return f"{blob}_split_{num_used[blob] - 1}"

    found = []
    for layer in layers:
        found.append(replace(layer, inputs=tuple(map(own, layer.inputs))))
        (blob,) = layer.outputs
        if (number := num_readers[blob]) > 1:
            copies = tuple(f"{blob}_split_{copy}" for copy in range(number))
            found.append(_Layer(type="Split", name=f"{blob}_split", inputs=(blob,), outputs=copies, params={}))
    return found, tuple(map(own, outputs))


def _check_shapes(operator: Operator) -> None:
    shapes = (*operator.input_shapes, operator.output_shape)
    if any(shape[:1] != (1,) for shape in shapes):
        raise _refusal(operator, "the first axis, which is the batch, must be 1")
    if any(not 2 <= len(shape) <= 4 for shape in shapes):
        raise _refusal(operator, "shapes must have 2 to 4 axes with the batch")


def _refusal(operator: Operator, why: str) -> NoKernelError:
    return NoKernelError(f"ncnn has no kernel for {operator.text}: {why}")


def _param(key: int, value: _Param) -> str:
    """ncnn reads at most 15 characters of a number, and takes it for a float by its point."""
    if isinstance(value, tuple):
        return f"{-23300 - key}=" + ",".join((str(len(value)), *map(_number, value)))
    return f"{key}={_number(value)}"


def _number(value: float) -> str:
    return f"{value:e}" if isinstance(value, float) else str(value)


def _sizes(shape: Shape) -> dict[int, _Param]:
    """Width, height and channels of a blob, as Input, MemoryData and Reshape have them."""
    return dict(zip((0, 1, 2), reversed(shape[1:])))


def _raw(*arrays: Array) -> bytes:
    return b"".join(array.astype(np.float32).tobytes() for array in arrays)


def _flagged(array: Array) -> bytes:
    """Weights that could also be of another type stand behind its tag, which is 0 for float32."""
    return bytes(4) + _raw(array)


# --------------------------------------------------------------------------------------------- layers with weights


def _kernel_first(operator: Conv2d | ConvTranspose2d | Linear, index: int) -> tuple[Array, Array | None]:
    """Weight with the output channels as its first axis, and bias."""
    weights = weights_of(operator, index)
    weight = weights["weight"]
    if isinstance(operator, ConvTranspose2d):
        in_channels, per_group, *kernel = weight.shape
        weight = weight.reshape(operator.groups, in_channels // operator.groups, per_group, *kernel)
        weight = weight.swapaxes(1, 2).reshape(operator.out_channels, in_channels // operator.groups, *kernel)
    return weight, weights.get("bias")


def _scale_and_shift(norm: Normalization, index: int) -> tuple[Array, Array]:
    weights = weights_of(norm, index)
    scale = weights.get("weight", np.float32(1.0)) / np.sqrt(weights["running_var"] + np.float32(_EPSILON))
    return scale, weights.get("bias", np.float32(0.0)) - weights["running_mean"] * scale


def _is_pointwise(operator: Operator) -> bool:
    return (
        isinstance(operator, Conv2d)
        and operator.kernel == (1, 1)
        and operator.padding == (0, 0)
        and operator.groups == 1
    )


_Fused = tuple[int, tuple[float, ...]]

_FUSED: dict[str, _Fused] = {
    "relu": (1, ()),
    "leaky_relu": (2, (0.01,)),
    "relu6": (3, (0.0, 6.0)),
    "hardtanh": (3, (-1.0, 1.0)),
    "sigmoid": (4, ()),
    "mish": (5, ()),
    "hardswish": (6, (1 / 6, 0.5)),
}
"""activation_type and activation_params."""


def _activation_params(activation: _Fused | None) -> dict[int, _Param]:
    if activation is None:
        return {}
    number, values = activation
    return {9: number, 10: values} if values else {9: number}


def _convolution(
    operator: Conv2d | ConvTranspose2d, weight: Array, bias: Array | None, activation: _Fused | None
) -> _Layer:
    params: dict[int, _Param] = {
        0: operator.out_channels, 1: operator.kernel[1], 11: operator.kernel[0], 2: operator.dilation[1],
        12: operator.dilation[0], 3: operator.stride[1], 13: operator.stride[0], 4: operator.padding[1],
        14: operator.padding[0], 5: int(bias is not None), 6: weight.size, **_activation_params(activation),
    }  # fmt: skip
    layer_type = "Convolution"
    if isinstance(operator, ConvTranspose2d):
        layer_type = "Deconvolution"
        params |= {18: operator.output_padding[1], 19: operator.output_padding[0]}
    if operator.groups > 1:
        layer_type += "DepthWise"
        params[7] = operator.groups
    weights = _flagged(weight) + (b"" if bias is None else _raw(bias))
    return _Layer(type=layer_type, params=params, weights=weights)


def _inner_product(weight: Array, bias: Array | None, activation: _Fused | None) -> _Layer:
    return _Layer(
        type="InnerProduct",
        params={0: len(weight), 1: int(bias is not None), 2: weight.size, **_activation_params(activation)},
        weights=_flagged(weight) + (b"" if bias is None else _raw(bias)),
    )


def _gemm(rows: int, weight: Array, bias: Array | None) -> _Layer:
    """rows x in_features times the constant, transposed weight, plus a constant row."""
    return _Layer(
        type="Gemm",
        params={
            2: 0, 3: 1, 4: 0, 5: 1, 6: 1, 7: rows, 8: weight.shape[0], 9: weight.shape[1],
            10: -1 if bias is None else 4,
        },
        weights=_flagged(weight) + (b"" if bias is None else _flagged(bias)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ other layers


def _layer(operator: Operator) -> _Layer:
    builder = _BUILDERS.get(type(operator))
    if builder is None:
        raise _refusal(operator, "no layer does it, or its record does not say all that a layer needs")
    return builder(operator)


def _normalization(operator: Normalization, index: int) -> _Layer:
    weights = weights_of(operator, index)
    if operator.method == "batch_norm":
        channels = operator.shape[1]
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        slope, bias = weights.get("weight", ones), weights.get("bias", zeros)
        data = _raw(slope, weights["running_mean"], weights["running_var"], bias)
        return _Layer(type="BatchNorm", params={0: channels, 1: _EPSILON}, weights=data)
    features = operator.shape[-1]
    if operator.method != "layer_norm" or operator.affine_params not in (0, 2 * features):
        raise _refusal(operator, "only batch_norm, and layer_norm over the last axis, are determined")
    data = _raw(weights["weight"], weights["bias"]) if operator.affine_params else b""
    return _Layer(type="LayerNorm", params={0: features, 1: _EPSILON, 2: int(bool(data))}, weights=data)


def _activation(operator: Activation) -> _Layer:
    if operator.function not in _ACTIVATIONS:
        raise _refusal(operator, f"it has {sorted(_ACTIVATIONS)}")
    layer_type, params = _ACTIVATIONS[operator.function]
    return _Layer(type=layer_type, params=params)


_ACTIVATIONS: dict[str, tuple[str, dict[int, _Param]]] = {
    "relu": ("ReLU", {}),
    "leaky_relu": ("ReLU", {0: 0.01}),
    "relu6": ("Clip", {0: 0.0, 1: 6.0}),
    "hardtanh": ("Clip", {0: -1.0, 1: 1.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("TanH", {}),
    "hardsigmoid": ("HardSigmoid", {0: 1 / 6, 1: 0.5}),
    "hardswish": ("HardSwish", {0: 1 / 6, 1: 0.5}),
    "silu": ("Swish", {}),
    "mish": ("Mish", {}),
    "gelu": ("GELU", {0: 0}),
    "elu": ("ELU", {0: 1.0}),
    "celu": ("CELU", {0: 1.0}),
    "selu": ("SELU", {}),
    "softplus": ("Softplus", {}),
    "erf": ("Erf", {}),
    "abs": ("UnaryOp", {0: 0}),
    "neg": ("UnaryOp", {0: 1}),
    "square": ("UnaryOp", {0: 4}),
    "exp": ("UnaryOp", {0: 7}),
    "sin": ("UnaryOp", {0: 9}),
    "cos": ("UnaryOp", {0: 10}),
    "reciprocal": ("UnaryOp", {0: 15}),
}

_BINARY: dict[str, int] = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}

_REDUCTIONS: dict[str, int] = {"sum": 0, "mean": 3, "max": 4, "min": 5}

_RESIZES: dict[str, int] = {"nearest": 1, "bilinear": 2, "bicubic": 3}


def _elementwise(operator: Elementwise) -> _Layer:
    if operator.function not in _BINARY or len(operator.shapes) > 2:
        raise _refusal(operator, f"it has {list(_BINARY)} of one or two tensors")
    if len({len(shape) for shape in operator.shapes}) > 1 or operator.output_shape not in operator.shapes:
        raise _refusal(operator, "one tensor must have the output's shape, and the other as many axes")
    scalar: dict[int, _Param] = {1: 1, 2: 1.5} if len(operator.shapes) == 1 else {}
    return _Layer(type="BinaryOp", params={0: _BINARY[operator.function], **scalar})


def _pool(operator: Pool2d) -> _Layer:
    if operator.dilation != (1, 1):
        raise _refusal(operator, "its windows have no dilation")
    sizes = list(zip(operator.shape[2:], operator.kernel, operator.stride, operator.padding))
    tails = [(size + 2 * padding - kernel) % stride for size, kernel, stride, padding in sizes]
    whole = [-(-(size + 2 * padding - kernel) // stride) + 1 for size, kernel, stride, padding in sizes]
    grows = operator.ceil_mode and any(tails)
    if grows and tuple(whole) != operator.output_shape[2:]:
        raise _refusal(operator, "ceil_mode keeps windows that start in the padding")
    if grows and operator.method == "avg" and operator.padding != (0, 0):
        raise _refusal(operator, "ceil_mode with padding divides by another size")
    return _Layer(
        type="Pooling",
        params={
            0: int(operator.method == "avg"), 1: operator.kernel[1], 11: operator.kernel[0], 2: operator.stride[1],
            12: operator.stride[0], 3: operator.padding[1], 13: operator.padding[0], 5: int(not grows),
            6: int(not grows),
        },
    )  # fmt: skip


def _adaptive_pool(operator: AdaptivePool2d) -> _Layer:
    method = int(operator.method == "avg")
    if operator.size == (1, 1):
        return _Layer(type="Pooling", params={0: method, 4: 1})
    return _Layer(type="Pooling", params={0: method, 7: 1, 8: operator.size[1], 18: operator.size[0]})


def _reduce(operator: Reduce) -> _Layer:
    if operator.method not in _REDUCTIONS or 0 in operator.axes:
        raise _refusal(operator, f"it has {list(_REDUCTIONS)} over axes behind the batch")
    axes = tuple(axis - 1 for axis in operator.axes)
    return _Layer(
        type="Reduction",
        params={0: _REDUCTIONS[operator.method], 1: 0, 3: axes, 4: int(operator.keepdim), 5: 1},
    )


def _resize(operator: Resize) -> _Layer:
    return _Layer(type="Interp", params={0: _RESIZES[operator.method], 3: operator.size[0], 4: operator.size[1]})


def _concat(operator: Concat) -> _Layer:
    if operator.axis == 0:
        raise _refusal(operator, "blobs have no batch axis to join")
    return _Layer(type="Concat", params={0: operator.axis - 1})


_PERMUTATIONS = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))}
"""Axes of a blob, from the outermost, in the order of Permute's order_type."""


def _movements(operator: Operator, shape: Shape, after: Shape, step: Movement) -> list[_Layer]:
    """Layers of a step. 'Roll' stands for two Crop layers and a Concat: its axis, where it is cut, its size."""
    name, *arguments = step
    first = arguments[0]
    changed = [axis for axis, (size, new) in enumerate(zip(shape, after)) if size != new]
    if name == "reshape":
        return [_reshape(after)]
    if name == "transpose":
        axes = tuple(axis - 1 for axis in first[1:])
        if first[0] or len(axes) == 1:
            raise _refusal(operator, "the batch must stay the first axis")
        return [_Layer(type="Permute", params={0: _PERMUTATIONS[len(axes)].index(axes)})]
    if name == "slice":
        if any(arguments[2][axis] > 1 for axis in changed):
            raise _refusal(operator, "Crop takes all elements between two")
        starts, stops = (tuple(each[axis] for axis in changed) for each in arguments[:2])
        return [_Layer(type="Crop", params={9: starts, 10: stops, 11: tuple(axis - 1 for axis in changed)})]
    if name == "pad":
        keys = ((7, 8), (0, 1), (2, 3))[-len(shape) + 1 :]
        pads = [(key, pad[axis + 1]) for axis, pair in enumerate(keys) for key, pad in zip(pair, arguments)]
        return [_Layer(type="Padding", params=dict(pads))]
    if name == "flip":
        return [_Layer(type="Flip", params={0: tuple(axis - 1 for axis in first)})]
    if name == "roll":
        rolled = [axis for axis, shift in enumerate(first) if shift]
        return [
            _Layer(type="Roll", params={0: axis - 1, 1: shape[axis] - first[axis], 2: shape[axis]}) for axis in rolled
        ]
    return [_Layer(type="Tile", params={0: axis - 1, 1: after[axis] // shape[axis]}) for axis in changed]


def _view(operator: View) -> _Layer:
    if prod(operator.to) != prod(operator.shape):
        raise _refusal(operator, "which part it keeps is not known")
    return _Layer(type="Flatten", params={}) if len(operator.to) == 2 else _reshape(operator.to)


def _reshape(shape: Shape) -> _Layer:
    return _Layer(type="Reshape", params=_sizes(shape))


def _matmul(operator: MatMul) -> _Layer:
    if len(operator.left) < 3 or len(operator.right) != len(operator.left):
        raise _refusal(operator, "both tensors need the batch and as many axes")
    return _Layer(type="MatMul", params={})


def _attention(operator: Attention) -> _Layer:
    if operator.mask is not None:
        raise _refusal(operator, "how its mask is spread is not known")
    return _Layer(type="SDPA", params={})


_BUILDERS: dict[type[Operator], Callable[[Any], _Layer]] = {
    Activation: _activation,
    AdaptivePool2d: _adaptive_pool,
    Attention: _attention,
    Concat: _concat,
    Elementwise: _elementwise,
    MatMul: _matmul,
    Pool2d: _pool,
    Reduce: _reduce,
    Resize: _resize,
    Softmax: lambda operator: _Layer(type="Softmax", params={0: operator.axis % len(operator.shape) - 1, 1: 1}),
    View: _view,
}
