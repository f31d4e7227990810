"""Advice: what each rule finds in a network made for it, with the gain by hand, and where it stays silent."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import LatencyPredictor, load_device
from predictors.advice import LEAST_SHARE, RULES, Advice, Context, advise, advise_with, gain_between
from predictors.advice.channels import ChannelGroup, channel_groups, set_channels
from predictors.advice.depthwise import equal_time_channels
from predictors.device import Device, device_from_mapping
from predictors.graph import Graph, GraphBuilder
from predictors.graph_edit import Draft
from predictors.operators import Copy, Linear, Normalization, View
from predictors.precision import with_precision
from search_spaces import load_space

PEAK, BANDWIDTH, FIXED_S = 1e9, 1e9, 1e-6


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "made up"}


def device(
    classes: Mapping[str, Mapping[str, float]] | None = None,
    dtypes: Mapping[str, float] | None = None,
    runtime: str = "onnxruntime",
    spread: float = 1e-3,
    **numbers: object,
) -> Device:
    """Kernels take flops / 1e9 + bytes / 1e9 + 1 us, except in classes that reach other shares of the peaks."""
    usual = {"compute": 1.0, "read": 1.0, "write": 1.0, "fixed_s": FIXED_S, "spread": spread, "source": "made up"}
    peaks = dtypes or {"float32": PEAK}
    found = {"any": usual} | {name: usual | dict(shares) for name, shares in (classes or {}).items()}
    return device_from_mapping(
        {
            "name": "made_up",
            "description": "for tests",
            "runtime": runtime,
            "dtype": "float32",
            "peak": {dtype: quantity(peak, "FLOP/s") for dtype, peak in peaks.items()},
            "memory": [{"name": "memory", "bandwidth": quantity(BANDWIDTH, "B/s")}],
            "efficiency": dict.fromkeys(peaks, found),
            **numbers,
        }
    )


def seconds(macs: float, elements: float) -> float:
    """Of one kernel of the usual class, in float32."""
    return 2 * macs / PEAK + 4 * elements / BANDWIDTH + FIXED_S


def told(graph: Graph, rule: str, on: Device | None = None, **options: str) -> list[Advice]:
    return [advice for advice in advise(graph, on or device(), **options) if advice.rule == rule]  # type: ignore[arg-type]


class Builder(GraphBuilder):
    def layer(self, x: int, channels: int, kernel: int = 3, order: str = "cba", name: str = "", **options: Any) -> int:
        """Convolution (c), batch norm (b) and relu (a) in an order."""
        for part in order:
            if part == "c":
                x = self.conv2d(x, channels, kernel=kernel, name=f"{name}.conv", **options)
            elif part == "b":
                x = self.batch_norm(x, name=f"{name}.norm")
            else:
                x = self.activation(x, "relu", name=f"{name}.act")
        return x

    def ended(self, x: int) -> Graph:
        return self.graph(self.linear(self.flatten(self.global_pool(x)), 10, name="head"))


def plain(channels: int = 8, size: int = 16, num_layers: int = 2) -> Graph:
    builder = Builder()
    x = builder.input((1, 8, size, size))
    for index in range(num_layers):
        x = builder.layer(x, channels, name=f"layer{index}")
    return builder.ended(x)


# ------------------------------------------------------------------------------------------------------- the rules


def test_padded_channels_are_told_and_what_the_next_multiple_saves() -> None:
    builder = Builder()
    x = builder.layer(builder.input((1, 4, 8, 8)), 23, name="first")
    graph = builder.ended(builder.layer(x, 8, kernel=1, name="second"))
    (advice,) = told(graph, "alignment", device(alignment=quantity(4, "channels")))
    assert advice.sentence.startswith(
        "first.conv: 23 channels cost what 24 cost on this device: use 24 (free) or 20 (-0.0"
    )
    assert advice.module_paths == ("first.conv",)
    # 4 channels less: the first layer computes 4*64*36 less, writes 4*64, holds 4*36 and 4 biases less;
    # the second reads 4*64 and holds 8*4 weights less
    macs = 4 * 64 * 36 + 8 * 64 * 4
    elements = 4 * 64 + 4 * 36 + 4 + 4 * 64 + 8 * 4
    assert advice.gain_s == pytest.approx(seconds(macs, elements) - FIXED_S)


def test_channels_that_the_device_does_not_pad_are_not_told() -> None:
    assert not told(plain(channels=24), "alignment", device(alignment=quantity(4, "channels")))
    assert not told(plain(channels=23), "alignment", device())
    padded_head = Builder()
    x = padded_head.conv2d(padded_head.input((1, 4, 8, 8)), 23, kernel=3)
    assert not told(padded_head.graph(x), "alignment", device(alignment=quantity(4, "channels")))  # what it answers


def test_an_activation_before_the_norm_goes_behind_it() -> None:
    builder = Builder()
    x = builder.layer(builder.input((1, 8, 16, 16)), 8, order="cab", name="first")
    graph = builder.ended(builder.layer(x, 8, order="cab", name="second"))
    (advice,) = told(graph, "activation before norm")
    assert advice.module_paths == ("first.norm", "second.norm")
    # each norm alone: 2 macs an element, reads and writes 8*256 and holds 2*8; folded it is a bias of 8
    alone_s = seconds(2 * 8 * 256, 2 * 8 * 256 + 16) - 4 * 8 / BANDWIDTH
    assert advice.gain_s == pytest.approx(2 * alone_s)
    assert [node.operator.variant for node in advice.edited.nodes[1:4]] == ["conv2d", "batch_norm", "relu"]


def test_a_norm_that_folds_already_or_cannot_is_left_alone() -> None:
    assert not told(plain(), "activation before norm")
    builder = Builder()
    x = builder.layer(builder.input((1, 8, 16, 16)), 8, order="ca", name="first")
    both = builder.elementwise("add", builder.batch_norm(x), x)  # the activation is read twice
    assert not told(builder.ended(both), "activation before norm")


def test_an_activation_that_the_runtime_does_not_fuse_gets_a_relative_that_it_does() -> None:
    builder = Builder()
    x = builder.conv2d(builder.input((1, 8, 16, 16)), 8, kernel=3)
    graph = builder.ended(builder.activation(x, "silu", name="act"))
    (advice,) = told(graph, "unfused activation")
    assert advice.gain_s == pytest.approx(seconds(0, 2 * 8 * 256))
    assert "fuses hardswish" in advice.sentence
    assert not told(plain(), "unfused activation")


def depthwise_block(size: int = 16) -> Graph:
    builder = Builder()
    x = builder.layer(builder.input((1, 4, size, size)), 8, kernel=1, name="expand")
    x = builder.layer(x, 8, groups=8, name="depthwise")
    return builder.ended(builder.layer(x, 4, kernel=1, name="project"))


def test_a_depthwise_convolution_that_waits_for_memory_becomes_dense() -> None:
    slow = device({"depthwise_conv2d": {"read": 1e-3, "write": 1e-3}}, {"float32": 1e11})
    found = told(depthwise_block(), "depthwise", slow)
    assert {advice.module_paths for advice in found} == {("depthwise.conv",)}
    # depthwise: 8*9 macs a pixel at 1e11 FLOP/s; 2*8*256 elements, 8*9 weights and 8 biases at a thousandth
    pixels = 256
    depthwise_s = 2 * 72 * pixels / 1e11 + 4 * (16 * pixels + 80) / 1e6 + FIXED_S
    dense_s = 2 * 576 * pixels / 1e11 + 4 * (16 * pixels + 584) / BANDWIDTH + FIXED_S
    expand_s = 2 * 32 * pixels / 1e11 + 4 * (12 * pixels + 40) / BANDWIDTH + FIXED_S
    fused_s = 2 * 288 * pixels / 1e11 + 4 * (12 * pixels + 296) / BANDWIDTH + FIXED_S
    assert sorted(advice.gain_s for advice in found) == pytest.approx(
        sorted([depthwise_s - dense_s, depthwise_s + expand_s - fused_s])
    )


def test_the_dense_convolution_of_equal_time_is_the_widest_that_fits() -> None:
    slow = device({"depthwise_conv2d": {"read": 1e-2, "write": 1e-2}}, {"float32": 1e11})
    predictor = LatencyPredictor(slow)
    graph = depthwise_block()
    context = Context(predictor=predictor, prediction=predictor.predict(graph))
    index = next(index for index, node in enumerate(graph.nodes) if node.name == "depthwise.conv")
    found = equal_time_channels(context, index)

    def dense_s(channels: int) -> float:
        elements = 2 * channels * 256 + 9 * channels**2
        return 2 * 9 * channels**2 * 256 / 1e11 + 4 * elements / BANDWIDTH + FIXED_S

    allowed_s = context.kernel_at[index][1].latency_s
    assert found % 8 == 0
    assert dense_s(found) <= allowed_s < dense_s(found + 8)


def test_depthwise_convolutions_that_compute_or_are_fast_stay() -> None:
    # at 5e9 FLOP/s depthwise and expansion take 7 + 17 and 3 + 12 us and two launches, one dense 3x3 for both 29 + 13
    assert not told(depthwise_block(), "depthwise", device(dtypes={"float32": 5e9}))
    slow_at_arithmetic = device({"depthwise_conv2d": {"compute": 1e-3}}, {"float32": 1e6})
    assert not told(depthwise_block(), "depthwise", slow_at_arithmetic)  # bound by compute, not by memory


def test_a_large_window_becomes_small_ones_that_see_as_far() -> None:
    builder = Builder()
    graph = builder.ended(builder.layer(builder.input((1, 8, 16, 16)), 8, kernel=5, stride=2, name="large"))
    (advice,) = told(graph, "windows")
    # 25 products become 9 and 9 at 8x8; a second kernel writes and reads 8*64 once more and holds 64*18 for 64*25
    saved = seconds(8 * 64 * 8 * (25 - 18), 64 * (25 - 18) - 2 * 8 * 64) - 2 * FIXED_S
    assert advice.gain_s == pytest.approx(saved)
    assert "two 3x3 see as far as a 5x5" in advice.sentence
    strides = [node.operator.stride for node in advice.edited.nodes if node.operator.variant == "conv2d"]  # type: ignore[attr-defined]
    assert strides == [(2, 2), (1, 1)]


def test_a_window_of_an_inefficient_class_is_told_to_shrink() -> None:
    builder = Builder()
    graph = builder.ended(builder.layer(builder.input((1, 8, 16, 16)), 8, kernel=5, groups=8, name="large"))
    slow = device({"depthwise_conv2d_5x5": {"compute": 0.1, "read": 0.1, "write": 0.1}})
    shrunk = [advice for advice in told(graph, "windows", slow) if "at least 2.8 times" in advice.sentence]
    elements = 2 * 8 * 256 + 8
    large_s = 10 * (2 * 8 * 256 * 25 / PEAK + 4 * (elements + 8 * 25) / BANDWIDTH) + FIXED_S
    small_s = seconds(8 * 256 * 9, elements + 8 * 9)
    assert [advice.gain_s for advice in shrunk] == pytest.approx([large_s - small_s])
    assert not [
        advice for advice in told(graph, "windows") if "at least" in advice.sentence
    ]  # 25 products, not 2.8 times


def test_common_windows_are_left_alone() -> None:
    assert not told(plain(), "windows")


def test_a_dilated_window_and_a_stride_of_four() -> None:
    builder = Builder()
    x = builder.layer(builder.input((1, 8, 16, 16)), 8, dilation=2, name="dilated")
    graph = builder.ended(x)
    assert not told(graph, "windows")  # as many products
    builder = Builder()
    patches = builder.ended(
        builder.conv2d(builder.input((1, 8, 32, 32)), 8, kernel=7, stride=4, padding=3, name="stem")
    )
    (advice,) = told(patches, "windows")
    # 49*64 products for each of 64 pixels become 9*32 for each of 256 and 9*32 for each of 64; between them lie 4*256
    saved = seconds(64 * 64 * 49 - 32 * 9 * (256 + 64), 64 * 49 - 2 * 32 * 9 - 2 * 4 * 256) - 2 * FIXED_S
    assert advice.gain_s == pytest.approx(saved)


def copied(builder: GraphBuilder, x: int, axes: tuple[int, ...], name: str) -> int:
    shape = builder.shape(x)
    to = tuple(shape[axis] for axis in axes)
    operator = Copy(shape=shape, to=to, method="transpose", steps=(("transpose", axes),))
    return builder.add(operator, x, name=name)


def test_transposes_cost_what_they_move() -> None:
    builder = Builder()
    x = builder.conv2d(builder.input((1, 8, 16, 16)), 8, kernel=3)
    x = copied(builder, x, (0, 2, 3, 1), "to_last")
    x = builder.add(Normalization(shape=(1, 16, 16, 8), method="layer_norm", affine_params=16), x)
    graph = builder.ended(copied(builder, x, (0, 3, 1, 2), "to_first"))
    (advice,) = told(graph, "rearrangement")
    assert advice.gain_s == pytest.approx(2 * seconds(0, 2 * 8 * 256))
    assert advice.module_paths == ("to_last", "to_first")
    assert "2 operators of kind transpose only move 0.0328 MB" in advice.sentence  # 2 * 2 * 2048 elements of 4 bytes
    assert sum(isinstance(node.operator, View) for node in advice.edited.nodes) == 3  # and the flattening
    assert not told(plain(), "rearrangement")


def test_a_padding_folds_into_the_convolution_and_a_repetition_into_the_broadcast() -> None:
    builder = Builder()
    x = builder.input((1, 8, 16, 16))
    around = ("pad", (0, 0, 1, 1), (0, 0, 1, 1))
    x = builder.add(Copy(shape=(1, 8, 16, 16), to=(1, 8, 18, 18), method="pad", steps=(around,)), x, name="pad")
    x = builder.conv2d(x, 8, kernel=3, padding=0)
    gate = builder.global_pool(x)
    wide = Copy(shape=(1, 8, 1, 1), to=(1, 8, 16, 16), method="expand", steps=(("expand", (1, 8, 16, 16)),))
    gate = builder.add(wide, gate, name="expand")
    graph = builder.ended(builder.elementwise("mul", x, gate))
    (advice,) = told(graph, "rearrangement")
    assert advice.module_paths == ("pad", "expand")
    # the pad reads 8*256 and writes 8*324, the convolution then reads 8*256 for 8*324; the expansion reads 8, writes
    # 8*256, and the product reads 8 for 8*256
    pad_s = seconds(0, 8 * 256 + 8 * 324 + 8 * (324 - 256))
    expand_s = seconds(0, 8 + 8 * 256 + 8 * 256 - 8)
    assert advice.gain_s == pytest.approx(pad_s + expand_s)


def test_branches_that_are_added_become_one_convolution() -> None:
    builder = Builder()
    x = builder.layer(builder.input((1, 8, 16, 16)), 8, name="before")
    large = builder.layer(x, 8, order="cb", name="large")
    small = builder.layer(x, 8, kernel=1, order="cb", name="small")
    total = builder.elementwise("add", builder.elementwise("add", large, small, name="add"), builder.batch_norm(x))
    graph = builder.ended(builder.activation(total, "relu"))
    branches = [advice for advice in told(graph, "merging") if "branches" in advice.sentence]
    # the 3x3 remains and takes the relu; gone are the 1x1 of 64 products a pixel, the norm of 2 that takes the second
    # sum and the relu (it reads x and the first sum), and the first sum, for which the 3x3 reads 8*256 more
    small_s = seconds(64 * 256, 2 * 8 * 256 + 72)
    norm_s = seconds(2 * 8 * 256, 3 * 8 * 256 + 16)
    read_s = 4 * 8 * 256 / BANDWIDTH
    assert [advice.gain_s for advice in branches] == pytest.approx([small_s + norm_s + read_s])
    assert [node.name for node in branches[0].edited.nodes if "conv" in node.name] == ["before.conv", "large.conv"]


def test_layers_in_a_row_without_activation_become_one() -> None:
    builder = Builder()
    x = builder.conv2d(builder.input((1, 8, 16, 16)), 16, kernel=3, name="first")
    graph = builder.ended(builder.conv2d(builder.batch_norm(x), 8, kernel=1, name="second"))
    (advice,) = told(graph, "merging")
    # 3x3 8 -> 16 and 1x1 16 -> 8 become 3x3 8 -> 8; the folded norm's 16 biases go too
    macs = 256 * (8 * 16 * 9 + 16 * 8 - 8 * 8 * 9)
    elements = 2 * 16 * 256 + 16 * 72 + 16 + 16 * 8 - 8 * 72
    assert advice.gain_s == pytest.approx(seconds(macs, elements))
    builder = Builder()
    x = builder.linear(builder.input((1, 8)), 16)
    (advice,) = told(builder.graph(builder.linear(x, 8)), "merging")
    assert [node.operator for node in advice.edited.nodes[1:]] == [Linear(shape=(1, 8), out_features=8, bias=True)]


def test_layers_with_an_activation_between_or_of_different_inputs_stay() -> None:
    assert not told(plain(), "merging")
    builder = Builder()
    x = builder.input((1, 8, 16, 16))
    bottleneck = builder.conv2d(builder.conv2d(x, 2, kernel=1), 8, kernel=3)  # one 3x3 of 8 channels has more to do
    assert not told(builder.ended(builder.elementwise("add", builder.activation(bottleneck, "relu"), x)), "merging")


def test_branches_of_crossed_windows_stay() -> None:
    builder = Builder()
    x = builder.input((1, 8, 16, 16))
    rows, columns = builder.conv2d(x, 8, kernel=(1, 3)), builder.conv2d(x, 8, kernel=(3, 1))
    assert not told(builder.ended(builder.activation(builder.elementwise("add", rows, columns), "relu")), "merging")


def siblings() -> Graph:
    builder = GraphBuilder()
    x = builder.input((1, 4, 8))
    query, key, value = (builder.linear(x, 8, bias=False, name=name) for name in ("query", "key", "value"))
    return builder.graph(builder.elementwise("add", builder.elementwise("mul", query, key), value))


def test_layers_on_one_tensor_become_one_where_slices_are_views() -> None:
    (advice,) = told(siblings(), "merging", device(runtime="torch_eager"))
    assert advice.gain_s == pytest.approx(2 * seconds(0, 4 * 8))  # the input is read once, two launches less
    assert advice.module_paths == ("query+key+value",)
    assert not told(siblings(), "merging")  # ONNX Runtime copies slices


def residual_blocks(number: int, inner: int = 8) -> Graph:
    builder = Builder()
    x = builder.layer(builder.input((1, 8, 4, 4)), 8, name="stem")
    for index in range(number):
        y = builder.layer(x, inner, kernel=1, name=f"block{index}.expand")
        y = builder.conv2d(y, 8, kernel=1, name=f"block{index}.project")
        x = builder.activation(builder.elementwise("add", x, y, name=f"block{index}"), "relu", name=f"block{index}.act")
    return builder.ended(x)


def test_of_two_small_blocks_one_stays_twice_as_wide() -> None:
    usual = {"fixed_s": 1e-3, "read": 1.0, "write": 1.0}
    slow_to_launch = device({"any": usual}, launch=quantity(1.0, "ms"))
    (advice,) = told(residual_blocks(2), "small blocks", slow_to_launch)
    assert advice.edited == residual_blocks(1, inner=16)
    # two launches less: expand, and project with the sum and the relu; the work is the same, and the traffic
    # 16 pixels of 8 channels that are read for expand, read again for the sum and written, and 8 biases for 16
    assert advice.gain_s == pytest.approx(2 * 1e-3 + 3 * 4 * 8 * 16 / BANDWIDTH)
    (advice,) = told(residual_blocks(5), "small blocks", slow_to_launch)
    assert advice.edited.macs == residual_blocks(5).macs
    assert advice.module_paths == ("block0 and block1", "block2 and block3")
    assert not told(residual_blocks(2), "small blocks")  # no launch cost is known
    assert not told(residual_blocks(1), "small blocks", slow_to_launch)


def test_a_host_that_is_slower_than_the_device_is_told_to_record() -> None:
    slow_host = device(host_launch=quantity(1.0, "ms"), runtime="torch_eager")
    (advice,) = told(plain(size=4), "graph runtime", slow_host)
    alone_s = LatencyPredictor(replace(slow_host, host_launch=None)).predict(plain(size=4)).latency_s
    num_kernels = LatencyPredictor(slow_host).predict(plain(size=4)).num_kernels
    assert advice.gain_s == pytest.approx(num_kernels * 1e-3 - alone_s)
    assert advice.edited == plain(size=4)
    assert not told(plain(size=4), "graph runtime", device(host_launch=quantity(1.0, "ns"), runtime="torch_eager"))
    assert not told(plain(size=4), "graph runtime")


def test_a_concat_of_equal_shapes_becomes_a_sum() -> None:
    builder = Builder()
    x = builder.input((1, 8, 16, 16))
    parts = [builder.layer(x, 8, name=name) for name in ("left", "middle", "right")]
    joined = builder.concat(*parts, name="join")
    graph = builder.ended(builder.layer(joined, 8, kernel=1, name="behind"))
    (advice,) = told(graph, "concatenation")
    # the concat reads and writes 24*256; two sums read 16*256 and write 8*256 each; behind it 16*256 less are read,
    # 16*8 weights less are held, 256*16*8 products less are made. The sums fuse into the convolutions before them,
    # which read 8*256 more, so neither is a kernel and neither reads its first input.
    concat_s = seconds(0, 2 * 24 * 256)
    sums_s = 2 * 4 * 8 * 256 / BANDWIDTH
    behind_s = seconds(256 * 16 * 8, 16 * 256 + 16 * 8) - FIXED_S
    unfused_relu_s = 2 * seconds(0, 3 * 8 * 256)  # conv + relu + add: ONNX Runtime takes the sum before the relu only
    assert advice.gain_s == pytest.approx(concat_s + behind_s - unfused_relu_s)
    assert sums_s < unfused_relu_s
    builder = Builder()
    x = builder.input((1, 8, 16, 16))
    unequal = builder.concat(builder.layer(x, 8), builder.layer(x, 4))
    assert not told(builder.ended(builder.layer(unequal, 8)), "concatenation")


def test_int8_with_and_without_requantised_outputs() -> None:
    fast = device(dtypes={"float32": PEAK, "int8": 4e9})
    graph = plain(size=32)
    found = {advice.sentence.partition(":")[0]: advice for advice in told(graph, "int8", fast)}
    predictor = LatencyPredictor(fast)
    for sentence, requantise in (
        ("int8 with requantised outputs", True), ("int8 that writes floats between the operators", False),
    ):  # fmt: skip
        edited = with_precision(graph, "int8", requantise=requantise)
        assert found[sentence].gain_s == pytest.approx(
            predictor.predict(graph).latency_s - predictor.predict(edited).latency_s
        )
    requantised, dequantised = (found[name].gain_s for name in found)
    assert requantised > dequantised > 0.0
    assert not told(graph, "int8", device())
    (again,) = told(with_precision(graph, "int8", requantise=False), "int8", fast)
    assert again.gain_s == pytest.approx(requantised - dequantised)


@pytest.mark.parametrize(("peak", "bandwidth_pays"), [(1e12, True), (1e6, False)])
def test_a_lower_precision_tells_whether_its_bytes_or_its_arithmetic_pay(peak: float, bandwidth_pays: bool) -> None:
    both = device(dtypes={"float32": peak, "float16": 2 * peak})
    (advice,) = told(plain(), "lower precision", both)
    words = ["less traffic alone", "faster arithmetic alone"]
    first, second = words if bandwidth_pays else words[::-1]
    assert advice.sentence.index(first) < advice.sentence.index(second)
    assert not told(plain(), "lower precision", both, dtype="float16")


def test_an_operator_in_a_precision_of_its_own_costs_two_conversions() -> None:
    both = device(dtypes={"float32": PEAK, "float16": PEAK})
    graph = with_precision(plain(num_layers=3), "float32", exceptions={"layer1.*": "float16"})
    (advice,) = told(graph, "conversions", both)
    # one conversion of 2048 elements reads 4 and writes 2 bytes each, one the reverse; the layer reads and writes
    # 2048 and holds 8*72 and 8 in 2 bytes instead of 4
    conversions_s = 2 * (6 * 2048 / BANDWIDTH + FIXED_S)
    assert advice.gain_s == pytest.approx(conversions_s - 2 * (2 * 2048 + 584) / BANDWIDTH)
    assert advice.edited.macs == plain(num_layers=3).macs
    assert not told(with_precision(plain(), "float16"), "conversions", both)


def test_a_smaller_image_saves_its_pixels() -> None:
    graph = plain(size=128)
    assert not told(graph, "resolution")  # 8 channels are no image
    builder = Builder()
    graph = builder.ended(builder.layer(builder.input((1, 3, 128, 64)), 8, name="stem"))
    (advice,) = told(graph, "resolution")  # 96x48; 64 is below 0.7 of 128
    assert advice.sentence.startswith("images of 96x48 instead of 128x64")
    pixels = 128 * 64 - 96 * 48
    # stem: 27*8 macs a pixel, reads 3 and writes 8; pooling reads 8 and adds them
    assert advice.gain_s == pytest.approx(seconds(216 * pixels + 8 * pixels, (3 + 8 + 8) * pixels) - FIXED_S)


def test_a_network_whose_shapes_do_not_follow_its_image_gets_no_smaller_one() -> None:
    builder = Builder()
    x = builder.conv2d(builder.input((1, 3, 128, 128)), 8, kernel=1)
    pixels = builder.add(View(shape=(1, 8, 128, 128), to=(1, 8, 16384)), x)
    (advice,) = told(builder.graph(builder.linear(pixels, 10)), "resolution")  # a layer of fewer inputs
    assert advice.edited.nodes[-1].operator == Linear(shape=(1, 8, 96 * 96), out_features=10, bias=True)
    gathered = Copy(shape=(1, 8, 16384), to=(1, 8, 64), method="gather")
    assert not told(builder.graph(builder.add(gathered, pixels)), "resolution")


# ------------------------------------------------------------------------------------------------- tied channels


def test_tied_layers_change_their_channels_together() -> None:
    builder = Builder()
    x = builder.layer(builder.input((1, 4, 8, 8)), 6, name="stem")
    y = builder.layer(x, 12, kernel=1, name="expand")
    y = builder.layer(y, 12, groups=12, name="depthwise")
    gate = builder.activation(builder.conv2d(builder.global_pool(y), 12, kernel=1, name="gate"), "sigmoid")
    y = builder.conv2d(builder.elementwise("mul", y, gate), 6, kernel=1, name="project")
    graph = builder.ended(builder.elementwise("add", x, y))
    groups = channel_groups(graph)
    names = [[graph.nodes[index].name for index in (*group.producers, *group.followers)] for group in groups]
    assert names == [["stem.conv", "project"], ["expand.conv", "gate", "depthwise.conv"]]
    draft = Draft(graph)
    for group in groups:
        set_channels(draft, group, group.channels + 1)
    changed = draft.graph()
    assert {node.operator.output_shape[1] for node in changed.nodes[1:-1]} == {7, 13}
    assert changed.nodes[-1].operator.output_shape == (1, 10)


def test_channels_that_something_else_fixes_are_no_group() -> None:
    builder = Builder()
    x = builder.input((1, 8, 8, 8))
    y = builder.elementwise("add", x, builder.conv2d(x, 8, kernel=3, name="tied to the input"))
    assert channel_groups(builder.graph(builder.conv2d(y, 8, kernel=3, name="answer"))) == ()
    builder = Builder()
    x = builder.conv2d(builder.input((1, 8, 8, 8)), 8, kernel=3, name="grouped reads this")
    graph = builder.ended(builder.conv2d(x, 12, kernel=3, groups=4))
    assert channel_groups(graph) == (
        ChannelGroup(channels=8, producers=(1,), followers=(), multiple=4),
        ChannelGroup(channels=12, producers=(2,), followers=(), multiple=4),
    )


def test_joined_channels_are_free_unless_their_sum_is_tied() -> None:
    def joined(tied: bool) -> Graph:
        builder = Builder()
        x = builder.input((1, 8, 8, 8))
        y = builder.concat(builder.conv2d(x, 4, kernel=1), builder.conv2d(x, 4, kernel=3))
        if tied:
            y = builder.elementwise("add", y, x)
        return builder.ended(y)

    assert [group.producers for group in channel_groups(joined(False))] == [(1,), (2,)]
    assert channel_groups(joined(True)) == ()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_every_group_of_a_network_can_be_given_other_channels(seed: int, more: int) -> None:
    space = load_space("mobilenet_v3_tiny")
    graph = space.graph(space.sample(np.random.default_rng(seed)))
    groups = channel_groups(graph)
    producers = [index for group in groups for index in group.producers]
    assert len(producers) == len(set(producers)) > 0
    draft = Draft(graph)
    for group in groups:
        set_channels(draft, group, group.channels + more * group.multiple)
    assert draft.graph().nodes[-1].operator.output_shape == graph.nodes[-1].operator.output_shape


# ------------------------------------------------------------------------------------------------------- the gain


def test_what_both_networks_err_alike_cancels() -> None:
    shared = LatencyPredictor(device(spread=0.3))
    deep, shallow = plain(num_layers=6), plain(num_layers=5)
    gain = gain_between(shared.predict(deep), shared.predict(shallow))
    layer_s = seconds(64 * 9 * 256, 2 * 8 * 256 + 584)
    assert gain.gain_s == pytest.approx(layer_s)
    assert gain.std_s == pytest.approx(0.3 * layer_s)  # not 0.3 of both networks
    assert gain_between(shared.predict(deep), shared.predict(deep)).std_s == 0.0


def test_a_networks_own_spread_counts_for_what_is_saved() -> None:
    own = LatencyPredictor(device(spread=1e-9, network_spread=quantity(0.2, "1"), in_network=quantity(0.5, "1")))
    gain = gain_between(own.predict(plain(num_layers=6)), own.predict(plain(num_layers=5)))
    assert gain.gain_s == pytest.approx(0.5 * seconds(64 * 9 * 256, 2 * 8 * 256 + 584))
    assert gain.std_s == pytest.approx(0.2 * gain.gain_s)


def test_where_the_host_holds_both_networks_up_kernels_do_not_matter() -> None:
    slow_host = LatencyPredictor(device(host_launch=quantity(1.0, "s"), runtime="torch_eager", spread=0.3))
    gain = gain_between(slow_host.predict(plain(size=16)), slow_host.predict(plain(size=8)))
    assert gain.gain_s == gain.std_s == 0.0


def test_gains_that_their_deviation_covers_are_not_told() -> None:
    builder = Builder()
    graph = builder.ended(builder.layer(builder.input((1, 8, 16, 16)), 8, kernel=5, groups=8, name="large"))

    def shrinking(spread: float) -> list[Advice]:
        slow = {"compute": 0.05, "read": 0.05, "write": 0.05, "spread": spread}
        return told(graph, "windows", device({"depthwise_conv2d_5x5": slow}))

    assert shrinking(0.1)
    assert not shrinking(1.5)


# ---------------------------------------------------------------------------------------------- all rules together


_PREDICTORS: dict[str, LatencyPredictor] = {}


def predictor_of(name: str) -> LatencyPredictor:
    if name not in _PREDICTORS:
        found = load_device(name)
        _PREDICTORS[name] = LatencyPredictor(replace(found, tables=()), ())  # learning from tables takes seconds
    return _PREDICTORS[name]


@given(st.sampled_from(["mobile_gpu", "mobile_cpu", "v100", "edge_tpu", "a100"]), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_advice_always_saves_time_and_says_how_much(name: str, seed: int) -> None:
    space = load_space("mobilenet_v3_tiny")
    graph = space.graph(space.sample(np.random.default_rng(seed)))
    predictor = predictor_of(name)
    found = advise_with(predictor, graph)
    before_s = predictor.predict(graph).latency_s
    assert [advice.gain_s for advice in found] == sorted((advice.gain_s for advice in found), reverse=True)
    for advice in found:
        assert advice.gain_s > 0.0
        assert advice.share >= LEAST_SHARE
        assert advice.gain_s >= advice.gain_std_s
        assert advice.sentence.endswith(" %)")
        if advice.rule != "graph runtime":
            assert advice.gain_s == pytest.approx(before_s - predictor.predict(advice.edited).latency_s)
            assert Graph(advice.edited.nodes, advice.edited.outputs) == advice.edited  # valid by its own checks


def test_the_rules_are_those_that_are_tested_above() -> None:
    assert set(RULES) == {
        "alignment", "activation before norm", "unfused activation", "depthwise", "windows", "rearrangement", "merging",
        "small blocks", "graph runtime", "concatenation", "int8", "lower precision", "conversions", "resolution",
    }  # fmt: skip


def test_a_network_with_nothing_to_change_gets_no_advice() -> None:
    assert advise(plain(), device()) == ()


def test_a_table_that_knows_of_a_cliff_makes_more_channels_the_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A runtime that leaves its fast kernels where the channels are no multiple of 4."""
    predictor = LatencyPredictor(device())
    usual: Callable[..., Any] = predictor._estimate

    def estimate(kernel: Any) -> Any:
        found = usual(kernel)
        channels = getattr(kernel.anchor, "out_channels", 4)
        return replace(found, latency_s=3.0 * found.latency_s) if channels % 4 else found

    monkeypatch.setattr(predictor, "_estimate", estimate)
    graph = plain(channels=23)
    (advice,) = [each for each in advise_with(predictor, graph) if each.rule == "alignment"]
    assert "more channels take less time on this device: 23 -> 24" in advice.sentence
    assert advice.gain_s == pytest.approx(predictor.predict(graph).latency_s - predictor.predict(plain(24)).latency_s)
