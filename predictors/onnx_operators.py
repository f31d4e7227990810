"""What each ONNX operator is in torch: the table that `read_onnx` reads. A new row here teaches it a new operator.

A row takes an `OnnxCall` and returns the tensor of the node's output, or a sequence of them. It runs on tensors without
data where the network's inputs or its large weights decide the value, and on real ones where only shapes and small
constants do: glue is thus computed and leaves no operator.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from math import ceil, prod
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from predictors.onnx_file import has_values
from predictors.onnx_nodes import OnnxNode
from predictors.operators import broadcast_shape

Result = Tensor | Sequence[Tensor]

MOST_NUMBERS = 1 << 20
"""Elements of the largest constant that is computed; what is larger is no glue, and only its shape is known."""


@dataclass(frozen=True, slots=True)
class OnnxCall:
    """A node with the tensors that it reads; None for inputs that are left out.

    Attributes:
        opset: of the node's domain.
        initializers: by name, for numbers that a tensor does not carry.
    """

    node: OnnxNode
    tensors: tuple[Tensor | None, ...]
    opset: int
    initializers: Mapping[str, onnx.TensorProto]

    def __getitem__(self, place: int) -> Tensor:
        """An input that has to be there."""
        tensor = self.tensors[place] if place < len(self.tensors) else None
        if tensor is None:
            raise ValueError(f"its input {place} is missing")
        return tensor

    def has(self, place: int) -> bool:
        return place < len(self.tensors) and self.tensors[place] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def numbers(self, place: int, attribute: str = "") -> list[Any] | None:
        """Numbers of an input, or of the attribute that older opsets have instead; None if there is neither.

        Raises:
            ValueError: the numbers depend on the network's inputs, or are not in the file.
        """
        if not self.has(place):
            found = self.attribute(attribute)
            return None if found is None else list(found)
        tensor, name = self[place], self.node.inputs[place]
        if tensor.device.type == "meta":
            proto = self.initializers.get(name)
            if proto is None or not has_values(proto):
                why = (
                    "are not in the model's file" if proto is not None else "depend on the network's inputs or weights"
                )
                raise ValueError(f"it needs the numbers of {name!r}, which {why}")
            return [value.item() for value in numpy_helper.to_array(proto).reshape(-1)]
        found = tensor.reshape(-1).tolist()
        return list(found)

    def axes(self, place: int, rank: int, attribute: str = "axes") -> list[int] | None:
        found = self.numbers(place, attribute)
        return None if found is None else [axis % rank for axis in found]


def operator_of(node: OnnxNode) -> Callable[[OnnxCall], Result] | None:
    """The row of a node; None if there is none."""
    return OPERATORS.get(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)


# ---------------------------------------------------------------------------------------------- multiply-accumulates


def _conv(call: OnnxCall) -> Tensor:
    x, weight = call[0], call[1]
    bias = call[2] if call.has(2) else None
    axes = x.dim() - 2
    if axes not in (1, 2):
        raise ValueError(f"convolutions have one or two spatial axes here, found input {tuple(x.shape)}")
    stride, dilation = call.attribute("strides", [1] * axes), call.attribute("dilations", [1] * axes)
    x, padding = _padded(call, x, weight.shape[2:], stride, dilation)
    convolution = functional.conv1d if axes == 1 else functional.conv2d
    return convolution(x, weight, bias, stride, padding, dilation, call.attribute("group", 1))


def _padded(
    call: OnnxCall, x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float = 0.0
) -> tuple[Tensor, list[int]]:
    """What torch's window takes: unequal padding is an operator of its own."""
    axes = len(kernel)
    pads = list(call.attribute("pads", [0] * 2 * axes))
    mode = call.attribute("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        pads = [0] * 2 * axes
        for axis, (size, window, step, spread) in enumerate(zip(x.shape[2:], kernel, stride, dilation)):
            whole = max((ceil(size / step) - 1) * step + spread * (window - 1) + 1 - size, 0)
            pads[axis] = whole // 2 if mode == "SAME_UPPER" else whole - whole // 2
            pads[axes + axis] = whole - pads[axis]
    if pads[:axes] == pads[axes:]:
        return x, pads[:axes]
    return functional.pad(x, _torch_pads([0, 0, *pads[:axes], 0, 0, *pads[axes:]]), value=value), [0] * axes


def _torch_pads(pads: Sequence[int]) -> list[int]:
    """ONNX lists all begins, then all ends; torch begins and ends from the last axis on."""
    rank = len(pads) // 2
    return [pad for axis in range(rank - 1, -1, -1) for pad in (pads[axis], pads[rank + axis])]


def _conv_transpose(call: OnnxCall) -> Tensor:
    x, weight = call[0], call[1]
    axes = x.dim() - 2
    pads = list(call.attribute("pads", [0] * 2 * axes))
    if axes not in (1, 2) or pads[:axes] != pads[axes:] or call.attribute("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError("transposed convolutions have one or two spatial axes and equal padding here")
    transposed = functional.conv_transpose1d if axes == 1 else functional.conv_transpose2d
    return transposed(
        x, weight, call[2] if call.has(2) else None, call.attribute("strides", [1] * axes), pads[:axes],
        call.attribute("output_padding", [0] * axes), call.attribute("group", 1),
        call.attribute("dilations", [1] * axes),
    )  # fmt: skip


def _gemm(call: OnnxCall) -> Tensor:
    """Factors of a constant matrix belong to its weights."""
    left = call[0].t() if call.attribute("transA", 0) else call[0]
    right = call[1] if call.attribute("transB", 0) else call[1].t()
    if call.has(2):
        return functional.linear(left, right, call[2]) if call[2].dim() == 1 else left @ right.t() + call[2]
    return functional.linear(left, right)


def _linear(call: OnnxCall) -> Tensor:
    return functional.linear(call[0], call[1].t(), call[2])


def _attention(call: OnnxCall) -> Tensor:
    """Query, transposed key, value, mask."""
    query, key, value = call[0], call[1].transpose(-1, -2), call[2]
    return functional.scaled_dot_product_attention(query, key, value, call[3] if call.has(3) else None)


def _onnx_attention(call: OnnxCall) -> Result:
    """That of opset 23: three axes hold the heads in the last one, as they come from linear layers."""
    if any(call.has(place) for place in (4, 5, 6)) or sum(map(bool, call.node.outputs)) > 1:
        raise ValueError("attention with cached keys or with a second output has no formula here")
    tensors, joined = [call[0], call[1], call[2]], call[0].dim() == 3
    if joined:
        heads = [call.attribute("q_num_heads"), *[call.attribute("kv_num_heads")] * 2]
        tensors = [x.reshape(*x.shape[:2], count, -1).transpose(1, 2) for x, count in zip(tensors, heads)]
    query, key, value = tensors
    x = functional.scaled_dot_product_attention(query, key, value, call[3] if call.has(3) else None)
    return x.transpose(1, 2).flatten(2) if joined else x


# --------------------------------------------------------------------------------------- operators on single tensors


def _unary(function: Callable[[Tensor], Tensor], call: OnnxCall) -> Tensor:
    return function(call[0])


def _clip(call: OnnxCall) -> Tensor:
    low, high = (call.numbers(place) for place in (1, 2))
    least, most = low[0] if low else call.attribute("min"), high[0] if high else call.attribute("max")
    if (least, most) in ((0, 6), (-1, 1)) and call[0].is_floating_point():
        return functional.hardtanh(call[0], least, most)
    return torch.clamp(call[0], least, most) if (least, most) != (None, None) else call[0]


def _cast(call: OnnxCall) -> Tensor:
    """Between floating-point types there is nothing to do: a graph has one dtype, which the user asks for."""
    dtype = _torch_dtype(call.attribute("to"))
    if call[0].is_floating_point() and dtype.is_floating_point and call[0].device.type == "meta":
        return call[0]
    return call[0].to(dtype)


def _torch_dtype(number: int) -> torch.dtype:
    name = onnx.TensorProto.DataType.Name(number).lower()
    names = {"float": "float32", "double": "float64"}
    found = getattr(torch, names.get(name, name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch has no type {name!r}")
    return found


def _softmax(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """Before opset 13 all axes from the given one on are one."""
    x = call[0]
    if call.opset >= 13:
        return function(x, call.attribute("axis", -1))
    axis = call.attribute("axis", 1) % x.dim()
    if axis == x.dim() - 1 or prod(x.shape[axis + 1 :]) == 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


def _batch_norm(call: OnnxCall) -> Tensor:
    return functional.batch_norm(call[0], call[3], call[4], call[1], call[2])


def _layer_norm(call: OnnxCall) -> Tensor:
    x = call[0]
    axis = call.attribute("axis", -1) % x.dim()
    weight, bias = (call[place] if call.has(place) else None for place in (1, 2))
    return functional.layer_norm(x, x.shape[axis:], weight, bias)


def _rms_norm(call: OnnxCall) -> Tensor:
    axis = call.attribute("axis", -1) % call[0].dim()
    return functional.rms_norm(call[0], call[0].shape[axis:], call[1] if call.has(1) else None)


def _instance_norm(call: OnnxCall) -> Tensor:
    return functional.instance_norm(call[0], weight=call[1], bias=call[2])


def _group_norm(call: OnnxCall) -> Tensor:
    """Weight and bias have one number a channel; the norm of whole groups says by its own scale how many there are."""
    groups = call[3].numel() if call.has(3) else call.attribute("num_groups")
    return functional.group_norm(call[0], groups, call[1].reshape(-1), call[2].reshape(-1))


def _max_pool(call: OnnxCall) -> Tensor:
    kernel = call.attribute("kernel_shape")
    axes = len(kernel)
    stride, dilation = call.attribute("strides", [1] * axes), call.attribute("dilations", [1] * axes)
    x, padding = _padded(call, call[0], kernel, stride, dilation, float("-inf"))
    pool = functional.max_pool1d if axes == 1 else functional.max_pool2d
    found: Tensor = pool(x, kernel, stride, padding, dilation, bool(call.attribute("ceil_mode", 0)))
    return found


def _average_pool(call: OnnxCall) -> Tensor:
    kernel = call.attribute("kernel_shape")
    axes = len(kernel)
    stride = call.attribute("strides", [1] * axes)
    x, padding = _padded(call, call[0], kernel, stride, [1] * axes)
    pool: Callable[..., Tensor] = functional.avg_pool1d if axes == 1 else functional.avg_pool2d
    return pool(x, kernel, stride, padding, bool(call.attribute("ceil_mode", 0)))


def _global_pool(pool: Callable[[Tensor, int], Tensor], call: OnnxCall) -> Tensor:
    return pool(call[0], 1)


def _reduce(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """An average pool that the exporter took for a mean says by the class of its module what it was."""
    x, keepdim = call[0], bool(call.attribute("keepdims", 1))
    axes = call.axes(1, x.dim())
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    is_pool = "AdaptiveAvgPool2d" in call.node.classes and keepdim and sorted(axes) == [2, 3] and x.dim() == 4
    return functional.adaptive_avg_pool2d(x, 1) if is_pool else function(x, axes, keepdim)


def _product(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim)
    return x


def _norm(order: int, x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, order, axes, keepdim)
    return found


def _arg_max(call: OnnxCall) -> Tensor:
    return torch.argmax(call[0], call.attribute("axis", 0), bool(call.attribute("keepdims", 1)))


def _resize(call: OnnxCall) -> Tensor:
    x = call[0]
    sizes = call.numbers(3)
    if not sizes:
        scales = call.numbers(2 if call.opset > 10 else 1, "scales") or []
        sizes = [int(size * scale) for size, scale in zip(x.shape, scales)]
    if axes := call.attribute("axes"):
        by_axis = dict(zip(axes, sizes))
        sizes = [by_axis.get(axis, size) for axis, size in enumerate(x.shape)]
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}.get(call.attribute("mode", "nearest"))
    if mode is None or x.dim() != 4 or list(sizes[:2]) != list(x.shape[:2]):
        raise ValueError(f"resizing {tuple(x.shape)} to {sizes} by {call.attribute('mode')!r} has no formula here")
    return functional.interpolate(x, tuple(sizes[2:]), mode=mode)


# ---------------------------------------------------------------------------------------------------- data that move


def _reshape(call: OnnxCall) -> Tensor:
    x, shape = call[0], call.numbers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(call: OnnxCall) -> Tensor:
    x = call[0]
    axis = call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1)


def _squeeze(call: OnnxCall) -> Tensor:
    axes = call.axes(1, call[0].dim())
    return call[0].squeeze() if axes is None else call[0].squeeze(axes)


def _unsqueeze(call: OnnxCall) -> Tensor:
    x, axes = call[0], call.numbers(1, "axes") or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: OnnxCall) -> Tensor:
    return call[0].permute(call.attribute("perm") or tuple(range(call[0].dim()))[::-1])


def _swap_axes(call: OnnxCall) -> Tensor:
    """Of the last two axes, whatever exporters do to the others; the shape after it says whether that is all."""
    x, shape = call[0], call.numbers(1) or []
    if x.dim() == len(shape) > 2 and [x.shape[-1], x.shape[-2]] == list(shape[-2:]):
        return x.transpose(-1, -2)
    raise ValueError(f"its axes are joined, swapped and parted from {tuple(x.shape)} to {shape}, which is no transpose")


def _expand(call: OnnxCall) -> Tensor:
    return call[0].expand(broadcast_shape(tuple(call[0].shape), tuple(call.numbers(1) or ())))


def _tile(call: OnnxCall) -> Tensor:
    x, counts = call[0], call.numbers(1) or ()
    return (x.to("meta") if x.numel() * prod(counts) > MOST_NUMBERS else x).repeat(counts)


def _slice(call: OnnxCall) -> Tensor:
    x, starts, stops = call[0], call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.axes(3, x.dim()) or list(range(len(starts)))
    for axis, start, stop, by in zip(axes, starts, stops, call.numbers(4) or [1] * len(starts)):
        if by > 0:
            x = x[(slice(None),) * axis + (slice(start, stop, by),)]
        else:
            picked = range(x.shape[axis])[slice(start, None if stop < -x.shape[axis] else stop, by)]
            x = x.flip(axis)[(slice(None),) * axis + (slice(x.shape[axis] - 1 - picked.start, None, -by),)]
            x = x.narrow(axis, 0, len(picked))
    return x


def _roll(call: OnnxCall) -> Tensor:
    """Steps of six inputs: from where to where the end and the begin of an axis reach, each with the axis."""
    x, shifts, dims = call[0], [], []
    for place in range(1, len(call.tensors), 6):
        end, end_stop, end_axis, begin, begin_stop, axis = ((call.numbers(place + part) or [0])[0] for part in range(6))
        size = x.shape[axis]
        cut, end_stop, begin_stop = (range(size + 1)[slice(None, each)].stop for each in (end, end_stop, begin_stop))
        if end_axis != axis or begin != 0 or cut != begin_stop or end_stop < size:
            raise ValueError("it joins two parts that are no end and begin of one tensor")
        shifts.append(size - cut)
        dims.append(axis)
    return x.roll(shifts, dims)


def _split(call: OnnxCall) -> Sequence[Tensor]:
    x, axis = call[0], call.attribute("axis", 0)
    sizes = call.numbers(1, "split")
    if sizes is None:
        number = call.attribute("num_outputs") or len(call.node.outputs)
        sizes = [ceil(x.shape[axis] / number)] * number
        sizes[-1] -= sum(sizes) - x.shape[axis]
    return torch.split(x, sizes, axis)


def _pad(call: OnnxCall) -> Tensor:
    x, pads = call[0], call.numbers(1, "pads") or []
    if axes := call.axes(3, x.dim()):
        whole = [0] * (2 * x.dim())
        for place, axis in enumerate(axes):
            whole[axis], whole[x.dim() + axis] = pads[place], pads[len(axes) + place]
        pads = whole
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.attribute("mode", "constant")
    ]
    numbers = _torch_pads(pads)
    while mode != "constant" and numbers[-2:] == [0, 0]:
        numbers = numbers[:-2]
    return functional.pad(x, numbers, mode)


def _gather(call: OnnxCall) -> Tensor:
    x, indices = call[0], call[1]
    axis = call.attribute("axis", 0) % x.dim()
    if indices.device.type != "meta":
        numbers = [index % x.shape[axis] for index in indices.reshape(-1).tolist()]
        if indices.dim() == 0:
            return x.select(axis, numbers[0])
        if indices.dim() == 1 and numbers and all(after - index == 1 for index, after in pairwise(numbers)):
            return x.narrow(axis, numbers[0], len(numbers))
    if x.dim() == 2 and axis == 0 and x.is_floating_point() and indices.device.type == "meta":
        return functional.embedding(indices, x)
    found = x.index_select(axis, indices.reshape(-1).to(x.device))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]) if indices.dim() != 1 else found


