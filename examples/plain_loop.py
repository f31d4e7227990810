"""A plain PyTorch loop that chooses between layers, and pays for the time that they take on a phone.

`python examples/plain_loop.py` runs it; what is added to an own loop is marked.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from predictors.training import predicted_costs  # + ridgeline


class Choice(nn.Module):
    """The mean of several layers, weighted by probabilities that are learned; one of them is kept in the end."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.logits = nn.Parameter(torch.zeros(len(layers)))

    def forward(self, x):
        return sum(weight * layer(x) for weight, layer in zip(self.logits.softmax(0), self.layers))


def convolution(kernel: int) -> nn.Module:
    conv = nn.Conv2d(32, 32, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU())


def train_epochs(net: nn.Module, num: int, choices: list[Choice]) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(num):
        net.train()
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            loss = cross_entropy(net(images[batch]), labels[batch])
            loss = loss + 0.3 * sum(each.logits.softmax(0) @ ms for each in choices)  # + ridgeline
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.inference_mode():
        return (net(images[valid]).argmax(1) == labels[valid]).float().mean().item()


torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, valid = order[:1300], order[1300:]

choices = [Choice([convolution(kernel) for kernel in (3, 5, 7)]) for _ in range(2)]
first, last = nn.Conv2d(1, 32, 1), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
x = torch.zeros(1, 32, 56, 56)  # what the layers will read on the phone  # + ridgeline
costs = [predicted_costs(layer, x, "mobile_gpu") for layer in choices[0].layers]  # + ridgeline
ms = torch.tensor([each["mobile_gpu/latency_ms"] for each in costs])  # + ridgeline
train_epochs(nn.Sequential(first, *choices, last), 3, choices)
kept = [int(choice.logits.argmax()) for choice in choices]
chosen = nn.Sequential(first, *(choice.layers[index] for choice, index in zip(choices, kept)), last)
accuracy = train_epochs(chosen, 2, [])
print(f"accuracy: {accuracy:.3f}  kernels: {[(3, 5, 7)[index] for index in kept]}")
print(f"latency of the choices: {sum(float(ms[i]) for i in kept):.3f} ms of at most {2 * max(ms):.3f} ms")
