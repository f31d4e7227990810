"""Channels sorted by importance: every space, and Once-for-All's own code on the same weights."""

import pytest
import torch
from torch import Tensor

from predictors.paths import shipped
from search_spaces import Space, load_space
from search_spaces.channel_sorting import channel_order, narrowest_arch, reorder, sort_channels
from search_spaces.supernet import Supernet

SHIPPED = sorted(path.stem for path in shipped("space").glob("*.yaml"))
SMALL = ("_tiny", "_digits")
SPACES = [name for name in SHIPPED if name.endswith(SMALL) or not any(f"{name}{small}" in SHIPPED for small in SMALL)]
"""The smaller ones, where a family has several."""
SPACES.remove("vit_s")  # vit with other numbers
torch.set_num_threads(1)


def uneven(space: Space) -> Supernet:
    """A supernet whose channels all differ, in their statistics and kernel transforms too."""
    torch.manual_seed(0)
    supernet = space.supernet().eval()
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand_like(tensor) if tensor.ndim == 1 else 0.02 * torch.randn_like(tensor))
    return supernet


def answers(supernet: Supernet, x: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = supernet(x).double()
    return found / found.abs().max()


@pytest.mark.parametrize("name", SPACES)
def test_sorting_leaves_the_largest_network_as_it_was_and_changes_narrower_ones(name: str) -> None:
    space = load_space(name)
    supernet = uneven(space)
    x = torch.randn(1, space.in_channels, 64, 64)
    narrow = narrowest_arch(space)
    wide = answers(supernet, x)
    supernet.set_arch(narrow)
    before = answers(supernet, x)
    order = sort_channels(supernet)
    after = answers(supernet, x)
    supernet.set_arch(space.largest())
    torch.testing.assert_close(answers(supernet, x), wide, rtol=0, atol=1e-5)
    sizes = [
        {key: each.shape for key, each in space.build(arch).named_parameters()} for arch in (narrow, space.largest())
    ]
    elastic = {key for key in sizes[0] if sizes[0][key][:2] != sizes[1][key][:2]}
    assert elastic <= set(order)
    assert torch.allclose(before, after) == (not elastic)


def test_the_order_is_that_of_once_for_all_with_the_same_weights() -> None:
    """`re_organize_middle_weights` of the public package, on a block with squeeze-and-excite, in both of its stages."""
    from ofa.imagenet_classification.elastic_nn.modules.dynamic_layers import DynamicMBConvLayer

    space = load_space("mobilenet_v3_tiny", expansions=[3, 4, 6])
    for stage in (0, 1):
        supernet = uneven(space)
        block = supernet.network.stages[1][1]
        theirs = DynamicMBConvLayer([32], [32], [3, 5, 7], [3, 4, 6], act_func="h_swish", use_se=True)
        pairs = {
            "expand.conv.weight": theirs.inverted_bottleneck.conv.conv.weight,
            "expand.bn.weight": theirs.inverted_bottleneck.bn.bn.weight,
            "expand.bn.running_var": theirs.inverted_bottleneck.bn.bn.running_var,
            "depthwise.conv.weight": theirs.depth_conv.conv.conv.weight,
            "depthwise.bn.running_mean": theirs.depth_conv.bn.bn.running_mean,
            "squeeze.reduce.weight": theirs.depth_conv.se.fc.reduce.weight,
            "squeeze.reduce.bias": theirs.depth_conv.se.fc.reduce.bias,
            "squeeze.expand.weight": theirs.depth_conv.se.fc.expand.weight,
            "squeeze.expand.bias": theirs.depth_conv.se.fc.expand.bias,
            "project.conv.weight": theirs.point_linear.conv.conv.weight,
        }
        ours = dict(block.state_dict())
        for name, tensor in pairs.items():
            tensor.data.copy_(ours[name])
        trained = [space.largest() | {knob: 4 for knob in space.choices if knob.endswith("expansion")}]
        sort_channels(supernet, keep=trained if stage else [])
        theirs.re_organize_middle_weights(expand_ratio_stage=stage)
        for name, parameter in pairs.items():
            found, expected = ours[name], parameter.data
            if not stage:
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
            elif not name.startswith("squeeze"):
                # Beyond what stays smallest (4 of 6) theirs adds 2e5 to norms of about 1, which float32 then rounds:
                # the same channels, in an order that says little. And theirs sorts all of the gate, trained or not.
                axis = 1 if name.startswith("project") else 0
                torch.testing.assert_close(found.narrow(axis, 0, 128), expected.narrow(axis, 0, 128), rtol=0, atol=0)
                torch.testing.assert_close(
                    found.narrow(axis, 128, 64).flatten().sort().values,
                    expected.narrow(axis, 128, 64).flatten().sort().values, rtol=0, atol=0,
                )  # fmt: skip


def test_what_is_trained_keeps_its_channels() -> None:
    """The subnets of the wider expansions hold the same channels before and after, in another order."""
    space = load_space("mobilenet_v3_tiny")
    supernet = uneven(space)
    trained = [space.largest() | {knob: 3 for knob in space.choices if knob.endswith("expansion")}]
    x = torch.randn(1, 1, 32, 32)
    supernet.set_arch(trained[0])
    before = answers(supernet, x)
    order = sort_channels(supernet, keep=trained)
    torch.testing.assert_close(answers(supernet, x), before, rtol=0, atol=1e-5)
    (axis, index), *_ = order["stages.2.1.project.conv.weight"]
    assert axis == 1
    assert sorted(index[:192].tolist()) == list(range(192))  # 3 of 4 times 64
    assert index.tolist() != list(range(256))
    supernet.set_arch(space.smallest())
    assert not torch.allclose(answers(supernet, x), before)


def test_the_leading_channels_of_sorted_weights_are_the_most_important() -> None:
    supernet = uneven(load_space("mobilenet_v3_tiny"))
    sort_channels(supernet)
    norms = supernet.network.stages[1][0].project.conv.weight.abs().sum(dim=(0, 2, 3))
    assert (norms.diff() <= 0).all()
    assert not any(
        moves for moves in channel_order(supernet).values() if any((each.diff() != 1).any() for _, each in moves)
    )


def test_moments_of_the_optimizer_move_with_their_weights() -> None:
    supernet = uneven(load_space("mobilenet_v3_tiny"))
    moments = {name: each.detach().clone() for name, each in supernet.network.named_parameters()}
    reorder(moments, sort_channels(supernet))
    for name, each in supernet.network.named_parameters():
        assert torch.equal(moments[name], each), name
