"""Tracing: small networks by hand, the spaces' graphs, and fvcore as the second route for whole networks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from user_networks import Net

from predictors import Graph, UnknownOperatorError, trace
from predictors.measure.torch_layers import GraphModule
from predictors.measure.values import given_value
from predictors.operators import Constant, Copy, Elementwise


def texts(graph: Graph) -> list[str]:
    return [node.operator.text for node in graph.nodes]


def variants(graph: Graph) -> list[str]:
    return [node.operator.variant for node in graph.nodes]


def wires(graph: Graph) -> list[tuple[str, tuple[int, ...]]]:
    return [(node.operator.variant, node.inputs) for node in graph.nodes]


Macs = Callable[[nn.Module, Tensor], int]
IMAGE = torch.zeros(1, 8, 6, 6)


# ------------------------------------------------------------------------------------------------------------- wiring


def test_a_sequence_becomes_a_chain_of_its_operators() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
    )
    graph = trace(net, torch.zeros(2, 3, 6, 6))
    assert texts(graph) == [
        "input(shape=(2, 3, 6, 6))",
        "conv2d(batch=2, in_channels=3, out_channels=8, height=6, width=6, kernel=(3, 3), stride=(2, 2), "
        "padding=(1, 1))",
        "normalization(shape=(2, 8, 3, 3), method='batch_norm', affine_params=16)",
        "activation(shape=(2, 8, 3, 3), function='relu')",
        "view(shape=(2, 8, 3, 3), to=(2, 72))",
        "linear(shape=(2, 72), out_features=5, bias=True)",
    ]
    assert [node.inputs for node in graph.nodes] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert graph.outputs == (5,)


def test_nodes_carry_the_path_of_their_module() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), Net(lambda self, x: x + self.act(x), act=nn.GELU())
    )
    assert [node.name for node in trace(net, IMAGE).nodes] == ["input", "0.0", "0.1", "1.act", "1"]


def test_writing_in_place_makes_later_readers_read_the_new_node() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        functional.relu(y, inplace=True)
        return y.add_(x)

    graph = trace(Net(forward, conv=nn.Conv2d(8, 8, 1)), IMAGE)
    assert wires(graph) == [("input", ()), ("conv2d", (0,)), ("relu", (1,)), ("add", (2, 0))]
    assert graph.outputs == (3,)


def test_writing_to_a_view_in_place_reaches_its_base_and_the_other_views() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        first, second = y.view(1, 8, 36), y.flatten(1)
        first.relu_()
        return y, second

    graph = trace(Net(forward), IMAGE)
    relu = variants(graph).index("relu")
    assert wires(graph)[relu + 1 :] == [("view", (relu,)), ("view", (relu,))]
    assert [graph.nodes[index].operator.output_shape for index in graph.outputs] == [(1, 8, 6, 6), (1, 288)]


def test_writing_to_a_part_in_place_moves_that_part_alone() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :2] = x[:, 2:4]
        y[:, 5] = 0
        y[:, 3:].relu_()
        return y

    graph = trace(Net(lambda self, x: self.part(x), part=Net(forward)), IMAGE)
    found = [(node.operator.variant, node.inputs) for node in graph.nodes]
    assert found == [
        ("input", ()), ("mul", (0,)), ("view", (0,)), ("scatter", (1, 2)), ("constant", ()), ("scatter", (3, 4)),
        ("view", (5,)), ("relu", (6,)), ("scatter", (5, 7)),
    ]  # fmt: skip
    written = [node.operator.write_elements for node in graph.nodes if node.operator.kind == "scatter"]
    assert written == [2 * 36, 36, 5 * 36]
    assert graph.outputs == (8,)


def test_a_residual_block_with_squeeze_and_excite_is_wired_as_written() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y * functional.hardsigmoid(self.gate(functional.adaptive_avg_pool2d(y, 1)))

    graph = trace(Net(forward, conv=nn.Conv2d(8, 8, 3, padding=1), gate=nn.Conv2d(8, 8, 1)), IMAGE)
    assert wires(graph) == [
        ("input", ()), ("conv2d", (0,)), ("adaptive_avg_pool2d", (1,)), ("conv2d", (2,)), ("hardsigmoid", (3,)),
        ("mul", (1, 4)), ("add", (0, 5)),
    ]  # fmt: skip


def test_concat_reads_all_its_inputs_in_order() -> None:
    graph = trace(Net(lambda self, x, y: torch.cat([y, x, y], dim=-3)), (IMAGE, torch.zeros(1, 4, 6, 6)))
    assert wires(graph)[-1] == ("concat", (1, 0, 1))
    assert graph.nodes[-1].operator.output_shape == (1, 16, 6, 6)


def test_stacked_tensors_are_views_joined_along_the_new_axis() -> None:
    graph = trace(Net(lambda self, x: torch.stack([x, x], dim=1)), IMAGE)
    assert wires(graph) == [("input", ()), ("view", (0,)), ("concat", (1, 1))]
    assert graph.nodes[-1].operator.output_shape == (1, 2, 8, 6, 6)


def test_a_module_used_twice_runs_twice() -> None:
    graph = trace(Net(lambda self, x: self.conv(self.conv(x)), conv=nn.Conv2d(8, 8, 1, bias=False)), IMAGE)
    assert wires(graph) == [("input", ()), ("conv2d", (0,)), ("conv2d", (1,))]
    assert graph.num_params == 2 * 8 * 8


def test_outputs_may_be_nested_and_inputs_named() -> None:
    net = Net(lambda self, *, left, right: {"sum": left + right, "both": [left, right.relu()]})
    graph = trace(net, {"left": IMAGE, "right": IMAGE})
    assert variants(graph) == ["input", "input", "add", "relu"]
    assert graph.outputs == (2, 0, 3)


def test_dropout_identity_and_contiguous_vanish() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Identity(), Net(lambda self, x: x.contiguous().detach()[:]), nn.ReLU())
    assert variants(trace(net, IMAGE)) == ["input", "relu"]


# ------------------------------------------------------------------------------------------------- views and copies


def test_a_permuted_tensor_is_copied_for_a_reader_that_needs_dense_rows() -> None:
    graph = trace(Net(lambda self, x: self.norm(x.permute(0, 2, 3, 1)), norm=nn.LayerNorm(8)), IMAGE)
    assert wires(graph) == [("input", ()), ("transpose", (0,)), ("layer_norm", (1,))]
    steps = (("transpose", (0, 2, 3, 1)),)
    assert graph.nodes[1].operator == Copy(shape=(1, 8, 6, 6), to=(1, 6, 6, 8), method="transpose", steps=steps)


def test_a_permutation_undone_moves_nothing() -> None:
    graph = trace(Net(lambda self, x: self.conv(x.transpose(1, 2).transpose(1, 2)), conv=nn.Conv2d(8, 8, 1)), IMAGE)
    assert variants(graph) == ["input", "conv2d"]


def test_a_reader_of_strided_data_takes_a_permuted_tensor_as_it_lies() -> None:
    graph = trace(Net(lambda self, x: x @ x.transpose(-1, -2)), torch.zeros(2, 3, 4))
    assert wires(graph) == [("input", ()), ("view", (0,)), ("matmul", (0, 1))]
    assert graph.macs == 2 * 3 * 4 * 3


def test_reshaping_a_permuted_tensor_copies_it_once() -> None:
    graph = trace(
        Net(lambda self, x: self.fc(x.transpose(1, 2).reshape(4, 6)), fc=nn.Linear(6, 1)), torch.zeros(2, 3, 4)
    )
    assert wires(graph) == [("input", ()), ("transpose", (0,)), ("linear", (1,))]
    assert graph.nodes[1].operator.output_shape == (4, 6)


def test_a_part_is_copied_for_a_convolution_and_read_in_place_by_an_addition() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return self.conv(first) + second

    graph = trace(Net(forward, conv=nn.Conv2d(4, 4, 1)), torch.zeros(2, 8, 6, 6))
    assert wires(graph) == [("input", ()), ("slice", (0,)), ("conv2d", (1,)), ("view", (0,)), ("add", (2, 3))]
    assert graph.nodes[1].operator.read_elements == 2 * 4 * 6 * 6


def test_a_broadcast_operand_is_read_once_however_it_was_expanded() -> None:
    graph = trace(Net(lambda self, x, y: x * y.expand_as(x)), (IMAGE, torch.zeros(1, 8, 1, 1)))
    assert graph.nodes[-1].operator == Elementwise(function="mul", shapes=((1, 8, 6, 6), (1, 8, 1, 1)))


def test_an_expanded_tensor_is_written_out_for_a_reader_that_cannot_broadcast() -> None:
    graph = trace(
        Net(lambda self, x: self.conv(x.expand(1, 8, 6, 6)), conv=nn.Conv2d(8, 2, 1)), torch.zeros(1, 8, 1, 1)
    )
    steps = (("expand", (1, 8, 6, 6)),)
    assert graph.nodes[1].operator == Copy(shape=(1, 8, 1, 1), to=(1, 8, 6, 6), method="expand", steps=steps)


def test_windows_that_overlap_are_copied_in_a_way_that_is_not_said() -> None:
    graph = trace(Net(lambda self, x: self.fc(x.unfold(1, 3, 1)), fc=nn.Linear(3, 2)), torch.zeros(2, 5, 8))
    assert texts(graph)[1] == "copy(shape=(2, 5, 8), to=(2, 3, 8, 3), method='transpose')"
    assert graph.macs == 2 * 3 * 8 * 3 * 2


def moving(self: Any, x: Tensor) -> list[Tensor]:
    """What networks do to the order and the extent of data, and nothing else."""
    query, key = x.flatten(2).transpose(1, 2).reshape(2, 36, 2, 4, 1).permute(2, 0, 3, 1, 4).unbind(0)
    windows = x.permute(0, 2, 3, 1).reshape(2, 3, 2, 3, 2, 8).transpose(2, 3).reshape(-1, 4, 8)
    merged = torch.cat([y[:, :, i::2, j::2] for y in [x] for i in (0, 1) for j in (0, 1)], 1)
    return [
        query @ key.transpose(-1, -2), windows.contiguous(), merged, x.roll((1, -2), (2, 3)), x.roll(5), x.flip(1, 3),
        functional.pad(x, (1, 2, 0, 3)), functional.pad(x, (0, 0, 0, 0, 1, 0)), x.repeat(2, 1, 1, 1, 3),
        x.repeat_interleave(3, 1), x.repeat_interleave(2), functional.pixel_shuffle(x, 2),
        functional.pixel_unshuffle(x, 3), functional.channel_shuffle(x, 4), x[:, 3:5].contiguous(),
        x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, 2:6].contiguous(),
        x[:, :1].expand(2, 8, 6, 6).contiguous(), x.chunk(2, 1)[1].reshape(2, 2, 72), torch.stack([x, x.flip(2)], 1),
        (x.transpose(1, 3) + 1.0).transpose(2, 3).flatten(1).contiguous(),
    ]  # fmt: skip


def test_a_graph_of_moved_data_computes_what_its_module_computes() -> None:
    """The records alone rebuild each order of the elements: the second route to all that is said about views."""
    x = torch.zeros(2, 8, 6, 6)
    graph = trace(Net(moving), x)
    copies = [node.operator for node in graph.nodes if isinstance(node.operator, Copy)]
    assert [copy.text for copy in copies if not copy.steps] == []
    x = torch.from_numpy(given_value(graph, 0))
    expected = moving(None, x)
    expected[-1] = (x.transpose(1, 3) + 1.5).transpose(2, 3).flatten(1)  # the number that all kernels are measured with
    found = GraphModule(graph)(x)
    assert len(found) == len(expected)
    for each, right in zip(found, expected):
        assert torch.equal(each, right.contiguous())


def test_what_its_arguments_do_not_say_has_no_steps() -> None:
    picked = torch.tensor([2, 0])
    graph = trace(Net(lambda self, x: (x[:, picked], functional.pad(x, (1, 1, 1, 1), mode="reflect"))), IMAGE)
    copies = [node.operator for node in graph.nodes if isinstance(node.operator, Copy)]
    assert [copy.method for copy in copies] == ["gather", "pad"]
    assert [copy.steps for copy in copies] == [(), ()]


# --------------------------------------------------------------------------------------- whole operators and constants


def test_attention_stays_whole_and_its_transposes_move_nothing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).reshape(2, 5, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 5, 8))

    graph = trace(Net(forward, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), torch.zeros(2, 5, 8))
    assert variants(graph) == ["input", "linear", "view", "view", "view", "attention", "view", "linear"]
    # qkv and out: 2*5 tokens * 8 inputs * (24 + 8) outputs; attention: 2 batch * 4 heads * 5*5 scores * (2 + 2)
    assert graph.macs == 2 * 5 * 8 * (24 + 8) + 2 * 4 * 5 * 5 * (2 + 2)


def test_attention_reads_its_mask_unexpanded() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=self.bias.expand(2, 4, 5, 5))

    graph = trace(Net(forward, bias=nn.Parameter(torch.zeros(1, 4, 5, 5))), torch.zeros(2, 4, 5, 8))
    assert texts(graph)[1] == "constant(shape=(1, 4, 5, 5), learned_params=100)"
    assert graph.nodes[-1].operator.read_elements == 3 * 2 * 4 * 5 * 8 + 4 * 5 * 5


def test_torchs_own_attention_module_becomes_linear_layers_around_attention() -> None:
    net = Net(
        lambda self, x: self.mha(x, x, x, need_weights=False)[0], mha=nn.MultiheadAttention(8, 2, batch_first=True)
    )
    graph = trace(net, torch.zeros(3, 5, 8))
    assert [name for name in variants(graph) if name in ("linear", "attention")] == ["linear", "attention", "linear"]
    assert graph.num_params == sum(each.numel() for each in net.parameters())
    assert graph.macs == 3 * 5 * 8 * (24 + 8) + 3 * 2 * 5 * 5 * (4 + 4)


def test_learned_tensors_that_no_layer_holds_are_constants_and_count_as_parameters() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return tokens * self.gamma

    parts = {
        name: nn.Parameter(torch.zeros(size))
        for name, size in (("token", (1, 1, 8)), ("position", (1, 5, 8)), ("gamma", 8))
    }
    graph = trace(Net(forward, **parts), torch.zeros(2, 4, 8))
    assert graph.num_params == 8 + 40 + 8
    assert sum(isinstance(node.operator, Constant) for node in graph.nodes) == 3
    assert graph.nodes[-1].operator == Elementwise(function="mul", shapes=((2, 5, 8), (8,)))


def test_what_depends_on_weights_alone_is_folded_into_one_constant() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        bias = self.table[self.index.view(-1)].view(3, 3, 2).permute(2, 0, 1).contiguous()
        return x + torch.sigmoid(bias).unsqueeze(0) + torch.ones(3)

    net = Net(forward, table=nn.Parameter(torch.zeros(5, 2)))
    net.register_buffer("index", torch.zeros(3, 3, dtype=torch.long))
    graph = trace(net, torch.zeros(1, 2, 3, 3))
    assert [node.operator for node in graph.nodes if isinstance(node.operator, Constant)] == [
        Constant(shape=(2, 3, 3), learned_params=10),
        Constant(shape=(3,)),
    ]


def test_a_product_with_a_learned_matrix_is_a_linear_layer() -> None:
    weight = nn.Parameter(torch.zeros(8, 3))
    assert texts(trace(Net(lambda self, x: x @ self.weight, weight=weight), torch.zeros(2, 5, 8)))[1:] == [
        "linear(shape=(2, 5, 8), out_features=3)"
    ]


def test_numbers_are_part_of_the_kernel() -> None:
    graph = trace(Net(lambda self, x: (x + 3) / 6 * torch.tensor(2.0)), IMAGE)
    assert [node.operator.input_shapes for node in graph.nodes[1:]] == [((1, 8, 6, 6),)] * 3


SHAPE = "shape=(1, 8, 6, 6)"
CONV = "in_channels=8, out_channels=4, height=6, width=6"
MODULES: list[tuple[nn.Module, str]] = [
    (nn.Conv2d(8, 4, 3, padding="same"), f"conv2d({CONV}, kernel=(3, 3), padding=(1, 1), bias=True)"),
    (nn.ConvTranspose2d(8, 4, 2, stride=2), f"conv_transpose2d({CONV}, kernel=(2, 2), stride=(2, 2), bias=True)"),
    (nn.Linear(6, 4, bias=False), f"linear({SHAPE}, out_features=4)"),
    (nn.GroupNorm(2, 8), f"normalization({SHAPE}, method='group_norm', affine_params=16)"),
    (nn.InstanceNorm2d(8), f"normalization({SHAPE}, method='instance_norm')"),
    (nn.LayerNorm(6), f"normalization({SHAPE}, method='layer_norm', affine_params=12)"),
    (nn.RMSNorm(6), f"normalization({SHAPE}, method='rms_norm', affine_params=6)"),
    (
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        f"pool2d({SHAPE}, method='max', kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True)",
    ),
    (nn.AvgPool2d(2), f"pool2d({SHAPE}, method='avg', kernel=(2, 2), stride=(2, 2))"),
    (nn.AdaptiveAvgPool2d((None, 2)), f"adaptive_pool2d({SHAPE}, size=(6, 2))"),
    (nn.AdaptiveMaxPool2d(1), f"adaptive_pool2d({SHAPE}, method='max')"),
    (nn.Upsample(scale_factor=2), f"resize({SHAPE}, size=(12, 12))"),
    (nn.Upsample(size=(3, 9), mode="bilinear"), f"resize({SHAPE}, size=(3, 9), method='bilinear')"),
    (nn.Upsample(size=(3, 9), mode="bicubic"), f"resize({SHAPE}, size=(3, 9), method='bicubic')"),
    (nn.ReLU6(), f"activation({SHAPE}, function='relu6')"),
    (nn.Hardtanh(), f"activation({SHAPE}, function='hardtanh')"),
    (nn.SiLU(inplace=True), f"activation({SHAPE}, function='silu')"),
    (nn.Softmax(dim=1), f"softmax({SHAPE}, axis=1)"),
    (nn.Softmax(dim=-1), f"softmax({SHAPE})"),
    (
        nn.PixelShuffle(2),
        f"copy({SHAPE}, to=(1, 2, 12, 12), method='transpose', steps=(('reshape', (1, 2, 2, 2, 6, 6)), "
        "('transpose', (0, 1, 4, 2, 5, 3)), ('reshape', (1, 2, 12, 12))))",
    ),
    (nn.ZeroPad2d(1), f"copy({SHAPE}, to=(1, 8, 8, 8), method='pad', steps=(('pad', (0, 0, 1, 1), (0, 0, 1, 1)),))"),
    (Net(lambda self, x: x.mean((-2, -1), keepdim=True)), f"reduce({SHAPE}, method='mean', axes=(2, 3), keepdim=True)"),
    (Net(lambda self, x: x.max(dim=1).values), f"reduce({SHAPE}, method='max', axes=(1,))"),
    (
        Net(lambda self, x: x.roll(1, 2)),
        f"copy({SHAPE}, to=(1, 8, 6, 6), method='roll', steps=(('roll', (0, 0, 1, 0)),))",
    ),
    (Net(lambda self, x: x.half()), f"copy({SHAPE}, to=(1, 8, 6, 6), method='cast')"),
]


@pytest.mark.parametrize(("net", "text"), MODULES)
def test_each_operator_of_torch_becomes_one_of_ours(net: nn.Module, text: str) -> None:
    graph = trace(net, IMAGE)
    assert texts(graph)[-1] == text
    assert len(graph.nodes) == 2


def test_padding_by_nothing_vanishes() -> None:
    assert variants(trace(Net(lambda self, x: functional.pad(x, (0, 0)).relu()), IMAGE)) == ["input", "relu"]


def test_an_embedding_reads_indices() -> None:
    graph = trace(nn.Embedding(100, 16), torch.zeros(2, 5, dtype=torch.long))
    assert texts(graph) == ["input(shape=(2, 5))", "embedding(shape=(2, 5), num_rows=100, features=16)"]


def test_a_convolution_along_one_axis_is_one_of_images_of_height_one() -> None:
    graph = trace(nn.Conv1d(8, 4, 3, stride=2, padding=1), torch.zeros(2, 8, 9))
    assert texts(graph)[1:] == [
        "view(shape=(2, 8, 9), to=(2, 8, 1, 9))",
        "conv2d(batch=2, in_channels=8, out_channels=4, height=1, width=9, kernel=(1, 3), stride=(1, 2), "
        "padding=(0, 1), bias=True)",
        "view(shape=(2, 4, 1, 5), to=(2, 4, 5))",
    ]


def test_a_sum_with_a_product_is_a_linear_layer_when_both_are_learned_and_two_operators_otherwise() -> None:
    x, net = torch.zeros(3, 8), nn.Linear(8, 4)
    learned = trace(Net(lambda self, x: torch.addmm(self.fc.bias, x, self.fc.weight.t()), fc=net), x)
    assert texts(learned)[1:] == ["linear(shape=(3, 8), out_features=4, bias=True)"]
    computed = trace(Net(lambda self, x: torch.baddbmm(x[None, :, :3], x[None], x[None].transpose(1, 2))), x)
    assert variants(computed).count("matmul") == 1
    assert variants(computed)[-1] == "add"
    assert computed.macs == 3 * 8 * 3


def test_attention_over_more_or_fewer_axes_stays_whole() -> None:
    attend = Net(lambda self, x: functional.scaled_dot_product_attention(x, x, x))
    graph = trace(attend, torch.zeros(1, 2, 3, 5, 8))
    assert [name for name in variants(graph) if name != "view"] == ["input", "attention"]
    assert graph.macs == 2 * 3 * 5 * 5 * (8 + 8)
    assert graph.nodes[-1].operator.output_shape == (1, 2, 3, 5, 8)
    assert trace(attend, torch.zeros(3, 5, 8)).macs == 3 * 5 * 5 * (8 + 8)


def test_heads_of_queries_may_share_those_of_keys() -> None:
    def forward(self: Any, query: Tensor, key: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    graph = trace(Net(forward), (torch.zeros(2, 6, 5, 8), torch.zeros(2, 3, 7, 8)))
    assert texts(graph)[2:] == [
        "attention(batch=2, heads=6, query_length=5, key_length=7, head_dim=8, value_dim=8, key_heads=3)"
    ]
    assert graph.macs == 2 * 6 * 5 * 7 * (8 + 8)
    assert graph.nodes[2].operator.read_elements == 2 * 6 * 5 * 8 + 2 * (2 * 3 * 7 * 8)


def test_dropout_that_is_asked_for_at_inference_is_a_kernel() -> None:
    graph = trace(Net(lambda self, x: functional.dropout(x, 0.5, training=True)), IMAGE)
    assert texts(graph)[1:] == ["activation(shape=(1, 8, 6, 6), function='dropout')"]
    assert variants(trace(nn.Sequential(nn.Dropout(inplace=True), nn.ReLU()), IMAGE)) == ["input", "relu"]


@pytest.mark.parametrize(
    ("net", "operator"),
    [
        (Net(lambda self, x: functional.conv_transpose2d(x, x.view(8, 1, 6, 6), groups=8)), "convolution"),
        (Net(lambda self, x: functional.layer_norm(x, (6,), x[0, 0, 0])), "native_layer_norm"),
    ],
)
def test_weights_that_the_input_decides_are_refused(net: nn.Module, operator: str) -> None:
    with pytest.raises(UnknownOperatorError, match=f"aten::{operator}"):
        trace(net, IMAGE)


def test_a_linear_layer_whose_weights_the_input_decides_is_a_product_without_parameters() -> None:
    graph = trace(Net(lambda self, x: functional.linear(x, x[0, 0])), IMAGE)
    assert "matmul" in variants(graph)
    assert graph.macs == 8 * 6 * 6 * 6
    assert graph.num_params == 0


def test_a_convolution_with_computed_weights_reads_them_as_an_input() -> None:
    graph = trace(Net(lambda self, x: functional.conv2d(x, x.view(8, 1, 6, 6), groups=8, padding=3)), IMAGE)
    assert wires(graph) == [("input", ()), ("view", (0,)), ("dynamic_conv2d", (0, 1))]
    assert graph.macs == 8 * 7 * 7 * 36  # (6 + 2 * 3 - 6) + 1 = 7 positions along each axis, a window of 6x6
    assert graph.num_params == 0


@pytest.mark.parametrize(
    "net",
    [
        Net(lambda self, x: torch.ones(9)[x.flatten().long()]),
        Net(lambda self, x: functional.embedding(x.flatten().long(), x[0, 0, :, :1])),
        Net(lambda self, x: torch.ones(9).index_select(0, x.flatten().long())),
        Net(lambda self, x: torch.ones(9).gather(0, x.flatten().long())),
        Net(lambda self, x: torch.take_along_dim(torch.ones(9), x.flatten().long())),
    ],
)
def test_elements_that_computed_indices_pick_are_read_alone(net: nn.Module) -> None:
    graph = trace(net, IMAGE)
    assert graph.num_params == 0
    node = next(node for node in graph.nodes if node.operator.kind == "gather")
    assert node.operator.read_elements == 288 + 288  # as many places as values


def test_an_image_without_batch_is_a_batch_of_one() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(8, 4, 1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), IMAGE[0])
    assert [name for name in variants(graph) if name != "view"] == [
        "input", "conv2d", "max_pool2d", "adaptive_avg_pool2d",
    ]  # fmt: skip
    assert graph.nodes[-1].operator.output_shape == (4, 1, 1)


def test_shapes_that_an_operator_cannot_have_are_refused_by_name() -> None:
    with pytest.raises(UnknownOperatorError, match=r"aten::silu.*positive integers, found \(1, 0, 6, 6\)"):
        trace(Net(lambda self, x: functional.silu(x[:, :0])), IMAGE)


def test_constants_made_on_the_cpu_meet_tensors_without_data() -> None:
    graph = trace(Net(lambda self, x: x + torch.arange(6.0)), IMAGE)
    assert graph.nodes[-1].operator == Elementwise(function="add", shapes=((1, 8, 6, 6), (6,)))


def test_prelu_reads_its_learned_slopes() -> None:
    graph = trace(nn.PReLU(8), IMAGE)
    assert graph.nodes[-1].operator == Elementwise(function="prelu", shapes=((1, 8, 6, 6), (8, 1, 1)))
    assert graph.num_params == 8


# ----------------------------------------------------------------------------------------------------- bad input, state


def test_an_operator_without_formula_is_named_with_its_module() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(Net(lambda self, x: torch.fft.fft(x).real)))
    with pytest.raises(UnknownOperatorError, match=r"aten::_fft_r2c\S* of module '1\.0'.*HANDLERS"):
        trace(net, IMAGE)


def test_a_result_that_depends_on_data_is_refused() -> None:
    with pytest.raises(UnknownOperatorError, match=r"aten::item\S* of module '': it makes a number.*with_data"):
        trace(Net(lambda self, x: x * x.sum().item()), IMAGE)


def test_a_second_result_that_no_operator_has_is_refused_when_it_is_read() -> None:
    x = torch.zeros(1, 8, 8)
    norm = Net(lambda self, x: torch.ops.aten.native_layer_norm(x, (8,), None, None, 1e-5))
    with pytest.raises(UnknownOperatorError, match=r"second result, of shape \(1, 8, 1\)"):
        trace(norm, x)
    kept = trace(norm, x, allow_unknown=True)
    assert texts(kept)[2] == "unknown(name='aten::native_layer_norm.default', shapes=((1, 8, 8),), to=(1, 8, 1))"


def test_the_place_of_a_maximum_is_found_by_another_reduction_when_it_is_read() -> None:
    graph = trace(Net(lambda self, x: x.max(dim=1).indices + 1), IMAGE)
    assert variants(graph) == ["input", "reduce", "reduce", "add"]
    assert texts(graph)[2] == "reduce(shape=(1, 8, 6, 6), method='argmax', axes=(1,))"


def test_the_users_own_error_comes_first() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        trace(Net(forward), IMAGE)
    with pytest.raises(RuntimeError, match="channel"):
        trace(nn.Conv2d(4, 8, 1), IMAGE)
    with pytest.raises(RuntimeError, match="running_mean"):
        trace(nn.BatchNorm2d(4), IMAGE)


def test_a_module_without_tensors_in_or_out_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no tensor: 3"):
        trace(nn.ReLU(), 3)
    with pytest.raises(ValueError, match="returns no tensor, but int"):
        trace(Net(lambda self, x: x.dim()), IMAGE)


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)))
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    parameters, modes = list(net.parameters()), [each.training for each in net.modules()]
    x = torch.full((1, 8, 6, 6), -1.0)
    trace(net, x)
    with pytest.raises(RuntimeError):
        trace(net, torch.zeros(1, 1, 1, 1))
    assert [each.training for each in net.modules()] == modes
    assert all(new is old for new, old in zip(net.parameters(), parameters))
    assert all(torch.equal(new, old) for new, old in zip(net.state_dict().values(), before.values()))
    assert (x == -1).all()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())
    assert net(x).requires_grad


def test_weights_need_not_exist() -> None:
    with torch.device("meta"):
        net = nn.Linear(1 << 20, 1 << 20)
    graph = trace(net, torch.zeros(1, 1 << 20, device="meta"))
    assert graph.macs == 1 << 40
    assert graph.num_params == (1 << 40) + (1 << 20)


# ------------------------------------------------------------------------------------------------- the second route


def macs_of(graph: Graph, *kinds: str) -> int:
    return sum(node.operator.macs for node in graph.nodes if node.operator.kind in kinds)


TIMM = {
    "convnext_atto": 64, "densenet121": 64, "efficientnet_b0": 64, "ghostnet_100": 64, "mixer_s32_224": 224,
    "mnasnet_100": 64, "mobilenetv2_100": 64, "mobilenetv3_large_100": 64, "mobileone_s0": 64, "regnetx_002": 64,
    "regnety_002": 64, "repvgg_a0": 64, "resnet18": 64, "resnext50_32x4d": 64, "swin_tiny_patch4_window7_224": 224,
}  # fmt: skip


@pytest.fixture
def timm_net(request: pytest.FixtureRequest) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    net: nn.Module = timm.create_model(request.param)
    return net


@pytest.mark.parametrize(("timm_net", "size"), TIMM.items(), ids=TIMM.keys(), indirect=["timm_net"])
def test_macs_and_parameters_equal_fvcores_on_timms_networks(timm_net: nn.Module, size: int, fvcore_macs: Macs) -> None:
    x = torch.zeros(1, 3, size, size)
    graph = trace(timm_net, x)
    assert graph.macs == fvcore_macs(timm_net, x)
    assert graph.num_params == sum(each.numel() for each in timm_net.parameters())


@pytest.mark.parametrize("timm_net", ["vit_tiny_patch16_224"], indirect=True)
def test_macs_of_a_vision_transformer_are_fvcores_plus_the_attention_it_omits(
    timm_net: nn.Module, fvcore_macs: Macs
) -> None:
    x = torch.zeros(1, 3, 224, 224)
    graph = trace(timm_net, x)
    # 12 layers * 3 heads * 197 queries * 197 keys * (64 for the scores + 64 for the values)
    attention = 12 * 3 * 197 * 197 * (64 + 64)
    assert macs_of(graph, "attention") == attention
    assert graph.macs == fvcore_macs(timm_net, x) + attention
    assert graph.num_params == sum(each.numel() for each in timm_net.parameters())
