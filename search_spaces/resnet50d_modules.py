"""ResNet-50-D as a torch module, made of plain torch.nn layers so that every tracer and exporter reads it."""

from collections import OrderedDict

import torch
from torch import nn

from search_spaces.inverted_residual_modules import conv_bn, initialise
from search_spaces.resnet50d import NORM_EPSILON, BottleneckSpec, Layout


class ResNet50D(nn.Module):
    """One arch with fresh weights: images (batch, in_channels, height, width) to logits (batch, num_classes)."""

    def __init__(self, layout: Layout, in_channels: int) -> None:
        super().__init__()
        hidden, out, stride, has_block = layout.stem
        self.stem = conv_bn(in_channels, hidden, kernel=3, stride=stride, activation="relu")
        self.stem_block = StemBlock(hidden) if has_block else None
        self.stem_out = conv_bn(hidden, out, kernel=3, activation="relu")
        self.max_pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.Sequential(*(nn.Sequential(*map(Bottleneck, blocks)) for blocks in layout.stages))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(layout.stages[-1][-1].out_channels, layout.num_classes)
        initialise(self, NORM_EPSILON)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.stem(x_BCHW)
        if self.stem_block is not None:
            x_BCHW = self.stem_block(x_BCHW)
        x_BCHW = self.stages(self.max_pool(self.stem_out(x_BCHW)))
        logits_BK: torch.Tensor = self.classifier(self.flatten(self.pool(x_BCHW)))
        return logits_BK


class StemBlock(nn.Module):
    """A convolution with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out_BCHW: torch.Tensor = x_BCHW + self.act(self.bn(self.conv(x_BCHW)))
        return out_BCHW


class Bottleneck(nn.Module):
    """The block that a `BottleneckSpec` describes."""

    def __init__(self, spec: BottleneckSpec) -> None:
        super().__init__()
        hidden = spec.hidden_channels
        self.reduce = conv_bn(spec.in_channels, hidden, activation="relu")
        self.spatial = conv_bn(hidden, hidden, kernel=3, stride=spec.stride, activation="relu")
        self.expand = conv_bn(hidden, spec.out_channels)
        self.shortcut = _projection(spec) if spec.has_projection else None
        self.act = nn.ReLU()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.expand(self.spatial(self.reduce(x_BCHW)))
        out_BCHW: torch.Tensor = self.act(y_BCHW + (x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)))
        return out_BCHW


def _projection(spec: BottleneckSpec) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if spec.stride > 1:
        layers["pool"] = nn.AvgPool2d(spec.stride, ceil_mode=True)
    layers.update(conv_bn(spec.in_channels, spec.out_channels).named_children())
    return nn.Sequential(layers)
