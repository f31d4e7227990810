import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.export import export_onnx
from predictors import DeviceNotMeasuredError, Graph, LatencyPredictor, load_device, trace
from predictors.operators import Attention
from predictors.paths import shipped
from search_spaces import Arch, Space, load_space
from search_spaces.vit_modules import interpolated

torch.set_num_threads(1)

DEVICES = sorted(path.stem for path in shipped("hw").glob("*.yaml"))
RUNTIMES = sorted(path.stem for path in shipped("runtime").glob("*.yaml"))


def uniform(space: Space, embed_dim: int, depth: int, heads: int, mlp_tenths: int) -> Arch:
    values = {"embed_dim": embed_dim, "depth": depth, "heads": heads, "mlp_tenths": mlp_tenths}
    return space.canonical({knob: values[knob.split("_", 1)[1] if "block" in knob else knob] for knob in space.choices})


@pytest.fixture(scope="module")
def deit_tiny() -> nn.Module:
    import timm

    torch.manual_seed(0)
    module: nn.Module = timm.create_model("deit_tiny_patch16_224").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def test_parameters_and_macs_of_deit_tiny_are_those_of_timm(deit_tiny: nn.Module) -> None:
    """And the published ones: 5.7 M parameters, 1.3 GFLOPs, which are MACs (https://arxiv.org/abs/2012.12877, table 5;
    1.26 in timm's own benchmarks).
    """
    space = load_space("vit", pooling="token")
    graph = space.graph(uniform(space, 192, depth=12, heads=3, mlp_tenths=40))
    assert graph.num_params == sum(parameter.numel() for parameter in deit_tiny.parameters()) == 5_717_416
    assert graph.macs == trace(deit_tiny, torch.zeros(1, 3, 224, 224)).macs
    assert graph.macs == pytest.approx(1.26e9, rel=0.005)


def test_macs_of_deit_tiny_are_those_that_fvcore_counts_where_attention_is_written_out(
    deit_tiny: nn.Module, fvcore_macs: Callable[[nn.Module, Tensor], int]
) -> None:
    for block in deit_tiny.blocks:
        block.attn.fused_attn = False
    space = load_space("vit", pooling="token")
    graph = space.graph(uniform(space, 192, depth=12, heads=3, mlp_tenths=40))
    assert graph.macs == fvcore_macs(deit_tiny, torch.zeros(1, 3, 224, 224))


def test_a_network_with_the_weights_of_timms_deit_tiny_computes_what_it_does(deit_tiny: nn.Module) -> None:
    space = load_space("vit", pooling="token")
    module = space.build(uniform(space, 192, depth=12, heads=3, mlp_tenths=40)).eval()
    theirs = {
        "embedding.token": "cls_token", "embedding.positions": "pos_embed", "embedding.patches": "patch_embed.proj",
        "norm": "norm", "classifier": "head", "attention_norm": "norm1", "attention": "attn", "project": "proj",
        "mlp_norm": "norm2", "mlp.expand": "mlp.fc1", "mlp.project": "mlp.fc2",
    }  # fmt: skip
    weights = {}
    for name, tensor in module.state_dict().items():
        stem = name.removesuffix(".weight").removesuffix(".bias")
        suffix = name[len(stem) :]
        if stem.startswith("blocks."):
            _, block, rest = stem.split(".", 2)
            whole = theirs.get(rest) or ".".join(theirs.get(part, part) for part in rest.split("."))
            stem = f"blocks.{block}.{whole}"
        else:
            stem = theirs[stem]
        found = deit_tiny.state_dict()[stem + suffix]
        if ".qkv" in name:  # theirs are ordered (3, heads, head_dim), ours (heads, 3, head_dim)
            found = found.unflatten(0, (3, 3, 64)).transpose(0, 1).flatten(0, 2)
        assert found.shape == tensor.shape, name
        weights[name] = found
    module.load_state_dict(weights)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), deit_tiny(x), rtol=0, atol=1e-4)


