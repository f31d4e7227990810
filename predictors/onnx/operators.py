"""What each ONNX operator is in torch: the table that `read_onnx` reads. A new row here teaches it a new operator.

A row takes an `OnnxCall` and returns the tensor of the node's output, or a sequence of them. It runs on tensors without
data where the network's inputs or its large weights decide the value, and on real ones where only shapes and small
constants do: glue is thus computed and leaves no operator.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import pairwise
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional

from predictors.onnx.call import MOST_NUMBERS, OnnxCall, Result, as_tensor, torch_dtype
from predictors.onnx.contrib import CONTRIBUTED, onnx_attention
from predictors.onnx.nodes import FLATTENED, OnnxNode
from predictors.onnx.windows import WINDOWS, torch_pads
from predictors.operators import broadcast_shape


def operator_of(node: OnnxNode) -> Callable[[OnnxCall], Result | Sequence[Tensor | None]] | None:
    """The row of a node; None if there is none."""
    return OPERATORS.get(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)


# ---------------------------------------------------------------------------------------------- multiply-accumulates


def _gemm(call: OnnxCall) -> Tensor:
    """Factors of a constant matrix belong to its weights."""
    left = call[0].t() if call.attribute("transA", 0) else call[0]
    right = call[1] if call.attribute("transB", 0) else call[1].t()
    if call.has(2):
        return functional.linear(left, right, call[2]) if call[2].dim() == 1 else left @ right.t() + call[2]
    return functional.linear(left, right)


def _linear(call: OnnxCall) -> Tensor:
    return functional.linear(call[0], call[1].t(), call[2])


def _attention(call: OnnxCall) -> Tensor:
    """Query, transposed key, value, mask."""
    query, key, value = call[0], call[1].transpose(-1, -2), call[2]
    return functional.scaled_dot_product_attention(query, key, value, call[3] if call.has(3) else None)


# --------------------------------------------------------------------------------------- operators on single tensors


def _unary(function: Callable[[Tensor], Tensor], call: OnnxCall) -> Tensor:
    return function(call[0])


def _clip(call: OnnxCall) -> Tensor:
    low, high = (call.numbers(place) for place in (1, 2))
    least, most = low[0] if low else call.attribute("min"), high[0] if high else call.attribute("max")
    if (least, most) in ((0, 6), (-1, 1)) and call[0].is_floating_point():
        return functional.hardtanh(call[0], least, most)
    if most is None:
        return call[0] if least is None else torch.clamp_min(call[0], least)
    return torch.clamp_max(call[0], most) if least is None else torch.clamp(call[0], least, most)


def _cast(call: OnnxCall) -> Tensor:
    """Floats are float32 here, whatever they are in the file."""
    dtype = torch_dtype(call.attribute("to"))
    dtype = torch.float32 if dtype.is_floating_point else dtype
    return call[0] if call[0].dtype == dtype else call[0].to(dtype)


def _softmax(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """Before opset 13 all axes from the given one on are one."""
    x = call[0]
    if call.opset >= 13:
        return function(x, call.attribute("axis", -1))
    axis = call.attribute("axis", 1) % x.dim()
    if axis == x.dim() - 1 or prod(x.shape[axis + 1 :]) == 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


def _batch_norm(call: OnnxCall) -> Tensor:
    return functional.batch_norm(call[0], call[3], call[4], call[1], call[2])


def _layer_norm(call: OnnxCall) -> Tensor:
    x = call[0]
    axis = call.attribute("axis", -1) % x.dim()
    weight, bias = (call[place] if call.has(place) else None for place in (1, 2))
    return functional.layer_norm(x, x.shape[axis:], weight, bias)


def _rms_norm(call: OnnxCall) -> Tensor:
    axis = call.attribute("axis", -1) % call[0].dim()
    return functional.rms_norm(call[0], call[0].shape[axis:], call[1] if call.has(1) else None)


def _instance_norm(call: OnnxCall) -> Tensor:
    return functional.instance_norm(call[0], weight=call[1], bias=call[2])


def _group_norm(call: OnnxCall) -> Tensor:
    """Weight and bias have one number a channel; the norm of whole groups says by its own scale how many there are."""
    groups = call[3].numel() if call.has(3) else call.attribute("num_groups")
    return functional.group_norm(call[0], groups, call[1].reshape(-1), call[2].reshape(-1))


def _reduce(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """An average pool that an exporter took for a mean says by its module's class what it was, or by its reader."""
    x, keepdim = call[0], bool(call.attribute("keepdims", 1))
    axes = call.axes(1, x.dim())
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    was_pool = "AdaptiveAvgPool2d" in call.node.classes or bool(call.attribute(FLATTENED, 0))
    is_pool = was_pool and keepdim and sorted(axes) == [2, 3] and x.dim() == 4
    return functional.adaptive_avg_pool2d(x, 1) if is_pool else function(x, axes, keepdim)


