"""Whole networks traced: timm's families, heads and decoders as users write them, and what users do wrong."""

import os
import resource
from collections import Counter, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from user_networks import (
    GPT,
    SSD,
    DeepLab,
    Net,
    RetinaNet,
    SpelledOut,
    Suppressed,
    Tagger,
    Translator,
    UNet,
    Yolo,
)

from predictors import Graph, LatencyPredictor, UnknownOperatorError, load_device, trace
from predictors.operators import Unknown

PRODUCTS = {"linear", "matmul", "attention", "recurrent"}
CONVOLUTIONS = {"conv2d", "conv_transpose2d", "conv3d", "dynamic_conv2d"}


def variants(graph: Graph) -> list[str]:
    return [node.operator.variant for node in graph.nodes]


def macs_by_group(graph: Graph) -> Counter[str]:
    """Of what torch's own counter knows: convolutions, and products, attention among them."""
    found: Counter[str] = Counter()
    for node in graph.nodes:
        if node.operator.kind in CONVOLUTIONS | PRODUCTS:
            found["convolution" if node.operator.kind in CONVOLUTIONS else "product"] += node.operator.macs
    return +found


def torchs_macs(net: nn.Module, *args: Any) -> Counter[str]:
    """Half of the FLOPs of torch's counter, which sees attention in its parts only: there are no fused kernels here."""
    net.eval().requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(*args)
    found: Counter[str] = Counter()
    for operator, flops in counter.get_flop_counts()["Global"].items():
        found["convolution" if "conv" in str(operator) else "product"] += flops // 2
    return +found


# ------------------------------------------------------------------------------------------------------ users' networks

IMAGE, TOKENS = (2, 3, 64, 64), (2, 6)
USERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "retinanet": (RetinaNet, lambda: (torch.zeros(IMAGE),)),
    "ssd": (SSD, lambda: (torch.zeros(IMAGE),)),
    "yolo": (Yolo, lambda: (torch.zeros(IMAGE),)),
    "deeplab": (DeepLab, lambda: (torch.zeros(IMAGE),)),
    "unet": (UNet, lambda: (torch.zeros(1, 3, 50, 54),)),
    "lstm": (Tagger, lambda: (torch.zeros(TOKENS, dtype=torch.long),)),
    "gru": (lambda: Tagger(nn.GRU), lambda: (torch.zeros(TOKENS, dtype=torch.long),)),
    "gpt": (GPT, lambda: (torch.zeros(TOKENS, dtype=torch.long),)),
    "gpt with a cache": (
        GPT, lambda: (torch.zeros(2, 1, dtype=torch.long), [(torch.zeros(2, 4, 7, 8), torch.zeros(2, 4, 7, 8))] * 2)
    ),
    "attention in its parts": (SpelledOut, lambda: (torch.zeros(2, 6, 16),)),
    "torch's decoder": (Translator, lambda: (torch.zeros(2, 6, 16), torch.zeros(2, 9, 16))),
}  # fmt: skip
COUNTED_TWICE = {
    "retinanet": 2 * (2 * 9248) + 2 * (4335 + 3468),  # one head for three levels
    "gpt": 50 * 32, "gpt with a cache": 50 * 32,  # words embedded and scored by the same weights
    "lstm": 7 * 33, "gru": 7 * 33,  # one head for words and the whole
}  # fmt: skip


@pytest.mark.parametrize("name", USERS)
def test_networks_as_users_write_them_cost_what_torch_counts(name: str) -> None:
    build, inputs = USERS[name]
    with torch.device("meta" if name in ("lstm", "gru") else "cpu"):  # layers that the CPU runs whole are not counted
        net, example = build(), inputs()
    graph = trace(net, example)
    assert macs_by_group(graph) == torchs_macs(net, *example)
    assert not any(isinstance(node.operator, Unknown) for node in graph.nodes)
    learned = sum(each.numel() for each in net.parameters())
    assert graph.num_params == learned + COUNTED_TWICE.get(name, 0)


