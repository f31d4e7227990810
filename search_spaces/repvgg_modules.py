"""RepVGG as a torch module as it is trained, and the fold of a block into one convolution."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import pad

from search_spaces.repvgg import BlockSpec, Layout


class RepVGG(nn.Module):
    """One arch with fresh weights: images (batch, in_channels, height, width) to logits (batch, num_classes)."""

    def __init__(self, layout: Layout, in_channels: int) -> None:
        super().__init__()
        assert layout.stem.in_channels == in_channels
        self.stem: nn.Module = RepVGGBlock(layout.stem)
        self.stages = nn.Sequential(*(nn.Sequential(*map(RepVGGBlock, blocks)) for blocks in layout.stages))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(layout.stages[-1][-1].out_channels, layout.num_classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.stages(self.stem(x_BCHW))
        logits_BK: torch.Tensor = self.classifier(self.flatten(self.pool(x_BCHW)))
        return logits_BK


class RepVGGBlock(nn.Module):
    """The block that a `BlockSpec` describes, as it is trained."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.dense = _conv_bn(spec, kernel=3)
        self.pointwise = _conv_bn(spec, kernel=1)
        self.identity = nn.BatchNorm2d(spec.in_channels) if spec.has_identity else None
        self.act = nn.ReLU()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.dense(x_BCHW) + self.pointwise(x_BCHW)
        if self.identity is not None:
            y_BCHW = y_BCHW + self.identity(x_BCHW)
        out_BCHW: torch.Tensor = self.act(y_BCHW)
        return out_BCHW

    def folded(self) -> nn.Sequential:
        """One 3x3 convolution with a bias and the ReLU: what the block computes in evaluation mode.

        A norm scales each output channel by gamma / sqrt(variance + eps) and adds beta - that * mean. A 1x1 kernel is
        the centre of a 3x3 one; an identity is a 1x1 kernel that takes each channel from itself. The kernels and the
        biases of the branches add up; they are added in double precision.

        Source: https://arxiv.org/abs/2101.03697, section 3.3.
        """
        dense = self.dense.get_submodule("conv")
        assert isinstance(dense, nn.Conv2d)
        kernel_OI33, bias_O = _folded(dense.weight, self.dense.get_submodule("bn"))
        pointwise_OI11, pointwise_O = _folded(
            self.pointwise.get_submodule("conv").get_parameter("weight"), self.pointwise.get_submodule("bn")
        )
        kernel_OI33 = kernel_OI33 + pad(pointwise_OI11, (1, 1, 1, 1))
        bias_O = bias_O + pointwise_O
        if self.identity is not None:
            identity_OI11, identity_O = _folded(_identity_kernel(dense), self.identity)
            kernel_OI33 = kernel_OI33 + pad(identity_OI11, (1, 1, 1, 1))
            bias_O = bias_O + identity_O
        conv = nn.Conv2d(
            dense.in_channels, dense.out_channels, 3, dense.stride[0], 1, groups=dense.groups, bias=True,
            device=dense.weight.device, dtype=dense.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            conv.weight.copy_(kernel_OI33)
            conv.get_parameter("bias").copy_(bias_O)
        return nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU()))


def _folded(kernel_OIKK: torch.Tensor, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel and bias, in double precision, of a convolution without bias and the norm behind it."""
    assert isinstance(norm, nn.BatchNorm2d)
    mean_O, variance_O = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    scale_O = norm.weight.detach().double() / torch.sqrt(variance_O + norm.eps)
    return kernel_OIKK.detach().double() * scale_O[:, None, None, None], norm.bias.detach().double() - scale_O * mean_O


def _identity_kernel(conv: nn.Conv2d) -> torch.Tensor:
    """The 1x1 kernel, with the groups of `conv`, that hands every channel on."""
    per_group = conv.in_channels // conv.groups
    channels_O = torch.arange(conv.out_channels, device=conv.weight.device)
    kernel_OI11 = conv.weight.new_zeros(conv.out_channels, per_group, 1, 1)
    kernel_OI11[channels_O, channels_O % per_group] = 1.0
    return kernel_OI11


def _conv_bn(spec: BlockSpec, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(
                spec.in_channels, spec.out_channels, kernel, spec.stride, kernel // 2, groups=spec.groups, bias=False
            ),
            bn=nn.BatchNorm2d(spec.out_channels),
        )
    )
