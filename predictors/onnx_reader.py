"""Any ONNX model as a graph: its nodes run once, as torch operators on tensors without data, under what `trace` uses.

Both ways thus end in the same operators, with the same views and copies. Weights are not needed and not loaded.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import onnx
import torch
from torch import Tensor

from predictors.graph import Graph, shared_operator
from predictors.onnx_file import read_without_weights
from predictors.onnx_nodes import OnnxNode, nodes_of, with_whole_operators
from predictors.onnx_operators import MOST_NUMBERS, OPERATORS, OnnxCall, as_tensor, operator_of
from predictors.operators import Copy, Input, Shape, UnknownOperatorError, nearest_names
from predictors.traced_values import Values
from predictors.tracing import Tracer

_LEAST_OPSET = 11


def read_onnx(path: str | Path, shapes: Mapping[str, Shape] | Shape | None = None) -> Graph:
    """The graph of an ONNX model, as `trace` gives it for the module that the model was exported from.

    What exporters take apart becomes whole again: attention as torch's exporters write it, normalizations, GELU and
    gated activations, linear layers with a bias. Glue that computes shapes leaves no operator, glue that moves data
    does. Parameters are the floating-point weights; a batch norm that the exporter has folded into a convolution is
    none here. Between a QuantizeLinear and a DequantizeLinear the same operators run in int8, which the caller asks
    the predictor for; where int8 meets float a `Copy` of method 'cast' stands.

    Args:
        path: of a model in opset 11 or newer. Its weights may be missing.
        shapes: of inputs, by name, for axes that have no size in the file; of a model with one input its shape alone.

    Raises:
        FileNotFoundError: there is no such file.
        UnknownOperatorError: an operator that has no formula here, with its node and the nearest known types.
        ValueError: the file is no ONNX model, an input's shape is not known, or numbers that decide a shape are not.
    """
    path = Path(path)
    model = read_without_weights(path)
    try:
        return _graph(_inlined(model), shapes, path.stem)
    except UnknownOperatorError as error:
        raise UnknownOperatorError(f"{path}: {error}") from None
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ private


def _graph(model: onnx.ModelProto, shapes: Mapping[str, Shape] | Shape | None, name: str) -> Graph:
    opsets = {each.domain if each.domain != "ai.onnx" else "": each.version for each in model.opset_import}
    if opsets.get("", _LEAST_OPSET) < _LEAST_OPSET:
        raise ValueError(f"it is of opset {opsets['']}; the least is {_LEAST_OPSET}, so export it anew")
    inputs = _input_shapes(model, shapes or {})
    outputs = [value.name for value in model.graph.output]
    if not outputs:
        raise ValueError("the model has no output")
    reader = _Reader(opsets)
    with torch.inference_mode():
        reader.add_initializers(model.graph)
        for value in model.graph.input:
            if value.name in inputs:
                reader.add_input(value, inputs[value.name])
        with Tracer(reader.values):
            reader.run(model.graph, outputs)
        found = [reader.values.read(reader.tensor(each)) for each in outputs]
    return reader.values.builder.graph(*found, name=name)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape] | Shape) -> dict[str, Shape]:
    """Of all inputs that are no weights, the given sizes in place of those that the file leaves open."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    names = [value.name for value in values]
    if not isinstance(shapes, Mapping):
        if len(values) != 1:
            raise ValueError(f"one shape is given, but the model has the inputs {names}; give shapes by name")
        shapes = {names[0]: tuple(shapes)}
    if unknown := sorted(set(shapes) - set(names)):
        raise ValueError(f"there is no input {unknown[0]!r}; there are {names}")
    found = {}
    for value in values:
        kind = value.type.tensor_type
        has_rank = kind.HasField("shape")
        dims = [dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in kind.shape.dim]
        given = shapes.get(value.name)
        if given is None:
            if not has_rank or any(isinstance(dim, str) for dim in dims):
                raise ValueError(_open_axes(value.name, dims, has_rank))
            found[value.name] = tuple(int(dim) for dim in dims)
            continue
        fits = not has_rank or (
            len(given) == len(dims) and all(isinstance(dim, str) or dim == size for dim, size in zip(dims, given))
        )
        if not fits or not all(isinstance(size, int) and size > 0 for size in given):
            raise ValueError(f"input {value.name!r} has shape {_shown(dims)}, which {tuple(given)} does not fit")
        found[value.name] = tuple(given)
    return found


