"""What was measured for the claims: JSON Lines, a header with the columns first, then an array a case."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import sqrt
from pathlib import Path

import numpy as np

from nas.files import write_text

KIND = "ridgeline.claims"
VERSION = 1
DEVICE, WALL = "device", "wall"
"""Seconds as the processor takes them, and as a caller waits for them where the two differ."""

_OF_MEDIAN = sqrt(np.pi / 2.0)
"""Standard error of a median over that of a mean, of many normal values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a file was measured.

    Attributes:
        processor: "cpu" or "cuda".
        name: of the model, without anything that tells whose it is.
        versions: of what measured, by package.
        peaks: FLOP/s by dtype. bandwidths: byte/s by bytes of the working set.
    """

    processor: str
    name: str
    threads: int
    num_visits: int
    date: str
    versions: Mapping[str, str]
    peaks: Mapping[str, float] = field(default_factory=dict)
    bandwidths: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.name} (1 thread)" if self.processor == "cpu" else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case under one runtime in one dtype.

    Attributes:
        experiment, family, name, facts: of the case.
        what: `DEVICE` or `WALL`.
        macs: of its graph. traffic_bytes: after what the runtime fuses by its rules.
        latency_p50_s: median over visits, drift of the machine taken off.
        spread: relative standard error of it.
    """

    experiment: str
    family: str
    name: str
    runtime: str
    dtype: str
    what: str
    macs: int
    traffic_bytes: int
    latency_p50_s: float
    spread: float
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measurements:
    """A file."""

    machine: Machine
    records: tuple[Record, ...]


def summary(seconds_V: Sequence[float]) -> tuple[float, float]:
    """Median of the visits, and its relative standard error.

    >>> median_s, spread = summary([1.0, 2.0, 3.0])
    >>> median_s, round(spread, 3)  # 1 / sqrt(3) * sqrt(pi / 2) / 2
    (2.0, 0.362)
    """
    median_s = float(np.median(seconds_V))
    if len(seconds_V) < 2:
        return median_s, float("nan")
    return median_s, _OF_MEDIAN * float(np.std(seconds_V, ddof=1)) / sqrt(len(seconds_V)) / median_s


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Write a file anew; seconds with five digits."""
    header = {"kind": KIND, "version": VERSION, **asdict(measurements.machine), "columns": _COLUMNS}
    lines = [header, *(_plain(record) for record in measurements.records)]
    write_text(path, "\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n")


def read_measurements(path: Path) -> Measurements:
    """Read what `write_measurements` wrote.

    Raises:
        ValueError: another kind of file, or a line that is no record; it says file and line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError(f"{path} is empty; `python -m nas.studies.claims.measure` writes such files")
    records = []
    machine: Machine | None = None
    for number, line in enumerate(lines, start=1):
        try:
            if machine is None:
                machine = _machine(json.loads(line))
            else:
                records.append(Record(**dict(zip(_COLUMNS, json.loads(line), strict=True))))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: no measurement of the claims: {error}") from None
    assert machine is not None
    return Measurements(machine=machine, records=tuple(records))


# ------------------------------------------------------------------------------------------------------------ private


_COLUMNS = [each.name for each in fields(Record)]


def _machine(header: dict[str, object]) -> Machine:
    if (header.pop("kind", None), header.pop("version", None), header.pop("columns", None)) != (
        KIND,
        VERSION,
        _COLUMNS,
    ):
        raise ValueError(f"the first line is no header of kind {KIND!r}, version {VERSION}, with its columns")
    return Machine(**header)  # type: ignore[arg-type]


def _plain(record: Record) -> list[object]:
    values = asdict(record) | {
        "latency_p50_s": float(f"{record.latency_p50_s:.5g}"),
        "spread": float(f"{record.spread:.2g}"),
    }
    return [values[name] for name in _COLUMNS]
