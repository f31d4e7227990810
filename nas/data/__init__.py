"""Images to train and evaluate on: `load_data("cluttered_digits")`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.data.augmentation import Augmentation
from nas.data.images import Batch, ImageData, Images, ImageSource, Labelled, Normalisation
from predictors.mapping import named_file, read_yaml
from predictors.paths import shipped
from search_spaces.loading import instance_from_mapping

__all__ = [
    "Augmentation",
    "Batch",
    "ImageData",
    "ImageSource",
    "Images",
    "Labelled",
    "Normalisation",
    "data_from_mapping",
    "load_data",
]


def load_data(name_or_path: str | Path, **overrides: object) -> ImageData:
    """The images of a name in configs/data, or of a YAML file, with some fields of their source replaced.

    Raises:
        ValueError: no such data (those that exist are listed), or the fields are wrong.
    """
    path = named_file(name_or_path, [shipped("data")], "data")
    return data_from_mapping(read_yaml(path) | overrides, where=str(name_or_path))


def data_from_mapping(mapping: Mapping[str, Any], where: str = "data") -> ImageData:
    """The images that a plain mapping describes: `source` names an `ImageSource`, the other keys are its fields."""
    source: ImageSource = instance_from_mapping(mapping, "source", where)
    return source.load()
