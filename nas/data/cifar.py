"""CIFAR-10 and CIFAR-100 from the published archives, which are not downloaded here.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html, which gives the layouts and the checksums.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.data.archives import Archive, locate, published_files
from nas.data.augmentation import NO_AUGMENTATION, Augmentation
from nas.data.images import ImageData, Labelled, Normalisation
from nas.data.plain_pickle import read_plain_pickle
from nas.data.splits import num_valid_of, stratified_split

CIFAR10_NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CIFAR100_NORMALISATION = Normalisation(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
"""Of the training images."""
PUBLISHED_AT = "https://www.cs.toronto.edu/~kriz/cifar.html"
SHAPE = (3, 32, 32)
NUM_PIXELS = 3072


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one of the archives keeps its images.

    In a binary file, a record is `label_keys` bytes, each a label, and the 3,072 bytes of an image: red, green, blue,
    each row by row. In a pickled file, `data` holds such images and each of `label_keys` a list of labels.

    Args:
        num_images: of every file.
        names: for each of `label_keys`, the file that holds the classes' names, and the key in it if it is pickled.
    """

    archive: Archive
    is_pickled: bool
    train_files: tuple[str, ...]
    test_file: str
    num_images: Mapping[str, int]
    label_keys: tuple[str, ...]
    names: Mapping[str, tuple[str, str]]


def _cifar10(archive: Archive, *, is_pickled: bool, ending: str, names: tuple[str, str]) -> Layout:
    train_files = tuple(f"data_batch_{index}{ending}" for index in range(1, 6))
    return Layout(
        archive=archive,
        is_pickled=is_pickled,
        train_files=train_files,
        test_file=f"test_batch{ending}",
        num_images=dict.fromkeys((*train_files, f"test_batch{ending}"), 10_000),
        label_keys=("labels",),
        names={"labels": names},
    )


def _cifar100(archive: Archive, *, is_pickled: bool, ending: str, names: Mapping[str, tuple[str, str]]) -> Layout:
    return Layout(
        archive=archive,
        is_pickled=is_pickled,
        train_files=(f"train{ending}",),
        test_file=f"test{ending}",
        num_images={f"train{ending}": 50_000, f"test{ending}": 10_000},
        label_keys=("coarse_labels", "fine_labels"),
        names=names,
    )


CIFAR10 = (
    _cifar10(
        Archive(file="cifar-10-binary.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530", folder="cifar-10-batches-bin"),
        is_pickled=False,
        ending=".bin",
        names=("batches.meta.txt", ""),
    ),
    _cifar10(
        Archive(file="cifar-10-python.tar.gz", md5="c58f30108f718f92721af3b95e74349a", folder="cifar-10-batches-py"),
        is_pickled=True,
        ending="",
        names=("batches.meta", "label_names"),
    ),
)
CIFAR100 = (
    _cifar100(
        Archive(file="cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8", folder="cifar-100-binary"),
        is_pickled=False,
        ending=".bin",
        names={"coarse_labels": ("coarse_label_names.txt", ""), "fine_labels": ("fine_label_names.txt", "")},
    ),
    _cifar100(
        Archive(file="cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85", folder="cifar-100-python"),
        is_pickled=True,
        ending="",
        names={"coarse_labels": ("meta", "coarse_label_names"), "fine_labels": ("meta", "fine_label_names")},
    ),
)


class Cifar(NamedTuple):
    """The published parts, and the names of the classes."""

    train: Labelled
    test: Labelled
    class_names: tuple[str, ...]


def read_cifar(path: Path, layout: Layout, labels: str) -> Cifar:
    """The published images with one kind of labels.

    Args:
        path: the archive, or the folder that it holds.
        labels: one of the layout's `label_keys`.

    Raises:
        ValueError: a file is missing, truncated, damaged, or not of the published layout; or a pickle could run code.
    """
    names_file, names_key = layout.names[labels]
    files = published_files(path, layout.archive, (*layout.train_files, layout.test_file, names_file))
    class_names = _class_names(files[names_file], names_key, f"{path}: {names_file}")
    parts = {}
    for name in (*layout.train_files, layout.test_file):
        read = _pickled if layout.is_pickled else _records
        parts[name] = read(files.pop(name), layout, layout.num_images[name], labels, f"{path}: {name}")
        if (most := int(parts[name].labels.max())) >= len(class_names):
            raise ValueError(f"{path}: {name}: label {most} is found, {names_file} names {len(class_names)} classes")
    train = [parts[name] for name in layout.train_files]
    return Cifar(
        train=Labelled(
            images=np.concatenate([each.images for each in train]),
            labels=np.concatenate([each.labels for each in train]),
        ),
        test=parts[layout.test_file],
        class_names=class_names,
    )


