"""Why a strategy's networks are as fast as they are: what bounds their kernels, and what they do for each byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nas.compare.imagined import with_bandwidth, with_peaks
from nas.compare.judging import largest_judged_error
from nas.compare.records import BestKnown, Chosen, Floats, Why
from nas.compare.statistics import estimate
from nas.pareto import pareto_front
from nas.task import SearchTask
from predictors.latency import KernelPrediction, LatencyPredictor, Prediction
from predictors.operators import Conv2d
from predictors.roofline import Bound

BOUNDS = ("compute", "memory", "launch", "overhead")
"""Where the time of a network goes: kernels by what bounds them, and what belongs to no kernel."""

NUM_NETWORKS = 15
"""Of a front, whose kernels are looked at."""

_AT_ONCE = 1e9
"""Times a bandwidth or a peak: what is bound by it takes no time."""

_FIGURES = (*BOUNDS, "intensity", "macs", "traffic_bytes", "num_kernels", "depthwise_time", "depthwise_macs")


def why(task: SearchTask, strategy: str, chosen: Sequence[Chosen]) -> Why:
    """What the networks are like that a strategy chose: means over the networks of a seed, then over seeds.

    Looked at are those that are compared: of each seed's front at most `NUM_NETWORKS` that the yardstick leaves, at
    evenly spaced errors. A kernel counts with its predicted time; what bounds it, see `bound_shares`.

    Args:
        chosen: by seed; those without a network are left out.

    Raises:
        ValueError: no seed chose a network whose latency is known.
    """
    chosen = [each for each in chosen if each.archs]
    if not chosen:
        raise ValueError(f"strategy {strategy!r} chose no network whose latency is known, so none can be looked into")
    largest_error, terms = _largest_error(chosen), terms_of(task.predictor)
    known: dict[tuple[int, ...], Floats] = {}
    rows_SF = []
    num_networks = 0
    for each in chosen:
        archs = [each.archs[index] for index in spread_over(each.losses_F2, largest_error)]
        for arch in archs:
            key = tuple(arch.values())
            if key not in known:
                known[key] = _figures(task.predict(arch), terms)
        rows_SF.append(np.mean([known[tuple(arch.values())] for arch in archs], axis=0))
        num_networks += len(archs)
    columns = dict(zip(_FIGURES, np.array(rows_SF).T))
    return Why(
        strategy=strategy,
        bound_shares={name: float(columns[name].mean()) for name in BOUNDS},
        intensity=estimate(columns["intensity"]),
        macs=estimate(columns["macs"]),
        traffic_bytes=estimate(columns["traffic_bytes"]),
        num_kernels=estimate(columns["num_kernels"]),
        depthwise_time=estimate(columns["depthwise_time"]),
        depthwise_macs=estimate(columns["depthwise_macs"]),
        num_networks=num_networks,
    )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Terms:
    """Predictors of a device on which only arithmetic, only transfers, and neither takes time beside what is fixed."""

    compute: LatencyPredictor
    memory: LatencyPredictor
    fixed: LatencyPredictor

    def bound(self, kernel: KernelPrediction) -> Bound:
        """What takes longest of a kernel: arithmetic, transfers, or what it takes whatever its size, as a launch does.

        Of a kernel that was measured, or interpolated, only its roofline is known in parts, and that says it.
        """
        if kernel.provenance in ("measured", "interpolated"):
            return kernel.bound
        fixed_s = self.fixed.estimate(kernel.kernel).latency_s
        compute_s = self.compute.estimate(kernel.kernel).latency_s - fixed_s
        memory_s = self.memory.estimate(kernel.kernel).latency_s - fixed_s
        if fixed_s > max(compute_s, memory_s):
            return "launch"
        return "compute" if compute_s > memory_s else "memory"


@lru_cache(maxsize=2)
def terms_of(predictor: LatencyPredictor) -> Terms:
    """What tells what bounds the kernels that a predictor predicts.

    The roofline of a kernel cannot: a device file may count launches as part of efficiencies, which then take most of
    the time of kernels whose transfers take longer than their arithmetic.
    """
    fast_memory, fast_peaks = with_bandwidth(predictor.device, _AT_ONCE), with_peaks(predictor.device, _AT_ONCE)
    compute, memory, fixed = (
        LatencyPredictor(device, tables=[], dtype=predictor.dtype, runtime=predictor.runtime)
        for device in (fast_memory, fast_peaks, with_peaks(fast_memory, _AT_ONCE))
    )
    return Terms(compute=compute, memory=memory, fixed=fixed)


def bound_shares(prediction: Prediction, terms: Terms) -> dict[str, float]:
    """Shares of a network's time by `BOUNDS`: in kernels by what bounds them, and beside them; they add up to 1."""
    seconds = dict.fromkeys(BOUNDS, 0.0)
    for kernel in prediction.kernels:
        seconds[terms.bound(kernel)] += kernel.latency_s
    seconds["overhead"] = prediction.overhead_s
    return {name: each / prediction.latency_s for name, each in seconds.items()}


def spread_over(losses_F2: Floats, largest_error: float) -> NDArray[np.int64]:
    """Places of at most `NUM_NETWORKS` networks of a front, the fastest at evenly spaced errors; distinct.

    Args:
        losses_F2: error and seconds; F is at least 1, and rows may be dominated.
        largest_error: from the least error to this one; the most accurate network alone where none is below it.
    """
    order_F = np.lexsort((losses_F2[:, 1], losses_F2[:, 0]))
    sorted_F2 = losses_F2[order_F]
    is_fastest_F = np.append(True, sorted_F2[1:, 1] < np.minimum.accumulate(sorted_F2[:, 1])[:-1])
    front_U = order_F[is_fastest_F]
    errors_U = losses_F2[front_U, 0]
    places_P = np.linspace(errors_U[0], max(largest_error, errors_U[0]), NUM_NETWORKS)
    places_P = np.append(errors_U[0], places_P[1:])  # exactly the least error, which rounding may miss
    found: NDArray[np.int64] = front_U[np.unique(np.searchsorted(errors_U, places_P, side="right") - 1)]
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _largest_error(chosen: Sequence[Chosen]) -> float:
    """Up to which networks are judged, were the best that all seeds found together the best known."""
    losses_F2 = np.concatenate([each.losses_F2 for each in chosen])
    return largest_judged_error(BestKnown(archs=(), losses_B2=losses_F2[pareto_front(losses_F2)], text=""))


def _figures(prediction: Prediction, terms: Terms) -> Floats:
    """By `_FIGURES`."""
    shares = bound_shares(prediction, terms)
    depthwise = [
        kernel
        for kernel in prediction.kernels
        if isinstance(kernel.kernel.anchor, Conv2d) and kernel.kernel.anchor.is_depthwise
    ]
    return np.array(
        [
            *(shares[name] for name in BOUNDS),
            prediction.arithmetic_intensity,
            prediction.macs,
            prediction.traffic_bytes,
            prediction.num_kernels,
            sum(kernel.latency_s for kernel in depthwise) / prediction.latency_s,
            sum(kernel.cost.macs for kernel in depthwise) / prediction.cost.macs if prediction.cost.macs else 0.0,
        ],
        dtype=np.float64,
    )
