"""Graphs as TensorFlow Lite models: the flatbuffer is written directly, without TensorFlow and its converter.

What the converter fuses is fused here: what `configs/runtime/litert.yaml` says. TensorFlow Lite stores images as NHWC,
so four-dimensional tensors are stored so wherever an operator on images reads or writes them; tensors of tokens and
attention heads keep their axes. Where both meet, a TRANSPOSE is written that belongs to no node of the graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from predictors.fusion import KernelNode, Runtime, fuse, load_runtime
from predictors.graph import Graph
from predictors.measure.backend import NoKernelError
from predictors.measure.values import given_value, weights_of
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
    Pair,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    View,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteOperator:
    """One operator of a flatbuffer.

    Attributes:
        name: in the schema, e.g. 'CONV_2D'.
        nodes: of the graph, those that it runs or helps to run; none where it changes a layout.
        inputs: tensors that it reads, constants included.
        output: the tensor that it writes.
    """

    name: str
    nodes: tuple[int, ...]
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteModel:
    """A model and how it relates to its graph.

    Attributes:
        data: the flatbuffer, what a .tflite file holds. Node i of the graph writes the tensor named 'n<i>'.
        operators: those of the flatbuffer in its order.
        inputs: nodes whose values the caller gives, in the order of the flatbuffer's inputs.
        channels_last: nodes whose tensors are stored as NHWC.
    """

    data: bytes
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    channels_last: frozenset[int]


def tflite_model(graph: Graph) -> TfliteModel:
    """The graph in float32 with the weights of `predictors.measure.values`.

    Raises:
        NoKernelError: TensorFlow Lite has no operator for one of the graph, or its record does not determine it.
    """
    return _Writer(graph, load_runtime("litert")).model()


def stored_axes(rank: int, channels_last: bool) -> tuple[int, ...]:
    """The order in which the axes of a graph's tensor are stored.

    >>> stored_axes(4, channels_last=True)
    (0, 2, 3, 1)
    """
    return (0, 2, 3, 1) if channels_last and rank == 4 else tuple(range(rank))


# ------------------------------------------------------------------------------------------------------------ private

_EPSILON = 1e-5  # of torch's normalizations


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Data of a constant. The schema asks for an alignment of 16 bytes, which its Python classes forget."""

    data: bytes

    def Pack(self, builder: Any) -> int:  # noqa: N802 - as the schema's classes call it
        builder.StartVector(1, len(self.data), 16)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        builder.vectorNumElems = len(self.data)
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class _Writer:
    """A flatbuffer that grows. Tensors are known by their index in it."""

    def __init__(self, graph: Graph, runtime: Runtime) -> None:
        self.graph = graph
        self._kernels = {kernel.nodes[-1]: kernel for kernel in fuse(graph, runtime, "float32")}
        self._alive, self._image_next = _look_back(graph)
        self._codes: dict[str, int] = {}
        self._buffers: list[Any] = [schema.BufferT()]  # the schema keeps the first one empty
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self.records: list[TfliteOperator] = []
        self._nodes: tuple[int, ...] = ()
        self._values: dict[tuple[int, bool], int] = {}  # tensor of a node in a layout
        self._layout: dict[int, bool] = {}  # whether a node wrote NHWC

    def model(self) -> TfliteModel:
        inputs: list[int] = []
        for index, node in enumerate(self.graph.nodes):
            if not self._alive[index]:
                continue
            if index in self._kernels:
                self._write_kernel(self._kernels[index])
            elif isinstance(node.operator, Input):
                self._give(index)
                inputs.append(index)
            elif isinstance(node.operator, Constant):
                self._layout[index] = self._image_next[index] and len(node.operator.shape) == 4  # written when read
            elif isinstance(node.operator, View):
                self._nodes = (index,)
                _write_view(self, index, node.operator)
        subgraph = schema.SubGraphT(
            tensors=self._tensors, inputs=[self._written(index) for index in inputs],
            outputs=[self._written(index) for index in self.graph.outputs], operators=self._operators,
        )  # fmt: skip
        numbers = [getattr(schema.BuiltinOperator, name) for name in self._codes]
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=1)
            for number in numbers
        ]
        model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=self._buffers)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return TfliteModel(
            data=bytes(builder.Output()),
            operators=tuple(self.records),
            inputs=tuple(inputs),
            channels_last=frozenset(index for index, is_last in self._layout.items() if is_last),
        )

    def op(
        self, name: str, inputs: Sequence[int], shape: Shape, options: Any = None, nodes: tuple[int, ...] | None = None
    ) -> int:
        """Write an operator with one output of the (stored) shape."""
        output = self._tensor(shape, schema.TensorType.FLOAT32, 0)
        options_type = type(options).__name__.removesuffix("T") if options else "NONE"
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self._codes.setdefault(name, len(self._codes)), inputs=list(inputs), outputs=[output],
                builtinOptionsType=getattr(schema.BuiltinOptions, options_type), builtinOptions=options,
            )
        )  # fmt: skip
        nodes = self._nodes if nodes is None else nodes
        self.records.append(TfliteOperator(name=name, nodes=nodes, inputs=tuple(inputs), output=output))
        return output

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> int:
        """Write a constant tensor."""
        array: NDArray[Any] = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        self._buffers.append(_Buffer(array.tobytes()))
        kind = schema.TensorType.INT32 if dtype is np.int32 else schema.TensorType.FLOAT32
        return self._tensor(array.shape, kind, len(self._buffers) - 1)

    def is_image(self, index: int) -> bool:
        """Whether a node wrote NHWC."""
        return self._layout[index]

    def image_next(self, index: int) -> bool:
        """Whether the first that reads a node and cares for the layout reads NHWC."""
        return self._image_next[index]

    def read(self, index: int, channels_last: bool = False) -> int:
        """The value of a node in a layout, which counts for four axes only."""
        operator = self.graph.nodes[index].operator
        shape = operator.output_shape
        key = (index, channels_last and len(shape) == 4)
        if key not in self._values:
            if isinstance(operator, Constant):
                value = given_value(self.graph, index).transpose(stored_axes(len(shape), channels_last))
                self.keep(index, self.constant(value), channels_last)
            else:
                self._values[key] = self.change_layout(self._written(index), shape, channels_last, nodes=())
        return self._values[key]

    def change_layout(
        self, tensor: int, shape: Shape, channels_last: bool, nodes: tuple[int, ...] | None = None
    ) -> int:
        """A four-dimensional tensor, NCHW of this shape, from the other layout."""
        stored = tuple(shape[axis] for axis in stored_axes(4, channels_last))
        if shape[1] == 1 or prod(shape[2:]) == 1:
            return self.reshape(tensor, stored, nodes)
        order = (0, 2, 3, 1) if channels_last else (0, 3, 1, 2)
        return self.op("TRANSPOSE", (tensor, self.constant(order, np.int32)), stored, nodes=nodes)

    def reshape(self, tensor: int, shape: Shape, nodes: tuple[int, ...] | None = None) -> int:
        options = schema.ReshapeOptionsT(newShape=list(shape))
        return self.op("RESHAPE", (tensor, self.constant(shape, np.int32)), shape, options, nodes)

    def keep(self, index: int, tensor: int, channels_last: bool = False) -> None:
        """Say which tensor holds the value of a node."""
        last = channels_last and len(self.graph.nodes[index].operator.output_shape) == 4
        self._tensors[tensor].name = f"n{index}"
        self._layout[index] = last
        self._values[index, last] = tensor

    def _write_kernel(self, kernel: KernelNode) -> None:
        operator = kernel.kernel.anchor
        write = _WRITERS.get(type(operator))
        if write is None:
            raise _no_kernel(operator)
        self._nodes = kernel.nodes
        write(self, kernel._replace(inputs=self.graph.nodes[kernel.nodes[0]].inputs), operator)  # views are written too

    def _written(self, index: int) -> int:
        return self.read(index, self._layout[index])

    def _give(self, index: int) -> None:
        shape, last = self.graph.nodes[index].operator.output_shape, self._image_next[index]
        stored = tuple(shape[axis] for axis in stored_axes(len(shape), last))
        self.keep(index, self._tensor(stored, schema.TensorType.FLOAT32, 0), last)

    def _tensor(self, shape: Shape, kind: int, buffer: int) -> int:
        name = f"t{len(self._tensors)}"
        self._tensors.append(schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name, hasRank=True))
        return len(self._tensors) - 1