@dataclass(frozen=True, kw_only=True)
class Cifar10:
    """CIFAR-10: 32x32 photographs of 10 classes. Validation images are split from the 50,000 for training.

    Args:
        path: the archive (binary or python version), the folder that it holds, or a folder with one of them.
        num_valid: images that guide the search; None takes `valid_fraction` of the training images.
        seed: decides the split.
    """

    name: str = "cifar10"
    path: str | None = None
    num_valid: int | None = 5000
    valid_fraction: float = 0.1
    seed: int = 0
    normalisation: Normalisation = CIFAR10_NORMALISATION
    augmentation: Augmentation = NO_AUGMENTATION

    def load(self) -> ImageData:
        return _load(self, CIFAR10, "labels")


@dataclass(frozen=True, kw_only=True)
class Cifar100:
    """CIFAR-100: like CIFAR-10, of 100 classes in 20 groups.

    Args:
        coarse: the 20 groups are the classes.
    """

    name: str = "cifar100"
    path: str | None = None
    coarse: bool = False
    num_valid: int | None = 5000
    valid_fraction: float = 0.1
    seed: int = 0
    normalisation: Normalisation = CIFAR100_NORMALISATION
    augmentation: Augmentation = NO_AUGMENTATION

    def load(self) -> ImageData:
        return _load(self, CIFAR100, "coarse_labels" if self.coarse else "fine_labels")


# ------------------------------------------------------------------------------------------------------------ private


def _load(source: Cifar10 | Cifar100, layouts: tuple[Layout, ...], labels: str) -> ImageData:
    wanted = " or ".join(f"{layout.archive.file} (or its unpacked {layout.archive.folder}/)" for layout in layouts)
    how = f"download {wanted} from {PUBLISHED_AT} and give data.path=, the file or the folder that holds it"
    if source.path is None:
        raise ValueError(f"data {source.name!r} is not part of this package: {how}")
    path = Path(source.path).expanduser()
    found = locate(path, tuple(layout.archive for layout in layouts))
    if found is None:
        state = "holds none of these files" if path.exists() else "does not exist"
        raise ValueError(f"data {source.name!r}: {str(path)!r} {state}: {how}")
    layout = next(layout for layout in layouts if layout.archive == found[1])
    cifar = read_cifar(found[0], layout, labels)
    num_valid = num_valid_of(len(cifar.train), source.num_valid, source.valid_fraction)
    split = stratified_split(cifar.train.labels, num_valid, source.seed)
    return ImageData(
        name=source.name,
        num_classes=len(cifar.class_names),
        train=Labelled(images=cifar.train.images[split.train], labels=cifar.train.labels[split.train]),
        valid=Labelled(images=cifar.train.images[split.valid], labels=cifar.train.labels[split.valid]),
        test=cifar.test,
        normalisation=source.normalisation,
        augmentation=source.augmentation,
        class_names=cifar.class_names,
    )


def _records(content: bytes, layout: Layout, num: int, labels: str, where: str) -> Labelled:
    num_labels = len(layout.label_keys)
    record = num_labels + NUM_PIXELS
    if len(content) != num * record:
        raise ValueError(
            f"{where}: {num} records of {record} bytes were expected, {num * record} together, found {len(content)}"
        )
    records = np.frombuffer(content, np.uint8).reshape(num, record)
    return Labelled(
        images=records[:, num_labels:].reshape(num, *SHAPE),
        labels=records[:, layout.label_keys.index(labels)].astype(np.int64),
    )


def _pickled(content: bytes, layout: Layout, num: int, labels: str, where: str) -> Labelled:
    found = _dictionary(content, where)
    images, classes = _entry(found, "data", where), _entry(found, labels, where)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (num, NUM_PIXELS):
        shown = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{where}: data must be uint8 of shape {(num, NUM_PIXELS)}, found {shown}")
    if not isinstance(classes, list) or len(classes) != num or not all(type(each) is int for each in classes):
        raise ValueError(f"{where}: {labels} must be a list of {num} integers")
    if min(classes) < 0:
        raise ValueError(f"{where}: {labels} has the negative label {min(classes)}")
    return Labelled(images=images.reshape(num, *SHAPE), labels=np.array(classes, np.int64))


def _class_names(content: bytes, key: str, where: str) -> tuple[str, ...]:
    if not key:
        return tuple(line for line in content.decode("ascii", "replace").splitlines() if line)
    names = _entry(_dictionary(content, where), key, where)
    if not isinstance(names, list) or not all(isinstance(each, bytes | str) for each in names):
        raise ValueError(f"{where}: {key} must be a list of names")
    return tuple(each.decode("ascii", "replace") if isinstance(each, bytes) else each for each in names)


def _dictionary(content: bytes, where: str) -> dict[object, Any]:
    found = read_plain_pickle(io.BytesIO(content), where)
    if not isinstance(found, dict):
        raise ValueError(f"{where}: a dict was expected, found {type(found).__name__}")
    return found


def _entry(found: dict[object, Any], key: str, where: str) -> Any:
    """What Python 2 wrote under a key, or a later Python."""
    for each in (key.encode(), key):
        if each in found:
            return found[each]
    raise ValueError(f"{where}: there is no {key!r}; it holds {sorted(map(str, found))}")
