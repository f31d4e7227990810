"""How long subnets' accuracies take, statistics included. Reported, never asserted: `--benchmark-enable`."""

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from nas.accuracy import SupernetAccuracy
from nas.data import ImageData, load_data
from nas.surrogate import load_surrogate
from search_spaces import load_space

torch.set_num_threads(1)
NUM_ARCHS = 12


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> ImageData:
    """2,500 validation images; fewer where nothing is timed."""
    timed = request.config.getoption("benchmark_enable")
    return load_data("cluttered_digits", **({} if timed else {"num_train": 300, "num_valid": 50, "num_test": 50}))


@pytest.mark.parametrize("known", [False, True], ids=["new_subnet", "known_subnet"])
def test_twelve_subnets_of_mobilenet_v3_tiny_on_cluttered_digits(
    benchmark: BenchmarkFixture, data: ImageData, known: bool
) -> None:
    """From archs to their accuracies. A new subnet's statistics are computed, a known one's are there."""
    torch.manual_seed(0)
    space = load_space("mobilenet_v3_tiny")
    judge = SupernetAccuracy(space.supernet().eval(), data)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(NUM_ARCHS)]
    for resolution in space.choices["resolution"]:
        judge({**space.smallest(), "resolution": resolution})  # images are prepared once

    def all_of_them() -> list[float]:
        if not known:
            judge._statistics._entries.clear()
        return [judge(arch) for arch in archs]

    assert len(benchmark.pedantic(all_of_them, rounds=7, warmup_rounds=1)) == NUM_ARCHS


def test_ten_thousand_archs_by_the_surrogate(benchmark: BenchmarkFixture) -> None:
    space = load_space("mobilenet_v3", resolutions=[224])
    surrogate = load_surrogate("ofa_mobilenet_v3_w1.0_r224")
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(200)] * 50
    accuracies, _ = benchmark(lambda: surrogate.of_many(space, archs))
    assert accuracies.shape == (10_000,)
