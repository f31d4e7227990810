"""What a search minimises: named metrics of a candidate, each with its unit and sense.

Everything below Optuna's border minimises, so a metric that should grow is negated in the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from predictors.mapping import check_keys, check_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a candidate. `value / scale` is what a person reads, in `unit`."""

    name: str
    title: str
    unit: str
    scale: float = 1.0
    maximise: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="error", title="error", unit="%", scale=0.01),
        Metric(name="latency_s", title="latency", unit="ms", scale=1e-3),
        Metric(name="traffic_bytes", title="memory traffic", unit="MB", scale=1e6),
        Metric(name="arithmetic_intensity", title="arithmetic intensity", unit="FLOP/byte", maximise=True),
        Metric(name="peak_memory_bytes", title="peak memory", unit="MB", scale=1e6),
        Metric(name="macs", title="MACs", unit="M", scale=1e6),
        Metric(name="num_params", title="parameters", unit="M", scale=1e6),
        Metric(name="energy_j", title="energy", unit="mJ", scale=1e-3),
    )
}


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The names themselves, once each is a metric and none comes twice.

    >>> check_objectives(["error", "latency_s"])
    ('error', 'latency_s')

    Raises:
        ValueError: an unknown or repeated objective, or none at all.
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown objective {name!r}; there are {list(METRICS)}")
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
    return check_objectives(check_type(keys["metrics"], list, "objectives.metrics"))


def losses(metrics: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> np.ndarray:
    """Candidates' metrics as a float array of shape (len(metrics), len(objectives)), every column to be minimised."""
    signs = [-1.0 if METRICS[name].maximise else 1.0 for name in objectives]
    rows = [[sign * each[name] for name, sign in zip(objectives, signs)] for each in metrics]
    return np.array(rows, dtype=np.float64).reshape(len(metrics), len(objectives))
