"""Images with labels in three disjoint parts: what training, search and the last check read."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """Images, uint8 of shape (num, channels, height, width), and their classes, int64 of shape (num,)."""

    images: np.ndarray
    labels: np.ndarray


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
        """A hash of every image and label."""

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

    Raises:
        ValueError: a part is empty, has another image shape than the others, or a label outside of the classes.
    """

    name: str
    num_classes: int
    train: Images
    valid: Images
    test: Images
    normalisation: Normalisation = Normalisation()

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

    @property
    def in_channels(self) -> int:
        return self.train.image_shape[0]

    @property
    def digest(self) -> str:
        """A hash of all that training reads."""
        return hashlib.sha256(f"{self.train.digest} {self.num_classes} {self.normalisation}".encode()).hexdigest()


class ImageSource(Protocol):
    """Where a task comes from: a frozen dataclass whose fields are the keys of its file in configs/data."""

    def load(self) -> ImageData: ...
