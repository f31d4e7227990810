"""Published supernets, as the public `ofa` package (PyPI, MIT licence) makes them and as we read them: random weights,
statistics and kernel transforms, since no published file may be downloaded here.

The default run compares ten subnets a family; RIDGELINE_ALL_NETWORKS=1 takes 50 of each, for 50 s of one core.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import Arch, Space, load_space
from search_spaces.ofa_checkpoint import read_ofa_checkpoint
from search_spaces.supernet import Supernet, uninitialised

torch.set_num_threads(1)
NUM_ARCHS = 50 if "RIDGELINE_ALL_NETWORKS" in os.environ else 10
SPACES = {
    "mobilenet_v3": {"width_multiplier": 1.0},
    "mobilenet_v3_w1.2": {"width_multiplier": 1.2},
    "proxyless": {},
    "resnet50d": {},
}
every_family = pytest.mark.parametrize("family", SPACES)


def space_of(family: str, **fields: object) -> Space:
    return load_space(family.removesuffix("_w1.2"), **(SPACES[family] | fields))


@cache
def published(family: str) -> nn.Module:
    """The package's supernet, with the arguments that its own `ofa_net` gives before it downloads the weights."""
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks", reason="PyPI's ofa is missing")
    torch.manual_seed(0)
    blocks = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4], "dropout_rate": 0}
    if family == "resnet50d":
        network = networks.OFAResNets(
            depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0], dropout_rate=0
        )
    elif family == "proxyless":
        network = networks.OFAProxylessNASNets(width_mult=1.3, **blocks)
    else:
        network = networks.OFAMobileNetV3(width_mult=1.2 if family.endswith("1.2") else 1.0, **blocks)
    randomise(network)
    return network.eval()


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Weights, statistics and transforms of no special form. As in a trained supernet, leading channels and the centres
    of kernels weigh most; else what a subnet computes would hardly depend on the image.
    """
    for name, tensor in network.named_parameters():
        if name.endswith("_matrix"):
            tensor.copy_(torch.eye(len(tensor)) + 0.05 * torch.randn_like(tensor))
        elif tensor.ndim > 1:
            nn.init.kaiming_normal_(tensor)
            tensor *= torch.linspace(2, 0.2, tensor.shape[1]).reshape(-1, *[1] * (tensor.ndim - 2))
            if tensor.ndim == 4 and tensor.shape[1] == 1:
                from_centre = (torch.arange(tensor.shape[-1]) - tensor.shape[-1] // 2).abs()
                tensor *= 0.5 ** torch.maximum(from_centre, from_centre[:, None])
        elif name.endswith("weight"):
            tensor.uniform_(0.8, 1.2)
        else:
            tensor.uniform_(-0.2, 0.2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.randn(16, 3, 64, 64))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.9, 1.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("published")

    def file_of(family: str) -> Path:
        path = folder / family
        if not path.exists():
            torch.save({"state_dict": published(family).state_dict()}, path)
        return path

    return file_of


def published_config(family: str, arch: Arch) -> dict[str, list[Any]]:
    """What `set_active_subnet` of the package takes. It lists every block, also those beyond a stage's depth."""
    if family == "resnet50d":
        widths, stages = {650: 0, 800: 1, 1000: 2}, {1: 2, 2: 2, 3: 4, 4: 2}
        return {
            "d": [2 * arch["stem_depth"], *(arch[f"stage{stage}_depth"] - least for stage, least in stages.items())],
            "e": [
                arch[f"stage{stage}_block{block}_expansion"] / 1000
                for stage, least in stages.items()
                for block in range(1, least + 3)
            ],
            "w": [widths[arch[knob]] for knob in arch if knob.endswith("_width")],
        }
    blocks = [f"stage{stage}_block{block}" for stage in range(1, 6) for block in range(1, 5)]
    blocks += ["stage6_block1"] if family == "proxyless" else []
    return {
        "ks": [arch[f"{block}_kernel"] for block in blocks],
        "e": [arch[f"{block}_expansion"] for block in blocks],
        "d": [arch[f"stage{stage}_depth"] for stage in range(1, 6)] + ([1] if family == "proxyless" else []),
    }


