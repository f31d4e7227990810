"""What a differentiable cost adds to a training step. Reported, never asserted: `--benchmark-enable`."""

import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import cross_entropy

from predictors import LatencyPredictor, load_device
from predictors.training import ArchitectureLogits, ExpectedCost
from search_spaces import load_space

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
def test_a_forward_and_backward_pass(benchmark: BenchmarkFixture, name: str) -> None:
    space = load_space(name)
    logits, cost = ArchitectureLogits(space), ExpectedCost(space, LatencyPredictor(load_device("mobile_gpu")))
    benchmark(lambda: cost(logits()).backward())
    assert logits.flat_V.grad is not None
    assert logits.flat_V.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "batch"), [("mobilenet_v3_tiny", 64), ("mobilenet_v3", 32)])
def test_its_share_of_a_training_step_of_the_supernet(benchmark: BenchmarkFixture, name: str, batch: int) -> None:
    """Of the largest network, on as many images as they are trained on; `-s` shows the share."""
    space = load_space(name)
    logits, cost = ArchitectureLogits(space), ExpectedCost(space, "mobile_gpu")

    def costs() -> None:
        cost(logits()).backward()

    benchmark(costs)
    assert logits.flat_V.grad is not None
    assert logits.flat_V.grad.abs().sum() > 0
    if benchmark.enabled:
        supernet = space.supernet().train()
        x_BCHW = torch.randn(batch, space.in_channels, space.resolution, space.resolution)
        labels_B = torch.randint(space.num_classes, (batch,))
        optimizer = torch.optim.SGD(supernet.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            cross_entropy(supernet(x_BCHW), labels_B).backward()
            optimizer.step()

        seconds = [(_seconds(step), median(_seconds(costs) for _ in range(5))) for _ in range(2)]  # taking turns
        step_s, cost_s = seconds[-1]
        print(f"{name}: a step of {batch} images {step_s:.2f} s, expected cost {cost_s / step_s:.3%} of it")
        assert cost_s < 0.01 * step_s


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
