"""What one kernel costs whatever the clock says: multiply-accumulates and bytes moved; and a network's peak memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from predictors.fusion import Kernel, KernelNode
from predictors.graph import Graph
from predictors.operators import Conv2d, ConvTranspose2d, Linear, Normalization, Shape, padded_shape

BYTES_PER_ELEMENT = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Work of a kernel or a network as executed: after fusion, after channel padding, in its dtype. Costs add up."""

    macs: int = 0
    read_bytes: int = 0
    weight_bytes: int = 0
    write_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            macs=self.macs + other.macs,
            read_bytes=self.read_bytes + other.read_bytes,
            weight_bytes=self.weight_bytes + other.weight_bytes,
            write_bytes=self.write_bytes + other.write_bytes,
        )

    @property
    def flops(self) -> int:
        """2 * macs: a multiplication and an addition each."""
        return 2 * self.macs

    @property
    def traffic_bytes(self) -> int:
        """Bytes that must move: inputs once, weights once, outputs once."""
        return self.read_bytes + self.weight_bytes + self.write_bytes

    @property
    def arithmetic_intensity(self) -> float:
        """flops / traffic_bytes, in FLOP per byte; 0 where nothing moves."""
        return self.flops / self.traffic_bytes if self.traffic_bytes else 0.0


def bytes_per_element(dtype: str) -> int:
    """Size of one element.

    Raises:
        ValueError: the dtype is not one of `BYTES_PER_ELEMENT`.
    """
    if dtype not in BYTES_PER_ELEMENT:
        raise ValueError(f"unknown dtype {dtype!r}; known are {sorted(BYTES_PER_ELEMENT)}")
    return BYTES_PER_ELEMENT[dtype]


@lru_cache(maxsize=1 << 16)
def kernel_cost(kernel: Kernel, channel_alignment: int = 1) -> Cost:
    """Cost of one launch.

    traffic = inputs of the anchor + further inputs of what is fused + weights + output of the last operator. A
    batch_norm fused into a convolution or linear layer folds into its weights: no macs, one bias for each channel.

    The anchor's inputs and all weights have the kernel's dtype; the output, and what is added to it, the one it writes.
    """
    size, write_size = bytes_per_element(kernel.dtype), bytes_per_element(kernel.written_dtype)
    anchor = kernel.anchor.padded(channel_alignment)
    macs, held, written = anchor.macs, anchor.held_elements, anchor.write_elements
    beside = 0
    for operator in kernel.fused:
        follower = operator.padded(channel_alignment)
        beside += follower.read_elements - follower.write_elements  # what the kernel computed has the output's shape
        if _folds(kernel, operator):
            held += 0 if anchor.bias else anchor.output_shape[1]  # type: ignore[attr-defined]
        else:
            macs += follower.macs
            held += follower.held_elements
        written = follower.write_elements
    return Cost(
        macs=macs,
        read_bytes=anchor.read_elements * size + beside * write_size,
        weight_bytes=held * size,
        write_bytes=written * write_size,
    )


def peak_memory_bytes(graph: Graph, kernels: Sequence[KernelNode], dtype: str, channel_alignment: int = 1) -> int:
    """All weights plus the largest sum of activations alive while one kernel runs, in bytes."""
    weights = sum([kernel_cost(node.kernel, channel_alignment).weight_bytes for node in kernels])
    return weights + peak_activation_bytes(graph, kernels, dtype, channel_alignment)


def peak_activation_bytes(graph: Graph, kernels: Sequence[KernelNode], dtype: str, channel_alignment: int = 1) -> int:
    """The largest sum of activations alive while one kernel runs, in bytes; see `live_activation_bytes`."""
    return max(live_activation_bytes(graph, kernels, dtype, channel_alignment))


def live_activation_bytes(
    graph: Graph, kernels: Sequence[KernelNode], dtype: str, channel_alignment: int = 1
) -> list[int]:
    """Bytes of the activations that are alive before anything runs, and then while each kernel runs.

    A tensor lives from the kernel that writes it (an input of the network from the start) to the last kernel that
    reads it (an output to the end). While a kernel runs its inputs and its output are alive together.

    Args:
        dtype: of the network's inputs and constants that say none.
    """
    nodes = graph.nodes
    last_use = {origin: step for step, node in enumerate(kernels) for origin in node.inputs}
    sizes = {}
    for node in kernels:
        index = node.nodes[-1]
        shape = nodes[index].operator.output_shape
        sizes[index] = _padded_bytes(shape, channel_alignment, node.kernel.written_dtype)
    for index in graph.outputs:
        while index not in sizes and nodes[index].inputs:
            index = nodes[index].inputs[0]
        last_use[index] = len(kernels)

    ends = [0] * (len(kernels) + 1)  # bytes that are read for the last time by each kernel
    alive = 0
    for origin, step in last_use.items():
        if (size := sizes.get(origin)) is None:
            start = nodes[origin]
            size = _padded_bytes(start.operator.output_shape, channel_alignment, start.written_dtype or dtype)
            alive += size
        ends[step] += size
    live = [alive]
    for (index, size), end in zip(sizes.items(), ends):
        alive += size
        live.append(alive)
        alive -= end
        if index not in last_use:
            alive -= size
    return live


@lru_cache(maxsize=1 << 16)
def _padded_bytes(shape: Shape, alignment: int, dtype: str) -> int:
    return prod(padded_shape(shape, alignment)) * bytes_per_element(dtype)


def _folds(kernel: Kernel, operator: object) -> bool:
    return (
        isinstance(operator, Normalization)
        and operator.method == "batch_norm"
        and operator is kernel.fused[0]
        and isinstance(kernel.anchor, Conv2d | ConvTranspose2d | Linear)
    )
