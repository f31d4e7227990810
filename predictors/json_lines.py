"""JSON Lines that only grow: one object a line, appended whole and seen onto the disk, so that a kill loses one line.

A torn last line is dropped with a warning when the file is read, and cut off when it is next appended to; anything else
that is malformed is an error that names the file and the line.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path


def read_records(path: Path) -> list[Mapping[str, object]]:
    """The objects of all whole lines; that of line n is number n - 1.

    Raises:
        ValueError: not text, or a line that holds no object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from None
    whole, _, torn = text.rpartition("\n")
    if torn:
        warnings.warn(f"{path}: the last line is torn and was dropped: {torn[:60]!r}", stacklevel=3)
    return [_record(line, path, number) for number, line in enumerate(whole.split("\n") if whole else [], start=1)]


def append_records(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Append whole: a torn last line is cut off first, lines that did not fit on the disk are taken back."""
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            file.truncate(end)
        try:
            file.writelines(json.dumps(record).encode() + b"\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def begun(path: Path) -> bool:
    """Whether the file has a whole first line; one that was torn while it was written is to be begun again."""
    return path.exists() and b"\n" in path.read_bytes()


# ------------------------------------------------------------------------------------------------------------ private


def _record(line: str, path: Path, number: int) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:{number}: expected an object, found {type(record).__name__}")
    return record
