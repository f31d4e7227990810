"""Any torch module as a graph: its forward runs once on tensors without data while the operators are written down.

Why a dispatch mode: under inference_mode it sees whole operators (linear, attention, adaptive pooling), with public
calls alone and strides that tell views from copies; a function mode would see dozens of Python names for each.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from predictors.aten import HANDLERS, KEEP_SHAPE, Call, Handler
from predictors.graph import Graph
from predictors.operators import Input, UnknownOperatorError, nearest_names
from predictors.traced_values import Values, share_storage


def trace(module: nn.Module, example_inputs: Any) -> Graph:
    """The graph of one forward pass in eval mode; neither weights nor activations are read, copied or computed.

    What the caller's tensors do not influence is folded: parameters and buffers, and what is computed from them alone,
    become weights of an operator or `Constant` nodes. A change of shape or layout becomes a `View` where its reader
    takes the data as they lie, else a `Copy`, as torch itself would copy. Parameters that the forward pass does not
    read are not in the graph; those that it reads twice count twice.

    Args:
        module: left as it is: its weights, mode and hooks.
        example_inputs: a tensor, the sequence of positional arguments, or a mapping of keyword arguments.

    Raises:
        UnknownOperatorError: an operator that has no formula here, with the path of its module.
        ValueError: the inputs or the outputs hold no tensor.
        Exception: whatever the module's own forward raises.

    >>> trace(nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True)), torch.zeros(1, 8)).macs
    32
    """
    args, kwargs = _arguments(example_inputs)
    values = Values()
    with torch.inference_mode():
        weights = {name: _without_data(each) for name, each in (*module.named_parameters(), *module.named_buffers())}
        for name, _ in module.named_parameters():
            values.define_constant(weights[name], learned=True)
        args, kwargs = tree_map_only(Tensor, _without_data, (args, kwargs))
        inputs = _tensors((args, kwargs))
        if not inputs:
            raise ValueError(f"the example inputs of {type(module).__name__} hold no tensor: {example_inputs!r:.80}")
        for tensor in inputs:
            values.define(tensor, values.builder.add(Input(shape=tuple(tensor.shape)), name="input"))
        with _evaluating(module), _module_paths(module, values), Tracer(values):
            found = torch.func.functional_call(module, weights, args, kwargs)
        outputs = [values.read(each) for each in _tensors(found)]
    if not outputs:
        raise ValueError(f"{type(module).__name__} returns no tensor, but {type(found).__name__}: nothing to trace")
    return values.builder.graph(*outputs, name=type(module).__name__)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """Writes every operator that runs inside of it, and depends on the inputs, into `values`."""

    def __init__(self, values: Values) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = values

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        signature, values = _signature(func), self._values
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        if not any(values.is_live(each) for each in tensors):
            output = func(*args, **kwargs)
            for each in _tensors(output):
                values.define_constant(each, tensors)
            return output
        if any(each.device.type != "meta" for each in tensors):
            args, kwargs = tree_map_only(Tensor, _on_meta, (args, kwargs))
        try:
            if signature.handler is not None:
                return self._written_down(func, signature, args, kwargs)
            if func.is_view:
                return func(*args, **kwargs)
            return self._in_parts(func, signature, args, kwargs)
        except UnknownOperatorError as error:
            if error.args[0].startswith("operator "):  # a part of this one has said it
                raise
            raise UnknownOperatorError(f"operator {signature.text} of module {values.path!r}: {error}") from None

    def _written_down(
        self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = signature.arguments(args, kwargs)
        if _keeps_shape(signature.name, arguments):
            output = args[0] if signature.writes else torch.empty_like(args[0])
        else:
            output = func(*args, **kwargs)
        call = Call(signature.name, arguments, output, self._values)
        results = _tensors(output)
        if not signature.writes and all(share_storage(each, call.tensors) for each in results):
            return output
        assert signature.handler is not None
        try:
            node = signature.handler(call)
        except UnknownOperatorError:
            raise
        except ValueError as error:
            raise UnknownOperatorError(str(error)) from error
        if node is None:
            return self._in_parts(func, signature, args, kwargs)
        if signature.writes:
            self._values.overwrite(call[signature.writes], node)
            return output
        if signature.name == "scaled_dot_product_attention":
            output = _as_fused_attention_writes(call)
            results = [output]
        self._values.define(results[0], node)
        for each in results[1:]:
            self._values.define_unknown(each)
        return output

    def _in_parts(
        self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not signature.writes:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        raise UnknownOperatorError(
            "it has no formula for these arguments in predictors.aten.HANDLERS"
            if signature.handler
            else "it is not in predictors.aten.HANDLERS" + nearest_names(signature.name, HANDLERS)
        )


@dataclass(frozen=True)
class _Signature:
    """What an operator's schema says. `writes` is the argument that it overwrites, empty if none."""

    text: str
    name: str
    handler: Handler | None
    defaults: dict[str, Any]
    writes: str

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **dict(zip(self.defaults, args)), **kwargs}


@lru_cache(maxsize=4096)
def _signature(func: OpOverload) -> _Signature:
    schema = func._schema
    written = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    namespace, name = schema.name.split("::")
    if written[:1] == [schema.arguments[0].name] and not name.endswith("__"):
        name = name.removesuffix("_")
    handler = HANDLERS.get(f"{name}.{schema.overload_name or 'default'}", HANDLERS.get(name))
    return _Signature(
        text=f"{schema.name}.{schema.overload_name or 'default'}",
        name=name,
        handler=handler if namespace == "aten" and len(written) < 2 else None,
        defaults={each.name: each.default_value if each.has_default_value() else None for each in schema.arguments},
        writes=" ".join(written),
    )


def _keeps_shape(name: str, arguments: dict[str, Any]) -> bool:
    """Without a doubt: a batch norm for another number of channels is left to torch, which refuses it."""
    if name != "batch_norm":
        return name in KEEP_SHAPE
    mean = arguments["running_mean"]
    return mean is not None and arguments["input"].shape[1:2] == mean.shape


def _as_fused_attention_writes(call: Call) -> Tensor:
    """The kernels write (batch, length, heads, value_dim), so the transpose after it moves nothing.

    Source: `_scaled_dot_product_flash_attention_for_cpu` in aten/src/ATen/native/transformers/attention.cpp.
    """
    return call.output.new_empty([call.output.shape[axis] for axis in (0, 2, 1, 3)]).transpose(1, 2)  # type: ignore[no-any-return]


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,), {}


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _on_meta(tensor: Tensor) -> Tensor:
    """Constants that the forward pass makes on the CPU meet data-less ones; numbers without axes may stay."""
    return _without_data(tensor) if tensor.dim() and tensor.device.type != "meta" else tensor


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode by the flags alone, so that a module's own `train` or `eval` cannot change it."""
    before = [(each, each.training) for each in module.modules()]
    try:
        for each, _ in before:
            each.training = False
        yield
    finally:
        for each, training in before:
            each.training = training


@contextmanager
def _module_paths(module: nn.Module, values: Values) -> Iterator[None]:
    """Keep `values.path` at the path of the module whose forward runs."""
    names = {id(each): name for name, each in module.named_modules()}
    outer: list[str] = []

    def enter(each: nn.Module, _: Any) -> None:
        outer.append(values.path)
        values.path = names.get(id(each), values.path)

    def leave(each: nn.Module, *_: Any) -> None:
        values.path = outer.pop()

    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
