"""Single convolutions and elementwise kernels that others measured: padding, int8, common windows, bandwidth.

A V100 under TensorRT (TinyNAS), two Adreno GPUs under TVM, and five GPUs under PyTorch (NeuSight).
"""

from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

from nas.compare.records import Estimate
from nas.studies.claims.verdicts import Finding, Floats, Rule, bootstrap, median_of
from predictors.autotvm import read_tuned_kernels
from predictors.cost import kernel_cost
from predictors.device import load_device
from predictors.neusight import read_operators
from predictors.operators import Conv2d
from predictors.tinynas import read_conv_table
from predictors.validation import adreno

PADS = Rule(confirmed=0.25, refuted=0.75)
"""Of how time falls with work between a count of channels and the multiple of `ALIGNMENT` above it, over how it falls
between multiples: 0 where 23 cost what 24 cost."""
BY_TRAFFIC = Rule(confirmed=1.1, refuted=1.0)
"""Of the gain of low precision on memory-bound kernels over that on compute-bound ones."""
OPTIMISED = Rule(confirmed=1.1, refuted=1.0)
"""Of the FLOP/s of common windows over those of uncommon ones."""
REACHES = Rule(confirmed=0.8, refuted=0.5)
"""Of the share of the measured bandwidth."""
ALIGNMENT = 8
COMMON, UNCOMMON = (1, 3), (5, 7)

_V100 = {
    "float32": "alibaba_tinynas_v100_conv/v100_conv_fp32.csv.gz",
    "int8": "alibaba_tinynas_v100_conv/v100_conv_int8.csv.gz",
    "float16": "alibaba_tinynas_v100_conv/v100_conv_fp16_damoyolo.csv.gz",
}
_BUSY = 3.0
"""A kernel that takes less than this many times what the fastest ones take is bound by its launch."""
_FAR = 2.0
"""From the ridge point, in FLOP per byte, for a kernel to be bound by memory or by compute beyond doubt."""
_LEAST_ELASTICITY = 0.2
"""Of the time between multiples: below, nothing can be told."""
_FEWEST = 10
"""Kernels of each kind whose medians are compared."""
_LARGE_BYTES = 2**26
_ELEMENTWISE = ("relu", "add", "mul", "softmax", "layer_norm")
_PLAIN = ("relu", "add", "mul")
_BEST = 0.95


def padding_of_tables(data: Path) -> list[Finding]:
    """Convolutions of 3 input channels beside the same of 8, and those of 8, 16, 24 and 32 beside each other; no other
    counts of channels in the table are no multiples and have a twin."""
    found = []
    for dtype in _V100:
        busy_s = _busy_s(data, dtype)
        by_rest: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
        for conv, seconds in _v100(data, dtype).items():
            if conv.groups == 1 and seconds >= busy_s:
                rest = (conv.batch, conv.height, conv.out_channels, conv.kernel, conv.stride)
                by_rest[rest][conv.in_channels] = seconds
        within = _log_ratios(by_rest, [(3, 8)])
        aligned = _log_ratios(by_rest, [(8, 16), (16, 24), (24, 32)])
        figure, note = elasticity_share(within, aligned)
        found.append(
            Finding(
                claim="padding",
                device="V100",
                group=f"TensorRT, {dtype}",
                figure=figure,
                num_values=len(within),
                verdict=PADS.verdict(figure),
                note=note,
            )
        )
    return found


def elasticity_share(within_P2: Floats, aligned_P2: Floats) -> tuple[Estimate, str]:
    """Elasticity of time within a multiple over that between multiples, and a sentence.

    Args:
        within_P2, aligned_P2: ln(work ratio) and ln(time ratio) of P pairs each.
    """
    nothing = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    if len(within_P2) < 3 or len(aligned_P2) < 3:
        return nothing, "too few pairs"
    between = _slope(aligned_P2)
    note = f"elasticity of time with work {_slope(within_P2):.2f}, between multiples {between:.2f}"
    if between < _LEAST_ELASTICITY:
        return nothing, f"{note}: time hardly depends on work"
    return bootstrap(lambda drawn: _slope(within_P2[drawn]) / between, len(within_P2)), note


