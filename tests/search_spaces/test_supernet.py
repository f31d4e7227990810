"""Supernets of spaces unlike the shipped ones: several kernel sets, tied layers, buffers that are not saved."""

import copy
import pickle
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import Self

from predictors.graph import Graph, GraphBuilder
from search_spaces import load_space
from search_spaces.deployment import as_deployed
from search_spaces.space import KnobSpace
from search_spaces.supernet import Supernet, uninitialised

torch.set_num_threads(1)


class Tied(nn.Module):
    """Two depthwise layers of their own kernel sizes, then one linear layer used twice."""

    def __init__(self, first: int, second: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, first, padding=first // 2, groups=width)
        self.second = nn.Conv2d(width, width, second, padding=second // 2, groups=width)
        self.mix = nn.Linear(width, width)
        self.mix_again = self.mix
        self.register_buffer("scale", torch.full((width,), 2.0), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.second(self.first(x_BCHW[:, : self.first.in_channels]))
        out_BC: torch.Tensor = self.mix_again(self.mix(x_BCHW.mean((2, 3)) * self.scale))
        return out_BC[:, :2]


@dataclass(frozen=True, kw_only=True)
class TiedSpace(KnobSpace):
    name: str = "tied"
    num_classes: int = 2
    in_channels: int = 8
    resolution: int = 8

    @property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        return {"first_kernel": (3, 5), "second_kernel": (5, 7), "width": (4, 8)}

    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        return ()

    def graph(self, arch: Mapping[str, int]) -> Graph:
        builder = GraphBuilder()
        return builder.graph(builder.input((1, 8, 8, 8)))

    def build(self, arch: Mapping[str, int]) -> nn.Module:
        return Tied(arch["first_kernel"], arch["second_kernel"], arch["width"])

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        return self


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return TiedSpace().supernet().eval()


def test_layers_may_have_kernel_sets_of_their_own(supernet: Supernet) -> None:
    assert sorted(supernet.kernel_transforms) == ["first_weight_to_3", "second_weight_to_5"]
    x_BCHW = torch.randn(2, 8, 8, 8)
    rng = np.random.default_rng(0)
    for arch in (supernet.space.sample(rng) for _ in range(8)):
        supernet.set_arch(arch)
        torch.testing.assert_close(supernet.extract(arch)(x_BCHW), supernet(x_BCHW))


def test_a_smaller_kernel_is_the_centre_of_the_larger_one_while_its_transform_is_the_identity(
    supernet: Supernet,
) -> None:
    subnet = supernet.extract({"first_kernel": 3, "second_kernel": 5, "width": 4})
    network = supernet.network
    torch.testing.assert_close(subnet.first.weight, network.first.weight[:4, :, 1:4, 1:4])
    torch.testing.assert_close(subnet.second.weight, network.second.weight[:4, :, 1:6, 1:6])


def test_tied_layers_stay_one_and_buffers_that_are_not_saved_are_copied(supernet: Supernet) -> None:
    supernet.network.scale.fill_(3.0)
    subnet = supernet.extract(supernet.space.smallest())
    assert subnet.mix_again is subnet.mix
    assert subnet.scale.tolist() == [3.0] * 4


def test_a_supernet_is_pickled_and_copied_with_its_weights(supernet: Supernet) -> None:
    x_BCHW = torch.randn(2, 8, 8, 8)
    supernet.set_arch(supernet.space.smallest())
    expected = supernet(x_BCHW)
    for other in (pickle.loads(pickle.dumps(supernet)), copy.deepcopy(supernet)):
        torch.testing.assert_close(other(x_BCHW), expected)
        with torch.no_grad():
            other.network.mix.weight.zero_()
        torch.testing.assert_close(supernet(x_BCHW), expected)


def test_initialisers_work_again_whatever_threads_made_modules_without_them() -> None:
    def make(entered: threading.Barrier) -> None:
        entered.wait()
        for _ in range(20):
            with uninitialised():
                nn.Linear(4, 4)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=make, args=(barrier,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(nn.init.ones_(torch.zeros(3)), torch.ones(3))


def test_making_a_module_without_initialising_draws_no_random_number() -> None:
    state = torch.random.get_rng_state()
    with uninitialised():
        load_space("mobilenet_v3_tiny").build(load_space("mobilenet_v3_tiny").smallest())
    assert torch.equal(torch.random.get_rng_state(), state)


class Doubled(nn.Module):
    """x + x until it is folded into one product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x

    def folded(self) -> nn.Module:
        return nn.Sequential(Nested())


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("has to be folded too")

    def folded(self) -> nn.Module:
        return Product()


class Product(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_everything_that_folds_is_folded_wherever_it_is_used_and_the_original_stays() -> None:
    twice = Doubled()
    network = nn.Sequential(twice, nn.Sequential(twice, Doubled()))
    deployed = as_deployed(network)
    assert sum(isinstance(each, Product) for each in deployed.modules()) == 2
    assert deployed[0] is deployed[1][0]
    x = torch.ones(1)
    assert deployed(x).item() == network(x).item() == 8.0
    assert network[0] is twice
    assert isinstance(as_deployed(Doubled())[0], Product)