def _no_kernel(operator: Operator, why: str = "") -> NoKernelError:
    return NoKernelError(f"{operator.text} has no TensorFlow Lite operator here{why}, so it cannot be measured")


def _look_back(graph: Graph) -> tuple[list[bool], list[bool]]:
    """Of each node: whether an output depends on it; whether the first reader that cares for the layout reads NHWC."""
    alive = [index in graph.outputs for index in range(len(graph.nodes))]
    image_next = [True] * len(graph.nodes)
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        if not alive[index]:
            continue
        for source in node.inputs:
            alive[source] = True
            if isinstance(node.operator, Activation | Elementwise | Concat | Reduce) or _keeps_axes(node.operator):
                image_next[source] = image_next[index]
            else:
                image_next[source] = isinstance(
                    node.operator, Conv2d | ConvTranspose2d | Pool2d | AdaptivePool2d | Resize
                ) or (isinstance(node.operator, Normalization) and node.operator.method == "batch_norm")
    return alive, image_next


def _keeps_axes(operator: Operator) -> bool:
    """Steps that can be done in either layout."""
    if not isinstance(operator, View | Copy) or not operator.steps:
        return False
    return all(name not in ("reshape", "transpose") for name, *_ in operator.steps)


# ---------------------------------------------------------------------------------- what is fused into an operator


