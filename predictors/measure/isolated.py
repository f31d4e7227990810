"""Kernels by themselves, each a network of its own, for runtimes that time nothing inside a network.

They run in rotation, one after the other, never one in a loop: in a loop a kernel finds its weights, its code and the
memory that it writes in the nearest cache, which it does not in a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.fusion import Kernel
from predictors.graph import Graph, Node
from predictors.measure.backend import Backend, Network, QueuedNetwork, Step
from predictors.measure.clock import Clock
from predictors.operators import Activation, Input

EMPTY = Graph((Node(Input(shape=(1, 1))), Node(Activation(shape=(1, 1), function="relu"), (0,))), (1,))
"""The smallest network: what calling the runtime costs by itself."""


def kernel_graph(kernel: Kernel) -> Graph:
    """A network of one kernel: whatever it reads is an input of the network."""
    nodes: list[Node] = []

    def read(shapes: Sequence[tuple[int, ...]]) -> list[int]:
        nodes.extend(Node(Input(shape=shape)) for shape in shapes)
        return list(range(len(nodes) - len(shapes), len(nodes)))

    nodes.append(Node(kernel.anchor, tuple(read(kernel.anchor.input_shapes))))
    for operator in kernel.fused:
        last = len(nodes) - 1
        shapes = list(operator.input_shapes)
        place = shapes.index(nodes[last].operator.output_shape)
        others = read([*shapes[:place], *shapes[place + 1 :]])
        nodes.append(Node(operator, (*others[:place], last, *others[place:])))
    return Graph(tuple(nodes), (len(nodes) - 1,), name=kernel.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What measures: a runtime, a clock, and what launching a kernel in a network costs there, in seconds."""

    backend: Backend
    clock: Clock
    launch_s: float


class Rotation:
    """Single kernels as one profile: step i is kernel i. What calling the runtime costs is taken off, but for the
    launch of a kernel, which the smallest network holds too.

    Args:
        networks: of each kernel, from `kernel_graph`, in the order in which they run.
        bench: whose backend built them.
    """

    def __init__(self, networks: Mapping[Kernel, Network], bench: Bench) -> None:
        empty = bench.backend.network(EMPTY)
        self._kernels = tuple(networks)
        self._networks = (empty, *networks.values(), empty)
        self._now = bench.clock.now
        self._launch_s = bench.launch_s
        self._seconds: list[list[float]] = []

    def run(self) -> None:
        times = [self._now()]
        for network in self._networks:
            network.run()
            times.append(self._now())
        self._seconds.append(times)

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        seconds_RN = np.diff(np.array(self._seconds).reshape(len(self._seconds), len(self._networks) + 1), axis=1)
        call_R = np.maximum(np.median(seconds_RN[:, [0, -1]], axis=1) - self._launch_s, 0.0)
        steps = tuple(Step(name=kernel.text, nodes=(index,)) for index, kernel in enumerate(self._kernels))
        seconds_RS: NDArray[np.float64] = np.maximum(seconds_RN[:, 1:-1] - call_R[:, None], 0.0)
        return steps, seconds_RS


class QueuedRotation:
    """As `Rotation`, on a GPU: each kernel's seconds as the GPU takes them, which the host's calls are no part of."""

    def __init__(self, networks: Mapping[Kernel, Network]) -> None:
        from predictors.measure.gpu_queue import GpuQueue

        self._kernels = tuple(networks)
        self._launches = [network.launch for network in networks.values() if isinstance(network, QueuedNetwork)]
        self._queue = GpuQueue()
        self._hold_s = self._queue.hold_s(lambda: self._launches)
        self._seconds: list[NDArray[np.float64]] = []

    def run(self) -> None:
        self._seconds.append(self._queue.seconds(lambda: self._launches, self._hold_s))

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        steps = tuple(Step(name=kernel.text, nodes=(index,)) for index, kernel in enumerate(self._kernels))
        return steps, np.array(self._seconds).reshape(len(self._seconds), len(steps))
