"""NAS-Bench-201: published counts and order of archs, dead branches, and cells without a path."""

import csv
import gzip
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Graph, LatencyPredictor, load_device
from predictors.fusion import load_runtime, only_reader
from predictors.nasbench201 import (
    NB201_EDGES,
    NB201_OPERATIONS,
    nb201_official_order,
    nb201_text,
    parse_nb201,
    without_dead_branches,
)
from predictors.operators import Conv2d, Elementwise, Linear
from predictors.paths import shipped
from predictors.validation.cell_graphs import nb201_graph
from search_spaces import Arch, load_space
from search_spaces.nasbench201 import (
    KNOBS,
    OPERATIONS,
    NasBench201Space,
    arch_from_index,
    arch_from_operations,
    arch_from_string,
    arch_string,
)

torch.set_num_threads(1)

DATA = Path(__file__).parents[3] / "shared" / "data" / "nasbench201_acc" / "nb201_accuracy.csv.gz"
RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
CELLS = st.tuples(*[st.sampled_from(OPERATIONS)] * len(KNOBS))


def nasbench201(**fields: object) -> NasBench201Space:
    space = load_space("nasbench201", **fields)
    assert isinstance(space, NasBench201Space)
    return space


def products(graph: Graph) -> int:
    """MACs of convolutions and linear layers alone, which the paper counts."""
    return sum(node.operator.macs for node in graph.nodes if isinstance(node.operator, Conv2d | Linear))


STEM = 32 * 32 * 3 * 16 * 9
REDUCTIONS = 2 * (16 * 16 * 32 * 16 * 9 + 16 * 16 * 32 * 32 * 9 + 16 * 16 * 32 * 16)
"""Half the size and twice the channels: both cost the same."""
CONVOLUTION = 32 * 32 * 16 * 16 * 9
"""One 3x3 convolution, in a cell of any stage."""


@pytest.mark.parametrize(
    ("text", "convolutions_a_cell", "published_m"),
    [
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|", 6, 220.12),
        (RESNET, 2, 78.56),
        ("|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|", 0, 7.78),
    ],
)
def test_the_multiplications_are_those_derived_by_hand(text: str, convolutions_a_cell: int, published_m: float) -> None:
    """The benchmark gives them in millions, to two digits."""
    space = nasbench201()
    expected = STEM + 15 * convolutions_a_cell * CONVOLUTION + REDUCTIONS + 64 * 10
    assert products(space.graph(arch_from_string(space, text))) == expected
    assert round(expected / 1e6, 2) == published_m


def test_the_largest_and_the_smallest_network_have_the_published_parameters() -> None:
    """1.531546 M and 0.073306 M: stem 432 + 32, reductions 14,464 + 57,600, norm 128, classifier 650."""
    space = nasbench201()
    assert space.graph(space.largest()).num_params == 1_531_546
    reductions = [
        channels // 2 * channels * 9 + channels * channels * 9 + 2 * 2 * channels + channels // 2 * channels
        for channels in (32, 64)
    ]
    assert space.graph(space.smallest()).num_params == 432 + 32 + sum(reductions) + 128 + 650 == 73_306


def test_a_hundred_classes_have_a_classifier_of_a_hundred_rows() -> None:
    space, hundred = nasbench201(), nasbench201(num_classes=100)
    assert hundred.graph(space.largest()).num_params - space.graph(space.largest()).num_params == 90 * 65


def test_archs_are_written_as_the_benchmark_writes_them() -> None:
    space = nasbench201()
    arch = arch_from_string(space, RESNET)
    # 3x3 from 0 to 1 and from 1 to 2, skips from 0 to 3 and from 2 to 3
    assert arch == {"edge_1_0": 4, "edge_2_0": 0, "edge_2_1": 4, "edge_3_0": 1, "edge_3_1": 0, "edge_3_2": 1}
    assert arch_string(arch) == RESNET


@given(CELLS)
def test_what_is_written_is_read_back(operations: tuple[str, ...]) -> None:
    arch = arch_from_operations(operations)
    assert arch_from_operations(parse_nb201(arch_string(arch))) == arch
    assert parse_nb201(nb201_text(operations)) == operations


def test_a_string_that_is_no_arch_is_refused() -> None:
    with pytest.raises(ValueError, match="no NAS-Bench-201 arch"):
        arch_from_string(nasbench201(), "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|")


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (0, "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"),
        (9, "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"),
        (123, "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"),
    ],
)
def test_the_order_is_the_official_one(index: int, text: str) -> None:
    """These three are what the original code checks after it has shuffled."""
    assert nb201_text(nb201_official_order()[index]) == text
    space = nasbench201()
    assert arch_from_index(space, index) == arch_from_string(space, text)


def test_the_order_is_that_of_a_published_table() -> None:
    if not DATA.exists():
        pytest.skip(f"the table of accuracies is not there: {DATA.name}")
    with gzip.open(DATA, "rt", encoding="utf-8", newline="") as file:
        texts = {int(row["arch_id"]): row["arch_str"] for row in csv.DictReader(file)}
    assert [texts[index] for index in range(len(texts))] == [nb201_text(each) for each in nb201_official_order()]


def test_an_index_outside_of_the_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="archs 0 to 15624, found 15625"):
        arch_from_index(nasbench201(), 15_625)


