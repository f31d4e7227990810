from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import trace
from search_spaces import Arch, Space, load_space


@cache
def space_named(name: str) -> Space:
    return load_space(name)


def test_resnet_50_d_is_in_the_space_and_has_its_published_parameters() -> None:
    """25,576,264 parameters, 4.35 GMACs at 224 (resnet50d, https://github.com/huggingface/pytorch-image-models)."""
    space = load_space("resnet50d", resolutions=[224])
    blocks = {"stage1": 3, "stage2": 4, "stage3": 6, "stage4": 3}
    arch = {knob: 250 if knob.endswith("expansion") else 1000 for knob in space.choices}
    arch |= {f"{stage}_depth": depth for stage, depth in blocks.items()} | {"stem_depth": 1}
    graph = space.graph(arch)
    assert graph.num_params == 25_576_264
    assert graph.macs == pytest.approx(4.35e9, rel=0.01)


def test_widths_and_expansions_round_to_these_channels() -> None:
    """At 0.65: 64 -> 41.6 -> 40, half of it 20 -> 24; 256 -> 166.4 -> 168, its 0.35 is 58.8 -> 59 -> 56."""
    space = load_space("resnet50d")
    layout = space.layout(space.smallest() | {"stage1_block1_expansion": 350})
    assert layout.stem[:2] == (24, 40)
    assert layout.stages[0][0][:3] == (40, 56, 168)
    assert [blocks[-1].out_channels for blocks in layout.stages] == [168, 336, 664, 1328]


def test_the_hidden_stem_of_two_widths_is_one_network() -> None:
    """Half of 48 channels (0.8) are 24, and half of 40 (0.65) are 20, which round to 24."""
    space = load_space("resnet50d")
    arch = space.smallest() | {"stem_hidden_width": 800}
    assert space.canonical(arch) == space.smallest()
    assert space.graph(arch) == space.graph(space.smallest())
    assert space.canonical(arch | {"stem_hidden_width": 1000})["stem_hidden_width"] == 1000


@pytest.mark.parametrize("name", ["resnet50d", "resnet50d_tiny", "proxyless", "mobilenet_v3"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_archs_of_another_canonical_form_are_other_networks(name: str, data: st.DataObject) -> None:
    space = space_named(name)

    def drawn(knobs: list[str]) -> Arch:
        return {knob: data.draw(st.sampled_from(space.choices[knob])) for knob in knobs}

    arch = drawn(list(space.choices))
    other = arch | drawn([data.draw(st.sampled_from(list(space.choices)))])
    same = space.canonical(arch) == space.canonical(other)
    assert (space.graph(arch) == space.graph(other)) == same


@pytest.mark.parametrize("stem_stride", [1, 2, 3])
@pytest.mark.parametrize("strides", [[1, 2, 3], [3, 1, 2]])
def test_sizes_between_blocks_follow_from_the_strides_whatever_they_are(stem_stride: int, strides: list[int]) -> None:
    space = load_space("resnet50d_tiny", resolutions=[21, 33, 50], stem_stride=stem_stride, stage_strides=strides)
    for arch in (space.smallest(), space.largest() | {"resolution": 33}, space.largest()):
        graph = space.graph(arch)
        assert trace(space.build(arch).eval(), torch.zeros(graph.nodes[0].operator.output_shape)) == graph


def test_nodes_are_named_like_the_modules_that_they_come_from() -> None:
    space = load_space("resnet50d_tiny")
    modules = dict(space.build(space.largest()).named_modules())
    for node in space.graph(space.largest()).nodes[1:]:
        assert node.name in modules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": [1000, 650]}, "widths must be positive and increasing"),
        ({"expansions": []}, "expansions must be positive and increasing"),
        ({"extra_depths": [1, 2]}, r"extra_depths must be increasing from 0, found \[1, 2\]"),
        ({"extra_depths": []}, "extra_depths must be increasing from 0"),
        ({"stage_depths": [1, 1]}, "stage_depths needs one entry for each of the 3 stages"),
        ({"stage_depths": [1, 0, 1]}, "stage_depths must be positive, found 0"),
        ({"stem_width": 0}, "stem_width must be positive"),
        ({"widths": [0.65, 1.0]}, r"widths: expected int, found 0\.65"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_space("resnet50d_tiny", **fields)
