"""From encoded pictures (JPEG, PNG, WebP, ...) to stored images: one square size, bytes."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
from PIL import Image

NUM_NAMED = 5
"""Pictures that cannot be read are named one by one up to this many, then counted."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's name of what a stored image has, by its channels."""


def decoded(file: IO[bytes] | Path, size: int, channels: int = 3) -> np.ndarray:
    """The middle square of a picture whose shorter side was resized to `size`: uint8 of shape (size, size, channels).

    The same values, but for one of 255 here and there, as Pillow's (and so torchvision's) bilinear resizing of the
    whole, then cropping; only what the crop keeps is resized. A JPEG at least four times as large is decoded at half, a
    quarter or an eighth of its size. Orientation in EXIF is ignored, as it is by the usual pipelines of ImageNet;
    transparency is dropped.

    Args:
        channels: 1 (grey) or 3 (red, green, blue).

    Raises:
        Exception: of many kinds, where the picture is damaged or no picture.
    """
    mode = MODES[channels]
    with Image.open(file) as picture:
        picture.draft(mode, (2 * size, 2 * size))
        width, height = picture.size
        shorter = min(width, height)
        # Sizes and the crop's start are rounded as torchvision's Resize and CenterCrop do.
        scaled = [int(size * extent / shorter) for extent in (width, height)]
        starts = [round((extent - size) / 2) for extent in scaled]
        left, top = (start * extent / after for start, extent, after in zip(starts, (width, height), scaled))
        right, bottom = left + size * width / scaled[0], top + size * height / scaled[1]
        box = (max(0.0, left), max(0.0, top), min(width, right), min(height, bottom))
        is_transparent = picture.mode == "P" and "transparency" in picture.info
        whole = picture.convert("RGBA") if is_transparent else picture  # Pillow warns of going straight to RGB
        converted = whole if whole.mode == mode else whole.convert(mode)
        resized = converted.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).reshape(size, size, channels)


class Unreadable:
    """What cannot be read: the first are named in a warning each, then powers of ten of them are counted."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: set[str] = set()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, name: str, error: Exception) -> None:
        """Warn of a picture, unless it was seen before."""
        with self._lock:
            if name in self._seen:
                return
            self._seen.add(name)
            num = len(self._seen)
        if num <= NUM_NAMED:
            last = "; further ones are counted, not named" if num == NUM_NAMED else ""
            text = f"{name} cannot be read and is left out ({type(error).__name__}: {error}){last}"
        elif num == 10 ** (len(str(num)) - 1):
            text = f"{num} images of {self._what} cannot be read and are left out, so far"
        else:
            return
        warnings.warn(text, stacklevel=2)


def read_pictures(
    read: Callable[[int], np.ndarray], indices: Sequence[int], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, Exception]]]:
    """Pictures decoded by all processors at once.

    Args:
        read: gives a picture of shape (height, width, channels), or raises.
        shape: channels, height, width.

    Returns:
        uint8 of shape (num, channels, height, width); the rows of `indices` that these are; and, for the other rows,
        why not.
    """
    channels, height, width = shape
    found = np.empty((len(indices), height, width, channels), np.uint8)
    failed: list[tuple[int, Exception]] = []

    def fill(row: int) -> None:
        try:
            found[row] = read(indices[row])
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly every kind of it
            failed.append((row, error))

    list(_pool().map(fill, range(len(indices))))
    failed.sort(key=lambda each: each[0])
    rows = np.delete(np.arange(len(indices)), [row for row, _ in failed])
    images = found if not failed else found[rows]
    return images.transpose(0, 3, 1, 2), rows, failed


# ------------------------------------------------------------------------------------------------------------ private


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads for this process: its share of the processors. Pillow decodes and resizes outside of Python's lock."""
    num_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ThreadPoolExecutor(max(1, num_processors // num_processes), thread_name_prefix="pictures")
