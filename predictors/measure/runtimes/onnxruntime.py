"""ONNX Runtime, timed by its own profiler."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import Option, Step, check_choice
from predictors.measure.onnx_model import onnx_bytes, steps_of, tensor_name
from predictors.measure.values import given_value, input_indices

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {"cpu": ["float32"], "cuda": ["float32", "tf32"]}


class OnnxRuntime:
    """ONNX Runtime with all graph optimisations, on a CPU or with CUDA."""

    name = "onnxruntime"
    version: str = onnxruntime.__version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        providers = onnxruntime.get_available_providers()
        check_choice(self.name, "processor", processor, [each for each in _PROVIDERS if _PROVIDERS[each] in providers])
        check_choice(self.name, "dtype", dtype, _DTYPES[processor])
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"processor": processor, "spinning": False}
        self._processor = processor

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self._session(onnx_bytes(graph, spelt_out=True), self._options()), self._processor)

    def profile(self, graph: Graph) -> "_ProfiledRun":
        model = onnx_bytes(graph, spelt_out=True)
        folder = TemporaryDirectory(prefix="onnxruntime_profile_")
        options = self._options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder.name) / "profile")
        options.optimized_model_filepath = str(Path(folder.name) / "optimised.onnx")
        session = self._session(model, options)
        names = _node_names(graph, onnx.load(options.optimized_model_filepath))
        return _ProfiledRun(graph, _Run(graph, session, self._processor), session, names, folder)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; that a saved model fits this processor only is no news
        return options

    def _session(self, model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        provider_options = {"use_tf32": str(int(self.dtype == "tf32"))} if self._processor == "cuda" else {}
        return onnxruntime.InferenceSession(model, options, providers=[(_PROVIDERS[self._processor], provider_options)])


# ------------------------------------------------------------------------------------------------------------ private


class _Run:
    """Inputs and outputs keep their memory, so that a run allocates and copies nothing outside the network."""

    def __init__(self, graph: Graph, session: onnxruntime.InferenceSession, processor: str) -> None:
        self._session = session
        self._binding = session.io_binding()
        for index in input_indices(graph):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(given_value(graph, index), processor)
            self._binding.bind_ortvalue_input(tensor_name(index), value)
        self._outputs = {
            index: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                graph.nodes[index].operator.output_shape, np.float32, processor
            )
            for index in graph.outputs
        }
        for index, value in self._outputs.items():
            self._binding.bind_ortvalue_output(tensor_name(index), value)
        self._order = graph.outputs

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> list[NDArray[np.float32]]:
        self.run()
        return [self._outputs[index].numpy() for index in self._order]


class _ProfiledRun:
    """Reads the trace that the profiler writes: events of a run's nodes as they end, then one of the run."""

    def __init__(
        self,
        graph: Graph,
        network: _Run,
        session: onnxruntime.InferenceSession,
        names: Mapping[str, str],
        folder: "TemporaryDirectory[str]",
    ) -> None:
        self._graph = graph
        self._network = network
        self._session = session
        self._names = names
        self._folder = folder
        self._num_runs = 0

    def run(self) -> None:
        self._network.run()
        self._num_runs += 1

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        with self._folder:
            runs = _split_runs(json.loads(Path(self._session.end_profiling()).read_text()))
        if len(runs) != self._num_runs:
            raise ValueError(
                f"ONNX Runtime's profile has {len(runs)} of {self._num_runs} runs; it keeps 1 million events"
            )
        launches = [(name, self._names.get(name, "")) for name, _ in runs[0]] if runs else []
        # Durations are cut to whole microseconds: half of one more keeps their mean.
        seconds_RL = np.array([[microseconds + 0.5 for _, microseconds in run] for run in runs]) * 1e-6
        return steps_of(self._graph, launches, seconds_RL.reshape(len(runs), len(launches)))


def _split_runs(events: list[dict[str, Any]]) -> list[list[tuple[str, int]]]:
    """Nodes and their microseconds in each run."""
    suffix = "_kernel_time"
    runs: list[list[tuple[str, int]]] = []
    run: list[tuple[str, int]] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(suffix):
            run.append((event["name"].removesuffix(suffix), event["dur"]))
        elif event["name"] == "model_run":
            runs.append(run)
            run = []
    return runs


def _node_names(graph: Graph, optimised: onnx.ModelProto) -> dict[str, str]:
    """Names of the written nodes in each node of the optimised model: in its own name, and all between the tensors that
    it reads and writes, where those still have their names. Blocked layouts have others."""
    initializers = {tensor.name for tensor in optimised.graph.initializer}
    found = {}
    for node in optimised.graph.node:
        if node.op_type in ("ReorderInput", "ReorderOutput"):
            continue
        reads = [name for name in node.input if name and name not in initializers]
        inner = {int(match[1]) for name in node.output if (match := _TENSOR.fullmatch(name))}
        if all(_TENSOR.fullmatch(name) for name in reads):
            pending = list(inner)
            while pending:
                sources = graph.nodes[pending.pop()].inputs
                further = [
                    index
                    for index in sources
                    if graph.nodes[index].inputs and tensor_name(index) not in reads and index not in inner
                ]
                inner.update(further)
                pending += further
        found[node.name] = " ".join([node.name, *map(tensor_name, sorted(inner))])
    return found


_TENSOR = re.compile(r"n(\d+)")