def test_the_small_space_holds_deit_small() -> None:
    """22.05 M parameters with a class token, https://github.com/facebookresearch/deit/blob/main/README_deit.md: 22M."""
    space = load_space("vit_s", pooling="token")
    assert space.graph(uniform(space, 384, depth=12, heads=6, mlp_tenths=40)).num_params == 22_050_664


def test_the_networks_that_autoformer_found_have_their_published_sizes() -> None:
    """5.8 and 22.9 M parameters, by https://github.com/microsoft/Cream/tree/main/AutoFormer, whose experiments/subnet
    holds the choices.
    """
    tiny = [35, 35, 30, 35, 30, 30, 40, 40, 35, 40, 35, 40, 35]
    small = [30, 35, 30, 35, 40, 40, 40, 40, 40, 40, 40, 35, 40]
    found = (
        ("vit", 192, [3] * 10 + [4, 3, 3], tiny, 5.8e6),
        ("vit_s", 384, [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7], small, 22.9e6),
    )
    for name, embed_dim, heads, mlp_tenths, published in found:
        space = load_space(name, pooling="token", mlp_tenths=[30, 35, 40])
        arch = space.smallest() | {"embed_dim": embed_dim, "depth": 13}
        for block in range(13):
            arch |= {f"block{block + 1}_heads": heads[block], f"block{block + 1}_mlp_tenths": mlp_tenths[block]}
        relative_positions = 13 * 2 * 2 * 30 * 64  # of rows and columns, for keys and values: not in this space
        assert space.graph(arch).num_params + relative_positions == pytest.approx(published, rel=0.012)


def test_a_block_has_the_parameters_and_macs_derived_by_hand() -> None:
    space = load_space("vit_digits")
    one, two = (
        space.graph(uniform(space, 32, depth, heads=3, mlp_tenths=15)) for depth in (2, 3)
    )  # 16 patches, 48 = 3 heads of 16, an MLP of 48
    norms = 2 * 2 * 32
    attention = (32 + 1) * 3 * 48 + (48 + 1) * 32
    mlp = (32 + 1) * 48 + (48 + 1) * 32
    assert two.num_params - one.num_params == norms + attention + mlp
    products = 32 * 3 * 48 + 48 * 32 + 32 * 48 + 48 * 32
    assert two.macs - one.macs == 16 * (products + 2 * 5 * 32) + 3 * 16 * 16 * (16 + 16)


def test_an_mlp_ratio_of_tenths_is_rounded_down() -> None:
    space = load_space("vit_digits", embed_dims=[33], mlp_tenths=[15])
    assert space.layout(space.smallest()).blocks[0].hidden == 49  # of 49.5


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_a_subnet_computes_what_leading_slices_of_the_shared_weights_do_head_by_head(pooling: str) -> None:
    """By a route of its own: each head alone, attention written out, slices taken here."""
    torch.manual_seed(0)
    space = load_space("vit_digits", pooling=pooling)
    supernet = space.supernet().eval()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shared = {name.removeprefix("network."): tensor for name, tensor in supernet.state_dict().items()}
    arch = space.smallest() | {"embed_dim": 48, "depth": 3, "block1_heads": 3, "block2_mlp_tenths": 20}
    x = torch.randn(2, 1, 32, 32)
    supernet.set_arch(arch)
    with torch.inference_mode():
        found = supernet(x)
        torch.testing.assert_close(found, by_hand(shared, space.canonical(arch), pooling, x), rtol=0, atol=1e-4)
    assert found.shape == (2, 10)


