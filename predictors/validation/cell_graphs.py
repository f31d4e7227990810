"""Networks of two published spaces as graphs: NAS-Bench-201 and the FBNet space, as their benchmarks write the archs.

Source: Dong, Yang, "NAS-Bench-201", ICLR 2020, arXiv:2001.00326, with its code (github.com/D-X-Y/AutoDL-Projects,
`xautodl/models/cell_operations.py`); Wu et al., "FBNet", CVPR 2019, arXiv:1812.03443, table 1, in the form of
HW-NAS-Bench for images of 32x32 (Li et al., ICLR 2021, arXiv:2103.10584).
"""

from collections.abc import Sequence
from itertools import groupby

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Copy, Elementwise

NB201_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From and to which node of the cell each operation of an arch leads, in the order in which archs are written."""
NB201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")
_NB201_CHANNELS = (16, 32, 64)
_NB201_CELLS = 5

FBNET_BLOCKS = (
    (3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1),
)  # fmt: skip
"""Window, expansion and groups of the blocks 0 to 7 of the FBNet space; `FBNET_SKIP` is the ninth choice."""
FBNET_SKIP = 8
FBNET_STAGES = ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Channels, layers and stride of the first layer; which strides were measured shows in the ratios of latencies."""
_FBNET_STEM = 16
_FBNET_HEAD = 1504
_RESOLUTION = 32


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


def fold_zeros(operations: Sequence[str]) -> tuple[str, ...]:
    """The arch that TensorFlow's converter leaves of a NAS-Bench-201 cell: zeros that it folds into a convolution pass.

    A product with a constant is folded into the convolution before it, which then runs with weights of zero and is
    added up like any other; so `none` turns into a skip. That happens where only such products read the convolution and
    the node is that convolution alone: from node 1 to 2 if 1 to 3 is none, too; from 2 to 3 if node 2 sums nothing.
    All other products with zero are constants (`zero` under a runtime that removes dead branches).

    The rule was read off the pixel3 and raspi4 columns of HW-NAS-Bench, not off the converter's code.
    """
    from_0, from_0_to_2, from_1_to_2, _, from_1_to_3, from_2_to_3 = operations
    folded = list(operations)
    if from_1_to_2 == from_1_to_3 == "none" and from_0 in _CONVOLUTIONS:
        folded[2] = "skip_connect"
    if from_2_to_3 == "none":
        second = from_0 if folded[2] == "skip_connect" else folded[2]
        if [each in _CONVOLUTIONS for each in (from_0_to_2, second) if each != "none"] == [True]:
            folded[5] = "skip_connect"
    return tuple(folded)


def nb201_graph(operations: Sequence[str], batch: int = 1, num_classes: int = 10) -> Graph:
    """Network of three stages of five equal cells (`NB201_EDGES`) at 32x32, 16x16 and 8x8 pixels.

    `none` is a multiplication by zero, which a runtime may or may not see through: the operator `zero`.
    """
    builder = GraphBuilder()
    x = builder.input((batch, 3, _RESOLUTION, _RESOLUTION))
    x = builder.batch_norm(builder.conv2d(x, _NB201_CHANNELS[0], 3))
    for stage, channels in enumerate(_NB201_CHANNELS):
        if stage:
            x = _reduction(builder, x, channels)
        for _ in range(_NB201_CELLS):
            x = _cell(builder, x, operations)
    x = builder.activation(builder.batch_norm(x), "relu")
    x = builder.linear(builder.flatten(builder.global_pool(x)), num_classes)
    return builder.graph(x, name=" ".join(operations))


