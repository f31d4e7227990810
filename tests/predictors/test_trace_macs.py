"""Multiply-accumulates operator by operator against fvcore's, and each difference with its reason."""

import warnings
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from user_networks import GPT, SSD, DeepLab, RetinaNet, SpelledOut, Tagger, UNet

from predictors import Graph, trace

OURS = {
    "conv2d": "convolution", "conv3d": "convolution", "conv_transpose2d": "convolution",
    "dynamic_conv2d": "convolution", "linear": "product", "matmul": "product", "adaptive_pool2d": "pooling",
}  # fmt: skip
FVCORES = {
    "conv": "convolution", "addmm": "product", "bmm": "product", "einsum": "product", "linear": "product",
    "matmul": "product", "mm": "product", "adaptive_avg_pool2d": "pooling", "upsample_nearest2d": "resize",
    "upsample_bilinear2d": "resize", "grid_sampler": "grid_sample",
}  # fmt: skip


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mine(graph: Graph) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in graph.nodes:
        found[OURS.get(node.operator.kind, node.operator.variant)] += node.operator.macs
    return +found


def fvcores(net: nn.Module, *inputs: Tensor) -> Counter[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 deprecates torch.jit, which fvcore stands on
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(net.eval(), inputs)
        counted = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    found: Counter[str] = Counter()
    for name, macs in counted.items():
        found[FVCORES.get(name, name)] += int(macs)
    return +found


IMAGE = (1, 8, 12, 12)
EQUAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(8, 12, 3, 2, 1, groups=4), nn.ConvTranspose2d(12, 4, 3, 2, groups=2), nn.Conv2d(4, 4, (1, 5))
        ),
        IMAGE,
    ),
    "convolutions of volumes": (lambda: nn.Conv3d(8, 4, (1, 3, 3), stride=(1, 2, 1), groups=2), (2, 8, 3, 9, 9)),
    "convolutions of signals": (lambda: nn.Sequential(nn.Conv1d(8, 4, 3), nn.ConvTranspose1d(4, 2, 3)), (2, 8, 12)),
    "norms": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True),
            nn.LayerNorm(12), nn.LayerNorm((12, 12), elementwise_affine=False),
        ),
        IMAGE,
    ),
    "resizing": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=1.5, mode="bilinear")), IMAGE
    ),
    "pooling": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(2)), IMAGE),
    "sampling": (
        lambda: Call(lambda x: functional.grid_sample(x, x.permute(0, 2, 3, 1)[..., :2], align_corners=False)), IMAGE
    ),
    "products": (lambda: Call(lambda x: torch.bmm(x, x.mT) @ torch.addmm(x[0] @ x[1].T, x[0], x[1].T)), (2, 6, 6)),
    "attention in its parts": (SpelledOut, (2, 6, 16)),
    "activations": (lambda: nn.Sequential(nn.GELU(), nn.Softmax(1), nn.Hardswish()), IMAGE),
    "retinanet": (RetinaNet, (1, 3, 64, 64)),
    "ssd": (SSD, (1, 3, 64, 64)),
    "deeplab": (DeepLab, (1, 3, 64, 64)),
    "unet": (UNet, (1, 3, 32, 32)),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_each_operator_that_fvcore_knows_costs_what_fvcore_says(name: str) -> None:
    build, shape = EQUAL[name]
    net, x = build(), torch.zeros(shape)
    assert mine(trace(net, x)) == fvcores(net, x)