def by_hand(shared: dict[str, Tensor], arch: Arch, pooling: str, x: Tensor) -> Tensor:
    dim, head_dim, patch = arch["embed_dim"], 16, 8

    def norm(y: Tensor, name: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normal * shared[f"{name}.weight"][:dim] + shared[f"{name}.bias"][:dim]

    def linear(y: Tensor, name: str, out: int) -> Tensor:
        return y @ shared[f"{name}.weight"][:out, : y.shape[-1]].T + shared[f"{name}.bias"][:out]

    windows = x.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4).flatten(1, 3)  # (batch, 16, 64)
    y = windows @ shared["embedding.patches.weight"][:dim].flatten(1).T + shared["embedding.patches.bias"][:dim]
    if pooling == "token":
        y = torch.cat([shared["embedding.token"][..., :dim].repeat(len(x), 1, 1), y], dim=1)
    y = y + shared["embedding.positions"][..., :dim]
    for block in range(arch["depth"]):
        name = f"blocks.{block}"
        heads = arch[f"block{block + 1}_heads"]
        qkv = linear(norm(y, f"{name}.attention_norm"), f"{name}.attention.qkv", 3 * heads * head_dim)
        outputs = []
        for head in range(heads):
            first = 3 * head * head_dim
            q, k, v = (qkv[..., first + part * head_dim :][..., :head_dim] for part in range(3))
            outputs.append(((q @ k.mT) / math.sqrt(head_dim)).softmax(-1) @ v)
        y = y + linear(torch.cat(outputs, dim=-1), f"{name}.attention.project", dim)
        hidden = dim * arch[f"block{block + 1}_mlp_tenths"] // 10
        inside = functional.gelu(linear(norm(y, f"{name}.mlp_norm"), f"{name}.mlp.expand", hidden))
        y = y + linear(inside, f"{name}.mlp.project", dim)
    y = norm(y, "norm")
    return linear(y[:, 0] if pooling == "token" else y.mean(1), "classifier", 10)


CASES: list[dict[str, Any]] = [
    {},
    {"pooling": "token"},
    {"heads": [1, 2]},
    {"heads": [1], "pooling": "token", "patch": 32},
    {"patch": 32},
    {"resolutions": [16, 24, 32]},
    {"resolutions": [16, 24, 32], "pooling": "token", "in_channels": 3},
]


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_the_graph_is_what_tracing_finds_at_every_size_and_batch(fields: dict[str, Any]) -> None:
    space = load_space("vit_digits", **fields)
    archs = [space.smallest(), space.largest()]
    for resolution, batch in ((None, 1), (64, 1), (96, 3)):
        deployed = space.deployed(resolution, batch)
        for arch in archs:
            graph = deployed.graph(arch)
            module = space.build(arch).eval()
            traced = trace(module, torch.zeros(graph.nodes[0].operator.output_shape))
            assert traced == graph
            assert [node.name for node in traced.nodes[1:]] == [node.name for node in graph.nodes[1:]]
            assert graph.num_params == sum(parameter.numel() for parameter in module.parameters())


def test_onnx_runtime_computes_what_torch_does_where_positions_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = load_space("vit_digits", pooling="token")
    check_onnx(space, space.smallest() | {"block1_heads": 3}, (1, 1, 64, 64), tmp_path)


def test_onnx_runtime_computes_what_torch_does_at_real_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = load_space("vit", depths=[2])
    check_onnx(space, space.largest(), (1, 3, 224, 224), tmp_path)


def check_onnx(space: Space, arch: Arch, shape: tuple[int, ...], folder: Path) -> None:
    module = space.supernet().eval().extract(arch)
    export_onnx(module, shape, folder / "model.onnx")
    x = torch.randn(shape)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = module(x).numpy()
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("device_name", DEVICES)
def test_every_device_prices_attention_and_many_archs_as_each_alone(device_name: str) -> None:
    try:
        device = load_device(device_name)
    except DeviceNotMeasuredError:
        pytest.skip(f"{device_name} is a machine that nobody measured yet")
    space = load_space("vit")
    predictor = LatencyPredictor(device)
    archs = [space.smallest(), space.largest()]
    found = predictor.predict_many(space, archs)
    assert found.latency_s[0] < found.latency_s[1]
    for row, arch in enumerate(archs):
        graph = space.graph(arch)
        prediction = predictor.predict(Graph(graph.nodes, graph.outputs))
        attention = [each for each in prediction.kernels if isinstance(each.kernel.anchor, Attention)]
        assert len(attention) == arch["depth"]
        assert all(each.latency_s > 0 and each.cost.macs > 0 for each in attention)
        for metric in ("latency_s", "std_s", "macs", "num_params", "traffic_bytes", "peak_memory_bytes"):
            assert getattr(found, metric)[row] == pytest.approx(getattr(prediction, metric), rel=1e-9), metric


