"""Images with labels in three disjoint parts: what training, search and the last check read."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Images, uint8 of shape (num, channels, height, width), and their classes, int64 of shape (num,)."""

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """A classification task. `valid` guides the search; `test` is only for the figures reported at the end.

    Raises:
        ValueError: a part is empty, has another image shape than the others, or a label outside of the classes.
    """

    name: str
    num_classes: int
    train: Labelled
    valid: Labelled
    test: Labelled

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            part: Labelled = getattr(self, name)
            if not len(part):
                raise ValueError(f"data {self.name!r} has no images for {name}")
            if part.images.shape[1:] != self.train.images.shape[1:]:
                raise ValueError(
                    f"data {self.name!r}: images of {name} have shape {part.images.shape[1:]}, "
                    f"those of train {self.train.images.shape[1:]}"
                )
            if part.labels.min() < 0 or part.labels.max() >= self.num_classes:
                raise ValueError(f"data {self.name!r}: a label of {name} is not in 0..{self.num_classes - 1}")

    @property
    def in_channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def digest(self) -> str:
        """A hash of every image and label that training reads."""
        hashed = hashlib.sha256(str((self.train.images.shape, self.num_classes)).encode())
        hashed.update(self.train.images.tobytes())
        hashed.update(self.train.labels.tobytes())
        return hashed.hexdigest()


class ImageSource(Protocol):
    """Where a task comes from: a frozen dataclass whose fields are the keys of its file in configs/data."""

    def load(self) -> ImageData: ...