@every_family
@torch.inference_mode()
def test_subnets_compute_what_the_published_code_computes(family: str, files: Callable[[str], Path]) -> None:
    space, theirs = space_of(family), published(family)
    supernet = read_ofa_checkpoint(files(family), space)
    rng = np.random.default_rng(0)
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(NUM_ARCHS - 2))]
    x_BCHW = torch.randn(1, 3, 64, 64)
    outputs = []
    for arch in archs:
        theirs.set_active_subnet(**published_config(family, arch))
        expected = theirs(x_BCHW)
        assert 0.1 < expected.std() < 10, "else 1e-4 would say nothing"
        supernet.set_arch(arch)
        outputs.append(supernet(x_BCHW))
        torch.testing.assert_close(outputs[-1], expected, rtol=0, atol=1e-4)
        with uninitialised():
            alone = theirs.get_active_subnet(preserve_weight=True).eval()
        torch.testing.assert_close(supernet.extract(arch)(x_BCHW), alone(x_BCHW), rtol=0, atol=1e-4)
    assert all((first - second).abs().max() > 0.01 for first, second in pairwise(outputs))


@every_family
def test_norms_are_those_of_the_published_network(family: str, files: Callable[[str], Path]) -> None:
    network = read_ofa_checkpoint(files(family), space_of(family)).network
    norms = {(each.momentum, each.eps) for each in network.modules() if isinstance(each, nn.BatchNorm2d)}
    expected = published(family).get_bn_param()
    assert norms == {(expected["momentum"], expected["eps"])}


@every_family
def test_macs_and_parameters_are_those_of_the_published_subnets(
    family: str, fvcore_macs: Callable[[nn.Module, torch.Tensor], int]
) -> None:
    space, theirs = space_of(family, resolutions=[64]), published(family)
    for arch in (space.smallest(), space.largest()):
        theirs.set_active_subnet(**published_config(family, arch))
        with uninitialised():
            alone = theirs.get_active_subnet(preserve_weight=False)
        graph = space.graph(arch)
        assert graph.num_params == sum(parameter.numel() for parameter in alone.parameters())
        # fvcore counts what a pooling reads, and nothing for `mean`, which their networks end in.
        pooled = sum(node.operator.macs for node in graph.nodes if node.operator.kind == "adaptive_pool2d")
        assert graph.macs - pooled == fvcore_macs(alone, torch.zeros(1, 3, 64, 64))


def renamed(rename: Callable[[str], str]) -> Callable[[Mapping[str, Any]], object]:
    return lambda state: {"state_dict": {rename(name): tensor for name, tensor in state.items()}}


def old_name(name: str) -> str:
    """As in the files of 2019 and 2020."""
    return name.replace(".conv.", ".mobile_inverted_conv.", 1) if name.startswith("blocks.") else name


def plain_name(name: str) -> str:
    """Without the wrappers of elastic layers."""
    name = name.replace("bn.bn.", "bn.").replace("linear.linear.", "linear.")
    return name.replace("depth_conv.conv.conv.", "depth_conv.conv.").replace(".conv.conv.weight", ".conv.weight")


WRITINGS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "old names": renamed(old_name),
    "plain names": renamed(plain_name),
    "of a parallel module": renamed(lambda name: f"module.{name}"),
    "not wrapped": lambda state: dict(state),
    "beside other things": lambda state: {"epoch": 3, "state_dict": dict(state)},
    "without counters": lambda state: {name: each for name, each in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_every_version_of_the_file_is_read(writing: str, files: Callable[[str], Path], tmp_path: Path) -> None:
    content = WRITINGS[writing](published("mobilenet_v3").state_dict())
    torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=False)
    assert_same(tmp_path / "file", files("mobilenet_v3"), space_of("mobilenet_v3"))


def test_plain_names_of_the_residual_network_are_read(files: Callable[[str], Path], tmp_path: Path) -> None:
    torch.save(WRITINGS["plain names"](published("resnet50d").state_dict()), tmp_path / "file")
    assert_same(tmp_path / "file", files("resnet50d"), space_of("resnet50d"))


def assert_same(path: Path, other: Path, space: Space) -> None:
    expected = read_ofa_checkpoint(other, space).state_dict()
    for name, tensor in read_ofa_checkpoint(path, space).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_resolutions_and_names_of_a_space_are_free(files: Callable[[str], Path]) -> None:
    space = load_space("mobilenet_v3", name="mine", resolutions=[96])
    assert isinstance(read_ofa_checkpoint(files("mobilenet_v3"), space), Supernet)


