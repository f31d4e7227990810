"""The operations that RandAugment chooses from, each for many images at once, each with its own strength.

Images are float32 in 0..1 of shape (batch, channels, height, width); strengths are in -1..1, of shape (batch,).

Source: E. D. Cubuk et al., "RandAugment", https://arxiv.org/abs/1909.13719; ranges as in its reference code: turning by
up to 30 degrees, shearing by 0.3, shifting by 0.45 of the image, factors of 0.1 to 1.9, posterising to 4 bits.
"""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import conv2d, grid_sample

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""

Operation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def grey(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Brightness, of shape (batch, 1, height, width): weighted for three channels, else their mean."""
    if x_BCHW.shape[1] != 3:
        return x_BCHW.mean(dim=1, keepdim=True)
    red, green, blue = (x_BCHW[:, index : index + 1] for index in range(3))
    return red.mul(GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])


def mixed(base: torch.Tensor, x_BCHW: torch.Tensor, factors_B: torch.Tensor) -> torch.Tensor:
    """base + factor * (image - base), in 0..1."""
    factors = factors_B[:, None, None, None]
    return (x_BCHW * factors).add_(base * (1 - factors)).clamp_(0, 1)


def warped(x_BCHW: torch.Tensor, matrix_B23: torch.Tensor, fill: torch.Tensor | None = None) -> torch.Tensor:
    """Each image where the matrix sends its points, which are in -1..1 with the middle at 0.

    Args:
        matrix_B23: from places in the result to places in the image.
        fill: what lies outside, of shape (channels, 1, 1); None: 0.
    """
    height, width = x_BCHW.shape[-2:]
    # affine_grid makes the same grid, ten times as slowly.
    y = (torch.arange(height) * 2 + 1) / height - 1
    x = (torch.arange(width) * 2 + 1) / width - 1
    m = matrix_B23[..., None]
    grid = torch.empty(len(x_BCHW), height, width, 2)
    for axis in range(2):
        torch.add((m[:, axis, 0] * x)[:, None, :], (m[:, axis, 1] * y + m[:, axis, 2])[:, :, None], out=grid[..., axis])
    if fill is None:
        return grid_sample(x_BCHW, grid, align_corners=False)
    return grid_sample(x_BCHW - fill, grid, align_corners=False).add_(fill)


def rotation(angle_B: torch.Tensor) -> torch.Tensor:
    """The matrices (batch, 2, 3) that turn images by these angles, in radians."""
    cos, sin, zero = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    return torch.stack([cos, sin, zero, -sin, cos, zero], dim=1).reshape(-1, 2, 3)


def apply_operation(kind: int, x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The images after operation number `kind` of `OPERATIONS`.

    Args:
        mean: colour of what comes in from outside, of shape (channels, 1, 1).
    """
    return list(OPERATIONS.values())[kind](x_BCHW, strengths_B, mean)


# ------------------------------------------------------------------------------------------------------------ private


def _affine(entry: int, largest: float) -> Operation:
    """The identity, but for one entry of its matrix [0 1 2; 3 4 5], which is strength * largest."""

    def operation(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(2, 3).repeat(len(x_BCHW), 1, 1)
        matrix.view(-1, 6)[:, entry] = strengths_B * largest
        return warped(x_BCHW, matrix, mean)

    return operation


def _identity(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return x_BCHW


def _rotate(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return warped(x_BCHW, rotation(strengths_B * math.radians(30)), mean)


def _brightness(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return mixed(torch.zeros(1), x_BCHW, _factors(strengths_B))


def _contrast(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return mixed(grey(x_BCHW).mean(dim=(2, 3), keepdim=True), x_BCHW, _factors(strengths_B))


def _saturation(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return mixed(grey(x_BCHW), x_BCHW, _factors(strengths_B)) if x_BCHW.shape[1] == 3 else x_BCHW


def _sharpness(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Differences from the image smoothed by 3x3 weights of which the middle has 5, the others 1; borders stay."""
    channels = x_BCHW.shape[1]
    weights = torch.ones(channels, 1, 3, 3)
    weights[:, :, 1, 1] = 5
    smooth = x_BCHW.clone()
    if min(x_BCHW.shape[-2:]) > 2:
        smooth[:, :, 1:-1, 1:-1] = conv2d(x_BCHW, weights / 13, groups=channels)
    return mixed(smooth, x_BCHW, _factors(strengths_B))


def _posterise(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Only the leading 8 to 4 bits of each value."""
    step = torch.exp2(strengths_B.abs().mul(4).round())[:, None, None, None]
    return (x_BCHW * 255 + 1e-3).div_(step).floor_().mul_(step).div_(255)


def _solarise(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Values from 1 - strength upwards become their negative."""
    threshold = (1 - strengths_B.abs())[:, None, None, None]
    return torch.where(x_BCHW >= threshold, 1 - x_BCHW, x_BCHW)


def _autocontrast(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0..1; one of a single value stays."""
    least, most = x_BCHW.amin(dim=(2, 3), keepdim=True), x_BCHW.amax(dim=(2, 3), keepdim=True)
    is_flat = most <= least
    scale = torch.where(is_flat, torch.ones(1), most - least)
    return (x_BCHW - torch.where(is_flat, torch.zeros(1), least)) / scale


def _equalise(x_BCHW: torch.Tensor, strengths_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Each channel's values of 0..255 spread so that all are about equally frequent; one of a single value stays.

    With h the histogram, step = (pixels - h[last value that occurs]) // 255, value v becomes
    (sum of h below v + step // 2) // step.
    """
    num, channels, height, width = x_BCHW.shape
    values = (x_BCHW * 255).round().long().reshape(num * channels, height * width)
    histogram = torch.zeros(num * channels, 256, dtype=torch.long).scatter_add_(1, values, torch.ones_like(values))
    last = values.amax(dim=1, keepdim=True)
    step = (height * width - histogram.gather(1, last)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256), table)
    return table.gather(1, values).reshape(num, channels, height, width).float().div_(255)


def _factors(strengths_B: torch.Tensor) -> torch.Tensor:
    return 1 + 0.9 * strengths_B


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "rotate": _rotate,
    "shear_x": _affine(1, 0.3),
    "shear_y": _affine(3, 0.3),
    "shift_x": _affine(2, 0.9),  # of -1..1, which is 0.45 of the width
    "shift_y": _affine(5, 0.9),
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "posterise": _posterise,
    "solarise": _solarise,
    "autocontrast": _autocontrast,
    "equalise": _equalise,
}
"""RandAugment's list; a name is a function of images, strengths and the colour of what comes in from outside."""
