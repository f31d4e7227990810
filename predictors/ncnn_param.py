"""Networks as ncnn's text graphs (.param), read into a `Graph`.

Every layer becomes the operators that it runs; one that is not known stops the reading with its name. Blobs have no
batch axis, so a batch of 1 is put before them. Activations that ncnn's optimiser has written into a layer become nodes
again: the runtime's rules say what fuses. Layers that only hand blobs on (Split, Noop, Dropout) launch nothing.

Source: github.com/Tencent/ncnn, docs/developer-guide/{operators,param-and-model-file-structure}.md; the meaning of
parameters in src/layer/*.cpp, `load_param`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from predictors.graph import Graph, GraphBuilder
from predictors.operators import (
    AdaptivePool2d,
    Attention,
    Constant,
    ConvTranspose2d,
    Copy,
    Normalization,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    UnknownOperatorError,
    View,
    window_output,
)

_MAGIC = "7767517"
_ARRAY = -23300
_REST = -233  # "what remains" in Slice, "to the end" in Crop, "pad to keep the size" in convolutions


def read_ncnn_param(path: str | Path, input_shapes: Mapping[str, Shape] | None = None) -> Graph:
    """The network of a .param file; see `ncnn_graph`."""
    path = Path(path)
    return ncnn_graph(path.read_text(encoding="utf-8"), input_shapes, name=path.stem)


def ncnn_graph(text: str, input_shapes: Mapping[str, Shape] | None = None, name: str = "ncnn") -> Graph:
    """The network of a .param file's text.

    Args:
        text: the whole file.
        input_shapes: (channels, height, width) by the name of the Input layer, for those that do not say it.
        name: of the network, for errors and reports.

    Raises:
        UnknownOperatorError: a layer that has no operators here.
        ValueError: not such a file, an input without a shape, a blob that no layer before wrote.
    """
    reader = _Reader(GraphBuilder(), dict(input_shapes or {}), name)
    layers = _layers(text, name)
    read = {blob for layer in layers for blob in layer.inputs if layer.type != "Noop"}
    for layer in layers:
        reader.add(layer)
    outputs = [
        index
        for layer in layers
        for blob in layer.outputs
        if blob not in read and layer.type != "Noop"
        for index in reader.blobs[blob]
    ]
    return reader.builder.graph(*dict.fromkeys(outputs), name=name)


def is_quantised(text: str) -> bool:
    """Whether any convolution or inner product of a .param file computes in int8 (its parameter 8 is not 0)."""
    weighted = {"Convolution", "ConvolutionDepthWise", "InnerProduct"}
    return any(layer.type in weighted and layer.whole(8) for layer in _layers(text, "ncnn"))


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A line of the file."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, tuple[float, ...]]

    def whole(self, key: int, default: int = 0) -> int:
        return int(self.params[key][0]) if key in self.params else default

    def number(self, key: int, default: float = 0.0) -> float:
        return self.params[key][0] if key in self.params else default

    def ints(self, key: int) -> tuple[int, ...]:
        """An array, which files write under -23300 - key."""
        return tuple(int(value) for value in self.params.get(_ARRAY - key, ()))

    def pair(self, width: int, height: int, default: int = 0) -> tuple[int, int]:
        """(height, width) of parameters of which that of the height may be left out."""
        across = self.whole(width, default)
        return self.whole(height, across), across


def _layers(text: str, name: str) -> list[_Layer]:
    lines = text.split("\n")
    if lines[0].strip() != _MAGIC:
        raise ValueError(f"{name}: not an ncnn .param file: its first line is {lines[0][:40]!r}, not {_MAGIC!r}")
    found = []
    for number, line in enumerate(lines[2:], start=3):
        words = line.split()
        if not words:
            continue
        try:
            num_inputs, num_outputs = int(words[2]), int(words[3])
            ends = 4 + num_inputs, 4 + num_inputs + num_outputs
            params = {}
            for word in words[ends[1] :]:
                key, _, value = word.partition("=")
                values = tuple(float(each) for each in value.split(","))
                params[int(key)] = values[1:] if int(key) <= _ARRAY else values
        except (ValueError, IndexError):
            raise ValueError(
                f"{name}, line {number}: not a layer of an ncnn .param file: {line.strip()[:80]!r}"
            ) from None
        blobs = tuple(words[4 : ends[0]]), tuple(words[ends[0] : ends[1]])
        if len(blobs[0]) != num_inputs or len(blobs[1]) != num_outputs:
            raise ValueError(f"{name}, line {number}: {words[1]!r} names fewer blobs than it counts")
        found.append(_Layer(type=words[0], name=words[1], inputs=blobs[0], outputs=blobs[1], params=params))
    if not found:
        raise ValueError(f"{name}: the .param file has no layers")
    return found


class _Reader:
    """Nodes so far, and which nodes hold each blob: one, but for detections, which are several tensors."""

    def __init__(self, builder: GraphBuilder, input_shapes: dict[str, Shape], name: str) -> None:
        self.builder = builder
        self.blobs: dict[str, tuple[int, ...]] = {}
        self._input_shapes = input_shapes
        self._network = name

    def add(self, layer: _Layer) -> None:
        where = f"{self._network}: layer {layer.name!r}"
        write = _WRITERS.get(layer.type)
        if write is None:
            raise UnknownOperatorError(f"{where} is of the unknown type {layer.type!r}; known are {sorted(_WRITERS)}")
        if missing := [blob for blob in layer.inputs if blob not in self.blobs]:
            raise ValueError(f"{where} reads blob {missing[0]!r}, which no layer before it writes")
        try:
            written = write(self, layer, [self.blobs[blob][0] for blob in layer.inputs])
        except ValueError as error:
            raise ValueError(f"{where} ({layer.type}): {error}") from None
        if len(layer.outputs) == 1:
            self.blobs[layer.outputs[0]] = tuple(written)
        else:
            self.blobs |= {blob: (index,) for blob, index in zip(layer.outputs, written, strict=True)}

    # ---- what launches nothing

    def input(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self._input_shapes.get(layer.name) or tuple(layer.whole(key) for key in (2, 1, 0) if layer.whole(key))
        if not shape:
            raise ValueError(
                f"the file does not say its size; give input_shapes={{{layer.name!r}: (channels, height, width)}}"
            )
        return [self.builder.input((1, *shape), name=layer.name)]

    def constant(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = tuple(layer.whole(key) for key in (2, 1, 0) if layer.whole(key))
        return [self.builder.add(Constant(shape=(1, *shape), learned_params=prod(shape)), name=layer.name)]

    def prior_box(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        """Boxes depend on the shapes of the inputs alone."""
        height, width = self.builder.shape(x[0])[2:]
        sizes, largest, ratios = layer.ints(0), layer.ints(1), layer.ints(2)
        boxes = len(sizes) * (1 + len(ratios) * (2 if layer.whole(7, 1) else 1)) + len(largest)
        return [self.builder.add(Constant(shape=(1, 2, 4 * height * width * boxes)), name=layer.name)]

    def hand_on(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        return list(x[:1]) * max(len(layer.outputs), 1)

    def _view(self, x: int, to: Shape) -> int:
        shape = self.builder.shape(x)
        return x if shape == to else self.builder.add(View(shape=shape, to=to), x)

    def flatten(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        return [self._view(x[0], (1, prod(self.builder.shape(x[0]))))]

    def reshape(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        axes = [layer.whole(key, _REST) for key in (2, 11, 1, 0)]
        kept = [size for size in axes if size != _REST]
        rest = prod(size for size in kept if size > 0)
        return [self._view(x[0], (1, *(prod(shape) // rest if size == -1 else size for size in kept)))]

    # ---- convolutions and products

    def convolution(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        kernel, dilation, stride = layer.pair(1, 11), layer.pair(2, 12, 1), layer.pair(3, 13, 1)
        if len(shape) == 2:  # a vector: ncnn takes its elements for channels
            x = [self._view(x[0], (*shape, 1, 1))]
            shape = self.builder.shape(x[0])
        padding = self._padding(layer, shape[2:], kernel, stride, dilation)
        index = self.builder.conv2d(
            x[0], layer.whole(0), kernel, stride, padding, dilation, layer.whole(7, 1), bool(layer.whole(5)), layer.name
        )
        return [self._activated(layer, index)]

    def _padding(
        self, layer: _Layer, size: Shape, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> tuple[int, int]:
        """Rows and columns on both sides that give the output its size, wherever the file puts them."""
        left = layer.whole(4)
        top = layer.whole(14, left)
        right, bottom = layer.whole(15, left), layer.whole(16, top)
        found = []
        for axis, before, after in ((0, top, bottom), (1, left, right)):
            span = dilation[axis] * (kernel[axis] - 1) + 1
            if left < 0:
                total = max((-(-size[axis] // stride[axis]) - 1) * stride[axis] + span - size[axis], 0)
            else:
                total = before + after
            wanted = (size[axis] + total - span) // stride[axis] + 1
            sides = [
                each
                for each in (-(-total // 2), total // 2, max(before, after), min(before, after))
                if each >= 0 and window_output(size[axis], kernel[axis], stride[axis], each, dilation[axis]) == wanted
            ]
            if not sides:
                raise ValueError(f"no padding on both sides gives the {wanted} rows of its one-sided padding")
            found.append(sides[0])
        return found[0], found[1]

    def deconvolution(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        batch, channels, height, width = self.builder.shape(x[0])
        operator = ConvTranspose2d(
            batch=batch, in_channels=channels, out_channels=layer.whole(0), height=height, width=width,
            kernel=layer.pair(1, 11), stride=layer.pair(3, 13, 1), padding=layer.pair(4, 14),
            dilation=layer.pair(2, 12, 1), groups=layer.whole(7, 1), bias=bool(layer.whole(5)),
        )  # fmt: skip
        return [self._activated(layer, self.builder.add(operator, x[0], name=layer.name))]

    def inner_product(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        in_features = layer.whole(2) // layer.whole(0)
        rows = self._view(x[0], (1, prod(shape)) if prod(shape) == in_features else shape)
        index = self.builder.linear(rows, layer.whole(0), bool(layer.whole(1)), name=layer.name)
        return [self._activated(layer, index)]

    def gemm(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        if layer.whole(2) or not layer.whole(3) or layer.whole(4) or not layer.whole(5):
            raise ValueError("only products of a computed tensor with stored weights, that are transposed, are known")
        return [self.builder.linear(x[0], layer.whole(8), bool(layer.whole(6)), name=layer.name)]

    def attention(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        """Three projections, attention on their heads, and the projection of what it finds."""
        width, heads = layer.whole(0), layer.whole(1)
        query, key, value = (x[0], x[min(1, len(x) - 1)], x[len(x) - 1])
        parts = []
        for source in (query, key, value):
            length = self.builder.shape(source)[1]
            projected = self.builder.linear(source, width, name=layer.name)
            parts.append(self._view(projected, (1, heads, length, width // heads)))
        operator = Attention(
            heads=heads, query_length=self.builder.shape(query)[1], key_length=self.builder.shape(key)[1],
            head_dim=width // heads, value_dim=width // heads,
        )  # fmt: skip
        found = self.builder.add(operator, *parts, name=layer.name)
        joined = self._view(found, (1, operator.query_length, width))
        return [self.builder.linear(joined, width, name=layer.name)]

    def _activated(self, layer: _Layer, index: int) -> int:
        """What the file has fused into the layer becomes a node again."""
        if not (code := layer.whole(9)):
            return index
        if code not in _ACTIVATION_TYPES:
            raise ValueError(f"unknown activation_type {code}; known are {sorted(_ACTIVATION_TYPES)}")
        return self.builder.activation(index, _ACTIVATION_TYPES[code], name=f"{layer.name}_activation")

    # ---- one tensor

    def activation(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        function = _ACTIVATIONS[layer.type]
        if layer.type == "ReLU" and layer.number(0):
            function = "leaky_relu"
        return [self.builder.activation(x[0], function, name=layer.name)]

    def softmax(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        return [self.builder.add(Softmax(shape=self.builder.shape(x[0])), x[0], name=layer.name)]

    def normalization(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        method, params = {
            "BatchNorm": ("batch_norm", 2 * layer.whole(0)),
            "LayerNorm": ("layer_norm", 2 * layer.whole(0) * layer.whole(2, 1)),
            "LRN": ("local_response_norm", 0),
        }[layer.type]
        operator = Normalization(shape=shape, method=method, affine_params=params)
        return [self.builder.add(operator, x[0], name=layer.name)]

    def pooling(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        method = ("max", "avg")[layer.whole(0)]
        if layer.whole(4):
            return [self.builder.add(AdaptivePool2d(shape=shape, method=method), x[0], name=layer.name)]
        if layer.whole(7):
            size = layer.pair(8, 18)
            return [self.builder.add(AdaptivePool2d(shape=shape, method=method, size=size), x[0], name=layer.name)]
        kernel, stride = layer.pair(1, 11), layer.pair(2, 12, 1)
        left, mode = layer.whole(3), layer.whole(5)
        top, right = layer.whole(13, left), layer.whole(14, left)
        bottom = layer.whole(15, top)
        wanted = tuple(
            window_output(length + before + after, window, step, 0, ceil_mode=mode == 0)
            if mode < 2
            else -(-length // step)
            for length, window, step, before, after in zip(shape[2:], kernel, stride, (top, left), (bottom, right))
        )
        for padding, ceil_mode in (((top, left), mode == 0), ((bottom, right), False), ((top, left), True)):
            if any(2 * pad > window for pad, window in zip(padding, kernel)):
                continue
            operator = Pool2d(
                shape=shape, method=method, kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode
            )
            if operator.output_shape[2:] == wanted:
                return [self.builder.add(operator, x[0], name=layer.name)]
        raise ValueError(f"no pooling with equal padding on both sides gives its {wanted}")

    def reduction(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        axes = tuple(axis + 1 for axis in layer.ints(3)) if not layer.whole(1, 1) else tuple(range(1, len(shape)))
        method = _REDUCTIONS.get(layer.whole(0))
        if method is None:
            raise ValueError(f"unknown operation {layer.whole(0)}; known are {_REDUCTIONS}")
        operator = Reduce(shape=shape, method=method, axes=axes, keepdim=bool(layer.whole(4)))
        return [self.builder.add(operator, x[0], name=layer.name)]

    def interp(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        height, width = (
            layer.whole(3) or int(shape[2] * layer.number(1)),
            layer.whole(4) or int(shape[3] * layer.number(2)),
        )
        if layer.whole(0) not in _RESIZES:
            raise ValueError(f"unknown resize_type {layer.whole(0)}; known are {_RESIZES}")
        operator = Resize(shape=shape, size=(height, width), method=_RESIZES[layer.whole(0)])
        return [self.builder.add(operator, x[0], name=layer.name)]

    def permute(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        order = _ORDERS[len(shape) - 1][layer.whole(0)] if len(shape) in (3, 4) else None
        if order is None:
            raise ValueError(f"cannot reorder the axes of {shape}")
        return [self._copy(x[0], (1, *(shape[1 + axis] for axis in order)), "transpose", layer.name)]

    def shuffle_channel(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        return [self._copy(x[0], self.builder.shape(x[0]), "shuffle", layer.name)]

    def padding(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        _, channels, height, width = self.builder.shape(x[0])
        to = (
            1,
            channels + layer.whole(7) + layer.whole(8),
            height + layer.whole(0) + layer.whole(1),
            width + layer.whole(2) + layer.whole(3),
        )
        return [self._copy(x[0], to, "pad", layer.name)]

    def slice(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = self.builder.shape(x[0])
        axis = 1 + layer.whole(1) % (len(shape) - 1)
        wanted = list(layer.ints(0))
        left = shape[axis]
        written = []
        for position, size in enumerate(wanted):
            length = left // (len(wanted) - position) if size == _REST else size
            left -= length
            written.append(self._copy(x[0], (*shape[:axis], length, *shape[axis + 1 :]), "slice", layer.name))
        return written

    def crop(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        shape = list(self.builder.shape(x[0]))
        if layer.ints(9):
            axes = [1 + axis % (len(shape) - 1) for axis in layer.ints(11)] or range(1, len(shape))
            for axis, start, end in zip(axes, layer.ints(9), layer.ints(10)):
                stop = shape[axis] if end == _REST else min(end if end >= 0 else shape[axis] + end, shape[axis])
                shape[axis] = stop - start
        else:
            for axis, start, size in ((3, 0, 3), (2, 1, 4), (1, 2, 5)):
                if axis < len(shape):
                    given = layer.whole(size)
                    shape[axis] = shape[axis] - layer.whole(start) if given in (0, _REST) else given
        return [self._copy(x[0], tuple(shape), "slice", layer.name)]

    def _copy(self, x: int, to: Shape, method: str, name: str) -> int:
        return self.builder.add(Copy(shape=self.builder.shape(x), to=to, method=method), x, name=name)

    # ---- several tensors

    def elementwise(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        names = _BINARY if layer.type == "BinaryOp" else _ELTWISE
        if layer.whole(0) not in names:
            raise ValueError(f"unknown op_type {layer.whole(0)}; known are {names}")
        axes = max(len(self.builder.shape(index)) for index in x)
        operands = [self._spread(index, axes) for index in x]
        function = names[layer.whole(0)]
        if len(operands) == 1 or layer.type == "BinaryOp":
            return [self.builder.elementwise(function, *operands, name=layer.name)]
        total = operands[0]
        for operand in operands[1:]:
            total = self.builder.elementwise(function, total, operand, name=layer.name)
        return [total]

    def _spread(self, x: int, num_axes: int) -> int:
        """A vector is one number a channel for a tensor with more axes."""
        shape = self.builder.shape(x)
        return self._view(x, (*shape, *(1,) * (num_axes - len(shape)))) if len(shape) == 2 else x

    def concat(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        axes = len(self.builder.shape(x[0]))
        return [self.builder.concat(*x, axis=1 + layer.whole(0) % (axes - 1), name=layer.name)]

    def detection(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        """Boxes from offsets and priors, and of each candidate the classes that count."""
        offsets, scores, priors = x[:3]
        shape = self.builder.shape(offsets)
        boxes = self._copy(priors, shape, "slice", layer.name)
        decoded = self.builder.elementwise("decode_boxes", offsets, boxes, name=layer.name)
        return [decoded, self._suppressed(scores, layer)]

    def yolo(self, layer: _Layer, x: Sequence[int]) -> list[int]:
        return [self._suppressed(index, layer) for index in x]

    def _suppressed(self, x: int, layer: _Layer) -> int:
        shape = self.builder.shape(x)
        operator = Reduce(shape=shape, method="non_maximum_suppression", axes=(1,), keepdim=True)
        return self.builder.add(operator, x, name=layer.name)


_ACTIVATION_TYPES = {1: "relu", 2: "leaky_relu", 3: "relu6", 4: "sigmoid", 5: "mish", 6: "hardswish"}
_ACTIVATIONS = {
    "ReLU": "relu", "PReLU": "prelu", "Clip": "relu6", "Sigmoid": "sigmoid", "Swish": "silu", "Mish": "mish",
    "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid", "GELU": "gelu", "TanH": "tanh", "ELU": "elu",
}  # fmt: skip
_BINARY = {0: "add", 1: "sub", 2: "mul", 3: "div", 4: "maximum", 5: "minimum", 6: "pow", 7: "sub", 8: "div"}
_ELTWISE = {0: "mul", 1: "add", 2: "maximum"}
_REDUCTIONS = {0: "sum", 2: "sum", 3: "mean", 4: "max", 5: "min", 6: "prod"}
_RESIZES = {1: "nearest", 2: "bilinear", 3: "bicubic"}
_ORDERS: dict[int, dict[int, tuple[int, ...]]] = {
    2: {0: (0, 1), 1: (1, 0)},
    3: {0: (0, 1, 2), 1: (0, 2, 1), 2: (1, 0, 2), 3: (1, 2, 0), 4: (2, 0, 1), 5: (2, 1, 0)},
}

_WRITERS: dict[str, Callable[[_Reader, _Layer, Sequence[int]], list[int]]] = {
    "Input": _Reader.input,
    "MemoryData": _Reader.constant,
    "PriorBox": _Reader.prior_box,
    **dict.fromkeys(("Split", "Noop", "Dropout"), _Reader.hand_on),
    "Flatten": _Reader.flatten,
    "Reshape": _Reader.reshape,
    **dict.fromkeys(("Convolution", "ConvolutionDepthWise"), _Reader.convolution),
    **dict.fromkeys(("Deconvolution", "DeconvolutionDepthWise"), _Reader.deconvolution),
    "InnerProduct": _Reader.inner_product,
    "Gemm": _Reader.gemm,
    "MultiHeadAttention": _Reader.attention,
    **dict.fromkeys(_ACTIVATIONS, _Reader.activation),
    "Softmax": _Reader.softmax,
    **dict.fromkeys(("BatchNorm", "LayerNorm", "LRN"), _Reader.normalization),
    "Pooling": _Reader.pooling,
    "Reduction": _Reader.reduction,
    "Interp": _Reader.interp,
    "Permute": _Reader.permute,
    "ShuffleChannel": _Reader.shuffle_channel,
    "Padding": _Reader.padding,
    "Slice": _Reader.slice,
    "Crop": _Reader.crop,
    **dict.fromkeys(("BinaryOp", "Eltwise"), _Reader.elementwise),
    "Concat": _Reader.concat,
    "DetectionOutput": _Reader.detection,
    **dict.fromkeys(("YoloDetectionOutput", "Yolov3DetectionOutput"), _Reader.yolo),
}