def test_a_file_of_another_space_names_the_space_that_takes_it(files: Callable[[str], Path]) -> None:
    for family, other in (("proxyless", "mobilenet_v3"), ("resnet50d", "proxyless"), ("mobilenet_v3", "resnet50d")):
        with pytest.raises(
            ValueError, match=rf"weights of {family!r} \(ofa_.*space {other!r} .* ask for space={family}"
        ):
            read_ofa_checkpoint(files(family), load_space(other))


def test_a_file_of_another_width_names_the_width(files: Callable[[str], Path]) -> None:
    with pytest.raises(
        ValueError, match=r"first_conv\.conv\.weight is \(24, 3, 3, 3\), not \(16, .*width_multiplier=1\.2"
    ):
        read_ofa_checkpoint(files("mobilenet_v3_w1.2"), space_of("mobilenet_v3"))


def test_another_number_of_classes_is_named(files: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="the file's network has 1000 classes, that of the space 10"):
        read_ofa_checkpoint(files("mobilenet_v3"), space_of("mobilenet_v3", num_classes=10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_strides": [2, 2, 2, 2, 2]}, r"stage_strides is \[2, 2, 2, 2, 2\], .* weights \[2, 2, 2, 1, 2\]"),
        ({"kernels": [3, 7]}, r"kernels is \[3, 7\]"),
        ({"stem_activation": "relu"}, "stem_activation is 'relu'"),
    ],
)  # fmt: skip
def test_what_no_shape_would_tell_is_compared_too(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_ofa_checkpoint(tmp_path / "never read", load_space("mobilenet_v3", **fields))


def test_a_space_without_published_weights_is_told_which_have_some(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no weights for space 'nasbench201', but for \['mobilenet_v3', 'proxyless', "
    ):
        read_ofa_checkpoint(tmp_path / "never read", load_space("nasbench201"))
    with pytest.raises(
        ValueError, match=r"'mobilenet_v3_tiny': .* for the published weights .* in space=mobilenet_v3$"
    ):
        read_ofa_checkpoint(tmp_path / "never read", load_space("mobilenet_v3_tiny"))


def test_missing_surplus_and_doubled_tensors_are_named(tmp_path: Path) -> None:
    state, space = dict(published("mobilenet_v3").state_dict()), space_of("mobilenet_v3")
    missing = {name: tensor for name, tensor in state.items() if "s.7.conv.depth_conv.conv.7to5" not in name}
    for content, message in (
        (missing, r"needs tensors that the file lacks: blocks\.7\.depth_conv\.conv\.7to5_matrix$"),
        (state | {"extra.weight": torch.zeros(1)}, r"no place for tensors of the file: extra\.weight$"),
        (state | {"module.first_conv.bn.weight": torch.zeros(16)}, r"'first_conv\.bn\.weight' twice"),
        ({"state_dict": {"a": 3}}, "found other things: a"),
        ({"state_dict": [1, 2]}, "found list"),
        ([1, 2], "found list"),
    ):
        torch.save(content, tmp_path / "file")
        with pytest.raises(ValueError, match=message):
            read_ofa_checkpoint(tmp_path / "file", space)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["RIDGELINE_TEST_FOLDER"],)


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made by the code"
    monkeypatch.setenv("RIDGELINE_TEST_FOLDER", str(made))
    path, space = tmp_path / "file", space_of("mobilenet_v3")
    torch.save({"state_dict": Malicious()}, path)
    with pytest.raises(ValueError, match=r"refused, for it asks to run 'posix\.mkdir'"):
        read_ofa_checkpoint(path, space)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"refused, .* none is run"):
        read_ofa_checkpoint(path, space)
    assert not made.exists()


def test_what_is_no_checkpoint_is_refused(files: Callable[[str], Path], tmp_path: Path) -> None:
    path, space = tmp_path / "file", space_of("mobilenet_v3")
    with pytest.raises(ValueError, match=r"there is no checkpoint '.*file'"):
        read_ofa_checkpoint(path, space)
    whole = files("mobilenet_v3").read_bytes()
    for content in (b"", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"refused, for it is no file of tensors that torch\.save wrote, or not a whole one"
        ):
            read_ofa_checkpoint(path, space)
