"""How long a prediction takes: reported by pytest-benchmark, never asserted.

`pytest tests/speed --benchmark-only`
"""

from itertools import cycle

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from predictors import LatencyPredictor, load_device
from search_spaces import load_space


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
def test_predicting_one_arch_after_warm_up(name: str, benchmark: BenchmarkFixture) -> None:
    space = load_space(name).deployed(224)
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(500)]
    latencies = [predictor.predict(space.graph(arch)).latency_s for arch in archs]
    turn = cycle(archs)
    prediction = benchmark(lambda: predictor.predict(space.graph(next(turn))))
    assert prediction.latency_s in latencies
