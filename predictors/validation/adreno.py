"""Kernels and whole networks on two Adreno GPUs under TVM, each network predicted from the others.

Source: github.com/octoml/qualcomm (Apache-2.0): the fastest of the tuned kernels of each shape in each network, by
Winograd's method or directly, and whole latencies of six of these networks on one of the GPUs. A Winograd kernel does
fewer multiplications than are counted, so it may exceed the direct method's peak; it is learned as what it takes.
"""

import csv
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.autotvm import TunedKernel, read_tuned_kernels
from predictors.cost import kernel_cost
from predictors.device import ClassEfficiency, Device, Quantity, load_device
from predictors.efficiency import ExtrapolationWarning
from predictors.fusion import Kernel, fuse, load_runtime
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable, Measurement, TableHeader
from predictors.roofline import roofline
from predictors.validation.adreno_networks import NETWORKS
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison
from predictors.whole_network import KernelEstimate

TITLE = "Adreno 660 and 730, TVM: each network's kernels from other networks', and whole networks from their kernels"
GOAL = "kernels: median error at most 12 %; whole networks from their own kernels: MAPE at most 10 %"
FILES = ("tvm_adreno_octoml/adreno_ops.csv", "tvm_adreno_octoml/adreno_e2e.csv")

UNCORRECTED = "sum of kernels, no factor"

_PRECISIONS = {"fp16": ("float16", "float16"), "fp16_acc32": ("float16", "float32"), "fp32": ("float32", "float32")}
"""dtypes of data and of sums, by the name that the measurements give; each is a table of its own."""
_SPREAD = 0.02
"""Of a tuned kernel's time, which the logs do not say."""
_LAYOUTS = ("_nchw", "_nhwc")


def compare(data: Path) -> list[Comparison]:
    """Kernels of each GPU, all together and by mode; then whole networks, all together and by mode."""
    found = []
    whole_s = read_whole_networks(data / FILES[1])
    networks = []
    for device in (adreno_660(), adreno_730()):
        tuned = read_tuned_kernels(data / FILES[0], device.name.removeprefix("adreno_"))
        by_mode = []
        for precision, mode in _PRECISIONS.items():
            kernels = fastest(tuned, mode)
            by_mode.append(compare_kernels(_title("kernels", device, mode), kernels, device))
            if device.name == "adreno_660":
                title = _title("networks", device, mode)
                networks.append(compare_networks(title, kernels, whole_s[precision], device))
        found += [together(f"kernels, {device.name}, all", by_mode), *by_mode]
    return [*found, together("networks, adreno_660, all", networks), *networks]


def adreno_660() -> Device:
    """The device of `configs/hw/mobile_gpu.yaml` without the efficiencies that were fitted on these kernels."""
    return replace(load_device("mobile_gpu"), name="adreno_660", efficiency={})


