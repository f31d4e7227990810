"""Every formula against numbers derived by hand; the arithmetic stands beside each."""

import pickle
from math import prod
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from predictors import UnknownOperatorError
from predictors.dynamic_conv import DynamicConv2d
from predictors.indexing import Gather, GridSample, Scatter, Sort
from predictors.operators import (
    OPERATORS,
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Embedding,
    Input,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    Unknown,
    View,
    broadcast_shape,
    operator_from_text,
    padded_shape,
    round_up,
    window_output,
)
from predictors.recurrent import Recurrent
from predictors.volumes import Conv3d, Pool3d


class Expected(NamedTuple):
    """An operator and what it must say of itself."""

    operator: Operator
    text: str
    variant: str
    output: Shape
    macs: int
    params: int
    reads: int
    holds: int
    writes: int


IMAGE = (2, 6, 5, 5)  # 2 * 6 * 25 = 300 elements

CASES = (
    Expected(Input(shape=IMAGE), "input(shape=(2, 6, 5, 5))", "input", IMAGE, 0, 0, 0, 0, 300),
    Expected(
        Constant(shape=(1, 5, 8), learned_params=40), "constant(shape=(1, 5, 8), learned_params=40)",
        "constant", (1, 5, 8), 0, 40, 0, 0, 1 * 5 * 8,
    ),
    Expected(
        View(shape=IMAGE, to=(2, 150)), "view(shape=(2, 6, 5, 5), to=(2, 150))", "view", (2, 150), 0, 0, 300, 0, 300
    ),
    Expected(  # 5x5 with padding 1, kernel 3, stride 2: (5 + 2 - 3) // 2 + 1 = 3
        Conv2d(batch=2, in_channels=6, out_channels=4, height=5, width=5, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        "conv2d(batch=2, in_channels=6, out_channels=4, height=5, width=5, kernel=(3, 3), stride=(2, 2), "
        "padding=(1, 1))",
        "conv2d", (2, 4, 3, 3), 2 * 4 * 3 * 3 * 6 * 9, 4 * 6 * 9, 300, 4 * 6 * 9, 2 * 4 * 3 * 3,
    ),
    Expected(  # 2 groups of 3 input and 2 output channels, bias, a kernel of 1x3 dilated to span 1x5
        Conv2d(in_channels=6, out_channels=4, height=5, width=5, kernel=(1, 3), dilation=(1, 2), groups=2, bias=True),
        "conv2d(in_channels=6, out_channels=4, height=5, width=5, kernel=(1, 3), dilation=(1, 2), groups=2, bias=True)",
        "conv2d", (1, 4, 5, 1), 4 * 5 * 1 * 3 * 3, 4 * 3 * 3 + 4, 150, 4 * 3 * 3 + 4, 4 * 5,
    ),
    Expected(  # depthwise: one input channel for each output channel
        Conv2d(in_channels=6, out_channels=6, height=5, width=5, kernel=(3, 3), padding=(1, 1), groups=6),
        "conv2d(in_channels=6, out_channels=6, height=5, width=5, kernel=(3, 3), padding=(1, 1), groups=6)",
        "depthwise_conv2d", (1, 6, 5, 5), 6 * 25 * 9, 6 * 9, 150, 6 * 9, 150,
    ),
    Expected(  # (5 - 1) * 2 - 2 * 1 + (3 - 1) + 1 + 1 = 10; each of the inputs meets 4 outputs * 9
        ConvTranspose2d(
            in_channels=6, out_channels=4, height=5, width=5, kernel=(3, 3), stride=(2, 2), padding=(1, 1),
            output_padding=(1, 1), bias=True,
        ),
        "conv_transpose2d(in_channels=6, out_channels=4, height=5, width=5, kernel=(3, 3), stride=(2, 2), "
        "padding=(1, 1), output_padding=(1, 1), bias=True)",
        "conv_transpose2d", (1, 4, 10, 10), 6 * 25 * 4 * 9, 6 * 4 * 9 + 4, 150, 6 * 4 * 9 + 4, 400,
    ),
    Expected(
        Linear(shape=(2, 7, 8), out_features=3, bias=True), "linear(shape=(2, 7, 8), out_features=3, bias=True)",
        "linear", (2, 7, 3), 2 * 7 * 8 * 3, 8 * 3 + 3, 2 * 7 * 8, 8 * 3 + 3, 2 * 7 * 3,
    ),
    Expected(
        MatMul(left=(4, 7, 8), right=(4, 8, 3)), "matmul(left=(4, 7, 8), right=(4, 8, 3))",
        "matmul", (4, 7, 3), 4 * 7 * 8 * 3, 0, 4 * 7 * 8 + 4 * 8 * 3, 0, 4 * 7 * 3,
    ),
    Expected(
        MatMul(left=(7, 8), right=(8, 3)), "matmul(left=(7, 8), right=(8, 3))",
        "matmul", (7, 3), 7 * 8 * 3, 0, 7 * 8 + 8 * 3, 0, 7 * 3,
    ),
    Expected(  # 2 heads, 5 queries on 7 keys; 4 MACs for each score, 3 for each weighted value; the mask is read too
        Attention(heads=2, query_length=5, key_length=7, head_dim=4, value_dim=3, mask=(5, 7)),
        "attention(heads=2, query_length=5, key_length=7, head_dim=4, value_dim=3, mask=(5, 7))",
        "attention", (1, 2, 5, 3), 2 * 5 * 7 * (4 + 3), 0, 2 * 5 * 4 + 2 * 7 * 4 + 2 * 7 * 3 + 5 * 7, 0, 2 * 5 * 3,
    ),
    Expected(
        Activation(shape=IMAGE, function="relu"), "activation(shape=(2, 6, 5, 5), function='relu')",
        "relu", IMAGE, 0, 0, 300, 0, 300,
    ),
    Expected(Softmax(shape=(4, 7)), "softmax(shape=(4, 7))", "softmax", (4, 7), 0, 0, 28, 0, 28),
    Expected(  # scale and shift: 2 for each element, and a scale and a shift to read for each of the 6 channels
        Normalization(shape=IMAGE, method="batch_norm", affine_params=12),
        "normalization(shape=(2, 6, 5, 5), method='batch_norm', affine_params=12)",
        "batch_norm", IMAGE, 2 * 300, 12, 300, 12, 300,
    ),
    Expected(  # nothing learned, but the stored statistics still scale and shift
        Normalization(shape=IMAGE, method="batch_norm"), "normalization(shape=(2, 6, 5, 5), method='batch_norm')",
        "batch_norm", IMAGE, 1 * 300, 0, 300, 12, 300,
    ),
    Expected(
        Normalization(shape=(2, 7, 8), method="layer_norm", affine_params=16),
        "normalization(shape=(2, 7, 8), method='layer_norm', affine_params=16)",
        "layer_norm", (2, 7, 8), 5 * 112, 16, 112, 16, 112,
    ),
    Expected(
        Normalization(shape=(2, 7, 8), method="layer_norm"), "normalization(shape=(2, 7, 8), method='layer_norm')",
        "layer_norm", (2, 7, 8), 4 * 112, 0, 112, 0, 112,
    ),
    Expected(  # 5x5, kernel 2, stride 2: floor gives 2, ceil gives 3
        Pool2d(shape=IMAGE, method="max", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
        "pool2d(shape=(2, 6, 5, 5), method='max', kernel=(2, 2), stride=(2, 2), ceil_mode=True)",
        "max_pool2d", (2, 6, 3, 3), 0, 0, 300, 0, 2 * 6 * 9,
    ),
    Expected(
        Pool2d(shape=IMAGE, method="avg", kernel=(3, 3), stride=(1, 1)),
        "pool2d(shape=(2, 6, 5, 5), method='avg', kernel=(3, 3), stride=(1, 1))",
        "avg_pool2d", (2, 6, 3, 3), 0, 0, 300, 0, 2 * 6 * 9,
    ),
    Expected(
        AdaptivePool2d(shape=IMAGE), "adaptive_pool2d(shape=(2, 6, 5, 5))",
        "adaptive_avg_pool2d", (2, 6, 1, 1), 300, 0, 300, 0, 2 * 6,
    ),
    Expected(
        AdaptivePool2d(shape=IMAGE, method="max", size=(2, 3)),
        "adaptive_pool2d(shape=(2, 6, 5, 5), method='max', size=(2, 3))",
        "adaptive_max_pool2d", (2, 6, 2, 3), 0, 0, 300, 0, 2 * 6 * 2 * 3,
    ),
    Expected(
        Reduce(shape=IMAGE, method="mean", axes=(2, 3)), "reduce(shape=(2, 6, 5, 5), method='mean', axes=(2, 3))",
        "reduce", (2, 6), 0, 0, 300, 0, 12,
    ),
    Expected(
        Reduce(shape=IMAGE, method="max", axes=(1,), keepdim=True),
        "reduce(shape=(2, 6, 5, 5), method='max', axes=(1,), keepdim=True)",
        "reduce", (2, 1, 5, 5), 0, 0, 300, 0, 50,
    ),
    Expected(
        Resize(shape=IMAGE, size=(10, 5)), "resize(shape=(2, 6, 5, 5), size=(10, 5))",
        "resize", (2, 6, 10, 5), 1 * 600, 0, 300, 0, 600,
    ),
    Expected(
        Resize(shape=IMAGE, size=(10, 5), method="bilinear"),
        "resize(shape=(2, 6, 5, 5), size=(10, 5), method='bilinear')",
        "resize", (2, 6, 10, 5), 4 * 600, 0, 300, 0, 600,
    ),
    Expected(  # a slice reads only the part that it keeps
        Copy(shape=IMAGE, to=(2, 3, 5, 5), method="slice"),
        "copy(shape=(2, 6, 5, 5), to=(2, 3, 5, 5), method='slice')",
        "slice", (2, 3, 5, 5), 0, 0, 150, 0, 150,
    ),
    Expected(  # a transpose reads and writes all
        Copy(shape=IMAGE, to=(2, 5, 5, 6), method="transpose", steps=(("transpose", (0, 2, 3, 1)),)),
        "copy(shape=(2, 6, 5, 5), to=(2, 5, 5, 6), method='transpose', steps=(('transpose', (0, 2, 3, 1)),))",
        "transpose", (2, 5, 5, 6), 0, 0, 300, 0, 300,
    ),
    Expected(
        Softmax(shape=IMAGE, axis=1), "softmax(shape=(2, 6, 5, 5), axis=1)", "softmax", IMAGE, 0, 0, 300, 0, 300
    ),
    Expected(  # padding reads what was there and writes the rim as well
        Copy(shape=IMAGE, to=(2, 6, 7, 7), method="pad"), "copy(shape=(2, 6, 5, 5), to=(2, 6, 7, 7), method='pad')",
        "pad", (2, 6, 7, 7), 0, 0, 300, 0, 2 * 6 * 49,
    ),
    Expected(  # 10 indices in, 10 rows of the 100 read
        Embedding(shape=(2, 5), num_rows=100, features=8), "embedding(shape=(2, 5), num_rows=100, features=8)",
        "embedding", (2, 5, 8), 0, 800, 10, 10 * 8, 80,
    ),
    Expected(  # more indices than rows: no more than the table is read
        Embedding(shape=(2, 5), num_rows=4, features=8), "embedding(shape=(2, 5), num_rows=4, features=8)",
        "embedding", (2, 5, 8), 0, 32, 10, 4 * 8, 80,
    ),
    Expected(
        Elementwise(function="mul", shapes=(IMAGE, (2, 6, 1, 1))),
        "elementwise(function='mul', shapes=((2, 6, 5, 5), (2, 6, 1, 1)))",
        "mul", IMAGE, 0, 0, 300 + 12, 0, 300,
    ),
    Expected(
        Concat(shapes=(IMAGE, (2, 1, 5, 5))), "concat(shapes=((2, 6, 5, 5), (2, 1, 5, 5)))",
        "concat", (2, 7, 5, 5), 0, 0, 300 + 50, 0, 350,
    ),
    Expected(  # 6 heads of queries share 2 of keys and values
        Attention(heads=6, query_length=5, key_length=7, head_dim=8, value_dim=4, key_heads=2),
        "attention(heads=6, query_length=5, key_length=7, head_dim=8, value_dim=4, key_heads=2)",
        "attention", (1, 6, 5, 4), 6 * 5 * 7 * 12, 0, 6 * 5 * 8 + 2 * 7 * 12, 0, 6 * 5 * 4,
    ),
    Expected(  # 2 * 3 positions; 4 gates of 5 * (8 inputs + 5 states), and two biases of each gate
        Recurrent(shape=(2, 3, 8), hidden=5), "recurrent(shape=(2, 3, 8), hidden=5)",
        "lstm", (2, 3, 5), 6 * 4 * 5 * 13, 4 * 5 * (13 + 2), 48, 4 * 5 * (13 + 2), 30,
    ),
    Expected(  # both directions, 3 gates, no biases, with first states of 2 * 2 * 5
        Recurrent(shape=(2, 3, 8), hidden=5, method="gru", directions=2, bias=False, states=((2, 2, 5),)),
        "recurrent(shape=(2, 3, 8), hidden=5, method='gru', directions=2, bias=False, states=((2, 2, 5),))",
        "gru", (2, 3, 10), 6 * 2 * 3 * 5 * 13, 2 * 3 * 5 * 13, 48 + 20, 2 * 3 * 5 * 13, 60,
    ),
    Expected(  # a projection to 2: 4 gates of 5 * (8 + 2), and 5 * 2 for the projection
        Recurrent(shape=(2, 3, 8), hidden=5, projection=2, bias=False),
        "recurrent(shape=(2, 3, 8), hidden=5, bias=False, projection=2)",
        "lstm", (2, 3, 2), 6 * (200 + 10), 210, 48, 210, 12,
    ),
    Expected(  # 3 rows of 8 picked by 3 indices
        Gather(shape=(7, 8), indices=((3,),), to=(3, 8)), "gather(shape=(7, 8), indices=((3,),), to=(3, 8))",
        "gather", (3, 8), 0, 0, 24 + 3, 0, 24,
    ),
    Expected(  # 3 rows of 8 written at 3 places; the other 4 rows are not touched
        Scatter(shape=(7, 8), sources=((3, 8), (3,)), num_written=24),
        "scatter(shape=(7, 8), sources=((3, 8), (3,)), num_written=24)", "scatter", (7, 8), 0, 0, 24 + 3, 0, 24,
    ),
    Expected(  # values and places of all
        Sort(shape=(7, 8), axis=0), "sort(shape=(7, 8), axis=0)", "sort", (2, 7, 8), 0, 0, 56, 0, 2 * 56
    ),
    Expected(  # values and places of 3 of the 8
        Sort(shape=(7, 8), count=3), "sort(shape=(7, 8), count=3)", "topk", (2, 7, 3), 0, 0, 56, 0, 2 * 21
    ),
    Expected(  # 4 values are weighted for each of 2 * 6 * 9; all of the image is read, and 2 * 9 places
        GridSample(shape=IMAGE, grid=(2, 3, 3, 2)), "grid_sample(shape=(2, 6, 5, 5), grid=(2, 3, 3, 2))",
        "grid_sample", (2, 6, 3, 3), 4 * 108, 0, 300 + 36, 0, 108,
    ),
    Expected(  # of a large image only what is interpolated
        GridSample(shape=IMAGE, grid=(2, 1, 1, 2), method="nearest"),
        "grid_sample(shape=(2, 6, 5, 5), grid=(2, 1, 1, 2), method='nearest')",
        "grid_sample", (2, 6, 1, 1), 4 * 12, 0, 48 + 4, 0, 12,
    ),
    Expected(  # 3 - 2 + 1 = 2 along each axis, in 2 groups of 3 -> 2 channels, windows of 8
        Conv3d(shape=(1, 6, 3, 3, 3), out_channels=4, kernel=(2, 2, 2), groups=2, bias=True),
        "conv3d(shape=(1, 6, 3, 3, 3), out_channels=4, kernel=(2, 2, 2), groups=2, bias=True)",
        "conv3d", (1, 4, 2, 2, 2), 4 * 8 * 3 * 8, 4 * 3 * 8 + 4, 6 * 27, 4 * 3 * 8 + 4, 32,
    ),
    Expected(
        Pool3d(shape=(1, 6, 4, 4, 4), method="max", kernel=(2, 2, 2), stride=(2, 2, 2)),
        "pool3d(shape=(1, 6, 4, 4, 4), method='max', kernel=(2, 2, 2), stride=(2, 2, 2))",
        "max_pool3d", (1, 6, 2, 2, 2), 0, 0, 6 * 64, 0, 6 * 8,
    ),
    Expected(  # windows of 3x3 over 5x5: 3x3 positions; weights and biases are inputs
        DynamicConv2d(shape=IMAGE, weight=(4, 3, 3, 3), groups=2, bias=True),
        "dynamic_conv2d(shape=(2, 6, 5, 5), weight=(4, 3, 3, 3), groups=2, bias=True)",
        "dynamic_conv2d", (2, 4, 3, 3), 2 * 4 * 9 * 3 * 9, 0, 300 + 4 * 3 * 9 + 4, 0, 72,
    ),
    Expected(  # whatever it computes, it reads 300 and 8 numbers and writes 150
        Unknown(name="aten::sort.stable", shapes=(IMAGE, (8,)), to=(2, 75)),
        "unknown(name='aten::sort.stable', shapes=((2, 6, 5, 5), (8,)), to=(2, 75))",
        "unknown", (2, 75), 0, 0, 308, 0, 150,
    ),
)  # fmt: skip

each_case = pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case.variant}" for i, case in enumerate(CASES)])


def test_every_operator_of_the_vocabulary_has_a_case() -> None:
    assert {case.operator.kind for case in CASES} == {kind for kind in OPERATORS if not kind.startswith("_")}


@each_case
def test_formulas_give_the_hand_derived_values(case: Expected) -> None:
    operator = case.operator
    found = Expected(
        operator, operator.text, operator.variant, operator.output_shape, operator.macs, operator.num_params,
        operator.read_elements, operator.held_elements, operator.write_elements,
    )  # fmt: skip
    assert found == case


@each_case
def test_text_is_read_back_as_an_equal_operator_with_the_same_hash(case: Expected) -> None:
    read = operator_from_text(case.text)
    assert read == case.operator
    assert hash(read) == hash(case.operator)
    assert read.text == case.text


@each_case
def test_pickling_leaves_the_process_bound_hash_behind(case: Expected) -> None:
    hash(case.operator)
    read = pickle.loads(pickle.dumps(case.operator))
    assert read == case.operator
    assert "_hash" not in read.__dict__


@each_case
def test_only_inputs_constants_and_views_launch_nothing(case: Expected) -> None:
    assert case.operator.moves_data == (case.operator.kind not in ("input", "constant", "view"))


# ----------------------------------------------------------------------------------------------------------- padding

PADDED = (
    (Input(shape=(1, 3, 8, 8)), Input(shape=(1, 4, 8, 8))),
    (
        Conv2d(in_channels=3, out_channels=23, height=8, width=8, kernel=(1, 1)),
        Conv2d(in_channels=4, out_channels=24, height=8, width=8, kernel=(1, 1)),
    ),
    (  # each of 2 groups of 3 -> 5 channels becomes 4 -> 8
        Conv2d(in_channels=6, out_channels=10, height=8, width=8, kernel=(1, 1), groups=2),
        Conv2d(in_channels=8, out_channels=16, height=8, width=8, kernel=(1, 1), groups=2),
    ),
    (  # depthwise with multiplier 2: more groups, not larger ones
        Conv2d(in_channels=6, out_channels=12, height=8, width=8, kernel=(3, 3), groups=6),
        Conv2d(in_channels=8, out_channels=16, height=8, width=8, kernel=(3, 3), groups=8),
    ),
    (
        ConvTranspose2d(in_channels=3, out_channels=5, height=8, width=8, kernel=(2, 2)),
        ConvTranspose2d(in_channels=4, out_channels=8, height=8, width=8, kernel=(2, 2)),
    ),
    (Linear(shape=(2, 7), out_features=10), Linear(shape=(2, 8), out_features=12)),
    (
        Attention(heads=3, query_length=5, key_length=7, head_dim=6, value_dim=4),
        Attention(heads=3, query_length=5, key_length=7, head_dim=8, value_dim=4),
    ),
    (Activation(shape=(1, 5, 2, 2), function="relu"), Activation(shape=(1, 8, 2, 2), function="relu")),
    (Softmax(shape=(3, 5)), Softmax(shape=(3, 8))),
    (AdaptivePool2d(shape=(1, 5, 2, 2)), AdaptivePool2d(shape=(1, 8, 2, 2))),
    (
        Pool2d(shape=(1, 5, 4, 4), method="max", kernel=(2, 2), stride=(2, 2)),
        Pool2d(shape=(1, 8, 4, 4), method="max", kernel=(2, 2), stride=(2, 2)),
    ),
    (Reduce(shape=(1, 5, 2, 2), method="mean", axes=(2, 3)), Reduce(shape=(1, 8, 2, 2), method="mean", axes=(2, 3))),
    (Resize(shape=(1, 5, 2, 2), size=(4, 4)), Resize(shape=(1, 8, 2, 2), size=(4, 4))),
    (
        Copy(shape=(1, 5, 2, 2), to=(1, 3, 2, 2), method="slice"),
        Copy(shape=(1, 8, 2, 2), to=(1, 4, 2, 2), method="slice"),
    ),
    (  # what was done to five channels is not what would be done to eight
        Copy(shape=(1, 5, 2, 2), to=(1, 3, 2, 2), method="slice", steps=(("slice", (0,) * 4, (1, 3, 2, 2), (1,) * 4),)),
        Copy(shape=(1, 8, 2, 2), to=(1, 4, 2, 2), method="slice"),
    ),
    (  # the broadcast axis of the gate's shape stays 1
        Elementwise(function="mul", shapes=((1, 5, 2, 2), (1, 5, 1, 1), (1, 1, 2, 2))),
        Elementwise(function="mul", shapes=((1, 8, 2, 2), (1, 8, 1, 1), (1, 1, 2, 2))),
    ),
    (Concat(shapes=((1, 3, 2, 2), (1, 5, 2, 2))), Concat(shapes=((1, 4, 2, 2), (1, 8, 2, 2)))),
    (Recurrent(shape=(2, 3, 5), hidden=6), Recurrent(shape=(2, 3, 8), hidden=8)),
    (
        Recurrent(shape=(2, 3, 5), hidden=6, projection=3, states=((1, 2, 3), (1, 2, 6))),
        Recurrent(shape=(2, 3, 8), hidden=8, projection=4, states=((1, 2, 4), (1, 2, 8))),
    ),
    (
        Gather(shape=(7, 6), indices=((3,),), to=(3, 6)),
        Gather(shape=(7, 8), indices=((3,),), to=(3, 8)),
    ),
    (  # 3 of 7 rows of 6 become 3 rows of 8
        Scatter(shape=(7, 6), sources=((3, 6),), num_written=18),
        Scatter(shape=(7, 8), sources=((3, 8),), num_written=24),
    ),
    (Scatter(shape=(7, 6), sources=(), num_written=6), Scatter(shape=(7, 8), sources=(), num_written=8)),
    (Sort(shape=(3, 6), count=2), Sort(shape=(3, 8), count=2)),
    (GridSample(shape=(1, 3, 2, 2), grid=(1, 2, 2, 2)), GridSample(shape=(1, 4, 2, 2), grid=(1, 2, 2, 2))),
    (
        Conv3d(shape=(1, 3, 2, 2, 2), out_channels=6, kernel=(1, 1, 1)),
        Conv3d(shape=(1, 4, 2, 2, 2), out_channels=8, kernel=(1, 1, 1)),
    ),
    (  # depthwise with multiplier 2: more groups, not larger ones
        Conv3d(shape=(1, 6, 2, 2, 2), out_channels=12, kernel=(1, 1, 1), groups=6),
        Conv3d(shape=(1, 8, 2, 2, 2), out_channels=16, kernel=(1, 1, 1), groups=8),
    ),
    (
        Pool3d(shape=(1, 3, 2, 2, 2), method="avg", kernel=(2, 2, 2), stride=(2, 2, 2)),
        Pool3d(shape=(1, 4, 2, 2, 2), method="avg", kernel=(2, 2, 2), stride=(2, 2, 2)),
    ),
    (
        DynamicConv2d(shape=(1, 6, 5, 5), weight=(10, 3, 3, 3), groups=2),
        DynamicConv2d(shape=(1, 8, 5, 5), weight=(16, 4, 3, 3), groups=2),
    ),
    (
        DynamicConv2d(shape=(1, 6, 5, 5), weight=(12, 1, 3, 3), groups=6),
        DynamicConv2d(shape=(1, 8, 5, 5), weight=(16, 1, 3, 3), groups=8),
    ),
    (
        Unknown(name="aten::sort", shapes=((1, 3, 2, 2), (5,)), to=(1, 2)),
        Unknown(name="aten::sort", shapes=((1, 4, 2, 2), (8,)), to=(1, 4)),
    ),
)


@pytest.mark.parametrize(("operator", "padded"), PADDED, ids=[each.kind for each, _ in PADDED])
def test_channels_are_rounded_up_to_the_alignment(operator: Operator, padded: Operator) -> None:
    assert operator.padded(4) == padded
    assert padded.padded(4) == padded


@each_case
def test_alignment_one_changes_nothing_and_larger_ones_never_save(case: Expected) -> None:
    assert case.operator.padded(1) == case.operator
    padded = case.operator.padded(8)
    assert padded.macs >= case.macs
    assert padded.read_elements >= case.reads
    assert padded.write_elements >= case.writes


# --------------------------------------------------------------------------------------------------------- bad input

UNREADABLE = (
    ("linear", "not of the form"),
    ("linear(", "is no operator"),
    ("linear((1, 8), out_features=2)", "not of the form"),
    ("linear(shape=(1, 8), out_features=__import__('os'))", "is no operator"),
    ("linear(shape=(1, 8))", "out_features"),
    ("linear(shape=(1, 8), out_features=2, colour=3)", "colour"),
    ("linear(shape=(1, 8), out_features=0)", "out_features must be positive integers, found 0"),
    ("linear(shape=(1, -8), out_features=2)", r"positive integers, found \(1, -8\)"),
    ("input(shape=[1, 8])", r"a shape is a tuple of positive integers, found \[1, 8\]"),
    ("view(shape=(1, 8), to=(3, 3))", "holds more elements"),
    ("conv2d(in_channels=6, out_channels=4, height=5, width=5, kernel=(3, 3), groups=4)", "groups 4 do not divide"),
    ("conv2d(in_channels=6, out_channels=4, height=2, width=2, kernel=(3, 3))", "does not fit into 2x2"),
    ("conv_transpose2d(in_channels=6, out_channels=4, height=2, width=2, kernel=(2, 2), groups=4)", "do not divide"),
    (
        "conv_transpose2d(in_channels=6, out_channels=4, height=1, width=1, kernel=(2, 2), padding=(1, 1))",
        "leaves nothing of 1x1",
    ),
    ("matmul(left=(2, 3), right=(4, 5))", "do not match"),
    ("attention(heads=2, query_length=5, key_length=7, head_dim=0, value_dim=4)", "head_dim must be positive"),
    ("attention(heads=2, query_length=5, key_length=7, head_dim=4, value_dim=4, mask=5)", "a shape is a tuple"),
    (
        "attention(heads=6, query_length=5, key_length=7, head_dim=8, value_dim=4, key_heads=4)",
        "4 heads of keys do not",
    ),
    ("pool2d(shape=(1, 8, 2, 2), method='max', kernel=(3, 3), stride=(1, 1))", "does not fit"),
    ("pool2d(shape=(1, 8, 2, 2), method='median', kernel=(2, 2), stride=(1, 1))", "unknown method 'median'"),
    ("adaptive_pool2d(shape=(1, 8, 2))", "expected 4 axes"),
    ("resize(shape=(1, 8, 2, 2), size=(4, 4), method='lanczos')", "there are .*bicubic"),
    ("reduce(shape=(1, 8), method='mean', axes=(2,))", r"axes \(2,\) are not all in 0..1"),
    ("elementwise(function='add', shapes=((1, 8), (1, 7)))", "do not broadcast"),
    ("concat(shapes=((1, 8), (1, 7)), axis=2)", "axis 2 is not in 0..1"),
    ("concat(shapes=((1, 8), (2, 7)), axis=1)", "differ outside axis 1"),
    ("embedding(shape=(2, 5), num_rows=0, features=8)", "num_rows must be positive"),
    ("recurrent(shape=(2, 8), hidden=5, method='lstn')", "unknown method 'lstn'; there are .*'lstm'"),
    ("recurrent(shape=(8,), hidden=5)", r"steps of features.*found shape \(8,\)"),
    ("recurrent(shape=(2, 8), hidden=5, projection=5)", "a projection below 5.*projection 5"),
    ("sort(shape=(7, 8), axis=1)", r"axis 1 is neither -1 nor in 0\.\.0"),
    ("sort(shape=(7, 8), count=9)", "9 of the elements of axis -1"),
    ("scatter(shape=(7, 8), sources=((3, 8),), num_written=0)", "num_written must be positive"),
    ("grid_sample(shape=(1, 8, 2, 2), grid=(1, 2, 2))", "expected 4 axes"),
    ("conv3d(shape=(1, 6, 3, 3, 3), out_channels=4, kernel=(2, 2, 2), groups=4)", "groups 4 do not divide"),
    ("conv3d(shape=(1, 6, 3, 3, 3), out_channels=4, kernel=(4, 2, 2))", "does not fit into"),
    ("pool3d(shape=(1, 6, 3, 3, 3), method='max', kernel=(4, 2, 2), stride=(1, 1, 1))", "does not fit into"),
    ("dynamic_conv2d(shape=(2, 6, 5, 5), weight=(4, 2, 3, 3), groups=2)", "2 groups of weights .* do not fit"),
    ("dynamic_conv2d(shape=(2, 6, 2, 5), weight=(4, 6, 3, 3))", "do not fit into"),
    ("unknown(name='', shapes=(), to=(1,))", "a text without spaces, found ''"),
    ("unknown(name='a + b', shapes=(), to=(1,))", "a text without spaces, found 'a . b'"),
    ("unknown(name='sort', shapes=((0,),), to=(1,))", r"positive integers, found \(0,\)"),
)


@pytest.mark.parametrize(("text", "message"), UNREADABLE)
def test_a_wrong_operator_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        operator_from_text(text)


def test_an_unknown_kind_is_named_beside_the_vocabulary() -> None:
    with pytest.raises(UnknownOperatorError, match=r"unknown operator 'warp'; the vocabulary has .*'conv2d'"):
        operator_from_text("warp(shape=(1,))")
    with pytest.raises(UnknownOperatorError, match=r"unknown operator 'con2d'; nearest are \['conv2d'"):
        operator_from_text("con2d(shape=(1, 8))")


# ------------------------------------------------------------------------------------------------ helpers of formulas


@given(number=st.integers(1, 10_000), multiple=st.integers(1, 64))
def test_rounding_up_gives_the_least_multiple(number: int, multiple: int) -> None:
    rounded = round_up(number, multiple)
    assert rounded % multiple == 0
    assert number <= rounded < number + multiple


def test_channels_are_axis_one_of_images_and_the_last_of_all_others() -> None:
    assert [padded_shape(shape, 4) for shape in ((1, 3, 5, 5), (1, 5, 3), (3,), ())] == [
        (1, 4, 5, 5), (1, 5, 4), (4,), (),
    ]  # fmt: skip


def test_broadcasting_aligns_shapes_at_their_end() -> None:
    assert broadcast_shape((2, 1, 4), (3, 1), ()) == (2, 3, 4)
    assert prod(broadcast_shape((), ())) == 1


@settings(deadline=None)  # torch takes its time at the first call
@given(
    size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 4), dilation=st.integers(1, 3),
    ceil_mode=st.booleans(), data=st.data(),
)  # fmt: skip
def test_window_lengths_equal_torchs(
    size: int, kernel: int, stride: int, dilation: int, ceil_mode: bool, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, kernel // 2))
    length = window_output(size, kernel, stride, padding, dilation, ceil_mode)
    pool = nn.MaxPool2d((1, kernel), (1, stride), (0, padding), (1, dilation), ceil_mode=ceil_mode)
    row = torch.empty(1, 1, 1, size, device="meta")
    if length < 1:
        with pytest.raises(RuntimeError, match="too small"):
            pool(row)
    else:
        assert pool(row).shape[-1] == length
