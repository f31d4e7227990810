"""The numbers behind the pictures and tables: metrics in a person's units, shares of time, roofs, staircases."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.export import input_shape
from nas.objectives import METRICS
from nas.result import Candidate, SearchResult
from predictors.device import Device
from predictors.latency import PROVENANCES, KernelPrediction, Prediction
from predictors.operators import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """One level of memory under the peak: attainable FLOP/s = min(peak, intensity * bandwidth)."""

    name: str
    bandwidth: float
    peak_flops: float

    @property
    def ridge_point(self) -> float:
        """FLOP per byte from which on the peak decides."""
        return self.peak_flops / self.bandwidth

    @property
    def text(self) -> str:
        """'dram: 900 GB/s, ridge point 124 FLOP/byte'."""
        bandwidth, ridge_point = number_text(self.bandwidth / 1e9), number_text(self.ridge_point)
        return f"{self.name}: {bandwidth} GB/s, ridge point {ridge_point} FLOP/byte"

    def attainable_flops(self, intensity: float) -> float:
        return min(self.peak_flops, intensity * self.bandwidth)


def scaled(metrics: Mapping[str, float], name: str) -> float:
    """A metric in the unit that a person reads (`METRICS[name].unit`)."""
    return metrics[name] / METRICS[name].scale


def axis_title(name: str) -> str:
    """'latency (ms)'."""
    return f"{METRICS[name].title} ({METRICS[name].unit})"


def number_text(value: float) -> str:
    """At least three significant digits, never an exponent.

    >>> [number_text(value) for value in (0.012345, 3.14159, 42.25, 1234.5)]
    ['0.0123', '3.14', '42.2', '1234']
    """
    return f"{value:.{_decimals(value, 3)}f}" if value else "0"


def metric_text(metrics: Mapping[str, float], name: str) -> str:
    """'3.14 ms'."""
    return f"{number_text(scaled(metrics, name))} {METRICS[name].unit}"


def latency_text(candidate: Candidate) -> str:
    """'3.14 ± 0.20 ms': two significant digits of the standard deviation, and as many decimals of the latency."""
    latency_ms, std_ms = 1e3 * candidate.metrics["latency_s"], 1e3 * candidate.latency_std_s
    digits = _decimals(std_ms, 2)
    return f"{latency_ms:.{digits}f} ± {std_ms:.{digits}f} ms"


def accuracy_percent(candidate: Candidate) -> float:
    return 100.0 * (1.0 - candidate.metrics["error"])


def size_text(shape: Shape) -> str:
    """'224x224' of an NCHW image."""
    return f"{shape[2]}x{shape[3]}"


def deployed_shape(result: SearchResult, candidate: Candidate) -> Shape:
    """Shape of the image that the candidate takes as deployed: (batch, channels, height, width)."""
    return input_shape(result.deployed_space.graph(candidate.arch))


def constraint_texts(constraints: Mapping[str, float]) -> list[str]:
    """['latency ≤ 5.00 ms']."""
    return [f"{METRICS[name].title} ≤ {metric_text(constraints, name)}" for name in constraints]


def staircase(metrics: Sequence[Mapping[str, float]], name: str) -> list[Mapping[str, float]]:
    """The candidates that no other beats in both `name` and error, from the best in `name` to the best in error."""
    sign = -1.0 if METRICS[name].maximise else 1.0
    best, least_error = [], np.inf
    for each in sorted(metrics, key=lambda each: (sign * each[name], each["error"])):
        if each["error"] < least_error:
            best.append(each)
            least_error = each["error"]
    return best


def shares(kernels: Iterable[KernelPrediction], key: Callable[[KernelPrediction], str]) -> list[tuple[str, float]]:
    """Share of the kernels' time by what `key` says of each, the largest first."""
    seconds: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        seconds[key(kernel)] += kernel.latency_s
    total = sum(seconds.values())
    return sorted(((name, value / total) for name, value in seconds.items()), key=lambda each: -each[1])


def time_by_kind(prediction: Prediction) -> dict[str, dict[str, float]]:
    """Seconds by kernel kind, then by provenance; the kind that takes longest first."""
    seconds: dict[str, dict[str, float]] = {}
    for kernel in prediction.kernels:
        of_kind = seconds.setdefault(kernel.kernel.kind, dict.fromkeys(PROVENANCES, 0.0))
        of_kind[kernel.provenance] += kernel.latency_s
    return dict(sorted(seconds.items(), key=lambda item: -sum(item[1].values())))


def longest_bar_s(prediction: Prediction) -> float:
    """Seconds of the kind of kernel that takes longest, or of the time between kernels."""
    return max(prediction.overhead_s, *(sum(seconds.values()) for seconds in time_by_kind(prediction).values()))


def provenance_shares(predictions: Iterable[Prediction]) -> dict[str, float]:
    """Share of all kernels' time by where it comes from; sums to 1."""
    totals = dict.fromkeys(PROVENANCES, 0.0)
    for prediction in predictions:
        for provenance, seconds in prediction.time_by_provenance.items():
            totals[provenance] += seconds
    total = sum(totals.values())
    return {provenance: seconds / total for provenance, seconds in totals.items()}


def roofs(device: Device, dtype: str) -> list[Roof]:
    """The device's roofs in a dtype, from the memory that holds everything to the smallest cache."""
    peak_flops = device.peak_flops(dtype)
    levels = reversed(device.memory)
    return [Roof(name=level.name, bandwidth=level.bandwidth.value, peak_flops=peak_flops) for level in levels]


def front_predictions(result: SearchResult) -> list[Prediction]:
    """Predictions of the front, or of all candidates where it is empty."""
    positions = result.front or range(len(result.candidates))
    archs = [result.candidates[position].arch for position in positions]
    return [result.predictor.predict(result.deployed_space.graph(arch)) for arch in archs]


def drawable(prediction: Prediction) -> list[KernelPrediction]:
    """The kernels that a logarithmic picture can show: those that compute."""
    return [kernel for kernel in prediction.kernels if kernel.cost.macs]


def intensity_range(device: Device, dtype: str, predictions: Iterable[Prediction]) -> tuple[float, float]:
    """FLOP per byte from half the least to twice the largest, of the kernels drawn and the ridge points."""
    shown = [kernel.cost.arithmetic_intensity for prediction in predictions for kernel in drawable(prediction)]
    shown += [roof.ridge_point for roof in roofs(device, dtype)]
    return min(shown) / 2, max(shown) * 2


def relative_hypervolumes(result: SearchResult) -> list[float]:
    """Percent of the last hypervolume after each candidate; all 0 where the front is empty."""
    last = result.hypervolumes[-1]
    return [100.0 * each / last if last else 0.0 for each in result.hypervolumes]


def _decimals(value: float, num_significant: int) -> int:
    """Decimals that show so many significant digits of a value."""
    return max(0, num_significant - 1 - int(np.floor(np.log10(abs(value))))) if value else num_significant
