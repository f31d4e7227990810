"""Images that stay in their files, or in a table of files, until they are read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from nas.data.images import Batch
from nas.data.pictures import Unreadable, decoded, read_pictures

_FORMAT = "1"  # counts up when pictures are decoded to other values


class EncodedPictures(Protocol):
    """Pictures as they are stored: JPEG, PNG and so on."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int64 of shape (num,)."""

    @property
    def digest(self) -> str:
        """A hash of names, sizes and labels."""

    def name(self, place: int) -> str:
        """What a person calls a picture, e.g. its path."""

    def open(self, places: np.ndarray) -> Sequence[Path | IO[bytes]]:
        """Files to decode, one a place."""

    def check(self) -> None:
        """Raise ValueError if all pictures are gone, as when a disk was detached."""


class LazyImages:
    """Some of the pictures, decoded to squares when they are read, by all processors.

    Pictures that cannot be decoded are left out of what is read; see `pictures.Unreadable` for how that is told.

    Args:
        places: which pictures these are, int64.
        size: height and width to decode to; see `pictures.decoded`.
        channels: 1 (grey) or 3.
        keep: decoded pictures stay in memory.
        what: the name of the data, for warnings.
    """

    def __init__(
        self, pictures: EncodedPictures, places: np.ndarray, *, size: int, channels: int, keep: bool, what: str
    ) -> None:
        self._pictures, self._places = pictures, places
        self._size, self._channels = size, channels
        self._kept = _Kept(len(places), (channels, size, size)) if keep else None
        self._labels: np.ndarray = pictures.labels[places]
        self.unreadable = Unreadable(what)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._channels, self._size, self._size

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256(f"{_FORMAT} {self.image_shape} {self._pictures.digest}".encode())
        hashed.update(self._places.tobytes())
        return hashed.hexdigest()

    def read(self, indices: np.ndarray) -> Batch:
        indices = np.asarray(indices)
        if self._kept is None:
            images, rows = self._decoded(indices)
        else:
            images, rows = self._remembered(self._kept, indices)
        all_read = len(rows) == len(indices)
        return Batch(images, self._labels[indices[rows]], None if all_read else rows)

    def _decoded(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        files = self._pictures.open(self._places[indices])
        images, rows, failed = read_pictures(
            lambda row: decoded(files[row], self._size, self._channels), range(len(indices)), self.image_shape
        )
        if failed:
            self._pictures.check()
        for row, error in failed:
            self.unreadable.add(self._pictures.name(int(self._places[indices[row]])), error)
        return images, rows

    def _remembered(self, kept: "_Kept", indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unknown = np.unique(indices[~kept.is_known[indices]])
        if len(unknown):
            images, rows = self._decoded(unknown)
            kept.add(unknown[rows], images)
        rows = np.flatnonzero(kept.is_known[indices])
        return kept.images(indices[rows]), rows


# ------------------------------------------------------------------------------------------------------------ private


class _Kept:
    """Decoded images, as far as they are known. Memory is taken as they come."""

    def __init__(self, num: int, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self._images = np.empty((num, height, width, channels), np.uint8)
        self.is_known = np.zeros(num, bool)

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        self._images[indices] = images.transpose(0, 2, 3, 1)
        self.is_known[indices] = True

    def images(self, indices: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._images[indices]
        return found.transpose(0, 3, 1, 2)
