"""A network of one's own made elastic, trained on digits and searched: python elastic_resnet.py --help

The network is an ordinary one. Its depth is marked where it is written, its widths are given from outside. The supernet
starts from its trained weights, and every candidate is a narrower, shallower version of it.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.accuracy import SupernetAccuracy
from nas.data import load_data
from nas.study import run_search
from nas.training import Recipe, train_network, train_supernet
from predictors import LatencyPredictor, load_device
from search_spaces.elastic import elastic, mark_depth


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, 2, 1)
        self.layer1 = mark_depth(nn.Sequential(*(Block(channels, channels) for _ in range(3))), (1, 2, 3))
        self.layer2 = mark_depth(
            nn.Sequential(Block(channels, 2 * channels, 2), Block(2 * channels, 2 * channels)), (1, 2)
        )
        self.classifier = nn.Linear(2 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(torch.relu(self.stem(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description="Search the narrower, shallower versions of a ResNet.")
    parser.add_argument("--hw", default="mobile_gpu", help="the device, a name or a file")
    parser.add_argument("--steps", type=int, default=200, help="steps of each training")
    parser.add_argument("--trials", type=int, default=40, help="networks to evaluate")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/elastic_resnet"), help="where the supernet is kept"
    )
    given = parser.parse_args()

    data = load_data("digits")
    recipe = Recipe(num_steps=given.steps, batch_size=64, learning_rate=0.005)
    torch.manual_seed(0)
    network = train_network(ResNet(), data, recipe, size=32)

    widths = {"layer*.*.conv1": (0.25, 0.5, 1.0)}
    space = elastic(network, torch.zeros(1, 1, 32, 32), widths, name="elastic_resnet")
    supernet = train_supernet(space, data, recipe, given.folder)

    predictor = LatencyPredictor(load_device(given.hw))
    accuracy = SupernetAccuracy(supernet, data)
    deployed = space.deployed(resolution=224)
    result = run_search(space, predictor, accuracy, deployed_space=deployed, num_trials=given.trials, progress=True)
    for index in result.front:
        arch, metrics = result.candidates[index].arch, result.candidates[index].metrics
        print(f"{1 - metrics['error']:6.1%} right, {1e3 * metrics['latency_s']:.3f} ms: {arch}")


if __name__ == "__main__":
    main()
