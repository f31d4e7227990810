"""What every shipped space must hold, whatever its family: a new space is covered by being a file in configs/space."""

import math
import subprocess
import sys
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Graph, LatencyPredictor, load_device, trace
from predictors.paths import shipped
from predictors.sections import joined
from search_spaces import Arch, Space, load_space
from search_spaces.deployment import as_deployed
from search_spaces.supernet import Supernet

SPACES = sorted(path.stem for path in shipped("space").glob("*.yaml"))
every_space = pytest.mark.parametrize("name", SPACES)
torch.set_num_threads(1)


SMALLER: dict[str, dict[str, object]] = {
    "proxyless": {"resolutions": [96, 128]},
    "resnet50d": {"resolutions": [96, 128]},
    "repvgg": {"resolutions": [96, 128]},
    "nasbench201": {"num_cells": 1},
    "vit": {"resolutions": [64]},
    "vit_s": {"resolutions": [64]},
}
"""Fields of spaces that take long and hold nothing that a smaller one does not."""


@cache
def space_named(name: str) -> Space:
    return load_space(name, **SMALLER.get(name, {}))


@cache
def supernet_of(name: str) -> Supernet:
    """A supernet whose statistics and kernel transforms are not those of a fresh one."""
    torch.manual_seed(0)
    supernet = space_named(name).supernet()
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn_like(tensor))
    return supernet.eval()


def sampled(space: Space, num_archs: int = 3) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(num_archs))]


def images(space: Space, arch: Arch, batch: int = 1) -> torch.Tensor:
    size = space.image_size(arch)
    return torch.randn(batch, space.in_channels, size, size)


@every_space
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_sample_is_canonical_and_survives_encoding(name: str, seed: int) -> None:
    space = space_named(name)
    arch = space.sample(np.random.default_rng(seed))
    assert space.canonical(arch) == arch
    assert list(arch) == list(space.choices)
    assert all(type(value) is int for value in arch.values())
    encoded = space.encode([arch])
    assert encoded.dtype == np.int64
    assert encoded.shape == (1, len(space.choices))
    assert space.decode(encoded) == [arch]


@every_space
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_archs_with_one_canonical_form_have_one_graph(name: str, data: st.DataObject) -> None:
    space = space_named(name)
    arch = {knob: data.draw(st.sampled_from(values), label=knob) for knob, values in space.choices.items()}
    canonical = space.canonical(arch)
    assert space.canonical(canonical) == canonical
    assert space.graph(arch) == space.graph(canonical)


@every_space
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_mutated_arch_is_in_the_space_and_lies_between_smallest_and_largest(
    name: str, seed: int, data: st.DataObject
) -> None:
    space = space_named(name)
    arch = space.sample(np.random.default_rng(seed))
    knob = data.draw(st.sampled_from(sorted(space.choices)))
    mutated = space.canonical(arch | {knob: data.draw(st.sampled_from(space.choices[knob]))})
    least, most = space.graph(space.smallest()), space.graph(space.largest())
    assert least.macs <= space.graph(mutated).macs <= most.macs
    assert least.num_params <= space.graph(mutated).num_params <= most.num_params


@every_space
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_stands_at_the_positions_joined_is_the_graph(name: str, data: st.DataObject) -> None:
    """What costs of many archs are gathered from; a position is decided by its own knobs alone."""
    space = space_named(name)
    arch = {knob: data.draw(st.sampled_from(values), label=knob) for knob, values in space.choices.items()}
    for position in space.positions:
        assert position.section({knob: arch[knob] for knob in position.knobs}) is position.at(arch)
    if space.positions:
        graph = joined(space.positions, arch)
        assert graph == space.graph(arch)
        assert Graph(graph.nodes, graph.outputs) == graph, "checked anew, without its sections"


@every_space
def test_many_archs_cost_what_each_does(name: str) -> None:
    space = space_named(name)
    predictor = LatencyPredictor(load_device("v100"), [])
    sizes = [len(values) for values in space.choices.values()]
    indices = np.random.default_rng(0).integers(0, sizes, size=(20, len(sizes)))
    found = predictor.predict_many(space, indices)
    for row, arch in enumerate(space.decode(indices)):
        graph = space.graph(arch)
        expected = predictor.predict(Graph(graph.nodes, graph.outputs))
        for metric in ("latency_s", "std_s", "macs", "num_params", "traffic_bytes", "peak_memory_bytes"):
            assert getattr(found, metric)[row] == pytest.approx(getattr(expected, metric), rel=1e-9), metric


@every_space
def test_choices_increase(name: str) -> None:
    for values in space_named(name).choices.values():
        assert list(values) == sorted(set(values))