@pytest.mark.parametrize("name", ["yolo", "retinanet", "gpt", "lstm"])
def test_weights_change_nothing_and_data_are_not_needed(name: str) -> None:
    build, inputs = USERS[name]
    without, with_data = (trace(build(), inputs(), with_data=each) for each in (False, True))
    assert [node.operator for node in without.nodes if node.operator.moves_data] == [
        node.operator for node in with_data.nodes if node.operator.moves_data
    ]


def test_all_keys_and_values_are_attended_to_by_one_kernel_each_layer() -> None:
    build, inputs = USERS["gpt with a cache"]
    graph = trace(build(), inputs())
    attentions = [node for node in graph.nodes if node.operator.kind == "attention"]
    assert [node.operator.text for node in attentions] == [
        "attention(batch=2, heads=4, query_length=1, key_length=8, head_dim=8, value_dim=8)"
    ] * 2
    assert [node.name for node in attentions] == ["blocks.0", "blocks.1"]
    assert len(graph.outputs) == 1 + 2 * 2


def test_recurrent_layers_stay_whole() -> None:
    graph = trace(Tagger(), torch.zeros(TOKENS, dtype=torch.long))
    assert [node.operator.text for node in graph.nodes if node.operator.kind == "recurrent"] == [
        "recurrent(shape=(2, 6, 12), hidden=16, directions=2)",
        "recurrent(shape=(2, 6, 32), hidden=16, directions=2)",
    ]


def test_states_pass_from_one_recurrent_layer_to_another() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        _, states = self.encoder(x)
        return self.decoder(x, states)[0]

    net = Net(forward, encoder=nn.LSTM(8, 6, batch_first=True), decoder=nn.LSTM(8, 6, batch_first=True))
    graph = trace(net, torch.zeros(2, 5, 8))
    texts = [node.operator.text for node in graph.nodes if node.operator.kind == "recurrent"]
    assert texts[1] == "recurrent(shape=(2, 5, 8), hidden=6, states=((1, 2, 6), (1, 2, 6)))"
    assert graph.num_params == sum(each.numel() for each in net.parameters())


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_a_recurrent_cell_is_a_layer_of_one_step(cell: type[nn.RNNCellBase], gates: int) -> None:
    graph = trace(cell(8, 6), torch.zeros(3, 8))
    assert graph.macs == 3 * gates * 6 * (8 + 6)


def test_sequences_of_several_lengths_are_traced_with_their_data() -> None:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]

    inputs = torch.zeros(2, 5, 8), torch.tensor([3, 5])
    graph = trace(Net(forward, lstm=nn.LSTM(8, 6)), inputs, with_data=True)
    assert graph.macs == (3 + 5) * 4 * 6 * (8 + 6)


# -------------------------------------------------------------------------------------------- what torch wraps around


def one_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU())


ROWS = (2, 5, 8)
WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(one_layer()),
    "traced": lambda: torch.jit.trace(one_layer(), torch.zeros(ROWS)),
    "a scripted part": lambda: nn.Sequential(torch.jit.script(one_layer())),
    "compiled": lambda: torch.compile(one_layer()),
    "a compiled part": lambda: nn.Sequential(torch.compile(one_layer())),
    "checkpointed": lambda: Net(lambda self, x: checkpoint(self.inner, x, use_reentrant=False), inner=one_layer()),
    "checkpointed the old way": lambda: Net(
        lambda self, x: checkpoint(self.inner, x, use_reentrant=True), inner=one_layer()
    ),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.ReLU()),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)), nn.ReLU()),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # torch.utils.checkpoint's
@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
def test_what_torch_wraps_around_a_module_is_not_in_its_graph(name: str, with_data: bool) -> None:
    expected = [node.operator for node in trace(one_layer(), torch.zeros(ROWS)).nodes]
    graph = trace(WRAPPED[name](), torch.zeros(ROWS), with_data=with_data)
    assert [node.operator for node in graph.nodes if node.operator.kind != "view"] == expected


