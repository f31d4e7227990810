"""Networks as users write them, without a thought of search spaces."""

import torch
from torch import Tensor, nn

from search_spaces.elastic import mark_depth, mark_width


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 2 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """As torchvision writes it, small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(16, 16, 1), Bottleneck(32, 16, 1), Bottleneck(32, 16, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 32, 2), Bottleneck(64, 32, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class Inverted(nn.Module):
    def __init__(self, in_channels: int, hidden: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.expand = mark_width(nn.Conv2d(in_channels, hidden, 1, bias=False), (0.25, 0.5, 1.0))
        self.norm1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.reduce, self.gate = nn.Linear(hidden, 8), nn.Linear(8, hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.norm1(self.expand(x)))
        y = nn.functional.relu6(self.norm2(self.depthwise(y)))
        y = y * torch.sigmoid(self.gate(nn.functional.relu(self.reduce(y.mean((2, 3))))))[:, :, None, None]
        y = self.norm3(self.project(y))
        return x + y if self.has_residual else y


class MobileNet(nn.Sequential):
    """Marked where it is written; its last width is that of a residual stream."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            mark_depth(
                nn.Sequential(Inverted(16, 48, 16, 1), Inverted(16, 48, 16, 1), Inverted(16, 48, 16, 1)), (1, 3)
            ),
            mark_depth(nn.Sequential(Inverted(16, 64, 32, 2), Inverted(32, 64, 32, 1)), (1, 2)),
            mark_width(nn.Conv2d(32, 64, 1, bias=False), (0.5, 1.0)),
            nn.BatchNorm2d(64),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


class Branches(nn.Module):
    """Concatenated branches: a narrower first branch leaves no leading part of what reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 16, 3, padding=1)
        self.right = nn.Conv2d(16, 16, 1)
        self.norm = nn.BatchNorm2d(32)
        self.end = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], dim=1)))
        logits: Tensor = self.end(x.mean((2, 3)))
        return logits
