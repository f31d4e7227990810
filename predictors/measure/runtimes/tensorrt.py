"""TensorRT 10 or newer, timed by its profiler; needs a CUDA device."""

import json
from collections.abc import Mapping

import numpy as np
import tensorrt
import torch
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Option, Step, check_choice
from predictors.measure.onnx_model import onnx_bytes, steps_of, tensor_name
from predictors.measure.values import given_value, input_indices

_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16}


class TensorRt:
    """An engine of fixed shapes whose types are those of the network: TensorRT chooses kernels, never a precision.

    Raises:
        ValueError: there is no CUDA device.
    """

    name = "tensorrt"
    version: str = tensorrt.__version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cuda") -> None:
        check_choice(self.name, "dtype", dtype, list(_DTYPES))
        check_choice(self.name, "processor", processor, ["cuda"])
        if not torch.cuda.is_available():
            raise ValueError("runtime 'tensorrt' needs a CUDA device, and torch finds none")
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"processor": processor}

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self.dtype)

    def profile(self, graph: Graph) -> "_ProfiledRun":
        return _ProfiledRun(graph, self.dtype)


# ------------------------------------------------------------------------------------------------------------ private

_LOGGER = tensorrt.Logger(tensorrt.Logger.ERROR)


def _build(graph: Graph, dtype: str) -> bytes:
    builder = tensorrt.Builder(_LOGGER)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, _LOGGER)
    kinds = ", ".join(dict.fromkeys(node.operator.kind for node in graph.nodes))
    if not parser.parse(onnx_bytes(graph, dtype="float16" if dtype == "float16" else "float32")):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise NoKernelError(f"TensorRT does not read a network of {kinds}: {errors}")
    config = builder.create_builder_config()
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    (config.set_flag if dtype == "tf32" else config.clear_flag)(tensorrt.BuilderFlag.TF32)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise NoKernelError(f"TensorRT builds no engine from a network of {kinds}")
    return bytes(engine)


class _Run:
    """An engine with its inputs and outputs on the device."""

    def __init__(self, graph: Graph, dtype: str) -> None:
        number = _DTYPES[dtype]
        self._runtime = tensorrt.Runtime(_LOGGER)
        self.engine = self._runtime.deserialize_cuda_engine(_build(graph, dtype))
        self.context = self.engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        inputs = {index: torch.from_numpy(given_value(graph, index)) for index in input_indices(graph)}
        outputs = {index: torch.empty(graph.nodes[index].operator.output_shape) for index in graph.outputs}
        self._tensors = {index: tensor.to("cuda", number) for index, tensor in (inputs | outputs).items()}
        for index, tensor in self._tensors.items():
            self.context.set_tensor_address(tensor_name(index), tensor.data_ptr())
        self._outputs = graph.outputs
        torch.cuda.synchronize()  # the inputs are copied on another stream

    def run(self) -> None:
        if not self.context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT could not run the engine")
        self._stream.synchronize()

    def outputs(self) -> list[NDArray[np.float32]]:
        self.run()
        return [self._tensors[index].float().cpu().numpy() for index in self._outputs]


class _LayerTimes(tensorrt.IProfiler):  # type: ignore[misc]
    """Keeps what the profiler reports after a run: layers in the order of execution and their milliseconds."""

    def __init__(self) -> None:
        tensorrt.IProfiler.__init__(self)
        self.layers: list[tuple[str, float]] = []

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.layers.append((layer_name, ms))


class _ProfiledRun:
    def __init__(self, graph: Graph, dtype: str) -> None:
        self._graph = graph
        self._network = _Run(graph, dtype)
        self._times = _LayerTimes()
        self._network.context.profiler = self._times
        self._runs: list[list[tuple[str, float]]] = []

    def run(self) -> None:
        self._times.layers = []
        self._network.run()
        self._runs.append(self._times.layers)

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        layers = [name for name, _ in self._runs[0]] if self._runs else []
        assert all([name for name, _ in run] == layers for run in self._runs)
        names = _onnx_names(self._network.engine)
        seconds_RL = np.array([[milliseconds for _, milliseconds in run] for run in self._runs]) * 1e-3
        return steps_of(
            self._graph,
            [(layer, names.get(layer, layer)) for layer in layers],
            seconds_RL.reshape(len(self._runs), len(layers)),
        )


def _onnx_names(engine: tensorrt.ICudaEngine) -> dict[str, str]:
    """What says the ONNX nodes in each layer: its metadata, which alone names those of a Myelin kernel, or else its own
    name, such as 'n1_conv2d + n3_activation'. A layer that changes a layout is called after the layer that wants it.
    """
    information = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    return {
        layer["Name"]: "" if layer["Name"].startswith("Reformatting") else layer.get("Metadata") or layer["Name"]
        for layer in json.loads(information)["Layers"]
    }
