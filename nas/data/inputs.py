"""From stored images to what networks take: normalised, channels last, of the asked size."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from nas.data import augmenting
from nas.data.augmentation import NO_AUGMENTATION, Draws, draws, random_operations
from nas.data.images import ImageData, Normalisation
from nas.data.random_operations import OPERATIONS

_CACHED = 2**20  # numbers of the images that are changed at a time: they then stay in a processor's cache


def evaluation_input(data: ImageData, images: np.ndarray, size: int) -> torch.Tensor:
    """What networks are judged on: float32 of shape (batch, channels, size, size), the middle of the images.

    Args:
        images: uint8 of shape (batch, channels, height, width), as `Images.read` gives them.
        size: height and width in pixels.
    """
    return resized(normalised(middle(images, data.evaluation_crop), data.normalisation), size)


def training_input(
    data: ImageData, images: np.ndarray, size: int, *, seed: tuple[int, ...], rows: np.ndarray, num: int
) -> torch.Tensor:
    """What networks learn from: like `evaluation_input`, augmented as the data says.

    Args:
        images: uint8 of shape (batch, channels, height, width).
        size: height and width in pixels.
        seed: decides the augmentation of a whole batch of `num` images.
        rows: places in that batch of the images given, so that several processes augment as one would.
    """
    asked = data.augmentation
    if asked == NO_AUGMENTATION or not len(images):
        return evaluation_input(data, images, size)
    drawn = draws(seed, rows, num)
    operations = random_operations(seed, rows, num, num_random=asked.num_random, num_kinds=len(OPERATIONS))
    channels = images.shape[1]
    x_BCHW = torch.empty((len(images), channels, size, size), memory_format=torch.channels_last)
    at_a_time = max(1, _CACHED // (channels * size * size))
    for start in range(0, len(images), at_a_time):
        part = slice(start, start + at_a_time)
        x_BCHW[part] = _augmented(
            data, images[part], size, Draws(*(each[part] for each in drawn)), [each[:, part] for each in operations]
        )
    return x_BCHW


def normalised(images: np.ndarray, normalisation: Normalisation) -> torch.Tensor:
    """uint8 of shape (batch, channels, height, width) as float32, channels last in memory."""
    num, channels, height, width = images.shape
    if channels == 1:
        x_BCHW = torch.from_numpy(images).contiguous().float().div_(255)
        return x_BCHW.sub_(_column(normalisation.mean)).div_(_column(normalisation.std))
    # As rows of whole lines, torch does each of these on every element several times as fast as by channels.
    lines = torch.from_numpy(images).permute(0, 2, 3, 1).reshape(num, height, width * channels).float().div_(255)
    mean, std = (
        torch.tensor(each).expand(width, channels).reshape(-1) for each in (normalisation.mean, normalisation.std)
    )
    return lines.sub_(mean).div_(std).view(num, height, width, channels).permute(0, 3, 1, 2)


def resized(x_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The images at a height and width of `size` pixels, in the memory format that they have."""
    if x_BCHW.shape[-1] == size:
        return x_BCHW
    if x_BCHW.is_contiguous() or x_BCHW.device.type != "cpu":
        return interpolate(x_BCHW, size=(size, size), mode="bilinear", antialias=True)
    # torch resizes one channel after the other in half the time, to the same values.
    found = interpolate(x_BCHW.contiguous(), size=(size, size), mode="bilinear", antialias=True)
    return found.contiguous(memory_format=torch.channels_last)


def middle(images: np.ndarray, part: float) -> np.ndarray:
    """The middle of square images (batch, channels, height, width): `part` of their height and width, at least 1 pixel.

    >>> middle(np.zeros((1, 3, 256, 256), np.uint8), 0.875).shape
    (1, 3, 224, 224)
    """
    size = images.shape[-1]
    kept = max(1, round(part * size))
    start = (size - kept) // 2
    return images[..., start : start + kept, start : start + kept]


# ------------------------------------------------------------------------------------------------------------ private


def _augmented(
    data: ImageData, images: np.ndarray, size: int, drawn: Draws, operations: Sequence[np.ndarray]
) -> torch.Tensor:
    """The images, each changed by what it drew, and normalised."""
    asked, mean, std = data.augmentation, data.normalisation.mean, data.normalisation.std
    if asked.crop_area:
        images = augmenting.crops(images, augmenting.crop_boxes(asked, drawn, images.shape[-2:]), size)
    else:
        images = middle(images, data.evaluation_crop)
    if asked.crop_padding:
        images = augmenting.shifted(images, asked.crop_padding, drawn, mean)
    images = augmenting.resized_bytes(augmenting.flipped(images, asked, drawn), size)
    x_BCHW = torch.from_numpy(images).contiguous().float().div_(255)
    x_BCHW = augmenting.recoloured(x_BCHW, asked, drawn)
    if asked.num_random:
        kinds, strengths = operations
        x_BCHW = augmenting.changed_at_random(x_BCHW, kinds, strengths * asked.random_strength, mean)
    x_BCHW = x_BCHW.sub_(_column(mean)).div_(_column(std))
    if asked.rotation_deg:
        x_BCHW = augmenting.rotated(x_BCHW, asked.rotation_deg, drawn)
    if asked.cutout:
        x_BCHW = augmenting.cut_out(x_BCHW, asked, drawn)
    return x_BCHW


def _column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]
