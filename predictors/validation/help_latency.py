"""Networks of two spaces on many devices: ten random archs are measured, the others are predicted and ranked.

Nothing else is known of a device: no data sheet, no tables, no other device's measurements; of its runtime only what
the source of the figures says, and that is checked against the other kind. Eyeriss and the FPGA are estimates.
Source: github.com/HayeonLee/HELP (MIT), Lee et al., "HELP", NeurIPS 2021, arXiv:2106.08630; pixel3, raspi4, eyeriss and
fpga are from HW-NAS-Bench, Li et al., ICLR 2021, arXiv:2103.10584.
"""

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.device import Device, load_device
from predictors.fusion import Kernel, fuse, load_runtime
from predictors.graph import Graph
from predictors.nasbench201 import parse_nb201
from predictors.regimes import KernelWork, choose_runtime, count_kernels, fit_regimes, kernel_work
from predictors.roofline import roofline
from predictors.validation.cell_graphs import fbnet_graph, fold_zeros, nb201_graph
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison

TITLE = "NAS-Bench-201 and the FBNet space: ten random archs rank 1,490 others, 20 draws on each device"
GOAL = "mean Spearman at least 0.97 (HELP: 0.932), no device under 0.88"
FILES = ("help_latency/nasbench201_latency_ms.csv.gz", "help_latency/fbnet_latency_ms.csv.gz")
SUMMARY = "mean"

NUM_MEASURED = 10
NUM_DRAWS = 20
NUM_ARCHS = 1_500
"""Of each space, drawn at random: who is measured and who is predicted."""
FIRST_DRAW = 1_000
"""Seeds of the draws; those below were used to choose the numbers of `predictors.regimes`."""

EAGER, CONVERTED = "torch_eager", "litert"
_CONVERTED_ON = ("pixel3", "raspi4")
"""Devices that HW-NAS-Bench measured under TensorFlow Lite; HELP's own run PyTorch."""
_BATCHES = (1, 16, 32, 64, 128, 256)
DTYPE = "float32"
_SIMILAR: Mapping[str, str] = {
    "1080ti": "v100", "titan": "v100", "2080ti": "v100", "v100": "v100",
    "gold": "cpu_x86", "silver": "cpu_x86",
}  # fmt: skip
"""Whose bare roofline stands for that of the device; `_OTHER` for all others. One factor on it is fitted."""
_OTHER = "mobile_cpu"

Array = NDArray[np.float64]


GraphOf = Callable[[str, int, str], Graph]
"""Graph of an arch as written, with a batch, as the runtime of that name gets it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Space:
    """A table: archs as written, devices, and milliseconds as seconds. `graph` makes an arch's graph."""

    name: str
    archs: Sequence[str]
    devices: Sequence[str]
    measured_s_ND: Array
    graph: GraphOf


@dataclass(frozen=True, eq=False, kw_only=True)
class Runs:
    """How often each arch runs each kernel under a runtime, with a batch."""

    kernels: Sequence[Kernel]
    counts_NK: Array
    work: KernelWork


def compare(data: Path) -> list[Comparison]:
    """One comparison a draw, device and space, so that their mean is that over the devices."""
    return [comparison for space in read_spaces(data) for comparison in compare_space(space)]


def read_spaces(data: Path, num_archs: int = NUM_ARCHS) -> list[Space]:
    """Both spaces, with archs drawn at random."""
    return [
        read_space("NAS-Bench-201", data / FILES[0], _nb201, num_archs),
        read_space("FBNet space", data / FILES[1], _fbnet, num_archs),
    ]


