"""ONNX operators that slide a window over an image, as torch operators: convolutions, pooling, resizing."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from predictors.onnx.call import OnnxCall, Result

_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (functional.conv_transpose1d, functional.conv_transpose2d)
_MAX_POOLS: tuple[Callable[..., Result], ...] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE_POOLS: tuple[Callable[..., Tensor], ...] = (
    functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d,
)  # fmt: skip


def conv(call: OnnxCall) -> Tensor:
    x, weight, bias = call[0], call[1], call.get(2)
    axes = x.dim() - 2
    if not 1 <= axes <= 3:
        raise ValueError(f"convolutions have one to three spatial axes, found input {tuple(x.shape)}")
    stride, dilation = call.attribute("strides", [1] * axes), call.attribute("dilations", [1] * axes)
    x, padding = padded(call, x, weight.shape[2:], stride, dilation)
    return _CONVOLUTIONS[axes - 1](x, weight, bias, stride, padding, dilation, call.attribute("group", 1))


def padded(
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
    elif mode == "VALID":
        pads = [0] * 2 * axes
    if pads[:axes] == pads[axes:]:
        return x, pads[:axes]
    return functional.pad(x, torch_pads([0, 0, *pads[:axes], 0, 0, *pads[axes:]]), value=value), [0] * axes


def torch_pads(pads: Sequence[int]) -> list[int]:
    """ONNX lists all begins, then all ends; torch begins and ends from the last axis on."""
    rank = len(pads) // 2
    return [pad for axis in range(rank - 1, -1, -1) for pad in (pads[axis], pads[rank + axis])]


def average_pool(call: OnnxCall) -> Tensor:
    kernel = call.attribute("kernel_shape")
    axes = len(kernel)
    stride = call.attribute("strides", [1] * axes)
    x, padding = padded(call, call[0], kernel, stride, [1] * axes)
    return _AVERAGE_POOLS[axes - 1](x, kernel, stride, padding, bool(call.attribute("ceil_mode", 0)))


def max_pool(call: OnnxCall) -> Result:
    kernel = call.attribute("kernel_shape")
    axes = len(kernel)
    stride, dilation = call.attribute("strides", [1] * axes), call.attribute("dilations", [1] * axes)
    x, padding = padded(call, call[0], kernel, stride, dilation, float("-inf"))
    return _MAX_POOLS[axes - 1](
        x, kernel, stride, padding, dilation, bool(call.attribute("ceil_mode", 0)), len(call.node.outputs) > 1
    )


def global_pool(method: str, call: OnnxCall) -> Tensor:
    """Of an image pooling, of other tensors a reduction over all that is not batch and channels."""
    x = call[0]
    if x.dim() == 4:
        pool = functional.adaptive_avg_pool2d if method == "mean" else functional.adaptive_max_pool2d
        found: Tensor = pool(x, 1)
        return found
    axes = list(range(2, x.dim()))
    return x.mean(axes, True) if method == "mean" else x.amax(axes, True)


# ------------------------------------------------------------------------------------------------------------ private


def _conv_transpose(call: OnnxCall) -> Tensor:
    """Padding that is unequal, or that follows from a shape, cuts the result of none."""
    x, weight = call[0], call[1]
    axes = x.dim() - 2
    if axes not in (1, 2):
        raise ValueError(f"transposed convolutions have one or two spatial axes, found input {tuple(x.shape)}")
    stride, dilation = call.attribute("strides", [1] * axes), call.attribute("dilations", [1] * axes)
    extra = call.attribute("output_padding", [0] * axes)
    pads = list(call.attribute("pads", [0] * 2 * axes))
    mode, to = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    if mode.startswith("SAME") and to is None:
        to = [size * step for size, step in zip(x.shape[2:], stride)]
    if to is not None:
        for axis, (size, step, window, spread, more, wanted) in enumerate(
            zip(x.shape[2:], stride, weight.shape[2:], dilation, extra, to[-axes:])
        ):
            whole = max((size - 1) * step + more + (window - 1) * spread + 1 - wanted, 0)
            pads[axis] = whole - whole // 2 if mode == "SAME_LOWER" else whole // 2
            pads[axes + axis] = whole - pads[axis]
    equal = pads[:axes] == pads[axes:]
    padding, groups = pads[:axes] if equal else [0] * axes, call.attribute("group", 1)
    found = _TRANSPOSED[axes - 1](x, weight, call.get(2), stride, padding, extra, groups, dilation)
    if not equal:
        for axis in range(axes):
            found = found.narrow(2 + axis, pads[axis], found.shape[2 + axis] - pads[axis] - pads[axes + axis])
    return found


def _resize(call: OnnxCall) -> Tensor:
    x = call[0]
    sizes = call.numbers(3)
    if not sizes:
        scales = call.numbers(2 if call.opset > 10 and call.node.op_type == "Resize" else 1, "scales") or []
        axes = call.attribute("axes") or range(x.dim())
        sizes = [int(x.shape[axis] * scale) for axis, scale in zip(axes, scales)]
    elif (policy := call.attribute("keep_aspect_ratio_policy", "stretch")) != "stretch":
        kept = call.attribute("axes") or range(x.dim())
        choose = min if policy == "not_larger" else max
        scale = choose(size / x.shape[axis] for size, axis in zip(sizes, kept))
        sizes = [round(x.shape[axis] * scale) for axis in kept]
    if axes := call.attribute("axes"):
        by_axis = dict(zip([axis % x.dim() for axis in axes], sizes))
        sizes = [by_axis.get(axis, size) for axis, size in enumerate(x.shape)]
    if list(sizes) == list(x.shape):
        return x
    said = call.attribute("mode", "nearest")
    linear = {3: "linear", 4: "bilinear"}.get(x.dim())
    mode = {"nearest": "nearest", "linear": linear, "bilinear": linear, "cubic": "bicubic"}.get(said)
    if mode is None or x.dim() not in (3, 4) or len(sizes) != x.dim() or list(sizes[:2]) != list(x.shape[:2]):
        raise ValueError(f"resizing {tuple(x.shape)} to {tuple(sizes)} by {said!r} has no formula here")
    return functional.interpolate(x, tuple(sizes[2:]), mode=mode)


def _grid_sample(call: OnnxCall) -> Tensor:
    mode = call.attribute("mode", "linear")
    return functional.grid_sample(
        call[0], call[1], {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode),
        call.attribute("padding_mode", "zeros"), bool(call.attribute("align_corners", 0)),
    )  # fmt: skip


def _fold(call: OnnxCall) -> Tensor:
    size, kernel = tuple(call.numbers(1) or ()), tuple(call.numbers(2) or ())
    pads = call.attribute("pads", [0] * 4)
    if pads[:2] != pads[2:]:
        raise ValueError("columns become an image with equal padding here")
    return functional.fold(
        call[0], size, kernel, call.attribute("dilations", [1, 1]), pads[:2], call.attribute("strides", [1, 1])
    )


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


WINDOWS: dict[str, Callable[[OnnxCall], Result]] = {
    "AveragePool": average_pool,
    "Col2Im": _fold,
    "Conv": conv,
    "ConvInteger": lambda call: conv(call.with_tensors(call[0], call[1])),
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": partial(global_pool, "mean"),
    "GlobalMaxPool": partial(global_pool, "max"),
    "GridSample": _grid_sample,
    "LRN": lambda call: functional.local_response_norm(call[0], call.attribute("size")),
    "MaxPool": max_pool,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Upsample": _resize,
    "whole.IntegerConv": lambda call: conv(call.with_tensors(call[0], call[1], _channels(call.get(2)))),
}


def _channels(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else torch.empty(bias.numel(), device="meta")
