"""Random changes of whole batches of images, given what was drawn for each of them.

Images are uint8 arrays (batch, channels, height, width), and float32 tensors of that shape once colours count.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn.functional import interpolate

from nas.data.augmentation import Augmentation, Draws
from nas.data.random_operations import apply_operation, grey, rotation, warped


class Boxes(NamedTuple):
    """Parts of images, in pixels; each field is int64 of shape (batch,)."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray


def crop_boxes(asked: Augmentation, drawn: Draws, shape: tuple[int, int]) -> Boxes:
    """What each crop keeps: area and ratio drawn, then a place where it lies inside.

    width = sqrt(area * ratio), height = sqrt(area / ratio), at most the image's own.

    Args:
        shape: height and width of the images.
    """
    height, width = shape
    area = _between(asked.crop_area, drawn.crop_area)
    ratio = np.exp(_between(tuple(np.log(asked.crop_ratio)), drawn.crop_ratio))
    heights = _pixels(np.sqrt(area * height * width / ratio), height)
    widths = _pixels(np.sqrt(area * height * width * ratio), width)
    top = (drawn.crop_y * (height - heights + 1)).astype(np.int64)
    left = (drawn.crop_x * (width - widths + 1)).astype(np.int64)
    return Boxes(top, left, heights, widths)


def crops(images: np.ndarray, boxes: Boxes, size: int) -> np.ndarray:
    """The boxes of the images, each resized to `size` pixels square."""
    # One by one: every box has its own size, and torch resizes bytes faster than it would gather from a grid.
    x_BCHW = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    found = torch.empty((len(images), images.shape[1], size, size), dtype=torch.uint8)
    for index, (top, left, height, width) in enumerate(zip(*(each.tolist() for each in boxes))):
        part = x_BCHW[index : index + 1, :, top : top + height, left : left + width]
        found[index] = interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]
    return found.numpy()


def shifted(images: np.ndarray, padding: int, drawn: Draws, mean: tuple[float, ...]) -> np.ndarray:
    """A window of each image's size from the image with `padding` pixels of the mean colour on every side."""
    num, channels, height, width = images.shape
    padded = np.empty((num, channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:] = np.round(np.array(mean) * 255).astype(np.uint8).reshape(1, -1, 1, 1)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    places = [(each * (2 * padding + 1)).astype(np.int64) for each in (drawn.crop_y, drawn.crop_x)]
    return windows[np.arange(num), :, places[0], places[1]]


def flipped(images: np.ndarray, asked: Augmentation, drawn: Draws) -> np.ndarray:
    """The images, some of them mirrored; those given stay as they are."""
    for probability, draw, axis in ((asked.flip, drawn.flip, -1), (asked.vertical_flip, drawn.vertical_flip, -2)):
        if probability:
            chosen = np.flatnonzero(draw < probability)
            x_BCHW = torch.from_numpy(images).clone()
            x_BCHW[chosen] = x_BCHW[chosen].flip(axis)
            images = x_BCHW.numpy()
    return images


def resized_bytes(images: np.ndarray, size: int) -> np.ndarray:
    """The images at a height and width of `size` pixels; several times as fast as of floats."""
    if images.shape[-1] == size:
        return images
    x_BCHW = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    return interpolate(x_BCHW, size=(size, size), mode="bilinear", antialias=True).numpy()


def recoloured(x_BCHW: torch.Tensor, asked: Augmentation, drawn: Draws) -> torch.Tensor:
    """Brightness b, contrast c and saturation s of images in 0..1, in this order; what then leaves 0..1 is cut off.

    With g the grey image and m its mean:  b * (s * c * image + (1 - s) * c * g + (1 - c) * m).
    """
    if not (asked.brightness or asked.contrast or asked.saturation):
        return x_BCHW
    brightness, contrast, saturation = (
        _float32(1 + reach * (2 * draw - 1))[:, None, None, None]
        for reach, draw in (
            (asked.brightness, drawn.brightness),
            (asked.contrast, drawn.contrast),
            (asked.saturation, drawn.saturation),
        )
    )
    if not (asked.contrast or asked.saturation):
        return x_BCHW.mul_(brightness).clamp_(0, 1)
    g_B1HW = grey(x_BCHW)
    mean = g_B1HW.mean(dim=(2, 3), keepdim=True)
    base = g_B1HW.mul_(brightness * contrast * (1 - saturation)).add_(brightness * (1 - contrast) * mean)
    return x_BCHW.mul_(brightness * contrast * saturation).add_(base).clamp_(0, 1)


def changed_at_random(
    x_BCHW: torch.Tensor, kinds: np.ndarray, strengths: np.ndarray, mean: tuple[float, ...]
) -> torch.Tensor:
    """Images in 0..1 after operations of RandAugment's list, one after the other, others for each image.

    Args:
        kinds: places in `OPERATIONS`, of shape (operations, batch).
        strengths: of these, in -1..1.
    """
    fill = torch.tensor(mean)[:, None, None]
    for round_kinds, round_strengths in zip(kinds, strengths):
        for kind in np.unique(round_kinds):
            chosen = np.flatnonzero(round_kinds == kind)
            x_BCHW[chosen] = apply_operation(kind, x_BCHW[chosen], _float32(round_strengths[chosen]), fill)
    return x_BCHW


def rotated(x_BCHW: torch.Tensor, largest_deg: float, drawn: Draws) -> torch.Tensor:
    """Images turned about their middle; what comes in from outside is 0."""
    return warped(x_BCHW, rotation(_float32((2 * drawn.rotation - 1) * math.radians(largest_deg))))


def cut_out(x_BCHW: torch.Tensor, asked: Augmentation, drawn: Draws) -> torch.Tensor:
    """The images, with 0 inside the boxes that some of them get."""
    height, width = x_BCHW.shape[-2:]
    area = _between(asked.cutout_area, drawn.cutout_area)
    ratio = np.exp(_between(tuple(np.log(asked.cutout_ratio)), drawn.cutout_ratio))
    heights = _pixels(np.sqrt(area * height * width / ratio), 2 * height)
    widths = _pixels(np.sqrt(area * height * width * ratio), 2 * width)
    tops = (drawn.cutout_y * height).astype(np.int64) - heights // 2
    lefts = (drawn.cutout_x * width).astype(np.int64) - widths // 2
    pixels = x_BCHW.numpy()
    for index in np.flatnonzero(drawn.cutout < asked.cutout):
        top, left = tops[index], lefts[index]
        pixels[index, :, max(0, top) : top + heights[index], max(0, left) : left + widths[index]] = 0
    return x_BCHW


# ------------------------------------------------------------------------------------------------------------ private


def _between(ends: tuple[float, ...], draw: np.ndarray) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * draw


def _pixels(lengths: np.ndarray, most: int) -> np.ndarray:
    return np.clip(np.round(lengths), 1, most).astype(np.int64)


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