@pytest.mark.parametrize(
    ("dead", "kept"),
    [
        # node 2 leads nowhere
        ("|skip_connect~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|none~2|", [0, 4]),
        # nothing enters node 1, so what leaves it carries nothing
        ("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|nor_conv_1x1~2|", [1, 5]),
        # a path to the output starts nowhere
        ("|none~0|+|none~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|nor_conv_1x1~2|", []),
        (RESNET, [0, 2, 3, 5]),
    ],
)
def test_edges_on_no_path_are_dead(dead: str, kept: list[int]) -> None:
    operations = parse_nb201(dead)
    expected = tuple(each if edge in kept else "none" for edge, each in enumerate(operations))
    assert without_dead_branches(operations) == expected
    assert arch_from_string(nasbench201(), dead) == arch_from_operations(expected)
    kept_space = nasbench201(keeps_dead_branches=True)
    assert arch_from_string(kept_space, dead) == arch_from_operations(operations)


def test_paths_are_those_that_a_search_of_all_finds() -> None:
    """A second route: an edge lives if one of the four ways from node 0 to 3 has it and is whole."""
    ways = [[(0, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)], [(0, 1), (1, 2), (2, 3)]]
    for there in product((False, True), repeat=6):
        whole = [way for way in ways if all(there[NB201_EDGES.index(edge)] for edge in way)]
        operations = tuple("skip_connect" if each else "none" for each in there)
        expected = tuple("skip_connect" if any(edge in way for way in whole) else "none" for edge in NB201_EDGES)
        assert without_dead_branches(operations) == expected


def test_of_all_archs_9445_are_different_networks() -> None:
    archs = product(NB201_OPERATIONS, repeat=6)
    assert len({without_dead_branches(operations) for operations in archs}) == 9445


@settings(max_examples=25, deadline=None)
@given(CELLS)
def test_with_its_dead_branches_the_graph_is_what_the_validation_of_the_predictor_measures(
    operations: tuple[str, ...],
) -> None:
    """A second way to the whole network; there `none` has a name of its own, which runtimes may see through."""
    graph = nb201_graph(operations)
    renamed = tuple(
        replace(node, operator=replace(node.operator, function="mul"))
        if isinstance(node.operator, Elementwise) and node.operator.function == "zero"
        else node
        for node in graph.nodes
    )
    assert nasbench201(keeps_dead_branches=True).graph(arch_from_operations(operations)).nodes == renamed


@settings(max_examples=15, deadline=None)
@given(CELLS)
def test_without_its_dead_branches_a_network_computes_the_same(operations: tuple[str, ...]) -> None:
    """Norms that see zeros add nothing while their statistics are fresh, so even those of dead edges do not count."""
    fields = {"num_cells": 1, "channels": [2, 4], "image_resolution": 4}
    whole = nasbench201(keeps_dead_branches=True, **fields).build(arch_from_operations(operations)).eval()
    part = nasbench201(**fields).build(arch_from_operations(operations)).eval()
    weights = whole.state_dict()
    part.load_state_dict({name: weights[name] for name in part.state_dict()})
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(part(x), whole(x))


@pytest.mark.parametrize("keeps_dead_branches", [False, True])
def test_a_cell_without_a_path_trains_and_is_predicted(keeps_dead_branches: bool) -> None:
    space = nasbench201(num_cells=1, keeps_dead_branches=keeps_dead_branches)
    supernet = space.supernet().train()
    supernet.set_arch(space.smallest())
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        logits = supernet(torch.randn(4, 3, 32, 32))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
        optimiser.step()
    assert all(parameter.isfinite().all() for parameter in supernet.parameters())
    logits = supernet.eval()(torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(logits, logits[:1].expand(4, -1))
    assert LatencyPredictor(load_device("mobile_gpu")).predict(space.graph(space.smallest())).latency_s > 0.0


def test_pooling_does_not_count_the_padding() -> None:
    space = nasbench201(num_cells=1)
    arch = space.smallest() | {"edge_3_0": OPERATIONS.index("avg_pool_3x3")}
    cell = space.build(arch).stages[0].get_submodule("cell1")
    ones = torch.ones(1, 16, 4, 4)
    torch.testing.assert_close(cell(ones), ones)


def test_the_shared_network_holds_both_convolutions_of_every_edge() -> None:
    space = nasbench201()
    shared = dict(space.shared_network().named_parameters())
    windows = [name for name, parameter in shared.items() if ".edges." in name and parameter.ndim == 4]
    assert len(windows) == 15 * 6 * 2
    only_1x1: Arch = dict.fromkeys(KNOBS, OPERATIONS.index("nor_conv_1x1"))
    assert {name for name, _ in space.build(only_1x1).named_parameters()} < set(shared)


@pytest.mark.parametrize("runtime", sorted(path.stem for path in shipped("runtime").glob("*.yaml")))
def test_no_runtime_fuses_over_the_borders_of_sections(runtime: str) -> None:
    """So that `predict_many` may add them up: several operators read what enters each section behind the first."""
    rules = load_runtime(runtime)
    rng = np.random.default_rng(0)
    lengths = set()
    for keeps_dead_branches in (False, True):
        space = nasbench201(keeps_dead_branches=keeps_dead_branches)
        for _ in range(40):
            sections = space.graph(space.sample(rng)).sections
            lengths.add(len(sections))
            assert all(only_reader(section.graph, 0, rules) is None for section in sections[1:])
    assert lengths == {1, 1 + 15 + 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": []}, "channels must be positive"),
        ({"channels": [16, 0]}, "channels must be positive"),
        ({"num_cells": 0}, "num_cells must be positive, found 0"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"image_resolution": 30}, "image_resolution 30 must be a positive multiple of 4"),
        ({"keeps_dead_branches": 1}, "keeps_dead_branches: expected bool"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nasbench201(**fields)


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be deployed at resolution 30: it must be a positive multiple of 4"):
        nasbench201().deployed(resolution=30)
