"""Accuracies that somebody has measured: a table with one line an arch, from a CSV file that the user has."""

import csv
import gzip
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from nas.data import ImageData
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe
from predictors.nasbench201 import nb201_official_order, parse_nb201
from search_spaces.nasbench201 import NasBench201Space, arch_from_operations, arch_string
from search_spaces.space import Arch, Space

Unit = Literal["percent", "fraction"]
ArchForm = Literal["strings", "index", "knobs"]

_GZIP = b"\x1f\x8b"
_NUM_CHECKED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FromTable:
    """A column of a CSV file. Keys and values of `configs/accuracy/tabular.yaml`.

    Args:
        path: of the file, gzipped or not; its first line names the columns.
        column: with the accuracies.
        unit: "percent" or "fraction", of those.
        archs: "strings" as NAS-Bench-201 writes archs, "index" in its official order, or "knobs", a column for each.
        arch_column: with the strings or the index.
    """

    needs_data: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    path: str | None = None
    column: str | None = None
    unit: str = "percent"
    archs: str = "strings"
    arch_column: str = "arch_str"

    def check(self, space: Space, data: ImageData | None) -> None:
        """Read the whole table, and look some archs of the space up.

        Raises:
            ValueError: anything that is wrong with the table or the fields, or the table lacks an arch.
        """
        table = self._read(space)
        rng = np.random.default_rng(0)
        for arch in (space.smallest(), space.largest(), *(space.sample(rng) for _ in range(_NUM_CHECKED))):
            table(arch)

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        return hashlib.sha256(_content(self._path)).hexdigest()

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        origin = f"those of column {self.column!r} of {self._path.name}"
        return Scoring(accuracy=self._read(space), judgement=Judgement(origin=origin))

    @property
    def _path(self) -> Path:
        if self.path is None:
            raise ValueError("accuracy=tabular needs the file of the table: accuracy.path=FILE.csv")
        return Path(self.path).expanduser()

    def _read(self, space: Space) -> "TableAccuracy":
        unit = one_of(self.unit, get_args(Unit), "accuracy.unit")
        archs = one_of(self.archs, get_args(ArchForm), "accuracy.archs")
        return read_table(self._path, space, self.column, unit, archs, self.arch_column)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableAccuracy:
    """Accuracies by arch: a fraction in 0..1 for each that the table has.

    An arch has the accuracy of its own line. Where the space sees several archs as one network and the table has no
    line for the one that stands for them, it is the mean over those that the table has.
    """

    path: Path
    space: Space
    accuracies: Mapping[tuple[int, ...], float]

    def __call__(self, arch: Mapping[str, int]) -> float:
        """The accuracy, 0..1.

        Raises:
            ValueError: the arch is not one of the space, or the table has none of its network.
        """
        canonical = self.space.canonical(arch)
        found = self.accuracies.get(tuple(canonical.values()))
        if found is None:
            raise ValueError(
                f"{self.path}: no line for arch {_shown(canonical, self.space)}; a search needs the accuracy of every "
                f"arch of space {self.space.name!r}, the table has those of {len(self.accuracies)} networks"
            )
        return found


def read_table(
    path: Path, space: Space, column: str | None, unit: Unit, archs: ArchForm, arch_column: str
) -> TableAccuracy:
    """The accuracies in one column of a CSV file; see `FromTable`.

    Raises:
        ValueError: no such file or column, a line that is malformed, an arch that is none or comes twice, an accuracy
            that is no number or outside of its unit's range. Lines are named.
    """
    accuracies = read_column(
        path, space, column, lambda text, where: _accuracy(text, unit, where), archs, arch_column, group="accuracy"
    )
    if unit == "percent" and max(accuracies.values()) <= 0.01:
        raise ValueError(f"{path}: no value of {column!r} is above 1; are they fractions? accuracy.unit=fraction")
    return TableAccuracy(path=path, space=space, accuracies=by_network(accuracies, space))


def read_column(
    path: Path,
    space: Space,
    column: str | None,
    value_of: Callable[[str, str], float],
    archs: ArchForm,
    arch_column: str,
    *,
    group: str,
) -> dict[tuple[int, ...], float]:
    """The numbers in one column of a CSV file by arch, as they stand there; see `FromTable`.

    Args:
        value_of: makes a number of a text, given its place for messages.
        group: of the config, for messages: "accuracy".

    Raises:
        ValueError: no such file or column, a line that is malformed, an arch that is none or comes twice. Lines are
            named.
    """
    lines = _lines(path, group)
    header = lines[0].values
    where = f"{path}: column"
    value_at = _column(header, column, where, f"{group}.column")
    arch_of = _arch_reader(space, header, archs, arch_column, where, group)
    by_arch: dict[tuple[int, ...], tuple[float, int]] = {}
    for number, values in lines[1:]:
        place = f"{path}:{number}"
        if len(values) != len(header):
            raise ValueError(f"{place}: {len(values)} values under {len(header)} columns")
        arch = tuple(arch_of(values, place).values())
        if arch in by_arch:
            raise ValueError(f"{place}: the arch of line {by_arch[arch][1]} again")
        by_arch[arch] = value_of(values[value_at], f"{place}: {column}"), number
    if not by_arch:
        raise ValueError(f"{path}: no lines under the header")
    return {arch: value for arch, (value, _) in by_arch.items()}


