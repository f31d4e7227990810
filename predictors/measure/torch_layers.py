"""Operators as PyTorch layers, called as modules, since networks call them so: the call is part of the cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from predictors.graph import Graph
from predictors.measure.backend import NoKernelError
from predictors.measure.values import given_value, input_indices, weights_of
from predictors.movement import Step, Steps
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
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


def build_layer(operator: Operator, seed: int = 0) -> Layer:
    """A callable from the operator's inputs to its output, with the weights of `values.weights_of`.

    Raises:
        NoKernelError: it cannot be built.
    """
    builder = _BUILDERS.get(type(operator))
    layer = builder(operator) if builder else None
    if layer is None:
        raise NoKernelError(f"{operator.text} has no PyTorch kernel here, so it cannot be measured")
    if not isinstance(layer, nn.Module):
        return layer
    if weights := weights_of(operator, seed):
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        layer.load_state_dict(tensors, strict=False)
    return layer.eval()


class GraphModule(nn.Module):
    """A graph as one module, for runtimes that take a module: its inputs in order to its outputs in order.

    Args:
        graph: what it computes.
        named: functions become modules too, so that the module stack of what is exported says 'node{index}'.

    Raises:
        NoKernelError: an operator of the graph cannot be built.
    """

    def __init__(self, graph: Graph, *, named: bool = False) -> None:
        super().__init__()
        self._graph = graph
        self._inputs = input_indices(graph)
        self._layers: dict[int, Layer] = {}
        for index, node in enumerate(graph.nodes):
            if isinstance(node.operator, Constant):
                self.register_buffer(f"constant{index}", torch.from_numpy(given_value(graph, index)))
            elif index not in self._inputs:
                layer = build_layer(node.operator, index)
                if named and not isinstance(layer, nn.Module):
                    layer = _Call(layer)
                self._layers[index] = layer
                if isinstance(layer, nn.Module):
                    self.add_module(f"node{index}", layer)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Tensor] = dict(zip(self._inputs, inputs))
        for index, node in enumerate(self._graph.nodes):
            if isinstance(node.operator, Constant):
                values[index] = getattr(self, f"constant{index}")
            elif index not in values:
                values[index] = self._layers[index](*[values[source] for source in node.inputs])
        return tuple(values[index] for index in self._graph.outputs)


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
    if len(operator.shapes) == 2:
        return function
    if len(operator.shapes) > 2 or function is None or operator.function in ("maximum", "minimum"):
        return None
    return lambda x: function(x, 1.5)


def _step(x: Tensor, step: Step) -> Tensor:
    name, *arguments = step
    if name == "slice":
        return x[tuple(slice(*each) for each in zip(*arguments))]
    if name == "pad":
        pads = [pad for both in zip(*arguments) for pad in both[::-1]]
        return functional.pad(x, pads[::-1])
    if name == "roll":
        return x.roll(arguments[0], tuple(range(x.dim())))
    return _STEPS[name](x, arguments[0])


_STEPS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "reshape": Tensor.reshape,
    "transpose": Tensor.permute,
    "expand": Tensor.expand,
    "flip": Tensor.flip,
    "repeat": Tensor.repeat,
}


def _view(operator: View) -> Layer | None:
    """As the data lie, where they lie as the graph says."""
    steps = operator.all_steps
    return None if steps is None else lambda x: _done(x, steps)


def _copy(operator: Copy) -> Layer | None:
    """Steps that give another shape alone come after the copy, which is one pass over the data."""
    steps, last = operator.steps, len(operator.steps)
    while last and steps[last - 1][0] == "reshape":
        last -= 1
    if not steps:
        return None
    if last and steps[last - 1][0] in ("pad", "flip", "roll", "repeat"):  # these write anew by themselves
        return lambda x: _done(x, steps)
    return lambda x: _done(_done(x, steps[:last]).clone(memory_format=torch.contiguous_format), steps[last:])


def _done(x: Tensor, steps: Steps) -> Tensor:
    for step in steps:
        x = _step(x, step)
    return x


_BUILDERS: dict[type[Operator], Callable[[Any], Layer | None]] = {
    Conv2d: lambda operator: _convolution(nn.Conv2d, operator),
    ConvTranspose2d: lambda operator: _convolution(
        nn.ConvTranspose2d, operator, output_padding=operator.output_padding
    ),
    Linear: lambda operator: nn.Linear(operator.in_features, operator.out_features, bias=operator.bias),
    MatMul: lambda operator: torch.matmul,
    Attention: lambda operator: (
        partial(functional.scaled_dot_product_attention, enable_gqa=True)
        if operator.key_heads
        else functional.scaled_dot_product_attention
    ),
    Activation: _activation,
    Softmax: lambda operator: nn.Softmax(dim=operator.axis),
    Normalization: _normalization,
    Pool2d: _pool,
    AdaptivePool2d: lambda operator: (
        nn.AdaptiveAvgPool2d(operator.size) if operator.method == "avg" else nn.AdaptiveMaxPool2d(operator.size)
    ),
    Reduce: _reduce,
    Resize: _resize,
    Elementwise: _elementwise,
    Concat: lambda operator: lambda *tensors: torch.cat(tensors, operator.axis),
    View: _view,
    Copy: _copy,
}