@pytest.mark.parametrize("pooling", ["mean", "token"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_costs_add_up_over_blocks_under_every_runtime(runtime: str, pooling: str) -> None:
    """ONNX Runtime fuses a sum into the norm that alone reads it: the last block's into the head's."""
    space = load_space("vit_digits", pooling=pooling, resolutions=[16, 32])
    predictor = LatencyPredictor(load_device("v100"), [], runtime=runtime)
    assert predictor.position_tables(space) is not None
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(20)]
    found = predictor.predict_many(space, archs)
    for row, arch in enumerate(archs):
        graph = space.graph(arch)
        expected = predictor.predict(Graph(graph.nodes, graph.outputs))
        assert found.latency_s[row] == pytest.approx(expected.latency_s, rel=1e-9)
        assert found.num_kernels[row] == expected.num_kernels
        assert found.peak_memory_bytes[row] == expected.peak_memory_bytes


def test_positions_are_interpolated_and_the_class_token_keeps_its_own() -> None:
    torch.manual_seed(0)
    positions = torch.randn(1, 1 + 16, 6)
    torch.testing.assert_close(interpolated(positions, 4, 4, 4), positions)
    larger = interpolated(positions, 4, 8, 12)
    assert larger.shape == (1, 1 + 96, 6)
    torch.testing.assert_close(larger[:, 0], positions[:, 0])
    ramp = torch.arange(4.0).repeat(4, 1).flatten()[None, :, None]  # what only depends on the column
    stretched = interpolated(ramp, 4, 4, 8).reshape(4, 8)
    torch.testing.assert_close(stretched, stretched[:1].expand(4, 8))
    # Keys' cubic with a = -0.75 at 1.25: -0.10547 * 0 + 0.87891 * 1 + 0.26172 * 2 - 0.03516 * 3
    torch.testing.assert_close(stretched[0, 3:5], torch.tensor([1.296875, 3 - 1.296875]))


def test_smaller_images_of_an_elastic_resolution_train_the_shared_positions() -> None:
    space = load_space("vit_digits", resolutions=[16, 32])
    supernet = space.supernet().train()
    supernet.set_arch(space.smallest())
    supernet(torch.randn(2, 1, 16, 16)).square().sum().backward()
    grad = supernet.network.embedding.positions.grad
    assert grad[..., :32].abs().sum() > 0
    assert not grad[..., 32:].any()


@pytest.mark.parametrize(("resolution", "becomes"), [(36, "18"), (8, "4")])
def test_deployment_at_a_size_that_is_no_whole_number_of_patches_is_refused(resolution: int, becomes: str) -> None:
    space = load_space("vit_digits", resolutions=[16, 32])
    with pytest.raises(ValueError, match=f"would become {becomes}, which must be a positive multiple of the patch, 8"):
        space.deployed(resolution=resolution)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed_dims": [64, 32]}, "embed_dims must be positive and increasing"),
        ({"depths": [0, 1]}, "depths must be positive"),
        ({"resolutions": [20, 32]}, "resolution 20 is not a whole number of patches of 8 pixels"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"embed_dims": [4], "mlp_tenths": [2]}, "leave an MLP without width"),
        ({"head_dim": 0}, "head_dim must be positive, found 0"),
        ({"mlp_tenths": [3.5]}, "mlp_tenths: expected int, found 3.5"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_space("vit_digits", **fields)
