"""RepVGG: published sizes, the fold of its branches, and which blocks have an identity."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from predictors import trace
from search_spaces import Arch, load_space
from search_spaces.deployment import Foldable, as_deployed
from search_spaces.repvgg import BlockSpec, RepVGGSpace
from search_spaces.repvgg_modules import RepVGGBlock

torch.set_num_threads(1)

DEPTHS_A, DEPTHS_B = (2, 4, 14, 1), (4, 6, 16, 1)


def repvgg(name: str = "repvgg", **fields: object) -> RepVGGSpace:
    space = load_space(name, **fields)
    assert isinstance(space, RepVGGSpace)
    return space


def published(depths: tuple[int, ...], width: int, last_width: int, groups: int = 1) -> tuple[RepVGGSpace, Arch]:
    """A network of the paper's tables, at 224 pixels."""
    space = repvgg(groups=groups)
    arch = {"resolution": 224}
    for stage, depth in enumerate(depths, start=1):
        arch |= {f"stage{stage}_depth": depth, f"stage{stage}_width": last_width if stage == 4 else width}
    return space, {knob: value for knob, value in arch.items() if knob in space.choices}


def trained_like(module: nn.Module, x_BCHW: torch.Tensor) -> nn.Module:
    """Norms of any scale, shift and statistics, none of them far from the images' own, so that numbers stay small."""
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.3)
                norm.momentum = 1.0
        module.train()(x_BCHW)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 2.0)
    return module.eval()


