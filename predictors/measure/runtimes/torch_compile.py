"""torch.compile with Inductor: C++ and oneDNN kernels on a CPU, Triton's and cuDNN's with CUDA."""

import warnings
from collections.abc import Mapping
from types import FunctionType

import numpy as np
import torch
import torch._inductor.config
from numpy.typing import NDArray
from torch import Tensor

from predictors.graph import Graph
from predictors.measure.backend import Option, check_choice
from predictors.measure.runtimes.torch_eager import DTYPES
from predictors.measure.torch_layers import GraphModule
from predictors.measure.values import given_value, input_indices


class TorchCompile:
    """torch.compile of whole graphs. Sets torch's number of threads.

    Weights are frozen on a CPU: without that Inductor neither folds batch norm nor fuses into oneDNN's convolutions.
    With CUDA all is in channels last, as Inductor itself lays out convolutions: a kernel by itself then needs no change
    of layout either. What it fuses there differs, so that it has a name of its own.
    """

    version = torch.__version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice("torch_compile", "dtype", dtype, list(DTYPES) if processor == "cuda" else ["float32"])
        check_choice("torch_compile", "processor", processor, ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
        self.name = "torch_compile_cuda" if processor == "cuda" else "torch_compile"
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"processor": processor, "mode": "default", "freezing": processor == "cpu"}
        self._processor = processor
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, self._processor, DTYPES[self.dtype], freezing=bool(self.options["freezing"]))

    def profile(self, graph: Graph) -> None:
        """None: torch.profiler times Inductor's kernels, but nothing says which nodes a kernel runs. Freezing rewrites
        convolutions without keeping where they came from, a kernel's name lists operators that others run too, and
        kernels mix parts of operators: the bias of one linear layer with the activation after it.
        """
        _module(graph)


# ------------------------------------------------------------------------------------------------------------ private


class _Run:
    def __init__(self, graph: Graph, processor: str, dtype: torch.dtype, *, freezing: bool) -> None:
        self._processor = processor
        self._inputs = [torch.from_numpy(given_value(graph, i)).to(processor, dtype) for i in input_indices(graph)]
        module = _module(graph).to(processor, dtype)
        if processor == "cuda":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in the documentation of Module.to
            self._inputs = [_channels_last(each) for each in self._inputs]
        self._module = torch.compile(module, fullgraph=True, dynamic=False)
        with torch._inductor.config.patch(freezing=freezing), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
            self.run()  # compiles

    def run(self) -> None:
        self.launch()
        if self._processor == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def launch(self) -> None:
        self._module(*self._inputs)

    @torch.no_grad()
    def outputs(self) -> list[NDArray[np.float32]]:
        return [output.float().cpu().numpy() for output in self._module(*self._inputs)]


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _module(graph: Graph) -> GraphModule:
    """A module whose forward has code of its own: compiled graphs are kept, looked through and limited by code."""
    shared = GraphModule.forward
    forward = FunctionType(shared.__code__.replace(), shared.__globals__, shared.__name__)
    made: GraphModule = type("OwnGraphModule", (GraphModule,), {"forward": forward})(graph)
    return made.eval()
