"""Which pictures a folder of class folders holds; kept in a file, so that a million are listed once."""

import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from nas.files import replacing
from predictors.paths import home

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as a picture, in capitals, too: torchvision's list."""
_END = b"\0"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """The pictures of a folder, sorted by class, then name.

    Args:
        classes: names of the class folders, sorted.
        names: path of each picture in its class folder, each ending in a zero byte.
        ends: where each name ends in `names`, int64 of shape (num,).
        sizes: bytes of each file, int64.
        labels: places in `classes`, int64.
    """

    root: Path
    classes: tuple[str, ...]
    names: bytes
    ends: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for content in (self.names, self.sizes.tobytes(), self.labels.tobytes()):
            hashed.update(content)
        return hashed.hexdigest()

    def path(self, place: int) -> Path:
        start = int(self.ends[place - 1]) if place else 0
        name = os.fsdecode(self.names[start : int(self.ends[place]) - len(_END)])
        return Path(self.root, self.classes[self.labels[place]], name)

    def name(self, place: int) -> str:
        return str(self.path(place))

    def open(self, places: np.ndarray) -> Sequence[Path | IO[bytes]]:
        return [self.path(int(place)) for place in places]

    def check(self) -> None:
        if not self.root.is_dir():
            raise ValueError(f"{self.root}: the folder of the images is gone")


def listed(root: Path) -> Listing:
    """The pictures below a folder whose folders are the classes.

    The list is kept in the user's folder and read again as long as no folder below was changed since: files that are
    added, removed or renamed are seen, one that is written over is not.

    Raises:
        ValueError: the folder is missing, or holds no class folders, or one of these holds no picture.
    """
    root = root.resolve()
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    cached = home() / "lists" / f"{root.name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}.npz"
    found = _read(cached, root)
    if found is None:
        found, folders = _scanned(root)
        try:
            _write(cached, found, folders)
        except OSError as error:
            warnings.warn(f"the list of images cannot be kept and will be made again: {error}", stacklevel=2)
    return found


def class_folders(root: Path) -> list[str]:
    """Names of the folders in it, sorted as torchvision's ImageFolder sorts them; hidden ones are left out."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


# ------------------------------------------------------------------------------------------------------------ private


def _scanned(root: Path) -> tuple[Listing, dict[str, int]]:
    """The pictures, and every folder's path in the root with the time in ns when it was changed last."""
    classes = class_folders(root)
    if not classes:
        num = sum(1 for name in os.listdir(root) if name.lower().endswith(ENDINGS))
        raise ValueError(
            f"{root}: a folder for each class was expected, found {num} images and no folder; sort the images into "
            "folders named like their classes"
        )
    changed = {"": os.stat(root).st_mtime_ns}
    names, ends, sizes, labels = bytearray(), [], [], []
    # Threads wait for the disk, or the network, together.
    with ThreadPoolExecutor(16, thread_name_prefix="listing") as pool:
        for label, (pictures, folders) in enumerate(pool.map(lambda name: _scanned_class(root, name), classes)):
            if not pictures:
                raise ValueError(
                    f"{root / classes[label]}: no image in the folder of this class; endings looked for are {ENDINGS}"
                )
            changed |= folders
            for name, size in pictures:
                names += name + _END
                ends.append(len(names))
                sizes.append(size)
            labels.append(np.full(len(pictures), label, np.int64))
    listing = Listing(
        root=root,
        classes=tuple(classes),
        names=bytes(names),
        ends=np.array(ends, np.int64),
        sizes=np.array(sizes, np.int64),
        labels=np.concatenate(labels),
    )
    return listing, changed


def _scanned_class(root: Path, name: str) -> tuple[list[tuple[bytes, int]], dict[str, int]]:
    """Pictures of a class, path and size in bytes, by folder, then name; and its folders, as in `_scanned`."""
    pictures: list[tuple[bytes, int]] = []
    changed = {}
    for folder, entries in sorted(_walk(root / name)):
        changed[os.path.relpath(folder, root)] = os.stat(folder).st_mtime_ns
        prefix = os.path.relpath(folder, root / name)
        for file, size in sorted(entries):
            pictures.append((os.fsencode(file if prefix == "." else os.path.join(prefix, file)), size))
    return pictures, changed


def _walk(folder: Path | str) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Each folder, from this one down, with names and bytes of its pictures."""
    inside, found = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inside.append(entry.path)
            elif entry.name.lower().endswith(ENDINGS):
                found.append((entry.name, entry.stat().st_size))
    yield str(folder), found
    for each in inside:
        yield from _walk(each)


def _write(path: Path, listing: Listing, changed: dict[str, int]) -> None:
    arrays = {
        "format": np.array(_FORMAT),
        "classes": _as_bytes(listing.classes),
        "names": np.frombuffer(listing.names, np.uint8),
        "ends": listing.ends,
        "sizes": listing.sizes,
        "labels": listing.labels,
        "folders": _as_bytes(tuple(changed)),
        "changed_ns": np.array(list(changed.values()), np.int64),
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path, root: Path) -> Listing | None:
    """The kept list, unless there is none, it is damaged, or a folder has changed."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if int(found["format"]) != _FORMAT:
            return None
        folders = _as_strings(found["folders"])
        if [os.stat(root / each).st_mtime_ns for each in folders] != found["changed_ns"].tolist():
            return None
        return Listing(
            root=root,
            classes=_as_strings(found["classes"]),
            names=found["names"].tobytes(),
            ends=found["ends"],
            sizes=found["sizes"],
            labels=found["labels"],
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _as_bytes(texts: tuple[str, ...]) -> np.ndarray:
    return np.frombuffer(_END.join(os.fsencode(each) for each in texts), np.uint8)


def _as_strings(array: np.ndarray) -> tuple[str, ...]:
    return tuple(os.fsdecode(each) for each in array.tobytes().split(_END))
