"""Operators that ONNX Runtime contributes, in the domain com.microsoft, and attention, as torch operators.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, of version 1.22.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from predictors.onnx.call import OnnxCall, Result
from predictors.onnx.windows import average_pool, conv, global_pool, max_pool

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x, "Clip": functional.relu6, "Gelu": functional.gelu, "HardSigmoid": functional.hardsigmoid,
    "LeakyRelu": functional.leaky_relu, "Relu": functional.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh,
}  # fmt: skip


def onnx_attention(call: OnnxCall) -> list[Tensor]:
    """That of opset 23: three axes hold the heads in the last one, as they come from linear layers."""
    if len(call.node.outputs) > 3 and call.node.outputs[3]:
        raise ValueError("attention whose scores are an output has no formula here")
    tensors, joined = [call[0], call[1], call[2]], call[0].dim() == 3
    if joined:
        heads = [call.attribute("q_num_heads"), *[call.attribute("kv_num_heads")] * 2]
        tensors = [_parted(x, count) for x, count in zip(tensors, heads)]
    query, key, value = tensors
    x, key, value = attended(query, key, value, call.get(3), call.get(4), call.get(5))
    return [_joined(x) if joined else x, key, value]


def attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, past_key: Tensor | None = None,
    past_value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Attention of (batch, heads, length, head_dim), and the keys and values with the past ones before them.

    Where several heads share a key, their queries are rows of one head: as many products, and no copy of the keys.
    """
    if past_key is not None and past_value is not None and past_key.numel():
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    batch, heads, length, head_dim = query.shape
    shared = key.shape[1]
    if heads == shared:
        return functional.scaled_dot_product_attention(query, key, value, mask), key, value
    rows = query.reshape(batch, shared, heads // shared * length, head_dim)
    found = functional.scaled_dot_product_attention(rows, key, value)
    return found.reshape(batch, heads, length, value.shape[-1]), key, value


# ------------------------------------------------------------------------------------------------------------ private


def _parted(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _multi_head_attention(call: OnnxCall) -> list[Tensor]:
    """Query, key, value, their bias, padding, what is added to the scores, past keys and values."""
    heads, query = call.attribute("num_heads"), call[0]
    if query.dim() == 5:  # (batch, length, heads, 3, head_dim)
        tensors = [each.transpose(1, 2) for each in query.unbind(3)]
    elif call.has(2):
        given = [query, call[1], call[2]]
        if call.has(3):
            sizes = [each.shape[-1] for each in given]
            given = [each + bias for each, bias in zip(given, torch.split(call[3], sizes))]
        tensors = [_parted(each, heads) if each.dim() == 3 else each for each in given]
    else:  # (batch, length, heads, 2, head_dim)
        tensors = [_parted(query, heads), *(each.transpose(1, 2) for each in call[1].unbind(3))]
    query, key, value = tensors
    x, key, value = attended(query, key, value, call.get(5), call.get(6), call.get(7))
    return [_joined(x), key, value]


def _attention(call: OnnxCall) -> Tensor:
    """With the linear layer before it: weights (features, queries + keys + values)."""
    if call.has(4):
        raise ValueError("attention with cached keys and values in one tensor has no formula here")
    heads = call.attribute("num_heads")
    sizes = call.attribute("qkv_hidden_sizes") or [call[1].shape[1] // 3] * 3
    made = functional.linear(call[0], call[1].t(), call.get(2))
    query, key, value = (_parted(each, heads) for each in torch.split(made, list(sizes), -1))
    x, _, _ = attended(query, key, value, call.get(5))
    return _joined(x)


def _group_query_attention(call: OnnxCall) -> list[Tensor]:
    """Keys and values that several heads share, after those of earlier steps."""
    if not call.has(1) or call.attribute("do_rotary", 0):
        raise ValueError("attention with packed inputs, or that rotates them itself, has no formula here")
    heads, shared = call.attribute("num_heads"), call.attribute("kv_num_heads")
    tensors = (_parted(call[0], heads), _parted(call[1], shared), _parted(call[2], shared))
    x, key, value = attended(*tensors, None, call.get(3), call.get(4))
    return [_joined(x), key, value]


def _biased(activation: Callable[[Tensor], Tensor], call: OnnxCall) -> Tensor:
    return activation(call[0] + call[1] if call.has(1) else call[0])


def _activated(call: OnnxCall, x: Tensor) -> Tensor:
    name = call.attribute("activation", "")
    if name not in _ACTIVATIONS:
        raise ValueError(f"a fused activation {name!r} has no formula here; there are {sorted(_ACTIVATIONS)[1:]}")
    return _ACTIVATIONS[name](x)


def _fused_conv(call: OnnxCall) -> Tensor:
    x = conv(call)
    return _activated(call, x + call[3] if call.has(3) else x)


def _nhwc(function: Callable[[OnnxCall], Any], call: OnnxCall) -> Tensor:
    channels_first = [call[0].permute(0, 3, 1, 2), *call.tensors[1:]]
    found: Tensor = function(call.with_tensors(*channels_first))
    return found.permute(0, 2, 3, 1)


def _fused_gemm(call: OnnxCall) -> Tensor:
    left = call[0].t() if call.attribute("transA", 0) else call[0]
    right = call[1] if call.attribute("transB", 0) else call[1].t()
    return _activated(call, functional.linear(left, right, call.get(2)))


def _fused_product(call: OnnxCall) -> Tensor:
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        raise ValueError("a product that moves its batch axes has no formula here")
    left = call[0].transpose(-1, -2) if call.attribute("transA", 0) else call[0]
    return torch.matmul(left, call[1].transpose(-1, -2) if call.attribute("transB", 0) else call[1])


def _skip_norm(norm: Callable[..., Tensor], call: OnnxCall) -> list[Tensor | None]:
    """The sum that is normalized is the fourth output."""
    x = call[0] + call[1]
    simple = norm is functional.rms_norm
    if call.has(3 if simple else 4):
        x = x + call[3 if simple else 4]
    bias = () if simple else (call.get(3),)
    return [norm(x, x.shape[-1:], call[2], *bias), None, None, x]


def _rms_norm(call: OnnxCall) -> Tensor:
    return functional.rms_norm(call[0], call[0].shape[call.attribute("axis", -1) :], call[1])


def _embed_norm(call: OnnxCall) -> list[Tensor | None]:
    """Words, segments if there are any, and places, added and normalized."""
    x = functional.embedding(call[0], call[2])
    places = call[3][: call[0].shape[1]]
    x = x + (functional.embedding(call[8], call[3]) if call.has(8) else places)
    if call.has(1) and call.has(4):
        x = x + functional.embedding(call[1], call[4])
    return [functional.layer_norm(x, x.shape[-1:], call[5], call[6]), None, x]


def _conv_of_integers(call: OnnxCall) -> Tensor:
    """Scales and zero points are part of its weights, and its bias is of integers."""
    bias = torch.empty(call[8].shape, device="meta") if call.has(8) else None
    whole = call.with_tensors(call[0], call[3], bias)
    return _nhwc(conv, whole) if call.attribute("channels_last", 0) else conv(whole)


def _gemm_of_integers(call: OnnxCall) -> Tensor:
    left = call[0].t() if call.attribute("transA", 0) else call[0]
    weight = call[3] if call.attribute("transB", 0) else call[3].t()
    return functional.linear(left, weight, torch.empty(call[6].shape, device="meta") if call.has(6) else None)


def _pool_of_integers(call: OnnxCall) -> Tensor:
    return _nhwc(average_pool, call) if call.attribute("channels_last", 0) else average_pool(call)


def _global_pool_of_integers(call: OnnxCall) -> Tensor:
    pool = partial(global_pool, "mean")
    return _nhwc(pool, call) if call.attribute("channels_last", 0) else pool(call)


def _product(call: OnnxCall) -> Tensor:
    return torch.matmul(call[0], call[1])


def _product_to_floats(call: OnnxCall) -> Tensor:
    """Scales and zero points before the bias."""
    if call.has(6) and call[1].dim() == 2:
        return functional.linear(call[0], call[1].t(), call[6])
    return torch.matmul(call[0], call[1])


def _softmax_of_integers(call: OnnxCall) -> Tensor:
    return torch.softmax(call[0], call.attribute("axis", -1))


def _mean_of_integers(call: OnnxCall) -> Tensor:
    x = call[0]
    axes = [axis % x.dim() for axis in call.attribute("axes", range(x.dim()))]
    return x.mean(axes, bool(call.attribute("keepdims", 1)))


def _every_third(call: OnnxCall, first: int) -> list[Tensor]:
    return [call[place] for place in range(first, len(call.tensors), 3)]


CONTRIBUTED: dict[str, Callable[[OnnxCall], Result | Sequence[Tensor | None]]] = {
    "ConvInteger": lambda call: conv(call.with_tensors(call[0], call[1])),
    "MatMulInteger": _product,
    "QLinearConv": _conv_of_integers,
    "QLinearMatMul": lambda call: torch.matmul(call[0], call[3]),
    "SimplifiedLayerNormalization": _rms_norm,
    "whole.IntegerProduct": lambda call: (
        functional.linear(call[0], call[1].t(), call[2]) if call.has(2) else torch.matmul(call[0], call[1])
    ),
    "com.microsoft.Attention": _attention,
    "com.microsoft.BiasAdd": lambda call: call[0] + call[1] + call[2],
    "com.microsoft.BiasGelu": partial(_biased, functional.gelu),
    "com.microsoft.EmbedLayerNormalization": _embed_norm,
    "com.microsoft.FastGelu": partial(_biased, functional.gelu),
    "com.microsoft.FusedConv": _fused_conv,
    "com.microsoft.FusedGemm": _fused_gemm,
    "com.microsoft.FusedMatMul": _fused_product,
    "com.microsoft.Gelu": lambda call: functional.gelu(call[0]),
    "com.microsoft.GroupQueryAttention": _group_query_attention,
    "com.microsoft.MatMulIntegerToFloat": lambda call: _product_to_floats(
        call.with_tensors(call[0], call[1], *call.tensors[2:])
    ),
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.NhwcMaxPool": partial(_nhwc, max_pool),
    "com.microsoft.NhwcFusedConv": partial(_nhwc, _fused_conv),
    "com.microsoft.QGemm": _gemm_of_integers,
    "com.microsoft.QLinearAdd": lambda call: call[0] + call[3],
    "com.microsoft.QLinearAveragePool": _pool_of_integers,
    "com.microsoft.QLinearConcat": lambda call: torch.cat(_every_third(call, 2), call.attribute("axis")),
    "com.microsoft.QLinearConv": _conv_of_integers,
    "com.microsoft.QLinearGlobalAveragePool": _global_pool_of_integers,
    "com.microsoft.QLinearLeakyRelu": lambda call: functional.leaky_relu(call[0]),
    "com.microsoft.QLinearMul": lambda call: call[0] * call[3],
    "com.microsoft.QLinearReduceMean": _mean_of_integers,
    "com.microsoft.QLinearSigmoid": lambda call: torch.sigmoid(call[0]),
    "com.microsoft.QLinearSoftmax": _softmax_of_integers,
    "com.microsoft.QLinearWhere": lambda call: torch.where(call[0], call[1], call[4]),
    "com.microsoft.QuickGelu": lambda call: functional.silu(call[0]),
    "com.microsoft.SimplifiedLayerNormalization": _rms_norm,
    "com.microsoft.SkipLayerNormalization": partial(_skip_norm, functional.layer_norm),
    "com.microsoft.SkipSimplifiedLayerNormalization": partial(_skip_norm, functional.rms_norm),
}
"""By type, with the domain before it where it is none of ONNX's own."""
