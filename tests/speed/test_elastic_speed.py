"""How long channels and elastic networks of ImageNet's size take: `pytest tests/speed --benchmark-enable`."""

from functools import cache

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from predictors import LatencyPredictor, load_device, trace
from predictors.channel_groups import channel_groups
from search_spaces.elastic import ElasticSpace, elastic
from search_spaces.supernet import uninitialised

torch.set_num_threads(1)
IMAGE = torch.empty(1, 3, 224, 224, device="meta")


@cache
def network(name: str) -> nn.Module:
    import timm

    with uninitialised():
        module: nn.Module = timm.create_model(name)
    return module


@cache
def space() -> ElasticSpace:
    widths = {"layer*.*.conv1": (0.5, 0.75, 1.0), "layer*.*.conv2": (0.5, 0.75, 1.0)}
    return elastic(network("resnet50"), IMAGE, widths, {"layer2": (2, 3, 4), "layer3": (3, 4, 5, 6)})


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv3_large_100", "vit_small_patch16_224"])
def test_channel_groups(benchmark: BenchmarkFixture, name: str) -> None:
    graph = trace(network(name), IMAGE)
    assert any(not group.fixed for group in benchmark(channel_groups, graph))


def test_the_graph_of_an_arch_of_an_elastic_network(benchmark: BenchmarkFixture) -> None:
    rng = np.random.default_rng(0)
    archs = [space().sample(rng) for _ in range(300)]
    for arch in archs:
        space().graph(arch)
    numbers = iter(range(10**9))
    assert benchmark(lambda: space().graph(archs[next(numbers) % 300])).macs > 0


def test_the_cost_of_a_thousand_archs_of_an_elastic_network(benchmark: BenchmarkFixture) -> None:
    rng = np.random.default_rng(0)
    indices = space().encode([space().sample(rng) for _ in range(1000)])
    predictor = LatencyPredictor(load_device("v100"), [])
    predictor.predict_many(space(), indices)
    assert len(benchmark(predictor.predict_many, space(), indices)) == 1000


def test_a_module_without_weights_for_a_supernet(benchmark: BenchmarkFixture) -> None:
    arch = space().smallest()
    with uninitialised():
        assert benchmark(space().build, arch) is not None


def test_making_a_network_elastic(benchmark: BenchmarkFixture) -> None:
    assert benchmark.pedantic(space.__wrapped__, rounds=3).choices
