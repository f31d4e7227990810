import pytest
import torch

from predictors import trace
from search_spaces import load_space


def test_the_published_width_rounds_to_these_channels() -> None:
    """1.3 * 32 = 41.6 -> 40; 20.8 -> 24; 31.2, 52, 104, 124.8, 249.6, 416 -> 32, 56, 104, 128, 248, 416; 1664."""
    layout = load_space("proxyless").layout(load_space("proxyless").smallest())
    assert layout.stem.channels == 40
    assert (layout.first_block.in_channels, layout.first_block.out_channels) == (40, 24)
    assert [blocks[0].out_channels for blocks in layout.stages] == [32, 56, 104, 128, 248, 416]
    assert layout.head[:2] == (1664, 0)


def test_the_smallest_network_has_the_parameters_derived_by_hand() -> None:
    """Width 1, one stage of one block, everything 8 channels wide, kernel 3, expansion 2; a norm has 2 a channel."""
    space = load_space(
        "proxyless_tiny", num_classes=10, kernels=[3], expansions=[2], depths=[1], stage_widths=[8], stage_strides=[2],
        stem_width=8, first_block_width=8, last_stage_width=8, feature_width=8,
    )  # fmt: skip
    stem = 8 * 1 * 9 + 16
    first_block = (8 * 9 + 16) + (8 * 8 + 16)
    block = (8 * 16 + 32) + (16 * 9 + 32) + (16 * 8 + 16)
    head = 8 * 8 + 16 + (8 * 10 + 10)
    assert space.graph(space.smallest()).num_params == stem + first_block + 2 * block + head


def test_the_block_behind_the_stages_has_no_depth_and_is_always_there() -> None:
    space = load_space("proxyless")
    assert [knob for knob in space.choices if knob.startswith("stage6")] == [
        "stage6_block1_kernel", "stage6_block1_expansion",
    ]  # fmt: skip
    assert not [knob for knob in space.dead_knobs(space.smallest()) if knob.startswith("stage6")]


@pytest.mark.parametrize("strides", [[1, 2, 3], [3, 3, 1]])
def test_sizes_between_blocks_follow_from_the_strides_whatever_they_are(strides: list[int]) -> None:
    space = load_space("proxyless_tiny", resolutions=[21, 33], stage_strides=strides)
    for arch in (space.smallest(), space.largest()):
        graph = space.graph(arch)
        assert trace(space.build(arch).eval(), torch.zeros(graph.nodes[0].operator.output_shape)) == graph


@pytest.mark.parametrize("field", ["first_block_width", "last_stage_width", "feature_width"])
def test_widths_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be positive, found 0"):
        load_space("proxyless_tiny", **{field: 0})