def folded() -> nn.Module:
    class Folded(nn.Module):
        """A position bias that a learned layer makes of fixed distances."""

        def __init__(self) -> None:
            super().__init__()
            self.position, self.fc = nn.Linear(2, 8), nn.Linear(8, 3)
            self.register_buffer("distances", torch.zeros(5, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + self.position(self.distances))

    return Folded()


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int, int, str]] = {
    "attention": (
        lambda: Call(lambda x: functional.scaled_dot_product_attention(x, x, x)), (2, 3, 5, 8),
        "attention", 2 * 3 * 5 * 5 * (8 + 8), 0, "fvcore has no formula for aten::scaled_dot_product_attention",
    ),
    "recurrent": (
        lambda: nn.LSTM(8, 6), (5, 2, 8),
        "lstm", 5 * 2 * 4 * 6 * (8 + 6), 0, "fvcore has no formula for aten::lstm, aten::gru and aten::rnn_tanh",
    ),
    "bicubic": (
        lambda: nn.Upsample(scale_factor=2, mode="bicubic"), IMAGE,
        "resize", 16 * 8 * 24 * 24, 0, "fvcore has no formula for aten::upsample_bicubic2d: 16 reads by its own rule",
    ),
    "resizing of signals": (
        lambda: nn.Upsample(scale_factor=2, mode="linear"), (1, 8, 12),
        "resize", 4 * 8 * 24, 0, "fvcore has no formula for aten::upsample_linear1d: counted as an image's",
    ),
    "rms_norm": (
        lambda: nn.RMSNorm(12), IMAGE,
        "rms_norm", 5 * 8 * 12 * 12, 0, "fvcore has no formula for aten::rms_norm: counted as layer_norm",
    ),
    "same": (
        lambda: nn.Conv2d(8, 4, 3, padding="same"), IMAGE,
        "convolution", 4 * 12 * 12 * 8 * 9, 0, "fvcore has no formula for a padding that is a word",
    ),
    "folded": (
        folded, (5, 8),
        "product", 5 * 8 * 3, 5 * 8 * 3 + 5 * 2 * 8, "what depends on weights alone is a constant, not run again",
    ),
    "weights normalized": (
        lambda: Call(
            lambda x: functional.conv2d(
                x, functional.batch_norm(torch.zeros(1, 4, 72), None, None, training=True).view(4, 8, 3, 3)
            )
        ),
        IMAGE, "batch_norm", 0, 4 * (4 * 72), "weights that are normalized at each run (timm's NFNets) are constants",
    ),
    "other einsums": (
        lambda: Call(lambda x: torch.einsum("bhwc,hkc->bhwk", x, torch.zeros(5, 13, 123))), (2, 5, 7, 123),
        "product", 2 * 5 * 7 * 13 * 123, 111950, "of most equations fvcore reads numpy's estimate, in four digits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_operator_that_fvcore_counts_otherwise_has_its_reason(name: str) -> None:
    build, shape, group, ours, theirs, _ = DIFFERENT[name]
    net, x = build(), torch.zeros(shape)
    found, expected = mine(trace(net, x)), fvcores(net, x)
    assert (found.pop(group, 0), expected.pop(group, 0)) == (ours, theirs)
    assert found == expected


def test_a_decoder_costs_what_fvcore_says_plus_its_attention() -> None:
    net, x = GPT(), torch.zeros(2, 6, dtype=torch.long)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).logits

    found = mine(trace(net, x))
    assert found.pop("attention") == 2 * (2 * 4 * 6 * 6 * (8 + 8))
    assert found == fvcores(Logits(), x)


def test_a_tagger_costs_what_fvcore_says_plus_its_recurrent_layers() -> None:
    net, x = Tagger(), torch.zeros(2, 6, dtype=torch.long)
    found = mine(trace(net, x))
    # 12 words, both directions, 4 gates of 16 from 12 features and from 32, each beside 16 states
    assert found.pop("lstm") == 12 * 2 * 4 * 16 * ((12 + 16) + (32 + 16))
    assert found == fvcores(net, x)


TIMM: dict[str, tuple[int, dict[str, str]]] = {
    "cait_xxs24_224": (224, {"attention": "not known to fvcore"}),
    "coatnet_nano_rw_224": (224, {"attention": "not known to fvcore"}),
    "crossvit_tiny_240": (240, {"attention": "not known to fvcore", "resize": "bicubic, not known to fvcore"}),
    "edgenext_xx_small": (96, {"convolution": "of a position encoding, folded"}),
    "fastvit_t8": (96, {}),
    "gmlp_s16_224": (224, {}),
    "levit_128s": (224, {}),
    "mobilevit_xxs": (96, {"attention": "not known to fvcore"}),
    "nf_regnet_b0": (96, {"batch_norm": "of weights, folded"}),
    "poolformer_s12": (96, {}),
    "repvit_m0_9": (96, {}),
    "resnest14d": (96, {}),
    "tiny_vit_5m_224": (224, {"attention": "not known to fvcore"}),
    "xcit_nano_12_p16_224": (
        224, {"attention": "not known to fvcore", "convolution": "of a position encoding, folded"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_cost_what_fvcore_says_operator_by_operator(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    size, exceptions = TIMM[name]
    net, x = timm.create_model(name), torch.zeros(1, 3, size, size)
    found, expected = mine(trace(net, x)), fvcores(net, x)
    different = {group for group in {*found, *expected} if found[group] != expected[group]}
    assert different == exceptions.keys()