@dataclass(frozen=True, slots=True)
class _Fused:
    """Weight (output channels first) and bias after the folding of a batch norm, and the fused activation."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: int


def _fused_activation(kernel: KernelNode) -> int:
    for operator in kernel.kernel.fused:
        if isinstance(operator, Activation):
            name = _ACTIVATIONS[operator.function][0]
            return int(getattr(schema.ActivationFunctionType, name))
    return int(schema.ActivationFunctionType.NONE)


def _fused_weights(kernel: KernelNode, num_outputs: int) -> _Fused:
    weights = weights_of(kernel.kernel.anchor, kernel.nodes[0])
    weight, bias = weights["weight"], weights.get("bias", np.zeros(num_outputs, np.float32))
    if isinstance(kernel.kernel.anchor, ConvTranspose2d):
        weight = weight.swapaxes(0, 1)
    for index, operator in zip(kernel.nodes[1:], kernel.kernel.fused):
        if isinstance(operator, Normalization):
            if operator.shape[1] != num_outputs:
                raise _no_kernel(operator, " after a layer with other channels")
            scale, shift = _scale_and_shift(operator, index)
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = bias * scale + shift
    return _Fused(weight, bias, _fused_activation(kernel))


def _scale_and_shift(operator: Normalization, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A batch norm at inference as a factor and a summand of each channel."""
    weights = weights_of(operator, index)
    scale = weights.get("weight", np.float32(1.0)) / np.sqrt(weights["running_var"] + np.float32(_EPSILON))
    return scale, weights.get("bias", np.float32(0.0)) - weights["running_mean"] * scale


# ---------------------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True, slots=True)
class _Window:
    """How torch's symmetric padding is written: a mode of the operator, and a PAD before it where no mode is equal."""

    mode: int
    pad: tuple[Pair, Pair]
    """Elements before and after, of height and width."""