def int8_of_tables(data: Path) -> list[Finding]:
    """The V100's convolutions in float32 and int8: memory-bound ones gain more?"""
    device = load_device("v100")
    ridge = device.peak_flops("float32") / device.memory[-1].bandwidth.value
    float_s, int8_s = _v100(data, "float32"), _v100(data, "int8")
    busy_s = max(_busy_s(data, "float32"), _busy_s(data, "int8"))
    gains: dict[bool, list[float]] = {True: [], False: []}
    for conv, seconds in float_s.items():
        if conv in int8_s and int8_s[conv] >= busy_s:
            intensity = _intensity(conv)
            if not ridge / _FAR < intensity < ridge * _FAR:
                gains[intensity < ridge].append(float(np.log(seconds / int8_s[conv])))
    memory_K, compute_K = np.array(gains[True]), np.array(gains[False])
    figure = _ratio_of_medians(memory_K, compute_K)
    return [
        Finding(
            claim="int8_by_traffic",
            device="V100",
            group="TensorRT, float32 to int8",
            figure=figure,
            num_values=len(memory_K) + len(compute_K),
            verdict=BY_TRAFFIC.verdict(figure),
            note=f"gain {np.exp(np.median(memory_K)):.2f} in {len(memory_K)} memory-bound convolutions, "
            f"{np.exp(np.median(compute_K)):.2f} in {len(compute_K)} compute-bound ones; the table does not "
            "say whether outputs were requantised",
        )
    ]


def common_windows_of_tables(data: Path) -> list[Finding]:
    """FLOP/s of 1x1 and 3x3 convolutions over those of 5x5 and 7x7 ones that are the same otherwise."""
    found = []
    for dtype in ("float32", "int8"):
        device = load_device("v100")
        ridge = device.peak_flops(dtype) / device.memory[-1].bandwidth.value
        busy_s = _busy_s(data, dtype)
        size = 4 if dtype == "float32" else 1
        rates: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
        for conv, seconds in _v100(data, dtype).items():
            if conv.groups == 1 and seconds >= busy_s and _intensity(conv, size) > _FAR * ridge:
                rest = (conv.batch, conv.height, conv.in_channels, conv.out_channels, conv.stride)
                rates[rest][conv.kernel[0]] = 2.0 * conv.macs / seconds
        figure, count, note = window_ratio(list(rates.values()))
        found.append(
            Finding(
                claim="common_windows", device="V100", group=f"TensorRT, {dtype}", figure=figure, num_values=count,
                verdict=OPTIMISED.verdict(figure), note=note,
            )
        )  # fmt: skip
    return [*found, *_windows_of_adreno(data)]


def window_ratio(rates: list[dict[int, float]]) -> tuple[Estimate, int, str]:
    """Median ratio of FLOP/s of common windows to those of uncommon ones in a group, their number, and by window.

    Args:
        rates: FLOP/s by window, of groups that are the same otherwise.
    """
    pairs = [
        (common, uncommon, group[common] / group[uncommon])
        for group in rates
        for common in COMMON
        for uncommon in UNCOMMON
        if common in group and uncommon in group
    ]
    ratios_P = np.log([ratio for *_, ratio in pairs]) if pairs else np.empty(0)
    figure = bootstrap(lambda drawn: float(np.exp(np.median(ratios_P[drawn]))), len(ratios_P))
    by_pair: dict[tuple[int, int], list[float]] = {(common, uncommon): [] for common, uncommon, _ in pairs}
    for common, uncommon, each in pairs:
        by_pair[common, uncommon].append(each)
    note = ", ".join(
        f"{common}x{common} over {uncommon}x{uncommon}: {np.median(each):.2f}"
        for (common, uncommon), each in sorted(by_pair.items())
    )
    return figure, len(pairs), note


