"""Measured kernels as text: JSON Lines whose first line says where and how they were measured.

    {"format": "ridgeline-lookup-table", "version": 1, "device": "host", "runtime": "torch_eager", ...}
    {"kernel": "conv2d(in_channels=16, ...)", "latency_p50_s": 1.2e-05, "spread": 0.03, "num_runs": 40}
    {"kernel": "softmax(shape=(1, 4))", "failed": "never settled: a standard error of 31 % after 40 runs"}

Appending a line is the only write, so a killed profile goes on where it stopped. A torn last line is dropped with a
warning; anything else that is malformed is an error that names the file and the line.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from predictors.fusion import Kernel, kernel_from_text
from predictors.mapping import check_keys, check_type

FORMAT = "ridgeline-lookup-table"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHeader:
    """Where and how the kernels of a table were measured.

    Attributes:
        reference_kernel: what was interleaved to cancel drift.
        options: of the runtime, beside threads and dtype: its processor, delegate, mode.
    """

    device: str
    runtime: str
    runtime_version: str
    dtype: str
    threads: int
    date: str
    reference_kernel: str
    options: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Median seconds of one kernel, and how far that median can be trusted.

    Attributes:
        latency_p50_s: median of all runs, in seconds.
        spread: relative standard deviation of that median (0.03 = 3 %).
        num_runs: samples behind it.
        num_visits: separate visits, apart in time, that they come from.
    """

    latency_p50_s: float
    spread: float
    num_runs: int
    num_visits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTable:
    """Measured kernels of one device, runtime and dtype.

    Attributes:
        entries: what was measured.
        failures: kernels that could not be measured, with the reason; for the predictor they are unmeasured.
    """

    header: TableHeader
    entries: Mapping[Kernel, Measurement] = field(default_factory=dict)
    failures: Mapping[Kernel, str] = field(default_factory=dict)

    @staticmethod
    def read(path: str | Path) -> "LookupTable":
        """Read a table.

        Raises:
            ValueError: another format or version, or a malformed line (file and line are named).
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text file: {error}") from None
        whole, _, torn = text.rpartition("\n")
        if torn:
            warnings.warn(f"{path}: the last line is torn and was dropped: {torn[:60]!r}", stacklevel=2)
        lines = whole.split("\n") if whole else []
        if not lines:
            raise ValueError(f"{path}: no header line; this is no lookup table")
        header = _header(_json(lines[0], path, 1), f"{path}:1")
        entries: dict[Kernel, Measurement] = {}
        failures: dict[Kernel, str] = {}
        for number, line in enumerate(lines[1:], start=2):
            kernel, found = _entry(_json(line, path, number), header.dtype, f"{path}:{number}")
            entries.pop(kernel, None)
            failures.pop(kernel, None)
            if isinstance(found, Measurement):
                entries[kernel] = found
            else:
                failures[kernel] = found
        return LookupTable(header=header, entries=entries, failures=failures)

    @staticmethod
    def open(path: str | Path, header: TableHeader) -> "LookupTable":
        """The table at `path` to append to: begun with `header` where there is none, else checked to be its own.

        Raises:
            ValueError: the file was measured otherwise; every field but the date must agree.
        """
        path = Path(path)
        if not path.exists() or b"\n" not in path.read_bytes():  # a torn header heals like any torn last line
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_lines(path, [{"format": FORMAT, "version": VERSION, **asdict(header)}])
            return LookupTable(header=header)
        table = LookupTable.read(path)
        for item in fields(TableHeader):
            found, asked = getattr(table.header, item.name), getattr(header, item.name)
            if item.name != "date" and found != asked:
                raise ValueError(
                    f"{path}: measured with {item.name}={found!r}, asked to go on with {asked!r}; "
                    "move the file away to measure anew"
                )
        return table


def append_measurement(path: str | Path, kernel: Kernel, measurement: Measurement) -> None:
    """Add one line to a table's file and see it onto the disk. A later line of the same kernel counts."""
    append_entries(path, {kernel: measurement})


def append_entries(path: str | Path, found: Mapping[Kernel, Measurement | str]) -> None:
    """Add a line for each kernel that was measured, or could not be and why, and see them onto the disk."""
    _append_lines(
        Path(path),
        [
            {"kernel": kernel.text, **(asdict(each) if isinstance(each, Measurement) else {"failed": each})}
            for kernel, each in found.items()
        ],
    )


# ------------------------------------------------------------------------------------------------------------ private


def _append_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
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


def _json(line: str, path: Path, number: int) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:{number}: expected an object, found {type(record).__name__}")
    return record


def _header(record: Mapping[str, object], where: str) -> TableHeader:
    if record.get("format") != FORMAT:
        raise ValueError(f"{where}: format is {record.get('format')!r}, expected {FORMAT!r}")
    if record.get("version") != VERSION:
        raise ValueError(f"{where}: format version {record.get('version')!r}; this release reads version {VERSION}")
    types: dict[str, type] = {item.name: item.type for item in fields(TableHeader) if item.name != "options"}  # type: ignore[misc]
    check_keys(record, ("format", "version", "options", *types), types, where)
    options = check_type(record.get("options", {}), Mapping, f"{where}: options")
    return TableHeader(
        **{name: check_type(record[name], kind, f"{where}: {name}") for name, kind in types.items()},
        options={
            str(name): check_type(value, (str, int, bool), f"{where}: options.{name}")
            for name, value in options.items()
        },
    )


def _entry(record: Mapping[str, object], dtype: str, where: str) -> tuple[Kernel, Measurement | str]:
    """A kernel with its measurement, or with the reason why there is none."""
    failed = "failed" in record
    keys = ("kernel", "failed") if failed else ("kernel", "latency_p50_s", "spread", "num_runs")
    check_keys(record, keys if failed else (*keys, "num_visits"), keys, where)
    try:
        kernel = kernel_from_text(check_type(record["kernel"], str, f"{where}: kernel"), dtype)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if failed:
        return kernel, check_type(record["failed"], str, f"{where}: failed")
    latency_s = check_type(record["latency_p50_s"], (int, float), f"{where}: latency_p50_s")
    spread = check_type(record["spread"], (int, float), f"{where}: spread")
    num_runs = check_type(record["num_runs"], int, f"{where}: num_runs")
    num_visits = check_type(record.get("num_visits", 1), int, f"{where}: num_visits")
    if not 0.0 < latency_s < float("inf") or not 0.0 <= spread < float("inf") or min(num_runs, num_visits) < 1:
        raise ValueError(
            f"{where}: latency_p50_s must be positive, spread at least 0, num_runs and num_visits at least 1; "
            f"found {latency_s}, {spread}, {num_runs}, {num_visits}"
        )
    return kernel, Measurement(
        latency_p50_s=float(latency_s), spread=float(spread), num_runs=num_runs, num_visits=num_visits
    )
