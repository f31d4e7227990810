"""What a search minimises: named metrics of a candidate, each with its unit and sense.

Everything below Optuna's border minimises, so a metric that should grow is negated in the loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from predictors.latency import Prediction
from predictors.mapping import check_keys, check_type
from predictors.predict_many import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a candidate. `value / scale` is what a person reads, in `unit`.

    Attributes:
        of: what a prediction says of it, None where the device has no figures for it; no `of`: it is not predicted.
        bound: key of its upper bound in `constraints`, with the unit in the name; None: it cannot be bounded.
        on_device: whether it differs from device to device.
    """

    name: str
    title: str
    unit: str
    scale: float = 1.0
    maximise: bool = False
    of: Callable[[Prediction], float | None] | None = None
    bound: str | None = None
    on_device: bool = True


def _cost(name: str, title: str, unit: str, bound: str | None, scale: float = 1.0, **others: bool) -> Metric:
    """A metric that every prediction has, under its own name."""
    return Metric(name=name, title=title, unit=unit, scale=scale, of=attrgetter(name), bound=bound, **others)


def _energy_j(prediction: Prediction) -> float | None:
    return prediction.energy_j if prediction.device.has_energy else None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="error", title="error", unit="%", scale=0.01, on_device=False),
        _cost("latency_s", "latency", "ms", "latency_ms", 1e-3),
        _cost("traffic_bytes", "memory traffic", "MB", "traffic_mb", 1e6),
        _cost("arithmetic_intensity", "arithmetic intensity", "FLOP/byte", None, maximise=True),
        _cost("peak_memory_bytes", "peak memory", "MB", "peak_memory_mb", 1e6),
        _cost("macs", "MACs", "M", "macs_m", 1e6, on_device=False),
        _cost("num_params", "parameters", "M", "params_m", 1e6, on_device=False),
        Metric(name="energy_j", title="energy", unit="mJ", scale=1e-3, of=_energy_j, bound="energy_mj"),
    )
}
"""All that can be an objective, by name. A new row here is an objective, a column of the tables and a bound."""


@cache
def metric_named(name: str) -> Metric:
    """The metric of a name in `METRICS`, or of one on another device than the search's: `mobile_cpu.latency_s`.

    >>> metric_named("mobile_cpu.latency_s").title
    'latency on mobile_cpu'

    Raises:
        ValueError: there is none.
    """
    device, _, plain = name.rpartition(".")
    if plain not in METRICS or (device and not METRICS[plain].on_device):
        raise ValueError(f"unknown objective {name!r}; there are {list(METRICS)}{_elsewhere(device, plain)}")
    metric = METRICS[plain]
    return replace(metric, name=name, title=f"{metric.title} on {device}") if device else metric


def cost_metrics(prediction: Prediction) -> dict[str, float]:
    """Every metric that the prediction has a figure for, in SI units."""
    costs = {name: metric.of(prediction) for name, metric in METRICS.items() if metric.of is not None}
    return {name: float(cost) for name, cost in costs.items() if cost is not None}


def cost_columns(predictions: Predictions) -> dict[str, np.ndarray]:
    """What `cost_metrics` says of each of N predictions: arrays of shape (N,), in SI units."""
    columns = {name: getattr(predictions, name) for name, metric in METRICS.items() if metric.of is not None}
    return {name: column.astype(np.float64) for name, column in columns.items() if column is not None}


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The names themselves, once each is a metric and none comes twice.

    >>> check_objectives(["error", "latency_s"])
    ('error', 'latency_s')

    Raises:
        ValueError: an unknown or repeated objective, or none at all.
    """
    for name in names:
        metric_named(name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"objectives must be at least one metric and each only once, found {list(names)}")
    return tuple(names)


def objectives_from_mapping(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """Objectives from `{"name": ..., "metrics": [...]}`, the content of a file in `configs/objectives`.

    Raises:
        ValueError: a misspelled key, or what `check_objectives` refuses.
    """
    keys = check_keys(mapping, ("name", "metrics"), ("name", "metrics"), "objectives")
    check_type(keys["name"], str, "objectives.name")
    names = check_type(keys["metrics"], list, "objectives.metrics")
    return check_objectives([check_type(name, str, "objectives.metrics") for name in names])


def losses(metrics: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> np.ndarray:
    """Candidates' metrics as a float array of shape (len(metrics), len(objectives)), every column to be minimised."""
    signs = [-1.0 if metric_named(name).maximise else 1.0 for name in objectives]
    rows = [[sign * each[name] for name, sign in zip(objectives, signs)] for each in metrics]
    return np.array(rows, dtype=np.float64).reshape(len(metrics), len(objectives))


# ------------------------------------------------------------------------------------------------------------ private


def _elsewhere(device: str, plain: str) -> str:
    if device and plain in METRICS:
        return f"; {plain} does not differ from device to device, so it has none before it"
    return ", and those that differ from device to device also as DEVICE.METRIC"