def _open_axes(name: str, dims: Sequence[int | str], has_rank: bool) -> str:
    if not has_rank:
        return f"input {name!r} has no shape; give it, e.g. shapes={{{name!r}: (1, 3, 224, 224)}}"
    axes = [f"{axis} ({dim!r})" if dim else str(axis) for axis, dim in enumerate(dims) if isinstance(dim, str)]
    example = tuple(dim if isinstance(dim, int) else (1 if axis == 0 else 224) for axis, dim in enumerate(dims))
    return (
        f"input {name!r} of shape {_shown(dims)} has no size for axis {', '.join(axes)}; "
        f"give all of its sizes, e.g. shapes={{{name!r}: {example}}}"
    )


def _shown(dims: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(dim) or "?" for dim in dims) + ")"


class _Reader:
    """Tensors by name while the nodes run."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self.values = Values()
        self._opsets = opsets
        self._tensors: dict[str, Tensor] = {}
        self._without_data: dict[str, Tensor] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._int8: set[str] = set()

    def add_initializers(self, graph: onnx.GraphProto) -> None:
        """Floats and int8 are learned, and float32 here: a graph has one dtype. Integers and single numbers keep their
        values.
        """
        for proto in graph.initializer:
            self._initializers[proto.name] = proto
            tensor = as_tensor(proto)
            is_weight = (tensor.is_floating_point() or tensor.element_size() == 1) and tensor.dtype != torch.bool
            if is_weight and tensor.numel() > 1:
                tensor = torch.empty(tensor.shape, device="meta")
                self.values.define_constant(tensor, learned=True)
            self._tensors[proto.name] = tensor

    def add_input(self, value: onnx.ValueInfoProto, shape: Shape) -> None:
        kind = value.type.tensor_type.elem_type
        proto = onnx.TensorProto(dims=shape, data_type=kind or onnx.TensorProto.FLOAT)
        tensor = as_tensor(proto)
        tensor = self._tensors[value.name] = tensor.float() if tensor.is_floating_point() else tensor
        self.values.define(tensor, self.values.builder.add(Input(shape=shape), name=value.name))

    def tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise ValueError(f"tensor {name!r} is read, but no node before writes it")
        return self._tensors[name]

    def run(self, graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
        """The nodes of the model, or of the branch of an `If`."""
        nodes = nodes_of(graph)
        ranks = {name: tensor.dim() for name, tensor in self._tensors.items() if not self.values.is_live(tensor)}
        self._int8 |= _conversions(nodes)
        for node in with_whole_operators(nodes, ranks, outputs):
            self._run(node)

    def _run(self, node: OnnxNode) -> None:
        self.values.path = node.path
        try:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in ("", "com.microsoft"):
                self._tensors[node.outputs[0]] = self._converted(node)
            elif node.op_type == "If" and not node.domain:
                self._branch(node)
            else:
                self._computed(node)
        except UnknownOperatorError as error:
            if error.args[0].startswith(_OF_NODE):  # that of a part
                raise
            raise UnknownOperatorError(f"{_OF_NODE} {_kind(node)} of node {node.path!r}: {error}") from None
        except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
            if str(error).startswith(_OF_NODE):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{_OF_NODE} {_kind(node)} of node {node.path!r}: {reason}") from error

    def _computed(self, node: OnnxNode) -> None:
        function = operator_of(node)
        if function is None:
            near = nearest_names(_kind(node), OPERATORS)
            raise UnknownOperatorError(f"it is not in predictors.onnx_operators.OPERATORS{near}")
        call = OnnxCall(node, self._read(node), self._opsets.get(node.domain, 1), self._initializers)
        try:
            result = function(call)
        except ValueError as error:
            if not node.parts or isinstance(error, UnknownOperatorError):
                raise
            for part in node.parts:
                self._run(part)
            return
        results = [result] if isinstance(result, Tensor) else list(result)
        for name, tensor in zip(node.outputs, results):
            self._tensors[name] = _small(tensor)

    def _read(self, node: OnnxNode) -> tuple[Tensor | None, ...]:
        """All tensors that have axes without data, if one of them is."""
        tensors = [self.tensor(name) if name else None for name in node.inputs]
        if all(tensor is None or tensor.device.type != "meta" for tensor in tensors):
            return tuple(tensors)
        return tuple(tensor if not self._mixes(node, place) else self._data_less(name)
                     for place, (name, tensor) in enumerate(zip(node.inputs, tensors)))  # fmt: skip

    def _mixes(self, node: OnnxNode, place: int) -> bool:
        """It is data, rather than numbers that say what to do."""
        if node.op_type not in _JOINING:
            return False
        tensor = self._tensors.get(node.inputs[place])
        return tensor is not None and tensor.numel() > 1

    def _data_less(self, name: str) -> Tensor:
        """The same tensor for all readers, so that it is one constant of the graph."""
        tensor = self._tensors[name]
        if tensor.device.type == "meta":
            return tensor
        if name not in self._without_data:
            self._without_data[name] = torch.empty_like(tensor, device="meta")
        return self._without_data[name]

    def _converted(self, node: OnnxNode) -> Tensor:
        """A constant's numbers are part of whoever reads them; a live tensor stays what it is or changes its type."""
        x = self.tensor(node.inputs[0])
        if not self.values.is_live(x):
            made = torch.empty(x.shape, device="meta")
            self.values.define_constant(made, [x])
            return made
        if node.outputs[0] not in self._int8:
            return x
        shape = tuple(x.shape)
        cast = self.values.builder.add(
            shared_operator(Copy, shape=shape, to=shape, method="cast"), self.values.read(x), name=node.path
        )
        made = torch.empty(shape, device="meta")
        self.values.define(made, cast)
        return made

    def _branch(self, node: OnnxNode) -> None:
        condition = self.tensor(node.inputs[0])
        if condition.device.type == "meta":
            raise UnknownOperatorError("which branch runs depends on the network's inputs")
        branch = node.attributes["then_branch" if bool(condition) else "else_branch"]
        self.add_initializers(branch)
        names = [value.name for value in branch.output]
        self.run(branch, names)
        for name, inner in zip(node.outputs, names):
            self._tensors[name] = self.tensor(inner)


