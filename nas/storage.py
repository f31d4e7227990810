"""Where a study is kept: a journal file in the run's folder, memory, or a database that Optuna knows."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend

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


def storage_from_mapping(mapping: Mapping[str, Any], folder: Path) -> BaseStorage:
    """The storage of a file in `configs/storage`; a journal lies in `folder`, which one process has for itself.

    Raises:
        ValueError: what `check_storage` refuses, or a damaged journal.
    """
    check_storage(mapping)
    if mapping["kind"] == "memory":
        return InMemoryStorage()
    if mapping["kind"] == "url":
        return get_storage(check_type(mapping["url"], str, "storage.url"))
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
