"""Operators, and graphs of them, as something that PyTorch eager runs.

Kernels are called as modules, since networks call them so: the call is part of what a kernel costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from predictors.graph import Graph
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Elementwise,
    Input,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Softmax,
    View,
)

Layer = Callable[..., Tensor]


class NoTorchKernelError(ValueError):
    """An operator that cannot be run in PyTorch from its record alone; it stays unmeasured."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: what it calls, which values it reads and writes, and which nobody reads after it."""

    layer: Layer
    sources: tuple[int, ...]
    target: int
    dead: tuple[int, ...]


class TorchNetwork:
    """A graph that PyTorch eager runs in float32 and torch's default memory format, on random weights and inputs.

    As in a module's forward, tensors are freed once the last node that reads them has run: memory that is written
    anew, and caches that other nodes have filled, are part of what a kernel costs.

    Raises:
        NoTorchKernelError: an operator of the graph cannot be built.
    """

    def __init__(self, graph: Graph) -> None:
        last_use = {source: index for index, node in enumerate(graph.nodes) for source in node.inputs}
        self._steps: list[_Step] = []
        self._given: list[Tensor | None] = [None] * len(graph.nodes)
        for index, node in enumerate(graph.nodes):
            if isinstance(node.operator, Input | Constant):
                self._given[index] = torch.rand(node.operator.output_shape) - 0.5
                continue
            dead = {source for source in node.inputs if last_use[source] == index} - set(graph.outputs)
            if index not in last_use and index not in graph.outputs:
                dead.add(index)
            self._steps.append(_Step(build_layer(node.operator), node.inputs, index, tuple(dead)))

    @property
    def nodes(self) -> tuple[int, ...]:
        """Indices of the graph's nodes that run, in order."""
        return tuple(step.target for step in self._steps)

    def run(self, now: Callable[[], float]) -> list[float]:
        """Run once; the time before the first node and after each, as `now` reads it."""
        values: list[Any] = list(self._given)
        times = [now()]
        for step in self._steps:
            values[step.target] = step.layer(*[values[source] for source in step.sources])
            for index in step.dead:
                values[index] = None
            times.append(now())
        return times


def build_layer(operator: Operator) -> Layer:
    """A callable from the operator's inputs to its output.

    Raises:
        NoTorchKernelError: it cannot be built.
    """
    builder = _BUILDERS.get(type(operator))
    layer = builder(operator) if builder else None
    if layer is None:
        raise NoTorchKernelError(f"{operator.text} has no PyTorch kernel here, so it cannot be measured")
    return layer.eval() if isinstance(layer, nn.Module) else layer


# ------------------------------------------------------------------------------------------------------------ private


class _Call(nn.Module):
    """A function called as a module."""

    def __init__(self, function: Layer, **arguments: Any) -> None:
        super().__init__()
        self._function = function
        self._arguments = arguments

    def forward(self, *x: Tensor) -> Tensor:
        return self._function(*x, **self._arguments)


def _convolution(module: Callable[..., Layer], operator: Conv2d | ConvTranspose2d, **further: Any) -> Layer:
    return module(
        operator.in_channels, operator.out_channels, operator.kernel, operator.stride, operator.padding,
        dilation=operator.dilation, groups=operator.groups, bias=operator.bias, **further,
    )  # fmt: skip


def _normalization(operator: Normalization) -> Layer | None:
    affine = operator.affine_params > 0
    if operator.method == "batch_norm" and len(operator.shape) == 4:
        return nn.BatchNorm2d(operator.shape[1], affine=affine)
    if operator.method == "layer_norm" and operator.affine_params in (0, 2 * operator.shape[-1]):
        return nn.LayerNorm(operator.shape[-1], elementwise_affine=affine)
    return None


def _pool(operator: Pool2d) -> Layer | None:
    window = {
        "kernel_size": operator.kernel, "stride": operator.stride, "padding": operator.padding,
        "ceil_mode": operator.ceil_mode,
    }  # fmt: skip
    if operator.method == "max":
        return nn.MaxPool2d(**window, dilation=operator.dilation)  # type: ignore[arg-type]
    return nn.AvgPool2d(**window)  # type: ignore[arg-type]


def _reduce(operator: Reduce) -> Layer | None:
    function = _REDUCTIONS.get(operator.method)
    return function and _Call(function, dim=operator.axes, keepdim=operator.keepdim)


def _resize(operator: Resize) -> Layer:
    return nn.Upsample(operator.size, mode=operator.method)


_ACTIVATIONS: dict[str, Layer] = {
    **{
        name: getattr(functional, name)
        for name in (
            "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6",
            "selu", "sigmoid", "silu", "softplus", "tanh",
        )
    },
    **{
        name: getattr(torch, name)
        for name in ("abs", "cos", "erf", "exp", "neg", "reciprocal", "round", "sign", "sin", "square")
    },
}  # fmt: skip

_REDUCTIONS: dict[str, Layer] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin}

_ELEMENTWISE: dict[str, Layer] = {
    name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")
}


def _activation(operator: Activation) -> Layer | None:
    function = _ACTIVATIONS.get(operator.function)
    return function and _Call(function)


def _elementwise(operator: Elementwise) -> Layer | None:
    function = _ELEMENTWISE.get(operator.function)
    if function is None or len(operator.shapes) > 2:
        return None
    return function if len(operator.shapes) == 2 else lambda x: function(x, 1.5)


_BUILDERS: dict[type[Operator], Callable[[Any], Layer | None]] = {
    Conv2d: lambda operator: _convolution(nn.Conv2d, operator),
    ConvTranspose2d: lambda operator: _convolution(
        nn.ConvTranspose2d, operator, output_padding=operator.output_padding
    ),
    Linear: lambda operator: nn.Linear(operator.in_features, operator.out_features, bias=operator.bias),
    MatMul: lambda operator: torch.matmul,
    Attention: lambda operator: functional.scaled_dot_product_attention if operator.mask is None else None,
    Activation: _activation,
    Softmax: lambda operator: nn.Softmax(dim=-1),
    Normalization: _normalization,
    Pool2d: _pool,
    AdaptivePool2d: lambda operator: (
        nn.AdaptiveAvgPool2d(operator.size) if operator.method == "avg" else nn.AdaptiveMaxPool2d(operator.size)
    ),
    Reduce: _reduce,
    Resize: _resize,
    Elementwise: _elementwise,
    Concat: lambda operator: lambda *tensors: torch.cat(tensors, operator.axis),
    View: lambda operator: (lambda x: x.reshape(operator.to)) if prod(operator.to) == prod(operator.shape) else None,
}