def _product(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim)
    return x


def _norm(order: int, x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, order, axes, keepdim)
    return found


def _arg(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    return function(call[0], call.attribute("axis", 0), bool(call.attribute("keepdims", 1)))


def _of_squares(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    return x.square().sum(list(axes), keepdim)


def _log_of_sum(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    return x.sum(list(axes), keepdim).log()


def _lp_norm(call: OnnxCall) -> Tensor:
    x, axis = call[0], call.attribute("axis", -1)
    found: Tensor = torch.linalg.vector_norm(x, call.attribute("p", 2), axis, True)
    return x / found


def _top_k(call: OnnxCall) -> Sequence[Tensor]:
    x = call[0]
    count = call.number(1, attribute="k")
    if count is None or count > x.shape[call.attribute("axis", -1)]:
        raise ValueError(f"it takes the {count} largest of {x.shape[call.attribute('axis', -1)]}")
    return torch.topk(x, count, call.attribute("axis", -1), bool(call.attribute("largest", 1)))


def _cumulative(call: OnnxCall) -> Tensor:
    return torch.cumsum(call[0], call.number(1, 0))


# ---------------------------------------------------------------------------------------------------- data that move


def _reshape(call: OnnxCall) -> Tensor:
    x, shape = call[0], call.numbers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(call: OnnxCall) -> Tensor:
    x = call[0]
    axis = call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1)


def _squeeze(call: OnnxCall) -> Tensor:
    axes = call.axes(1, call[0].dim())
    return call[0].squeeze() if axes is None else call[0].squeeze(axes)


def _unsqueeze(call: OnnxCall) -> Tensor:
    x, axes = call[0], call.numbers(1, "axes") or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: OnnxCall) -> Tensor:
    return call[0].permute(call.attribute("perm") or tuple(range(call[0].dim()))[::-1])


def _swap_axes(call: OnnxCall) -> Tensor:
    """Of the last two axes, whatever exporters do to the others; the shape after it says whether that is all."""
    x, shape = call[0], call.numbers(1) or []
    outer, last = shape[:-2], list(shape[-2:])
    is_swapped = x.dim() >= len(shape) > 2 and [x.shape[-1], x.shape[-2]] == last
    if is_swapped and -1 not in shape and prod(outer) == prod(x.shape[:-2]):
        return x.reshape(*outer, *x.shape[-2:]).transpose(-1, -2)
    raise ValueError(f"its axes are joined, swapped and parted from {tuple(x.shape)} to {shape}, which is no transpose")


def _expand(call: OnnxCall) -> Tensor:
    return call[0].expand(broadcast_shape(tuple(call[0].shape), tuple(call.numbers(1) or ())))


def _tile(call: OnnxCall) -> Tensor:
    x, counts = call[0], call.numbers(1) or ()
    return (x.to("meta") if x.numel() * prod(counts) > MOST_NUMBERS else x).repeat(counts)


def _slice(call: OnnxCall) -> Tensor:
    x, starts, stops = call[0], call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.axes(3, x.dim()) or list(range(len(starts)))
    for axis, start, stop, by in zip(axes, starts, stops, call.numbers(4) or [1] * len(starts)):
        if by > 0:
            x = x[(slice(None),) * axis + (slice(start, stop, by),)]
        else:
            picked = range(x.shape[axis])[slice(start, None if stop < -x.shape[axis] else stop, by)]
            x = x.flip(axis)[(slice(None),) * axis + (slice(x.shape[axis] - 1 - picked.start, None, -by),)]
            x = x.narrow(axis, 0, len(picked))
    return x


def _roll(call: OnnxCall) -> Tensor:
    """Steps of six inputs: from where to where the end and the begin of an axis reach, each with the axis."""
    x, shifts, dims = call[0], [], []
    for place in range(1, len(call.tensors), 6):
        end, end_stop, end_axis, begin, begin_stop, axis = ((call.numbers(place + part) or [0])[0] for part in range(6))
        size = x.shape[axis]
        cut, end_stop, begin_stop = (range(size)[slice(None, each)].stop for each in (end, end_stop, begin_stop))
        if end_axis != axis or begin != 0 or cut != begin_stop or end_stop < size:
            raise ValueError("it joins two parts that are no end and begin of one tensor")
        shifts.append(size - cut)
        dims.append(axis)
    return x.roll(shifts, dims)


def _split(call: OnnxCall) -> Sequence[Tensor]:
    x, axis = call[0], call.attribute("axis", 0)
    sizes = call.numbers(1, "split")
    if sizes is None:
        number = call.attribute("num_outputs") or len(call.node.outputs)
        sizes = [ceil(x.shape[axis] / number)] * number
        sizes[-1] -= sum(sizes) - x.shape[axis]
    return torch.split(x, sizes, axis)


def _pad(call: OnnxCall) -> Tensor:
    x, pads = call[0], call.numbers(1, "pads") or []
    if axes := call.axes(3, x.dim()):
        whole = [0] * (2 * x.dim())
        for place, axis in enumerate(axes):
            whole[axis], whole[x.dim() + axis] = pads[place], pads[len(axes) + place]
        pads = whole
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.attribute("mode", "constant")
    ]
    numbers = torch_pads(pads)
    while mode != "constant" and numbers[-2:] == [0, 0]:
        numbers = numbers[:-2]
    return functional.pad(x, numbers, mode)


