"""Spaces from YAML files and plain mappings: `family` names the class, the other keys are its fields."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from predictors.mapping import check_keys, check_type, named_file, read_yaml
from predictors.paths import shipped, user_folders
from search_spaces.space import Space

_Record = TypeVar("_Record")


def load_space(name_or_path: str | Path, **overrides: object) -> Space:
    """The space of a name in configs/space or in one's own ./space, or of a YAML file, with some fields replaced.

    >>> load_space("mobilenet_v3_tiny", num_classes=2).num_classes
    2

    Raises:
        ValueError: no such space (those that exist are listed), or its fields are wrong (see `space_from_mapping`).
    """
    check_space_name(str(name_or_path))
    path = named_file(name_or_path, [*user_folders("space"), shipped("space")], "space")
    return space_from_mapping(read_yaml(path) | overrides, where=str(name_or_path))


def check_space_name(name: str) -> None:
    """Refuse a space of one's own that has the name of a shipped one, and would hide behind it.

    Raises:
        ValueError: there is such a file.
    """
    own = [folder / f"{name}.yaml" for folder in user_folders("space") if (folder / f"{name}.yaml").is_file()]
    if own and (shipped("space") / f"{name}.yaml").is_file():
        raise ValueError(f"{own[0]} has the name of a shipped space; rename it, so that it is clear which one is meant")


def space_from_mapping(mapping: Mapping[str, Any], where: str = "space") -> Space:
    """The space that a plain mapping describes, e.g. one that Hydra composed.

    Raises:
        ValueError: `family` names no class, a key is unknown or missing, or a value is of the wrong type or range.
    """
    space: Space = instance_from_mapping(mapping, "family", where)
    return space


def instance_from_mapping(mapping: Mapping[str, Any], class_key: str, where: str) -> Any:
    """An instance of the frozen dataclass that one key names, e.g. `package.module.Class`; the others are its fields.

    Raises:
        ValueError: the class cannot be imported, or the other keys are not its fields (see `record_from_mapping`).
    """
    settings = dict(check_keys(mapping, allowed=mapping, required=[class_key], where=where))
    return record_from_mapping(_imported(settings.pop(class_key), f"{where}: {class_key}"), settings, where)


def record_from_mapping(cls: type[_Record], mapping: Mapping[str, Any], where: str) -> _Record:
    """A frozen dataclass from a plain mapping: keys and types are checked, sequences become tuples.

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
    if get_origin(hint) is Mapping:
        entries = check_type(value, Mapping, where)
        return {str(key): _typed(each, get_args(hint)[1], f"{where}: {key}") for key, each in entries.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else record_from_mapping(hint, check_type(value, Mapping, where), where)
    if type(None) in get_args(hint):
        return None if value is None else _typed(value, get_args(hint)[0], where)
    return float(check_type(value, (int, float), where)) if hint is float else check_type(value, hint, where)


def _imported(name: object, where: str) -> type:
    module_name, _, class_name = str(name).rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: {name!r} cannot be imported as package.module.Class: {error}") from None
    if not is_dataclass(found) or not isinstance(found, type):
        raise ValueError(f"{where}: {name!r} is no dataclass")
    return found
