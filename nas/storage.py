"""Where a study is kept: a journal file in the run's folder, memory, or a database that Optuna knows."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from predictors.mapping import check_keys, check_type

KINDS = ("journal", "memory", "url")
JOURNAL_NAME = "study.journal"


def check_storage(mapping: Mapping[str, Any]) -> None:
    """Raise ValueError for a misspelled key or an unknown kind, without opening anything."""
    keys = check_keys(mapping, ("kind", "url"), ("kind",), "storage")
    if keys["kind"] not in KINDS:
        raise ValueError(f"unknown storage kind {keys['kind']!r}; there are {list(KINDS)}")
    if (keys["kind"] == "url") != (keys.get("url") is not None):
        raise ValueError(f"storage of kind {keys['kind']!r}: a url belongs to kind 'url', and only to it")
    if keys.get("url") is not None:
        shown_url(check_type(keys["url"], str, "storage.url"))


def shown_url(url: str) -> str:
    """The URL of a database without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        raise ValueError("storage.url is no URL of a database, e.g. postgresql://user@host/name") from None


def check_no_password(overrides: Sequence[str]) -> None:
    """Raise ValueError for a password on the command line, which Hydra and the report would save."""
    for override in overrides:
        key, _, url = override.partition("=")
        if key.lstrip("+") == "storage.url" and shown_url(url) != url:
            raise ValueError(
                f"storage.url={shown_url(url)} has a password, and command lines are saved with the results; "
                "set RIDGELINE_STORAGE_URL and use storage=url"
            )


def storage_from_mapping(mapping: Mapping[str, Any], folder: Path) -> BaseStorage:
    """The storage of a file in `configs/storage`; a journal lies in `folder`, which one process has for itself.

    Raises:
        ValueError: what `check_storage` refuses, or a damaged journal.
    """
    check_storage(mapping)
    if mapping["kind"] == "memory":
        return InMemoryStorage()
    if mapping["kind"] == "url":
        try:
            return get_storage(mapping["url"])
        except (ImportError, SQLAlchemyError) as error:
            raise ValueError(f"storage {shown_url(mapping['url'])}: {str(error).splitlines()[0]}") from None
    return open_journal(folder / JOURNAL_NAME)


def open_journal(path: Path) -> BaseStorage:
    """Optuna's journal file, mended first: the process that wrote it may have been killed in the middle of a line.

    The caller guarantees that no other process has it open, so a lock that is found belongs to a dead one.

    Raises:
        ValueError: a line other than the last is no JSON; the message names the file and the line.
    """
    if path.exists():
        _mend(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


# ------------------------------------------------------------------------------------------------------------ private


def _mend(path: Path) -> None:
    """Cut off a torn last line, so that the next one is not glued to it."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if _is_whole(line):
            continue
        if number < len(lines):
            raise ValueError(f"{path}, line {number}: not a line of an Optuna journal: {line[:60]!r}")
        warnings.warn(f"{path}: the last line is torn and was dropped: {line[:60]!r}", stacklevel=3)
        with path.open("r+b") as file:
            file.truncate(sum(map(len, lines[:-1])))


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
