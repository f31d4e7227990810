"""Any torch module as a graph: its forward runs once on tensors without data while the operators are written down.

Why a dispatch mode: under inference_mode it sees whole operators (linear, attention, adaptive pooling), with public
calls alone and strides that tell views from copies; a function mode would see dozens of Python names for each.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from predictors.aten import HANDLERS, NEW_TENSORS, Call, Handler
from predictors.graph import Graph
from predictors.operators import Input, Unknown, UnknownOperatorError, nearest_names
from predictors.traced_constants import TracedConstants, storage_key, tensors_of
from predictors.traced_module import ExportedModule, as_written, evaluating, following_paths, replace_weights
from predictors.traced_shapes import output_of
from predictors.traced_values import Values, share_storage


def trace(
    module: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    *,
    allow_unknown: bool = False,
    with_data: bool = False,
) -> Graph:
    """The graph of one forward pass in eval mode; neither weights nor activations are read, copied or computed.

    What the caller's tensors do not influence is folded: parameters and buffers, and what is computed from them alone,
    become weights of an operator or `Constant` nodes. A change of shape or layout becomes a `View` where its reader
    takes the data as they lie, else a `Copy`, as torch itself would copy. Parameters that the forward pass does not
    read are not in the graph; those that it reads twice count twice.

    Args:
        module: left as it is: its weights, mode, hooks and attributes. Also a scripted, compiled or exported one.
        example_inputs: a tensor, the sequence of positional arguments, or a mapping of keyword arguments. An exported
            program takes those that it was exported with, in that order, or None for its own.
        allow_unknown: keep an operator without formula as an `Unknown` node, which every report shows, with the path of
            its module as the node's name; each of its further results is one too, and reads the first.
        with_data: compute the forward pass with the data of the example inputs, for networks that decide by data. It
            takes the time of a run, and all activations stay in memory until it ends.

    Raises:
        UnknownOperatorError: an operator that has no formula here, or whose result's shape only data can tell, with the
            path of its module.
        ValueError: the inputs or the outputs hold no tensor, or a lazy module was never called.
        Exception: whatever the module's own forward raises.

    >>> trace(nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True)), torch.zeros(1, 8)).macs
    32
    """
    tracer = Tracer(Values(), allow_unknown=allow_unknown, with_data=with_data)
    values = tracer.values
    args, kwargs = _arguments(example_inputs)
    if isinstance(module, ExportedProgram):
        if example_inputs is None:
            args, kwargs = module.example_inputs or ((), {})
        net: nn.Module = ExportedModule(module, values.enter)
    else:
        net = as_written(module)
    name = getattr(net, "original_name", type(net).__name__)  # of what was scripted
    with torch.inference_mode(), evaluating(net):
        replace_weights(net, tracer.weight)
        args, kwargs = _map_tensors(tracer.without_data, (args, kwargs))
        inputs = _found_tensors((args, kwargs))
        if not inputs:
            raise ValueError(f"the example inputs of {name} hold no tensor: {example_inputs!r:.80}")
        for tensor in inputs:
            values.define(tensor, values.builder.add(Input(shape=tuple(tensor.shape)), name="input"))
        with _explained(with_data), _without_shortcuts(), following_paths(net, values.enter), tracer:
            found = net(*args, **kwargs)
        outputs = [values.read(tracer.seen(each)) for each in _found_tensors(found)]
    if not outputs:
        raise ValueError(f"{name} returns no tensor, but {type(found).__name__}: nothing to trace")
    return values.builder.graph(*outputs, name=name)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """Writes every operator that runs inside of it, and depends on the inputs, into `values`.

    Tensors are on the meta device. Those that a module makes elsewhere, or keeps from there, have a twin here, one for
    each storage: where data-less ones meet them, the twins stand in.
    """

    def __init__(self, values: Values, *, allow_unknown: bool = False, with_data: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = values
        self._allow_unknown = allow_unknown
        self._with_data = with_data
        self._constants = TracedConstants()
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    def weight(self, tensor: Tensor, name: str, learned: bool) -> Tensor:
        """What stands for a parameter or a buffer of that name."""
        if self._with_data:
            if tensor.is_meta:
                raise ValueError(f"with_data=True computes with the weights, but {name!r} is on the meta device")
            made = tensor if learned else tensor.clone()
        elif tensor.is_meta:
            made = tensor
        else:
            made = torch.empty_like(tensor, device="meta")
            self._constants.add_original(made, tensor)
            if not tensor.storage_offset():
                self._twins[storage_key(tensor)] = tensor, made
        self.values.define_constant(made, learned=learned)
        return made

    def without_data(self, tensor: Tensor) -> Tensor:
        """What stands for an input."""
        return tensor.clone() if self._with_data else torch.empty_like(tensor, device="meta")

    def seen(self, tensor: Tensor) -> Tensor:
        """The tensor, or its twin if it has one."""
        return self._twin(tensor) if storage_key(tensor) in self._twins else tensor

    def _dispatched(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        signature, values = _signature(func), self.values
        kwargs = kwargs or {}
        given = args
        tensors = tensors_of((args, kwargs))
        elsewhere = not self._with_data and not all(each.is_meta for each in tensors)
        if elsewhere and self._twins:
            args, kwargs = tree_map_only(Tensor, self.seen, (args, kwargs))
            tensors = tensors_of((args, kwargs))
        if not any(values.is_live(each) for each in tensors):
            return self._constant(func, signature, args, kwargs, tensors)
        if signature.name in NEW_TENSORS:
            return self._new(func, signature, args, kwargs)
        if elsewhere:
            args, kwargs = tree_map_only(Tensor, self._on_meta, (args, kwargs))
        if not self._with_data:
            args, kwargs = self._asks_no_data(signature, args, kwargs)
        try:
            output = self._live(func, signature, args, kwargs)
        except UnknownOperatorError as error:
            if error.args[0].startswith("operator "):  # a part of this one has said it
                raise
            raise UnknownOperatorError(f"operator {signature.text} of module {values.path!r}: {error}") from None
        return given[0] if signature.writes_first else output

    # ----------------------------------------------------------------------------- what does not depend on the inputs

    def _constant(
        self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any],
        tensors: list[Tensor],
    ) -> Any:  # fmt: skip
        given = args
        if not self._with_data and any(each.is_meta for each in tensors):
            elsewhere = _goes_elsewhere(signature, args, kwargs)
            if elsewhere or _asks_for_data(signature, args, kwargs):
                small = not elsewhere or tensors[0].numel() <= _MOST_NUMBERS
                filled = self._constants.with_data((args, kwargs)) if small else None
                if filled is None and elsewhere:
                    args, kwargs = _staying(signature, args, kwargs)
                elif filled is None:
                    raise UnknownOperatorError(
                        f"operator {signature.text} of module {self.values.path!r}: it asks for the numbers of weights "
                        "on the meta device, which have none; give the module weights"
                    )
                else:
                    args, kwargs = filled
            elif not all(each.is_meta for each in tensors):
                args, kwargs = tree_map_only(Tensor, self._on_meta, (args, kwargs))
            output = func(*args, **kwargs)
            self._constants.add_call(func, args, kwargs, output)
        else:
            output = func(*args, **kwargs)
            if not tensors and any(each.is_meta for each in tensors_of(output)):
                self._constants.add_call(func, args, {**kwargs, "device": "cpu"}, output)
        for each in tensors_of(output):
            self.values.define_constant(each, tensors)
        return given[0] if signature.writes_first else output

    def _new(self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A constant of which a tensor that depends on the inputs tells shape and type."""
        if not self._with_data:
            kwargs = {**kwargs, **({"device": "meta"} if kwargs.get("device") else {})}
        output = func(*args, **kwargs)
        if not self._with_data:
            like = tree_map_only(Tensor, lambda x: torch.empty((), dtype=x.dtype).expand(x.shape), args)
            self._constants.add_call(func, like, {**kwargs, "device": "cpu"}, output)
        self.values.define_constant(output)
        return output

    # ------------------------------------------------------------------------------------- what depends on the inputs

    def _asks_no_data(
        self, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with places instead of masks that are known, and without another device.

        Raises:
            UnknownOperatorError: the operator's result has a shape, or is a number, that only data can tell.
        """
        if _goes_elsewhere(signature, args, kwargs):
            return _staying(signature, args, kwargs)
        if not _asks_for_data(signature, args, kwargs):
            return args, kwargs
        if signature.name == "index":
            arguments = signature.arguments(args, kwargs)
            places = [self._places(each) for each in arguments["indices"]]
            if all(place or each is None for each, place in zip(arguments["indices"], places)):
                return (arguments["self"], [each for place in places for each in place or [None]]), {}
        said = (
            "the shape of its result depends on data, which a trace does not have"
            if signature.returns_tensors
            else "it makes a number, for the network to decide by, of data that depend on the inputs; a trace has none"
        )
        raise UnknownOperatorError(
            f"operator {signature.text} of module {self.values.path!r}: {said}. with_data=True computes the example "
            "inputs' data; or trace the parts before and after it, or let shapes or a setting of the module decide"
        )

    def _places(self, index: Tensor | None) -> list[Tensor | None]:
        """Index tensors without data that pick as many as a mask does; none for a mask that is not known."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [] if index is None else [index]
        mask = None if self.values.is_live(index) else self._constants.with_data(index)
        return [] if mask is None else [torch.empty_like(each, device="meta") for each in mask.nonzero(as_tuple=True)]

    def _live(self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if signature.handler is not None:
            return self._written_down(func, signature, args, kwargs)
        if func.is_view or (self._with_data and not signature.returns_tensors):
            return func(*args, **kwargs)
        return self._in_parts(func, signature, args, kwargs)

    def _written_down(
        self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = signature.arguments(args, kwargs)
        told = None if self._with_data or signature.writes_elsewhere else output_of(signature.name, arguments)
        if told is not None and signature.writes:
            output = args[0]
        else:
            output = _run(func, args, kwargs) if told is None else told
        call = Call(signature.name, arguments, output, self.values)
        results = tensors_of(output)
        if told is None and not signature.writes and all(share_storage(each, call.tensors) for each in results):
            return output
        assert signature.handler is not None
        try:
            node = signature.handler(call)
        except ValueError as error:
            if self._allow_unknown:
                return self._unknown(signature, call)
            if isinstance(error, UnknownOperatorError):
                raise
            raise UnknownOperatorError(str(error)) from error
        if node is None:
            return self._in_parts(func, signature, args, kwargs)
        if signature.writes:
            self.values.overwrite(call[signature.writes], node)
            return output
        if signature.name == "scaled_dot_product_attention" and output.dim() == 4:
            output = _as_fused_attention_writes(call, self._with_data)
            results = [output]
        self._define(signature, node, results)
        return output

    def _in_parts(
        self, func: OpOverload, signature: "_Signature", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not signature.writes:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        if self._allow_unknown:
            output = _run(func, args, kwargs)
            arguments = signature.arguments(args, kwargs)
            return self._unknown(signature, Call(signature.name, arguments, output, self.values))
        raise UnknownOperatorError(
            "it has no formula for these arguments in predictors.aten.HANDLERS"
            if signature.handler
            else "it is not in predictors.aten.HANDLERS" + nearest_names(signature.name, HANDLERS)
        )

    def _unknown(self, signature: "_Signature", call: Call) -> Any:
        """A node for an operator without formula: what it reads and what it writes."""
        results = tensors_of(call.output)
        if not signature.writes and all(share_storage(each, call.tensors) for each in results):
            return call.output
        values = self.values
        read = [each for each in call.tensors if each.dim() or values.is_learned(each)]
        sources = [values.read_broadcast(each) for each in read]
        shapes = tuple(map(values.builder.shape, sources))
        written = [call[name] for name in signature.writes.split()] or results
        if not written:
            return call.output
        node = values.add(Unknown(name=signature.text, shapes=shapes, to=tuple(written[0].shape)), *sources)
        if not signature.writes:
            self._define(signature, node, results)
            return call.output
        for place, each in enumerate(written):
            values.overwrite(each, node if not place else self._further(signature, node, each))
        return call.output

    def _define(self, signature: "_Signature", node: int, results: list[Tensor]) -> None:
        self.values.define(results[0], node)
        for each in results[1:]:
            if not self.values.is_known(each):
                self.values.define_later(each, partial(self._further, signature, node, each))

    def _further(self, signature: "_Signature", node: int, result: Tensor) -> int:
        shape = tuple(result.shape)
        if not self._allow_unknown:
            raise UnknownOperatorError(f"it reads a second result, of shape {shape}, that no operator has")
        return self.values.add(Unknown(name=signature.text, shapes=(self.values.builder.shape(node),), to=shape), node)

    def _on_meta(self, tensor: Tensor) -> Tensor:
        """Numbers without axes may stay where they are."""
        return self._twin(tensor) if tensor.dim() and not tensor.is_meta else tensor

    def _twin(self, tensor: Tensor) -> Tensor:
        key = storage_key(tensor)
        if key not in self._twins:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            twin = torch.empty(size, dtype=tensor.dtype, device="meta")
            self._twins[key] = tensor, twin  # the tensor keeps its storage, and so the key
            self._constants.add_original(twin, tensor.as_strided((size,), (1,), 0))
            self.values.define_constant(
                twin.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()), [tensor]
            )
        twin = self._twins[key][1]
        return twin.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


# Set, not defined: torch wraps a definition to hide it from its compiler, which loads the compiler at the first call.
Tracer.__torch_dispatch__ = Tracer._dispatched  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class _Signature:
    """What an operator's schema says. `writes` is the argument that it overwrites, empty if none."""

    text: str
    name: str
    handler: Handler | None
    defaults: dict[str, Any]
    writes: str
    writes_first: bool
    writes_elsewhere: bool
    asks_for_data: bool
    returns_tensors: bool

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **dict(zip(self.defaults, args)), **kwargs}


@lru_cache(maxsize=4096)
def _signature(func: OpOverload) -> _Signature:
    schema = func._schema
    written = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    namespace, name = schema.name.split("::")
    text = f"{schema.name}.{schema.overload_name or 'default'}"
    first = written[:1] == [schema.arguments[0].name] if schema.arguments else False
    if first and not name.endswith("__"):
        name = name.removesuffix("_")
    handler = HANDLERS.get(f"{name}.{schema.overload_name or 'default'}", HANDLERS.get(name))
    return _Signature(
        text=text,
        name=name,
        handler=handler if namespace == "aten" and len(written) < 2 else None,
        defaults={each.name: each.default_value if each.has_default_value() else None for each in schema.arguments},
        writes=" ".join(written),
        writes_first=first and len(schema.returns) == 1,
        writes_elsewhere=bool(written) and not first,
        asks_for_data=text in ("aten::is_nonzero.default", "aten::where.default")
        or bool(_DATA_TAGS.intersection(func.tags)),
        returns_tensors=any("Tensor" in str(each.type) for each in schema.returns),
    )


_DATA_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _asks_for_data(signature: _Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Shape or value of its result depend on the data of these arguments."""
    if not signature.asks_for_data:
        return False
    if signature.name == "one_hot":
        return bool(signature.arguments(args, kwargs)["num_classes"] < 0)
    if signature.name == "index":
        return any(
            each.dtype in (torch.bool, torch.uint8) for each in tensors_of(signature.arguments(args, kwargs)["indices"])
        )
    return True


def _goes_elsewhere(signature: _Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """It moves data to a device that has some."""
    if signature.name not in ("to", "_to_copy"):
        return False
    device = signature.arguments(args, kwargs).get("device")
    return device is not None and torch.device(device).type != "meta"


def _staying(
    signature: _Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call without going to another device."""
    arguments = signature.arguments(args, kwargs)
    first = next(iter(signature.defaults))
    return (arguments.pop(first),), {**arguments, "device": "meta"}


_MOST_NUMBERS = 1 << 16
"""Of a constant that goes to another device with its data, as small ones do that a network reads."""


def _run(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except NotImplementedError:
        raise UnknownOperatorError(
            "torch cannot tell the shape of its result without data; with_data=True computes the example inputs' data"
        ) from None


def _as_fused_attention_writes(call: Call, with_data: bool) -> Tensor:
    """The kernels write (batch, length, heads, value_dim), so the transpose after it moves nothing.

    Source: `_scaled_dot_product_flash_attention_for_cpu` in aten/src/ATen/native/transformers/attention.cpp.
    """
    output: Tensor = call.output
    if with_data:
        return output.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    return output.new_empty([output.shape[axis] for axis in (0, 2, 1, 3)]).transpose(1, 2)


@contextmanager
def _without_shortcuts() -> Iterator[None]:
    """Compiled parts run as they were written, and torch's attention modules as they are exported."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    compiler_is_loaded = "torch._dynamo" in sys.modules  # else nothing of the module is compiled
    try:
        with torch.compiler.set_stance("force_eager") if compiler_is_loaded else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _explained(with_data: bool) -> Iterator[None]:
    """The module's own error, with a note where it may come of tensors without data."""
    try:
        yield
    except UnknownOperatorError:
        raise
    except Exception as error:
        if not with_data and "meta" in str(error) and hasattr(error, "add_note"):
            error.add_note(
                "trace runs the forward pass on tensors without data, on torch's device 'meta'; "
                "with_data=True runs it with the data of the example inputs"
            )
        raise


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,), {}


def _found_tensors(tree: Any, within: tuple[int, ...] = ()) -> list[Tensor]:
    """Of what users give to a module and get from it: in sequences, mappings, dataclasses and other objects."""
    if isinstance(tree, Tensor):
        return [tree]
    if id(tree) in within or isinstance(tree, str | bytes | type | nn.Module):
        return []
    if isinstance(tree, Mapping):
        parts: Iterable[Any] = tree.values()
    elif isinstance(tree, tuple | list | set):
        parts = tree
    else:
        parts = getattr(tree, "__dict__", {}).values()
        if is_dataclass(tree):
            parts = [getattr(tree, item.name) for item in fields(tree)]
    within = (*within, id(tree))
    return [found for each in parts for found in _found_tensors(each, within)]


def _map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same with other tensors, in sequences, mappings and dataclasses."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map_tensors(function, each) for each in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_map_tensors(function, each) for each in tree)
    made: Any = copy(tree)
    if isinstance(tree, Mapping):
        made.update({key: _map_tensors(function, value) for key, value in tree.items()})
        return made
    if is_dataclass(tree) and not isinstance(tree, type):
        for item in fields(tree):
            object.__setattr__(made, item.name, _map_tensors(function, getattr(tree, item.name)))
        return made
    return tree
