"""A search space of one's own: stages of plain convolutions with elastic widths, depths and image sizes.

From this folder, where space/own_space.yaml gives the class its fields:

    python -m nas.search hw=mobile_gpu space=own_space data=digits
    python -c "from search_spaces import load_space; s = load_space('own_space'); print(s.graph(s.largest()).macs)"
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from predictors import Graph, GraphBuilder
from search_spaces import Arch
from search_spaces.resolutions import ResolutionSpace


@dataclass(frozen=True, kw_only=True)
class OwnSpace(ResolutionSpace):
    """Knobs of each stage: `stage{i}_width`, channels, and `stage{i}_depth`, convolutions, the first of stride 2."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_stages: int = 3

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        knobs = dict(self.resolution_knobs)
        for stage in range(self.num_stages):
            knobs[f"stage{stage}_width"] = tuple(width * 2**stage for width in self.widths)
            knobs[f"stage{stage}_depth"] = self.depths
        return knobs

    def dead_knobs(self, arch: Arch) -> tuple[str, ...]:
        return ()

    def convolutions(self, arch: Arch) -> list[tuple[str, int, int]]:
        """Name, channels and stride of each, for the graph and for the module."""
        self.check(arch)
        stages = [(stage, block) for stage in range(self.num_stages) for block in range(arch[f"stage{stage}_depth"])]
        return [(f"stage{s}_block{b}", arch[f"stage{s}_width"], 2 if b == 0 else 1) for s, b in stages]

    def graph(self, arch: Arch) -> Graph:
        x = (builder := GraphBuilder()).input(self.input_shape(arch))
        for name, channels, stride in self.convolutions(arch):
            x = builder.batch_norm(builder.conv2d(x, channels, kernel=3, stride=stride, name=f"{name}.0"), f"{name}.1")
            x = builder.activation(x, "relu", f"{name}.2")
        x = builder.flatten(builder.global_pool(x, "pool"), "flatten")
        return builder.graph(builder.linear(x, self.num_classes, name="classifier"), name=self.name)

    def build(self, arch: Arch) -> nn.Module:
        layers, before = OrderedDict(), self.in_channels
        for name, channels, stride in self.convolutions(arch):
            conv = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
            layers[name], before = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()), channels
        layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        layers["classifier"] = nn.Linear(before, self.num_classes)
        return nn.Sequential(layers)