def fbnet_graph(blocks: Sequence[int], batch: int = 1, num_classes: int = 100) -> Graph:
    """Network of 22 blocks at 32x32 pixels; a skip that changes the shape is a 1x1 convolution.

    Raises:
        ValueError: not 22 blocks of 0 to 8.
    """
    num_layers = sum(layers for _, layers, _ in FBNET_STAGES)
    if len(blocks) != num_layers or not all(0 <= block <= FBNET_SKIP for block in blocks):
        raise ValueError(f"an arch of the FBNet space has {num_layers} blocks of 0 to {FBNET_SKIP}, found {blocks!r}")
    builder = GraphBuilder()
    x = builder.input((batch, 3, _RESOLUTION, _RESOLUTION))
    x = _conv_bn(builder, x, _FBNET_STEM, 3, relu=True)
    remaining = iter(blocks)
    for channels, layers, stride in FBNET_STAGES:
        for layer in range(layers):
            x = _fbnet_block(builder, x, next(remaining), channels, 1 if layer else stride)
    x = _conv_bn(builder, x, _FBNET_HEAD, 1, relu=True)
    x = builder.linear(builder.flatten(builder.global_pool(x)), num_classes)
    return builder.graph(x, name=" ".join(map(str, blocks)))


# ------------------------------------------------------------------------------------------------------------ private


def _conv_bn(
    builder: GraphBuilder, x: int, channels: int, window: int, stride: int = 1, groups: int = 1, relu: bool = False
) -> int:
    x = builder.batch_norm(builder.conv2d(x, channels, window, stride, groups=groups))
    return builder.activation(x, "relu") if relu else x


def _relu_conv_bn(builder: GraphBuilder, x: int, channels: int, window: int, stride: int = 1) -> int:
    return _conv_bn(builder, builder.activation(x, "relu"), channels, window, stride)


def _reduction(builder: GraphBuilder, x: int, channels: int) -> int:
    """The residual block of stride 2 between two stages."""
    inner = _relu_conv_bn(builder, _relu_conv_bn(builder, x, channels, 3, 2), channels, 3)
    shortcut = builder.conv2d(builder.pool2d(x, "avg", 2, 2), channels, 1)
    return builder.elementwise("add", shortcut, inner)


def _cell(builder: GraphBuilder, x: int, operations: Sequence[str]) -> int:
    nodes = [x]
    edges = zip(NB201_EDGES, operations, strict=True)
    for _, incoming in groupby(edges, key=lambda edge: edge[0][1]):
        found = [_operation(builder, nodes[source], operation) for (source, _), operation in incoming]
        total = found[0]
        for each in found[1:]:
            total = builder.elementwise("add", total, each)
        nodes.append(total)
    return nodes[-1]


def _operation(builder: GraphBuilder, x: int, operation: str) -> int:
    channels = builder.shape(x)[1]
    match operation:
        case "none":
            return builder.add(Elementwise(function="zero", shapes=(builder.shape(x),)), x)
        case "skip_connect":
            return x
        case "nor_conv_1x1":
            return _relu_conv_bn(builder, x, channels, 1)
        case "nor_conv_3x3":
            return _relu_conv_bn(builder, x, channels, 3)
        case "avg_pool_3x3":
            return builder.pool2d(x, "avg", 3, 1, 1)
    raise ValueError(f"unknown operation {operation!r}; NAS-Bench-201 has {list(NB201_OPERATIONS)}")


def _fbnet_block(builder: GraphBuilder, x: int, block: int, channels: int, stride: int) -> int:
    before = builder.shape(x)[1]
    keeps_shape = before == channels and stride == 1
    if block == FBNET_SKIP:
        return x if keeps_shape else _conv_bn(builder, x, channels, 1, stride, relu=True)
    window, expansion, groups = FBNET_BLOCKS[block]
    y = _conv_bn(builder, x, before * expansion, 1, groups=groups, relu=True)
    if groups > 1:
        shape = builder.shape(y)  # channels are shuffled between the groups
        y = builder.add(Copy(shape=shape, to=shape, method="transpose"), y)
    y = _conv_bn(builder, y, before * expansion, window, stride, groups=before * expansion, relu=True)
    y = _conv_bn(builder, y, channels, 1, groups=groups)
    return builder.elementwise("add", y, x) if keeps_shape else y
