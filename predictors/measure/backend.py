"""What a runtime has to offer to be measured, and which runtimes there are.

A backend builds networks from graphs and runs them. Where the runtime times what it launches, a backend also gives the
seconds of each step of a whole network: kernels measured in their place, which is how they run in deployment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from predictors.graph import Graph

Option = str | int | bool


class NoKernelError(ValueError):
    """The runtime cannot run an operator, or not from its record alone; it stays unmeasured."""


class MissingRuntimeError(ValueError):
    """The runtime is not installed; the message names the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that a runtime launches.

    Attributes:
        name: what the runtime calls it, e.g. 'Conv_12_nchwc'.
        nodes: indices of the graph's nodes that it runs, in order; none where the runtime moves data on its own
            account, such as a change of layout.
    """

    name: str
    nodes: tuple[int, ...]


class Network(Protocol):
    """A graph that a runtime runs, on the values of `predictors.measure.values`."""

    def run(self) -> None:
        """Run once and wait for the end."""

    def outputs(self) -> list[NDArray[np.float32]]:
        """Run once; the graph's outputs in their order, as float32 in the graph's shapes (NCHW)."""


class Profile(Protocol):
    """A network that keeps the time of each of its steps."""

    def run(self) -> None:
        """Run once and wait for the end."""

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        """Steps in the order in which they ran, and their seconds in each run so far, of shape (runs, steps).

        Nothing can be run after it.
        """


@runtime_checkable
class QueuedNetwork(Network, Protocol):
    """A network whose kernels wait in the queue of a GPU: the host runs ahead of them."""

    def launch(self) -> None:
        """Issue one run and do not wait for its end."""


@runtime_checkable
class QueuedProfile(Profile, Protocol):
    """A profile that gives the GPU's own seconds, and the host's beside them."""

    def host_seconds(self) -> NDArray[np.float64]:
        """Seconds in which the host issues each step, of shape (steps,), in the order of `finish`."""


@runtime_checkable
class Backend(Protocol):
    """A runtime on this machine with its options.

    Attributes:
        name: of the file in `configs/runtime` that says what it fuses.
        version: of the installed package.
        options: what else decides its times, beside threads and dtype; part of a table's header.
    """

    name: str
    version: str
    threads: int
    dtype: str
    options: Mapping[str, Option]

    def network(self, graph: Graph) -> Network:
        """Build a graph to be timed from outside, without any profiling.

        Raises:
            NoKernelError: it cannot be run; the operator is named.
        """

    def profile(self, graph: Graph) -> Profile | None:
        """Build a graph whose steps the runtime times; None where this runtime cannot.

        Raises:
            NoKernelError: it cannot be run; the operator is named.
        """


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a backend's class stands, what it imports, and the package that brings it."""

    path: str
    needs: tuple[str, ...]
    package: str


_RUNTIMES: dict[str, _Entry] = {
    "torch_eager": _Entry("torch_eager.TorchEager", ("torch",), "torch"),
    "torch_compile": _Entry("torch_compile.TorchCompile", ("torch",), "torch"),
    "onnxruntime": _Entry("onnxruntime.OnnxRuntime", ("onnxruntime", "onnx"), "onnxruntime"),
    "openvino": _Entry("openvino.OpenVino", ("openvino", "onnx"), "openvino"),
    "litert": _Entry("litert.LiteRt", ("ai_edge_litert", "flatbuffers"), "ai-edge-litert"),
    "ncnn": _Entry("ncnn.Ncnn", ("ncnn",), "ncnn"),
    "executorch": _Entry("executorch.ExecuTorch", ("executorch", "flatbuffers"), "executorch"),
    "tensorrt": _Entry("tensorrt.TensorRt", ("tensorrt", "onnx"), "tensorrt"),
}

RUNTIMES: tuple[str, ...] = tuple(_RUNTIMES)
"""Names of the runtimes that can be measured where their package is installed."""


def open_backend(name: str, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> Backend:
    """A runtime of this machine, ready to build networks.

    Args:
        name: one of `RUNTIMES`.
        threads: that a network computes with.
        dtype: that it computes in.
        processor: 'cpu', or 'cuda' for the runtimes that have it.

    Raises:
        MissingRuntimeError: its package is not installed.
        ValueError: no such runtime, or it cannot compute so.
    """
    if name not in _RUNTIMES:
        raise ValueError(f"unknown runtime {name!r}; those that can be measured are {list(RUNTIMES)}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    entry = _RUNTIMES[name]
    for module in entry.needs:
        try:
            import_module(module)
        except ImportError as error:
            package = entry.package if module == entry.needs[0] else module
            raise MissingRuntimeError(
                f"runtime {name!r} needs {module!r}, which cannot be imported ({error}); "
                f"`pip install {package}` brings it"
            ) from None
    module_name, _, class_name = entry.path.rpartition(".")
    backend: Backend = getattr(import_module(f"predictors.measure.runtimes.{module_name}"), class_name)(
        threads=threads, dtype=dtype, processor=processor
    )
    return backend


def queues(backend: Backend) -> bool:
    """Whether the host issues kernels ahead of the device, so that a network takes the longer time of the two.

    Its networks then are `QueuedNetwork`, and its profiles give the device's own seconds.
    """
    return backend.options.get("processor") == "cuda" and backend.name.startswith("torch")


def check_choice(runtime: str, what: str, found: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless a backend knows the dtype or processor that it is asked for."""
    if found not in allowed:
        raise ValueError(f"runtime {runtime!r} has no {what} {found!r}; it has {list(allowed)}")