def _depth_to_space(call: OnnxCall) -> Tensor:
    x, by = call[0], call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, by)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, by, by, channels // by**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // by**2, height * by, width * by)


def _space_to_depth(call: OnnxCall) -> Tensor:
    x, by = call[0], call.attribute("blocksize")
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // by, by, width // by, by)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * by**2, height // by, width // by)


def _constant(call: OnnxCall) -> Tensor:
    for name, value in call.node.attributes.items():
        if name == "value":
            return as_tensor(value)
        if name.startswith("value_"):
            return torch.tensor(value)
    raise ValueError("it is a constant without a value")


def as_tensor(proto: onnx.TensorProto) -> Tensor:
    """A small tensor with its numbers; a large one, or one whose numbers are elsewhere, without data."""
    if has_values(proto):
        return torch.from_numpy(numpy_helper.to_array(proto).copy())
    return torch.empty(tuple(proto.dims), dtype=_torch_dtype(proto.data_type), device="meta")


def _constant_of_shape(call: OnnxCall) -> Tensor:
    shape = call.numbers(0) or []
    proto = call.attribute("value")
    filler = as_tensor(proto) if proto is not None else torch.zeros(1)
    return torch.full(shape, filler.item(), dtype=filler.dtype, device="cpu" if prod(shape) <= MOST_NUMBERS else "meta")