@pytest.mark.parametrize(
    ("variant", "params_m", "macs_b"),
    [
        (("A0", DEPTHS_A, 75, 250, 1), 8.30, 1.4),
        (("A1", DEPTHS_A, 100, 250, 1), 12.78, 2.4),
        (("B0", DEPTHS_B, 100, 250, 1), 14.33, 3.1),
        (("B1", DEPTHS_B, 200, 400, 1), 51.82, 11.8),
        (("B1g2", DEPTHS_B, 200, 400, 2), 41.36, 8.8),
        (("B1g4", DEPTHS_B, 200, 400, 4), 36.12, 7.3),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_networks_have_the_published_sizes(
    variant: tuple[str, tuple[int, ...], int, int, int], params_m: float, macs_b: float
) -> None:
    """Tables 2 and 4 of the paper; it cuts parameters off after two digits and calls MACs FLOPs."""
    _, *how = variant
    space, arch = published(*how)
    graph = space.graph(arch)
    assert params_m <= graph.num_params / 1e6 < params_m + 0.011
    assert graph.macs / 1e9 == pytest.approx(macs_b, abs=0.05)


def test_a_network_is_that_of_another_package() -> None:
    """timm's RepVGG-A0 has other names and the same weights: it gives the same logits as trained, and deployed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm import create_model

        other = create_model("repvgg_a0")
    space, arch = published(DEPTHS_A, 75, 250)
    x = torch.randn(2, 3, 64, 64)
    trained_like(other, x)
    names = {".conv_kxk.": ".dense.", ".conv_1x1.": ".pointwise.", "head.fc.": "classifier."}
    weights = other.state_dict()
    for old, new in names.items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    network = space.build(arch).eval()
    network.load_state_dict(weights)
    with torch.inference_mode():
        expected = other(x)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(as_deployed(network)(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", ["smallest", "largest", "sampled"])
def test_a_deployed_network_computes_what_the_trained_one_computes(size: str, groups: int) -> None:
    """Whole networks in float32: stride 2, changing widths, identities, groups. Logits are of the order of 1."""
    torch.manual_seed(0)
    widths = [[50, 75], [50, 100], [50, 75], [100, 150]]
    space = repvgg(resolutions=[64], widths=widths, depths=[[2, 4], [4, 6], [14, 16], [1]], groups=groups)
    rng = np.random.default_rng(0)
    arch = space.sample(rng) if size == "sampled" else getattr(space, size)()
    x = torch.randn(4, 3, 64, 64)
    network = trained_like(space.build(arch), x)
    deployed = as_deployed(network)
    assert not any(isinstance(each, nn.BatchNorm2d | Foldable) for each in deployed.modules())
    with torch.inference_mode():
        expected = network(x)
        assert expected.std() > 0.03
        torch.testing.assert_close(deployed(x), expected, rtol=0, atol=1e-4)
    assert trace(deployed, x[:1]) == space.graph(arch)


@settings(max_examples=30, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]), per_group=st.integers(1, 5), stride=st.sampled_from([1, 2, 3]),
    size=st.integers(1, 9), has_identity=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_block_folds_exactly(
    groups: int, per_group: int, stride: int, size: int, has_identity: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    channels = groups * per_group
    if has_identity:
        spec = BlockSpec(channels, channels, 1, groups, has_identity=True)
    else:
        spec = BlockSpec(channels, 2 * channels, stride, groups, has_identity=False)
    x = torch.randn(2, channels, size + 1, size + 1)
    block = trained_like(RepVGGBlock(spec), x)
    with torch.inference_mode():
        torch.testing.assert_close(block.folded()(x), block(x), rtol=1e-4, atol=1e-4)


def test_a_fold_by_hand() -> None:
    """One channel; norms with mean 1, variance 4 (its eps aside), gamma 6 and beta 5: a scale of 3, a bias of 5 - 3."""
    block = RepVGGBlock(BlockSpec(1, 1, 1, 1, has_identity=True)).eval()
    with torch.no_grad():
        for norm in (block.dense.bn, block.pointwise.bn, block.identity):
            norm.running_mean.fill_(1.0)
            norm.running_var.fill_(4.0 - norm.eps)
            norm.weight.fill_(6.0)
            norm.bias.fill_(5.0)
        block.dense.conv.weight.fill_(2.0)
        block.pointwise.conv.weight.fill_(10.0)
    conv = block.folded().conv
    expected = torch.full((1, 1, 3, 3), 3 * 2.0)
    expected[0, 0, 1, 1] += 3 * 10.0 + 3 * 1.0  # the 1x1 kernel, and the identity's, which is 1
    torch.testing.assert_close(conv.weight.detach(), expected)
    torch.testing.assert_close(conv.bias.detach(), torch.tensor([3 * (5.0 - 3.0)]))


def test_folding_leaves_the_trained_network_as_it_was() -> None:
    space = repvgg("repvgg_tiny")
    network = space.build(space.smallest())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    deployed = as_deployed(network)
    assert not {t.data_ptr() for t in deployed.parameters()} & {t.data_ptr() for t in network.parameters()}
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_block_has_an_identity_in_every_arch_or_in_none() -> None:
    """A stage of stride 1 would otherwise have one at its beginning where the widths happen to agree."""
    space = repvgg("repvgg_tiny", base_widths=[16, 16, 16])
    assert space.strides[0] == 1
    for arch in (space.smallest(), space.largest(), space.sample(np.random.default_rng(0))):
        for blocks in space.layout(arch).stages:
            assert [block.has_identity for block in blocks] == [False] + [True] * (len(blocks) - 1)


def test_a_narrow_network_has_the_first_channels_of_every_branch() -> None:
    space = repvgg("repvgg_tiny")
    supernet = space.supernet()
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    arch = space.largest() | {"stage1_width": 50, "stage2_width": 75}
    block, shared = supernet.extract(arch).stages[1][1], supernet.network.stages[1][1]
    first, shared_first = supernet.extract(arch).stages[1][0], supernet.network.stages[1][0]
    assert torch.equal(first.dense.conv.weight, shared_first.dense.conv.weight[:24, :8])
    assert torch.equal(block.pointwise.conv.weight, shared.pointwise.conv.weight[:24, :24])
    assert torch.equal(block.identity.running_var, shared.identity.running_var[:24])


def test_the_stem_is_never_wider_than_the_first_stage() -> None:
    """The paper's min(64, 64 a)."""
    space = repvgg()
    layouts = {width: space.layout(space.largest() | {"stage1_width": width}) for width in (75, 100, 200)}
    stems = {width: layout.stem.out_channels for width, layout in layouts.items()}
    assert stems == {75: 48, 100: 64, 200: 64}


def test_only_what_has_a_choice_is_a_knob() -> None:
    assert "stage4_depth" not in repvgg().choices
    space = repvgg("repvgg_tiny", resolutions=[32], depths=[[2], [2], [2]], widths=[[100], [100], [50, 100]])
    assert dict(space.choices) == {"stage3_width": (50, 100)}
    graph = space.graph({"stage3_width": 50})
    assert trace(as_deployed(space.build({"stage3_width": 50})), torch.zeros(1, 1, 32, 32)) == graph


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [[1, 2]]}, "depths needs one entry for each of the 3 stages, at least one"),
        ({"strides": [1, 2, 0]}, "strides must be positive"),
        ({"base_widths": [16, 32, -64]}, "base_widths must be positive"),
        ({"resolutions": [32, 24]}, r"resolution must be positive and increase, found \[32, 24\]"),
        ({"depths": [[1, 2], [], [1]]}, r"stage2_depth must be positive and increase, found \[\]"),
        ({"widths": [[50], [100, 50], [100]]}, r"stage2_width must be positive and increase, found \[100, 50\]"),
        ({"widths": [[50], [55], [100]]}, r"55 % of 32 channels are 17.6, which must be a whole number"),
        ({"groups": 3}, "50 % of 16 channels are 8, .* divide into 3 groups"),
        ({"stem_width": 0}, "stem_width must be positive, found 0"),
        ({"widths": [50, 100]}, "widths: expected list or tuple, found 50"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repvgg("repvgg_tiny", **fields)


def test_resolutions_scale_with_deployment() -> None:
    with pytest.raises(ValueError, match=r"its resolution 20 of .* would become 62\.5"):
        repvgg("repvgg_tiny").deployed(resolution=100)