def bandwidth_of_tables(data: Path) -> list[Finding]:
    """Large elementwise kernels on NeuSight's GPUs: share of the bandwidth that they reach, which is what the best of
    them reach; softmax and layer norm stand in the note."""
    by_gpu: dict[str, dict[str, tuple[Floats, Floats]]] = defaultdict(dict)
    sheet: dict[str, float] = {}
    for name in _ELEMENTWISE:
        for gpu, measured in read_operators(data / "neusight_ops", name).items():
            traffic_K = np.array([kernel_cost(kernel).traffic_bytes for kernel in measured.kernels], dtype=np.float64)
            by_gpu[gpu][name] = traffic_K, traffic_K / measured.seconds_N
            sheet[gpu] = measured.device.memory[-1].bandwidth.value
    found = []
    for gpu, classes in by_gpu.items():
        large = {name: rate_K[traffic_K >= _LARGE_BYTES] for name, (traffic_K, rate_K) in classes.items()}
        reached = float(np.quantile(np.concatenate([large[name] for name in _PLAIN if name in large]), _BEST))
        shares_K = np.concatenate([large[name] / reached for name in _PLAIN if name in large])
        figure = median_of(shares_K, 200)
        medians = ", ".join(
            f"{name} {np.median(rate_K) / reached:.0%}" for name, rate_K in large.items() if len(rate_K)
        )
        found.append(
            Finding(
                claim="bandwidth",
                device=gpu,
                group="PyTorch, float32",
                figure=figure,
                num_values=len(shares_K),
                verdict=REACHES.verdict(figure),
                note=f"{medians}; measured {reached / 1e9:.0f} GB/s, {reached / sheet[gpu]:.0%} of the data sheet's",
            )
        )
    return found


# ------------------------------------------------------------------------------------------------------------ private


@cache
def _v100(data: Path, dtype: str) -> dict[Conv2d, float]:
    """Seconds of the convolutions to which nothing is added."""
    found: dict[Conv2d, float] = {}
    for tuned in read_conv_table(data / _V100[dtype], dtype):
        if not tuned.kernel.fused and isinstance(tuned.kernel.anchor, Conv2d):
            found[tuned.kernel.anchor] = min(tuned.latency_s, found.get(tuned.kernel.anchor, np.inf))
    return found


@cache
def _busy_s(data: Path, dtype: str) -> float:
    return _BUSY * float(np.quantile(list(_v100(data, dtype).values()), 0.01))


def _intensity(conv: Conv2d, size: int = 4) -> float:
    """FLOP per byte."""
    return 2.0 * conv.macs / (size * (conv.read_elements + conv.held_elements + conv.write_elements))


def _log_ratios(by_rest: dict[tuple[object, ...], dict[int, float]], pairs: list[tuple[int, int]]) -> Floats:
    return np.array(
        [
            (np.log(few / many), np.log(times[few] / times[many]))
            for times in by_rest.values()
            for few, many in pairs
            if few in times and many in times
        ]
    ).reshape(-1, 2)


def _slope(logs_P2: Floats) -> float:
    return float(logs_P2[:, 0] @ logs_P2[:, 1] / (logs_P2[:, 0] @ logs_P2[:, 0]))


def _ratio_of_medians(upper_K: Floats, lower_K: Floats) -> Estimate:
    """exp of the difference of two medians of logarithms."""
    if min(len(upper_K), len(lower_K)) < _FEWEST:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    rng = np.random.default_rng(0)
    drawn = [
        np.exp(np.median(rng.choice(upper_K, len(upper_K))) - np.median(rng.choice(lower_K, len(lower_K))))
        for _ in range(500)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value=float(np.exp(np.median(upper_K) - np.median(lower_K))), low=float(low), high=float(high))


def _windows_of_adreno(data: Path) -> list[Finding]:
    """Few uncommon windows were tuned, none with a twin: compute-bound kernels of any shape are held against each
    other."""
    found = []
    for device in (adreno.adreno_660(), adreno.adreno_730()):
        tuned = read_tuned_kernels(data / adreno.FILES[0], device.name.removeprefix("adreno_"))
        rates: dict[bool, dict[Conv2d, float]] = {True: {}, False: {}}
        for each in adreno.fastest(tuned, ("float16", "float16")):
            conv = each.kernel.anchor
            if isinstance(conv, Conv2d) and conv.groups == 1 and conv.kernel[0] == conv.kernel[1]:
                ridge = device.peak_flops("float16") / device.memory[-1].bandwidth.value
                if _intensity(conv, 2) > ridge:
                    kind = rates[conv.kernel[0] in COMMON]
                    kind[conv] = max(2.0 * conv.macs / each.latency_s, kind.get(conv, 0.0))
        common_K, uncommon_K = (np.log(np.array(list(rates[kind].values()))) for kind in (True, False))
        figure = _ratio_of_medians(common_K, uncommon_K)
        found.append(
            Finding(
                claim="common_windows",
                device=device.description,
                group="TVM, float16",
                figure=figure,
                num_values=len(common_K) + len(uncommon_K),
                verdict=OPTIMISED.verdict(figure),
                note=f"{len(common_K)} common and {len(uncommon_K)} uncommon shapes, not otherwise the same",
            )
        )
    return found
