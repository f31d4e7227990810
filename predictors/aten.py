"""What each operator of ATen becomes: the table that `trace` reads. A new row here teaches it a new operator.

A handler takes a `Call` and returns the node that writes the call's (first) output. It returns None where it has no
formula for these arguments; torch then takes the operator apart, if it can, and the parts are looked up instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from predictors.dynamic_conv import DynamicConv2d
from predictors.graph import shared_operator
from predictors.indexing import Gather, GridSample, Scatter, Sort
from predictors.movement import Steps
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
    Embedding,
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
    broadcast_shape,
)
from predictors.recurrent import Recurrent
from predictors.traced_constants import tensors_of
from predictors.traced_values import Values
from predictors.volumes import Conv3d, Pool3d, Triple


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an ATen operator: arguments by the names of its schema, and what it returned."""

    name: str
    arguments: dict[str, Any]
    output: Any
    values: Values

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in their order."""
        return tensors_of(self.arguments)

    def one_of(self, *arguments: str) -> Any:
        """The first of these arguments that the operator has."""
        return next(self.arguments[name] for name in arguments if name in self.arguments)

    def is_live(self, *arguments: str) -> bool:
        """One of these arguments depends on the network's inputs."""
        return any(self[name] is not None and self.values.is_live(self[name]) for name in arguments)

    def add(self, operator: type[Operator], inputs: Sequence[int], **fields: Any) -> int:
        return self.values.builder.add(shared_operator(operator, **fields), *inputs, name=self.values.path)

    def read_by(self, operator: type[Operator], x: Tensor, **fields: Any) -> int:
        """A node that reads one tensor as it lies."""
        return self.add(operator, [self.values.read(x)], **fields)

    def on_dense(self, operator: type[Operator], argument: str, **fields: Any) -> int:
        """A node that reads this argument alone, laid out as kernels like it, and that takes its shape."""
        x = self[argument]
        return self.add(operator, [self.values.read(x, dense=True)], shape=tuple(x.shape), **fields)


Handler = Callable[[Call], int | None]


# ---------------------------------------------------------------------------------------------- multiply-accumulates


def _convolution(call: Call) -> int | None:
    """One along a single axis is one of images of height 1; an image without batch is a batch of one: between views."""
    x, weight = call["input"], call["weight"]
    if call.is_live("weight", "bias"):
        return _dynamic_convolution(call)
    num_axes = weight.dim() - 2
    if x.dim() == num_axes + 1:
        x = x.unsqueeze(0)
    transposed = call.arguments.get("transposed", "transpose" in call.name)
    if num_axes == 3:
        if transposed:
            return None
        node = call.add(
            Conv3d, [call.values.read(x, dense=True)],
            shape=tuple(x.shape), out_channels=weight.shape[0], kernel=tuple(weight.shape[2:]),
            stride=_triple(call["stride"]), padding=_triple(call["padding"]), dilation=_triple(call["dilation"]),
            groups=call["groups"], bias=call["bias"] is not None,
        )  # fmt: skip
        return _viewed(call, node)
    if num_axes == 1:
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
    batch, in_channels, height, width = x.shape
    fields = {
        "batch": batch, "in_channels": in_channels, "height": height, "width": width, "kernel": tuple(weight.shape[2:]),
        "stride": _spatial(call, "stride", 1), "padding": _spatial(call, "padding", 0),
        "dilation": _spatial(call, "dilation", 1), "groups": call["groups"], "bias": call["bias"] is not None,
    }  # fmt: skip
    source = [call.values.read(x, dense=True)]
    if transposed:
        fields["output_padding"] = _spatial(call, "output_padding", 0)
        node = call.add(ConvTranspose2d, source, out_channels=weight.shape[1] * call["groups"], **fields)
    else:
        node = call.add(Conv2d, source, out_channels=weight.shape[0], **fields)
    return _viewed(call, node)


def _dynamic_convolution(call: Call) -> int | None:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    if (x.dim(), weight.dim()) != (4, 4) or call.arguments.get("transposed", "transpose" in call.name):
        return None
    read = [x, weight] if bias is None else [x, weight, bias]
    return call.add(
        DynamicConv2d, [call.values.read(each, dense=True) for each in read],
        shape=tuple(x.shape), weight=tuple(weight.shape), stride=_pair(call["stride"]), padding=_pair(call["padding"]),
        dilation=_pair(call["dilation"]), groups=call["groups"], bias=bias is not None,
    )  # fmt: skip