def test_parts_of_a_compiled_module_keep_their_paths() -> None:
    net = nn.Sequential(nn.Linear(8, 8), torch.compile(one_layer()))
    assert [node.name for node in trace(torch.compile(net), torch.zeros(ROWS)).nodes] == ["input", "0", "1.0", "1.1"]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        y = (self.second(self.first(x)) * scale).flatten(2).mT
        return self.attention(y, y, y, need_weights=False)[0]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_an_exported_program_gives_the_graph_of_its_module(tmp_path: Path) -> None:
    net, inputs = Pair().eval(), {"x": torch.zeros(1, 3, 8, 8), "scale": torch.zeros(4, 1, 1)}
    torch.export.save(torch.export.export(net, (), inputs), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    graph, expected = trace(program), trace(net, inputs)
    assert graph == expected
    assert [node.name for node in graph.nodes if node.operator.macs] == [
        node.name for node in expected.nodes if node.operator.macs
    ]
    assert trace(program, inputs) == expected
    assert trace(program.run_decompositions()).macs == expected.macs, "also when taken apart into core operators"


# ------------------------------------------------------------------------------------------------- inputs and outputs

Named = namedtuple("Named", "left right")


@dataclass
class Record:
    x: Any
    count: int
    others: Any = None


def test_inputs_and_outputs_may_be_records_of_records() -> None:
    def forward(self: Any, record: Record) -> Any:
        return Record({"sum": record.x + record.others.right}, 2, [Named(record.x.relu(), "text")])

    x = torch.zeros(2, 3)
    record = Record(x, 1, Named(torch.zeros(3), x))
    graph = trace(Net(forward), [record])
    assert variants(graph) == ["input", "input", "input", "add", "relu"]
    assert graph.nodes[3].inputs == (0, 2)
    assert graph.outputs == (3, 4)
    assert record.x is x


def test_results_may_be_attributes_of_any_object() -> None:
    class Found:
        def __init__(self, x: Tensor) -> None:
            self.hidden = [x, self]

    assert variants(trace(Net(lambda self, x: Found(x.relu())), torch.zeros(2))) == ["input", "relu"]


def test_numbers_and_texts_among_the_inputs_are_given_as_they_are() -> None:
    net = Net(lambda self, x, scale, mode: functional.interpolate(x, scale_factor=scale, mode=mode))
    graph = trace(net, (torch.zeros(1, 2, 4, 4), 2, "nearest"))
    assert graph.nodes[-1].operator.text == "resize(shape=(1, 2, 4, 4), size=(8, 8))"


# ------------------------------------------------------------------------------------------------- data that decide


def test_what_a_module_makes_on_its_inputs_device_has_numbers_when_it_asks() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        places = torch.arange(5, device=x.device)
        places[1:3] += self.shift
        if bool((places > 4).any()) and places.tolist() == [0, 4, 5, 3, 4] and self.scale.item() == 2.0:
            x = x[:, places > 3]
        return x * int(places[-1].item())

    parts = {"shift": nn.Buffer(torch.tensor(3)), "scale": nn.Parameter(torch.tensor([2.0]))}
    graph = trace(Net(forward, **parts), torch.zeros(2, 5, 8))
    assert [node.operator.output_shape for node in graph.nodes] == [(2, 5, 8), (2, 3, 8), (2, 3, 8)]


def test_numbers_of_weights_on_the_meta_device_are_asked_for_in_vain() -> None:
    with torch.device("meta"):
        net = Net(lambda self, x: x * self.scale.item(), scale=nn.Parameter(torch.ones(1)))
    with pytest.raises(
        UnknownOperatorError, match=r"item.*module '': it asks for the numbers of weights on the meta dev"
    ):
        trace(net, torch.zeros(2))


DECIDED: dict[str, tuple[Any, str]] = {
    "a branch": (
        lambda self, x: x if x.sum() > 0 else x.relu(),
        "is_nonzero.*makes a number, for the network to decide",
    ),
    "a number": (lambda self, x: x * x.max().item(), "item.*makes a number"),
    "a mask": (lambda self, x: x[x[:, 0] >= 0], "index.*shape of its result depends on data"),
    "places": (lambda self, x: (x + 1)[torch.where(x[:, 0] >= 0)], "where.*shape of its result depends on data"),
    "repeats": (lambda self, x: x.repeat_interleave(x[:, 0].long() + 2, 0), "repeat_interleave.*depends on data"),
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_data_decide_is_named_with_how_to_go_on_and_computed_if_asked(name: str) -> None:
    forward, message = DECIDED[name]
    net = nn.Sequential(Net(forward))
    with pytest.raises(UnknownOperatorError, match=rf"aten::{message}.*with_data=True computes"):
        trace(net, torch.zeros(4, 3))
    graph = trace(net, torch.zeros(4, 3), with_data=True, allow_unknown=True)
    assert graph.nodes[0].operator.output_shape == (4, 3)
    assert graph.nodes[graph.outputs[0]].operator.output_shape[1:] == (3,)


def test_boxes_that_are_suppressed_are_traced_with_data_alone() -> None:
    with pytest.raises(UnknownOperatorError, match=r"index.*shape of its result depends on data"):
        trace(Suppressed(), torch.zeros(1, 3, 64, 64))
    graph = trace(Suppressed(), torch.zeros(1, 3, 64, 64), with_data=True)
    assert graph.nodes[graph.outputs[0]].operator.kind == "gather"


def test_data_are_not_kept_in_place_of_the_modules_own() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grids: dict[Any, Tensor] = {}
            self.last: Tensor | None = None
            self.history = [1]
            self.counter = nn.Buffer(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.history.append(2)
            self.grids[x.shape] = torch.zeros_like(x)
            self.counter += 1
            self.last = x * self.counter
            return self.last

    net = Keeping().train()
    for with_data in (False, True):
        trace(net, torch.ones(2), with_data=with_data)
        assert (net.grids, net.last, net.history, net.training) == ({}, None, [1], True)
        assert torch.equal(net.counter, torch.zeros(2))
    assert torch.equal(net(torch.ones(2)), torch.ones(2))


def test_a_cache_that_is_written_in_place_costs_what_is_written() -> None:
    def forward(self: Any, x: Tensor, place: int) -> Tensor:
        self.keys[:, :, place : place + 1] = x
        return functional.scaled_dot_product_attention(x, self.keys[:, :, : place + 1], self.keys[:, :, : place + 1])

    net = Net(forward, keys=nn.Buffer(torch.zeros(2, 4, 16, 8)))
    graph = trace(net, (torch.zeros(2, 4, 1, 8), 7))
    (written,) = [node.operator for node in graph.nodes if node.operator.kind == "scatter"]
    assert written.write_elements == 2 * 4 * 1 * 8
    assert graph.macs == 2 * 4 * 8 * (8 + 8)


# ----------------------------------------------------------------------------------------------- unknown operators


def spectrum(self: Any, x: Tensor) -> Tensor:
    return torch.fft.rfft(self.fc(x)).abs()


def test_an_operator_without_formula_stops_or_is_kept_by_name_and_path() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(Net(spectrum, fc=nn.Linear(8, 8))), nn.Linear(5, 2))
    with pytest.raises(UnknownOperatorError, match=r"operator aten::_fft_r2c.default of module '1\.0'"):
        trace(net, torch.zeros(2, 8))
    graph = trace(net, torch.zeros(2, 8), allow_unknown=True)
    (unknown,) = [node for node in graph.nodes if isinstance(node.operator, Unknown)]
    assert unknown.operator == Unknown(name="aten::_fft_r2c.default", shapes=((2, 8),), to=(2, 5))
    assert unknown.name == "1.0"
    assert graph.macs == 2 * 8 * 8 + 2 * 5 * 2
    assert variants(graph) == ["input", "relu", "linear", "unknown", "abs", "linear"]


def test_every_report_of_a_network_with_an_unknown_operator_says_so() -> None:
    net = Net(spectrum, fc=nn.Linear(8, 8))
    prediction = LatencyPredictor(load_device("v100")).predict(trace(net, torch.zeros(2, 8), allow_unknown=True))
    (row,) = [row for row in prediction.kernels if row.kernel.kind == "unknown"]
    assert row.provenance == "unknown"
    assert row.latency_s > 0


def test_what_an_unknown_operator_writes_in_place_is_read_by_the_next() -> None:
    library = torch.library.Library("ridgeline_test", "DEF")
    library.define("shake_(Tensor(a!) x) -> Tensor(a!)")
    library.define("halves(Tensor x) -> (Tensor, Tensor)")
    library.impl("shake_", lambda x: x, "Meta")
    library.impl("halves", lambda x: (x.new_empty(x.shape[0] // 2), x.new_empty(2, 3)), "Meta")

    def forward(self: Any, x: Tensor) -> Tensor:
        y = x * 2
        torch.ops.ridgeline_test.shake_(y)
        first, second = torch.ops.ridgeline_test.halves(y)
        return first.relu(), second.relu()

    graph = trace(Net(forward), torch.zeros(8), allow_unknown=True)
    assert [(node.operator.variant, node.inputs) for node in graph.nodes] == [
        ("input", ()), ("mul", (0,)), ("unknown", (1,)), ("unknown", (2,)), ("relu", (3,)), ("unknown", (3,)),
        ("relu", (5,)),
    ]  # fmt: skip
    assert graph.nodes[5].operator.text == "unknown(name='ridgeline_test::halves.default', shapes=((4,),), to=(2, 3))"


def test_an_unknown_operator_whose_shape_torch_cannot_tell_is_refused_all_the_same() -> None:
    library = torch.library.Library("ridgeline_test", "FRAGMENT")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x * 2, "CPU")
    net = Net(lambda self, x: torch.ops.ridgeline_test.opaque(x))
    with pytest.raises(UnknownOperatorError, match=r"ridgeline_test::opaque.*shape of its result without data"):
        trace(net, torch.zeros(3), allow_unknown=True)
    graph = trace(net, torch.zeros(3), allow_unknown=True, with_data=True)
    assert variants(graph) == ["input", "unknown"]


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_lazy_module_that_was_never_called_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"parameter '0.weight' of the lazy module LazyLinear has no shape yet; call"):
        trace(nn.Sequential(nn.LazyLinear(4)), torch.zeros(2, 8))


def test_the_modules_own_error_is_raised_as_it_is_with_a_note_where_data_miss() -> None:
    with pytest.raises(TypeError, match="numpy") as caught:
        trace(Net(lambda self, x: x.numpy()), torch.zeros(2))
    if hasattr(caught.value, "__notes__"):  # Python 3.11 and later
        assert "with_data=True runs it with the data of the example inputs" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="too small") as caught:
        trace(Net(lambda self, x: (_ for _ in ()).throw(ValueError("too small"))), torch.zeros(2))
    assert not getattr(caught.value, "__notes__", ())


def test_data_are_refused_where_weights_have_none() -> None:
    with torch.device("meta"):
        net = one_layer()
    with pytest.raises(ValueError, match=r"with_data=True computes with the weights, but '0.weight' is on the meta"):
        trace(net, torch.zeros(ROWS), with_data=True)


def test_a_module_of_two_gigabytes_is_traced_without_a_copy_of_its_weights(tmp_path: Path) -> None:
    path, size = tmp_path / "weights", 1 << 29  # 2 GiB of float32, a file of zeros that takes no space
    with open(path, "wb") as file:
        file.truncate(4 * size)
    net = nn.Linear(1, 1, bias=False)
    net.weight = nn.Parameter(torch.from_file(str(path), shared=False, size=size).view(1 << 14, 1 << 15))
    trace(one_layer(), torch.zeros(ROWS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = trace(net, torch.zeros(1, 1 << 15))
    assert graph.num_params == graph.macs == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB: a thirtieth of the weights


# ------------------------------------------------------------------------------------------------------ timm's families

TIMM = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_lite_tiny", "coatnet_nano_rw_224", "convit_tiny",
    "crossvit_tiny_240", "davit_tiny", "densenet121", "dla34", "edgenext_xx_small", "efficientformer_l1",
    "efficientnet_cc_b0_4e", "efficientvit_b0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnetv2_100",
    "gmlp_s16_224", "hgnetv2_b0", "hiera_tiny_224", "lambda_resnet26t", "levit_128s",
    "mambaout_femto",
    "maxvit_nano_rw_256", "mixer_s32_224", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "mobilevit_xxs",
    "mvitv2_small_cls", "nest_tiny", "nf_regnet_b0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnety_002",
    "repvit_m0_9", "resnest14d", "swinv2_tiny_window8_256", "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224", "twins_svt_small", "vgg11", "visformer_tiny", "volo_d1_224", "xcit_nano_12_p16_224",
    "xception41",
)  # fmt: skip
FOLDED = {
    "convit_tiny": ("product", "position scores, from a learned layer on fixed distances"),
    "swinv2_tiny_window8_256": ("product", "position biases, from learned layers on fixed distances"),
    "edgenext_xx_small": ("convolution", "a position encoding, from a learned layer on fixed places"),
    "xcit_nano_12_p16_224": ("convolution", "a position encoding, from a learned layer on fixed places"),
}
"""What depends on weights alone, which torch's counter counts at each run: it is a constant here."""
LEARNED_OTHERWISE = {
    "beit_base_patch16_224": "biases of keys are no parameters, but part of a layer's",
    "swinv2_tiny_window8_256": "biases of keys are no parameters, but part of a layer's",
    "coat_lite_tiny": "one position encoding is read by all layers of a stage",
    "nf_regnet_b0": "gains are folded into the weights that they scale",
}
"""Networks whose layers' weights are not as many as their parameters."""


@cache
def timm_net(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    with torch.device("meta"):
        net: nn.Module = timm.create_model(name)
    return net.eval()


@pytest.mark.parametrize("name", TIMM)
def test_every_family_of_timm_is_traced_and_costs_what_torch_counts(name: str) -> None:
    net = timm_net(name)
    x = torch.empty(1, *net.pretrained_cfg["input_size"], device="meta")
    graph = trace(net, x)
    assert not any(isinstance(node.operator, Unknown) for node in graph.nodes)
    found, expected = macs_by_group(graph), torchs_macs(net, x)
    if name in FOLDED:
        group, _ = FOLDED[name]
        assert 0.8 * expected[group] < found[group] < expected[group]
        found[group] = expected[group]
    assert found == expected
    learned = sum(each.numel() for each in net.parameters())
    assert (graph.num_params == learned) == (name not in LEARNED_OTHERWISE)
    assert abs(graph.num_params - learned) < 0.01 * learned


@pytest.mark.skipif("RIDGELINE_ALL_NETWORKS" not in os.environ, reason="takes minutes: RIDGELINE_ALL_NETWORKS=1 asks")
def test_all_of_timm_is_traced() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    names = timm.list_models()
    failed: dict[str, str] = {}
    for name in names:
        net = timm_net.__wrapped__(name)  # not kept: all of them would fill the memory
        try:
            assert trace(net, torch.empty(1, *net.pretrained_cfg["input_size"], device="meta")).macs > 0
        except Exception as error:  # whatever it is, it is reported below
            failed[name] = f"{type(error).__name__}: {error}"
    assert not failed, f"{len(failed)} of {len(names)}"
    assert len(names) > 1000


@pytest.mark.parametrize("name", [name for name in TIMM if "vit" in name or "swin" in name or "beit" in name][:8])
def test_attention_of_timm_stays_whole(name: str) -> None:
    net = timm_net(name)
    graph = trace(net, torch.empty(1, *net.pretrained_cfg["input_size"], device="meta"))
    fused = [path for path, each in net.named_modules() if getattr(each, "fused_attn", False)]
    assert {node.name for node in graph.nodes if node.operator.kind == "attention"} >= set(fused)
