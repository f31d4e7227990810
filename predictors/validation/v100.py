"""Convolutions on a V100 under TensorRT: one in twenty is measured, the others are predicted.

Source: github.com/alibaba/lightweight-neural-architecture-search, latency/op_profiler (Apache-2.0).
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.autotvm import TunedKernel
from predictors.cost import kernel_cost
from predictors.device import Device, load_device
from predictors.efficiency import ExtrapolationWarning, learn_efficiency
from predictors.features import SHAPE_VIEW, WORK_VIEW, view_features
from predictors.log_estimate import latency_of
from predictors.lookup_table import LookupTable, Measurement, TableHeader
from predictors.roofline import roofline
from predictors.tinynas import read_conv_table
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison
from predictors.validation.other_learners import BOOSTED, NEAREST, boosted_trees, nearest

TITLE = "V100, TensorRT: convolutions, 5 % measured; 8,000 of the others, drawn at random, are predicted"
GOAL = "MAPE at most 8 %, Spearman at least 0.99; 68 % within one and 95 % within two deviations, give or take 5 points"
FILES = (
    "alibaba_tinynas_v100_conv/v100_conv_fp32.csv.gz",
    "alibaba_tinynas_v100_conv/v100_conv_int8.csv.gz",
    "alibaba_tinynas_v100_conv/v100_conv_fp16_damoyolo.csv.gz",
)
_DTYPES = ("float32", "int8", "float16")

MEASURED_SHARE = 0.05
MAX_PREDICTED = 8_000
_SPREAD = 0.01
"""Of a measurement, which the tables do not say; TensorRT's profiler takes the mean of many runs."""


def compare(data: Path) -> list[Comparison]:
    """One comparison a dtype.

    The batch that the float16 table says is doubtful (configs/hw/v100.yaml), so its roofline is of no use as it is.
    """
    return [compare_table(data / file, dtype) for file, dtype in zip(FILES, _DTYPES)]


def compare_table(path: Path, dtype: str, seed: int = 0) -> Comparison:
    """Predict what a random share of a table, taken as a lookup table, says of the rest."""
    device = load_device("v100")
    kernels = list({tuned.kernel: tuned for tuned in read_conv_table(path, dtype)}.values())
    order = np.random.default_rng(seed).permutation(len(kernels))
    num_measured = round(MEASURED_SHARE * len(kernels))
    measured = [kernels[index] for index in order[:num_measured]]
    unseen = [kernels[index] for index in order[num_measured : num_measured + MAX_PREDICTED]]
    return compare_kernels(f"convolutions, V100, {dtype}", measured, unseen, device)


def compare_kernels(
    name: str, measured: Sequence[TunedKernel], unseen: Sequence[TunedKernel], device: Device
) -> Comparison:
    """Predict kernels of one dtype from others, with the baselines and the learners that were tried."""
    costs = [kernel_cost(each.kernel, device.channel_alignment) for each in unseen]
    roofline_s_L = _roofline_s(unseen, device)
    learned = learn_efficiency([table_of(measured, device)], device)
    with warnings.catch_warnings():  # of few kernels the largest may be held out: that is no news here
        warnings.simplefilter("ignore", ExtrapolationWarning)
        estimates = learned.many([each.kernel for each in unseen], costs)
    found = [latency_of(roof_s, each) for roof_s, each in zip(roofline_s_L, estimates) if each is not None]
    ours_s_L, std_s_L = np.array(found).T

    measured_s_K = np.array([each.latency_s for each in measured])
    macs_K, macs_L = (np.array([each.kernel.anchor.macs for each in group], float) for group in (measured, unseen))
    features_KF, features_LF = _features(measured, device), _features(unseen, device)
    target_K = np.log(_roofline_s(measured, device) / measured_s_K)
    return Comparison(
        name=name,
        measured_s_N=np.array([each.latency_s for each in unseen]),
        predicted_s_N={
            OURS: ours_s_L,
            NEAREST: roofline_s_L * np.exp(-nearest(features_KF, target_K, features_LF)),
            BOOSTED: roofline_s_L * np.exp(-boosted_trees(features_KF, target_K, features_LF)),
            MACS_BASELINE: macs_L * float(np.median(measured_s_K / macs_K)),
            ROOFLINE_BASELINE: roofline_s_L,
        },
        std_s_N=std_s_L,
    )


def table_of(kernels: Sequence[TunedKernel], device: Device, spread: float = _SPREAD) -> LookupTable:
    """Measured kernels of one dtype as a lookup table of the device."""
    header = TableHeader(
        device=device.name, runtime=device.runtime, runtime_version="", dtype=kernels[0].kernel.dtype, threads=1,
        date="2022", reference_kernel="",
    )  # fmt: skip
    entries = {each.kernel: Measurement(latency_p50_s=each.latency_s, spread=spread, num_runs=1) for each in kernels}
    return LookupTable(header=header, entries=entries)


# ------------------------------------------------------------------------------------------------------------ private


def _roofline_s(kernels: Sequence[TunedKernel], device: Device) -> NDArray[np.float64]:
    return np.array(
        [
            roofline(kernel_cost(each.kernel, device.channel_alignment), device, each.kernel.dtype).latency_s
            for each in kernels
        ]
    )


def _features(kernels: Sequence[TunedKernel], device: Device) -> NDArray[np.float64]:
    """Both views, the window and whether it is depthwise."""
    units = int(device.compute_units.value) if device.compute_units else None
    found = [each.kernel for each in kernels]
    costs = [kernel_cost(kernel, device.channel_alignment) for kernel in found]
    return np.hstack(view_features(found, costs, (SHAPE_VIEW, WORK_VIEW), units))
