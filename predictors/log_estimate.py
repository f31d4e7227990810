"""Efficiencies as estimates of their logarithm: measured ones smoothed by what other kernels say, and seconds."""

from dataclasses import dataclass
from math import exp, sqrt


@dataclass(frozen=True, slots=True)
class LogEstimate:
    """ln(efficiency), its standard deviation, and what of that all kernels of the class err together."""

    mean: float
    std: float
    shared_std: float = 0.0


def combine(measured_log: float, spread: float, interpolated: LogEstimate | None) -> LogEstimate:
    """A measurement smoothed by its neighbours: both weighted by the inverse of their variance, in log space.

    The two must be independent: `interpolated` is what other kernels say. A clean measurement (spread 0) is kept.
    """
    if interpolated is None or spread == 0.0:
        return LogEstimate(measured_log, spread)
    trust = interpolated.std**2 / (interpolated.std**2 + spread**2)
    mean = trust * measured_log + (1.0 - trust) * interpolated.mean
    return LogEstimate(mean, sqrt(trust) * spread)


def latency_of(roofline_s: float, log_efficiency: LogEstimate) -> tuple[float, float]:
    """Seconds and their standard deviation from a roofline time and ln(efficiency)."""
    latency_s = roofline_s * exp(-log_efficiency.mean)
    return latency_s, latency_s * log_efficiency.std
