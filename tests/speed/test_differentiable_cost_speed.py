"""What the cost of masked channels adds to a training step. Reported, never asserted: `--benchmark-enable`."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional

from predictors import load_device
from predictors.training import DifferentiableCost

torch.set_num_threads(1)


def resnet18() -> nn.Module:
    """As it is trained on CIFAR: without the first two strides."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network: nn.Module = timm.create_model("resnet18", num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize("device", ["mobile_gpu", "cpu_x86"])
@pytest.mark.filterwarnings("ignore::predictors.efficiency.ExtrapolationWarning")
def test_a_forward_and_backward_pass_while_all_widths_move(benchmark: BenchmarkFixture, device: str) -> None:
    cost = DifferentiableCost(resnet18(), torch.zeros(1, 3, 32, 32), load_device(device))
    logits = {name: torch.full((size,), 2.0, requires_grad=True) for name, size in cost.groups.items()}
    optimizer = torch.optim.SGD(logits.values(), lr=0.0)

    def step() -> None:
        with torch.no_grad():
            for each in logits.values():
                each -= 0.001
        optimizer.zero_grad()
        cost({name: torch.sigmoid(each) for name, each in logits.items()}).backward()

    benchmark(step)
    assert all(each.grad is not None and each.grad.min() > 0 for each in logits.values())


def test_the_training_step_beside_it(benchmark: BenchmarkFixture) -> None:
    network = resnet18()
    x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))

    def step() -> None:
        network.zero_grad()
        functional.cross_entropy(network(x), y).backward()

    benchmark.pedantic(step, rounds=3)
    assert next(network.parameters()).grad is not None
