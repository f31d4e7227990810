"""Public AutoTVM tuning logs as measured kernels.

A log is JSON Lines; each line holds one tuned kernel: `input` is [target, task, arguments, ...], `result` is
[[seconds, ...], error number, ...]. Source: Apache TVM, `python/tvm/autotvm/record.py`, format version 0.2.
A table with one row a kernel and the columns source, op, lat_ms, in_shape, w_shape, dtype, args is read as well.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from predictors.fusion import Kernel, make_kernel
from predictors.operators import Conv2d, Linear, Operator, Shape, window_output

_LAYOUT_SUFFIXES = ("_nchw", "_nhwc")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedKernel:
    """One kernel at its best tuned configuration.

    Attributes:
        latency_s: mean of the measured repetitions, in seconds.
        accumulator: dtype of the sums; float16 kernels may add up in float32, which is a mode of its own.
        task: TVM's name of the schedule, e.g. 'conv2d_nhwc_winograd.image2d'.
        network: the file's name up to its first dot, without the layout: kernels of one network err together.
    """

    kernel: Kernel
    latency_s: float
    accumulator: str
    task: str
    network: str


def read_tuned_kernels(path: Path, only_device: str | None = None) -> tuple[TunedKernel, ...]:
    """Kernels of a log (`*.log`) or of a table (`*.csv`); configurations that failed to run are left out.

    Args:
        path: the file.
        only_device: keep rows of a table whose `device` column contains this; logs do not say their device.

    Raises:
        ValueError: a line that is no record, or a task that has no operator here; it says file and line.
    """
    found = []
    for number, record in enumerate(_table_rows(path) if path.suffix == ".csv" else _log_records(path), start=1):
        if record is None or (only_device and only_device not in record.device):
            continue
        try:
            operator, accumulator = _operator(record)
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{path}, record {number}: task {record.task!r}: {error}") from None
        found.append(
            TunedKernel(
                kernel=make_kernel(operator, (), record.dtype),
                latency_s=record.latency_s,
                accumulator=accumulator,
                task=record.task,
                network=_network(record.log_name),
            )
        )
    return tuple(found)


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    log_name: str
    device: str
    task: str
    data: Shape
    weight: Shape
    dtype: str
    arguments: Sequence[Any]
    latency_s: float


def _log_records(path: Path) -> Iterator[_Record | None]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            yield None
            continue
        try:
            content = json.loads(line)
            _, task, arguments, *_ = content["input"]
            seconds, error_number, *_ = content["result"]
            (_, data, dtype), (_, weight, _), *rest = arguments
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: no AutoTVM record: {error}") from None
        if error_number:
            yield None
            continue
        yield _Record(
            log_name=path.name, device="", task=task, data=tuple(data), weight=tuple(weight), dtype=dtype,
            arguments=rest, latency_s=fmean(seconds),
        )  # fmt: skip


def _table_rows(path: Path) -> Iterator[_Record]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield _Record(
                log_name=Path(row["source"]).name,
                device=row["device"],
                task=row["op"],
                data=tuple(int(size) for size in row["in_shape"].split("x")),
                weight=tuple(int(size) for size in row["w_shape"].split("x")),
                dtype=row["dtype"],
                arguments=json.loads(row["args"]),
                latency_s=float(row["lat_ms"]) * 1e-3,
            )


def _network(log_name: str) -> str:
    name = log_name.split(".")[0]
    for suffix in _LAYOUT_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _operator(record: _Record) -> tuple[Operator, str]:
    """The operator and the dtype of its sums."""
    if record.task.startswith("dense"):
        operator: Operator = Linear(shape=record.data, out_features=record.weight[0])
        if record.data[-1] != record.weight[1]:
            raise ValueError(f"weights {record.weight} do not take inputs {record.data}")
    elif record.task.startswith(("conv2d_nchw", "conv2d_nhwc", "depthwise_conv2d_nchw", "depthwise_conv2d_nhwc")):
        operator = _convolution(record)
    else:
        raise ValueError("not read; known are conv2d and depthwise_conv2d in NCHW or NHWC, and dense")
    accumulator = record.arguments[-1]
    return operator, accumulator if isinstance(accumulator, str) else record.dtype


def _convolution(record: _Record) -> Conv2d:
    stride, padding, dilation = (tuple(argument) for argument in record.arguments[:3])
    nhwc, depthwise = "_nhwc" in record.task, record.task.startswith("depthwise")
    if len(record.data) != 4 or len(record.weight) != 4:
        raise ValueError(f"expected tensors of 4 axes, found {record.data} and {record.weight}")
    batch, *rest = record.data
    height, width, channels = rest if nhwc else (*rest[1:], rest[0])
    if nhwc:
        kernel, (inner, outer) = record.weight[:2], record.weight[2:]  # HWIO, for depthwise HWOI
        out_channels, in_channels = (inner * outer, inner) if depthwise else (outer, inner)
    else:
        kernel, (first, second) = record.weight[2:], record.weight[:2]  # OIHW
        out_channels, in_channels = (first * second, first) if depthwise else (first, second)
    if in_channels != channels:
        raise ValueError(f"weights {record.weight} do not take inputs {record.data}")
    top, left, bottom, right = padding if len(padding) == 4 else (*padding, *padding)
    return Conv2d(
        batch=batch, in_channels=channels, out_channels=out_channels, height=height, width=width,
        kernel=(kernel[0], kernel[1]), stride=(stride[0], stride[1]), dilation=(dilation[0], dilation[1]),
        padding=(
            _even_padding(height, kernel[0], stride[0], top + bottom, dilation[0]),
            _even_padding(width, kernel[1], stride[1], left + right, dilation[1]),
        ),
        groups=channels if depthwise else 1,
    )  # fmt: skip


def _even_padding(size: int, kernel: int, stride: int, total: int, dilation: int) -> int:
    """Padding on each side that gives the output size which `total` uneven padding gives, e.g. TensorFlow's 'same'."""
    wanted = window_output(size + total, kernel, stride, 0, dilation)
    for each_side in (total // 2, -(-total // 2)):
        if window_output(size, kernel, stride, each_side, dilation) == wanted:
            return each_side
    raise ValueError(f"uneven padding of {total} around {size} has no even equivalent")
