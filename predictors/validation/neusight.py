"""Operators on a GPU that was left out of the fit, from those that NeuSight measured on four others."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.device import Device
from predictors.efficiency import ExtrapolationWarning, learn_efficiency
from predictors.fit_transfer import Fitted, fit_gpus, prior_of, works_of
from predictors.fusion import Kernel
from predictors.lookup_table import LookupTable, Measurement, TableHeader
from predictors.neusight import FILES as OPERATORS
from predictors.neusight import SPECIFICATIONS, Measured, read_operators
from predictors.operators import Linear
from predictors.roofline import roofline
from predictors.transfer import DTYPE, Prior, gpu_of
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison

TITLE = "PyTorch operators on each of five GPUs, from the other four (1,000 kernels of each class and GPU)"
GOAL = "mean error under NeuSight's own on GPUs left out: linear 14-20 %, elementwise 14-20 %"
FILES = (f"neusight_ops/{SPECIFICATIONS}", *(f"neusight_ops/{file}" for file in OPERATORS.values()))

NUM_KERNELS = 1000
PRIOR_ALONE, MEASURED_ALONE = "other GPUs alone", "measured alone"
FEW_MEASURED = (("linear", 10), ("linear", 50), ("conv2d", 10))
"""Classes of which so many kernels are measured on the GPU itself."""

PRODUCTS, NEWEST = ("linear", "matmul", "conv2d"), "A100"
"""Classes that are shown for the newest of the GPUs by itself: who predicts a GPU that nobody has measured mostly knows
older ones, as NeuSight's authors did."""

WIDE = 4096
"""Linear layers of at most so many inputs and outputs are shown by themselves: most of networks are."""

_NUM_TESTED = 300
_SPREAD = 0.02
_Array = NDArray[np.float64]


def compare(data: Path) -> list[Comparison]:
    """Each class on all GPUs, each from the others; then the same with a few kernels measured on the GPU itself.

    The baselines are fitted on what ours is: one factor on macs / peak (elements where a class has no macs) on the
    other GPUs, or on the few kernels; the bare roofline on nothing.
    """
    folder = data / "neusight_ops"
    fitted = fit_gpus(folder)
    left_out = {name: _left_out(folder, fitted, name) for name in OPERATORS}
    found = [_pooled(name, each) for name, each in left_out.items()]
    found += [each for name in PRODUCTS for each in left_out[name] if each.name.endswith(NEWEST)]
    linear = read_operators(folder, "linear", NUM_KERNELS)
    narrow = [
        _only(each, [_width(kernel) <= WIDE for kernel in linear[gpu].kernels])
        for gpu, each in zip(linear, left_out["linear"])
    ]
    found.append(_pooled(f"linear, at most {WIDE} wide", narrow))
    for name, number in FEW_MEASURED:
        measured = read_operators(folder, name, NUM_KERNELS)
        draws = [_few_measured(measured[gpu], _others(fitted, gpu), name, number) for gpu in measured]
        found.append(_pooled(f"{name}, {number} measured", draws))
    return found


def by_gpu(data: Path) -> list[Comparison]:
    """Each class on each GPU: what `compare` shows together."""
    folder = data / "neusight_ops"
    fitted = fit_gpus(folder)
    return [each for name in OPERATORS for each in _left_out(folder, fitted, name)]


# ------------------------------------------------------------------------------------------------------------ private


def _others(fitted: Mapping[str, Fitted], gpu: str) -> dict[str, Fitted]:
    return {other: shares for other, shares in fitted.items() if other != gpu}


def _left_out(folder: Path, fitted: Mapping[str, Fitted], name: str) -> list[Comparison]:
    measured = read_operators(folder, name, NUM_KERNELS)
    factors = {gpu: _factor(each, range(len(each.kernels))) for gpu, each in measured.items()}
    found = []
    for gpu, each in measured.items():
        mean_N, std_N = _prior_logs(_others(fitted, gpu), each, name, range(len(each.kernels)))
        factor = float(np.median([value for other, value in factors.items() if other != gpu]))
        found.append(
            Comparison(
                name=f"{name}, {gpu}",
                measured_s_N=each.seconds_N,
                predicted_s_N={
                    OURS: np.exp(mean_N),
                    MACS_BASELINE: factor * _proportional_s(each),
                    ROOFLINE_BASELINE: _roofline_s(each.kernels, each.device),
                },
                std_s_N=np.exp(mean_N) * std_N,
                labels=[kernel.text for kernel in each.kernels],
            )
        )
    return found


