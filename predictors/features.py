"""What decides how much of a device's peaks a kernel reaches, as numbers: logs of sizes, work and quantisation.

Two views of a kernel, which err in different ways: its shape as a programmer writes it, and the work that follows from
it. Quantisation is what is computed in vain, since hardware works in whole vectors, tiles and waves of work groups.
"""

from collections.abc import Sequence
from math import ceil, e, prod

import numpy as np
from numpy.typing import NDArray

from predictors.cost import Cost
from predictors.fusion import Kernel
from predictors.operators import Conv2d, ConvTranspose2d, Pool2d

_TILES = ((128, 128), (128, 64), (64, 64), (32, 32))
"""Positions and channels of one work group's part of the output, as GPU libraries of products and convolutions cut it:
NVIDIA, "Matrix Multiplication Background User's Guide", DU-09799-001, 2023, tile and wave quantisation."""
_VECTORS = (4, 8, 16, 32)
_ACTIVATIONS = (("relu", "relu6"), ("hardswish", "hardsigmoid", "hardtanh"), ("silu", "sigmoid", "gelu", "tanh"))

SHAPE_VIEW = (
    "batch", "channels", "channels_in", "height", "window", "window_width", "stride", "dilation", "group_size",
    "relu", "hard", "soft", "add", "second",
)  # fmt: skip
WORK_VIEW = (
    "macs", "traffic", "weights", "channels", "channels_in", "positions", "height", "window", "stride", "products",
    "intensity", "followers", "relu", "hard", "soft", "add", "second",
    "vain_channels_4", "vain_channels_8", "vain_channels_16", "vain_channels_32", "vain_inputs_4", "vain_inputs_8",
    "vain_width_8", *(f"vain_tile_{rows}x{columns}" for rows, columns in _TILES),
)  # fmt: skip


def kernel_features(kernel: Kernel, cost: Cost) -> NDArray[np.float64]:
    """Log features of a kernel without its device: work, traffic, sizes, window and stride, (9,)."""
    anchor = kernel.anchor
    channels, channels_in = _channels(kernel)
    window, stride = (anchor.kernel[0], anchor.stride[0]) if isinstance(anchor, Conv2d) else (1, 1)
    return np.log(
        [
            1.0 + cost.macs,
            1.0 + cost.traffic_bytes,
            1.0 + cost.weight_bytes,
            channels,
            channels_in,
            anchor.write_elements / channels,
            window,
            stride,
            1.0 + len(kernel.fused),
        ]
    )


def view_features(
    kernels: Sequence[Kernel], costs: Sequence[Cost], views: Sequence[Sequence[str]], compute_units: int | None = None
) -> tuple[NDArray[np.float64], ...]:
    """Log features of K kernels for each view, (kernels, len(view)).

    Args:
        kernels, costs: what is launched, and what it costs as executed.
        views: `SHAPE_VIEW`, `WORK_VIEW`.
        compute_units: how many work groups the device runs at once; None where it is not known, and then tiles and
            waves are left out (0 for all kernels).
    """
    rows = [_numbers(kernel, cost, compute_units) for kernel, cost in zip(kernels, costs)]
    return tuple(np.log([[row[name] for name in view] for row in rows]) for view in views)


# ------------------------------------------------------------------------------------------------------------ private


def _channels(kernel: Kernel) -> tuple[int, int]:
    output = kernel.anchor.output_shape
    inputs = kernel.anchor.input_shapes[0] if kernel.anchor.input_shapes else (1,)
    return (
        (output[1] if len(output) >= 4 else output[-1]) if output else 1,
        (inputs[1] if len(inputs) >= 4 else inputs[-1]) if inputs else 1,
    )


def _numbers(kernel: Kernel, cost: Cost, compute_units: int | None) -> dict[str, float]:
    """Positive numbers whose logs are the features; a flag is e or 1, so that its log is 1 or 0."""
    anchor = kernel.anchor
    channels, channels_in = _channels(kernel)
    output, inputs = anchor.output_shape, anchor.input_shapes[0] if anchor.input_shapes else (1,)
    window, stride, dilation = (1, 1), 1, 1
    if isinstance(anchor, Conv2d | ConvTranspose2d | Pool2d):
        window, stride = anchor.kernel, anchor.stride[0]
    if isinstance(anchor, Conv2d):
        dilation = anchor.dilation[0]
    written = max(anchor.write_elements, 1)
    positions = written / channels
    follows = {operator.variant for operator in kernel.fused}
    numbers = {
        "batch": output[0] if len(output) >= 2 else 1,
        "channels": channels,
        "channels_in": channels_in,
        "height": inputs[-2] if len(inputs) >= 4 else 1,
        "window": window[0],
        "window_width": window[1],
        "stride": stride,
        "dilation": dilation,
        "group_size": channels_in / getattr(anchor, "groups", 1),
        "second": prod(anchor.input_shapes[1]) / prod(inputs) if len(anchor.input_shapes) > 1 else 1.0,
        "macs": 1.0 + cost.macs,
        "traffic": 1.0 + cost.traffic_bytes,
        "weights": 1.0 + cost.weight_bytes,
        "positions": positions,
        "products": max(cost.macs, 1) / written,
        "intensity": max(cost.arithmetic_intensity, 1e-3),
        "followers": 1.0 + len(kernel.fused),
        "relu": e if follows.intersection(_ACTIVATIONS[0]) else 1.0,
        "hard": e if follows.intersection(_ACTIVATIONS[1]) else 1.0,
        "soft": e if follows.intersection(_ACTIVATIONS[2]) else 1.0,
        "add": e if "add" in follows else 1.0,
    }
    for vector in _VECTORS:
        numbers[f"vain_channels_{vector}"] = ceil(channels / vector) * vector / channels
        numbers[f"vain_inputs_{vector}"] = ceil(channels_in / vector) * vector / channels_in
    width = output[-1] if len(output) >= 4 else 1
    numbers["vain_width_8"] = ceil(width / 8) * 8 / width
    for rows, columns in _TILES:
        tiles = ceil(positions / rows) * ceil(channels / columns)
        waves = ceil(tiles / compute_units) * compute_units if compute_units else None
        numbers[f"vain_tile_{rows}x{columns}"] = waves * rows * columns / written if waves else 1.0
    return numbers