_OF_NODE = "ONNX operator"

_JOINING = frozenset(
    ("Add", "And", "Concat", "Div", "Equal", "Gather", "Gemm", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
     "MatMul", "Max", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Conv", "Linear", "Attention",
     "Einsum")
)  # fmt: skip
"""Operators that need all their tensors on one device."""


def _small(tensor: Tensor) -> Tensor:
    """Without data where it is larger than any glue."""
    if tensor.device.type == "meta" or tensor.numel() <= MOST_NUMBERS:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _kind(node: OnnxNode) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _conversions(nodes: Sequence[OnnxNode]) -> set[str]:
    """Outputs of those QuantizeLinear and DequantizeLinear that change the type of data between two kernels.

    An operator runs in int8 if it reads what DequantizeLinear wrote and what it writes, or an activation after it,
    goes to QuantizeLinear: neither conversion is a kernel then.
    """
    producers = {name: node for node in nodes for name in node.outputs if name}
    readers: dict[str, list[OnnxNode]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def goes_to_int8(node: OnnxNode) -> bool:
        found = list(chain.from_iterable(readers.get(name, []) for name in node.outputs))
        if len(found) == 1 and found[0].op_type in _ACTIVATIONS:
            return goes_to_int8(found[0])
        return bool(found) and all(each.op_type == "QuantizeLinear" for each in found)

    def comes_from_int8(node: OnnxNode) -> bool:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if before is None:
            return False
        return before.op_type == "DequantizeLinear" or (node.op_type in _ACTIVATIONS and comes_from_int8(before))

    found = set()
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            before = producers.get(node.inputs[0])
            if before is None or not (before.op_type == "DequantizeLinear" or comes_from_int8(before)):
                found.add(node.outputs[0])
        elif node.op_type == "DequantizeLinear":
            after = readers.get(node.outputs[0], [])
            if not after or not all(each.op_type == "QuantizeLinear" or goes_to_int8(each) for each in after):
                found.add(node.outputs[0])
    return found


_ACTIVATIONS = ("Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Swish")