def _few_measured(measured: Measured, others: Mapping[str, Fitted], name: str, number: int) -> Comparison:
    """Random kernels measured, others predicted: by other GPUs and what these err on the measured ones; by those other
    GPUs alone; and by the measured ones alone, as if nobody knew what GPU it is."""
    order = np.random.default_rng(number).permutation(len(measured.kernels))
    known, asked = order[:number], order[-_NUM_TESTED:]
    ours_s_N, std_s_N = _learned_s(measured, known, asked, measured.device, prior_of(others))
    return Comparison(
        name=f"{name}, {measured.device.name}, {number} measured",
        measured_s_N=measured.seconds_N[asked],
        predicted_s_N={
            OURS: ours_s_N,
            PRIOR_ALONE: np.exp(_prior_logs(others, measured, name, asked)[0]),
            MEASURED_ALONE: _learned_s(measured, known, asked, replace(measured.device, compute_units=None))[0],
            MACS_BASELINE: _factor(measured, known) * _proportional_s(measured)[asked],
            ROOFLINE_BASELINE: _roofline_s([measured.kernels[index] for index in asked], measured.device),
        },
        std_s_N=std_s_N,
        labels=[measured.kernels[index].text for index in asked],
    )


def _learned_s(
    measured: Measured, known: Iterable[int], asked: Iterable[int], device: Device, prior: Prior | None = None
) -> tuple[_Array, _Array]:
    """What `learn_efficiency` makes of the known kernels, and its deviation, in seconds."""
    header = TableHeader(
        device=device.name, runtime=device.runtime, runtime_version="", dtype=device.dtype, threads=1, date="",
        reference_kernel="",
    )  # fmt: skip
    entries = {
        measured.kernels[index]: Measurement(latency_p50_s=float(measured.seconds_N[index]), spread=_SPREAD, num_runs=1)
        for index in known
    }
    kernels = [measured.kernels[index] for index in asked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # far from ten kernels is what is asked here
        learned = learn_efficiency([LookupTable(header=header, entries=entries)], device, prior)
        found = learned.many(kernels, [kernel_cost(kernel) for kernel in kernels])
    rows = [(0.0, 0.0) if each is None else (each.mean, each.std) for each in found]
    mean_N, std_N = np.array(rows).T
    seconds_N = _roofline_s(kernels, device) * np.exp(-mean_N)
    return seconds_N, seconds_N * std_N


def _prior_logs(
    others: Mapping[str, Fitted], measured: Measured, name: str, chosen: Iterable[int]
) -> tuple[_Array, _Array]:
    return prior_of(others).log_seconds(name, works_of(measured, chosen, column=True), gpu_of(measured.device, DTYPE))


def _only(comparison: Comparison, kept: Sequence[bool]) -> Comparison:
    chosen = np.flatnonzero(kept)
    assert comparison.std_s_N is not None
    return replace(
        comparison,
        measured_s_N=comparison.measured_s_N[chosen],
        predicted_s_N={model: seconds_N[chosen] for model, seconds_N in comparison.predicted_s_N.items()},
        std_s_N=comparison.std_s_N[chosen],
        labels=[label for label, keep in zip(comparison.labels, kept) if keep],
    )


def _width(kernel: Kernel) -> int:
    """The greater of the sizes of a linear layer's weights."""
    assert isinstance(kernel.anchor, Linear)
    return max(kernel.anchor.in_features, kernel.anchor.out_features)


def _pooled(name: str, found: Iterable[Comparison]) -> Comparison:
    """Comparisons on several GPUs as one; where each has equally many kernels, errors are means over GPUs."""
    found = list(found)
    stds = [each.std_s_N for each in found if each.std_s_N is not None]
    return Comparison(
        name=name,
        measured_s_N=np.concatenate([each.measured_s_N for each in found]),
        predicted_s_N={
            model: np.concatenate([each.predicted_s_N[model] for each in found]) for model in found[0].predicted_s_N
        },
        std_s_N=np.concatenate(stds),
        labels=[f"{each.name}: {label}" for each in found for label in each.labels],
    )


def _roofline_s(kernels: Sequence[Kernel], device: Device) -> _Array:
    return np.array([roofline(kernel_cost(kernel), device).latency_s for kernel in kernels])


def _factor(measured: Measured, chosen: Iterable[int]) -> float:
    indices = list(chosen)
    return float(np.median(measured.seconds_N[indices] / _proportional_s(measured)[indices]))


def _proportional_s(measured: Measured) -> _Array:
    """Seconds at the peak; of operators without macs those that one for each written element would take."""
    work = [kernel.anchor.macs or kernel.anchor.write_elements for kernel in measured.kernels]
    seconds_N: _Array = np.array(work, np.float64) / measured.device.peak_flops()
    return seconds_N
