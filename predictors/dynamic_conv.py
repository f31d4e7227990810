"""Convolution whose weights the network computes itself: CondConv, dynamic filters, correlation with a template."""

from functools import cached_property
from math import prod

from predictors.operators import (
    Operator,
    Pair,
    Shape,
    check_positive,
    check_shape,
    operator,
    round_up,
    window_output,
)


@operator
class DynamicConv2d(Operator):
    """Convolution of images with computed weights (out_channels, in_channels / groups, height, width).

    macs as of a `Conv2d`; it has no parameters, but reads weights, and biases where there are any, as inputs.
    """

    kind = "dynamic_conv2d"
    shape: Shape
    weight: Shape
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=4)
        check_shape(self.kind, self.weight, num_axes=4)
        check_positive(self.kind, stride=self.stride, dilation=self.dilation, groups=self.groups)
        if self.shape[1] != self.weight[1] * self.groups or self.weight[0] % self.groups:
            raise ValueError(f"dynamic_conv2d: {self.groups} groups of weights {self.weight} do not fit {self.shape}")
        if min(self.output_shape) < 1:
            raise ValueError(f"dynamic_conv2d: weights {self.weight} do not fit into {self.shape}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape, self.weight, *(((self.weight[0],),) if self.bias else ()))

    @cached_property
    def output_shape(self) -> Shape:
        windows = zip(self.shape[2:], self.weight[2:], self.stride, self.padding, self.dilation)
        return self.shape[0], self.weight[0], *(window_output(*window) for window in windows)

    @cached_property
    def macs(self) -> int:
        return self.write_elements * prod(self.weight[1:])

    def padded(self, alignment: int) -> "DynamicConv2d":
        """Channels of each group rounded up; of a depthwise one their number."""
        batch, _, *size = self.shape
        out_channels, inner, *kernel = self.weight
        groups, outer = self.groups, out_channels // self.groups
        if inner == 1 < groups:
            groups = round_up(groups, alignment)
        else:
            inner, outer = round_up(inner, alignment), round_up(outer, alignment)
        return DynamicConv2d(
            shape=(batch, groups * inner, *size), weight=(groups * outer, inner, *kernel), stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=groups, bias=self.bias,
        )  # fmt: skip
