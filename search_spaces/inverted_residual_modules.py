"""Networks of inverted residual blocks as torch modules, made of plain torch.nn layers so that every tracer and
exporter reads them.
"""

from collections import OrderedDict

import torch
from torch import nn

from search_spaces.inverted_residuals import BlockSpec, Layout

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


class InvertedResidualNetwork(nn.Module):
    """One arch with fresh weights: images (batch, in_channels, height, width) to logits (batch, num_classes)."""

    def __init__(self, layout: Layout, in_channels: int, norm_epsilon: float) -> None:
        super().__init__()
        stem, head = layout.stem, layout.head
        self.stem = conv_bn(in_channels, stem.channels, kernel=3, stride=stem.stride, activation=stem.activation)
        self.first_block = InvertedResidual(layout.first_block)
        self.stages = nn.Sequential(*(nn.Sequential(*map(InvertedResidual, blocks)) for blocks in layout.stages))
        self.head = conv_bn(layout.stages[-1][-1].out_channels, head.channels, activation=head.activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.feature_mix: nn.Module | None = None
        if head.feature_channels:
            mix = nn.Conv2d(head.channels, head.feature_channels, 1, bias=False)
            self.feature_mix = nn.Sequential(OrderedDict(conv=mix, act=ACTIVATION_MODULES[head.activation]()))
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(head.feature_channels or head.channels, head.num_classes)
        initialise(self, norm_epsilon)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.pool(self.head(self.stages(self.first_block(self.stem(x_BCHW)))))
        if self.feature_mix is not None:
            x_BCHW = self.feature_mix(x_BCHW)
        logits_BK: torch.Tensor = self.classifier(self.flatten(x_BCHW))
        return logits_BK


class InvertedResidual(nn.Module):
    """The block that a `BlockSpec` describes."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        hidden = spec.hidden_channels
        self.expand = (
            conv_bn(spec.in_channels, hidden, activation=spec.activation) if hidden != spec.in_channels else None
        )
        self.depthwise = conv_bn(
            hidden, hidden, kernel=spec.kernel, stride=spec.stride, groups=hidden, activation=spec.activation
        )
        self.squeeze = SqueezeExcite(hidden, spec.squeeze_channels) if spec.squeeze_channels else None
        self.project = conv_bn(hidden, spec.out_channels)
        self.has_residual = spec.has_residual

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.depthwise(x_BCHW if self.expand is None else self.expand(x_BCHW))
        if self.squeeze is not None:
            y_BCHW = self.squeeze(y_BCHW)
        y_BCHW = self.project(y_BCHW)
        out_BCHW: torch.Tensor = x_BCHW + y_BCHW if self.has_residual else y_BCHW
        return out_BCHW


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (https://arxiv.org/abs/1709.01507)."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeeze_channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        gate_BC11: torch.Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x_BCHW)))))
        return x_BCHW * gate_BC11


def conv_bn(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: str = ""
) -> nn.Sequential:
    """A convolution, its norm and activation, padded so that stride 1 keeps the size."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(out_channels),
    )
    if activation:
        layers["act"] = ACTIVATION_MODULES[activation]()
    return nn.Sequential(layers)


def initialise(network: nn.Module, norm_epsilon: float) -> None:
    """Draw a network's weights by He's rule, https://arxiv.org/abs/1502.01852, and set what its norms add."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = norm_epsilon
