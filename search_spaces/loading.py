"""Spaces from YAML files and plain mappings: `family` names the class, the other keys are its fields."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from predictors.mapping import check_keys, check_type, named_file, read_yaml
from predictors.paths import shipped
from search_spaces.space import Space

_Record = TypeVar("_Record")


def load_space(name_or_path: str | Path, **overrides: object) -> Space:
    """The space of a name in configs/space, or of a YAML file, with some fields replaced.

    >>> load_space("mobilenet_v3_tiny", num_classes=2).num_classes
    2

    Raises:
        ValueError: no such space (those that exist are listed), or its fields are wrong (see `space_from_mapping`).
    """
    path = named_file(name_or_path, [shipped("space")], "space")
    return space_from_mapping(read_yaml(path) | overrides, where=str(name_or_path))


def space_from_mapping(mapping: Mapping[str, Any], where: str = "space") -> Space:
    """The space that a plain mapping describes, e.g. one that Hydra composed.

    Raises:
        ValueError: `family` names no class, a key is unknown or missing, or a value is of the wrong type or range.
    """
    settings = dict(check_keys(mapping, allowed=mapping, required=["family"], where=where))
    family = _imported(settings.pop("family"), where)
    space: Space = record_from_mapping(family, settings, where)
    return space


def record_from_mapping(cls: type[_Record], mapping: Mapping[str, Any], where: str) -> _Record:
    """A frozen dataclass from a plain mapping: its keys and types are checked, sequences become tuples.

    Raises:
        ValueError: a key is unknown or missing (those that exist are listed), or a value is of another type.
    """
    known = {each.name: each for each in fields(cls) if each.init}  # type: ignore[arg-type]
    required = [name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING]
    check_keys(mapping, allowed=known, required=required, where=where)
    hints = get_type_hints(cls)
    return cls(**{str(key): _typed(value, hints[key], f"{where}: {key}") for key, value in mapping.items()})


def _typed(value: object, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        items = check_type(value, (list, tuple), where)
        return tuple(_typed(item, get_args(hint)[0], where) for item in items)
    if type(None) in get_args(hint):
        return None if value is None else _typed(value, get_args(hint)[0], where)
    return float(check_type(value, (int, float), where)) if hint is float else check_type(value, hint, where)


def _imported(name: object, where: str) -> type:
    module_name, _, class_name = str(name).rpartition(".")
    try:
        return check_type(getattr(import_module(module_name), class_name), type, where)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError):
        raise ValueError(
            f"{where}: family {name!r} is no class that can be imported; "
            "write package.module.Class, e.g. search_spaces.mobilenet_v3.MobileNetV3Space"
        ) from None
