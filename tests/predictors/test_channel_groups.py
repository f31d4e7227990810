"""Groups of channels by the second route: the same network with its channels exchanged, or without some of them."""

import copy
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from predictors import Graph, GraphBuilder, trace
from predictors.channel_groups import ChannelGroup, channel_groups, with_parameters
from search_spaces.channel_cutting import cut, kept_places
from search_spaces.channel_sorting import Order, norm_groups, reorder

NETWORKS = (
    "resnet18", "resnet50d", "mobilenetv3_small_100", "densenet121", "efficientnet_b0", "convnext_atto", "regnety_002",
    "vit_tiny_patch16_224", "poolformer_s12",
)  # fmt: skip
CUT = tuple(name for name in NETWORKS if name not in ("vit_tiny_patch16_224", "poolformer_s12"))
"""All but those whose own code holds numbers: of heads, of the channels that a scale has."""
every_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def network(name: str) -> tuple[nn.Module, Tensor, tuple[ChannelGroup, ...]]:
    """A network of timm whose norms and scales are not those of a fresh one, an input, and its groups."""
    import timm

    torch.manual_seed(0)
    options = {"img_size": 64} if name.startswith("vit") else {}
    module = timm.create_model(name, num_classes=10, **options).eval()
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point() and (tensor.ndim == 1 or "gamma" in key):
                tensor.copy_(0.5 + torch.rand_like(tensor))
    x = torch.randn(1, 3, 64, 64)
    groups = channel_groups(trace(module, x), norm_groups(module))
    return module, x, with_parameters(groups, {key: tuple(each.shape) for key, each in module.state_dict().items()})


