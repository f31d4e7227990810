"""ncnn on a CPU: it computes a blob when it is asked for, so asking for one after the other times each layer."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import Option, Step, check_choice
from predictors.measure.ncnn_model import ncnn_files
from predictors.measure.values import given_value


class Ncnn:
    """ncnn in float32 with its default kernels and its light mode, in which a blob is freed once it was read."""

    name = "ncnn"
    version: str = ncnn.__version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice(self.name, "dtype", dtype, ["float32"])
        check_choice(self.name, "processor", processor, ["cpu"])
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {
            "lightmode": True,
            "use_packing_layout": True,
            "use_winograd_convolution": True,
            "use_sgemm_convolution": True,
            "use_fp16_packed": False,
            "use_fp16_storage": False,
            "use_fp16_arithmetic": False,
            "use_bf16_storage": False,
            "use_vulkan_compute": False,
        }

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self.threads, self.options)

    def profile(self, graph: Graph) -> "_TimedRun":
        return _TimedRun(_Run(graph, self.threads, self.options))


# ------------------------------------------------------------------------------------------------------------ private

_AS_IT_IS = 1  # an extracted blob is not unpacked or converted
_NUM_EMPTY_CALLS = 11  # the first may still share a blob between its readers


class _Run:
    def __init__(self, graph: Graph, threads: int, options: Mapping[str, Option]) -> None:
        files = ncnn_files(graph)
        self.graph = graph
        self.threads = threads
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for name, value in options.items():
            setattr(self._net.opt, name, value)
        self._load(files.param, files.weights)
        number = {blob.name: index for index, blob in enumerate(self._net.blobs())}
        self.output_blobs = [number[blob] for blob in files.outputs]
        self.steps = [(step, number[blob]) for step, blob in files.steps]
        self._inputs = [(number[blob], _mat(given_value(graph, index)[0])) for index, blob in files.inputs.items()]

    def run(self) -> None:
        self._extracted()

    def outputs(self) -> list[NDArray[np.float32]]:
        return [
            np.array(mat).reshape(self.graph.nodes[index].operator.output_shape)
            for mat, index in zip(self._extracted(), self.graph.outputs)
        ]

    def extractor(self) -> Any:
        """One that has its inputs. As a context it frees all blobs at its end: none may outlive its allocator."""
        extractor = self._net.create_extractor()
        for blob, mat in self._inputs:
            extractor.input(blob, mat)
        return extractor

    def _extracted(self) -> list[Any]:
        found = []
        with self.extractor() as extractor:
            for blob in self.output_blobs:
                status, mat = extractor.extract(blob)
                if status != 0:
                    raise RuntimeError(f"ncnn could not run {self.graph.name or 'the graph'}: it returned {status}")
                found.append(mat)
        return found

    def _load(self, param: str, weights: bytes) -> None:
        """Through files: ncnn's Python takes text in memory, but no bytes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.bin"
            path.write_bytes(weights)
            if self._net.load_param_mem(param) != 0 or self._net.load_model(str(path)) != 0:
                raise RuntimeError(f"ncnn could not load what was written for it:\n{param}")


def _mat(values: NDArray[np.float32]) -> Any:
    """A copy: a Mat of an array neither keeps it alive nor counts references, so layers that work in place would
    overwrite it."""
    return ncnn.Mat(values).clone()


class _TimedRun:
    """Extracts one blob after the other, in the order in which ncnn computes them, and drops it at once: it must not be
    shared when the next layer works in place. The time of calls that compute nothing is taken off.

    On one thread it reads the thread's CPU time, on several wall time.
    """

    def __init__(self, network: _Run) -> None:
        self._network = network
        self._now = time.thread_time if network.threads == 1 else time.perf_counter
        # With an allocator of our own, of the kind that a net has, extracting a blob does not copy it.
        self._allocator = ncnn.PoolAllocator()
        self._blobs = [blob for _, blob in network.steps] + [network.output_blobs[-1]] * _NUM_EMPTY_CALLS
        self._seconds: list[NDArray[np.float64]] = []

    def run(self) -> None:
        now = self._now
        with self._network.extractor() as extractor:
            extractor.set_blob_allocator(self._allocator)
            times = [now()]
            for blob in self._blobs:
                extractor.extract(blob, _AS_IT_IS)
                times.append(now())
        self._seconds.append(np.diff(times))

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        steps = tuple(step for step, _ in self._network.steps)
        seconds_RC = np.array(self._seconds).reshape(len(self._seconds), len(self._blobs))
        empty_R1 = np.median(seconds_RC[:, len(steps) + 1 :], axis=1, keepdims=True)
        seconds_RS: NDArray[np.float64] = np.maximum(seconds_RC[:, : len(steps)] - empty_R1, 0.0)
        return steps, seconds_RS
