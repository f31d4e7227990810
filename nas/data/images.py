"""Images with labels in three disjoint parts: what training, search and the last check read."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from nas.data.augmentation import NO_AUGMENTATION, Augmentation


class Batch(NamedTuple):
    """Images, uint8 of shape (num, channels, height, width), and their classes, int64 of shape (num,).

    Args:
        rows: which of the images asked for these are, as places in what was asked, int64 of shape (num,); None: all.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None = None

    def places(self, asked: np.ndarray) -> np.ndarray:
        """Those of the things asked for, one an image, whose images are here."""
        return asked if self.rows is None else asked[self.rows]


class Images(Protocol):
    """Square images of one size with their classes, in memory or in files."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int64 of shape (num,)."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of every image."""

    @property
    def digest(self) -> str:
        """A hash of every label and of what tells every image from another: its pixels, or its file's name and size."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """The images at these places, in this order. Those that cannot be read are left out, named and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What is subtracted from and what divides the channels of an image whose white is 1: one number for each channel,
    or one for all.

    Raises:
        ValueError: the two differ in length, or a deviation is not positive.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"normalisation: mean and std must have one number a channel, std positive, found mean "
                f"{list(self.mean)} and std {list(self.std)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Images in memory, uint8 of shape (num, channels, height, width), and their classes, int64 of shape (num,)."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[2] != self.images.shape[3]:
            raise ValueError(
                "images must be square and uint8 of shape (num, channels, height, width), "
                f"found {self.images.dtype} of shape {self.images.shape}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{len(self.images)} images need as many int64 labels, "
                f"found {self.labels.dtype} of shape {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256(str(self.images.shape).encode())
        hashed.update(self.images.tobytes())
        hashed.update(self.labels.tobytes())
        return hashed.hexdigest()

    def read(self, indices: np.ndarray) -> Batch:
        return Batch(self.images[indices], self.labels[indices])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """A classification task. `valid` guides the search; `test` is only for the figures reported at the end.

    Args:
        augmentation: how training images are changed at random; training alone applies it.
        evaluation_crop: part of an image's height and width that is looked at, from its middle; without random crops,
            training looks at no more.
        class_names: what the classes are called, in their order; empty where they have no names.

    Raises:
        ValueError: a part is empty, has another image shape than the others, or a label outside of the classes; or the
            normalisation, the augmentation or the names do not fit the images.
    """

    name: str
    num_classes: int
    train: Images
    valid: Images
    test: Images
    normalisation: Normalisation = Normalisation()
    augmentation: Augmentation = NO_AUGMENTATION
    evaluation_crop: float = 1.0
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            part: Images = getattr(self, name)
            if not len(part):
                raise ValueError(f"data {self.name!r} has no images for {name}")
            if part.image_shape != self.train.image_shape:
                raise ValueError(
                    f"data {self.name!r}: images of {name} have shape {part.image_shape}, "
                    f"those of train {self.train.image_shape}"
                )
            if part.labels.min() < 0 or part.labels.max() >= self.num_classes:
                raise ValueError(f"data {self.name!r}: a label of {name} is not in 0..{self.num_classes - 1}")
        if len(self.normalisation.mean) not in (1, self.in_channels):
            raise ValueError(
                f"data {self.name!r}: normalisation has {len(self.normalisation.mean)} means, the images "
                f"{self.in_channels} channels"
            )
        if self.augmentation.saturation and self.in_channels != 3:
            raise ValueError(
                f"data {self.name!r}: augmentation: saturation needs three channels, the images have {self.in_channels}"
            )
        if not 0 < self.evaluation_crop <= 1:
            raise ValueError(
                f"data {self.name!r}: evaluation_crop must be in 0 < evaluation_crop <= 1, found {self.evaluation_crop}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"data {self.name!r} has {self.num_classes} classes and {len(self.class_names)} names")

    @property
    def in_channels(self) -> int:
        return self.train.image_shape[0]

    @property
    def digest(self) -> str:
        """A hash of all that training reads."""
        text = f"{self.train.digest} {self.num_classes} {self.normalisation}"
        if self.augmentation != NO_AUGMENTATION or self.evaluation_crop != 1:
            text += f" {self.augmentation} {self.evaluation_crop}"
        return hashlib.sha256(text.encode()).hexdigest()


class ImageSource(Protocol):
    """Where a task comes from: a frozen dataclass whose fields are the keys of its file in configs/data."""

    def load(self) -> ImageData: ...
