"""What a search minimises: named metrics of a candidate, each with its unit and sense.

Everything below Optuna's border minimises, so a metric that should grow is negated in the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


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


def losses(metrics: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> np.ndarray:
    """Candidates' metrics as a float array of shape (len(metrics), len(objectives)), every column to be minimised."""
    signs = [-1.0 if METRICS[name].maximise else 1.0 for name in objectives]
    rows = [[sign * each[name] for name, sign in zip(objectives, signs)] for each in metrics]
    return np.array(rows, dtype=np.float64).reshape(len(metrics), len(objectives))
