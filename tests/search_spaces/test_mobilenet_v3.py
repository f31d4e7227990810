from pathlib import Path

import pytest
import torch

from predictors import trace
from predictors.paths import shipped
from search_spaces import load_space, space_from_mapping
from search_spaces.inverted_residuals import make_divisible

torch.set_num_threads(1)


def uniform(space_name: str, depth: int, kernel: int, expansion: int, **fields: object) -> tuple[int, int]:
    """MACs and parameters of the arch that makes the same choice everywhere, at the largest resolution."""
    space = load_space(space_name, **fields)
    values = {"depth": depth, "kernel": kernel, "expansion": expansion, "resolution": space.resolution}
    graph = space.graph({knob: values[knob.rsplit("_")[-1]] for knob in space.choices})
    return graph.macs, graph.num_params


def test_the_largest_network_has_the_published_size() -> None:
    """Once-for-All's largest subnet of width 1.0 has 7.7 M parameters (https://arxiv.org/abs/1908.09791, section 3)."""
    macs, num_params = uniform("mobilenet_v3", depth=4, kernel=7, expansion=6)
    assert num_params == pytest.approx(7.7e6, rel=0.01)
    assert macs == pytest.approx(586e6, rel=0.01)


def test_an_inverted_residual_block_has_the_parameters_derived_by_hand() -> None:
    """Stage 1, block 2 of width 24, kernel 3 -> 5 and expansion 3 -> 4."""
    space = load_space("mobilenet_v3")
    base = space.smallest() | {"stage1_depth": 2}
    params = {}
    for kernel, expansion in ((3, 3), (5, 3), (3, 4)):
        knobs = {"stage1_block2_kernel": kernel, "stage1_block2_expansion": expansion}
        params[kernel, expansion] = space.graph(base | knobs).num_params
    assert params[5, 3] - params[3, 3] == 72 * (25 - 9)
    # expand 24 x 24, its BN 2 x 24, depthwise 24 x 9, its BN 2 x 24, project 24 x 24
    assert params[3, 4] - params[3, 3] == 24 * 24 + 48 + 24 * 9 + 48 + 24 * 24


def test_the_width_multiplier_scales_and_rounds_channels() -> None:
    space = load_space("mobilenet_v3", width_multiplier=1.2)
    layout = space.layout(space.largest())
    assert layout.stem.channels == 24  # 19.2 -> 16 would lose more than 10 %
    assert [blocks[0].out_channels for blocks in layout.stages] == [32, 48, 96, 136, 192]
    assert layout.head[:2] == (1152, 1536)


def test_channels_round_to_multiples_of_eight_and_lose_at_most_a_tenth() -> None:
    for channels in range(1, 500):
        rounded = make_divisible(channels)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * channels


def test_nodes_are_named_like_the_modules_that_they_come_from() -> None:
    space = load_space("mobilenet_v3_tiny")
    modules = dict(space.build(space.largest()).named_modules())
    for node in space.graph(space.largest()).nodes[1:]:
        assert node.name in modules


@pytest.mark.parametrize("stem_stride", [1, 2, 3])
@pytest.mark.parametrize("strides", [[1, 2, 3], [3, 3, 1]])
def test_sizes_between_blocks_follow_from_the_strides_whatever_they_are(stem_stride: int, strides: list[int]) -> None:
    space = load_space("mobilenet_v3_tiny", resolutions=[21, 33], stem_stride=stem_stride, stage_strides=strides)
    for arch in (space.smallest(), space.largest()):
        graph = space.graph(arch)
        assert trace(space.build(arch).eval(), torch.zeros(graph.nodes[0].operator.output_shape)) == graph


def test_resolutions_scale_with_deployment() -> None:
    space = load_space("mobilenet_v3_tiny", resolutions=[24, 32])
    deployed = space.deployed(resolution=224)
    small, large = (deployed.graph(space.largest() | {"resolution": each}).nodes[0].operator for each in (24, 32))
    assert (small.output_shape[2], large.output_shape[2]) == (168, 224)
    with pytest.raises(ValueError, match=r"its resolution 24 of .* would become 75\.75"):
        space.deployed(resolution=101)


def test_a_space_file_of_the_user_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((shipped("space") / "mobilenet_v3_tiny.yaml").read_text())
    assert load_space(path) == load_space("mobilenet_v3_tiny")


def test_an_unknown_space_lists_what_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown space 'mobilenet'; nearest are .*; there are \['mobilenet_v3', "):
        load_space("mobilenet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": [3]}, r"unknown key 'kernel'; allowed are .*'kernels'"),
        ({"kernels": 3}, "kernels: expected list or tuple, found 3"),
        ({"kernels": [3, "5"]}, "kernels: expected int, found '5'"),
        ({"kernels": [3, 4]}, "kernels must be odd"),
        ({"depths": [2, 1]}, r"depths must be positive and increasing, found \[2, 1\]"),
        ({"depths": []}, "depths must be positive and increasing"),
        ({"resolutions": [0, 32]}, "resolutions must be positive"),
        ({"stage_se": [True]}, "stage_se needs one entry for each of the 3 stages"),
        ({"stage_se": [1, 0, 1]}, "stage_se: expected bool, found 1"),
        ({"stage_strides": [2, 2, 0]}, "stage_strides must be positive"),
        ({"stage_widths": [24, 40, -1]}, "stage_widths must be positive, found -1"),
        ({"stage_activations": ["relu", "relu", "gelu"]}, "unknown activation 'gelu'"),
        ({"width_multiplier": 0.0}, "width_multiplier must be positive"),
        ({"num_classes": 0}, "num_classes must be positive, found 0"),
        ({"family": "search_spaces.nothing.Space"}, "cannot be imported as package.module.Class"),
        ({"family": 3}, "cannot be imported"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_space("mobilenet_v3_tiny", **fields)


def test_a_mapping_without_family_is_refused() -> None:
    with pytest.raises(ValueError, match="key 'family' is missing"):
        space_from_mapping({"name": "x"})
    with pytest.raises(ValueError, match="key 'kernels' is missing"):
        space_from_mapping({"family": "search_spaces.mobilenet_v3.MobileNetV3Space", "name": "x", "num_classes": 1,
                            "resolutions": [8], "stem_width": 8, "depths": [1], "expansions": [3]})  # fmt: skip


def test_small_kernels_start_as_the_centres_of_large_ones() -> None:
    space = load_space("mobilenet_v3_tiny")
    supernet = space.supernet()
    small = supernet.extract(space.largest() | {"stage1_block1_kernel": 3}).stages[0][0].depthwise.conv.weight
    large = supernet.network.stages[0][0].depthwise.conv.weight
    torch.testing.assert_close(small, large[:, :, 2:5, 2:5])


def test_a_small_kernel_passes_through_every_transform() -> None:
    space = load_space("mobilenet_v3_tiny")
    supernet = space.supernet()
    with torch.no_grad():
        for name, transform in supernet.kernel_transforms.items():
            transform.mul_(3.0 if name.endswith("to_5") else 2.0)
    kernels = {
        kernel: supernet.extract(space.largest() | {"stage1_block1_kernel": kernel}).stages[0][0].depthwise.conv.weight
        for kernel in space.kernels
    }
    torch.testing.assert_close(kernels[5], 3 * kernels[7][:, :, 1:6, 1:6])
    torch.testing.assert_close(kernels[3], 2 * 3 * kernels[7][:, :, 2:5, 2:5])
