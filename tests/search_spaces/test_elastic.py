"""Networks of users made elastic: all that shipped spaces have to hold, and what is theirs alone."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elastic_networks
import numpy as np
import pytest
import test_conformance as conformance
import torch
import yaml
from elastic_networks import Branches, MobileNet, ResNet
from torch import Tensor, nn

from predictors import trace
from search_spaces import load_space
from search_spaces.channel_sorting import sort_channels
from search_spaces.elastic import elastic, mark_width

torch.set_num_threads(1)

WIDTHS: dict[str, tuple[float, ...]] = {
    "layer*.*.conv1": (0.5, 1.0),
    "layer1.*.conv2": (8, 16),
    "layer1.0.conv3": (0.5, 1.0),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {
        "network": "elastic_networks.ResNet",
        "resolutions": [16, 24],
        "widths": {pattern: list(values) for pattern, values in WIDTHS.items()},
        "depths": {"layer1": [1, 2, 3], "layer2": [1, 2]},
    },
    "mobilenet": {"network": "elastic_networks.MobileNet", "resolutions": [16]},
}
KEPT = [
    function
    for name, function in vars(conformance).items()
    if name.startswith("test_") and "name" in inspect.signature(function).parameters
]


@pytest.fixture(scope="module", params=FAMILIES)
def space_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a user writes it into ./space."""
    path = tmp_path_factory.mktemp("space") / f"{request.param}.yaml"
    common = {
        "family": "search_spaces.elastic.ElasticSpace",
        "name": request.param,
        "num_classes": 10,
        "in_channels": 1,
    }
    path.write_text(yaml.safe_dump(common | FAMILIES[request.param]))
    return path


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__.removeprefix("test_"))
def test_what_every_shipped_space_holds(check: Callable[..., None], space_file: Path) -> None:
    check(name=str(space_file))


def test_enough_is_checked() -> None:
    assert len(KEPT) >= 15


def resnet(**changes: Any) -> Any:
    torch.manual_seed(0)
    given = {"widths": WIDTHS, "depths": {"layer1": (1, 2, 3)}} | changes
    return elastic(ResNet(), torch.zeros(1, 1, 16, 16), **given)


def test_the_supernet_starts_as_the_network_itself() -> None:
    torch.manual_seed(0)
    net = ResNet().eval()
    space = elastic(net, torch.zeros(1, 1, 16, 16), WIDTHS)
    x = torch.randn(2, 1, 16, 16)
    supernet = space.supernet().eval()
    assert supernet.arch == space.largest()
    with torch.inference_mode():
        assert torch.equal(supernet(x), net(x))
    for name, weight in net.state_dict().items():
        assert torch.equal(supernet.network.state_dict()[name], weight)
    assert not {each.data_ptr() for each in net.parameters()} & {each.data_ptr() for each in supernet.parameters()}
    fresh = space.build(space.largest()).state_dict()["fc.weight"]
    assert fresh.shape == net.fc.weight.shape
    assert not torch.equal(fresh, net.fc.weight)


def test_layers_in_a_residual_sum_share_one_width() -> None:
    space = resnet()
    assert "layer1.0.conv3_width" in space.choices
    narrow = space.build(space.largest() | {"layer1.0.conv3_width": 16})
    assert narrow.layer1[0].downsample[0].out_channels == narrow.layer1[2].conv3.out_channels == 16
    assert narrow.layer2[0].conv1.in_channels == narrow.layer1[1].conv1.in_channels == 16
    assert narrow.layer2[0].conv1.out_channels == 32


def test_blocks_are_left_out_from_the_end() -> None:
    space = resnet()
    shallow = space.build(space.largest() | {"layer1_depth": 2})
    assert list(dict(shallow.layer1.named_children())) == ["0", "1"]
    assert space.canonical(space.largest() | {"layer1_depth": 1})["layer1.1.conv1_width"] == 8


def test_a_supernet_trains_and_a_narrow_subnet_learns() -> None:
    space = resnet()
    supernet = space.supernet().train()
    torch.manual_seed(0)
    x, labels = torch.randn(16, 1, 16, 16), torch.arange(16) % 10
    optimiser = torch.optim.AdamW(supernet.parameters(), lr=0.01)
    losses = []
    for step in range(12):
        optimiser.zero_grad()
        for arch in (space.largest(), space.smallest(), space.sample(np.random.default_rng(step))):
            supernet.set_arch(arch)
            loss = nn.functional.cross_entropy(supernet(x), labels)
            loss.backward()
        supernet.set_arch(space.smallest())
        losses.append(nn.functional.cross_entropy(supernet(x), labels).item())
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
    alone = supernet.eval().extract(space.smallest())
    with torch.inference_mode():
        torch.testing.assert_close(alone(x), supernet(x), rtol=0, atol=1e-5)


