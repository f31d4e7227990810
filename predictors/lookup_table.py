"""Measured kernels as text: JSON Lines whose first line says where and how they were measured.

    {"format": "ridgeline-lookup-table", "version": 1, "device": "host", "runtime": "torch_eager", ...}
    {"kernel": "conv2d(in_channels=16, ...)", "latency_p50_s": 1.2e-05, "spread": 0.03, "num_runs": 40}
    {"kernel": "softmax(shape=(1, 4))", "failed": "never settled: a standard error of 31 % after 40 runs"}

Appending a line is the only write, so a killed profile goes on where it stopped. A torn last line is dropped with a
warning; anything else that is malformed is an error that names the file and the line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from predictors.fusion import Kernel, kernel_from_text
from predictors.json_lines import append_records, begun, read_records
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
        header, records = under_header(read_records(path), FORMAT, VERSION, path, "this is no lookup table")
        entries: dict[Kernel, Measurement] = {}
        failures: dict[Kernel, str] = {}
        for where, record in records.items():
            kernel, found = _entry(record, header.dtype, where)
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
        begin(path, header, FORMAT, VERSION)
        table = LookupTable.read(path)
        check_same(table.header, header, path)
        return table


def append_measurement(path: str | Path, kernel: Kernel, measurement: Measurement) -> None:
    """Add one line to a table's file and see it onto the disk. A later line of the same kernel counts."""
    append_entries(path, {kernel: measurement})


def append_entries(path: str | Path, found: Mapping[Kernel, Measurement | str]) -> None:
    """Add a line for each kernel that was measured, or could not be and why, and see them onto the disk."""
    append_records(
        Path(path),
        [
            {"kernel": kernel.text, **(asdict(each) if isinstance(each, Measurement) else {"failed": each})}
            for kernel, each in found.items()
        ],
    )


def begin(path: Path, header: TableHeader, file_format: str, version: int) -> None:
    """Write the first line of a file of measurements where there is none yet."""
    if not begun(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        append_records(path, [{"format": file_format, "version": version, **asdict(header)}])


def under_header(
    records: Sequence[Mapping[str, object]], file_format: str, version: int, path: Path, otherwise: str
) -> tuple[TableHeader, dict[str, Mapping[str, object]]]:
    """The header that `begin` wrote, and the other records by the place (file and line) where each stands.

    Args:
        otherwise: what is said of a file without a header.

    Raises:
        ValueError: no header, another format or version, a key that is missing or unknown, a wrong type.
    """
    if not records:
        raise ValueError(f"{path}: no header line; {otherwise}")
    header = _header(records[0], file_format, version, f"{path}:1")
    return header, {f"{path}:{number}": record for number, record in enumerate(records[1:], start=2)}


def check_same(found: TableHeader, asked: TableHeader, path: Path) -> None:
    """Raise ValueError unless measurements can be appended: every field but the date must agree."""
    for item in fields(TableHeader):
        have, want = getattr(found, item.name), getattr(asked, item.name)
        if item.name != "date" and have != want:
            raise ValueError(
                f"{path}: measured with {item.name}={have!r}, asked to go on with {want!r}; "
                "move the file away to measure anew"
            )


# ------------------------------------------------------------------------------------------------------------ private


def _header(record: Mapping[str, object], file_format: str, version: int, where: str) -> TableHeader:
    if record.get("format") != file_format:
        raise ValueError(f"{where}: format is {record.get('format')!r}, expected {file_format!r}")
    if record.get("version") != version:
        raise ValueError(f"{where}: format version {record.get('version')!r}; this release reads version {version}")
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
