"""What a network holds in memory while it runs: weights all the time, activations as long as somebody needs them."""

from dataclasses import dataclass

from predictors.cost import live_activation_bytes
from predictors.latency import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimeline:
    """Bytes at each step of a network.

    Attributes:
        weight_bytes: all weights.
        live_bytes: activations that are alive while each kernel runs, in the order of execution.
    """

    weight_bytes: int
    live_bytes: tuple[int, ...]

    @property
    def peak_step(self) -> int:
        """The first step, from 1, at which the activations take most; 0 for a network without kernels."""
        return 1 + self.live_bytes.index(max(self.live_bytes)) if self.live_bytes else 0

    @property
    def peak_live_bytes(self) -> int:
        return max(self.live_bytes, default=0)

    @property
    def peak_bytes(self) -> int:
        """Weights and the largest activations: `Prediction.peak_memory_bytes`."""
        return self.weight_bytes + self.peak_live_bytes


def memory_timeline(prediction: Prediction) -> MemoryTimeline:
    """The timeline behind `Prediction.peak_memory_bytes`."""
    live = live_activation_bytes(
        prediction.graph, prediction.kernel_nodes, prediction.dtype, prediction.device.channel_alignment
    )
    return MemoryTimeline(weight_bytes=prediction.cost.weight_bytes, live_bytes=tuple(live[1:]))