def test_behind_a_concatenation_a_subnet_keeps_its_own_places_and_their_statistics() -> None:
    torch.manual_seed(0)
    space = elastic(Branches(), torch.zeros(1, 1, 8, 8), {"left": (0.5, 1.0)})
    supernet = space.supernet()
    supernet.set_arch({"left_width": 8})
    x = torch.randn(4, 1, 8, 8)
    supernet.train()(x).sum().backward()
    here = [*range(8), *range(16, 32)]
    gone = list(range(8, 16))
    assert supernet.network.end.weight.grad[:, here].abs().sum() > 0
    assert supernet.network.end.weight.grad[:, gone].abs().sum() == 0
    assert (supernet.network.norm.running_mean[gone] == 0).all()
    assert (supernet.network.norm.running_mean[here] != 0).all()
    alone = supernet.eval().extract({"left_width": 8})
    with torch.inference_mode():
        torch.testing.assert_close(alone(x), supernet(x), rtol=0, atol=1e-5)
    supernet.set_arch(space.largest())
    with torch.inference_mode():
        before = supernet(x)
        sort_channels(supernet)
        torch.testing.assert_close(supernet(x), before, rtol=0, atol=1e-5)


def test_a_network_at_real_size_has_the_graphs_that_tracing_finds() -> None:
    """Edited from the traced network: ResNet-D stems and shortcuts, squeeze-and-excite, attention."""
    import timm

    rng = np.random.default_rng(0)
    for name, widths, depths in (
        ("resnet50d", {"layer*.*.conv2": (0.25, 0.5, 1.0), "layer3.0.conv3": (0.5, 1.0)}, {"layer3": (2, 4, 6)}),
        ("mobilenetv3_large_100", {"blocks.*.*.conv_pw": (0.5, 1.0)}, {"blocks.3": (2, 3, 4)}),
        ("vit_tiny_patch16_224", {"blocks.*.mlp.fc1": (0.25, 0.5, 1.0)}, {"blocks": (10, 11, 12)}),
    ):
        with torch.device("meta"):
            module = timm.create_model(name)
        module = module.to_empty(device="cpu")
        space = elastic(module, torch.zeros(1, 3, 224, 224), widths, depths)
        assert space.plan.editable
        arch = space.sample(rng)
        assert trace(space.build(arch), torch.zeros(1, 3, 224, 224)) == space.graph(arch)


def test_heads_of_attention_need_code_that_counts_them_itself() -> None:
    """Timm's attention keeps the number of heads: its users are told, by the name of the layer."""
    import timm

    net = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=10)
    with pytest.raises(ValueError, match=r"with blocks\.0\.attn\.qkv_width 192 the network does not run, its own code"):
        elastic(net, torch.zeros(1, 3, 32, 32), {"blocks.0.attn.qkv": (192, 576)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"widths": {"layer1.*.conv9": (0.5, 1.0)}},
            r"no layer with channels 'layer1\.\*\.conv9'; nearest are .*layer1\.0\.conv1",
        ),
        ({"widths": {"fc": (0.5, 1.0)}}, "channels of 'fc' cannot be cut: they leave the network"),
        ({"widths": {"conv1": (0.25, 0.5)}}, r"'conv1' have to end with the whole layer, 1\.0 or 16"),
        ({"widths": {"conv1": (0.5, 40)}}, "shares up to 1.0 or numbers up to its 16 channels, found 40"),
        (
            {"widths": {"layer1.0.conv3": (0.5, 1.0), "layer1.1.conv3": (0.25, 1.0)}},
            "hang together, so they have the same",
        ),
        ({"depths": {"layer1": (0, 3)}}, r"increasing numbers of its 3 blocks"),
        ({"depths": {"layer1": (1, 2)}}, r"the last is all of them; found \[1, 2\]"),
        ({"depths": {"layer9": (1, 2)}}, r"no Sequential 'layer9'; nearest are \['layer"),
        ({"widths": {}, "depths": {}}, "has nothing elastic"),
        ({"resolutions": (24, 16)}, "resolutions must be positive and increasing"),
    ],
)
def test_what_cannot_be_cut_is_said_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet(**changes)


