"""How long the module of a subnet takes to make, with and without drawing weights. Reported: `--benchmark-enable`."""

from contextlib import nullcontext

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from search_spaces import load_space
from search_spaces.supernet import uninitialised


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
@pytest.mark.parametrize("context", [uninitialised, nullcontext], ids=["without_weights", "with_weights"])
def test_the_module_of_the_largest_subnet(benchmark: BenchmarkFixture, name: str, context: type) -> None:
    space = load_space(name)

    def made() -> object:
        with context():
            return space.build(space.largest())

    assert benchmark(made) is not None
