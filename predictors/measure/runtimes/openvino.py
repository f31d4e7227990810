"""OpenVINO on a CPU, timed by its performance counters."""

from collections.abc import Mapping

import numpy as np
import openvino
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Option, Step, check_choice
from predictors.measure.onnx_model import NODE_NAME, onnx_bytes, steps_of, tensor_name
from predictors.measure.values import given_value, input_indices

_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_HARDWARE = {"bfloat16": "BF16", "float16": "FP16"}
_RUNS_OF_A_COMPILATION = 5
_LAUNCH_NOTHING = ("Input", "Const", "Output", "Reshape", "Reorder")
"""Types of layers that may cost nothing: these count where a time was seen, all others always (OpenVINO says
'not_executed' of a layer that was done within its first microsecond)."""


class OpenVino:
    """OpenVINO's CPU plugin with one stream: the latency of one request at a time."""

    name = "openvino"
    version: str = openvino.__version__.partition("-")[0]

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice(self.name, "processor", processor, ["cpu"])
        self._core = openvino.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        usable = [each for each in _DTYPES if each == "float32" or _HARDWARE[each] in capabilities]
        check_choice(self.name, "dtype", dtype, usable)
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"processor": processor, "streams": 1}

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self.compiled(self._read(graph), profiled=False))

    def profile(self, graph: Graph) -> "_ProfiledRun":
        return _ProfiledRun(graph, self, self._read(graph))

    def _read(self, graph: Graph) -> openvino.Model:
        return self._core.read_model(onnx_bytes(graph))

    def compiled(self, model: openvino.Model, *, profiled: bool) -> openvino.CompiledModel:
        """The model as this backend runs it."""
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": _DTYPES[self.dtype],
            "PERF_COUNT": profiled,
        }
        try:
            return self._core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            kinds = ", ".join(dict.fromkeys(op.get_type_name() for op in model.get_ordered_ops()))
            raise NoKernelError(f"OpenVINO cannot compile a network of {kinds}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ private


class _Run:
    """One request with its inputs in it; a blocking call computes on the caller's thread."""

    def __init__(self, graph: Graph, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        for index in input_indices(graph):
            self._request.set_tensor(tensor_name(index), openvino.Tensor(given_value(graph, index)))
        self._outputs = graph.outputs

    def run(self) -> None:
        self._request.infer(share_outputs=True)  # without it they are copied

    def outputs(self) -> list[NDArray[np.float32]]:
        self.run()
        return [self._request.get_tensor(tensor_name(index)).data.copy() for index in self._outputs]


class _ProfiledRun:
    """Counters cannot be reset and give the mean of all runs since the compilation, the slow first one among them, cut
    to whole microseconds: the sum of n runs is known to n microseconds. So the model is compiled anew every few runs,
    the first run is read alone and left out, and the runs after it all get their mean, known to about a microsecond.
    """

    def __init__(self, graph: Graph, backend: OpenVino, model: openvino.Model) -> None:
        self._graph = graph
        self._backend = backend
        self._model = model
        self._rows: list[NDArray[np.float64]] = []  # seconds of the executed model's nodes
        self._compile()
        self._nodes = self._compiled_nodes()
        types = [_said(op, "layerType") for op in _in_order(self._compiled)]
        self._has_run_L = (self._first_L > 0) | ~np.isin(types, _LAUNCH_NOTHING)

    def run(self) -> None:
        if self._num_runs == _RUNS_OF_A_COMPILATION:
            self._close()
            self._compile()
        self._network.run()
        self._num_runs += 1

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        self._close()
        seconds_RL = np.array(self._rows).reshape(len(self._rows), len(self._nodes))[:, self._has_run_L]
        launches = [node for node, has_run in zip(self._nodes, self._has_run_L) if has_run]
        return steps_of(self._graph, launches, seconds_RL)

    def _compile(self) -> None:
        self._compiled = self._backend.compiled(self._model, profiled=True)
        self._network = _Run(self._graph, self._compiled)
        self._network.run()
        self._num_runs = 0
        self._first_L = self._mean_microseconds()

    def _close(self) -> None:
        if not self._num_runs:
            return
        found = [NODE_NAME.findall(names) for _, names in self._compiled_nodes()]
        if found != [NODE_NAME.findall(names) for _, names in self._nodes]:
            raise ValueError(f"OpenVINO compiled {self._graph.name!r} in two ways, so its runs cannot be compared")
        mean_L = self._mean_microseconds()
        self._has_run_L |= mean_L > 0
        # Durations are cut and their mean again: half a microsecond for either keeps the expectation. What never took
        # a whole one was cut once.
        total_L = (self._num_runs + 1) * mean_L - self._first_L
        mean_us_L = np.where(mean_L > 0, total_L / self._num_runs + 1.0, 0.5)
        self._rows += [mean_us_L * 1e-6] * self._num_runs

    def _compiled_nodes(self) -> list[tuple[str, str]]:
        """Of each node of the executed model its name and those of the ONNX nodes in it."""
        return [(op.get_friendly_name(), _onnx_names(op)) for op in _in_order(self._compiled)]

    def _mean_microseconds(self) -> NDArray[np.float64]:
        times = [_said(op, "execTimeMcs") for op in _in_order(self._compiled)]
        return np.array([0 if each == "not_executed" else int(each) for each in times], dtype=np.float64)


def _in_order(compiled: openvino.CompiledModel) -> list[openvino.Node]:
    return sorted(compiled.get_runtime_model().get_ops(), key=lambda op: int(_said(op, "execOrder")))


def _onnx_names(op: openvino.Node) -> str:
    """Names of the ONNX nodes in a node of the executed model; those of its reader where it is a part without a name,
    such as the MVN of a layer norm.
    """
    names = _said(op, "originalLayersNames")
    if NODE_NAME.search(names) or _said(op, "layerType") == "Reorder" or not op.outputs():
        return names
    return _onnx_names(next(iter(op.output(0).get_target_inputs())).get_node())


def _said(op: openvino.Node, key: str) -> str:
    text: str = op.get_rt_info()[key].astype(str)
    return text