def output(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(x).double()
    return found / found.abs().max()


def exchanged(groups: Sequence[ChannelGroup], rng: np.random.Generator) -> Order:
    """Every group's units in another order: for each tensor where each place takes its channel from."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for group in groups:
        order = np.roll(rng.permutation(group.size), 1)
        if (order == np.arange(group.size)).all():
            order = order[::-1].copy()
        for use in group.uses:
            for name, axis in use.tensors:
                places = found.setdefault(name, {}).setdefault(axis, np.arange(len(use.unit_of)))
                mine = use.unit_of >= 0
                places[mine] = use.reordered(order)[mine]
    return {name: [(axis, torch.from_numpy(index)) for axis, index in each.items()] for name, each in found.items()}


@every_network
def test_exchanging_the_channels_of_every_free_group_leaves_the_output_as_it_was(name: str) -> None:
    module, x, groups = network(name)
    other = copy.deepcopy(module)
    order = exchanged([group for group in groups if not group.fixed], np.random.default_rng(0))
    reorder(other.state_dict(), order)
    torch.testing.assert_close(output(other, x), output(module, x), rtol=0, atol=1e-5)
    learned = {key for key, each in module.named_parameters() if each.numel() > 10}
    assert learned <= set(order)


@every_network
def test_exchanging_them_in_one_tensor_alone_changes_the_output(name: str) -> None:
    module, x, groups = network(name)
    expected = output(module, x)
    rng = np.random.default_rng(1)
    free = [group for group in groups if not group.fixed]
    for number in rng.permutation(len(free))[:6]:
        moves = exchanged([free[number]], rng)
        key = list(moves)[rng.integers(len(moves))]
        before = module.state_dict()[key].clone()
        reorder(module.state_dict(), {key: moves[key][:1]})
        found = output(module, x)
        module.state_dict()[key].copy_(before)
        assert not torch.allclose(found, expected, rtol=0, atol=1e-7), key


@pytest.mark.parametrize("name", CUT)
def test_a_network_without_some_channels_of_every_group_still_runs(name: str) -> None:
    module, x, groups = network(name)
    units = {number: max(1, group.size // 2) for number, group in enumerate(groups) if not group.fixed}
    smaller = cut(module, kept_places(groups, units))
    assert output(smaller, x).isfinite().all()
    counts = [sum(each.numel() for each in net.parameters()) for net in (smaller, module)]
    assert counts[0] < 0.5 * counts[1]
    assert trace(smaller, x).num_params == counts[0]


@every_network
def test_only_the_logits_are_fixed_in_common_networks(name: str) -> None:
    _, _, groups = network(name)
    assert [(group.size, group.fixed) for group in groups if group.fixed] == [(10, "they leave the network")]


# --------------------------------------------------------------------------------------------------- one rule at a time


def found(graph: Graph) -> list[tuple[str, int, list[tuple[str, str]], str]]:
    return [
        (each.name, each.size, [(use.name, use.side) for use in each.uses], each.fixed)
        for each in channel_groups(graph)
    ]


def start(channels: int = 8) -> tuple[GraphBuilder, int]:
    builder = GraphBuilder()
    return builder, builder.conv2d(builder.input((1, 3, 6, 6), "input"), channels, kernel=3, name="stem")


def finish(builder: GraphBuilder, x: int) -> Graph:
    return builder.graph(builder.linear(builder.flatten(x), 5, name="classifier"))


def test_a_flattened_channel_is_as_many_places_as_it_has_pixels() -> None:
    builder, x = start(4)
    group = channel_groups(finish(builder, x))[0]
    assert group.size == 4
    stem, classifier = group.uses
    assert stem.unit_of.tolist() == [0, 1, 2, 3]
    assert classifier.unit_of.tolist() == [0] * 36 + [1] * 36 + [2] * 36 + [3] * 36
    assert classifier.tensors == (("classifier.weight", 1),)
    assert classifier.places[1].tolist() == list(range(36, 72))


def test_concatenated_channels_are_groups_of_their_own_behind_each_other() -> None:
    builder, x = start(8)
    y = builder.conv2d(x, 4, kernel=1, name="branch")
    builder.conv2d(builder.concat(x, y), 6, kernel=1, name="mix")
    groups = channel_groups(finish(builder, 3 + 1))
    assert [(each.name, each.size) for each in groups] == [("stem", 8), ("branch", 4), ("mix", 6), ("classifier", 5)]
    assert groups[1].uses[-1].name == "mix"
    assert groups[1].uses[-1].unit_of.tolist() == [-1] * 8 + [0, 1, 2, 3]


def test_a_sum_joins_the_channels_of_its_terms() -> None:
    builder, x = start(8)
    y = builder.conv2d(x, 8, kernel=3, name="a")
    z = builder.elementwise("add", y, builder.conv2d(x, 8, kernel=1, name="b"))
    assert found(finish(builder, z))[1] == ("a", 8, [("a", "out"), ("b", "out"), ("classifier", "in")], "")


def test_a_sum_with_the_image_fixes_channels_and_says_so() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 3, 6, 6), "input")
    y = builder.elementwise("add", x, builder.conv2d(x, 3, kernel=3, name="a"), name="sum")
    name, _, _, fixed = found(finish(builder, y))[0]
    assert (name, fixed) == ("a", "add 'sum' joins them with channels that are never cut")


def test_a_depthwise_convolution_has_the_channels_of_its_input() -> None:
    builder, x = start(8)
    y = builder.batch_norm(builder.conv2d(x, 16, kernel=3, groups=8, name="twice"), "bn")
    name, size, uses, _ = found(finish(builder, y))[0]
    assert (name, size) == ("stem", 8)
    assert uses == [("stem", "out"), ("twice", "in"), ("twice", "out"), ("bn", "out"), ("classifier", "in")]
    assert channel_groups(finish(builder, y))[0].uses[2].unit_of.tolist() == [i // 2 for i in range(16)]


def test_a_convolution_in_groups_keeps_whole_groups() -> None:
    builder, x = start(8)
    group = channel_groups(finish(builder, builder.conv2d(x, 12, kernel=3, groups=4, name="grouped")))[0]
    assert group.size == 4
    assert group.uses[0].unit_of.tolist() == [i // 2 for i in range(8)]
    assert group.uses[2].unit_of.tolist() == [i // 3 for i in range(12)]


def test_a_gate_joins_what_it_reads_and_what_it_multiplies() -> None:
    builder, x = start(8)
    gate = builder.conv2d(builder.global_pool(x), 4, kernel=1, bias=True, name="reduce")
    gate = builder.activation(builder.conv2d(gate, 8, kernel=1, bias=True, name="expand"), "sigmoid")
    groups = found(finish(builder, builder.elementwise("mul", x, gate)))
    assert groups[0] == ("stem", 8, [("stem", "out"), ("reduce", "in"), ("expand", "out"), ("classifier", "in")], "")
    assert groups[1] == ("reduce", 4, [("reduce", "out"), ("expand", "in")], "")


def test_a_layer_that_runs_twice_has_its_channels_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.again = nn.Conv2d(8, 8, 1)
            self.end = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.again(self.again(self.stem(x))))

    groups = channel_groups(trace(Twice(), torch.zeros(1, 3, 4, 4)))
    assert [(each.name, each.size) for each in groups if not each.fixed] == [("stem", 8)]


class Halves(nn.Module):
    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first
        self.stem = nn.Conv2d(3, 8, 1)
        self.end = nn.Conv2d(first, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.stem(x)[:, : self.first])


def test_halves_lose_the_same_places_and_other_parts_are_fixed() -> None:
    half, part = (channel_groups(trace(Halves(first), torch.zeros(1, 3, 4, 4)))[0] for first in (4, 3))
    assert half.size == 4
    assert half.uses[0].unit_of.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert "takes a part of them by number" in part.fixed


def test_heads_of_attention_are_cut_whole() -> None:
    _, _, groups = network("vit_tiny_patch16_224")
    heads = next(group for group in groups if group.name == "blocks.0.attn.qkv")
    assert heads.size == 3
    query, key, value = heads.uses[0].unit_of.reshape(3, -1)
    assert query.tolist() == key.tolist() == value.tolist() == [i // 64 for i in range(192)]
    assert heads.uses[1].unit_of.tolist() == query.tolist()


def test_attention_that_is_written_out_has_the_same_channels() -> None:
    module, x, groups = network("vit_tiny_patch16_224")
    written = copy.deepcopy(module)
    for each in written.modules():
        if hasattr(each, "fused_attn"):
            each.fused_attn = False
    graph = trace(written, x)
    assert any(node.operator.kind == "matmul" for node in graph.nodes)
    found = channel_groups(graph)
    assert [(group.name, group.size, group.fixed) for group in found] == [
        (group.name, group.size, group.fixed) for group in groups
    ]
    assert all(
        np.array_equal(one.unit_of, other.unit_of)
        for group, same in zip(found, groups)
        for one, other in zip(group.uses, same.uses)
    )


def test_a_shuffle_of_channels_is_followed() -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.end = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).view(1, 2, 4, 4, 4).transpose(1, 2).reshape(1, 8, 4, 4)
            return self.end(y)

    group = channel_groups(trace(Shuffle(), torch.zeros(1, 3, 4, 4)))[0]
    assert group.size == 4
    assert group.uses[0].unit_of.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert group.uses[1].unit_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_group_norm_keeps_its_groups_where_their_number_is_known() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 1))
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    assert "whose number is not known" in channel_groups(graph)[0].fixed
    assert [group.size for group in channel_groups(graph, norm_groups(net)) if not group.fixed] == [2]


def test_a_weight_that_the_module_does_not_have_fixes_its_group() -> None:
    builder, x = start(8)
    groups = with_parameters(channel_groups(finish(builder, x)), {"stem.weight": (8, 3, 3, 3)})
    assert groups[0].fixed == "the module has no weight 'classifier.weight' with 288 channels along axis 1"
