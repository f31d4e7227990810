"""What a machine can do at most: arithmetic, bandwidth by working set, and the cost of launching a kernel.

A peak is the greatest that anything here reaches: libraries and shapes compete for the arithmetic, patterns of access
for the bandwidth. So it is an upper bound that kernels reach a share of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictors.measure.clock import Clock

Run = Callable[[], object]
_Key = TypeVar("_Key")

WORKING_SETS_BYTES: Mapping[str, tuple[int, ...]] = {
    "cpu": tuple(int(2.0 ** (quarter_octaves / 4)) for quarter_octaves in (*range(55, 109, 2), 111, 115)),
    "cuda": tuple(int(2.0 ** (quarter_octaves / 4)) for quarter_octaves in range(93, 126, 2)),
}
"""By processor, two an octave where caches end: 14 KiB to 431 MiB; 10 MiB to 2.4 GiB, as less waits for launches.

None is a power of two: arrays that lie a power of two apart share banks of the memory, and moved a tenth slower.
"""

CHAIN_LENGTHS = (16, 64, 128)

_SAMPLES = 3
_QUICK_VISITS = 4
"""How many times as often small working sets are visited, which takes no time."""

_EMULATED = 0.25
"""A dtype below this share of the float32 peak is one that the processor emulates."""

_PRODUCTS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "cpu": ((384, 384, 384), (768, 768, 768)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 4096, 16384)),
}
_CONVOLUTIONS: Mapping[str, tuple[tuple[int, int, int, int], ...]] = {
    "cpu": ((128, 256, 56, 3), (256, 256, 56, 3)),
    "cuda": (),
}
"""Input channels, output channels, pixels a side, window. What libraries reached on a core of an AMD EPYC (Zen 3) whose
fused multiply-adds come to 103.6 GFLOP/s: convolutions 95, MKL 92, OpenBLAS of NumPy 91, oneDNN's linear with weights
packed before 84. The last two won nowhere and are left out; besides, NumPy's threads are not PyTorch's."""

_SAME_LEVEL = 1.25
"""Bandwidths of neighbouring levels of memory differ by more than this factor."""

_STEPPED_BYTES = 2**25
_CALLED_FROM_BYTES = 2**20
"""From here on each pass over the working set is a call by itself, which takes a microsecond or two."""

_GRAPHED_BYTES = 2**28
_GRAPHED_PASSES = 32
"""On a GPU passes over less than that run as one graph of launches, which the host does not hold up."""

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Peak:
    """The greatest FLOP/s (integer operations for int8), and the library and shape that reached it."""

    flops_per_s: float
    reached_by: str


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The greatest byte/s at a working set, read and written ones together, and the pattern that reached it."""

    bytes_per_s: float
    reached_by: str


@dataclass(frozen=True, slots=True)
class Level:
    """A plateau of the bandwidth: up to `capacity_bytes` (None: any number of) bytes move at `bytes_per_s`."""

    bytes_per_s: float
    capacity_bytes: int | None


def arithmetic_peaks(clock: Clock, processor: str = "cpu", rounds: int = 5) -> dict[str, Peak]:
    """The greatest FLOP/s by dtype of matrix products and convolutions, with as many threads as PyTorch uses now.

    A dtype that the processor does not compute in, which shows as a small share of the rate in float32, is left out.

    Args:
        processor: 'cpu' or 'cuda'.
        rounds: how often each shape is visited, in random order.
    """
    with _float32_precision("highest"):
        float32 = _greatest(clock, _float_runs(torch.float32, processor), rounds)
    found = {"float32": float32}
    if processor == "cuda":
        with _float32_precision("high"):
            found["tf32"] = _greatest(clock, _float_runs(torch.float32, processor), rounds)
    for name, dtype in {"bfloat16": torch.bfloat16, "float16": torch.float16}.items():
        size = _PRODUCTS[processor][0]
        flops, run = _product(size, dtype, processor)
        if flops / clock.best_s(run, visits=1) > _EMULATED * float32.flops_per_s:
            found[name] = _greatest(clock, _float_runs(dtype, processor), rounds)
    if int8 := _int8_runs(processor):
        found["int8"] = _greatest(clock, int8, rounds)
    return found