def _viewed(call: Call, node: int) -> int:
    """The node under the shape of the call's (first) output."""
    output = call.output if isinstance(call.output, Tensor) else call.output[0]
    to, shape = tuple(output.shape), call.values.builder.shape(node)
    return node if shape == to else call.add(View, [node], shape=shape, to=to)


def _spatial(call: Call, argument: str, of_missing_axis: int) -> Pair:
    return (of_missing_axis, _pair(call[argument])[0]) if call["weight"].dim() == 3 else _pair(call[argument])


def _linear(call: Call) -> int | None:
    if call.is_live("weight", "bias"):
        return None
    return call.on_dense(Linear, "input", out_features=call["weight"].shape[0], bias=call["bias"] is not None)


def _product(left_name: str, right_name: str, call: Call) -> int | None:
    """Product of two tensors; by a constant matrix it is a linear layer. A vector is a matrix of one row or column."""
    left, right = call[left_name], call[right_name]
    is_constant = right.dim() <= 2 and not call.is_live(right_name)
    left = left.unsqueeze(0) if left.dim() == 1 else left
    right = right.unsqueeze(-1) if right.dim() == 1 else right
    if is_constant:
        source = [call.values.read(left, dense=True)]
        return _viewed(call, call.add(Linear, source, shape=tuple(left.shape), out_features=right.shape[1]))
    sources = [call.values.read(left), call.values.read(right)]
    return _viewed(call, call.add(MatMul, sources, left=tuple(left.shape), right=tuple(right.shape)))


def _product_and_sum(left_name: str, right_name: str, call: Call) -> int | None:
    """input + left @ right, as `addmm` computes linear layers."""
    added, right = call["self"], call[right_name]
    if right.dim() == 2 and not call.is_live(right_name, "self") and added.shape == right.shape[1:]:
        return call.on_dense(Linear, left_name, out_features=right.shape[1], bias=True)
    product = _product(left_name, right_name, call)
    return None if product is None else _joined(call, "add", [product, call.values.read_broadcast(added)])


def _attention(call: Call) -> int | None:
    """Of more than four axes the first ones are the batch, of fewer they are one."""
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    whole = [(1,) * (3 - each.dim()) + tuple(each.shape) for each in (query, key, value)]
    (*batch, heads, query_length, head_dim), *_ = whole
    key_heads, key_length = whole[1][-3:-1]
    if not (whole[0][:-3] == whole[1][:-3] == whole[2][:-3] and whole[2][-3] == key_heads and heads % key_heads == 0):
        return None
    sources = []
    for each, shape in zip((query, key, value), whole):
        node, to = call.values.read(each), (prod(batch), *shape[-3:])
        shape = tuple(each.shape)
        sources.append(node if shape == to else call.add(View, [node], shape=shape, to=to))
    fields = {"key_heads": key_heads} if key_heads != heads else {}
    if mask is not None:
        sources.append(call.values.read_broadcast(mask))
        fields["mask"] = call.values.builder.shape(sources[-1])
    node = call.add(
        Attention, sources,
        batch=prod(batch), heads=heads, query_length=query_length, key_length=key_length, head_dim=head_dim,
        value_dim=value.shape[-1], **fields,
    )  # fmt: skip
    return _viewed(call, node)


# --------------------------------------------------------------------------------------- operators on single tensors


def _activation(call: Call) -> int | None:
    x, *others = _not_scalars(call)
    if others:
        return _elementwise(call)
    function = call.name
    if call.name == "hardtanh" and (call["min_val"], call["max_val"]) == (0, 6):
        function = "relu6"
    return call.add(Activation, [call.values.read(x)], shape=tuple(x.shape), function=function)


def _softmax(argument: str, call: Call) -> int | None:
    x = call[argument]
    axis = call["dim"] % x.dim() if x.dim() else 0
    return call.add(Softmax, [call.values.read(x)], shape=tuple(x.shape), axis=axis if axis < x.dim() - 1 else -1)


def _normalization(method: str, call: Call) -> int | None:
    if call.is_live("weight", *({"bias"} & call.arguments.keys())):
        return None
    learned = [call[name] for name in ("weight", "bias") if call.arguments.get(name) is not None]
    return call.on_dense(Normalization, "input", method=method, affine_params=sum(each.numel() for each in learned))


