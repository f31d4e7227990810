"""What each operator of ATen becomes: the table that `trace` reads. A new row here teaches it a new operator.

A handler takes a `Call` and returns the node that writes the call's (first) output. It returns None where it has no
formula for these arguments; torch then takes the operator apart, if it can, and the parts are looked up instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from predictors.graph import shared_operator
from predictors.movement import Steps
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
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
    Softmax,
    View,
)
from predictors.traced_values import Values


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
        return [each for each in tree_leaves(list(self.arguments.values())) if isinstance(each, Tensor)]

    def is_live(self, *arguments: str) -> bool:
        """One of these arguments depends on the network's inputs."""
        return any(self[name] is not None and self.values.is_live(self[name]) for name in arguments)

    def add(self, operator: type[Operator], inputs: Sequence[int], **fields: Any) -> int:
        return self.values.builder.add(shared_operator(operator, **fields), *inputs, name=self.values.path)

    def on_dense(self, operator: type[Operator], argument: str, **fields: Any) -> int:
        """A node that reads this argument alone, laid out as kernels like it, and that takes its shape."""
        x = self[argument]
        return self.add(operator, [self.values.read(x, dense=True)], shape=tuple(x.shape), **fields)


Handler = Callable[[Call], int | None]


# ---------------------------------------------------------------------------------------------- multiply-accumulates


def _convolution(call: Call) -> int | None:
    """One along a single axis is one of images of height 1, between two views."""
    x, weight = call["input"], call["weight"]
    if x.dim() not in (3, 4) or call.is_live("weight", "bias"):
        return None
    if x.dim() == 3:
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
    batch, in_channels, height, width = x.shape
    fields = {
        "batch": batch, "in_channels": in_channels, "height": height, "width": width, "kernel": tuple(weight.shape[2:]),
        "stride": _spatial(call, "stride", 1), "padding": _spatial(call, "padding", 0),
        "dilation": _spatial(call, "dilation", 1), "groups": call["groups"], "bias": call["bias"] is not None,
    }  # fmt: skip
    source = [call.values.read(x, dense=True)]
    if call.arguments.get("transposed", "transpose" in call.name):
        fields["output_padding"] = _spatial(call, "output_padding", 0)
        node = call.add(ConvTranspose2d, source, out_channels=weight.shape[1] * call["groups"], **fields)
    else:
        node = call.add(Conv2d, source, out_channels=weight.shape[0], **fields)
    if call["input"].dim() == 4:
        return node
    return call.add(View, [node], shape=call.values.builder.shape(node), to=tuple(call.output.shape))


def _spatial(call: Call, argument: str, of_missing_axis: int) -> Pair:
    return (of_missing_axis, _pair(call[argument])[0]) if call["input"].dim() == 3 else _pair(call[argument])


def _linear(call: Call) -> int | None:
    if call.is_live("weight", "bias"):
        return None
    return call.on_dense(Linear, "input", out_features=call["weight"].shape[0], bias=call["bias"] is not None)


def _product(left_name: str, right_name: str, call: Call) -> int | None:
    """Product of two tensors; by a constant matrix it is a linear layer."""
    left, right = call[left_name], call[right_name]
    if min(left.dim(), right.dim()) < 2:
        return None
    if right.dim() == 2 and not call.is_live(right_name):
        return call.on_dense(Linear, left_name, out_features=right.shape[1])
    sources = [call.values.read(left), call.values.read(right)]
    return call.add(MatMul, sources, left=tuple(left.shape), right=tuple(right.shape))


def _product_and_sum(left_name: str, right_name: str, call: Call) -> int | None:
    """input + left @ right, as `addmm` computes linear layers."""
    added, right = call["self"], call[right_name]
    if right.dim() == 2 and not call.is_live(right_name, "self") and added.shape == right.shape[1:]:
        return call.on_dense(Linear, left_name, out_features=right.shape[1], bias=True)
    product = _product(left_name, right_name, call)
    return None if product is None else _joined(call, "add", [product, call.values.read_broadcast(added)])


def _attention(call: Call) -> int | None:
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    if query.dim() != 4 or query.shape[:2] != key.shape[:2]:
        return None
    batch, heads, query_length, head_dim = query.shape
    sources = [call.values.read(each) for each in (query, key, value)]
    fields = {}
    if mask is not None:
        sources.append(call.values.read_broadcast(mask))
        fields["mask"] = call.values.builder.shape(sources[-1])
    return call.add(
        Attention, sources,
        batch=batch, heads=heads, query_length=query_length, key_length=key.shape[2], head_dim=head_dim,
        value_dim=value.shape[3], **fields,
    )  # fmt: skip


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
    return call.on_dense(
        Pool2d, "self", method=method, kernel=kernel,
        stride=_pair(call["stride"] or kernel), padding=_pair(call["padding"]),
        dilation=_pair(call.arguments.get("dilation", 1)), ceil_mode=call["ceil_mode"],
    )  # fmt: skip