def test_a_block_that_changes_its_shape_cannot_be_left_out() -> None:
    net = MobileNet()
    net[3].elastic_depth = (1, 3)
    net[3][1] = nn.Sequential(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24))
    net[3][2] = nn.Conv2d(24, 16, 1)
    with pytest.raises(ValueError, match=r"block '3\.1' makes \(1, 24, 8, 8\) of \(1, 16, 8, 8\).*begin at 2"):
        elastic(net, torch.zeros(1, 1, 16, 16))


def test_code_that_holds_a_number_of_channels_is_named() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 16, 3)
            self.end = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.stem(x).view(-1, 16, 36).mean(2))

    with pytest.raises(ValueError, match="the network does not run on images of 6 pixels: shape"):
        elastic(Fixed(), torch.zeros(1, 1, 8, 8), {"stem": (0.5, 1.0)}, resolutions=(6, 8))
    with pytest.raises(ValueError, match="with stem_width 8 the network does not run, its own code may hold numbers"):
        elastic(Fixed(), torch.zeros(1, 1, 8, 8), {"stem": (0.5, 1.0)})


def test_channels_that_hang_together_are_cut_in_whole_groups() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(), nn.Linear(16, 10))
    space = elastic(net, torch.zeros(1, 1, 3, 3), {"0": (0.5, 0.6, 1.0)})
    assert space.choices == {"0_width": (8, 16)}
    assert space.build({"0_width": 8})[1].groups == 2
    with pytest.raises(ValueError, match="multiples of 4, which hang together; found 6"):
        elastic(net, torch.zeros(1, 1, 3, 3), {"0": (6, 16)})


def test_an_example_or_a_network_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="has to be square images"):
        elastic(ResNet(), torch.zeros(1, 1, 16, 24))
    with pytest.raises(ValueError, match="has to return logits"):
        elastic(nn.Conv2d(1, 8, 3), torch.zeros(1, 1, 16, 16), {"": (0.5, 1.0)})


def test_marks_and_patterns_that_differ_are_refused() -> None:
    net = ResNet()
    mark_width(net.conv1, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"'conv1' is asked for as \[0\.5, 1\.0\] and as \[0\.25, 1\.0\]"):
        elastic(net, torch.zeros(1, 1, 16, 16), {"conv1": (0.25, 1.0)})


def test_trained_weights_come_from_a_file(tmp_path: Path) -> None:
    fields = {
        "family": "search_spaces.elastic.ElasticSpace", "name": "mine", "num_classes": 10, "in_channels": 1,
        "resolutions": [16], "network": "elastic_networks.ResNet", "widths": {"conv1": [0.5, 1.0]},
    }  # fmt: skip
    path, weights = tmp_path / "mine.yaml", tmp_path / "mine.pt"
    path.write_text(yaml.safe_dump(fields | {"weights": str(weights)}))
    with pytest.raises(ValueError, match="do not exist"):
        load_space(path)
    net = elastic_networks.ResNet()
    torch.save(net.state_dict(), weights)
    space = load_space(path)
    assert torch.equal(space.supernet().network.conv1.weight, net.conv1.weight)  # type: ignore[union-attr]
    assert space.identity != load_space(path, weights=None).identity
    torch.save(Branches().state_dict(), weights)
    with pytest.raises(ValueError, match=r"do not fit the network: .*Missing key.*conv1\.weight"):
        load_space(path)
    torch.save(net, weights)
    with pytest.raises(ValueError, match=re.escape(f"weights {str(weights)!r} cannot be read")):
        load_space(path)
    for network in ("elastic_networks.Nothing", "nowhere.Net"):
        with pytest.raises(ValueError, match=r"is no package\.module\.function"):
            load_space(path, network=network)


def test_a_space_of_ones_own_is_found_by_its_name_and_may_not_hide_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space").mkdir()
    fields = {"family": "search_spaces.elastic.ElasticSpace", "name": "mine", "num_classes": 10, "in_channels": 1}
    text = yaml.safe_dump(fields | {"network": "elastic_networks.MobileNet", "resolutions": [16]})
    (tmp_path / "space" / "mine.yaml").write_text(text)
    assert load_space("mine").name == "mine"
    (tmp_path / "space" / "mobilenet_v3.yaml").write_text(text)
    with pytest.raises(ValueError, match="has the name of a shipped space"):
        load_space("mobilenet_v3")
