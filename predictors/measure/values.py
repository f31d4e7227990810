"""Inputs, constants and weights of a graph as arrays: the same for every runtime, so that outputs can be compared.

Weights are scaled by the square root of their fan-in, so that values neither grow nor fade with depth: numbers below
the normal range of floats would slow a CPU down.
"""

from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.operators import Constant, Conv2d, ConvTranspose2d, Input, Linear, Normalization, Operator

Array = NDArray[np.float32]


def given_value(graph: Graph, index: int) -> Array:
    """Value of an input or constant of the graph, uniform in -1 to 1.

    Raises:
        ValueError: the node is neither.
    """
    operator = graph.nodes[index].operator
    if not isinstance(operator, Input | Constant):
        raise ValueError(f"node {index} is no input or constant but {operator.text}")
    return _uniform(operator.output_shape, 1.0, index)


def input_indices(graph: Graph) -> tuple[int, ...]:
    """Indices of the nodes that the caller gives values to, in order."""
    return tuple(index for index, node in enumerate(graph.nodes) if isinstance(node.operator, Input))


def weights_of(operator: Operator, seed: int = 0) -> dict[str, Array]:
    """Weights of an operator by their name in torch: 'weight', 'bias', 'running_mean', 'running_var'; often none.

    Shapes are torch's: convolutions (out, in / groups, height, width), transposed ones (in, out / groups, height,
    width), linear layers (out, in), normalizations one number for each channel or feature.

    Args:
        operator: whose weights.
        seed: the index of its node: two layers of one shape shall not share weights.
    """
    if isinstance(operator, Conv2d):
        fan_in = operator.in_channels // operator.groups
        return _affine((operator.out_channels, fan_in, *operator.kernel), operator.out_channels, operator.bias, seed)
    if isinstance(operator, ConvTranspose2d):
        fan_out = operator.out_channels // operator.groups
        return _affine((operator.in_channels, fan_out, *operator.kernel), operator.out_channels, operator.bias, seed)
    if isinstance(operator, Linear):
        shape = (operator.out_features, operator.in_features)
        return _affine(shape, operator.out_features, operator.bias, seed)
    if isinstance(operator, Normalization):
        return _normalization(operator, seed)
    return {}


# ------------------------------------------------------------------------------------------------------------ private


def _affine(shape: tuple[int, ...], num_outputs: int, bias: bool, seed: int) -> dict[str, Array]:
    bound = sqrt(3.0 / prod(shape[1:]))  # of unit variance after the sum over the fan-in
    found = {"weight": _uniform(shape, bound, 2 * seed)}
    if bias:
        found["bias"] = _uniform((num_outputs,), 0.1, 2 * seed + 1)
    return found


def _normalization(operator: Normalization, seed: int) -> dict[str, Array]:
    channels = operator.shape[1] if operator.method == "batch_norm" else operator.shape[-1]
    found = {}
    if operator.affine_params > 0:
        found["weight"] = 1.0 + _uniform((channels,), 0.2, 2 * seed)
        if operator.affine_params == 2 * channels:
            found["bias"] = _uniform((channels,), 0.1, 2 * seed + 1)
    if operator.method == "batch_norm":
        found["running_mean"] = _uniform((channels,), 0.1, 2 * seed)
        found["running_var"] = 1.0 + _uniform((channels,), 0.2, 2 * seed + 1)
    return found


def _uniform(shape: tuple[int, ...], bound: float, seed: int) -> Array:
    values: Array = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return (2.0 * values - 1.0) * np.float32(bound)