def _adaptive_pool(method: str, call: Call) -> int | None:
    return call.on_dense(AdaptivePool2d, "self", method=method, size=tuple(call["output_size"]))


def _reduce(method: str, call: Call) -> int | None:
    x, dim = call["self"], call.arguments.get("dim")
    dims = [dim] if isinstance(dim, int) else dim or range(x.dim())
    axes = tuple(sorted(axis % x.dim() for axis in dims))
    keepdim = call.arguments.get("keepdim", False)
    source = call.values.read(x)
    return call.add(Reduce, [source], shape=tuple(x.shape), method=method, axes=axes, keepdim=keepdim)


def _resize(method: str, call: Call) -> int | None:
    argument = "input" if "input" in call.arguments else "self"
    return call.on_dense(Resize, argument, method=method, size=tuple(call.output.shape[2:]))


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
    """At inference it returns its input, which is told by its storage before the handler is asked."""
    return None


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
    """`copy_`: the source, broadcast, in place of all that `self` held."""
    source, to = call["src"], tuple(call["self"].shape)
    longer = (1,) * (len(to) - source.dim()) + tuple(source.shape)
    steps: Steps = (("reshape", longer), ("expand", to)) if longer != to else (("reshape", to),)
    return call.add(Copy, [call.values.read(source)], shape=tuple(source.shape), to=to, method="copy", steps=steps)


def _embedding(call: Call) -> int | None:
    if call.is_live("weight"):
        return None
    num_rows, features = call["weight"].shape
    indices = call["indices"]
    source = call.values.read(indices)
    return call.add(Embedding, [source], shape=tuple(indices.shape), num_rows=num_rows, features=features)


# -------------------------------------------------------------------------------------- operators on several tensors


def _elementwise(call: Call) -> int | None:
    """Scalars, be they numbers or constant tensors without axes, are part of the kernel and not read."""
    return _joined(call, call.name, [call.values.read_broadcast(each) for each in _not_scalars(call)])


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
    "tanh", "threshold", "tril", "triu",
)  # fmt: skip
_ELEMENTWISE = (
    "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_or", "div", "eq", "floor_divide", "fmod", "ge", "gt", "le",
    "lerp", "logical_and", "logical_or", "lt", "masked_fill", "maximum", "minimum", "mul", "ne", "pow", "remainder",
    "rsub", "sub", "where",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "prelu": _prelu,
    "conv2d.default": _convolution,  # not conv2d.padding: torch turns 'same' into numbers first
    "conv1d.default": _convolution,
    "conv_transpose2d": _convolution,
    "conv_transpose1d": _convolution,
    "convolution": _convolution,
    "_convolution": _convolution,
    "linear": _linear,
    "matmul": partial(_product, "self", "other"),
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
    "max_pool2d": partial(_pool, "max"),
    "max_pool2d_with_indices": partial(_pool, "max"),
    "avg_pool2d": partial(_pool, "avg"),
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
    "argmax": partial(_reduce, "argmax"),
    "var": partial(_reduce, "var"),
    "std": partial(_reduce, "std"),
    "linalg_vector_norm": partial(_reduce, "norm"),
    "softmax": partial(_softmax, "self"),
    "_softmax": partial(_softmax, "self"),
    "_safe_softmax": partial(_softmax, "self"),
    "log_softmax": partial(_softmax, "self"),
    "upsample_nearest2d": partial(_resize, "nearest"),
    "upsample_bilinear2d": partial(_resize, "bilinear"),
    "upsample_bicubic2d": partial(_resize, "bicubic"),
    "cat": _cat,
    "stack": _stack,
    "embedding": _embedding,
    "reshape": _reshape,
    "flatten": _reshape,
    "contiguous": _reshape,
    "clone": _reshape,
    "_unsafe_view": _reshape,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _nothing),
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
    "index.Tensor": partial(_move, "gather"),
    "index_select": partial(_move, "gather"),
}
"""By name, or name and overload where overloads differ; writing in place shares the row of the name without `_`."""

KEEP_SHAPE = frozenset(_ACTIVATIONS) - {"logical_not", "sign", "clamp", "clamp_max", "clamp_min"}
"""Their output is laid out as their first argument; torch's own inference of that takes most of a trace's time."""


def _not_scalars(call: Call) -> list[Tensor]:
    return [each for each in call.tensors if each.dim() or call.values.is_learned(each)]


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())


def _pair(value: Any) -> Pair:
    """torch writes one number where both axes have it."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[-1]))
