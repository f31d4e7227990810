"""A ResNet of one's own, pruned to a latency while it trains on digits: python prune_resnet.py --help

The network and the loop are ordinary ones. The three lines that pruning adds or changes end in `# + ridgeline`.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from predictors import LatencyPredictor, load_device, trace
from search_spaces.channel_budget import ChannelBudget


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
        self.stem = nn.Conv2d(1, channels, 3, 1, 1)
        self.layer1 = nn.Sequential(Block(channels, channels), Block(channels, channels))
        self.layer2 = nn.Sequential(Block(channels, 2 * channels, 2), Block(2 * channels, 2 * channels))
        self.layer3 = nn.Sequential(Block(2 * channels, 4 * channels, 2), Block(4 * channels, 4 * channels))
        self.classifier = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.stem(x)))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, learning_rate: float = 0.05) -> None:
    """The loop as it was before anyone pruned."""
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train_within(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, deployed: Tensor, hw: str, limit_s: float
) -> nn.Module:
    """The same loop, which ends with a network that is predicted at or under the limit."""
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    budget = ChannelBudget(network, deployed, load_device(hw), latency_s=limit_s)  # + ridgeline
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = functional.cross_entropy(budget(images[batch]), labels[batch]) + budget.penalty()  # + ridgeline
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return budget.pruned()  # + ridgeline


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        return float((network(images).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune a ResNet to a share of its latency.")
    parser.add_argument("--hw", default="mobile_gpu", help="the device, a name or a file")
    parser.add_argument("--share", type=float, default=0.6, help="of the whole network's latency that remains")
    parser.add_argument("--epochs", type=int, default=6, help="of each of the two trainings; half of it to fine-tune")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    torch.manual_seed(given.seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels))
    images, labels, test_images, test_labels = (
        images[order[:1200]], labels[order[:1200]], images[order[1200:]], labels[order[1200:]],
    )  # fmt: skip

    predictor = LatencyPredictor(load_device(given.hw))
    deployed = torch.zeros(1, 1, 224, 224)
    network: nn.Module = ResNet()
    train(network, images, labels, given.epochs)
    whole_s = predictor.predict(trace(network, deployed)).latency_s
    print(f"whole:      {accuracy(network, test_images, test_labels):.1%} right, {1e3 * whole_s:.4f} ms")

    limit_s = given.share * whole_s
    network = train_within(network, images, labels, given.epochs, deployed, given.hw, limit_s)
    print(f"pruned:     {accuracy(network, test_images, test_labels):.1%} right")
    train(network, images, labels, given.epochs // 2, learning_rate=0.01)
    latency_s = predictor.predict(trace(network, deployed)).latency_s
    print(
        f"fine-tuned: {accuracy(network, test_images, test_labels):.1%} right, {1e3 * latency_s:.4f} ms, limit "
        f"{1e3 * limit_s:.4f} ms"
    )
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    print(f"lines that pruning changes: {sum(line.endswith('# + ridgeline') for line in lines)}")


if __name__ == "__main__":
    main()
