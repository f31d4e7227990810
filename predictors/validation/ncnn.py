"""Whole networks under ncnn on phones, boards and PCs: five are measured, the others are predicted.

Every run of the benchmark is a device of its own: a machine with so many threads, or a GPU under Vulkan. Which five are
measured is advised from the rates of the other chips before any time of the device is known.
The other chips ran the same networks. For networks that no other device ran either errors are about those of the model
without other devices (docs/decisions.md).
Source: github.com/Tencent/ncnn, benchmark/README.md and benchmark/*.param (BSD-3-Clause).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.calibration import ClassPrior, calibrate
from predictors.class_terms import Term, all_terms, prior_from_device, term_amounts, term_matrix
from predictors.cost import kernel_cost
from predictors.device import Device, MemoryLevel, Quantity
from predictors.fusion import fuse, load_runtime
from predictors.graph import Graph
from predictors.latency import UNKNOWN_EFFICIENCY, LatencyPredictor
from predictors.ncnn_param import is_quantised, read_ncnn_param
from predictors.operators import Shape
from predictors.rates import RatePrior, choose_rows, fit_rates, learn_prior
from predictors.roofline import roofline
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison

TITLE = "whole networks under ncnn: five measured ones predict the others, on every device, CPU and Vulkan"
GOAL = "median over devices: MAPE at most 15 %, Spearman at least 0.95"
FILES = ("ncnn_benchmark/ncnn_bench.csv", "ncnn_benchmark/param")
SUMMARY = "median"

RANDOM = "five at random"
ALONE = "without other devices"

NUM_MEASURED = 5
_FOLDS = 4
_LEAST_GPU_S = 0.7e-3
"""Shorter times of GPUs are failed runs."""
_INPUTS: Mapping[str, Mapping[str, Shape]] = {
    "FastestDet": {"in0": (3, 352, 352)},
    "vision_transformer": {"input": (3, 384, 384)},
}
"""Sizes that benchmark/benchncnn.cpp gives to networks whose files do not say them."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Measured networks of one device. `chip`: runs of one chip are never in each other's prior."""

    name: str
    chip: str
    device: Device
    seconds: Mapping[str, float]


def compare(data: Path, every: int = 1) -> list[Comparison]:
    """A comparison a run, for CPUs and for GPUs; beside the baselines, what five at random and what no prior give.

    Args:
        every: 3 takes a third of the runs.
    """
    networks = read_networks(data / FILES[1])
    runs = read_runs(data / FILES[0])
    return [
        comparison
        for kind in ("cpu", "vulkan")
        for comparison in compare_runs([run for run in runs if run.device.name == kind][::every], networks)
    ]


def read_networks(folder: Path) -> dict[str, tuple[Graph, str]]:
    """Graph and dtype of every network of the benchmark, by name; runs write - or _ in the same names."""
    found = {}
    for path in sorted(folder.glob("*.param")):
        quantised = is_quantised(path.read_text(encoding="utf-8"))
        graph = read_ncnn_param(path, _INPUTS.get(path.stem))
        found[path.stem.replace("-", "_")] = (graph, "int8" if quantised else "float32")
    return found