def _shape(call: OnnxCall) -> Tensor:
    return torch.tensor(tuple(call[0].shape)[call.attribute("start", 0) : call.attribute("end")], dtype=torch.int64)


def _range(call: OnnxCall) -> Tensor:
    start, stop, by = ((call.numbers(place) or [0])[0] for place in range(3))
    if not by or (stop - start) / by > MOST_NUMBERS:
        raise ValueError(f"a range from {start} to {stop} by {by} is too large for an index")
    return torch.arange(start, stop, by, dtype=call[0].dtype)


# -------------------------------------------------------------------------------------- operators on several tensors


def _elementwise(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """A known constant of one element is a number, however many axes it has."""
    tensors = [call[place] for place in range(len(call.tensors))]
    rank = max(tensor.dim() for tensor in tensors)
    numbers = [each.numel() == 1 and each.device.type != "meta" for each in tensors]
    if not all(numbers):
        tensors = [
            each.reshape(())
            if is_number and any(other.dim() == rank for other in tensors if other is not each)
            else each
            for each, is_number in zip(tensors, numbers)
        ]
    return function(*tensors) if len(tensors) < 3 or function is torch.where else reduce(function, tensors)


def _divide(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _remainder(left: Tensor, right: Tensor) -> Tensor:
    return torch.remainder(left, right)


def _concat(call: OnnxCall) -> Tensor:
    return torch.cat([tensor for tensor in call.tensors if tensor is not None], call.attribute("axis"))


def _prelu(call: OnnxCall) -> Tensor:
    return functional.prelu(call[0], call[1].reshape(-1))


def _einsum(call: OnnxCall) -> Tensor:
    return torch.einsum(call.attribute("equation"), *[tensor for tensor in call.tensors if tensor is not None])


def _quantized_conv(call: OnnxCall) -> Tensor:
    """Scales and zero points are part of its weights, and its bias is of integers."""
    bias = [torch.empty(call[8].shape, device="meta")] if call.has(8) else []
    return _conv(OnnxCall(call.node, (call[0], call[3], *bias), call.opset, call.initializers))


def _quantized_gemm(call: OnnxCall) -> Tensor:
    weight = call[3] if call.attribute("transB", 0) else call[3].t()
    return functional.linear(call[0], weight, torch.empty(call[6].shape, device="meta") if call.has(6) else None)


def _biased(activation: Callable[[Tensor], Tensor], call: OnnxCall) -> Tensor:
    return activation(call[0] + call[1] if call.has(1) else call[0])


def _fused_conv(call: OnnxCall) -> Tensor:
    x = _conv(call)
    if call.has(3):
        x = x + call[3]
    activation = call.attribute("activation")
    functions: dict[str | None, Callable[[Tensor], Tensor]] = {
        **{name: _UNARY[name] for name in ("HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")},
        "Clip": functional.relu6,
        None: lambda x: x,
    }
    if activation not in functions:
        raise ValueError(f"the activation {activation!r} of a fused convolution has no formula here")
    return functions[activation](x)


def _skip_layer_norm(call: OnnxCall) -> Tensor:
    x = call[0] + call[1]
    return functional.layer_norm(x, x.shape[-1:], call[2], call[3] if call.has(3) else None)


def _recurrent(layer: Callable[..., Sequence[Tensor]], num_states: int, call: OnnxCall) -> Sequence[Tensor]:
    """An LSTM or GRU, which torch takes apart into the products of each step; the order of gates costs nothing."""
    x, hidden = call[0], call.attribute("hidden_size")
    directions = call[1].shape[0]
    if call.attribute("layout", 0) or call.has(4) or call.has(7) or call.attribute("direction") == "reverse":
        raise ValueError("only whole sequences, with the time as first axis, have a formula here")
    weights: list[Tensor] = []
    for each in range(directions):
        biases = call[3][each].chunk(2) if call.has(3) else ()
        weights += [call[1][each], call[2][each], *biases]
    states = [
        call[place] if call.has(place) else torch.zeros(directions, x.shape[1], hidden, device="meta")
        for place in range(5, 5 + num_states)
    ]
    state = states if num_states > 1 else states[0]
    found = layer(x, state, weights, call.has(3), 1, 0.0, False, directions > 1, False)
    return found[0].reshape(*x.shape[:2], directions, hidden).transpose(1, 2), *found[1:]


# ------------------------------------------------------------------------------------------------------------- table

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Celu": functional.celu, "Cos": torch.cos, "Dropout": lambda x: x,
    "Elu": functional.elu, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Gelu": functional.gelu,
    "HardSigmoid": functional.hardsigmoid, "HardSwish": functional.hardswish, "Identity": lambda x: x,
    "LeakyRelu": functional.leaky_relu, "Log": torch.log, "Mish": functional.mish, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": functional.relu, "Round": torch.round,
    "Selu": functional.selu, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": functional.softplus, "Sqrt": torch.sqrt, "Swish": functional.silu, "Tanh": torch.tanh,
}  # fmt: skip

_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "And": torch.logical_and, "Div": _divide, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "Max": torch.maximum,
    "Min": torch.minimum, "Mod": _remainder, "Mul": torch.mul, "Or": torch.logical_or, "Pow": torch.pow,
    "Sub": torch.sub, "Sum": torch.add, "Where": torch.where,
}  # fmt: skip

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": partial(_norm, 1), "ReduceL2": partial(_norm, 2), "ReduceMax": torch.amax, "ReduceMean": torch.mean,
    "ReduceMin": torch.amin, "ReduceProd": _product, "ReduceSum": torch.sum,
}  # fmt: skip

