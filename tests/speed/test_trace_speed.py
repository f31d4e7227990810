"""How long a trace takes beside fvcore's count on the same network. Reported, never asserted:

pytest tests/speed/test_trace_speed.py --benchmark-enable
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from predictors import trace

NETWORKS = ("mobilenetv3_large_100", "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")


@pytest.fixture(params=NETWORKS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    made: nn.Module = timm.create_model(request.param).eval()
    return made


def test_trace(benchmark: BenchmarkFixture, net: nn.Module) -> None:
    x = torch.zeros(1, 3, 224, 224)
    assert benchmark(trace, net, x).macs > 0


def test_fvcores_count(
    benchmark: BenchmarkFixture, net: nn.Module, fvcore_macs: Callable[[nn.Module, Tensor], int]
) -> None:
    x = torch.zeros(1, 3, 224, 224)
    assert benchmark(fvcore_macs, net, x) > 0
