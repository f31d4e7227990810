"""Convolution and pooling of volumes (batch, channels, depth, height, width): video, medical images."""

from dataclasses import replace
from functools import cached_property
from math import prod

from predictors.operators import (
    Operator,
    Shape,
    check_method,
    check_positive,
    check_shape,
    operator,
    padded_shape,
    round_up,
    window_output,
)

Triple = tuple[int, int, int]


@operator
class Conv3d(Operator):
    """Convolution of volumes, as torch.nn.Conv3d.

    macs = output elements * (in_channels / groups) * kernel_depth * kernel_height * kernel_width.
    """

    kind = "conv3d"
    shape: Shape
    out_channels: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1
    bias: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=5)
        check_positive(self.kind, out_channels=self.out_channels, groups=self.groups)
        for triple in (self.kernel, self.stride, self.dilation):
            check_shape(self.kind, triple, num_axes=3)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"conv3d: groups {self.groups} do not divide {self.in_channels} -> {self.out_channels}")
        if min(self.output_shape) < 1:
            raise ValueError(f"conv3d: kernel {self.kernel} does not fit into {self.shape}")

    @property
    def in_channels(self) -> int:
        return self.shape[1]

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        windows = zip(self.shape[2:], self.kernel, self.stride, self.padding, self.dilation)
        return self.shape[0], self.out_channels, *(window_output(*window) for window in windows)

    @cached_property
    def macs(self) -> int:
        return self.write_elements * (self.in_channels // self.groups) * prod(self.kernel)

    @cached_property
    def num_params(self) -> int:
        weights = self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)
        return weights + (self.out_channels if self.bias else 0)

    def padded(self, alignment: int) -> "Conv3d":
        """Channels of each group rounded up; of a depthwise one their number."""
        if self.groups == self.in_channels > 1:
            groups = round_up(self.groups, alignment)
            shape = (self.shape[0], groups, *self.shape[2:])
            return replace(self, shape=shape, out_channels=groups * (self.out_channels // self.groups), groups=groups)
        in_channels = self.groups * round_up(self.in_channels // self.groups, alignment)
        out_channels = self.groups * round_up(self.out_channels // self.groups, alignment)
        return replace(self, shape=(self.shape[0], in_channels, *self.shape[2:]), out_channels=out_channels)


@operator
class Pool3d(Operator):
    """Pooling of volumes by a sliding window; `method` is 'max' or 'avg'."""

    kind = "pool3d"
    shape: Shape
    method: str
    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=5)
        check_method(self.kind, self.method, ("avg", "max"))
        for triple in (self.kernel, self.stride, self.dilation):
            check_shape(self.kind, triple, num_axes=3)
        if min(self.output_shape) < 1:
            raise ValueError(f"pool3d: kernel {self.kernel} does not fit into {self.shape}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        windows = zip(self.shape[2:], self.kernel, self.stride, self.padding, self.dilation)
        return *self.shape[:2], *(window_output(*window, ceil_mode=self.ceil_mode) for window in windows)

    @property
    def variant(self) -> str:
        return f"{self.method}_pool3d"

    def padded(self, alignment: int) -> "Pool3d":
        return replace(self, shape=padded_shape(self.shape, alignment))
