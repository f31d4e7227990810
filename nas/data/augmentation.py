"""How training images are changed at random: plain numbers, and what they draw. `augmenting.py` applies them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_TAG = 0x617567  # parts these draws from others that begin with the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random changes of training images, in the order in which they happen; by default there is none.

    What comes into an image from outside, by padding, rotating or cutting out, has the mean colour of the data's
    normalisation.

    Args:
        crop_area: least and largest part of the image's area that a crop keeps, e.g. [0.08, 1.0]; it is resized to the
            whole. Empty: no such crop.
        crop_ratio: least and largest width / height of that crop, drawn evenly on a logarithmic scale.
        crop_padding: pixels of the stored image added on every side before a window of its size is cut.
        flip: probability of mirroring left and right.
        vertical_flip: probability of mirroring top and bottom.
        brightness: a factor within 1 - brightness .. 1 + brightness, drawn evenly, multiplies the image.
        contrast: likewise for the differences from the image's mean grey.
        saturation: likewise for the differences from the grey image; needs three channels.
        rotation_deg: images are turned by up to this angle, either way.
        num_random: operations of RandAugment's list (see `random_operations.py`) applied one after the other.
        random_strength: how strong these are at most, in 0..1; each strength is drawn evenly from 0 to it.
        cutout: probability of painting a box over the image. Its centre is drawn evenly over the image, so that part
            of the box may lie outside.
        cutout_area: least and largest part of the image's area that the whole box has.
        cutout_ratio: least and largest width / height of the box, drawn evenly on a logarithmic scale.

    Raises:
        ValueError: a number is out of its range.

    Source: crops https://arxiv.org/abs/1409.4842; padding https://arxiv.org/abs/1409.5185; boxes
    https://arxiv.org/abs/1708.04552 and https://arxiv.org/abs/1708.04896; operations https://arxiv.org/abs/1909.13719.
    """

    crop_area: tuple[float, ...] = ()
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    crop_padding: int = 0
    flip: float = 0.0
    vertical_flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    rotation_deg: float = 0.0
    num_random: int = 0
    random_strength: float = 0.3
    cutout: float = 0.0
    cutout_area: tuple[float, ...] = (0.02, 0.33)
    cutout_ratio: tuple[float, ...] = (0.3, 3.3)

    def __post_init__(self) -> None:
        for name in ("flip", "vertical_flip", "cutout", "brightness", "contrast", "saturation", "random_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation: {name} must be in 0..1, found {getattr(self, name)}")
        for name, least in (("crop_padding", 0), ("num_random", 0), ("rotation_deg", 0.0)):
            if getattr(self, name) < least:
                raise ValueError(f"augmentation: {name} must not be negative, found {getattr(self, name)}")
        for name in ("crop_area", "cutout_area"):
            found = getattr(self, name)
            if not (name == "crop_area" and found == ()) and not (len(found) == 2 and 0 < found[0] <= found[1] <= 1):
                raise ValueError(f"augmentation: {name} must be two increasing parts of 1, found {list(found)}")
        for name in ("crop_ratio", "cutout_ratio"):
            found = getattr(self, name)
            if len(found) != 2 or not 0 < found[0] <= found[1]:
                raise ValueError(f"augmentation: {name} must be two increasing ratios, found {list(found)}")
        if self.crop_area and self.crop_padding:
            raise ValueError(
                f"augmentation: crop_area {list(self.crop_area)} and crop_padding {self.crop_padding} are two ways to "
                "crop; set one of them"
            )


NO_AUGMENTATION = Augmentation()


class Draws(NamedTuple):
    """Numbers drawn evenly from 0..1, one for each image; the operation that uses one is in its name.

    New fields go to the end: then those before them stay what they were.
    """

    crop_area: np.ndarray
    crop_ratio: np.ndarray
    crop_x: np.ndarray
    crop_y: np.ndarray
    flip: np.ndarray
    vertical_flip: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    rotation: np.ndarray
    cutout: np.ndarray
    cutout_area: np.ndarray
    cutout_ratio: np.ndarray
    cutout_x: np.ndarray
    cutout_y: np.ndarray


def draws(seed: tuple[int, ...], rows: np.ndarray, num: int) -> Draws:
    """What the images at some places of a batch draw: the same, whoever has which places.

    Args:
        seed: decides the draws of all `num` images of the batch.
        rows: places of the images, in 0..num-1.

    >>> whole = draws((3, 1), np.arange(8), 8)
    >>> bool((draws((3, 1), np.array([5, 2]), 8).flip == whole.flip[[5, 2]]).all())
    True
    """
    drawn = np.random.default_rng([_TAG, *seed]).random((len(Draws._fields), num))
    return Draws(*drawn[:, rows])


def random_operations(
    seed: tuple[int, ...], rows: np.ndarray, num: int, *, num_random: int, num_kinds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of RandAugment's operations each image gets, one after the other, and how strongly.

    Returns:
        Kinds in 0..num_kinds-1, and strengths in -1..1; both of shape (num_random, len(rows)).
    """
    rng = np.random.default_rng([_TAG, 1, *seed])
    kinds = rng.integers(num_kinds, size=(num_random, num))
    strengths = rng.uniform(-1, 1, size=(num_random, num))
    return kinds[:, rows], strengths[:, rows]