def _pool(method: str, call: Call) -> int | None:
    kernel = _pair(call["kernel_size"])
    x = _image(call["self"])
    fields = {
        "shape": tuple(x.shape), "method": method, "kernel": kernel, "stride": _pair(call["stride"] or kernel),
        "padding": _pair(call["padding"]), "dilation": _pair(call.arguments.get("dilation", 1)),
        "ceil_mode": call["ceil_mode"],
    }  # fmt: skip
    return _viewed(call, call.add(Pool2d, [call.values.read(x, dense=True)], **fields))


def _pool3d(method: str, call: Call) -> int | None:
    kernel = _triple(call["kernel_size"])
    return call.on_dense(
        Pool3d, "self", method=method, kernel=kernel,
        stride=_triple(call["stride"] or kernel), padding=_triple(call["padding"]),
        dilation=_triple(call.arguments.get("dilation", 1)), ceil_mode=call["ceil_mode"],
    )  # fmt: skip


def _adaptive_pool(method: str, call: Call) -> int | None:
    x = _image(call["self"])
    node = call.add(
        AdaptivePool2d, [call.values.read(x, dense=True)],
        shape=tuple(x.shape), method=method, size=tuple(call["output_size"]),
    )  # fmt: skip
    return _viewed(call, node)


def _adaptive_pool3d(method: str, call: Call) -> int | None:
    """Pooling to one value a channel is a mean or a maximum; no other size has a formula."""
    if tuple(call["output_size"]) != (1, 1, 1) or call["self"].dim() != 5:
        return None
    x = call["self"]
    return call.add(Reduce, [call.values.read(x)], shape=tuple(x.shape), method=method, axes=(2, 3, 4), keepdim=True)


def _image(x: Tensor) -> Tensor:
    return x.unsqueeze(0) if x.dim() == 3 else x


def _reduce(method: str, call: Call) -> int | None:
    """The place of a maximum, and the mean beside a variance, are found once more if anybody reads them."""
    x, dim = call["self"], call.arguments.get("dim")
    dims = [dim] if isinstance(dim, int) else dim or range(x.dim())
    axes = tuple(sorted(axis % x.dim() for axis in dims))
    keepdim = call.arguments.get("keepdim", False)
    fields = {"shape": tuple(x.shape), "axes": axes, "keepdim": keepdim}
    if not isinstance(call.output, Tensor) and method in _BESIDE:
        beside = partial(call.read_by, Reduce, x, method=_BESIDE[method], **fields)
        call.values.define_later(call.output[1], beside)
    return call.add(Reduce, [call.values.read(x)], method=method, **fields)


_BESIDE = {"max": "argmax", "min": "argmin", "var": "mean", "std": "mean"}


def _scan(call: Call) -> int | None:
    """Sums of all elements before each one: one pass over them."""
    x = call["self"]
    return call.add(Activation, [call.values.read(x)], shape=tuple(x.shape), function=call.name)


def _sort(call: Call) -> int | None:
    """The values and their places are the two halves of what one kernel writes."""
    x = call["self"]
    axis = call["dim"] % x.dim() if x.dim() else 0
    count = call.arguments.get("k", 0)
    shape = tuple(x.shape)
    node = call.add(
        Sort, [call.values.read(x)],
        shape=shape, axis=axis if axis < x.dim() - 1 else -1, count=0 if x.dim() and count == shape[axis] else count,
    )  # fmt: skip
    half = partial(_half, call, node)
    if call.name == "argsort":
        return half(1)
    call.values.define_later(call.output[1], partial(half, 1))
    return half(0)


def _half(call: Call, node: int, which: int) -> int:
    shape = call.values.builder.shape(node)
    rank = len(shape)
    part = ("slice", (which, *[0] * (rank - 1)), (which + 1, *shape[1:]), (1,) * rank)
    return call.add(View, [node], shape=shape, to=shape[1:], steps=(part, ("reshape", shape[1:])))


def _resize(method: str, call: Call) -> int | None:
    """Along one axis: that of images of height 1, between two views."""
    x = call.one_of("input", "self")
    size = tuple(call.output.shape[2:])
    if x.dim() == 3:
        x, size = x.unsqueeze(2), (1, *size)
    node = call.add(Resize, [call.values.read(x, dense=True)], shape=tuple(x.shape), method=method, size=size)
    return _viewed(call, node)