def read_space(name: str, path: Path, graph: GraphOf, num_archs: int = NUM_ARCHS) -> Space:
    """A table of HELP: an index, the arch, and milliseconds by device."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:num_archs])
    return Space(
        name=name,
        archs=[rows[index][1] for index in chosen],
        devices=header[2:],
        measured_s_ND=np.array([[float(value) / 1e3 for value in rows[index][2:]] for index in chosen]),
        graph=graph,
    )


def compare_space(space: Space, num_draws: int = NUM_DRAWS, num_measured: int = NUM_MEASURED) -> Iterator[Comparison]:
    """Every device, `num_draws` times with other measured archs; both baselines have one factor fitted on them too."""
    runs: dict[tuple[str, int], Runs] = {}
    for index, device in enumerate(space.devices):
        batch = batch_of(device)
        names = runtimes_of(device)
        for name in names:
            if (name, batch) not in runs:
                runs[name, batch] = count_runs(space, name, batch)
        candidates = [runs[name, batch] for name in names]
        macs_N = _macs(candidates[0])
        roofline_s_N = _roofline_s(candidates[0], load_device(similar(device)))
        for draw in range(num_draws):
            order = np.random.default_rng(FIRST_DRAW + draw).permutation(len(space.archs))
            few, rest = order[:num_measured], order[num_measured:]
            measured_s_N = space.measured_s_ND[:, index]
            latency_s_M, std_s_M = _predict(candidates, measured_s_N, few, rest)
            yield Comparison(
                name=f"{space.name}, {device}, draw {draw}",
                measured_s_N=measured_s_N[rest],
                predicted_s_N={
                    OURS: latency_s_M,
                    MACS_BASELINE: scaled(macs_N, measured_s_N, few)[rest],
                    ROOFLINE_BASELINE: scaled(roofline_s_N, measured_s_N, few)[rest],
                },
                std_s_N=std_s_M,
            )


def batch_of(device: str) -> int:
    """Images at once, which the names of columns end in; 1 where they end in no batch.

    >>> batch_of("titan_rtx_256"), batch_of("gold_6226")
    (256, 1)
    """
    last = device.rsplit("_", 1)[-1]
    return int(last) if last.isdigit() and int(last) in _BATCHES else 1


def count_runs(space: Space, runtime: str, batch: int) -> Runs:
    """How often each arch runs each kernel under a runtime.

    Archs are counted with a batch of one: a batch changes the kernels' sizes, not which of them there are.
    """
    rules = load_runtime(runtime)
    kernels, counts_NK = _counted(space, runtime)
    if batch != 1:
        enlarged: dict[Kernel, Kernel] = {}
        for index in np.unique((counts_NK > 0.0).argmax(axis=0)):
            one, many = (fuse(space.graph(space.archs[index], each, runtime), rules, DTYPE) for each in (1, batch))
            enlarged.update((small.kernel, large.kernel) for small, large in zip(one, many, strict=True))
        kernels = tuple(enlarged[kernel] for kernel in kernels)
    return Runs(kernels=kernels, counts_NK=counts_NK, work=kernel_work(kernels))


def runtimes_of(device: str) -> tuple[str, str]:
    """What ran on the device of a column by its source, and the other kind, which is tried too."""
    return (CONVERTED, EAGER) if device in _CONVERTED_ON else (EAGER, CONVERTED)


def similar(device: str) -> str:
    """Name of the shipped device whose numbers stand in for those of a column."""
    return next((name for start, name in _SIMILAR.items() if device.startswith(start)), _OTHER)


def scaled(guess_N: Array, measured_s_N: Array, few: NDArray[np.int64]) -> Array:
    """A guess times the one factor that fits the measured networks best, as a median of ratios."""
    factor = float(np.median(measured_s_N[few] / guess_N[few]))
    return factor * guess_N


# ------------------------------------------------------------------------------------------------------------ private


def _nb201(arch: str, batch: int, runtime: str) -> Graph:
    operations = parse_nb201(arch)
    return nb201_graph(fold_zeros(operations) if runtime == CONVERTED else operations, batch)


def _fbnet(arch: str, batch: int, runtime: str) -> Graph:
    return fbnet_graph([int(block) for block in arch.split()], batch)


@lru_cache(maxsize=4)
def _counted(space: Space, runtime: str) -> tuple[tuple[Kernel, ...], Array]:
    graphs = (space.graph(arch, 1, runtime) for arch in space.archs)
    return count_kernels(graphs, load_runtime(runtime), DTYPE)


def _predict(
    candidates: Sequence[Runs], measured_s_N: Array, few: NDArray[np.int64], rest: NDArray[np.int64]
) -> tuple[Array, Array]:
    """What `predict_from_few` gives, with the kernels of all archs counted once for all draws."""
    fits = [fit_regimes(runs.work, runs.counts_NK[few], measured_s_N[few]) for runs in candidates]
    best = choose_runtime(fits)
    counts_MK = candidates[best].counts_NK[rest]
    return fits[best].predict(counts_MK), fits[best].std_s(counts_MK)


def _macs(runs: Runs) -> Array:
    macs_N: Array = runs.counts_NK @ np.array([kernel_cost(kernel).macs for kernel in runs.kernels], dtype=np.float64)
    return macs_N


def _roofline_s(runs: Runs, device: Device) -> Array:
    kernel_s_K = [roofline(kernel_cost(kernel), device, DTYPE).latency_s for kernel in runs.kernels]
    latency_s_N: Array = runs.counts_NK @ np.array(kernel_s_K)
    return latency_s_N
