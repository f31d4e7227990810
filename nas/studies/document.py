"""The document of a study: Markdown that a command writes, its tables as CSV files and its pictures beside it.

Figures come from the command alone. What a person has to say about them stands between marks, which a rewrite keeps:

    <!-- by hand: what follows -->
    Prose.
    <!-- end -->
"""

import csv
import io
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nas.compare.records import Estimate
from nas.files import replacing_folder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | Estimate | None
"""None and nan are not known: "-" in the document, empty in the CSV file. An estimate is three columns there."""

PACKAGES = ("numpy", "scipy", "optuna")
"""Whose versions every study names, beside our own and Python's."""

_BY_HAND = re.compile(r"<!-- by hand: (?P<name>.+?) -->\n(?P<prose>.*?)<!-- end -->", re.DOTALL)
_UNKNOWN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the document and a CSV file, which has all columns with all digits.

    Attributes:
        name: of the CSV file, without its ending; "": the table stands in the document alone.
        caption: a line above the table, Markdown; "": none.
        rows: cells by column; the first row has all columns. No rows: no table is written.
        headings: what the document calls the columns that it shows, in this order; empty: all, as they are.
        formats: how numbers of a column are written there, e.g. ".1%"; default: four significant digits.
    """

    name: str
    caption: str = ""
    rows: Sequence[Mapping[str, Cell]]
    headings: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Rows that are a CSV file alone; the document says where it is, behind its caption. Otherwise as a `Table`."""

    name: str
    caption: str
    rows: Sequence[Mapping[str, Cell]]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Picture:
    """A matplotlib figure, written as PNG. `name` is of the file, without its ending; `caption` says what it shows."""

    name: str
    caption: str
    figure: "Figure"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """A place for a person's prose: what stands there in the document that is rewritten, else `prose`."""

    name: str
    prose: str = ""


Part = str | Table | Data | Picture | ByHand
"""A string is a paragraph of Markdown, headings included."""


def write_study(
    name: str,
    title: str,
    command: str,
    seeds: Sequence[int],
    parts: Sequence[Part],
    folder: Path,
    *,
    packages: Sequence[str] = (),
) -> Path:
    """Write `folder/NAME.md`, and CSV files and PNGs of this study alone into `folder/NAME/`; the path of the former.

    Prose by hand whose place is not among the parts any more is kept at the end.

    Args:
        command: that writes it again.
        seeds: of the searches or draws; empty where nothing is drawn.
        packages: whose versions matter, beside `PACKAGES`.

    Raises:
        ValueError: two files or two places of prose of the same name.
    """
    _check_names(parts)
    path = folder / f"{name}.md"
    prose = _read_prose(path)
    text = [f"# {title}", _origin(command, seeds, (*PACKAGES, *packages))]
    with replacing_folder(folder / name) as files:
        for part in parts:
            text += _written(part, files, name, prose)
    if not any((folder / name).iterdir()):
        (folder / name).rmdir()
    text += [_marked(place, left) for place, left in prose.items()]
    write_text(path, "\n\n".join(text) + "\n")
    return path


def cell_text(cell: Cell, form: str = "") -> str:
    """A cell as a person reads it.

    >>> cell_text(0.1234, ".0%"), cell_text(1234567), cell_text(float("nan")), cell_text(0.00012345)
    ('12%', '1,234,567', '-', '0.0001234')
    >>> cell_text(Estimate(value=0.11, low=0.07, high=0.15), ".0%")
    '11% (7% to 15%)'
    """
    if isinstance(cell, str):
        return " ".join(cell.replace("|", "\\|").split())
    if isinstance(cell, Estimate):
        if math.isnan(cell.low) or math.isnan(cell.high):
            return cell_text(cell.value, form)
        return f"{cell_text(cell.value, form)} ({cell_text(cell.low, form)} to {cell_text(cell.high, form)})"
    if cell is None or math.isnan(cell):
        return _UNKNOWN
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format(cell, form or ("," if isinstance(cell, int) else ".4g"))


