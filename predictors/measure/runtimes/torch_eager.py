"""PyTorch eager: every operator is called by itself, so every node is a step, timed between calls."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictors.graph import Graph
from predictors.measure.backend import Option, Step, check_choice
from predictors.measure.gpu_queue import GpuQueue, Launch
from predictors.measure.torch_layers import Layer, build_layer
from predictors.measure.values import given_value
from predictors.operators import Constant, Input

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchEager:
    """PyTorch eager in torch's default memory format, on a CPU or with CUDA. Sets torch's number of threads."""

    name = "torch_eager"
    version = torch.__version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice(self.name, "dtype", dtype, list(DTYPES) if processor == "cuda" else ["float32"])
        check_choice(self.name, "processor", processor, ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"processor": processor}
        self._processor = processor
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self._processor, DTYPES[self.dtype])

    def profile(self, graph: Graph) -> "_TimedRun | _QueuedRun":
        network = _Run(graph, self._processor, DTYPES[self.dtype])
        return _QueuedRun(network, self._queue) if self._processor == "cuda" else _TimedRun(network, self.threads)

    @cached_property
    def _queue(self) -> GpuQueue:
        return GpuQueue()


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True)
class _Call:
    """One node: what it calls, which values it reads and writes, and which nobody reads after it."""

    layer: Layer
    sources: tuple[int, ...]
    target: int
    dead: tuple[int, ...]


class _Run:
    """As in a module's forward, tensors are freed once the last node that reads them has run: memory that is written
    anew, and caches that other nodes have filled, are part of what a kernel costs.
    """

    def __init__(self, graph: Graph, processor: str, dtype: torch.dtype) -> None:
        last_use = {source: index for index, node in enumerate(graph.nodes) for source in node.inputs}
        self.graph = graph
        self.processor = processor
        self.calls: list[_Call] = []
        self._given: list[Tensor | None] = [None] * len(graph.nodes)
        for index, node in enumerate(graph.nodes):
            if isinstance(node.operator, Input | Constant):
                self._given[index] = torch.from_numpy(given_value(graph, index)).to(processor, dtype)
                continue
            dead = {source for source in node.inputs if last_use[source] == index} - set(graph.outputs)
            if index not in last_use and index not in graph.outputs:
                dead.add(index)
            layer = build_layer(node.operator, index)
            if isinstance(layer, nn.Module):
                layer = layer.to(processor, dtype)
            self.calls.append(_Call(layer, node.inputs, index, tuple(dead)))

    def run(self) -> None:
        self.launch()
        if self.processor == "cuda":
            torch.cuda.synchronize()

    def launch(self) -> None:
        self.values()

    def outputs(self) -> list[NDArray[np.float32]]:
        values = self.values()
        return [values[index].float().cpu().numpy() for index in self.graph.outputs]

    @torch.inference_mode()
    def values(self, after_call: Callable[[], None] = lambda: None) -> list[Any]:
        """Run once; the values that are still alive at the end. `after_call` is called before the first and after each
        call."""
        values: list[Any] = list(self._given)
        after_call()
        for call in self.calls:
            self._step(call, values)
            after_call()
        return values

    def steps(self) -> Sequence[Launch]:
        """The calls of one run, each to be called once, in order."""
        values: list[Any] = list(self._given)
        return [partial(self._step, call, values) for call in self.calls]

    def _step(self, call: _Call, values: list[Any]) -> None:
        values[call.target] = call.layer(*[values[source] for source in call.sources])
        for index in call.dead:
            values[index] = None


def _steps(network: _Run) -> tuple[Step, ...]:
    nodes = network.graph.nodes
    return tuple(
        Step(name=nodes[call.target].name or nodes[call.target].operator.kind, nodes=(call.target,))
        for call in network.calls
    )


class _TimedRun:
    """Reads the thread's CPU time between calls on one thread, wall time on several."""

    def __init__(self, network: _Run, threads: int) -> None:
        self._network = network
        self._now = time.thread_time if threads == 1 else time.perf_counter
        self._seconds: list[NDArray[np.float64]] = []
        begin = self._now()
        for _ in range(1000):
            self._now()
        self._read_s = (self._now() - begin) / 1000

    def run(self) -> None:
        times: list[float] = []
        self._network.values(lambda: times.append(self._now()))
        self._seconds.append(np.maximum(np.diff(times) - self._read_s, 0.0))

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        steps = _steps(self._network)
        return steps, np.array(self._seconds).reshape(len(self._seconds), len(steps))


class _QueuedRun:
    """On a GPU: seconds of each call as the GPU itself takes them, however long the host takes to issue it."""

    def __init__(self, network: _Run, queue: GpuQueue) -> None:
        self._network = network
        self._queue = queue
        self._seconds: list[NDArray[np.float64]] = []

    @cached_property
    def _hold_s(self) -> float:
        return self._queue.hold_s(self._network.steps)

    @torch.inference_mode()
    def run(self) -> None:
        self._seconds.append(self._queue.seconds(self._network.steps, self._hold_s))

    @torch.inference_mode()
    def host_seconds(self) -> NDArray[np.float64]:
        return self._queue.host_seconds(self._network.steps)

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        steps = _steps(self._network)
        return steps, np.array(self._seconds).reshape(len(self._seconds), len(steps))