def _grid_sample(call: Call) -> int | None:
    x, grid = call["input"], call["grid"]
    if x.dim() != 4:
        return None
    method = ("bilinear", "nearest", "bicubic")[call["interpolation_mode"]]
    sources = [call.values.read(x), call.values.read(grid)]
    return call.add(GridSample, sources, shape=tuple(x.shape), grid=tuple(grid.shape), method=method)


# -------------------------------------------------------------------------------------------------- recurrent layers


def _recurrent(call: Call) -> int | None:
    """Layer by layer. The last states are parts of what the last steps write; those of cells are not told apart."""
    x, params = call.one_of("input", "data"), call["params"]
    if any(call.values.is_live(each) for each in params):
        return None
    directions, num_layers, bias = 2 if call["bidirectional"] else 1, call["num_layers"], call["has_biases"]
    method, gates = _method(call)
    per_layer = len(params) // (num_layers * directions)
    fields = {
        "hidden": params[1].shape[0] // gates, "method": method, "directions": directions, "bias": bias,
        "projection": params[per_layer - 1].shape[0] if per_layer == 3 + 2 * bias else 0,
    }  # fmt: skip
    given = _given_states(call)
    node = call.values.read(x, dense=True)
    layers = []
    for layer in range(num_layers):
        node = _layer(call, node, [each[layer * directions : (layer + 1) * directions] for each in given], fields)
        layers.append(node)
    for each in call.output[1:]:
        call.values.define_later(each, partial(_last_states, call, layers, tuple(each.shape)))
    return node