def by_network(values: Mapping[tuple[int, ...], float], space: Space) -> dict[tuple[int, ...], float]:
    """Numbers by canonical arch: its own, or the mean over all archs that are the same network."""
    equal: dict[tuple[int, ...], list[float]] = {}
    for arch, value in values.items():
        canonical = tuple(space.canonical(dict(zip(space.choices, arch))).values())
        equal.setdefault(canonical, []).append(value)
    return {
        canonical: values[canonical] if canonical in values else sum(found) / len(found)
        for canonical, found in equal.items()
    }


# ------------------------------------------------------------------------------------------------------------ private


class _Line(NamedTuple):
    number: int
    values: list[str]


def _content(path: Path, group: str = "accuracy") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{group}.path: {path} cannot be read: {error.strerror or error}") from None


def _lines(path: Path, group: str) -> list[_Line]:
    """All lines that are not empty, the header first."""
    content = _content(path, group)
    try:
        text = (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [_Line(reader.line_num, values) for values in reader if values]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8, gzipped or not: {error}") from None
    if not lines:
        raise ValueError(f"{path}: empty; expected a line with the names of the columns")
    return lines


def _column(header: list[str], name: str | None, where: str, key: str) -> int:
    if name is None:
        what = "accuracies" if key.startswith("accuracy") else "values"
        raise ValueError(f"{where} of the {what} not given; set {key} to one of {header}")
    if header.count(name) != 1:
        found = "is missing" if name not in header else "comes several times"
        raise ValueError(f"{where} {name!r} ({key}) {found}; there are {header}")
    return header.index(name)


def _arch_reader(
    space: Space, header: list[str], archs: ArchForm, arch_column: str, where: str, group: str
) -> Callable[[list[str], str], Arch]:
    """What reads the arch of a line, given its place for messages."""
    if archs == "knobs":
        columns = {knob: _column(header, knob, where, "a knob of the space") for knob in space.choices}
        return lambda values, place: _from_knobs(values, columns, space, place)
    if not isinstance(space, NasBench201Space):
        raise ValueError(
            f"{group}.archs={archs} are NAS-Bench-201's, space {space.name!r} is another; write a column for each "
            f"knob and set {group}.archs=knobs"
        )
    at = _column(header, arch_column, where, f"{group}.arch_column")
    read = _from_string if archs == "strings" else _from_index
    return lambda values, place: read(values[at], f"{place}: {arch_column}")


def _from_string(text: str, where: str) -> Arch:
    try:
        return arch_from_operations(parse_nb201(text))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _from_index(text: str, where: str) -> Arch:
    order = nb201_official_order()
    if not (text.isascii() and text.isdigit() and int(text) < len(order)):
        raise ValueError(f"{where}: {text!r} is no index of NAS-Bench-201; they are 0 to {len(order) - 1}")
    return arch_from_operations(order[int(text)])


def _from_knobs(values: list[str], columns: Mapping[str, int], space: Space, where: str) -> Arch:
    arch = {}
    for knob, at in columns.items():
        try:
            arch[knob] = int(values[at])
        except ValueError:
            raise ValueError(f"{where}: {knob}: {values[at]!r} is no whole number") from None
    try:
        space.canonical(arch)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return arch


def _accuracy(text: str, unit: Unit, where: str) -> float:
    limit = 100.0 if unit == "percent" else 1.0
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is no number") from None
    if not 0.0 <= value <= limit:  # as it is for NaN
        hint = "" if unit == "percent" or not 1.0 < value <= 100.0 else "; are they in percent? accuracy.unit=percent"
        raise ValueError(f"{where}: an accuracy as {unit} lies in 0..{limit:g}, found {text}{hint}")
    return value / limit


def _shown(arch: Arch, space: Space) -> str:
    return repr(arch_string(arch)) if isinstance(space, NasBench201Space) else str(arch)


def one_of(value: str, allowed: tuple[str, ...], key: str) -> str:
    if value not in allowed:
        raise ValueError(f"{key}: {value!r} is none of {list(allowed)}")
    return value
