"""NAS-Bench-201: how its archs are written, and its cells and the layers around them as operators.

Source: Dong, Yang, "NAS-Bench-201", ICLR 2020, arXiv:2001.00326, with its code (github.com/D-X-Y/AutoDL-Projects,
`xautodl/models/cell_operations.py`, `cell_infers/tiny_network.py`, and for the order of the archs
`exps/NAS-Bench-201/main.py`).
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, product

from predictors.graph import GraphBuilder
from predictors.operators import Elementwise

NB201_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From and to which node of the cell each operation of an arch leads, in the order in which archs are written."""
NB201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""In the order of the original code."""
NB201_CONVOLUTIONS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
"""Windows of the operations that have weights."""
NB201_CHANNELS = (16, 32, 64)
NB201_CELLS = 5
NB201_RESOLUTION = 32

_FIRST_NODE, _LAST_NODE = 0, 3
_OFFICIAL_SEED = 88


def parse_nb201(text: str) -> tuple[str, ...]:
    """The six operations of an arch, in the order of `NB201_EDGES`.

    >>> parse_nb201("|none~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|")[:3]
    ('none', 'nor_conv_1x1', 'skip_connect')

    Raises:
        ValueError: not six known operations with the inputs that a cell has.
    """
    parts = [part.split("~") for node in text.split("+") for part in node.strip("|").split("|")]
    expected = [str(source) for source, _ in NB201_EDGES]
    if [part[-1] for part in parts] != expected or not all(part[0] in NB201_OPERATIONS for part in parts):
        raise ValueError(f"{text!r} is no NAS-Bench-201 arch; operations are {list(NB201_OPERATIONS)}")
    return tuple(part[0] for part in parts)


def nb201_text(operations: Sequence[str]) -> str:
    """What `parse_nb201` reads.

    >>> nb201_text(("none", "nor_conv_1x1", "skip_connect", "none", "none", "avg_pool_3x3"))
    '|none~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|'
    """
    nodes = groupby(zip(NB201_EDGES, operations, strict=True), key=lambda edge: edge[0][1])
    return "+".join(
        "|" + "".join(f"{operation}~{source}|" for (source, _), operation in incoming) for _, incoming in nodes
    )


@lru_cache(maxsize=1)
def nb201_official_order() -> tuple[tuple[str, ...], ...]:
    """The operations of all 15,625 archs by their index in the published benchmark.

    Its code shuffles all combinations, the last edge the fastest, with Python's generator and this seed.
    """
    archs = list(product(NB201_OPERATIONS, repeat=len(NB201_EDGES)))
    random.Random(_OFFICIAL_SEED).shuffle(archs)
    return tuple(archs)


@lru_cache(maxsize=1 << 14)
def without_dead_branches(operations: tuple[str, ...]) -> tuple[str, ...]:
    """The same cell with `none` on every edge that does not lie on a path from its input to its output.

    An edge that starts at a node without input would add a constant, the bias of its batch norm; that is dropped too.
    """
    reached, needed = {_FIRST_NODE}, {_LAST_NODE}
    edges = [edge for edge, operation in zip(NB201_EDGES, operations, strict=True) if operation != "none"]
    for source, target in edges:  # ordered by target, so that every edge into a node comes before those out of it
        if source in reached:
            reached.add(target)
    for source, target in reversed(edges):
        if target in needed:
            needed.add(source)
    return tuple(
        operation if source in reached and target in needed else "none"
        for (source, target), operation in zip(NB201_EDGES, operations)
    )


def nb201_stem(builder: GraphBuilder, x: int, channels: int, name: str = "") -> int:
    """A convolution and a batch norm."""
    return _conv_bn(builder, x, channels, 3, 1, name)


def nb201_reduction(builder: GraphBuilder, x: int, channels: int, name: str = "") -> int:
    """The residual block of stride 2 between two stages."""
    inner = _relu_conv_bn(builder, x, channels, 3, 2, _path(name, "conv_a"))
    inner = _relu_conv_bn(builder, inner, channels, 3, 1, _path(name, "conv_b"))
    shortcut = builder.pool2d(x, "avg", 2, 2, name=_path(name, "shortcut.pool"))
    shortcut = builder.conv2d(shortcut, channels, 1, name=_path(name, "shortcut.conv"))
    return builder.elementwise("add", shortcut, inner, name=name)


def nb201_cell(
    builder: GraphBuilder,
    x: int,
    operations: Sequence[str],
    name: str = "",
    *,
    zero: str = "zero",
    keeps_dead_branches: bool = True,
) -> int:
    """Four nodes, each the sum of what its edges make of the nodes before it.

    Args:
        zero: function of the elementwise operator that `none` is.
        keeps_dead_branches: whether a `none` runs. Where it does not, no other edge may be dead
            (`without_dead_branches`), and a cell without any edge is one product of its input with zero.
    """
    nodes: list[int | None] = [x]
    edges = zip(NB201_EDGES, operations, strict=True)
    for node, incoming in groupby(edges, key=lambda edge: edge[0][1]):
        total: int | None = None
        found = []
        for (source, _), operation in incoming:
            if keeps_dead_branches or operation != "none":
                start = nodes[source]
                assert start is not None, f"edge {source} -> {node} of {operations} starts nowhere"
                path = _path(name, f"edges.{node}_{source}.{operation}")
                found.append(_operation(builder, start, operation, path, zero))
        for each in found:
            total = each if total is None else builder.elementwise("add", total, each, name=name)
        nodes.append(total)
    output = nodes[-1]
    return _operation(builder, x, "none", name, zero) if output is None else output


def nb201_head(builder: GraphBuilder, x: int, num_classes: int, name: str = "head") -> int:
    """Batch norm and ReLU, the mean over the image, and the classifier."""
    x = builder.batch_norm(x, _path(name, "bn"))
    x = builder.activation(x, "relu", _path(name, "act"))
    x = builder.flatten(builder.global_pool(x, _path(name, "pool")), _path(name, "flatten"))
    return builder.linear(x, num_classes, name=_path(name, "classifier"))


# ------------------------------------------------------------------------------------------------------------ private


def _operation(builder: GraphBuilder, x: int, operation: str, name: str, zero: str) -> int:
    channels = builder.shape(x)[1]
    match operation:
        case "none":
            return builder.add(Elementwise(function=zero, shapes=(builder.shape(x),)), x, name=name)
        case "skip_connect":
            return x
        case "nor_conv_1x1" | "nor_conv_3x3":
            return _relu_conv_bn(builder, x, channels, NB201_CONVOLUTIONS[operation], 1, name)
        case "avg_pool_3x3":
            return builder.pool2d(x, "avg", 3, 1, 1, name=name)
    raise ValueError(f"unknown operation {operation!r}; NAS-Bench-201 has {list(NB201_OPERATIONS)}")


def _relu_conv_bn(builder: GraphBuilder, x: int, channels: int, window: int, stride: int, name: str) -> int:
    x = builder.activation(x, "relu", _path(name, "relu"))
    return _conv_bn(builder, x, channels, window, stride, name)


def _conv_bn(builder: GraphBuilder, x: int, channels: int, window: int, stride: int, name: str) -> int:
    return builder.batch_norm(
        builder.conv2d(x, channels, window, stride, name=_path(name, "conv")), name=_path(name, "bn")
    )


def _path(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part