def bandwidths(
    clock: Clock, working_sets_bytes: Sequence[int], processor: str = "cpu", rounds: int = 3
) -> list[Bandwidth]:
    """The greatest byte/s at each working set, over patterns of access: reading, copying, combining two arrays
    into a third, accumulating one in another.

    A working set is all memory that a pattern touches. What counts is the bytes that a program asks to be read and
    written, as a kernel's traffic counts them; not the lines that a cache fetches before they are overwritten. That is
    why accumulating mostly wins over copying, and why filling, which never won, is not tried. On small working sets a
    pattern goes over them many times within one call, so that the call does not count. On several threads each has its
    share of the working set.

    Args:
        processor: 'cpu' or 'cuda'.
        rounds: how often each pattern and working set is visited, in random order.
    """
    sizes = sorted(set(working_sets_bytes))
    threads = torch.get_num_threads() if processor == "cpu" else 1
    runs: dict[tuple[int, str], Run] = {}
    moved_bytes: dict[tuple[int, str], int] = {}
    with ThreadPoolExecutor(threads) as pool:
        pools = [_pool(max(sizes) // threads, processor) for _ in range(threads)]
        for size in sizes:
            parts = [part[: size // threads // 4] for part in pools]
            for name, pattern in _patterns(size, processor).items():
                made = [pattern(part) for part in parts]
                moved_bytes[size, name] = sum(moved for moved, _ in made)
                runs[size, name] = _together([run for _, run in made], pool)
        visits = {key: rounds * (_QUICK_VISITS if key[0] < _CALLED_FROM_BYTES else 1) for key in runs}
        seconds = _best_times(clock, runs, visits)
    found: dict[int, Bandwidth] = {}
    for (size, name), moved in moved_bytes.items():
        reached = Bandwidth(moved / seconds[size, name], name)
        if size not in found or found[size].bytes_per_s < reached.bytes_per_s:
            found[size] = reached
    return [found[size] for size in working_sets_bytes]


def memory_levels(working_sets_bytes: Sequence[int], bytes_per_s: Sequence[float]) -> list[Level]:
    """Levels of memory, the fastest first: the plateaus of the bandwidth over ascending working sets.

    Of all ways to cut the working sets into runs of two or more whose medians fall by a quarter or more, the one with
    the least sum of |ln(bandwidth / median)|, plus a price for each level. A working set between two plateaus goes to
    the nearer one. A level's bandwidth is the greatest of its plateau; of all but the first level's only the larger
    half counts, since the level before still serves a part of the others.

    >>> [level.capacity_bytes for level in memory_levels([1, 2, 4, 8], [90.0, 95.0, 20.0, 21.0])]
    [2, None]

    Raises:
        ValueError: no working sets, or not as many bandwidths.
    """
    if not working_sets_bytes or len(working_sets_bytes) != len(bytes_per_s):
        raise ValueError(f"levels need bandwidths, one a working set; found {bytes_per_s} for {working_sets_bytes}")
    cuts = (*_plateaus(np.log(bytes_per_s)), len(bytes_per_s))
    return [
        Level(
            bytes_per_s=float(max(bytes_per_s[(start + end) // 2 if start else 0 : end])),
            capacity_bytes=working_sets_bytes[end - 1] if end < len(bytes_per_s) else None,
        )
        for start, end in pairwise(cuts)
    ]


def launch_cost_s(clock: Clock) -> float:
    """Seconds that one more tiny kernel adds to a chain of them in PyTorch."""
    x = torch.zeros(8)
    layer = nn.ReLU()

    def chain(length: int) -> None:
        for _ in range(length):
            layer(x)

    runs = {length: lambda length=length: chain(length) for length in CHAIN_LENGTHS}
    seconds = _best_times(clock, runs, dict.fromkeys(runs, 3))
    return chain_slope(CHAIN_LENGTHS, [seconds[length] for length in CHAIN_LENGTHS])


def chain_slope(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds that a chain takes more for each further link, by least squares; never below 0.

    >>> chain_slope([1, 2, 3], [5.0, 7.0, 9.0])
    2.0

    Raises:
        ValueError: fewer than two different lengths, or not one time for each.
    """
    if len(set(lengths)) < 2 or len(lengths) != len(seconds):
        raise ValueError(f"a slope needs two different lengths and a time for each; found {lengths} and {seconds}")
    offsets = np.asarray(lengths, dtype=np.float64) - np.mean(lengths)
    return max(float(offsets @ np.asarray(seconds) / (offsets @ offsets)), 0.0)


# ------------------------------------------------------------------------------------------------------------ private


def _best_times(clock: Clock, runs: Mapping[_Key, Run], visits: Mapping[_Key, int]) -> dict[_Key, float]:
    """Least seconds of each run over visits in random order, since a machine can be slow for seconds."""
    turns = [key for key in runs for _ in range(visits[key])]
    found = dict.fromkeys(runs, float("inf"))
    for index in np.random.default_rng(0).permutation(len(turns)):
        key = turns[index]
        found[key] = min(found[key], clock.best_s(runs[key], visits=_SAMPLES))
    return found


# Arithmetic: names of a library and a shape, with the operations of a run and the run.


def _greatest(clock: Clock, runs: Mapping[str, tuple[int, Run]], rounds: int) -> Peak:
    with torch.inference_mode():
        seconds = _best_times(clock, {name: run for name, (_, run) in runs.items()}, dict.fromkeys(runs, rounds))
    return max((Peak(runs[name][0] / seconds[name], name) for name in runs), key=lambda peak: peak.flops_per_s)


def _float_runs(dtype: torch.dtype, processor: str) -> dict[str, tuple[int, Run]]:
    found = {
        f"torch.mm of {m}x{k} and {k}x{n}": _product((m, k, n), dtype, processor) for m, k, n in _PRODUCTS[processor]
    }
    for shape in _CONVOLUTIONS[processor]:
        c_in, c_out, side, window = shape
        name = f"torch.conv2d {window}x{window} from {c_in} to {c_out} channels at {side}x{side}, channels last"
        found[name] = _convolution(shape, dtype, processor)
    return found


def _product(shape: tuple[int, int, int], dtype: torch.dtype, processor: str) -> tuple[int, Run]:
    m, k, n = shape
    left_MK = torch.rand(m, k, device=processor).to(dtype)
    right_KN = torch.rand(k, n, device=processor).to(dtype)
    product_MN = torch.empty(m, n, dtype=dtype, device=processor)
    return 2 * m * k * n, lambda: torch.mm(left_MK, right_KN, out=product_MN)


def _convolution(shape: tuple[int, int, int, int], dtype: torch.dtype, processor: str) -> tuple[int, Run]:
    """Without padding, of which libraries compute more or less; and of one image, which none transforms by Winograd."""
    c_in, c_out, side, window = shape
    x_BCHW = torch.rand(1, c_in, side, side, device=processor).to(dtype, memory_format=torch.channels_last)
    weight = torch.rand(c_out, c_in, window, window, device=processor).to(dtype, memory_format=torch.channels_last)
    flops = 2 * c_in * c_out * window**2 * (side - window + 1) ** 2
    return flops, lambda: torch.conv2d(x_BCHW, weight)


def _int8_runs(processor: str) -> dict[str, tuple[int, Run]]:
    if processor == "cuda":
        return {f"torch._int_mm of {m}x{k} and {k}x{n}": _int8_product(m, k, n) for m, k, n in _PRODUCTS[processor]}
    if "x86" not in torch.backends.quantized.supported_engines:
        return {}
    return {f"oneDNN linear of {m}x{k} and {k}x{n}": _int8_linear(m, k, n) for m, k, n in _PRODUCTS[processor]}


def _int8_product(m: int, k: int, n: int) -> tuple[int, Run]:
    left_MK = torch.ones(m, k, dtype=torch.int8, device="cuda")
    right_KN = torch.ones(n, k, dtype=torch.int8, device="cuda").t()
    return 2 * m * k * n, lambda: torch._int_mm(left_MK, right_KN)


def _int8_linear(m: int, k: int, n: int) -> tuple[int, Run]:
    """As PyTorch's compiler calls it: `torch._int_mm` only emulates where the processor has no instructions for it."""
    x_MK = torch.ones(m, k, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(torch.ones(n, k, dtype=torch.int8), [m, k])
    scale_N, zero_N = torch.ones(n), torch.zeros(n, dtype=torch.int32)
    left = (x_MK, 1.0, 0)
    right = (packed, scale_N, zero_N, None)
    to_float32: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    return 2 * m * k * n, lambda: torch.ops.onednn.qlinear_pointwise(*left, *right, *to_float32)


@contextmanager
def _float32_precision(name: str) -> Iterator[None]:
    """Of matrix products: 'highest' is float32, 'high' is tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# Bandwidth: a pattern takes all the memory that it may touch, and gives the bytes that a run moves and the run.


def _pool(num_bytes: int, processor: str) -> Any:
    """Written memory from the start of a page: before it is written, all pages are one and the same."""
    if processor == "cpu":
        room_N = np.empty((num_bytes + _PAGE_BYTES) // 4, dtype=np.float32)
        start = -room_N.ctypes.data % _PAGE_BYTES // 4
        pool_N = room_N[start : start + num_bytes // 4]
        pool_N.fill(1.0)
        return pool_N
    return torch.ones(num_bytes // 4, device=processor)


def _patterns(working_set_bytes: int, processor: str) -> dict[str, Callable[[Any], tuple[int, Run]]]:
    if processor == "cuda":
        found: dict[str, Callable[[Any], tuple[int, Run]]] = {
            "torch.dot": _gpu_read,
            "torch.copy_": _gpu_copy,
            "torch.add": _gpu_add,
        }
        if working_set_bytes < _GRAPHED_BYTES:
            return {name: _graphed(pattern) for name, pattern in found.items()}
        return found
    if working_set_bytes < _CALLED_FROM_BYTES:
        return {"accumulating with NumPy": _accumulate}
    return {
        "accumulating with NumPy": _update,
        "reading with NumPy": _read,
        "copying with NumPy": _copy,
        "combining with NumPy": _combine,
    }


def _accumulate(pool_N: NDArray[np.float32]) -> tuple[int, Run]:
    """Sum |= row, many times within one call. Of NumPy's binary operations this does the least beside moving bytes."""
    row_N, sum_N = _parts(pool_N.view(np.int32), 2)
    num_steps = _STEPPED_BYTES // pool_N.nbytes
    rows_SN = np.broadcast_to(row_N, (num_steps, row_N.size))
    moved = 2 * row_N.nbytes + 3 * row_N.nbytes * (num_steps - 1)  # the first step copies its row
    return moved, lambda: np.bitwise_or.reduce(rows_SN, axis=0, out=sum_N)


def _update(pool_N: NDArray[np.float32]) -> tuple[int, Run]:
    row_N, sum_N = _parts(pool_N.view(np.int32), 2)
    return 3 * row_N.nbytes, lambda: np.bitwise_or(row_N, sum_N, out=sum_N)


def _read(pool_N: NDArray[np.float32]) -> tuple[int, Run]:
    """Two streams: one alone, as in `sum`, kept a core waiting. `np.dot` would bring threads of its own."""
    left_N, right_N = _parts(pool_N, 2)
    return 2 * left_N.nbytes, lambda: np.einsum("n,n->", left_N, right_N)


def _copy(pool_N: NDArray[np.float32]) -> tuple[int, Run]:
    source_N, target_N = _parts(pool_N, 2)
    return 2 * source_N.nbytes, lambda: np.copyto(target_N, source_N)


def _combine(pool_N: NDArray[np.float32]) -> tuple[int, Run]:
    left_N, right_N, either_N = _parts(pool_N.view(np.int32), 3)
    return 3 * left_N.nbytes, lambda: np.bitwise_or(left_N, right_N, out=either_N)


def _graphed(pattern: Callable[[Any], tuple[int, Run]]) -> Callable[[Any], tuple[int, Run]]:
    """The pattern many times over as one CUDA graph."""

    def make(pool_N: Tensor) -> tuple[int, Run]:
        moved, run = pattern(pool_N)
        for _ in range(3):  # what a library sets up on first use cannot be captured
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_GRAPHED_PASSES):
                run()
        return _GRAPHED_PASSES * moved, graph.replay

    return make


def _gpu_read(pool_N: Tensor) -> tuple[int, Run]:
    left_N, right_N = _parts(pool_N, 2)
    return 2 * left_N.nbytes, lambda: torch.dot(left_N, right_N)


def _gpu_copy(pool_N: Tensor) -> tuple[int, Run]:
    source_N, target_N = _parts(pool_N, 2)
    return 2 * source_N.nbytes, lambda: target_N.copy_(source_N)


def _gpu_add(pool_N: Tensor) -> tuple[int, Run]:
    left_N, right_N, sum_N = _parts(pool_N, 3)
    return 3 * left_N.nbytes, lambda: torch.add(left_N, right_N, out=sum_N)


def _parts(pool_N: Any, num_parts: int) -> list[Any]:
    """Equal parts that start on a line of a cache each: multiples of 16 numbers of 4 bytes."""
    length = len(pool_N) // num_parts // 16 * 16
    return [pool_N[index * length : (index + 1) * length] for index in range(num_parts)]


def _together(runs: Sequence[Run], pool: ThreadPoolExecutor) -> Run:
    """One run that runs all at once, each on a thread; NumPy lets others run while it computes."""
    if len(runs) == 1:
        return runs[0]
    return lambda: list(pool.map(lambda run: run(), runs))


# Levels


def _plateaus(log_bandwidths: NDArray[np.float64]) -> tuple[int, ...]:
    """Where the plateaus start, by dynamic programming over the last one."""
    num, least, price = len(log_bandwidths), min(2, len(log_bandwidths)), 3.0 * np.log(_SAME_LEVEL)
    best: dict[tuple[int, int], tuple[float, float, tuple[int, ...]]] = {}  # (start, end): cost, median, all starts
    for end in range(least, num + 1):
        for start in range(end - least + 1):
            median = float(np.median(log_bandwidths[start:end]))
            cost = float(np.abs(log_bandwidths[start:end] - median).sum()) + price
            before = [
                (best[first, start][0], best[first, start][2])
                for first in range(start - least + 1)
                if (first, start) in best and best[first, start][1] - median > np.log(_SAME_LEVEL)
            ]
            if start == 0:
                best[start, end] = (cost, median, (0,))
            elif before:
                least_cost, starts = min(before)
                best[start, end] = (least_cost + cost, median, (*starts, start))
    return min(best[start, num] for start in range(num) if (start, num) in best)[2]
