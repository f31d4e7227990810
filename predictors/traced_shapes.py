"""What the commonest operators return on the meta device, told without asking torch, whose own inference is Python code
that takes most of a trace's time.

Each function either gives a tensor of the shape, strides and type that torch's kernels on a CPU would write, or None
where it is not sure: for other layouts and types, and for arguments that torch refuses, so that torch says why.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from predictors.operators import Shape, window_output

Arguments = dict[str, Any]


def output_of(name: str, arguments: Arguments) -> Tensor | None:
    """The result of an ATen operator of that name; None where torch has to be asked."""
    tell = _TOLD.get(name)
    return None if tell is None else tell(arguments)


# ------------------------------------------------------------------------------------------------------------ private


def _new(shape: Shape | torch.Size, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _like(x: Tensor) -> Tensor | None:
    """A dense tensor's copy lies as the tensor does."""
    if not x.is_floating_point():
        return None
    if x.is_contiguous():
        return _new(x.shape, x)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return torch.empty_like(x)


def _activation(arguments: Arguments) -> Tensor | None:
    return _like(arguments["self"])


def _fit(x: Tensor, *others: Tensor | None) -> bool:
    """All are numbers of one type."""
    return x.is_floating_point() and all(each is None or each.dtype == x.dtype for each in others)


def _binary(arguments: Arguments) -> Tensor | None:
    left, right = arguments["self"], arguments["other"]
    if not isinstance(left, Tensor):
        return None
    if not isinstance(right, Tensor):
        return _like(left) if isinstance(right, int | float) else None
    if not _fit(left, right):
        return None
    if left.shape == right.shape:
        return _like(left) if left.stride() == right.stride() else None
    large, small = (left, right) if left.dim() >= right.dim() else (right, left)
    if not (large.is_contiguous() and small.is_contiguous()) or large.numel() <= small.numel():
        return None
    fits = all(size in (1, whole) for size, whole in zip(small.shape[::-1], large.shape[::-1]))
    return _new(large.shape, large) if fits else None


def _batch_norm(arguments: Arguments) -> Tensor | None:
    """For another number of channels torch has to say so."""
    x, mean = arguments["input"], arguments["running_mean"]
    return _like(x) if mean is not None and x.dim() > 1 and x.shape[1] == mean.shape[0] else None


def _layer_norm(arguments: Arguments) -> Tensor | None:
    """Written densely whatever was read: `LayerNormKernelImpl` in aten/src/ATen/native/layer_norm.cpp."""
    x, shape = arguments["input"], tuple(arguments["normalized_shape"])
    weight, bias = arguments["weight"], arguments["bias"]
    learned = all(each is None or tuple(each.shape) == shape for each in (weight, bias))
    fits = tuple(x.shape[-len(shape) :]) == shape and len(shape) > 0
    return _new(x.shape, x) if fits and learned and _fit(x, weight, bias) else None


def _softmax(arguments: Arguments) -> Tensor | None:
    x, dim = arguments["self"], arguments["dim"]
    fits = x.is_contiguous() and -x.dim() <= dim < x.dim() and arguments.get("dtype") is None
    return _like(x) if fits else None


def _linear(arguments: Arguments) -> Tensor | None:
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    if weight.dim() != 2 or not x.dim() or x.shape[-1] != weight.shape[1] or not _fit(x, weight, bias):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return _new((*x.shape[:-1], weight.shape[0]), x)


def _convolution(arguments: Arguments) -> Tensor | None:
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    groups = arguments["groups"]
    if x.dim() != 4 or weight.dim() != 4 or not _fit(x, weight, bias):
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if not (x.is_contiguous() and weight.is_contiguous()) or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    windows = zip(
        x.shape[2:], weight.shape[2:], *(_both(arguments[name]) for name in ("stride", "padding", "dilation"))
    )
    size = [window_output(*window) for window in windows]
    return _new((x.shape[0], weight.shape[0], *size), x) if min(size) > 0 else None


def _both(value: Any) -> tuple[int, int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers[0], numbers[-1]


def _matmul(arguments: Arguments) -> Tensor | None:
    left, right = arguments["self"], arguments["mat2"] if "mat2" in arguments else arguments["other"]
    if not _fit(left, right) or left.dim() < 2 or left.shape[-1] != right.shape[-2 if right.dim() > 1 else -1]:
        return None
    if right.dim() == 2 or (right.dim() == left.dim() and right.shape[:-2] == left.shape[:-2]):
        return _new((*left.shape[:-1], right.shape[-1]), left)
    return None


def _attention(arguments: Arguments) -> Tensor | None:
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    if query.dim() != 4 or not query.shape[:2] == key.shape[:2] == value.shape[:2] or not _fit(query, key, value):
        return None
    if query.shape[3] != key.shape[3] or key.shape[2] != value.shape[2] or arguments["attn_mask"] is not None:
        return None
    return _new((*query.shape[:3], value.shape[3]), query)


_TOLD: dict[str, Callable[[Arguments], Tensor | None]] = {
    **dict.fromkeys(("add", "div", "mul", "sub"), _binary),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "linear": _linear,
    "conv2d": _convolution,
    **dict.fromkeys(("bmm", "matmul", "mm"), _matmul),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(
        ("abs", "celu", "cos", "elu", "erf", "exp", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
         "leaky_relu", "log", "log_sigmoid", "mish", "neg", "reciprocal", "relu", "relu6", "round", "rsqrt", "selu",
         "sigmoid", "silu", "sin", "softplus", "softshrink", "sqrt", "square", "tanh", "threshold", "tril", "triu"),
        _activation,
    ),
}  # fmt: skip