def _gather(call: OnnxCall) -> Tensor:
    x, indices = call[0], call[1]
    axis = call.attribute("axis", 0) % x.dim()
    if not indices.is_meta:
        numbers = [index % x.shape[axis] for index in indices.reshape(-1).tolist()]
        if indices.dim() == 0:
            return x.select(axis, numbers[0])
        if numbers and all(after - index == 1 for index, after in pairwise(numbers)):
            found = x.narrow(axis, numbers[0], len(numbers))
            return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]) if indices.dim() > 1 else found
    if x.dim() == 2 and axis == 0 and x.is_floating_point() and indices.is_meta:
        return functional.embedding(indices, x)
    found = x.index_select(axis, indices.reshape(-1).to(x.device))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]) if indices.dim() != 1 else found


def _gather_elements(call: OnnxCall) -> Tensor:
    return torch.gather(call[0], call.attribute("axis", 0), call[1])


def _gather_nd(call: OnnxCall) -> Tensor:
    if call.attribute("batch_dims", 0):
        raise ValueError("gathering with batch axes has no formula here")
    return call[0][call[1].unbind(-1)]


def _scatter_elements(call: OnnxCall) -> Tensor:
    how = call.attribute("reduction", "none")
    if how == "none":
        return call[0].scatter(call.attribute("axis", 0), call[1], call[2])
    name = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[how]
    return call[0].scatter_reduce(call.attribute("axis", 0), call[1], call[2], name)


def _scatter_nd(call: OnnxCall) -> Tensor:
    return call[0].index_put(call[1].unbind(-1), call[2], call.attribute("reduction", "none") == "add")


def _one_hot(call: OnnxCall) -> Tensor:
    found = functional.one_hot(call[0].long(), call.number(1))
    return found.movedim(-1, call.attribute("axis", -1))


def _constant(call: OnnxCall) -> Tensor:
    for name, value in call.node.attributes.items():
        if name == "value":
            return as_tensor(value)
        if name in ("value_float", "value_floats", "value_int", "value_ints"):
            return torch.tensor(value)
    raise ValueError("it is a constant without a value")


