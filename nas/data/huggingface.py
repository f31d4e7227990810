"""Data sets in the format of Hugging Face's `datasets` library, an optional extra of this package."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.data.images import ImageData
from nas.data.picture_source import PictureSource

INSTALL = "pip install ridgeline-nas[huggingface]"
_CHUNK = 10_000


@dataclass(frozen=True, kw_only=True)
class HuggingFace(PictureSource):
    """Images and labels in two columns of a data set.

    Args:
        path: a folder that `save_to_disk` wrote; or a folder, or a Parquet or Arrow file, that `load_dataset` reads; or
            the name of a data set on the Hub.
        config: which configuration of the data set; None takes its only one.
        download: a data set on the Hub may be downloaded; False takes only what the library's cache has already.
        train_split: trained on.
        valid_split: guides the search; None splits that from `train_split`.
        test_split: only for the figures reported at the end.
        image_column: of the library's type `Image`.
        label_column: of its type `ClassLabel`, or integers from 0, or texts, which are numbered by their order.
    """

    name: str = "huggingface"
    path: str | None = None
    config: str | None = None
    download: bool = False
    train_split: str = "train"
    valid_split: str | None = None
    test_split: str = "test"
    image_column: str = "image"
    label_column: str = "label"

    def load(self) -> ImageData:
        if self.path is None:
            raise ValueError(
                f"data {self.name!r}: give data.path=, a folder that `datasets` saved, its files, or a data set's name"
            )
        splits = self._splits()
        class_names, labels = self._labels({name: each for name, each in splits.items() if name is not None})
        columns = {
            name: ImageColumn(self._images(split, name), labels[name], f"{self.path}: {name}", self.image_column)
            for name, split in splits.items()
        }
        return self.task(
            train=columns[self.train_split],
            valid=None if self.valid_split is None else columns[self.valid_split],
            test=columns[self.test_split],
            class_names=class_names,
        )

    def _splits(self) -> dict[str, Any]:
        """The splits that are used, by name."""
        assert self.path is not None
        found = _data_set(self.path, self.config, download=self.download)
        names = [self.train_split, *([] if self.valid_split is None else [self.valid_split]), self.test_split]
        if len(set(names)) != len(names):
            raise ValueError(f"data {self.name!r}: the splits {names} must be different ones")
        if missing := [name for name in names if name not in found]:
            raise ValueError(
                f"data {self.name!r}: {self.path!r} has no split {missing[0]!r}; it has {sorted(found)}; see "
                "data.train_split, data.valid_split and data.test_split"
            )
        return {name: found[name] for name in names}

    def _images(self, split: Any, name: str) -> Any:
        """The column of images alone, as encoded bytes."""
        image = _library().Image
        column = self._column(split, self.image_column, name)
        if not isinstance(column, image):
            raise ValueError(
                f"data {self.name!r}: column {self.image_column!r} has the type {column}, not Image; name another with "
                "data.image_column="
            )
        return split.select_columns([self.image_column]).cast_column(self.image_column, image(decode=False))

    def _labels(self, splits: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """Names of the classes, and the labels of each split."""
        types = [self._column(split, self.label_column, name) for name, split in splits.items()]
        values = {
            name: np.asarray(split.select_columns([self.label_column]).with_format("arrow")[:][self.label_column])
            for name, split in splits.items()
        }
        known = values[self.train_split]
        if hasattr(types[0], "names"):
            return tuple(types[0].names), {name: each.astype(np.int64) for name, each in values.items()}
        if np.issubdtype(known.dtype, np.integer):
            names = tuple(str(number) for number in range(int(known.max()) + 1))
            return names, {name: each.astype(np.int64) for name, each in values.items()}
        if known.dtype != object or not all(isinstance(each, str) for each in known):
            raise ValueError(f"data {self.name!r}: column {self.label_column!r} of {types[0]} is no label")
        numbers = {text: number for number, text in enumerate(sorted(set(known)))}
        for name, each in values.items():
            if unknown := sorted(set(each) - set(numbers), key=str):
                raise ValueError(f"data {self.name!r}: label {unknown[0]!r} of {name} is not in {self.train_split}")
        return tuple(numbers), {
            name: np.array([numbers[text] for text in each], np.int64) for name, each in values.items()
        }

    def _column(self, split: Any, column: str, name: str) -> Any:
        if column not in split.features:
            raise ValueError(
                f"data {self.name!r}: split {name!r} has no column {column!r}; it has {sorted(split.features)}; see "
                "data.image_column and data.label_column"
            )
        return split.features[column]


class ImageColumn:
    """Encoded images of a table, each as bytes in it or as the path of a file.

    Args:
        table: has one column, whose rows are mappings with `bytes` and `path`.
        labels: classes, int64 of shape (num,).
        where: what names of images begin with.
    """

    def __init__(self, table: Any, labels: np.ndarray, where: str, column: str) -> None:
        self._table, self.labels, self._where, self._column = table, labels, where, column

    @property
    def digest(self) -> str:
        pyarrow_compute = import_module("pyarrow.compute")
        hashed = hashlib.sha256(self.labels.tobytes())
        table = self._table.with_format("arrow")
        for start in range(0, len(self.labels), _CHUNK):
            images = table[start : start + _CHUNK][self._column].combine_chunks()
            sizes = pyarrow_compute.binary_length(images.field("bytes")).to_pylist()
            hashed.update(repr((sizes, images.field("path").to_pylist())).encode())
        return hashed.hexdigest()

    def name(self, place: int) -> str:
        return f"{self._where}[{place}]"

    def open(self, places: np.ndarray) -> Sequence[Path | IO[bytes]]:
        rows = self._table[places.tolist()][self._column]
        return [Path(str(row["path"])) if row["bytes"] is None else io.BytesIO(row["bytes"]) for row in rows]

    def check(self) -> None:
        """Tables are mapped into memory: what is gone stops the reading itself."""


# ------------------------------------------------------------------------------------------------------------ private


def _library() -> Any:
    try:
        return import_module("datasets")
    except ImportError:
        raise ValueError(f"data sets of Hugging Face need its library: {INSTALL}") from None


def _data_set(path: str, config: str | None, *, download: bool) -> dict[str, Any]:
    """The splits by name."""
    library = _library()
    local = Path(path).expanduser()
    try:
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            found = library.load_from_disk(str(local))
        elif local.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(local.suffix)
            if kind is None:
                raise ValueError("a file has to be .parquet or .arrow")
            found = library.load_dataset(kind, data_files=str(local))
        elif local.is_dir():
            found = library.load_dataset(str(local), config)
        else:
            with _offline(library, not download):
                found = library.load_dataset(path, config)
    except Exception as error:  # of many kinds, of this library and of those below it
        hint = "" if local.exists() or download else "; set data.download=true to let the library download it"
        raise ValueError(f"data set {path!r} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


@contextmanager
def _offline(library: Any, is_offline: bool) -> Iterator[None]:
    """The library takes what its cache has and asks no server."""
    owners = [library.config, import_module("huggingface_hub.constants")]
    before = [owner.HF_HUB_OFFLINE for owner in owners]
    try:
        for owner in owners:
            owner.HF_HUB_OFFLINE = is_offline or owner.HF_HUB_OFFLINE
        yield
    finally:
        for owner, value in zip(owners, before):
            owner.HF_HUB_OFFLINE = value