def csv_text(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows as a CSV file with a header.

    >>> csv_text([{"a": None, "b": Estimate(value=1.0, low=0.5, high=2.0)}])
    'a,b,b_low,b_high\\r\\n,1.0,0.5,2.0\\r\\n'
    """
    plain = [dict(_plain(row)) for row in rows]
    columns = list(dict.fromkeys(column for row in plain for column in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(plain)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------ private


def _check_names(parts: Sequence[Part]) -> None:
    for kind in ((Table, Data), (Picture,), (ByHand,)):
        names = [part.name for part in parts if not isinstance(part, str) and isinstance(part, kind) and part.name]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"files and places of a document need names of their own, found twice: {sorted(twice)}")


def _read_prose(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {each["name"]: each["prose"].strip("\n") for each in _BY_HAND.finditer(text)}


def _origin(command: str, seeds: Sequence[int], packages: Sequence[str]) -> str:
    versions = ", ".join(f"{package} {_version(package)}" for package in dict.fromkeys(("ridgeline-nas", *packages)))
    lines = [
        f"* Written by `{command}`; change nothing here but what stands between the marks of prose by hand.",
        f"* {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {versions}, Python {platform.python_version()}, "
        f"{platform.system()} on {platform.machine()}.",
    ]
    return "\n".join([*lines, *([f"* Seeds: {_ranges(seeds)}."] if seeds else [])])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _ranges(seeds: Sequence[int]) -> str:
    """ "0 to 9", or all of them where they are no range."""
    ordered = sorted(seeds)
    whole = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if whole else ", ".join(map(str, ordered))


def _written(part: Part, files: Path, folder: str, prose: dict[str, str]) -> Iterator[str]:
    """The paragraphs of a part. Prose is taken out of `prose`, files go to `files`, which becomes `folder`."""
    if isinstance(part, str):
        yield part.strip()
    elif isinstance(part, ByHand):
        yield _marked(part.name, prose.pop(part.name, part.prose.strip("\n")))
    elif isinstance(part, Picture):
        part.figure.savefig(files / f"{part.name}.png", format="png", metadata={"Software": "ridgeline"})
        yield f"![{part.caption}]({folder}/{part.name}.png)"
    elif part.rows:
        link = ""
        if part.name:
            (files / f"{part.name}.csv").write_text(csv_text(part.rows), encoding="utf-8", newline="")
            link = f"[{part.name}.csv]({folder}/{part.name}.csv)"
        if part.caption or link:
            yield f"{part.caption} ({link})" if part.caption and link else part.caption or link
        if isinstance(part, Table):
            yield "\n".join(_table_lines(part))


def _marked(name: str, prose: str) -> str:
    return "\n".join([f"<!-- by hand: {name} -->", *([prose] if prose else []), "<!-- end -->"])


def _table_lines(table: Table) -> Iterator[str]:
    headings = table.headings or {column: column for column in table.rows[0]}
    yield f"| {' | '.join(headings.values())} |"
    yield f"|{'|'.join('---' if _is_text(table.rows, column) else '--:' for column in headings)}|"
    for row in table.rows:
        cells = [cell_text(row.get(column), table.formats.get(column, "")) for column in headings]
        yield f"| {' | '.join(cells)} |"


def _is_text(rows: Sequence[Mapping[str, Cell]], column: str) -> bool:
    return any(isinstance(row.get(column), str) for row in rows)


def _plain(row: Mapping[str, Cell]) -> Iterator[tuple[str, str | int | float | None]]:
    """An estimate as three columns, nan as nothing."""
    for column, cell in row.items():
        if isinstance(cell, Estimate):
            bounds = {column: cell.value, f"{column}_low": cell.low, f"{column}_high": cell.high}
            yield from ((name, None if math.isnan(value) else value) for name, value in bounds.items())
        else:
            yield column, None if isinstance(cell, float) and math.isnan(cell) else cell