def _constant_of_shape(call: OnnxCall) -> Tensor:
    shape = call.numbers(0) or []
    proto = call.attribute("value")
    filler = as_tensor(proto) if proto is not None else torch.zeros(1)
    device = "cpu" if prod(shape) <= MOST_NUMBERS and not filler.is_meta else "meta"
    return torch.full(shape, 0 if filler.is_meta else filler.item(), dtype=filler.dtype, device=device)


def _random(call: OnnxCall) -> Tensor:
    """Noise is a constant: what draws it costs nothing beside what reads it."""
    return torch.empty(call[0].shape if call.has(0) else call.attribute("shape"), device="meta")


def _eye_like(call: OnnxCall) -> Tensor:
    return torch.eye(*call[0].shape)


def _shape(call: OnnxCall) -> Tensor:
    return torch.tensor(tuple(call[0].shape)[call.attribute("start", 0) : call.attribute("end")], dtype=torch.int64)


def _range(call: OnnxCall) -> Tensor:
    start, stop, by = ((call.numbers(place) or [0])[0] for place in range(3))
    if not by or (stop - start) / by > MOST_NUMBERS:
        raise ValueError(f"a range from {start} to {stop} by {by} is too large for an index")
    return torch.arange(start, stop, by, dtype=call[0].dtype)


# -------------------------------------------------------------------------------------- operators on several tensors


def _elementwise(function: Callable[..., Tensor], call: OnnxCall) -> Tensor:
    """A known constant of one element is a number, however many axes it has."""
    tensors = [call[place] for place in range(len(call.tensors))]
    rank = max(tensor.dim() for tensor in tensors)
    numbers = [each.numel() == 1 and not each.is_meta for each in tensors]
    if not all(numbers):
        tensors = [
            each.reshape(())
            if is_number and any(other.dim() == rank for other in tensors if other is not each)
            else each
            for each, is_number in zip(tensors, numbers)
        ]
    return function(*tensors) if len(tensors) < 3 or function is torch.where else reduce(function, tensors)


def _divide(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _remainder(left: Tensor, right: Tensor) -> Tensor:
    return torch.remainder(left, right)


def _mean(call: OnnxCall) -> Tensor:
    return _elementwise(torch.add, call) / len(call.tensors)


def _concat(call: OnnxCall) -> Tensor:
    """One without elements, whatever its shape, adds nothing."""
    given = [tensor for tensor in call.tensors if tensor is not None]
    return torch.cat([tensor for tensor in given if tensor.numel()] or given, call.attribute("axis"))


def _prelu(call: OnnxCall) -> Tensor:
    return functional.prelu(call[0], call[1].reshape(-1))


def _einsum(call: OnnxCall) -> Tensor:
    return torch.einsum(call.attribute("equation"), *[tensor for tensor in call.tensors if tensor is not None])


def _recurrent(layer: Callable[..., Sequence[Tensor]], num_states: int, call: OnnxCall) -> Sequence[Tensor]:
    """A layer of torch's; the order of gates costs nothing. Batches that were moved behind the time stay before it."""
    x, hidden = call[0], call.attribute("hidden_size")
    directions = call[1].shape[0]
    if call.attribute("layout", 0) or call.has(7):
        raise ValueError("only recurrent layers with the time as first axis, without peepholes, have a formula here")
    weights: list[Tensor] = []
    for each in range(directions):
        biases = call[3][each].chunk(2) if call.has(3) else ()
        weights += [call[1][each], call[2][each], *biases]
    batch_first = x.transpose(0, 1).is_contiguous() and not x.is_contiguous()
    states = [_state(call, place, directions, hidden) for place in range(5, 5 + num_states)]
    found = layer(
        x.transpose(0, 1) if batch_first else x, states if num_states > 1 else states[0], weights, call.has(3), 1, 0.0,
        False, directions > 1, batch_first,
    )  # fmt: skip
    output = found[0].transpose(0, 1) if batch_first else found[0]
    return output.reshape(*x.shape[:2], directions, hidden).transpose(1, 2), *found[1:]


def _state(call: OnnxCall, place: int, directions: int, hidden: int) -> Tensor:
    """The first state: zeros where none is given, or where zeros are."""
    known = call.known[place] if place < len(call.known) else None
    if known is not None:
        is_zero = not known.is_meta and not bool(known.any())
        if not is_zero:
            return call[place]
    return torch.zeros(directions, call[0].shape[1], hidden, device="meta")


# ------------------------------------------------------------------------------------------------------------- table

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil,
    "Celu": functional.celu, "Cos": torch.cos, "Cosh": torch.cosh, "Dropout": lambda x: x, "Elu": functional.elu,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Gelu": functional.gelu,
    "HardSigmoid": functional.hardsigmoid, "HardSwish": functional.hardswish, "Identity": lambda x: x,
    "IsInf": torch.isinf, "IsNaN": torch.isnan, "LeakyRelu": functional.leaky_relu, "Log": torch.log,
    "Mish": functional.mish, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Relu": functional.relu, "Round": torch.round, "Selu": functional.selu, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": functional.softplus,
    "Softsign": functional.softsign, "Sqrt": torch.sqrt, "Swish": functional.silu, "Tan": torch.tan,
    "Tanh": torch.tanh,
}  # fmt: skip