OPERATORS: dict[str, Callable[[OnnxCall], Result]] = {
    **{name: partial(_unary, function) for name, function in _UNARY.items()},
    **{name: partial(_elementwise, function) for name, function in _BINARY.items()},
    **{name: partial(_reduce, function) for name, function in _REDUCTIONS.items()},
    "ArgMax": _arg_max,
    "Attention": _onnx_attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call: (
        call[0] if call[0].is_floating_point() == call[1].is_floating_point() else call[0].to(call[1].dtype)
    ),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GRU": partial(_recurrent, torch.gru, 1),
    "GlobalAveragePool": partial(_global_pool, functional.adaptive_avg_pool2d),
    "GlobalMaxPool": partial(_global_pool, functional.adaptive_max_pool2d),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LSTM": partial(_recurrent, torch.lstm, 2),
    "LogSoftmax": partial(_softmax, torch.log_softmax),
    "MatMul": lambda call: torch.matmul(call[0], call[1]),
    "MaxPool": _max_pool,
    "PRelu": _prelu,
    "Pad": _pad,
    "QLinearConv": _quantized_conv,
    "QLinearMatMul": lambda call: torch.matmul(call[0], call[3]),
    "RMSNormalization": _rms_norm,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Size": lambda call: torch.tensor(call[0].numel()),
    "Slice": _slice,
    "Softmax": partial(_softmax, torch.softmax),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": lambda call: (torch.triu if call.attribute("upper", 1) else torch.tril)(call[0]),
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "com.microsoft.BiasGelu": partial(_biased, functional.gelu),
    "com.microsoft.FastGelu": partial(_biased, functional.gelu),
    "com.microsoft.FusedConv": _fused_conv,
    "com.microsoft.FusedMatMul": lambda call: torch.matmul(
        call[0].transpose(-1, -2) if call.attribute("transA", 0) else call[0],
        call[1].transpose(-1, -2) if call.attribute("transB", 0) else call[1],
    ),
    "com.microsoft.Gelu": partial(_unary, functional.gelu),
    "com.microsoft.QGemm": _quantized_gemm,
    "com.microsoft.QLinearAdd": lambda call: call[0] + call[3],
    "com.microsoft.QLinearConcat": lambda call: torch.cat(
        [call[each] for each in range(2, len(call.tensors), 3)], call.attribute("axis")
    ),
    "com.microsoft.QLinearGlobalAveragePool": partial(_global_pool, functional.adaptive_avg_pool2d),
    "com.microsoft.QLinearLeakyRelu": partial(_unary, functional.leaky_relu),
    "com.microsoft.QLinearMul": lambda call: call[0] * call[3],
    "com.microsoft.QLinearSigmoid": partial(_unary, torch.sigmoid),
    "com.microsoft.QLinearSoftmax": partial(_softmax, torch.softmax),
    "com.microsoft.QuickGelu": partial(_unary, functional.silu),
    "com.microsoft.SkipLayerNormalization": _skip_layer_norm,
    "whole.Attention": _attention,
    "whole.GroupNorm": _group_norm,
    "whole.Linear": _linear,
    "whole.Roll": _roll,
    "whole.SwapAxes": _swap_axes,
}
"""By type, with the domain before it where it is none of ONNX's own; those of 'whole' come from `onnx_nodes`."""
