"""What only a GPU can show: times that the host has no part in, tables of queued kernels, whole networks."""

import time

import numpy as np
import pytest
import torch

from predictors import GraphBuilder, LatencyPredictor, load_device, load_runtime
from predictors.graph import Graph
from predictors.measure.backend import open_backend
from predictors.measure.clock import Clock
from predictors.measure.machine import host_seconds, launch_s
from predictors.measure.plan import graphs_plan
from predictors.measure.session import Settings
from predictors.profile import profile_machine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def network(batch: int, width: int = 64, depth: int = 6) -> Graph:
    builder = GraphBuilder()
    x = builder.input((batch, 3, 56, 56))
    for _ in range(depth):
        x = builder.activation(builder.batch_norm(builder.conv2d(x, width, kernel=3)), "relu")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))


@pytest.fixture(scope="module")
def queue():
    from predictors.measure.gpu_queue import GpuQueue

    return GpuQueue()


def test_a_slow_host_does_not_count(queue) -> None:
    x = torch.rand(2048, 2048, device="cuda")

    def slow() -> None:
        time.sleep(2e-3)
        torch.mm(x, x)

    fast_s = np.median([queue.seconds(lambda: [lambda: torch.mm(x, x)] * 5) for _ in range(5)])
    slow_s = np.median([queue.seconds(lambda: [slow] * 5) for _ in range(5)])
    assert slow_s == pytest.approx(fast_s, rel=0.1)
    assert slow_s < 1.5e-3, "the sleep is 2 ms"


def test_calls_add_up_to_what_they_take_together(queue) -> None:
    x = torch.rand(4096, 4096, device="cuda")
    apart_s = np.median([queue.seconds(lambda: [lambda: torch.mm(x, x)] * 20).sum() for _ in range(5)])
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(20):
        torch.mm(x, x)
    end.record()
    torch.cuda.synchronize()
    assert apart_s == pytest.approx(begin.elapsed_time(end) * 1e-3, rel=0.1)


def test_a_tiny_kernel_takes_the_gpu_microseconds(queue) -> None:
    x = torch.zeros(8, device="cuda")
    assert 1e-7 < np.median(queue.seconds(lambda: [x.relu_] * 50)) < 1e-5
    assert 0.0 <= queue.event_s < 1e-5


def test_more_calls_than_a_queue_holds_at_once_are_timed_in_stretches(queue) -> None:
    x = torch.zeros(8, device="cuda")
    assert queue.seconds(lambda: [x.relu_] * 500).shape == (500,)


@pytest.mark.parametrize("runtime", ["torch_eager", "torch_compile"])
def test_the_host_takes_longer_than_the_gpu_for_tiny_kernels(runtime: str) -> None:
    backend = open_backend(runtime, processor="cuda")
    device_s = launch_s(backend, Clock(processor="cuda"), Settings(budget_s=5.0))
    host = host_seconds([network(1)], backend, load_runtime(backend.name))
    assert 1e-7 < device_s < 1e-4
    assert 1e-6 < host.of_kernel < 1e-3
    assert {"conv2d", "activation"} <= set(host.of_class)
    assert all(each > 0.0 for each in host.of_class.values())
    assert 0.0 < host.of_network < 1e-3


def test_a_profile_of_a_gpu_predicts_networks_that_wait_for_either(tmp_path) -> None:
    small, large = network(1, width=32), network(64, width=128)
    plan = graphs_plan([network(1), small, large], check=[small, large])
    settings = Settings(budget_s=20.0, precision=0.02, progress=False)
    profile = profile_machine(plan, name="card", folder=tmp_path, processor="cuda", settings=settings)
    assert all(abs(check.error) < 0.4 for check in profile.checks), [check.error for check in profile.checks]
    device = load_device(tmp_path / "card.yaml")
    assert device.host_launch is not None
    assert device.compute_units is not None
    prediction = LatencyPredictor(device).predict(small)
    assert prediction.coverage == pytest.approx(1.0)
    assert prediction.latency_s > sum(row.latency_s for row in prediction.kernels), "the host takes longer"
