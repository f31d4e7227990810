"""PyTorch eager: every operator is called by itself, so every node is a step, timed between calls."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictors.graph import Graph
from predictors.measure.backend import Option, Step, check_choice
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

    def profile(self, graph: Graph) -> "_TimedRun":
        return _TimedRun(_Run(graph, self._processor, DTYPES[self.dtype]), self.threads)


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
        self.values()
        if self.processor == "cuda":
            torch.cuda.synchronize()

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
            values[call.target] = call.layer(*[values[source] for source in call.sources])
            for index in call.dead:
                values[index] = None
            after_call()
        return values


class _TimedRun:
    """Reads the thread's CPU time between calls on one thread, wall time on several, and events on a GPU."""

    def __init__(self, network: _Run, threads: int) -> None:
        self._network = network
        self._now = time.thread_time if threads == 1 else time.perf_counter
        self._seconds: list[NDArray[np.float64]] = []
        begin = self._now()
        for _ in range(1000):
            self._now()
        self._read_s = (self._now() - begin) / 1000

    def run(self) -> None:
        self._seconds.append(self._run_on_gpu() if self._network.processor == "cuda" else self._run_on_cpu())

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        nodes = self._network.graph.nodes
        steps = tuple(
            Step(name=nodes[call.target].name or nodes[call.target].operator.kind, nodes=(call.target,))
            for call in self._network.calls
        )
        return steps, np.array(self._seconds).reshape(len(self._seconds), len(steps))

    def _run_on_cpu(self) -> NDArray[np.float64]:
        times: list[float] = []
        self._network.values(lambda: times.append(self._now()))
        seconds: NDArray[np.float64] = np.maximum(np.diff(times) - self._read_s, 0.0)
        return seconds

    def _run_on_gpu(self) -> NDArray[np.float64]:
        events: list[torch.cuda.Event] = []

        def record() -> None:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            events.append(event)

        self._network.values(record)
        torch.cuda.synchronize()
        return np.array([before.elapsed_time(after) for before, after in pairwise(events)]) * 1e-3
