"""What the experiments run beside a runtime's own networks: chains of mixed precision, passes over memory, GPUs."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nas.studies.claims.experiments import ACCUMULATE, COPY
from predictors.graph import Graph
from predictors.measure.runtimes.torch_eager import DTYPES
from predictors.measure.torch_layers import GraphModule
from predictors.measure.values import given_value, input_indices, weights_of
from predictors.operators import Conv2d


@runtime_checkable
class Launchable(Protocol):
    """Something that can be issued to a GPU without waiting for its end, and run."""

    def launch(self) -> object: ...
    def run(self) -> object: ...


class Called:
    """A function of torch, without gradients."""

    def __init__(self, function: Callable[[], object], processor: str) -> None:
        self._function = function
        self._on_gpu = processor == "cuda"

    @torch.no_grad()
    def launch(self) -> None:
        self._function()

    def run(self) -> None:
        self.launch()
        if self._on_gpu:
            torch.cuda.synchronize()


def eager_on_gpu(graph: Graph, dtype: str) -> Called:
    """A graph in PyTorch eager on a GPU in channels last, the layout that its convolutions are made for."""
    module = GraphModule(graph).eval().to("cuda", DTYPES[dtype])
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in the documentation of Module.to
    inputs = [
        _in_layout(torch.from_numpy(given_value(graph, i)).to("cuda", DTYPES[dtype])) for i in input_indices(graph)
    ]

    def call() -> object:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        return module(*inputs)

    return Called(call, "cuda")


def mixed_chain(graph: Graph, dtypes: Sequence[str], processor: str) -> Called:
    """A chain of convolutions, each in a dtype of its own; data are converted where two differ.

    Args:
        dtypes: of each convolution; input and output have that of the first and the last.
    """
    layers: list[nn.Module] = []
    for index, (operator, dtype) in enumerate(zip(_convolutions(graph), dtypes, strict=True)):
        layer = nn.Conv2d(
            operator.in_channels, operator.out_channels, operator.kernel, operator.stride, operator.padding,
            groups=operator.groups,
        )  # fmt: skip
        layer.load_state_dict({name: torch.from_numpy(array) for name, array in weights_of(operator, index).items()})
        layers.append(layer.to(processor, DTYPES[dtype]).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    torch_dtypes = [DTYPES[dtype] for dtype in dtypes]
    x_BCHW = _in_layout(torch.from_numpy(given_value(graph, 0)).to(processor, torch_dtypes[0]))

    def call() -> object:
        y_BCHW = x_BCHW
        torch.backends.cudnn.allow_tf32 = False
        for layer, dtype in zip(layers, torch_dtypes):
            y_BCHW = layer(y_BCHW.to(dtype))
        return y_BCHW

    return Called(call, processor)


def passes(num_bytes: int, processor: str, dtype: str = "float32") -> dict[str, Called]:
    """Plain passes over two tensors of so many bytes each: one copied to the other, one added to the other."""
    number = DTYPES[dtype]
    count = num_bytes // number.itemsize
    from_N, to_N = (
        torch.zeros(count, dtype=number, device=processor),
        torch.zeros(count, dtype=number, device=processor),
    )
    return {
        COPY: Called(lambda: to_N.copy_(from_N), processor),
        ACCUMULATE: Called(lambda: to_N.add_(from_N), processor),
    }


def product(m: int, k: int, n: int, dtype: str, *, through_floats: bool = False) -> Called:
    """A matrix product on a GPU; in int8 its sums are int32, and with `through_floats` its input is quantised from
    float16 before it and its output made float16 after it."""
    if dtype == "int8":
        left_MK = torch.randint(-100, 100, (m, k), dtype=torch.int8, device="cuda")
        right_KN = torch.randint(-100, 100, (n, k), dtype=torch.int8, device="cuda").t()
        if not through_floats:
            return Called(lambda: torch._int_mm(left_MK, right_KN), "cuda")
        floats_MK = left_MK.half()

        def call() -> object:
            integers_MK = (floats_MK * 50.0).round().clamp(-127, 127).to(torch.int8)
            return torch._int_mm(integers_MK, right_KN).half() * 0.01

        return Called(call, "cuda")
    left = torch.rand(m, k, device="cuda").to(DTYPES[dtype])
    right = torch.rand(n, k, device="cuda").to(DTYPES[dtype]).t()

    def multiply() -> object:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        return left @ right

    return Called(multiply, "cuda")


# ------------------------------------------------------------------------------------------------------------ private


def _in_layout(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _convolutions(graph: Graph) -> list[Conv2d]:
    return [node.operator for node in graph.nodes if isinstance(node.operator, Conv2d)]
