"""Kernels that the NeuSight project measured on GPUs under PyTorch, in float32, with the GPUs' data sheet numbers.

The folder holds `device_configs.json` and one `train_*.csv.gz` an operator. Source: github.com/sitar-lab/NeuSight
(MIT).
"""

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.device import Device, device_from_mapping
from predictors.fusion import Kernel, make_kernel
from predictors.operators import Activation, Conv2d, Elementwise, Linear, MatMul, Normalization, Operator, Softmax

FILES = {
    "add": "train_add.csv.gz",
    "mul": "train_mul.csv.gz",
    "relu": "train_relu.csv.gz",
    "softmax": "train_softmax.csv.gz",
    "layer_norm": "train_ln.csv.gz",
    "linear": "train_linear.csv.gz",
    "matmul": "train_bmm.csv.gz",
    "conv2d": "train_conv.csv.gz",
}
"""By class, the simplest first."""

SPECIFICATIONS = "device_configs.json"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measured:
    """Kernels of one class on one GPU, and the N seconds that they took."""

    device: Device
    kernels: tuple[Kernel, ...]
    seconds_N: NDArray[np.float64]


def read_operators(folder: Path, name: str, limit: int | None = None) -> dict[str, Measured]:
    """Measured kernels of a class, by GPU, e.g. 'V100'.

    Args:
        folder: where the files lie.
        name: one of `FILES`.
        limit: keep so many kernels of each GPU, drawn at random but always the same; None keeps all.

    Raises:
        ValueError: a row that is no measurement; it says file and line.
    """
    specifications = json.loads((folder / SPECIFICATIONS).read_text(encoding="utf-8"))
    path = folder / FILES[name]
    rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            rows.setdefault(row["Device"], []).append((number, row))
    found = {}
    for device_name, members in rows.items():
        if limit is not None and len(members) > limit:
            keep = np.random.default_rng(0).choice(len(members), limit, replace=False)
            members = [members[index] for index in sorted(keep)]
        kernels, seconds = [], []
        for number, row in members:
            try:
                kernels.append(make_kernel(_OPERATORS[name](row), (), "float32"))
                seconds.append(float(row["Latency"]) * 1e-3)
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no measurement of {name!r}: {error}") from None
        device = _device(specifications[device_name])
        found[device.name] = Measured(device=device, kernels=tuple(kernels), seconds_N=np.array(seconds))
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _device(specification: Mapping[str, float | str]) -> Device:
    name = str(specification["Device"])
    short = next(part for part in name.replace("-", " ").split() if part[0] in "PTVAHL" and part[1:].isdigit())

    def number(key: str, unit: str) -> dict[str, object]:
        return {"value": specification[key], "unit": unit, "source": "NeuSight device_configs.json (MIT)"}

    return device_from_mapping(
        {
            "name": short, "description": name, "runtime": "torch_eager", "dtype": "float32",
            "peak": {"float32": number("SingleFLOPs", "GFLOP/s")},
            "memory": [{"name": "dram", "bandwidth": number("Mem_Bw", "GB/s")}],
            "compute_units": number("Num_Sm", "cores"),
            "cache": number("L2Cache", "MiB"),
        }
    )  # fmt: skip


def _rows_columns(row: Mapping[str, str]) -> tuple[int, int]:
    return int(row["B"]), int(row["H"])


def _matmul(row: Mapping[str, str]) -> MatMul:
    batch, rows, columns, inner = (int(row[key]) for key in "BMNK")
    return MatMul(left=(batch, rows, inner), right=(batch, inner, columns))


def _conv2d(row: Mapping[str, str]) -> Conv2d:
    window, size = int(row["Kernel_Szie"]), int(row["Input_Size"])
    stride, padding = int(row["Stride"]), int(row["Padding"])
    return Conv2d(
        batch=int(row["B"]), in_channels=int(row["Input_Channel"]), out_channels=int(row["Output_Channel"]),
        height=size, width=size, kernel=(window, window), stride=(stride, stride), padding=(padding, padding),
    )  # fmt: skip


_OPERATORS: Mapping[str, Callable[[Mapping[str, str]], Operator]] = {
    "add": lambda row: Elementwise(function="add", shapes=(_rows_columns(row),) * 2),
    "mul": lambda row: Elementwise(function="mul", shapes=(_rows_columns(row),) * 2),
    "relu": lambda row: Activation(shape=_rows_columns(row), function="relu"),
    "softmax": lambda row: Softmax(shape=_rows_columns(row)),
    "layer_norm": lambda row: Normalization(
        shape=_rows_columns(row), method="layer_norm", affine_params=2 * int(row["H"])
    ),
    "linear": lambda row: Linear(shape=(int(row["M"]), int(row["K"])), out_features=int(row["N"]), bias=True),
    "matmul": _matmul,
    "conv2d": _conv2d,
}