def read_runs(path: Path) -> list[Run]:
    """The mean seconds of each network, by run; those of GPUs without failed runs."""
    seconds: dict[tuple[str, ...], dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kind = row["backend"] or "cpu"
            mean_s = float(row["avg_ms"]) / 1e3
            if kind == "vulkan" and mean_s < _LEAST_GPU_S:
                continue
            key = (kind, row["run"], row["device"], row["gpu_name"], row["threads"], row["powersave"])
            seconds.setdefault(key, {})[row["model"].replace("-", "_")] = mean_s
    found = []
    for (kind, run, machine, gpu, threads, cores), times in seconds.items():
        where = f"Vulkan, {gpu}" if kind == "vulkan" else f"{threads} threads, powersave {cores}"
        name = f"{machine.partition('(')[0].strip()}, {where}, run {run}"
        sheet = _sheet(kind, machine, int(threads))
        found.append(Run(name=name, chip=_chip(machine), device=sheet, seconds=times))
    return found


def compare_runs(runs: Sequence[Run], networks: Mapping[str, tuple[Graph, str]]) -> list[Comparison]:
    """Each run predicted with the rates that the runs of other chips have as prior; chips in `_FOLDS` folds."""
    if not runs:
        return []
    sheets: dict[float, dict[str, dict[Term, float]]] = {}
    for run in runs:
        peak = run.device.peak_flops()
        if peak not in sheets:
            sheets[peak] = {name: _amounts(run.device, *network) for name, network in networks.items()}
    amounts = [[sheets[run.device.peak_flops()][name] for name in run.seconds] for run in runs]
    terms = all_terms(row for rows in amounts for row in rows)
    rows_RNT = [term_matrix(rows, terms) for rows in amounts]
    seconds_RN = [np.array(list(run.seconds.values())) for run in runs]
    chips = sorted({run.chip for run in runs})
    order = np.random.default_rng(0).permutation(len(chips))
    fold_of = {chip: int(place) % _FOLDS for chip, place in zip(chips, order)}
    start = prior_from_device(runs[0].device, terms, UNKNOWN_EFFICIENCY, "float32")
    found: dict[int, Comparison] = {}
    for fold in range(_FOLDS):
        others = [index for index, run in enumerate(runs) if fold_of[run.chip] != fold]
        learned = learn_prior([rows_RNT[index] for index in others], [seconds_RN[index] for index in others], start)
        prior = ClassPrior(terms=tuple(terms), rates=learned, source=f"{len(others)} runs of ncnn on other chips")
        for index, run in enumerate(runs):
            if fold_of[run.chip] == fold:
                found[index] = _compare(run, networks, rows_RNT[index], seconds_RN[index], prior, start, index)
    return [found[index] for index in range(len(runs))]


# ------------------------------------------------------------------------------------------------------------ private


def _compare(
    run: Run,
    networks: Mapping[str, tuple[Graph, str]],
    terms_NT: Array,
    seconds_N: Array,
    prior: ClassPrior,
    alone: RatePrior,
    seed: int,
) -> Comparison:
    names = list(run.seconds)
    chosen = choose_rows(terms_NT, prior.rates, NUM_MEASURED)
    rest = [index for index in range(len(names)) if index not in chosen]
    measured = [(networks[names[index]][0], seconds_N[index], networks[names[index]][1]) for index in chosen]
    device = calibrate(run.device, measured, runtime="ncnn", tables=(), prior=prior)
    predictors = {dtype: LatencyPredictor(device, (), dtype=dtype) for dtype in ("float32", "int8")}
    predictions = [predictors[networks[names[index]][1]].predict(networks[names[index]][0]) for index in rest]
    plain = fit_rates(terms_NT[chosen], seconds_N[chosen], alone)
    macs_N = np.array([float(networks[name][0].macs) for name in names])
    roofline_s_N = np.array([_roofline_s(run.device, *networks[name]) for name in names])
    return Comparison(
        name=run.name,
        labels=[names[index] for index in rest],
        measured_s_N=seconds_N[rest],
        predicted_s_N={
            OURS: np.array([each.latency_s for each in predictions]),
            RANDOM: _from_random(terms_NT, seconds_N, prior.rates, seed)[rest],
            ALONE: plain.predict(terms_NT[rest]),
            MACS_BASELINE: _scaled(macs_N, seconds_N, chosen)[rest],
            ROOFLINE_BASELINE: _scaled(roofline_s_N, seconds_N, chosen)[rest],
        },
        std_s_N=np.array([each.std_s for each in predictions]),
    )


def _from_random(terms_NT: Array, seconds_N: Array, prior: RatePrior, seed: int) -> Array:
    """Each network from one and the same random five; those of the five with a sixth in their place."""
    order = np.random.default_rng(seed).permutation(len(seconds_N))
    drawn, spare = order[:NUM_MEASURED], order[NUM_MEASURED]
    predicted_s_N = fit_rates(terms_NT[drawn], seconds_N[drawn], prior).predict(terms_NT)
    for index in drawn:
        instead = np.where(drawn == index, spare, drawn)
        fit = fit_rates(terms_NT[instead], seconds_N[instead], prior)
        predicted_s_N[index] = fit.predict(terms_NT[index][None])[0]
    return predicted_s_N


def _scaled(amount_N: Array, seconds_N: Array, chosen: Sequence[int]) -> Array:
    """One factor, the geometric mean over the measured networks: a baseline sees the same five."""
    factor = np.exp(np.mean(np.log(seconds_N[chosen] / amount_N[chosen])))
    scaled_N: Array = factor * amount_N
    return scaled_N


def _amounts(device: Device, graph: Graph, dtype: str) -> dict[Term, float]:
    return term_amounts(graph, device, load_runtime("ncnn"), dtype)


def _roofline_s(device: Device, graph: Graph, dtype: str) -> float:
    kernels = fuse(graph, load_runtime("ncnn"), dtype)
    return sum(roofline(kernel_cost(node.kernel), device, dtype).latency_s for node in kernels)


def _sheet(kind: str, machine: str, threads: int) -> Device:
    """The little that is known of every machine: cores and clock; of GPUs nothing but that they are GPUs."""
    if kind == "vulkan":
        source = "usual for a small GPU; the calibration finds the device's own"
        peak, bandwidth = 5e11, 2e10
    else:
        clocks = [float(each) for each in re.findall(r"(\d+\.\d+) ?G", machine)]
        source = "16 floating-point operations a cycle and core, the fastest clock in the machine's name, else 2 GHz"
        peak, bandwidth = 16e9 * max(clocks, default=2.0) * threads, 8e9 * min(threads, 4)
    number = Quantity(value=peak, source=source)
    return Device(
        name=kind,
        description=machine,
        runtime="ncnn",
        dtype="float32",
        peaks={"float32": number, "int8": number},
        memory=(MemoryLevel(name="dram", bandwidth=Quantity(value=bandwidth, source=source)),),
    )


_FAMILIES = (
    "RK3588", "RK356", "Loongson 3A", "Loongson 2K", "FT-2000", "Orin", "Xavier", "Azure", "AX6", "Ryzen", "Xeon Phi",
    "SM8550", "SM8150", "SDM765G", "MSM8998", "MSM8994", "Dimensity", "JH7110", "KunPeng", "Cortex-A7 ",
)  # fmt: skip


def _chip(machine: str) -> str:
    """Boards with one chip, and chips of one family, are not each other's prior."""
    return next((family for family in _FAMILIES if family.lower() in machine.lower()), machine)
