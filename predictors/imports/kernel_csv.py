"""Measured kernels as plain CSV, one a row, for everything that has no format of its own.

    kernel,latency_ms                                                          in_channels,out_channels,height,...
    "conv2d(in_channels=8, ...) + activation(shape=..., function='relu')",0.31   8,16,56,...

Either `kernel`, the text that stands in a lookup table, or a convolution by columns. The time's column says its unit:
`latency_s`, `latency_ms` or `latency_us`; `spread` and `num_runs` may follow.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from predictors.fusion import Kernel, kernel_from_text, make_kernel
from predictors.imports.layers import seconds
from predictors.operators import Activation, Conv2d, Normalization, Operator, Pair

UNITS_S = {"latency_s": 1.0, "latency_ms": 1e-3, "latency_us": 1e-6}
_REQUIRED = ("in_channels", "out_channels", "height", "width", "kernel", "stride", "groups")
_OPTIONAL = ("batch", "padding", "dilation", "bias", "fused")
_STATISTICS = ("spread", "num_runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One row.

    Attributes:
        spread: relative standard deviation of the time; None where the file does not say it.
    """

    kernel: Kernel
    latency_s: float
    spread: float | None
    num_runs: int


def read_kernel_csv(path: Path, dtype: str) -> tuple[KernelRow, ...]:
    """Rows of a CSV file.

    A convolution's columns are those of torch.nn.Conv2d: `kernel`, `stride`, `padding`, `dilation` as `3` or `3x5`, the
    default padding keeps the size at stride 1; `fused` names what runs with it, such as `batch_norm+relu`.

    Raises:
        ValueError: an unknown or missing column, or a malformed row; file and line are named.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        unit, by_text = _check_columns(columns, path)
        rows = []
        for row in _whole_rows(reader, path):
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: expected {len(columns)} columns; commas within a kernel need quotes")
            cells = {column: text.strip() for column, text in row.items()}
            kernel = _kernel_of_text(cells["kernel"], dtype, where) if by_text else _convolution(cells, dtype, where)
            rows.append(
                KernelRow(
                    kernel=kernel,
                    latency_s=seconds(cells[unit], UNITS_S[unit], f"{where}: {unit}"),
                    spread=_spread(cells.get("spread", ""), where),
                    num_runs=_num_runs(cells.get("num_runs") or "1", f"{where}: num_runs"),
                )
            )
    if not rows:
        raise ValueError(f"{path}: it has no rows")
    return tuple(rows)


# ------------------------------------------------------------------------------------------------------------ private


def _check_columns(columns: list[str], path: Path) -> tuple[str, bool]:
    """The time's column, and whether kernels are given as text."""
    units = [column for column in columns if column in UNITS_S]
    if len(units) != 1:
        raise ValueError(f"{path}, line 1: one of the columns {list(UNITS_S)} must give the time, found {columns}")
    by_text = not set(columns) & (set(_REQUIRED) - {"kernel"})
    required = ("kernel",) if by_text else _REQUIRED
    allowed = {*required, *_STATISTICS, *units, *(() if by_text else _OPTIONAL)}
    if missing := [column for column in required if column not in columns]:
        raise ValueError(f"{path}, line 1: column {missing[0]!r} is missing")
    if unknown := [column for column in columns if column not in allowed]:
        raise ValueError(f"{path}, line 1: unknown column {unknown[0]!r}; allowed are {sorted(allowed)}")
    return units[0], by_text


def _kernel_of_text(text: str, dtype: str, where: str) -> Kernel:
    try:
        return kernel_from_text(text, dtype)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convolution(cells: Mapping[str, str], dtype: str, where: str) -> Kernel:
    def pair(column: str, default: Pair) -> Pair:
        text = cells.get(column, "")
        if not text:
            return default
        numbers = [_integer(part, f"{where}: {column}") for part in text.split("x")]
        if len(numbers) > 2:
            raise ValueError(f"{where}: {column} must be like 3 or 3x5, found {text!r}")
        return numbers[0], numbers[-1]

    def number(column: str, default: str = "") -> int:
        return _integer(cells.get(column) or default, f"{where}: {column}")

    kernel, dilation = pair("kernel", (1, 1)), pair("dilation", (1, 1))
    same = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    try:
        anchor = Conv2d(
            batch=number("batch", "1"), in_channels=number("in_channels"), out_channels=number("out_channels"),
            height=number("height"), width=number("width"), kernel=kernel, stride=pair("stride", (1, 1)),
            padding=pair("padding", same), dilation=dilation, groups=number("groups"), bias=bool(number("bias", "0")),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    fused = [name.strip() for name in cells.get("fused", "").split("+") if name.strip()]
    return make_kernel(anchor, tuple(_follower(name, anchor) for name in fused), dtype)


def _follower(name: str, anchor: Conv2d) -> Operator:
    shape = anchor.output_shape
    if name == "batch_norm":
        return Normalization(shape=shape, method="batch_norm", affine_params=2 * shape[1])
    return Activation(shape=shape, function=name)


def _whole_rows(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _num_runs(text: str, where: str) -> int:
    if (num_runs := _integer(text, where)) < 1:
        raise ValueError(f"{where} must be at least 1, found {text!r}")
    return num_runs


def _integer(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{where}: expected a whole number, found {text!r}") from None


def _spread(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        spread = float(text)
    except ValueError:
        raise ValueError(f"{where}: spread must be a number, found {text!r}") from None
    if not isfinite(spread) or spread < 0.0:
        raise ValueError(f"{where}: spread must be at least 0, found {text!r}")
    return spread
