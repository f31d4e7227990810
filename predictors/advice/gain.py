"""What an edited network saves, and how far that can be trusted: what both networks err alike cancels."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from predictors.fusion import Kernel
from predictors.latency import Prediction
from predictors.whole_network import HOST_DRIFT, KernelEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Seconds that an edit saves, their standard deviation, and their share of the network's time."""

    gain_s: float
    std_s: float
    share: float


def gain_between(before: Prediction, after: Prediction) -> Gain:
    """What is saved from one prediction to another on the same device.

    gain = before - after. Kernels that both have cancel. Of those that only one has, equal ones err alike, different
    ones by themselves (close relatives err alike in part, so the deviation is rather too large); the errors of a group
    (one table's drift, one class's efficiency) count by the difference of the seconds that they stand for; the
    network's own spread counts for what is saved. Where the host holds both networks up, kernels do not matter, but
    what the host's seconds drift; where it holds up one of the two, each errs by itself.
    """
    gain_s = before.latency_s - after.latency_s
    device = before.device
    factor = device.in_network.value if device.in_network else 1.0
    waiting = is_host_bound(before), is_host_bound(after)
    if all(waiting):
        variance_s2 = (HOST_DRIFT * gain_s) ** 2
    elif any(waiting):
        variance_s2 = before.std_s**2 + after.std_s**2
    else:
        variance_s2 = factor * factor * _kernels_variance_s2(before, after)
    spread = device.network_spread.value if device.network_spread else 0.0
    std_s = (variance_s2 + (spread * gain_s) ** 2) ** 0.5
    return Gain(gain_s=gain_s, std_s=std_s, share=gain_s / before.latency_s)


def is_host_bound(prediction: Prediction) -> bool:
    """Kernels queue, and issuing all of them takes longer than running them."""
    device = prediction.device
    if device.host_launch is None:
        return False
    per_network = device.network_overhead.value if device.network_overhead else 0.0
    issued_s = per_network + sum(estimate.host_s for estimate in prediction.estimates)
    return bool(prediction.latency_s <= issued_s * (1.0 + 1e-9))


# ------------------------------------------------------------------------------------------------------------ private


def _kernels_variance_s2(before: Prediction, after: Prediction) -> float:
    estimates: dict[Kernel, KernelEstimate] = {}
    counts: Counter[Kernel] = Counter()
    for prediction, sign in ((before, 1), (after, -1)):
        for kernel, estimate in _kernels(prediction):
            estimates[kernel] = estimate
            counts[kernel] += sign
    alone_s2 = 0.0
    shared_s: dict[str, float] = {}
    for kernel, count in counts.items():
        estimate = estimates[kernel]
        alone_s2 += count * count * estimate.variance_s2
        shared_s[estimate.group] = shared_s.get(estimate.group, 0.0) + count * estimate.shared_std_s
    return alone_s2 + sum(std_s * std_s for std_s in shared_s.values())


def _kernels(prediction: Prediction) -> Iterable[tuple[Kernel, KernelEstimate]]:
    return ((node.kernel, estimate) for node, estimate in zip(prediction.kernel_nodes, prediction.estimates))
