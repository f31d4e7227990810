"""What is told of an operator's result against what torch infers: shape, strides and type."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from predictors.traced_shapes import output_of

FIVE = st.integers(1, 5)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def assert_told(told: Tensor | None, asked: Tensor) -> None:
    assert told is not None
    assert (told.shape, told.dtype, told.device) == (asked.shape, asked.dtype, asked.device)
    real = [(size, stride) for size, stride in zip(told.shape, told.stride()) if size > 1]
    assert real == [(size, stride) for size, stride in zip(asked.shape, asked.stride()) if size > 1]


@settings(deadline=None)
@given(
    batch=FIVE, groups=st.integers(1, 3), inner=FIVE, outer=FIVE, kernel=st.integers(1, 4), stride=st.integers(1, 3),
    padding=st.integers(0, 2), dilation=st.integers(1, 2), bias=st.booleans(), size=st.integers(4, 9),
)  # fmt: skip
def test_convolutions_are_told_as_torch_infers_them(
    batch: int, groups: int, inner: int, outer: int, kernel: int, stride: int, padding: int, dilation: int, bias: bool,
    size: int,
) -> None:  # fmt: skip
    x, weight = meta(batch, groups * inner, size, size + 1), meta(groups * outer, inner, kernel, kernel)
    arguments = {
        "input": x, "weight": weight, "bias": meta(groups * outer) if bias else None, "stride": stride,
        "padding": [padding, padding], "dilation": dilation, "groups": groups,
    }  # fmt: skip
    told = output_of("conv2d", arguments)
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        assert told is None
    else:
        assert_told(told, functional.conv2d(*arguments.values()))


@settings(deadline=None)
@given(shape=st.lists(FIVE, min_size=1, max_size=4), outer=FIVE, half=st.booleans())
def test_products_are_told_as_torch_infers_them(shape: list[int], outer: int, half: bool) -> None:
    dtype = torch.float16 if half else torch.float32
    x, weight = meta(*shape, dtype=dtype), meta(outer, shape[-1], dtype=dtype)
    assert_told(output_of("linear", {"input": x, "weight": weight, "bias": None}), functional.linear(x, weight))
    if len(shape) > 1:
        assert_told(output_of("matmul", {"self": x, "other": weight.mT.contiguous()}), x @ weight.mT.contiguous())
        other = meta(*shape[:-2], shape[-1], outer, dtype=dtype)
        assert_told(output_of("matmul", {"self": x, "other": other}), x @ other)


@settings(deadline=None)
@given(
    shape=st.lists(FIVE, min_size=1, max_size=4),
    kept=st.lists(st.booleans(), min_size=4, max_size=4),
    cut=st.integers(0, 3),
)
def test_sums_are_told_as_torch_infers_them_or_not_at_all(shape: list[int], kept: list[bool], cut: int) -> None:
    other = [size if keep else 1 for size, keep in zip(shape, kept)][cut:]
    for left, right in ((meta(*shape), meta(*other)), (meta(*other), meta(*shape)), (meta(*shape), 2.0)):
        told = output_of("add", {"self": left, "other": right})
        if told is not None:
            assert_told(told, left + right)


LAYOUTS = {
    "dense": meta(2, 3, 4, 5),
    "channels last": meta(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "permuted": meta(2, 3, 4, 5).permute(1, 0, 3, 2),
    "part": meta(2, 6, 4, 5)[:, :3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_activations_and_norms_lie_as_what_they_read(layout: str) -> None:
    x = LAYOUTS[layout]
    assert_told(output_of("silu", {"self": x}), functional.silu(x))
    assert_told(output_of("mul", {"self": x, "other": 0.5}), x * 0.5)
    mean = meta(x.shape[1])
    found = output_of("batch_norm", {"input": x, "running_mean": mean})
    if layout != "permuted":  # torch writes densely, and so does any copy of a part
        assert_told(found, functional.batch_norm(x, mean, mean))


def test_a_layer_norm_writes_densely_whatever_it_reads_as_the_cpus_kernel_does() -> None:
    x = torch.zeros(2, 3, 4, 5).permute(0, 2, 3, 1)
    told = output_of("layer_norm", {"input": x, "normalized_shape": [3], "weight": None, "bias": None})
    assert told is not None
    assert told.stride() == functional.layer_norm(x, (3,)).stride()


@settings(deadline=None)
@given(batch=FIVE, heads=FIVE, length=FIVE, others=FIVE, size=FIVE, value=FIVE)
def test_attention_is_told_as_torch_infers_it(
    batch: int, heads: int, length: int, others: int, size: int, value: int
) -> None:
    arguments = {
        "query": meta(batch, heads, length, size), "key": meta(batch, heads, others, size),
        "value": meta(batch, heads, others, value), "attn_mask": None,
    }  # fmt: skip
    told = output_of("scaled_dot_product_attention", arguments)
    assert told is not None
    assert told.shape == functional.scaled_dot_product_attention(*arguments.values()).shape


REFUSED: dict[str, dict[str, Any]] = {
    "linear": {"input": meta(2, 3), "weight": meta(4, 5), "bias": None},
    "conv2d": {
        "input": meta(1, 3, 8, 8), "weight": meta(4, 4, 3, 3), "bias": None, "stride": 1, "padding": 0, "dilation": 1,
        "groups": 1,
    },
    "matmul": {"self": meta(2, 3), "other": meta(4, 5)},
    "layer_norm": {"input": meta(2, 3), "normalized_shape": [4], "weight": None, "bias": None},
    "batch_norm": {"input": meta(2, 3, 4, 4), "running_mean": meta(4)},
    "softmax": {"self": meta(2, 3), "dim": 2},
    "add": {"self": meta(2, 3), "other": meta(4)},
    "scaled_dot_product_attention": {
        "query": meta(1, 2, 3, 4), "key": meta(1, 2, 3, 5), "value": meta(1, 2, 3, 4), "attn_mask": None
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_would_refuse_is_left_to_torch(name: str) -> None:
    assert output_of(name, REFUSED[name]) is None


def test_other_types_and_operators_are_left_to_torch() -> None:
    whole = meta(2, 3, dtype=torch.long)
    assert output_of("sigmoid", {"self": whole}) is None
    assert output_of("add", {"self": whole, "other": 1.0}) is None
    assert output_of("add", {"self": meta(2, 3), "other": meta(2, 3, dtype=torch.float64)}) is None
    assert output_of("cumsum", {"self": meta(2, 3), "dim": 0}) is None
