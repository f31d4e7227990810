"""The numbers behind the pictures and tables: metrics in a person's units, shares of time, roofs, staircases."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from nas.export import input_shape
from nas.objectives import METRICS, metric_named
from nas.result import Candidate, SearchResult
from predictors.device import Device
from predictors.explanation.roofs import roofs
from predictors.explanation.text import number_text, time_text
from predictors.latency import PROVENANCES, KernelPrediction, Prediction
from predictors.operators import Shape


def scaled(metrics: Mapping[str, float], name: str) -> float:
    """A metric in the unit that a person reads (`metric_named(name).unit`)."""
    return metrics[name] / metric_named(name).scale


def axis_title(name: str) -> str:
    """'latency (ms)'."""
    return f"{metric_named(name).title} ({metric_named(name).unit})"


def metric_text(metrics: Mapping[str, float], name: str) -> str:
    """'3.14 ms'."""
    return f"{number_text(scaled(metrics, name))} {metric_named(name).unit}"


def latency_text(candidate: Candidate) -> str:
    """'3.14 ± 0.20 ms'."""
    return time_text(candidate.metrics["latency_s"], candidate.latency_std_s)


def accuracy_percent(candidate: Candidate) -> float:
    return 100.0 * (1.0 - candidate.metrics["error"])


def accuracy_text(result: SearchResult, candidate: Candidate) -> str:
    """'93.20 %'; '57.31 of 100' of a score, which is no share of right answers."""
    return f"{accuracy_percent(candidate):.2f} {'%' if result.judgement.is_accuracy else 'of 100'}"


def error_name(result: SearchResult) -> str:
    """'error', or what is minimised where candidates have no accuracy: 'distance from full score'."""
    return METRICS["error"].title if result.judgement.is_accuracy else f"distance from full {result.judgement.name}"


def error_axis_title(result: SearchResult) -> str:
    """'error (%)'."""
    return f"{error_name(result)} ({METRICS['error'].unit if result.judgement.is_accuracy else 'of 100'})"


def failures_text(result: SearchResult) -> str:
    """'3 networks failed: RuntimeError: out of memory'; empty where none did."""
    if not result.failures:
        return ""
    number = len(result.failures)
    last_lines = result.failures[0].error.strip().splitlines()[-1:]
    return f"{number} network{'s' if number > 1 else ''} failed: {''.join(last_lines)}"


def size_text(shape: Shape) -> str:
    """'224x224' of an NCHW image."""
    return f"{shape[2]}x{shape[3]}"


def deployed_shape(result: SearchResult, candidate: Candidate) -> Shape:
    """Shape of the image that the candidate takes as deployed: (batch, channels, height, width)."""
    return input_shape(result.deployed_space.graph(candidate.arch))


def constraint_texts(constraints: Mapping[str, float]) -> list[str]:
    """['latency ≤ 5.00 ms']."""
    return [f"{metric_named(name).title} ≤ {metric_text(constraints, name)}" for name in constraints]


def staircase(metrics: Sequence[Mapping[str, float]], name: str) -> list[Mapping[str, float]]:
    """The candidates that no other beats in both `name` and error, from the best in `name` to the best in error."""
    sign = -1.0 if metric_named(name).maximise else 1.0
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