@every_space
def test_the_graph_is_what_tracing_the_module_finds(name: str) -> None:
    space = space_named(name)
    for arch in sampled(space):
        assert trace(as_deployed(space.build(arch)), images(space, arch)) == space.graph(arch)


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Two products, which fvcore counts where they are written out: it has no formula for the whole operator."""
    query, key, value = (each.type().sizes() for each in inputs[:3])
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * math.prod(value[-2:])


@every_space
def test_macs_and_parameters_agree_exactly_with_fvcore(name: str) -> None:
    space = space_named(name)
    for arch in sampled(space):
        module = as_deployed(space.build(arch))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit, which fvcore is built on, is deprecated
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(module, images(space, arch)).unsupported_ops_warnings(False)
            counted = analysis.set_op_handle("aten::scaled_dot_product_attention", attention_macs).total()
        graph = space.graph(arch)
        assert graph.macs == counted
        assert graph.num_params == sum(parameter.numel() for parameter in module.parameters())


@every_space
def test_an_extracted_subnet_computes_what_the_active_slice_computes(name: str) -> None:
    space, supernet = space_named(name), supernet_of(name)
    outputs = []
    for arch in sampled(space):
        torch.manual_seed(0)
        x = images(space, space.smallest(), batch=2)
        supernet.set_arch(arch)
        subnet = supernet.extract(arch)
        with torch.inference_mode():
            outputs.append(supernet(x))
            torch.testing.assert_close(subnet(x), outputs[-1], rtol=0, atol=1e-5)
        assert type(subnet) is type(space.build(arch))
        deployed = as_deployed(subnet)
        assert sum(parameter.numel() for parameter in deployed.parameters()) == space.graph(arch).num_params
    assert all(not torch.allclose(outputs[0], other, atol=1e-4) for other in outputs[1:])


@every_space
def test_an_extracted_subnet_shares_no_memory_with_the_supernet(name: str) -> None:
    supernet = supernet_of(name)
    subnet = supernet.extract(supernet.space.largest())
    shared = {tensor.data_ptr() for tensor in supernet.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in subnet.state_dict().values()}


@every_space
def test_training_the_smallest_subnet_moves_only_its_part_of_the_shared_weights(name: str) -> None:
    space = space_named(name)
    supernet = space.supernet().train()
    supernet.set_arch(space.smallest())
    supernet(images(space, space.smallest(), batch=2)).square().sum().backward()
    slices = supernet.slices(space.build(space.smallest()))
    for parameter_name, shared in supernet.network.named_parameters():
        if parameter_name not in slices:
            assert shared.grad is None, parameter_name
        else:
            outside = shared.grad.clone()
            outside[tuple(slice(size) for size in slices[parameter_name].shape[:2])] = 0
            assert not outside.any(), parameter_name


@every_space
def test_deployment_scales_the_images_and_nothing_else(name: str) -> None:
    space = space_named(name)
    arch = space.smallest()
    deployed = space.deployed(resolution=2 * space.resolution, batch=3)
    _, channels, height, width = space.graph(arch).nodes[0].operator.output_shape
    assert deployed.graph(arch).nodes[0].operator.output_shape == (3, channels, 2 * height, 2 * width)
    assert deployed.choices == space.choices
    assert deployed.graph(arch).num_params == space.graph(arch).num_params
    assert space.deployed() == space


@every_space
def test_deployment_at_an_impossible_resolution_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be deployed at resolution 0"):
        space_named(name).deployed(resolution=0)
    with pytest.raises(ValueError, match="batch"):
        space_named(name).deployed(batch=0)


@every_space
def test_an_arch_of_another_space_is_refused_with_the_knob_and_its_values(name: str) -> None:
    space = space_named(name)
    knob = next(iter(space.choices))
    with pytest.raises(ValueError, match=rf"'{knob}' takes .* the arch has 99"):
        space.canonical(space.smallest() | {knob: 99})
    with pytest.raises(ValueError, match=rf"'{knob}' takes .* does not give it"):
        space.graph({other: value for other, value in space.smallest().items() if other != knob})
    with pytest.raises(ValueError, match=r"no knobs \['bogus'\]"):
        space.encode([space.smallest() | {"bogus": 1}])


@every_space
def test_indices_outside_of_the_space_are_refused(name: str) -> None:
    space = space_named(name)
    with pytest.raises(ValueError, match="decodes arrays of shape"):
        space.decode(np.zeros((1, len(space.choices) + 1), dtype=np.int64))
    with pytest.raises(ValueError, match="outside"):
        space.decode(np.full((1, len(space.choices)), 99))


def test_spaces_and_graphs_need_no_torch() -> None:
    code = (
        "import sys; from search_spaces import load_space; "
        f"[load_space(name).graph(load_space(name).largest()) for name in {SPACES}]; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
