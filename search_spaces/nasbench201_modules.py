"""NAS-Bench-201 as a torch module, as in the original code (AutoDL-Projects), of plain torch.nn layers."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from predictors.nasbench201 import NB201_CONVOLUTIONS, NB201_EDGES


class NasBench201(nn.Module):
    """One arch with fresh weights: images (batch, in_channels, height, width) to logits (batch, num_classes).

    Args:
        edges: for each edge of the cell, in the benchmark's order, its operation; several in the shared network, of
            which the last runs; none where there is no edge.
    """

    def __init__(
        self,
        edges: Sequence[Sequence[str]],
        channels: Sequence[int],
        num_cells: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_bn(in_channels, channels[0], 3))
        stages = []
        for stage, width in enumerate(channels):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            if stage:
                parts["reduction"] = Reduction(channels[stage - 1], width)
            parts.update((f"cell{number}", Cell(width, edges)) for number in range(1, num_cells + 1))
            stages.append(nn.Sequential(parts))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            OrderedDict(
                bn=nn.BatchNorm2d(channels[-1]), act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
                classifier=nn.Linear(channels[-1], num_classes),
            )
        )  # fmt: skip

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.head(self.stages(self.stem(x_BCHW)))
        return logits_BK


class Cell(nn.Module):
    """Four nodes, each the sum of what its edges make of the nodes before it. Without any path it gives zeros."""

    def __init__(self, channels: int, edges: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{target}_{source}": Edge(channels, operations)
                for (source, target), operations in zip(NB201_EDGES, edges, strict=True)
                if operations
            }
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        nodes = {0: x_BCHW}
        for node in range(1, NB201_EDGES[-1][1] + 1):
            names = {source: f"{node}_{source}" for source in range(node)}
            found = [self.edges[name](nodes[source]) for source, name in names.items() if name in self.edges]
            if found:
                total = found[0]
                for each in found[1:]:
                    total = total + each
                nodes[node] = total
        return nodes[node] if node in nodes else x_BCHW * 0.0


class Edge(nn.Module):
    """The last of its operations; the others are only held. Named after them, so that those of all archs agree."""

    def __init__(self, channels: int, operations: Sequence[str]) -> None:
        super().__init__()
        for operation in operations:
            self.add_module(operation, _operation(operation, channels))
        self.operation = operations[-1]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW: torch.Tensor = self.get_submodule(self.operation)(x_BCHW)
        return y_BCHW


class Zero(nn.Module):
    """The operation `none`, as the original code runs it."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW * 0.0


class Reduction(nn.Module):
    """The residual block of stride 2 between two stages."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_a = _relu_conv_bn(in_channels, channels, 3, stride=2)
        self.conv_b = _relu_conv_bn(channels, channels, 3)
        self.shortcut = nn.Sequential(
            OrderedDict(pool=nn.AvgPool2d(2, 2), conv=nn.Conv2d(in_channels, channels, 1, bias=False))
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.conv_b(self.conv_a(x_BCHW))
        out_BCHW: torch.Tensor = self.shortcut(x_BCHW) + y_BCHW
        return out_BCHW


def _operation(operation: str, channels: int) -> nn.Module:
    match operation:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _relu_conv_bn(channels, channels, NB201_CONVOLUTIONS[operation])


def _relu_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), **_conv_bn(in_channels, out_channels, kernel, stride)))


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        bn=nn.BatchNorm2d(out_channels),
    )
