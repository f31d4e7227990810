"""Networks of two published spaces as graphs: NAS-Bench-201 and the FBNet space, as their benchmarks write the archs.

Source: Dong, Yang, "NAS-Bench-201", ICLR 2020, arXiv:2001.00326, with its code (github.com/D-X-Y/AutoDL-Projects,
`xautodl/models/cell_operations.py`); Wu et al., "FBNet", CVPR 2019, arXiv:1812.03443, table 1, in the form of
HW-NAS-Bench for images of 32x32 (Li et al., ICLR 2021, arXiv:2103.10584).
"""

from collections.abc import Sequence

from predictors.graph import Graph, GraphBuilder
from predictors.nasbench201 import (
    NB201_CELLS,
    NB201_CHANNELS,
    NB201_CONVOLUTIONS,
    NB201_RESOLUTION,
    nb201_cell,
    nb201_head,
    nb201_reduction,
    nb201_stem,
)
from predictors.operators import Copy

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
    if from_1_to_2 == from_1_to_3 == "none" and from_0 in NB201_CONVOLUTIONS:
        folded[2] = "skip_connect"
    if from_2_to_3 == "none":
        second = from_0 if folded[2] == "skip_connect" else folded[2]
        if [each in NB201_CONVOLUTIONS for each in (from_0_to_2, second) if each != "none"] == [True]:
            folded[5] = "skip_connect"
    return tuple(folded)


def nb201_graph(operations: Sequence[str], batch: int = 1, num_classes: int = 10) -> Graph:
    """Network of three stages of five equal cells (`NB201_EDGES`) at 32x32, 16x16 and 8x8 pixels.

    `none` is a multiplication by zero, which a runtime may or may not see through: the operator `zero`.
    """
    builder = GraphBuilder()
    x = builder.input((batch, 3, NB201_RESOLUTION, NB201_RESOLUTION))
    x = nb201_stem(builder, x, NB201_CHANNELS[0])
    for stage, channels in enumerate(NB201_CHANNELS):
        if stage:
            x = nb201_reduction(builder, x, channels)
        for _ in range(NB201_CELLS):
            x = nb201_cell(builder, x, operations)
    return builder.graph(nb201_head(builder, x, num_classes), name=" ".join(operations))


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
