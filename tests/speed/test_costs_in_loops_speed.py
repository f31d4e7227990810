"""What predicted costs take against a training step. Reported, never asserted: `--benchmark-enable -s`."""

import time
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import cross_entropy

from predictors.training import device_predictors, predicted_costs

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large_100", "vit_small_patch16_224"])
def test_costs_on_two_devices_each_epoch(benchmark: BenchmarkFixture, name: str) -> None:
    timm = pytest.importorskip("timm")
    net, x = timm.create_model(name).train(), torch.zeros(1, 3, 224, 224)
    predictors = device_predictors(["mobile_gpu", "v100"])
    costs = benchmark(predicted_costs, net, x, predictors)
    assert costs["mobile_gpu/latency_ms"] > 0
    if benchmark.enabled:
        images, labels = torch.randn(8, 3, 224, 224), torch.randint(1000, (8,))
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        step_s, costs_s = [], []
        for _ in range(3):  # taking turns, so that a busy machine slows both

            def step() -> None:
                optimizer.zero_grad()
                cross_entropy(net(images), labels).backward()
                optimizer.step()

            step_s.append(_seconds(step))
            costs_s.append(_seconds(lambda: predicted_costs(net, x, predictors)))
        share = median(costs / step for costs, step in zip(costs_s, step_s))
        print(f"{name}: a step of 8 images {median(step_s):.2f} s, costs {share:.2%} of one step, once an epoch")


def _seconds(run) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