def _cell(call: Call) -> int | None:
    """One step of one layer."""
    if call.is_live("w_ih", "w_hh", "b_ih", "b_hh"):
        return None
    method, gates = _method(call)
    fields = {"hidden": call["w_hh"].shape[0] // gates, "method": method, "bias": call["b_ih"] is not None}
    node = _layer(call, call.values.read(call["input"], dense=True), _given_states(call), fields)
    if method == "lstm":
        state = call.output[1]
        call.values.define_later(state, partial(_last_states, call, [node], tuple(state.shape)))
    return node


def _method(call: Call) -> tuple[str, int]:
    method = call.name.split("_")[0]
    return method, {"lstm": 4, "gru": 3}.get(method, 1)


def _given_states(call: Call) -> list[Tensor]:
    """The first states that are not zero."""
    states = call["hx"]
    return [each for each in ([states] if isinstance(states, Tensor) else states) if call.values.is_learned(each)]


def _layer(call: Call, source: int, states: Sequence[Tensor], fields: dict[str, Any]) -> int:
    read = [call.values.read(each) for each in states]
    shapes = tuple(map(call.values.builder.shape, read))
    return call.add(Recurrent, [source, *read], shape=call.values.builder.shape(source), states=shapes, **fields)


def _last_states(call: Call, layers: Sequence[int], to: Shape) -> int:
    """(layers * directions, batch, features) from what each layer wrote; which part of it is not said."""
    one = (to[0] // len(layers), *to[1:]) if len(layers) > 1 else to
    views = [call.add(View, [layer], shape=call.values.builder.shape(layer), to=one) for layer in layers]
    if len(views) == 1:
        return views[0]
    return call.add(Concat, views, shapes=(one,) * len(views), axis=0)


# ---------------------------------------------------------------------------------------------------- data that move


def _reshape(call: Call) -> int | None:
    """A copy where torch had to make one; it is told from a view by its storage, before the handler is asked."""
    return call.values.copy(call["self"], tuple(call.output.shape))


def _move(method: str, call: Call, steps: Steps = ()) -> int | None:
    """A copy into another order or extent, which the arguments beside the tensor decide."""
    x, to = call["self"], tuple(call.output.shape)
    if any(call.values.is_live(each) for each in call.tensors if each is not x):
        return None
    return call.add(Copy, [call.values.read(x)], shape=tuple(x.shape), to=to, method=method, steps=steps)


def _roll(call: Call) -> int | None:
    shape, shifts, dims = tuple(call["self"].shape), _numbers(call["shifts"]), _numbers(call["dims"])
    if not dims:
        flat = (call["self"].numel(),)
        return _move("roll", call, (("reshape", flat), ("roll", tuple(shifts)), ("reshape", shape)))
    by = [0] * len(shape)
    for axis, shift in zip(dims, shifts):
        by[axis] += shift
    return _move("roll", call, (("roll", tuple(shift % size for shift, size in zip(by, shape))),))


def _flip(call: Call) -> int | None:
    rank = call["self"].dim()
    return _move("flip", call, (("flip", tuple(sorted(axis % rank for axis in call["dims"]))),))


def _repeat(call: Call) -> int | None:
    counts = tuple(call["repeats"])
    shape = (1,) * (len(counts) - call["self"].dim()) + tuple(call["self"].shape)
    longer: Steps = (("reshape", shape),) if len(shape) > call["self"].dim() else ()
    return _move("repeat", call, (*longer, ("repeat", counts)))


def _repeat_interleave(call: Call) -> int | None:
    """Each element again beside itself: an axis of size 1 behind it, repeated and joined with it."""
    shape, count, axis = tuple(call["self"].shape), call["repeats"], call["dim"]
    shape, axis = ((call["self"].numel(),), 0) if axis is None else (shape, axis % len(shape))
    first, last = shape[: axis + 1], shape[axis + 1 :]
    beside: Steps = (("reshape", (*first, 1, *last)), ("expand", (*first, count, *last)))
    return _move("repeat", call, (*beside, ("reshape", tuple(call.output.shape))))


def _shuffle(call: Call) -> int | None:
    """Between channels and pixels, or among channels: parts of axes change places."""
    *batch, channels, height, width = call["self"].shape
    rank = len(batch)
    parts: tuple[int, ...]
    order: tuple[int, ...]
    if call.name == "pixel_shuffle":
        by = call["upscale_factor"]
        parts, order = (channels // by**2, by, by, height, width), (0, 3, 1, 4, 2)
    elif call.name == "pixel_unshuffle":
        by = call["downscale_factor"]
        parts, order = (channels, height // by, by, width // by, by), (0, 2, 4, 1, 3)
    else:
        groups = call["groups"]
        parts, order = (groups, channels // groups, height, width), (1, 0, 2, 3)
    axes = (*range(rank), *(rank + axis for axis in order))
    steps = (("reshape", (*batch, *parts)), ("transpose", axes), ("reshape", tuple(call.output.shape)))
    return _move("transpose", call, steps)


def _nothing(call: Call) -> int | None:
    """Its results are views of its input, which is told by their storage before the handler is asked."""
    return None


def _dropout(call: Call) -> int | None:
    """Nothing at inference, unless the module asks for it all the same."""
    x = call.one_of("input", "self")
    if not call["train"] or not call["p"]:
        return call.values.read(x)
    return call.read_by(Activation, x, shape=tuple(x.shape), function="dropout")


def _pad(call: Call) -> int | None:
    """With any number, as it costs the same; what reflects or repeats the border has no steps."""
    pads, rank = list(call["pad"]), call["self"].dim()
    if not any(pads):
        return call.values.read(call["self"])
    if call.arguments.get("mode", "constant") != "constant" or min(pads) < 0:
        return _move("pad", call)
    missing = [0] * (rank - len(pads) // 2)  # torch begins with the last axis
    return _move("pad", call, (("pad", (*missing, *pads[-2::-2]), (*missing, *pads[::-2])),))


def _write(call: Call) -> int | None:
    """`copy_`: the source, broadcast, in place of all that `self` held, or else of the part of it that `self` shows."""
    source, to = call["src"], tuple(call["self"].shape)
    if call.values.is_part(call["self"]):
        one = not any(stride for stride, size in zip(source.stride(), source.shape) if size > 1)
        return _fill(call) if one and not call.values.is_learned(source) else call.values.read_broadcast(source)
    longer = (1,) * (len(to) - source.dim()) + tuple(source.shape)
    steps: Steps = (("reshape", longer), ("expand", to)) if longer != to else (("reshape", to),)
    return call.add(Copy, [call.values.read(source)], shape=tuple(source.shape), to=to, method="copy", steps=steps)


def _fill(call: Call) -> int | None:
    """A number in place of all elements, or of a part."""
    number = call.values.add(Constant(shape=()))
    to = tuple(call["self"].shape)
    return number if call.values.is_part(call["self"]) else call.add(Copy, [number], shape=(), to=to, method="fill")


def _index(call: Call) -> int | None:
    """Known places are part of the kernel, and not read."""
    indices = call["indices"] if "indices" in call.arguments else call["index"]
    indices = [each for each in (indices if isinstance(indices, list | tuple) else [indices]) if each is not None]
    if not any(call.values.is_live(each) for each in indices):
        return _move("gather", call)
    return _gather(call, call["self"], indices)


def _gather(call: Call, x: Tensor, indices: Sequence[Tensor]) -> int:
    places = [call.values.read_broadcast(each) for each in indices]
    return call.add(
        Gather, [call.values.read(x), *places],
        shape=tuple(x.shape), indices=tuple(map(call.values.builder.shape, places)), to=tuple(call.output.shape),
    )  # fmt: skip


def _masked_select(call: Call) -> int | None:
    return _gather(call, call["self"], [call["mask"]])


def _scatter(call: Call) -> int | None:
    """Values at some places: in place, or else into a copy. Known places are part of the kernel, and not read."""
    x, values = call["self"], call.values
    read = [call.arguments.get(name) for name in ("src", "source", "values", "value", "index", "mask")]
    read += call.arguments.get("indices") or []
    sources = [values.read_broadcast(each) for each in read if isinstance(each, Tensor) and values.is_learned(each)]
    shape, node = tuple(x.shape), values.read(x)
    if call.output is not x or values.is_part(x):
        node = call.add(Copy, [node], shape=shape, to=shape, method="copy", steps=(("reshape", shape),))
    shapes = tuple(map(values.builder.shape, sources))
    return call.add(Scatter, [node, *sources], shape=shape, sources=shapes, num_written=_num_written(call))


def _num_written(call: Call) -> int:
    """Of a mask that is not known at most all."""
    shape, arguments = tuple(call["self"].shape), call.arguments
    if "indices" in arguments:
        indices = [*arguments["indices"], *[None] * (len(shape) - len(arguments["indices"]))]
        places = [each for each in indices if each is not None]
        if any(each.dtype in (torch.bool, torch.uint8) for each in places):
            return prod(shape)
        rest = prod(size for size, each in zip(shape, indices) if each is None)
        return int(prod(broadcast_shape(*(tuple(each.shape) for each in places))) * rest)
    if call.name.startswith("index"):
        return int(call["index"].numel() * prod(shape) // shape[call["dim"]])
    if call.name.startswith("scatter"):
        return int(call["index"].numel())
    return int(call["src"].numel()) if "src" in arguments else prod(shape)


def _pack(call: Call) -> int | None:
    """Sequences of several lengths one step after the other, without what pads them."""
    x = call["input"]
    call.values.define_constant(call.output[1])
    to = tuple(call.output[0].shape)
    return call.add(Copy, [call.values.read(x)], shape=tuple(x.shape), to=to, method="gather")


def _unpack(call: Call) -> int | None:
    x = call["data"]
    call.values.define_constant(call.output[1])
    to = tuple(call.output[0].shape)
    return call.add(Copy, [call.values.read(x)], shape=tuple(x.shape), to=to, method="pad")


def _one_hot(call: Call) -> int | None:
    to = tuple(call.output.shape)
    source = call.values.read(call["self"])
    shapes = (call.values.builder.shape(source),)
    return call.add(
        Scatter, [call.values.add(Constant(shape=to)), source], shape=to, sources=shapes, num_written=prod(to)
    )


def _fold(call: Call) -> int | None:
    """Overlapping windows, each element added to its place."""
    x, to = call["self"], tuple(call.output.shape)
    zeros = call.values.add(Constant(shape=to))
    source = call.values.read(x)
    return call.add(Scatter, [zeros, source], shape=to, sources=(tuple(x.shape),), num_written=prod(to))


def _embedding(call: Call) -> int | None:
    if call.is_live("weight"):
        return _gather(call, call["weight"], [call["indices"]])
    num_rows, features = call["weight"].shape
    indices = call["indices"]
    source = call.values.read(indices)
    return call.add(Embedding, [source], shape=tuple(indices.shape), num_rows=num_rows, features=features)


# -------------------------------------------------------------------------------------- operators on several tensors


def _elementwise(call: Call) -> int | None:
    """Scalars, be they numbers or constant tensors without axes, are part of the kernel and not read."""
    if not isinstance(call.output, Tensor):  # `where` of a condition alone
        return None
    read, shape = _not_scalars(call), call.values.builder.shape
    sources = [call.values.read_broadcast(each) for each in read]
    if broadcast_shape(*map(shape, sources)) != tuple(call.output.shape):  # all are repeated along one axis
        sources = [call.values.read(each) for each in read]
    return _joined(call, call.name, sources)


def _glu(call: Call) -> int | None:
    """One half of the channels times a function of the other."""
    halves = call["self"].chunk(2, call["dim"])
    return _joined(call, "glu", [call.values.read(each) for each in halves])


def _prelu(call: Call) -> int | None:
    x, slope = call["self"], call["weight"]
    if slope.numel() > 1:
        slope = slope.view(-1, *[1] * (x.dim() - 2))
    return _joined(call, "prelu", [call.values.read(x), call.values.read(slope)])


def _joined(call: Call, function: str, sources: Sequence[int]) -> int:
    return call.add(
        Elementwise, sources, function=function, shapes=tuple(call.values.builder.shape(source) for source in sources)
    )


def _cat(call: Call) -> int | None:
    return _concat(call, call["tensors"], call["dim"])


def _stack(call: Call) -> int | None:
    axis = call["dim"] % call.output.dim()
    return _concat(call, [each.unsqueeze(axis) for each in call["tensors"]], axis)


def _concat(call: Call, tensors: Sequence[Tensor], axis: int) -> int:
    filled = [each for each in tensors if each.numel()]
    sources = [call.values.read(each) for each in filled]
    shapes = tuple(tuple(each.shape) for each in filled)
    return call.add(Concat, sources, shapes=shapes, axis=axis % call.output.dim())


# ------------------------------------------------------------------------------------------------------------- table


_ACTIVATIONS = (
    "abs", "celu", "clamp", "clamp_max", "clamp_min", "cos", "elu", "erf", "exp", "gelu", "hardshrink", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "log", "log_sigmoid", "logical_not", "mish", "neg", "reciprocal", "relu",
    "relu6", "round", "rsqrt", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softshrink", "sqrt", "square",
    "tanh", "threshold", "tril", "triu", "acos", "asin", "atan", "bitwise_not", "ceil", "cosh", "erfc", "erfinv",
    "exp2", "expm1", "floor", "frac", "isfinite", "isinf", "isnan", "log10", "log1p", "log2", "logit", "nan_to_num",
    "rrelu", "sinh", "tan", "trunc",
)  # fmt: skip
_SCANS = ("cumsum", "cumprod", "logcumsumexp")
_ELEMENTWISE = (
    "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_or", "div", "eq", "floor_divide", "fmod", "ge", "gt", "le",
    "lerp", "logical_and", "logical_or", "lt", "masked_fill", "maximum", "minimum", "mul", "ne", "pow", "remainder",
    "rsub", "sub", "where", "atan2", "bitwise_xor", "copysign", "fmax", "fmin", "heaviside",
    "hypot", "logaddexp", "logical_xor", "xlogy",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SCANS, _scan),
    "prelu": _prelu,
    "conv2d.default": _convolution,  # not conv2d.padding: torch turns 'same' into numbers first
    "conv1d.default": _convolution,
    "conv3d.default": _convolution,
    "conv_transpose2d": _convolution,
    "conv_transpose1d": _convolution,
    "convolution": _convolution,
    "_convolution": _convolution,
    "linear": _linear,
    "matmul": partial(_product, "self", "other"),
    "dot": partial(_product, "self", "tensor"),
    "mv": partial(_product, "self", "vec"),
    "mm": partial(_product, "self", "mat2"),
    "bmm": partial(_product, "self", "mat2"),
    "addmm": partial(_product_and_sum, "mat1", "mat2"),
    "baddbmm": partial(_product_and_sum, "batch1", "batch2"),
    "scaled_dot_product_attention": _attention,
    "batch_norm": partial(_normalization, "batch_norm"),
    "layer_norm": partial(_normalization, "layer_norm"),
    "group_norm": partial(_normalization, "group_norm"),
    "instance_norm": partial(_normalization, "instance_norm"),
    "rms_norm": partial(_normalization, "rms_norm"),
    "native_batch_norm": partial(_normalization, "batch_norm"),
    "_native_batch_norm_legit_no_training": partial(_normalization, "batch_norm"),
    "native_layer_norm": partial(_normalization, "layer_norm"),
    "native_group_norm": partial(_normalization, "group_norm"),
    "max_pool2d": partial(_pool, "max"),
    "max_pool2d_with_indices": partial(_pool, "max"),
    "avg_pool2d": partial(_pool, "avg"),
    "max_pool3d": partial(_pool3d, "max"),
    "max_pool3d_with_indices": partial(_pool3d, "max"),
    "avg_pool3d": partial(_pool3d, "avg"),
    "adaptive_avg_pool3d": partial(_adaptive_pool3d, "mean"),
    "adaptive_max_pool3d": partial(_adaptive_pool3d, "max"),
    "adaptive_avg_pool2d": partial(_adaptive_pool, "avg"),
    "_adaptive_avg_pool2d": partial(_adaptive_pool, "avg"),
    "adaptive_max_pool2d": partial(_adaptive_pool, "max"),
    "mean": partial(_reduce, "mean"),
    "sum": partial(_reduce, "sum"),
    "amax": partial(_reduce, "max"),
    "amin": partial(_reduce, "min"),
    "max.dim": partial(_reduce, "max"),
    "max.default": partial(_reduce, "max"),
    "min.dim": partial(_reduce, "min"),
    "min.default": partial(_reduce, "min"),
    **{name: partial(_reduce, name) for name in ("all", "any", "argmax", "argmin", "logsumexp", "prod", "std", "var")},
    "var_mean": partial(_reduce, "var"),
    "std_mean": partial(_reduce, "std"),
    "linalg_vector_norm": partial(_reduce, "norm"),
    "softmax": partial(_softmax, "self"),
    "_softmax": partial(_softmax, "self"),
    "_safe_softmax": partial(_softmax, "self"),
    "log_softmax": partial(_softmax, "self"),
    "upsample_nearest1d": partial(_resize, "nearest"),
    "upsample_linear1d": partial(_resize, "bilinear"),
    "upsample_nearest2d": partial(_resize, "nearest"),
    "upsample_bilinear2d": partial(_resize, "bilinear"),
    "upsample_bicubic2d": partial(_resize, "bicubic"),
    "_upsample_bilinear2d_aa": partial(_resize, "bilinear"),
    "_upsample_bicubic2d_aa": partial(_resize, "bicubic"),
    "grid_sampler": _grid_sample,
    "grid_sampler_2d": _grid_sample,
    **{f"{name}.{way}": _recurrent for name in ("gru", "lstm", "rnn_relu", "rnn_tanh") for way in ("data", "input")},
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), _cell),
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _unpack,
    **dict.fromkeys(("sort", "topk", "argsort"), _sort),
    "cat": _cat,
    "stack": _stack,
    "embedding": _embedding,
    "reshape": _reshape,
    "flatten": _reshape,
    "contiguous": _reshape,
    "clone": _reshape,
    "_unsafe_view": _reshape,
    **dict.fromkeys(
        ("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout
    ),
    **dict.fromkeys(("unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"), _nothing),
    "glu": _glu,
    "one_hot": _one_hot,
    "copy": _write,
    "to": partial(_move, "cast"),
    "_to_copy": partial(_move, "cast"),
    "pad": _pad,
    "constant_pad_nd": _pad,
    "roll": _roll,
    "flip": _flip,
    "repeat": _repeat,
    "repeat_interleave.self_int": _repeat_interleave,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _shuffle,
    "channel_shuffle": _shuffle,
    **dict.fromkeys(("index.Tensor", "_unsafe_index.Tensor", "index_select", "gather", "take"), _index),
    "masked_select": _masked_select,
    **dict.fromkeys(
        (
            "index_add",
            "index_copy",
            "index_fill",
            "index_put",
            "_unsafe_index_put",
            "masked_scatter",
            "scatter",
            "scatter_add",
            "scatter_reduce",
            "select_scatter",
            "slice_scatter",
        ),
        _scatter,
    ),
    "fill": _fill,
    "zero": _fill,
    "im2col": partial(_move, "im2col"),
    "col2im": _fold,
}
"""By name, or name and overload where overloads differ; writing in place shares the row of the name without `_`."""

NEW_TENSORS = frozenset(
    ("empty_like", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones_like",
     "rand_like", "randint_like", "randn_like", "zeros_like")
)  # fmt: skip
"""They take shape and type of their first argument, and none of its data."""


def _not_scalars(call: Call) -> list[Tensor]:
    return [each for each in call.tensors if each.dim() or call.values.is_learned(each)]


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())


def _pair(value: Any) -> Pair:
    """torch writes one number where both axes have it."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[-1]))


def _triple(value: Any) -> Triple:
    numbers = [value] * 3 if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[len(numbers) // 2]), int(numbers[-1]))