def _window(
    size: Pair, out: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1), may_be_same: bool = True
) -> _Window:
    """SAME pads as much as ceil(size / stride) outputs need, the smaller half before; VALID pads nothing."""
    needed = [
        max((out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis], 0)
        for axis in range(2)
    ]
    if not any(needed) and not any(padding):
        return _Window(schema.Padding.VALID, ((0, 0), (0, 0)))
    if may_be_same and all(
        out[axis] == -(-size[axis] // stride[axis]) and needed[axis] // 2 == padding[axis] for axis in range(2)
    ):
        return _Window(schema.Padding.SAME, ((0, 0), (0, 0)))
    height, width = ((padding[axis], max(needed[axis] - padding[axis], 0)) for axis in range(2))
    return _Window(schema.Padding.VALID, (height, width))


def _padded(writer: _Writer, tensor: int, nchw: Shape, window: _Window, value: float = 0.0) -> int:
    """A tensor stored as NHWC with the padding of a window, if it has any."""
    if not any(map(any, window.pad)):
        return tensor
    batch, channels, *size = nchw
    shape = (batch, *(length + sum(pad) for length, pad in zip(size, window.pad)), channels)
    paddings = writer.constant([(0, 0), *window.pad, (0, 0)], np.int32)
    if value:
        return writer.op("PADV2", (tensor, paddings, writer.constant(value)), shape, schema.PadV2OptionsT())
    return writer.op("PAD", (tensor, paddings), shape, schema.PadOptionsT())


# -------------------------------------------------------------------------------------------------------- operators


def _write_conv(writer: _Writer, kernel: KernelNode, conv: Conv2d) -> None:
    (source,) = kernel.inputs
    window = _window(
        (conv.height, conv.width), (conv.height_out, conv.width_out), conv.kernel, conv.stride, conv.padding,
        conv.dilation,
    )  # fmt: skip
    fused = _fused_weights(kernel, conv.out_channels)
    further = {
        "padding": window.mode, "strideH": conv.stride[0], "strideW": conv.stride[1],
        "dilationHFactor": conv.dilation[0], "dilationWFactor": conv.dilation[1],
        "fusedActivationFunction": fused.activation,
    }  # fmt: skip
    if conv.is_depthwise:
        name, axes = "DEPTHWISE_CONV_2D", (1, 2, 3, 0)
        options = schema.DepthwiseConv2DOptionsT(depthMultiplier=conv.out_channels // conv.in_channels, **further)
    else:
        name, axes = "CONV_2D", (0, 2, 3, 1)
        options = schema.Conv2DOptionsT(**further)
    x = _padded(writer, writer.read(source, channels_last=True), conv.input_shapes[0], window)
    inputs = (x, writer.constant(fused.weight.transpose(axes)), writer.constant(fused.bias))
    writer.keep(kernel.nodes[-1], writer.op(name, inputs, _nhwc(conv.output_shape), options), True)


def _write_conv_transpose(writer: _Writer, kernel: KernelNode, conv: ConvTranspose2d) -> None:
    """VALID writes all that the kernel reaches. Where torch's padding crops it: SAME if it crops alike, or a SLICE."""
    if conv.groups > 1 or conv.dilation != (1, 1):
        raise _no_kernel(conv, " with groups or dilation")
    size, out = (conv.height, conv.width), conv.output_shape[2:]
    whole = tuple((size[axis] - 1) * conv.stride[axis] + conv.kernel[axis] for axis in range(2))
    cropped = [whole[axis] - out[axis] for axis in range(2)]
    if any(cropped[axis] < conv.padding[axis] for axis in range(2)):
        raise _no_kernel(conv, " with an output padding beyond the kernel")
    same = any(cropped) and all(
        size[axis] == -(-out[axis] // conv.stride[axis]) and cropped[axis] // 2 == conv.padding[axis]
        for axis in range(2)
    )
    written = out if same else whole
    fused = _fused_weights(kernel, conv.out_channels)
    options = schema.TransposeConvOptionsT(
        padding=schema.Padding.SAME if same else schema.Padding.VALID, strideH=conv.stride[0], strideW=conv.stride[1],
        fusedActivationFunction=fused.activation,
    )  # fmt: skip
    shape = (conv.batch, *written, conv.out_channels)
    inputs = (
        writer.constant(shape, np.int32), writer.constant(fused.weight.transpose(0, 2, 3, 1)),
        writer.read(kernel.inputs[0], channels_last=True), writer.constant(fused.bias),
    )  # fmt: skip
    result = writer.op("TRANSPOSE_CONV", inputs, shape, options)
    if written != out:
        begin = writer.constant((0, *conv.padding, 0), np.int32)
        extent = writer.constant(_nhwc(conv.output_shape), np.int32)
        result = writer.op("SLICE", (result, begin, extent), _nhwc(conv.output_shape), schema.SliceOptionsT())
    writer.keep(kernel.nodes[-1], result, True)


def _write_linear(writer: _Writer, kernel: KernelNode, linear: Linear) -> None:
    if len(linear.shape) != 2 and any(isinstance(each, Normalization) for each in kernel.kernel.fused):
        raise _no_kernel(linear, " with a batch norm over an axis that is not its last")
    fused = _fused_weights(kernel, linear.out_features)
    options = schema.FullyConnectedOptionsT(
        fusedActivationFunction=fused.activation, keepNumDims=len(linear.shape) != 2
    )
    inputs = (writer.read(kernel.inputs[0]), writer.constant(fused.weight), writer.constant(fused.bias))
    writer.keep(kernel.nodes[-1], writer.op("FULLY_CONNECTED", inputs, linear.output_shape, options))


def _write_matmul(writer: _Writer, kernel: KernelNode, matmul: MatMul) -> None:
    inputs = [writer.read(source) for source in kernel.inputs]
    result = writer.op("BATCH_MATMUL", inputs, matmul.output_shape, schema.BatchMatMulOptionsT())
    writer.keep(kernel.nodes[-1], result)


def _write_attention(writer: _Writer, kernel: KernelNode, attention: Attention) -> None:
    """Written out, as converters do: product, scale, mask, softmax, product."""
    query, key, value, *mask = (writer.read(source) for source in kernel.inputs)
    shape = (attention.batch, attention.heads, attention.query_length, attention.key_length)
    scale = writer.constant(1.0 / sqrt(attention.head_dim))
    scores = writer.op("BATCH_MATMUL", (query, key), shape, schema.BatchMatMulOptionsT(adjY=True))
    scores = writer.op("MUL", (scores, scale), shape, schema.MulOptionsT())
    if mask:
        scores = writer.op("ADD", (scores, *mask), shape, schema.AddOptionsT())
    weights = writer.op("SOFTMAX", (scores,), shape, schema.SoftmaxOptionsT(beta=1.0))
    result = writer.op("BATCH_MATMUL", (weights, value), attention.output_shape, schema.BatchMatMulOptionsT())
    writer.keep(kernel.nodes[-1], result)


def _write_activation(writer: _Writer, kernel: KernelNode, activation: Activation) -> None:
    (source,) = kernel.inputs
    last = writer.is_image(source)
    x = writer.read(source, last)
    shape = tuple(activation.shape[axis] for axis in stored_axes(len(activation.shape), last))
    if (composed := _COMPOSED_ACTIVATIONS.get(activation.function)) is not None:
        result = composed(writer, x, shape)
    elif activation.function in _ACTIVATIONS:
        name, options = _ACTIVATIONS[activation.function]
        result = writer.op(name, (x,), shape, options)
    else:
        raise _no_kernel(activation)
    writer.keep(kernel.nodes[-1], result, last)


def _write_silu(writer: _Writer, x: int, shape: Shape) -> int:
    return writer.op("MUL", (x, writer.op("LOGISTIC", (x,), shape)), shape, schema.MulOptionsT())


def _write_hardsigmoid(writer: _Writer, x: int, shape: Shape) -> int:
    """relu6(x + 3) / 6, as Keras writes it."""
    x = writer.op("ADD", (x, writer.constant(3.0)), shape, schema.AddOptionsT())
    x = writer.op("RELU6", (x,), shape)
    return writer.op("MUL", (x, writer.constant(1.0 / 6.0)), shape, schema.MulOptionsT())


def _write_reciprocal(writer: _Writer, x: int, shape: Shape) -> int:
    return writer.op("DIV", (writer.constant(1.0), x), shape, schema.DivOptionsT())


def _write_softmax(writer: _Writer, kernel: KernelNode, softmax: Softmax) -> None:
    """Over the last axis that is stored: of channels in NHWC, other axes have to go there and back."""
    rank, last = len(softmax.shape), softmax.axis == 1 and len(softmax.shape) == 4
    x, shape = writer.read(kernel.inputs[0], last), softmax.shape
    order = list(stored_axes(rank, last))
    options = schema.SoftmaxOptionsT(beta=1.0)
    if last or softmax.axis == -1:
        stored = tuple(shape[axis] for axis in order)
        writer.keep(kernel.nodes[-1], writer.op("SOFTMAX", (x,), stored, options), last)
        return
    order[softmax.axis], order[-1] = order[-1], order[softmax.axis]
    swap = writer.constant(order, np.int32)
    stored = tuple(shape[axis] for axis in order)
    x = writer.op("SOFTMAX", (writer.op("TRANSPOSE", (x, swap), stored),), stored, options)
    writer.keep(kernel.nodes[-1], writer.op("TRANSPOSE", (x, swap), shape))


def _write_normalization(writer: _Writer, kernel: KernelNode, normalization: Normalization) -> None:
    if normalization.method == "batch_norm":
        _write_batch_norm(writer, kernel, normalization)
    elif normalization.method == "layer_norm" and normalization.affine_params in (0, 2 * normalization.shape[-1]):
        _write_layer_norm(writer, kernel, normalization)
    else:
        raise _no_kernel(normalization)


def _write_batch_norm(writer: _Writer, kernel: KernelNode, norm: Normalization) -> None:
    """One that no layer takes in: a factor and a summand of each channel."""
    last = len(norm.shape) == 4
    scale, shift = _scale_and_shift(norm, kernel.nodes[0])
    per_channel = (-1,) if last else (-1, *[1] * (len(norm.shape) - 2))
    shape = _nhwc(norm.shape) if last else norm.shape
    x = writer.read(kernel.inputs[0], last)
    x = writer.op("MUL", (x, writer.constant(scale.reshape(per_channel))), shape, schema.MulOptionsT())
    x = writer.op("ADD", (x, writer.constant(shift.reshape(per_channel))), shape, schema.AddOptionsT())
    writer.keep(kernel.nodes[-1], x, last)


def _write_layer_norm(writer: _Writer, kernel: KernelNode, norm: Normalization) -> None:
    """Written out, as converters do: (x - mean) * rsqrt(mean of squares + epsilon) * weight + bias."""
    shape, one = norm.shape, (*norm.shape[:-1], 1)
    axis, keep = writer.constant((len(shape) - 1,), np.int32), schema.ReducerOptionsT(keepDims=True)
    x = writer.read(kernel.inputs[0])
    centred = writer.op("SUB", (x, writer.op("MEAN", (x, axis), one, keep)), shape, schema.SubOptionsT())
    squares = writer.op("SQUARE", (centred,), shape)
    variance = writer.op("MEAN", (squares, axis), one, keep)
    variance = writer.op("ADD", (variance, writer.constant(_EPSILON)), one, schema.AddOptionsT())
    x = writer.op("MUL", (centred, writer.op("RSQRT", (variance,), one)), shape, schema.MulOptionsT())
    if weights := weights_of(norm, kernel.nodes[0]):
        x = writer.op("MUL", (x, writer.constant(weights["weight"])), shape, schema.MulOptionsT())
        x = writer.op("ADD", (x, writer.constant(weights["bias"])), shape, schema.AddOptionsT())
    writer.keep(kernel.nodes[-1], x)


def _write_pool(writer: _Writer, kernel: KernelNode, pool: Pool2d) -> None:
    """torch's average counts its zero padding, which TensorFlow Lite's does not: padding is written out there."""
    is_average = pool.method == "avg"
    if pool.dilation != (1, 1):
        raise _no_kernel(pool, " with dilation")
    (height, width), (out_height, out_width) = pool.shape[2:], pool.output_shape[2:]
    window = _window(
        (height, width), (out_height, out_width), pool.kernel, pool.stride, pool.padding,
        may_be_same=not is_average or not any(pool.padding),
    )  # fmt: skip
    if is_average and any(after > pad for (_, after), pad in zip(window.pad, pool.padding)):
        raise _no_kernel(pool, " that divides by less at the border")
    x = writer.read(kernel.inputs[0], channels_last=True)
    x = _padded(writer, x, pool.shape, window, 0.0 if is_average else -np.inf)
    options = _pool_options(window.mode, pool.kernel, pool.stride)
    options.fusedActivationFunction = _fused_activation(kernel)
    name = "AVERAGE_POOL_2D" if is_average else "MAX_POOL_2D"
    writer.keep(kernel.nodes[-1], writer.op(name, (x,), _nhwc(pool.output_shape), options), True)


def _write_adaptive_pool(writer: _Writer, kernel: KernelNode, pool: AdaptivePool2d) -> None:
    """Global pooling is a reduction with kept axes; others are pools, where all their windows are equal."""
    x, shape, size = writer.read(kernel.inputs[0], channels_last=True), _nhwc(pool.output_shape), pool.shape[2:]
    is_average = pool.method == "avg"
    if pool.size == (1, 1):
        axes, options = writer.constant((1, 2), np.int32), schema.ReducerOptionsT(keepDims=True)
        result = writer.op("MEAN" if is_average else "REDUCE_MAX", (x, axes), shape, options)
    elif size[0] % pool.size[0] or size[1] % pool.size[1]:
        raise _no_kernel(pool, " with windows of several sizes")
    else:
        step = (size[0] // pool.size[0], size[1] // pool.size[1])
        options = _pool_options(schema.Padding.VALID, step, step)
        result = writer.op("AVERAGE_POOL_2D" if is_average else "MAX_POOL_2D", (x,), shape, options)
    writer.keep(kernel.nodes[-1], result, True)


def _pool_options(mode: int, kernel: Pair, stride: Pair) -> Any:
    return schema.Pool2DOptionsT(
        padding=mode, filterHeight=kernel[0], filterWidth=kernel[1], strideH=stride[0], strideW=stride[1]
    )


def _write_reduce(writer: _Writer, kernel: KernelNode, reduce: Reduce) -> None:
    names = {"mean": "MEAN", "sum": "SUM", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}
    if reduce.method not in names:
        raise _no_kernel(reduce)
    (source,) = kernel.inputs
    rank, last = len(reduce.shape), writer.is_image(source)
    kept = [axis for axis in stored_axes(rank, last) if axis not in reduce.axes]
    last = last and (reduce.keepdim or kept == sorted(kept))  # else the axes that remain would be in another order
    order = stored_axes(rank, last)
    axes = writer.constant(sorted(order.index(axis) for axis in reduce.axes), np.int32)
    shape = reduce.output_shape
    if reduce.keepdim:
        shape = tuple(shape[axis] for axis in order)
    options = schema.ReducerOptionsT(keepDims=reduce.keepdim)
    result = writer.op(names[reduce.method], (writer.read(source, last), axes), shape, options)
    writer.keep(kernel.nodes[-1], result, last)


def _write_resize(writer: _Writer, kernel: KernelNode, resize: Resize) -> None:
    """torch's bilinear samples at the centres of pixels, its nearest does not."""
    if resize.method == "bilinear":
        name, options = "RESIZE_BILINEAR", schema.ResizeBilinearOptionsT(halfPixelCenters=True)
    elif resize.method == "nearest":
        name, options = "RESIZE_NEAREST_NEIGHBOR", schema.ResizeNearestNeighborOptionsT()
    else:
        raise _no_kernel(resize)
    inputs = (writer.read(kernel.inputs[0], channels_last=True), writer.constant(resize.size, np.int32))
    writer.keep(kernel.nodes[-1], writer.op(name, inputs, _nhwc(resize.output_shape), options), True)


def _write_elementwise(writer: _Writer, kernel: KernelNode, elementwise: Elementwise) -> None:
    if elementwise.function not in _ELEMENTWISE or len(elementwise.shapes) > 2:
        raise _no_kernel(elementwise)
    name, options_class = _ELEMENTWISE[elementwise.function]
    last = len(elementwise.output_shape) == 4 and any(writer.is_image(source) for source in kernel.inputs)
    operands = []
    for source, shape in zip(kernel.inputs, elementwise.shapes):
        if not last or len(shape) == 4:
            operands.append(writer.read(source, last))
            continue
        whole = (*[1] * (4 - len(shape)), *shape)  # its axes are aligned with the last ones of NCHW
        if isinstance(writer.graph.nodes[source].operator, Constant):
            value = given_value(writer.graph, source).reshape(whole)
            operands.append(writer.constant(value.transpose(stored_axes(4, channels_last=True))))
        else:
            x = writer.reshape(writer.read(source), whole)
            operands.append(writer.change_layout(x, whole, channels_last=True))
    if len(operands) == 1:
        operands.append(writer.constant(1.5))
    shape = elementwise.output_shape
    stored = tuple(shape[axis] for axis in stored_axes(len(shape), last))
    writer.keep(kernel.nodes[-1], writer.op(name, operands, stored, options_class()), last)


def _write_concat(writer: _Writer, kernel: KernelNode, concat: Concat) -> None:
    last = any(writer.is_image(source) for source in kernel.inputs)
    axes = stored_axes(len(concat.output_shape), last)
    inputs = [writer.read(source, last) for source in kernel.inputs]
    options = schema.ConcatenationOptionsT(axis=axes.index(concat.axis))
    shape = tuple(concat.output_shape[axis] for axis in axes)
    writer.keep(kernel.nodes[-1], writer.op("CONCATENATION", inputs, shape, options), last)


def _write_view(writer: _Writer, index: int, view: View) -> None:
    """The order of elements is that of NCHW. A vector of channels is the same in both layouts."""
    steps = view.all_steps
    if steps is None:
        raise _no_kernel(view, " as its record does not say which part it keeps")
    (source,) = writer.graph.nodes[index].inputs
    if view.steps:
        _write_steps(writer, index, source, view, steps)
        return
    is_vector = writer.is_image(source) and (view.shape[1] == 1 or prod(view.shape[2:]) == 1)
    x = writer.read(source, channels_last=is_vector)
    to_image = len(view.to) == 4 and writer.image_next(index) and (view.to[1] == 1 or prod(view.to[2:]) == 1)
    writer.keep(index, writer.reshape(x, _nhwc(view.to) if to_image else view.to), to_image)


def _write_copy(writer: _Writer, kernel: KernelNode, copy: Copy) -> None:
    if not copy.steps:
        raise _no_kernel(copy, " as its record does not say what is done")
    _write_steps(writer, kernel.nodes[-1], kernel.inputs[0], copy, copy.steps)


def _write_steps(writer: _Writer, index: int, source: int, operator: View | Copy, steps: Steps) -> None:
    """Axis by axis in the order in which the tensor is stored; a transpose may leave it in either layout."""
    last = writer.is_image(source)
    x, shape = writer.read(source, last), operator.shape
    num_before = len(writer.records)
    for number, step in enumerate(steps):
        name, *arguments = step
        after = shape_after(shape, (step,))
        if name == "reshape" and last:
            x, last = writer.change_layout(x, shape, channels_last=False), False
        order = stored_axes(len(shape), last)
        if name == "transpose":
            last = number == len(steps) - 1 and len(after) == 4 and writer.image_next(index)
            axes = [order.index(arguments[0][axis]) for axis in stored_axes(len(after), last)]
            stored = tuple(after[axis] for axis in stored_axes(len(after), last))
            if axes != sorted(axes):
                x = writer.op("TRANSPOSE", (x, writer.constant(axes, np.int32)), stored)
        elif name == "reshape":
            x = writer.reshape(x, after)
        elif name == "flip":
            axes = [order.index(axis) for axis in arguments[0]]
            stored = tuple(after[axis] for axis in order)
            x = writer.op("REVERSE_V2", (x, writer.constant(axes, np.int32)), stored, schema.ReverseV2OptionsT())
        else:
            numbers = [tuple(each[axis] for axis in order) for each in arguments]
            x = _STEPS[name](writer, x, tuple(shape[axis] for axis in order), *numbers)
        shape = after
    if len(writer.records) == num_before:  # the data lie already as they shall
        x = writer.reshape(x, tuple(shape[axis] for axis in stored_axes(len(shape), last)))
    writer.keep(index, x, last)


def _slice_step(writer: _Writer, x: int, shape: Shape, starts: Shape, stops: Shape, every: Shape) -> int:
    to = shape_after(shape, (("slice", starts, stops, every),))
    if max(every) > 1:
        bounds = [writer.constant(each, np.int32) for each in (starts, stops, every)]
        return writer.op("STRIDED_SLICE", (x, *bounds), to, schema.StridedSliceOptionsT())
    inputs = (x, writer.constant(starts, np.int32), writer.constant(to, np.int32))
    return writer.op("SLICE", inputs, to, schema.SliceOptionsT())


def _pad_step(writer: _Writer, x: int, shape: Shape, before: Shape, after: Shape) -> int:
    to = shape_after(shape, (("pad", before, after),))
    return writer.op("PAD", (x, writer.constant(list(zip(before, after)), np.int32)), to, schema.PadOptionsT())


def _expand_step(writer: _Writer, x: int, shape: Shape, to: Shape) -> int:
    return _repeat_step(writer, x, shape, tuple(new // size for size, new in zip(shape, to)))


def _repeat_step(writer: _Writer, x: int, shape: Shape, counts: Shape) -> int:
    to = shape_after(shape, (("repeat", counts),))
    return writer.op("TILE", (x, writer.constant(counts, np.int32)), to, schema.TileOptionsT())


def _roll_step(writer: _Writer, x: int, shape: Shape, shifts: Shape) -> int:
    """The end of each axis before its begin."""
    zeros, ones = (0,) * len(shape), (1,) * len(shape)
    for axis, shift in enumerate(shifts):
        if shift:
            cut = shape[axis] - shift
            end = _slice_step(writer, x, shape, _with(zeros, axis, cut), shape, ones)
            begin = _slice_step(writer, x, shape, zeros, _with(shape, axis, cut), ones)
            x = writer.op("CONCATENATION", (end, begin), shape, schema.ConcatenationOptionsT(axis=axis))
    return x


def _with(numbers: Shape, axis: int, number: int) -> Shape:
    return *numbers[:axis], number, *numbers[axis + 1 :]


_STEPS: dict[str, Callable[..., int]] = {
    "slice": _slice_step,
    "pad": _pad_step,
    "expand": _expand_step,
    "repeat": _repeat_step,
    "roll": _roll_step,
}


def _nhwc(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1])


_ACTIVATIONS: dict[str, tuple[str, Any]] = {
    "relu": ("RELU", None),
    "relu6": ("RELU6", None),
    "hardtanh": ("RELU_N1_TO_1", None),
    "hardswish": ("HARD_SWISH", None),
    "sigmoid": ("LOGISTIC", None),
    "tanh": ("TANH", None),
    "gelu": ("GELU", schema.GeluOptionsT()),
    "elu": ("ELU", None),
    "celu": ("ELU", None),  # the same for torch's alpha of 1
    "leaky_relu": ("LEAKY_RELU", schema.LeakyReluOptionsT(alpha=0.01)),
    "abs": ("ABS", None),
    "neg": ("NEG", None),
    "exp": ("EXP", None),
    "sin": ("SIN", None),
    "cos": ("COS", None),
    "square": ("SQUARE", None),
    "round": ("ROUND", None),
    "sign": ("SIGN", None),
}

_COMPOSED_ACTIVATIONS: dict[str, Callable[[_Writer, int, Shape], int]] = {
    "silu": _write_silu,
    "hardsigmoid": _write_hardsigmoid,
    "reciprocal": _write_reciprocal,
}

_ELEMENTWISE: dict[str, tuple[str, Any]] = {
    "add": ("ADD", schema.AddOptionsT),
    "sub": ("SUB", schema.SubOptionsT),
    "mul": ("MUL", schema.MulOptionsT),
    "div": ("DIV", schema.DivOptionsT),
    "maximum": ("MAXIMUM", schema.MaximumMinimumOptionsT),
    "minimum": ("MINIMUM", schema.MaximumMinimumOptionsT),
}

_WRITERS: dict[type[Operator], Callable[[_Writer, KernelNode, Any], None]] = {
    Conv2d: _write_conv,
    ConvTranspose2d: _write_conv_transpose,
    Linear: _write_linear,
    MatMul: _write_matmul,
    Attention: _write_attention,
    Activation: _write_activation,
    Softmax: _write_softmax,
    Normalization: _write_normalization,
    Pool2d: _write_pool,
    AdaptivePool2d: _write_adaptive_pool,
    Reduce: _write_reduce,
    Resize: _write_resize,
    Elementwise: _write_elementwise,
    Concat: _write_concat,
    Copy: _write_copy,
}
