"""Reading plain mappings (from YAML or Hydra) into frozen records, with errors that say what was found and allowed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from predictors.operators import nearest_names


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def named_file(name: str | Path, folders: Iterable[Path], what: str) -> Path:
    """The file of a thing that is given as a path to a YAML file or as the name of one in some folders.

    Raises:
        ValueError: nothing has that name (all that exist are listed), or two folders have it.
    """
    folders = tuple(folders)
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ValueError(f"{what} file {str(name)!r} does not exist")
        return path
    found = [folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()]
    if not found:
        known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise ValueError(f"unknown {what} {str(name)!r}{nearest_names(str(name), known)}; there are {known}")
    return found[0]


def check_keys(mapping: object, allowed: Iterable[str], required: Iterable[str], where: str) -> Mapping[str, Any]:
    """The mapping itself, once it is one, has all required keys and no unknown ones."""
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where}: expected a mapping, found {mapping!r}")
    allowed = tuple(allowed)
    if unknown := [key for key in mapping if key not in allowed]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; allowed are {sorted(allowed)}")
    if missing := [key for key in required if key not in mapping]:
        raise ValueError(f"{where}: key {missing[0]!r} is missing")
    return mapping


def check_type(value: object, kind: type | tuple[type, ...], where: str) -> Any:
    """The value itself, once it is of the kind; booleans do not pass for numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        hint = "; write 3.0e+10 rather than 3e10, which YAML reads as text" if _is_number(value, kinds) else ""
        raise ValueError(f"{where}: expected {' or '.join(each.__name__ for each in kinds)}, found {value!r}{hint}")
    return value


def _is_number(value: object, kinds: tuple[type, ...]) -> bool:
    """A number was wanted, and the text that was found is one."""
    if float not in kinds or not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
