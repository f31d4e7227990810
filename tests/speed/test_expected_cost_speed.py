"""What a differentiable cost adds to a training step. Reported, never asserted: `--benchmark-enable`."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from predictors import LatencyPredictor, load_device
from predictors.training import ArchitectureLogits, ExpectedCost
from search_spaces import load_space


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
def test_a_forward_and_backward_pass(benchmark: BenchmarkFixture, name: str) -> None:
    space = load_space(name)
    logits, cost = ArchitectureLogits(space), ExpectedCost(space, LatencyPredictor(load_device("mobile_gpu")))
    benchmark(lambda: cost(logits()).backward())
    assert logits.flat_V.grad is not None
    assert logits.flat_V.grad.abs().sum() > 0
