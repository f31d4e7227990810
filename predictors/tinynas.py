"""Public TinyNAS tables of convolutions, measured with TensorRT, as tuned kernels.

A table is text with one kernel a line, `{Regular,1,16,7,7,16,1,1,0} 0.123`: kind, batch, input channels, height, width,
output channels, window, stride, whether an elementwise sum is fused, and milliseconds, -1 where the kernel failed to
run. Source: github.com/alibaba/lightweight-neural-architecture-search, `latency/op_profiler` (Apache-2.0). The same
columns as CSV (`*.csv`, `*.csv.gz`) are read as well.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

from predictors.autotvm import TunedKernel
from predictors.fusion import make_kernel
from predictors.operators import Conv2d, Elementwise

NUM_FOLDS = 5
_COLUMNS = ("op", "batch", "cin", "h", "w", "cout", "k", "stride", "elmtfused", "lat_ms")
_IS_DEPTHWISE = {"Regular": False, "Depthwise": True}


def read_conv_table(path: Path, dtype: str, batch: int | None = None) -> tuple[TunedKernel, ...]:
    """Kernels of a table that ran; each is padded by half its window, as the profiler builds them.

    The shapes belong to no network. A fifth of them, by the checksum of what they are at any batch, stands for one, so
    that leaving a "network" out holds a random fifth of the shapes out, at all their batches.

    Args:
        path: the file; it does not say its dtype.
        dtype: of data, weights and sums.
        batch: keep the kernels of this batch; None keeps all.

    Raises:
        ValueError: a line that is no kernel; it says file and line.
    """
    found = []
    for number, fields in _lines(path):
        try:
            tuned = None if batch is not None and int(fields[1]) != batch else _tuned_kernel(fields, dtype)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{path}, line {number}: no convolution {','.join(_COLUMNS)}: {error}") from None
        if tuned is not None:
            found.append(tuned)
    return tuple(found)


# ------------------------------------------------------------------------------------------------------------ private


def _lines(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Line numbers and the ten fields of each line."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        if ".csv" in path.suffixes:
            rows = csv.reader(file)
            next(rows, None)
            yield from enumerate(rows, start=2)
        else:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.replace("{", "").replace("}", ",").replace(" ", "").strip().split(",")


def _tuned_kernel(fields: Sequence[str], dtype: str) -> TunedKernel | None:
    if len(fields) != len(_COLUMNS):
        raise ValueError(f"expected {len(_COLUMNS)} fields, found {len(fields)}")
    name, *numbers, milliseconds = fields
    batch, in_channels, height, width, out_channels, window, stride, adds = map(int, numbers)
    is_depthwise = _IS_DEPTHWISE[name]
    latency_s = float(milliseconds) * 1e-3
    if latency_s <= 0.0:
        return None
    conv = Conv2d(
        batch=batch, in_channels=in_channels, out_channels=out_channels, height=height, width=width,
        kernel=(window, window), stride=(stride, stride), padding=(window // 2, window // 2),
        groups=in_channels if is_depthwise else 1,
    )  # fmt: skip
    fused = (Elementwise(function="add", shapes=(conv.output_shape, conv.output_shape)),) if adds else ()
    shape = ",".join((name, *fields[2:8]))
    return TunedKernel(
        kernel=make_kernel(conv, fused, dtype),
        latency_s=latency_s,
        accumulator=dtype,
        task=name,
        network=f"fold{crc32(shape.encode()) % NUM_FOLDS}",
    )
