"""A runtime whose times are known: kernels take what a rule says, on a machine that drifts as a test wants."""

from collections.abc import Callable, Mapping

import numpy as np

from predictors import GraphBuilder, Kernel, Runtime, fuse, kernel_cost
from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Step
from predictors.measure.clock import Clock, Sample

REFERENCE_S = 1e-3


def network(width: int, depth: int = 3) -> Graph:
    builder = GraphBuilder()
    x = builder.input((1, 3, 16, 16))
    for _ in range(depth):
        x = builder.activation(builder.batch_norm(builder.conv2d(x, width, kernel=3)), "relu")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))


def usual_seconds(kernel: Kernel) -> float:
    """50 GFLOP/s, 10 GB/s, 1 us."""
    cost = kernel_cost(kernel)
    return max(cost.flops / 5e10, cost.traffic_bytes / 1e10) + 1e-6


class SimulatedBackend:
    """Kernels of a runtime's rules, one step each.

    Args:
        seconds: of a kernel by itself in a network.
        between_s: that a network takes for each kernel beside their own time.
        slowed: factor of steps under the profiler.
        refused: kinds that have no kernel.
    """

    name = "torch_eager"
    version = "1.0"
    threads = 1
    dtype = "float32"
    options: Mapping[str, str | int | bool] = {"processor": "cpu"}

    def __init__(
        self,
        runtime: Runtime,
        seconds: Callable[[Kernel], float] = usual_seconds,
        *,
        between_s: float = 0.0,
        slowed: float = 1.0,
        refused: frozenset[str] = frozenset(),
    ) -> None:
        self.runtime = runtime
        self.seconds = seconds
        self.between_s = between_s
        self.slowed = slowed
        self.refused = refused
        self.now_s = 0.0
        self.slower = 1.0

    def network(self, graph: Graph) -> "_Run":
        return _Run(self, graph)

    def profile(self, graph: Graph) -> "_TimedRun | None":
        return _TimedRun(self, graph)


class _Run:
    def __init__(self, backend: SimulatedBackend, graph: Graph) -> None:
        self.backend = backend
        self.kernels = fuse(graph, backend.runtime, "float32")
        for node in self.kernels:
            if node.kernel.kind in backend.refused:
                raise NoKernelError(f"{node.kernel.text} has no kernel")

    def run(self) -> None:
        for node in self.kernels:
            self.backend.now_s += (self.backend.seconds(node.kernel) + self.backend.between_s) * self.backend.slower


class _TimedRun(_Run):
    def __init__(self, backend: SimulatedBackend, graph: Graph) -> None:
        super().__init__(backend, graph)
        self.times: list[list[float]] = []

    def run(self) -> None:
        backend = self.backend
        seconds = [backend.seconds(node.kernel) * backend.slowed * backend.slower for node in self.kernels]
        self.times.append(seconds)
        backend.now_s += sum(seconds) + backend.between_s * backend.slower * len(seconds)

    def finish(self) -> tuple[tuple[Step, ...], np.ndarray]:
        return tuple(Step(name=node.kernel.kind, nodes=node.nodes) for node in self.kernels), np.array(self.times)


class SimulatedClock(Clock):
    """Reads the backend's own time; `speed()` says how much slower than at its best the machine is just now."""

    def __init__(self, backend: SimulatedBackend, speed: Callable[[], float] = lambda: 1.0) -> None:
        self.threads, self.processor = 1, "cpu"
        self._backend = backend
        self.now = lambda: backend.now_s
        self._speed = speed

    @property
    def reference_s(self) -> float:
        return REFERENCE_S

    @property
    def drift(self) -> float:
        return 0.0

    def samples(self, run: Callable[[], object], number: int) -> list[Sample]:
        return [self._sample(run) for _ in range(number)]

    def _sample(self, run: Callable[[], object]) -> Sample:
        self._backend.slower = self._speed()
        begin_s = self._backend.now_s
        run()
        seconds = self._backend.now_s - begin_s
        return Sample(seconds, seconds, REFERENCE_S * self._backend.slower)