def adreno_730() -> Device:
    """As the 660, with peaks between its and those of the 740, since no source gives the 730's.

    The factor is the square root of the 740's theoretical float32 peak over the 660's, 3700 and 1622 GFLOP/s in public
    data sheets; memory is LPDDR5-6400 on both. Nothing that is learned depends on it.
    """
    device = adreno_660()
    source = "1.51 times the Adreno 660's: the geometric mean of the theoretical peaks of Adreno 660 and 740"
    factor = (3700.0 / 1622.0) ** 0.5
    peaks = {name: Quantity(value=factor * peak.value, source=source) for name, peak in device.peaks.items()}
    return replace(device, name="adreno_730", description="Qualcomm Adreno 730", peaks=peaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkKernel:
    """The fastest measurement of one shape in one network."""

    network: str
    kernel: Kernel
    latency_s: float


def fastest(tuned: Iterable[TunedKernel], mode: tuple[str, str]) -> list[NetworkKernel]:
    """Of each shape of each network the fastest kernel in that dtype of data and of sums, whatever its algorithm."""
    best: dict[tuple[str, Kernel], float] = {}
    for each in tuned:
        if (each.kernel.dtype, each.accumulator) == mode:
            key = each.network, each.kernel
            best[key] = min(each.latency_s, best.get(key, each.latency_s))
    return [NetworkKernel(network=key[0], kernel=key[1], latency_s=seconds) for key, seconds in best.items()]


def compare_kernels(name: str, found: Sequence[NetworkKernel], device: Device) -> Comparison:
    """Each network's kernels from those of other networks; shapes that both have are taken out of the others."""
    rows = []
    for network in sorted({each.network for each in found}):
        held_out = [each for each in found if each.network == network]
        others = _others(found, network, {each.kernel for each in held_out})
        predictor = LatencyPredictor(device, [_table(others, device)], dtype=held_out[0].kernel.dtype)
        factor = _macs_factor(others)
        for each in held_out:
            estimate = _estimate(predictor, each.kernel)
            bare_s = roofline(estimate.cost, device, each.kernel.dtype).latency_s
            macs_s = factor * each.kernel.anchor.macs
            rows.append(
                (each.latency_s, estimate.latency_s, estimate.std_s, macs_s, bare_s, f"{network}: {each.kernel.text}")
            )
    *columns, labels = zip(*rows)
    measured_s_N, ours_s_N, std_s_N, macs_s_N, bare_s_N = (np.array(column, dtype=np.float64) for column in columns)
    return Comparison(
        name=name,
        measured_s_N=measured_s_N,
        predicted_s_N={OURS: ours_s_N, MACS_BASELINE: macs_s_N, ROOFLINE_BASELINE: bare_s_N},
        std_s_N=std_s_N,
        labels=labels,
    )


def compare_networks(
    name: str, found: Sequence[NetworkKernel], whole_s: Mapping[str, float], device: Device
) -> Comparison:
    """Whole networks from their own measured kernels; every model has one factor, from the five other networks.

    What the logs lack is predicted as the product predicts it, from the roofline: pools, copies, resizing, softmax,
    batch norms between a sum and its branches, and the largest linear layer of VGG16. That one is most of what is not
    measured, so the class of linear layers is taken from the device file, which has it from VGG16's two others.
    """
    device = replace(device, efficiency=_only_linear(load_device("mobile_gpu")))
    names = [network for network in NETWORKS if network in whole_s]
    measured_s_N = np.array([whole_s[network] for network in names])
    sums_s_N, std_s_N, macs_N, bare_s_N = (np.empty(len(names)) for _ in range(4))
    runtime = load_runtime(device.runtime)
    for index, network in enumerate(names):
        graph = NETWORKS[network]()
        dtype = found[0].kernel.dtype
        launched = [node.kernel for node in fuse(graph, runtime, dtype)]
        of_network = {each.kernel.anchor: each for each in found if each.network == network}
        anchors = {kernel: of_network[kernel.anchor] for kernel in launched if kernel.anchor in of_network}
        table = _table([replace(each, kernel=kernel) for kernel, each in anchors.items()], device)
        prediction = LatencyPredictor(device, [table], dtype=dtype).predict(graph)
        sums_s_N[index], std_s_N[index] = prediction.latency_s, prediction.std_s
        macs_N[index] = graph.macs
        costs = [kernel_cost(kernel, device.channel_alignment) for kernel in launched]
        bare_s_N[index] = sum(roofline(cost, device, dtype).latency_s for cost in costs)
    factor_N, spread_N = factors_of_others(measured_s_N / sums_s_N)
    return Comparison(
        name=name,
        measured_s_N=measured_s_N,
        predicted_s_N={
            OURS: factor_N * sums_s_N,
            UNCORRECTED: sums_s_N,
            MACS_BASELINE: factors_of_others(measured_s_N / macs_N)[0] * macs_N,
            ROOFLINE_BASELINE: factors_of_others(measured_s_N / bare_s_N)[0] * bare_s_N,
        },
        std_s_N=factor_N * sums_s_N * np.hypot(std_s_N / sums_s_N, spread_N),
        labels=names,
    )


def factors_of_others(ratio_N: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each of N networks the median of the other networks' ratios, and the deviation of their logs, (N,) each."""
    logs_N = np.log(ratio_N)
    others = [np.delete(logs_N, index) for index in range(len(logs_N))]
    return np.exp([np.median(each) for each in others]), np.array([each.std(ddof=1) for each in others])


def together(name: str, parts: Sequence[Comparison]) -> Comparison:
    """All things of several comparisons, of the models that all of them have."""
    models = [model for model in parts[0].predicted_s_N if all(model in part.predicted_s_N for part in parts)]
    return Comparison(
        name=name,
        measured_s_N=np.concatenate([part.measured_s_N for part in parts]),
        predicted_s_N={model: np.concatenate([part.predicted_s_N[model] for part in parts]) for model in models},
        std_s_N=np.concatenate([part.std_s_N for part in parts if part.std_s_N is not None]),
        labels=[label for part in parts for label in part.labels],
    )


def read_whole_networks(path: Path) -> dict[str, dict[str, float]]:
    """Seconds by precision and network, named as the kernels' logs are without the layout."""
    found: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["model"]
            for layout in _LAYOUTS:
                name = name.removesuffix(layout)
            found.setdefault(row["precision"], {})[name] = float(row["e2e_ms"]) * 1e-3
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _estimate(predictor: LatencyPredictor, kernel: Kernel) -> KernelEstimate:
    """A network is held out whole, so some of its kernels are larger than all others: that is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        return predictor.estimate(kernel)


def _title(what: str, device: Device, mode: tuple[str, str]) -> str:
    data, sums = mode
    return f"{what}, {device.name}, {data}" + (f" summed in {sums}" if sums != data else "")


def _only_linear(device: Device) -> dict[str, dict[str, ClassEfficiency]]:
    return {dtype: {"linear": classes["linear"]} for dtype, classes in device.efficiency.items()}


def _others(found: Iterable[NetworkKernel], network: str, without: Collection[Kernel]) -> list[NetworkKernel]:
    """The fastest measurement of each shape that only other networks have."""
    best: dict[Kernel, NetworkKernel] = {}
    for each in found:
        if each.network != network and each.kernel not in without:
            known = best.get(each.kernel)
            if known is None or each.latency_s < known.latency_s:
                best[each.kernel] = each
    return list(best.values())


def _macs_factor(found: Sequence[NetworkKernel]) -> float:
    return float(np.median([each.latency_s / each.kernel.anchor.macs for each in found]))


def _table(found: Sequence[NetworkKernel], device: Device) -> LookupTable:
    header = TableHeader(
        device=device.name, runtime=device.runtime, runtime_version="", dtype=found[0].kernel.dtype, threads=1,
        date="2022", reference_kernel="",
    )  # fmt: skip
    entries = {each.kernel: Measurement(latency_p50_s=each.latency_s, spread=_SPREAD, num_runs=1) for each in found}
    return LookupTable(header=header, entries=entries)