_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "And": torch.logical_and, "Div": _divide, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "Max": torch.maximum,
    "Min": torch.minimum, "Mod": _remainder, "Mul": torch.mul, "Or": torch.logical_or, "Pow": torch.pow,
    "Sub": torch.sub, "Sum": torch.add, "Where": torch.where, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": partial(_norm, 1), "ReduceL2": partial(_norm, 2), "ReduceMax": torch.amax, "ReduceMean": torch.mean,
    "ReduceLogSum": _log_of_sum, "ReduceLogSumExp": torch.logsumexp, "ReduceSumSquare": _of_squares,
    "ReduceMin": torch.amin, "ReduceProd": _product, "ReduceSum": torch.sum,
}  # fmt: skip

OPERATORS: dict[str, Callable[[OnnxCall], Result | Sequence[Tensor | None]]] = {
    **{name: partial(_unary, function) for name, function in _UNARY.items()},
    **{name: partial(_elementwise, function) for name, function in _BINARY.items()},
    **{name: partial(_reduce, function) for name, function in _REDUCTIONS.items()},
    **WINDOWS,
    **CONTRIBUTED,
    "ArgMax": partial(_arg, torch.argmax),
    "ArgMin": partial(_arg, torch.argmin),
    "Attention": onnx_attention,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call: (
        call[0] if call[0].is_floating_point() == call[1].is_floating_point() else call[0].to(call[1].dtype)
    ),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative,
    "Einsum": _einsum,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "GRU": partial(_recurrent, torch.gru, 1),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "LSTM": partial(_recurrent, torch.lstm, 2),
    "LogSoftmax": partial(_softmax, torch.log_softmax),
    "MatMul": lambda call: torch.matmul(call[0], call[1]),
    "Mean": _mean,
    "OneHot": _one_hot,
    "PRelu": _prelu,
    "Pad": _pad,
    "RMSNormalization": _rms_norm,
    "RNN": partial(_recurrent, torch.rnn_tanh, 1),
    **dict.fromkeys(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), _random),
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Shrink": lambda call: functional.hardshrink(call[0], call.attribute("lambd", 0.5)),
    "Size": lambda call: torch.tensor(call[0].numel()),
    "Slice": _slice,
    "Softmax": partial(_softmax, torch.softmax),
    "Split": _split,
    "Squeeze": _squeeze,
    "ThresholdedRelu": lambda call: functional.threshold(call[0], call.attribute("alpha", 1.0), 0.0),
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": lambda call: (torch.triu if call.attribute("upper", 1) else torch.tril)(call[0], call.number(1, 0)),
    "Unsqueeze": _unsqueeze,
    "whole.AddCMul": lambda call: torch.addcmul(call[0], call[1], call[2]),
    "whole.Attention": _attention,
    "whole.GroupNorm": _group_norm,
    "whole.Linear": _linear,
    "whole.Roll": _roll,
    "whole.SwapAxes": _swap_axes,
}
"""By type, with the domain before it where it is none of ONNX's own; those of 'whole' come from the module `nodes`."""
