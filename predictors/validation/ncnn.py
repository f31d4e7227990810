"""Whole networks under ncnn on phones, boards and PCs: five are measured, the others are predicted.

Every run of the benchmark is a device of its own: a machine with so many threads, or a GPU under Vulkan. Which five are
measured is advised from the rates of the other chips before any time of the device is known.
The other chips ran the same networks, which a user's networks are not: so the networks are also split into parts, and
those of one part predicted from five of them and from what the other chips reach on the networks of the other parts.
Source: github.com/Tencent/ncnn, benchmark/README.md and benchmark/*.param (BSD-3-Clause).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.calibration import calibrate
from predictors.class_prior import MIN_NETWORKS, ClassPrior, prior_of_amounts
from predictors.class_terms import Term, all_terms, extended, prior_from_device, term_amounts, term_matrix
from predictors.cost import kernel_cost
from predictors.device import Device, MemoryLevel, Quantity
from predictors.fusion import Runtime, fuse, load_runtime
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.ncnn_param import is_quantised, read_ncnn_param
from predictors.operators import Shape
from predictors.rates import RatePrior, choose_rows, fit_rates
from predictors.roofline import roofline
from predictors.unmeasured import UNKNOWN_EFFICIENCY
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison

TITLE = "whole networks under ncnn: five measured ones predict the others, on every device, CPU and Vulkan"
GOAL = "median over devices: MAPE at most 15 %, Spearman at least 0.95"
FILES = ("ncnn_benchmark/ncnn_bench.csv", "ncnn_benchmark/param")
SUMMARY = "median"

RANDOM = "five at random"
ALONE = "without other devices"
NEW = "; networks new to the others"
"""Ends the names of comparisons whose networks no other chip ran."""

SHEETS: Mapping[str, str] = {
    "cpu": "peak: 16 FLOP a cycle of the fastest clock (else 2 GHz) and thread; bandwidth: 8 GB/s a thread, at most 4",
    "vulkan": "peak: 500 GFLOP/s; bandwidth: 20 GB/s; of every GPU",
}
"""How devices' files say the little that is known of every machine; the calibration finds the device's own rates."""

NUM_MEASURED = 5
_FOLDS, _PARTS = 4, 2
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
    """Each run predicted with the rates that the runs of other chips have as prior; chips in `_FOLDS` folds. Then each
    that has enough networks by parts of them, with what other chips reach on the other parts (`NEW`).
    """
    if not runs:
        return []
    sheets: dict[tuple[float, float], dict[str, dict[Term, float]]] = {}
    for run in runs:
        if (sheet := _key(run)) not in sheets:
            sheets[sheet] = {name: _amounts(run.device, *network) for name, network in networks.items()}
    amounts = [{name: sheets[_key(run)][name] for name in run.seconds} for run in runs]
    terms = all_terms(row for rows in amounts for row in rows.values())
    parts = _parts(list(networks))
    chips = sorted({run.chip for run in runs})
    order = np.random.default_rng(0).permutation(len(chips))
    fold_of = {chip: int(place) % _FOLDS for chip, place in zip(chips, order)}
    start = prior_from_device(runs[0].device, terms, UNKNOWN_EFFICIENCY, "float32")
    found: dict[int, Comparison] = {}
    found_new: dict[int, Comparison] = {}
    for fold in range(_FOLDS):
        others = [(run, rows) for run, rows in zip(runs, amounts) if fold_of[run.chip] != fold]
        prior = _learn(others, list(networks))
        elsewhere = [_learn(others, [name for name in networks if name not in part]) for part in parts]
        new = [(part, extended(each.rates, each.terms, terms)) for part, each in zip(parts, elsewhere)]
        for index, (run, rows) in enumerate(zip(runs, amounts)):
            if fold_of[run.chip] == fold:
                terms_NT = term_matrix(list(rows.values()), terms)
                known = extended(prior.rates, prior.terms, terms)
                found[index] = _compare(run, networks, terms_NT, prior, known, start, index)
                if (of_new := _compare_new(run, networks, terms_NT, new, start)) is not None:
                    found_new[index] = of_new
    return [each[index] for each in (found, found_new) for index in sorted(each)]


# ------------------------------------------------------------------------------------------------------------ private


Part = tuple[Sequence[str], RatePrior]
"""Names of networks, and what is known of rates from other chips that ran none of them."""


def _key(run: Run) -> tuple[float, float]:
    """All of a sheet that amounts of work depend on."""
    return run.device.peak_flops(), run.device.bandwidth


def _parts(names: Sequence[str]) -> list[list[str]]:
    order = np.random.default_rng(0).permutation(len(names))
    return [[names[place] for place in sorted(order[which::_PARTS])] for which in range(_PARTS)]


def _learn(runs: Sequence[tuple[Run, Mapping[str, Mapping[Term, float]]]], names: Sequence[str]) -> ClassPrior:
    """From what runs took for these networks; a run that has hardly any of them does not count."""
    found = [(run, amounts, [name for name in run.seconds if name in names]) for run, amounts in runs]
    found = [each for each in found if len(each[2]) >= MIN_NETWORKS]
    return prior_of_amounts(
        runs[0][0].device,
        [[amounts[name] for name in some] for _, amounts, some in found],
        [np.array([run.seconds[name] for name in some]) for run, _, some in found],
        source=f"{len(found)} runs of ncnn on other chips",
    )


def _compare(
    run: Run,
    networks: Mapping[str, tuple[Graph, str]],
    terms_NT: Array,
    prior: ClassPrior,
    known: RatePrior,
    alone: RatePrior,
    seed: int,
) -> Comparison:
    names = list(run.seconds)
    seconds_N = np.array(list(run.seconds.values()))
    chosen = choose_rows(terms_NT, known, NUM_MEASURED)
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
            RANDOM: _from_random(terms_NT, seconds_N, known, seed)[rest],
            ALONE: plain.predict(terms_NT[rest]),
            MACS_BASELINE: _scaled(macs_N, seconds_N, chosen)[rest],
            ROOFLINE_BASELINE: _scaled(roofline_s_N, seconds_N, chosen)[rest],
        },
        std_s_N=np.array([each.std_s for each in predictions]),
    )


def _compare_new(
    run: Run, networks: Mapping[str, tuple[Graph, str]], terms_NT: Array, parts: Sequence[Part], alone: RatePrior
) -> Comparison | None:
    """Of each part five networks are measured and the rest predicted; None where a run has too few of a part. Either
    fit is one of class rates: `calibrate` also drops a prior that looks bad, and without one tries regimes."""
    names = list(run.seconds)
    seconds_N = np.array(list(run.seconds.values()))
    macs_N = np.array([float(networks[name][0].macs) for name in names])
    roofline_s_N = np.array([_roofline_s(run.device, *networks[name]) for name in names])
    order: list[int] = []
    predicted_s: dict[str, list[Array]] = {OURS: [], ALONE: [], MACS_BASELINE: [], ROOFLINE_BASELINE: []}
    for part, known in parts:
        places = [index for index, name in enumerate(names) if name in part]
        if len(places) <= NUM_MEASURED:
            return None
        chosen = [places[row] for row in choose_rows(terms_NT[places], known, NUM_MEASURED)]
        rest = [index for index in places if index not in chosen]
        order += rest
        for model, prior in ((OURS, known), (ALONE, alone)):
            fit = fit_rates(terms_NT[chosen], seconds_N[chosen], prior)
            predicted_s[model].append(fit.predict(terms_NT[rest]))
        predicted_s[MACS_BASELINE].append(_scaled(macs_N, seconds_N, chosen)[rest])
        predicted_s[ROOFLINE_BASELINE].append(_scaled(roofline_s_N, seconds_N, chosen)[rest])
    return Comparison(
        name=f"{run.name}{NEW}",
        labels=[names[index] for index in order],
        measured_s_N=seconds_N[order],
        predicted_s_N={model: np.concatenate(values) for model, values in predicted_s.items()},
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
    return term_amounts(graph, device, _runtime(), dtype)


def _roofline_s(device: Device, graph: Graph, dtype: str) -> float:
    kernels = fuse(graph, _runtime(), dtype)
    return sum(roofline(kernel_cost(node.kernel), device, dtype).latency_s for node in kernels)


@cache
def _runtime() -> Runtime:
    return load_runtime("ncnn")


def _sheet(kind: str, machine: str, threads: int) -> Device:
    """Of every machine cores and clock; of GPUs nothing but that they are GPUs."""
    if kind == "vulkan":
        peak, bandwidth = 5e11, 2e10
    else:
        clocks = [float(each) for each in re.findall(r"(\d+\.\d+) ?G", machine)]
        peak, bandwidth = 16e9 * max(clocks, default=2.0) * threads, 8e9 * min(threads, 4)
    source = SHEETS[kind]
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
