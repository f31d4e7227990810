"""From stored images to what networks take: normalised, channels last, of the asked size."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from nas.data.images import ImageData, Normalisation


def evaluation_input(data: ImageData, images: np.ndarray, size: int) -> torch.Tensor:
    """What networks are judged on: float32 of shape (batch, channels, size, size).

    Args:
        images: uint8 of shape (batch, channels, height, width), as `Images.read` gives them.
        size: height and width in pixels.
    """
    return resized(normalised(images, data.normalisation), size)


def training_input(
    data: ImageData, images: np.ndarray, size: int, *, seed: tuple[int, ...], rows: np.ndarray, num: int
) -> torch.Tensor:
    """What networks learn from: like `evaluation_input`, augmented as the data says.

    Args:
        seed: decides the augmentation of a whole batch of `num` images.
        rows: places in that batch of the images given, so that several processes augment as one would.
    """
    return evaluation_input(data, images, size)


def normalised(images: np.ndarray, normalisation: Normalisation) -> torch.Tensor:
    """uint8 of shape (batch, channels, height, width) as float32, channels last in memory."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (normalisation.mean, normalisation.std))
    x_BCHW = torch.from_numpy(images).contiguous(memory_format=torch.channels_last).float()
    return x_BCHW.div_(255).sub_(mean).div_(std)


def resized(x_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The images at a height and width of `size` pixels."""
    if x_BCHW.shape[-1] == size:
        return x_BCHW
    return interpolate(x_BCHW, size=(size, size), mode="bilinear", antialias=True)
