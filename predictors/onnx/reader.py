"""Any ONNX model as a graph: its nodes run once, as torch operators on tensors without data, under what `trace` uses.

Both ways thus end in the same operators, with the same views and copies. Weights are not needed and not loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor

from predictors.graph import Graph
from predictors.onnx.call import MOST_NUMBERS, OnnxCall, as_tensor
from predictors.onnx.check import LEAST_OPSET, broken_rule, check_domains, check_names, in_order, opsets_of
from predictors.onnx.control import Value, run_control
from predictors.onnx.file import read_small_numbers, read_without_weights
from predictors.onnx.nodes import OnnxNode, node_of, with_whole_operators
from predictors.onnx.operators import OPERATORS, operator_of
from predictors.onnx.precision import (
    Precision,
    TypedBuilder,
    float_precision,
    is_eight_bits,
    with_dtypes_where_needed,
)
from predictors.onnx.quantised import expanded, int8_nodes, is_conversion, written_precision
from predictors.onnx.unknown import depends_on_data, output_shapes
from predictors.operators import Input, Shape, Unknown, UnknownOperatorError, nearest_names
from predictors.traced_values import Values
from predictors.tracing import Tracer


def read_onnx(
    path: str | Path, shapes: Mapping[str, Shape] | Shape | None = None, *, allow_unknown: bool = False
) -> Graph:
    """The graph of an ONNX model, as `trace` gives it for the module that the model was exported from.

    What exporters take apart becomes whole again: attention as torch's exporters write it, normalizations, GELU and
    gated activations, linear layers with a bias. Glue that computes shapes leaves no operator, glue that moves data
    does. Parameters are the floating-point weights; a batch norm that the exporter has folded into a convolution is
    none here.

    A model that is float32 throughout says no dtype, as from `trace`. Else every node has its own: float16 or bfloat16
    as the file says; int8 where QuantizeLinear and DequantizeLinear stand around a node, or where it is an operator on
    integers. Where precisions meet a `Copy` of method 'cast' stands.

    Args:
        path: of a model in opset 11 or newer. Its weights may be missing; they are never loaded.
        shapes: of inputs, by name, for axes that have no size in the file; of a model with one input its shape alone.
        allow_unknown: keep an operator without formula as an `Unknown` node, which every report shows. Where only data
            tell how much it writes, as for NonMaxSuppression, it writes the most that it could.

    Raises:
        FileNotFoundError: there is no such file.
        UnknownOperatorError: an operator that has no formula here, with its node and the nearest known types; or one
            whose work only data decide.
        ValueError: the file is no ONNX model or breaks ONNX's rules, an input's shape is not known, or numbers that
            decide a shape are not.
    """
    path = Path(path)
    model = read_without_weights(path)
    try:
        read_small_numbers(model, path.parent)
        return _graph(_inlined(model), shapes, path, allow_unknown)
    except UnknownOperatorError as error:
        raise UnknownOperatorError(f"{path}: {error}") from None
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ private


def _graph(
    model: onnx.ModelProto, shapes: Mapping[str, Shape] | Shape | None, path: Path, allow_unknown: bool
) -> Graph:
    opsets = opsets_of(model)
    check_names(model.graph)
    inputs = _input_shapes(model, shapes or {})
    outputs = [value.name for value in model.graph.output]
    if not outputs:
        raise ValueError("the model has no output")
    reader = _Reader(opsets, path.parent, allow_unknown, learns_constants=model.producer_name != "pytorch")
    with torch.inference_mode():
        reader.add_graph(model.graph)
        for value in model.graph.input:
            if value.name in inputs:
                reader.add_input(value, inputs[value.name])
        with Tracer(reader.values, allow_unknown=allow_unknown):
            reader.run(model.graph, outputs)
            found = [reader.output(each) for each in outputs]
    return with_dtypes_where_needed(reader.builder.graph(*found, name=path.stem))


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape] | Shape) -> dict[str, Shape]:
    """Of all inputs that are no weights, the given sizes in place of those that the file leaves open."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    for value in values:
        if (kind := value.type.WhichOneof("value")) not in ("tensor_type", None):
            raise ValueError(
                f"input {value.name!r} is a {kind.removesuffix('_type')}; only tensors are taken, so export the model "
                "with a tensor in its place"
            )
    names = [value.name for value in values]
    if not isinstance(shapes, Mapping):
        if len(values) != 1:
            raise ValueError(f"one shape is given, but the model has the inputs {names}; give shapes by name")
        shapes = {names[0]: shapes}
    shapes = {name: _as_shape(name, shape) for name, shape in shapes.items()}
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
        if not fits:
            raise ValueError(f"input {value.name!r} has shape {_shown(dims)}, which {given} does not fit")
        found[value.name] = given
    return found


def _as_shape(name: str, shape: object) -> Shape:
    if not isinstance(shape, tuple | list) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"input {name!r} is given the shape {shape!r}; a shape is a tuple of positive integers")
    return tuple(shape)


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
    """Tensors by name while the nodes run, and the precision that each has in the file."""

    def __init__(
        self, opsets: Mapping[str, int], folder: Path, allow_unknown: bool, learns_constants: bool = False
    ) -> None:
        self.values = Values()
        self.builder = self.values.builder = TypedBuilder()
        self._opsets = opsets
        self._folder = folder
        self._allow_unknown = allow_unknown
        self._learns_constants = learns_constants
        """Some exporters write weights as Constant nodes; torch's write there what a module computes with."""
        self._values: dict[str, Value] = {}
        self._precisions: dict[str, str] = {}
        self._without_data: dict[str, Tensor] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._int8: dict[str, bool] = {}
        self._dequantised: dict[str, tuple[Tensor, str]] = {}
        """Outputs of DequantizeLinear by name: what they are made of, and the node's path. Floats come on demand."""
        self._said: dict[str, Shape] = {}

    # --------------------------------------------------------------------------------------------------------- names

    def add_graph(self, graph: onnx.GraphProto) -> None:
        """Its weights, and the shapes that it says."""
        for proto in graph.initializer:
            self.add_constant(proto.name, proto)
        for sparse in graph.sparse_initializer:
            proto = onnx.TensorProto(dims=sparse.dims, data_type=sparse.values.data_type)
            self.add_constant(sparse.values.name, proto)
        for value in (*graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
                self._said[value.name] = tuple(dim.dim_value for dim in dims)

    def add_constant(self, name: str, proto: onnx.TensorProto) -> None:
        """Floats and int8 are learned, single numbers are not; what the file's reader kept has its values."""
        self._initializers[name] = proto
        tensor = as_tensor(proto)
        is_weight = (tensor.is_floating_point() or tensor.element_size() == 1) and tensor.dtype != torch.bool
        self._precisions[name] = float_precision(proto.data_type)
        if is_weight and tensor.numel() > 1:
            tensor = torch.empty(tensor.shape, device="meta") if tensor.is_meta else tensor.float()
            self.values.define_constant(tensor, learned=True)
        self._values[name] = _small(tensor)

    def add_input(self, value: onnx.ValueInfoProto, shape: Shape) -> None:
        kind = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
        tensor = as_tensor(onnx.TensorProto(dims=shape, data_type=kind)).to("meta")
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        precision = float_precision(kind) or ("int8" if is_eight_bits(kind) else "")
        self._values[value.name] = tensor
        self._precisions[value.name] = precision
        self.values.define(tensor, self.builder.add(Input(shape=shape), name=value.name, dtype=precision))

    def value(self, name: str) -> Value:
        if name in self._dequantised and name not in self._values:
            self._values[name] = self._as_floats(name)
        if name not in self._values:
            raise ValueError(f"tensor {name!r} is read, but no node before writes it")
        return self._values[name]

    def tensor(self, name: str) -> Tensor:
        found = self.value(name)
        if isinstance(found, list):
            raise ValueError(f"{name!r} is a sequence of tensors; this operator takes a tensor")
        return found

    def bind(self, name: str, value: Value, like: str = "") -> None:
        self._values[name] = value
        self._precisions[name] = self._precisions.get(like, "")
        self._dequantised.pop(name, None)
        self._without_data.pop(name, None)

    def output(self, name: str) -> int:
        self.builder.current = Precision(self._precisions.get(name, ""))
        return self.values.read(self.tensor(name))

    # --------------------------------------------------------------------------------------------------------- nodes

    def run_inner(self, graph: onnx.GraphProto) -> list[str]:
        """A branch or a body, which reads what is around it."""
        path = self.values.path
        check_names(graph)
        self.add_graph(graph)
        outputs = [value.name for value in graph.output]
        self.run(graph, outputs)
        self.values.path = path
        return outputs

    def run(self, graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
        protos = in_order(graph, (*self._values, *self._dequantised))
        check_domains(protos, self._opsets)
        nodes = [node for each in protos for node in expanded(node_of(each))]
        constants = [(name, each) for name, each in self._values.items() if not self._is_live(each)]
        ranks = {name: each.dim() for name, each in constants if isinstance(each, Tensor)}
        nodes = with_whole_operators(nodes, ranks, outputs)
        if any(is_conversion(node) for node in nodes):
            known = _constant_names(nodes, ranks)
            self._int8 |= int8_nodes(nodes, known.__contains__)
        for node in nodes:
            self._run(node)

    def _is_live(self, value: Value) -> bool:
        return any(self.values.is_live(each) for each in (value if isinstance(value, list) else [value]))

    def _run(self, node: OnnxNode) -> None:
        self.values.path = node.path
        try:
            if node.op_type == "Constant" and self._learns_constants and "value" in node.attributes:
                self.add_constant(node.outputs[0], node.attributes["value"])
            elif is_conversion(node):
                self._convert(node)
            elif node.op_type == "DynamicQuantizeLinear" and not node.domain:
                self._quantise_by_range(node)
            elif node.op_type == "Cast" and not node.domain:
                self._cast(node)
            elif not run_control(self, node):
                self._compute(node)
        except UnknownOperatorError as error:
            if error.args[0].startswith(_OF_NODE):  # that of a part
                raise
            raise UnknownOperatorError(f"{_OF_NODE} {_kind(node)} of node {node.path!r}: {error}") from None
        except (ValueError, RuntimeError, IndexError, KeyError, TypeError, AttributeError) as error:
            if str(error).startswith(_OF_NODE):
                raise
            reason = broken_rule(node, self._opsets.get("", LEAST_OPSET)) or self._with_shapes(node, error)
            raise ValueError(f"{_OF_NODE} {_kind(node)} of node {node.path!r}: {reason}") from error

    def _with_shapes(self, node: OnnxNode, error: Exception) -> str:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ValueError):
            return reason
        known = [(name, self._values[name]) for name in node.inputs if name in self._values]
        shapes = [f"{name!r} {tuple(each.shape)}" for name, each in known if isinstance(each, Tensor)]
        return f"{reason}; it reads {', '.join(shapes)}" if shapes else reason

    def _compute(self, node: OnnxNode) -> None:
        call = self._call(node)
        precision = self.builder.current = self._precision(node)
        function = operator_of(node)
        if depends_on_data(node.op_type) and self._reads_live(call):
            if not self._allow_unknown:
                raise UnknownOperatorError(
                    "how much it writes depends on data; allow_unknown=True keeps it as an unknown operator that "
                    "writes the most that it could"
                )
            function = None
        elif function is None and not self._allow_unknown:
            if node.domain == "com.microsoft.nchwc":
                raise UnknownOperatorError(
                    "it is for one kind of CPU alone; have ONNX Runtime save the model with ORT_ENABLE_EXTENDED or less"
                )
            near = nearest_names(_kind(node), OPERATORS)
            raise UnknownOperatorError(
                f"it is not in predictors.onnx.operators.OPERATORS{near}; allow_unknown=True keeps it all the same"
            )
        try:
            results = self._unknown(call) if function is None else function(call)
        except ValueError as error:
            if node.parts and not isinstance(error, UnknownOperatorError):
                for part in node.parts:
                    self._run(part)
                return
            if not self._allow_unknown:
                raise
            results = self._unknown(call)
        for name, tensor in zip(node.outputs, [results] if isinstance(results, Tensor) else results):
            if tensor is None:
                continue
            self._values[name] = _small(tensor)
            self._dequantised.pop(name, None)
            self._without_data.pop(name, None)
            floats = tensor.is_floating_point()
            self._precisions[name] = (precision.writes or precision.reads) if floats else ""

    def _precision(self, node: OnnxNode) -> Precision:
        """That of the first tensor that the inputs decide, else of a weight; integer operators say theirs."""
        key = node.outputs[0] if node.outputs else ""
        if key in self._int8:
            floats = next((self._precisions[name] for name in node.inputs if name in self._dequantised), "")
            return Precision("int8", floats or "float32") if self._int8[key] else Precision("int8")
        reads = [name for name in node.inputs if name]
        live = [name for name in reads if name in self._dequantised or self._is_live(self._values.get(name, []))]
        found = next((found for name in (*live, *reads) if (found := self._precisions.get(name))), "")
        return written_precision(node, found)

    def _call(self, node: OnnxNode) -> OnnxCall:
        """An int8 node reads what stands before DequantizeLinear; constants have no data where others have none."""
        runs_in_int8 = bool(node.outputs) and node.outputs[0] in self._int8
        known = tuple(self._given(name, runs_in_int8) if name else None for name in node.inputs)
        tensors = known
        if any(tensor is not None and tensor.is_meta for tensor in known):
            tensors = tuple(
                self._data_less(name, tensor) if tensor is not None and _is_data(tensor) else tensor
                for name, tensor in zip(node.inputs, known)
            )
        opset = self._opsets.get(node.domain, 1)
        return OnnxCall(node, tensors, opset, known, self._initializers, self._folder)

    def _given(self, name: str, runs_in_int8: bool) -> Tensor:
        return self._dequantised[name][0] if runs_in_int8 and name in self._dequantised else self.tensor(name)

    def _data_less(self, name: str, tensor: Tensor) -> Tensor:
        """The same tensor for all readers, so that it is one constant of the graph."""
        if name not in self._without_data:
            made = self._without_data[name] = torch.empty_like(tensor, device="meta")
            self.values.define_constant(made, [tensor])
        return self._without_data[name]

    def _reads_live(self, call: OnnxCall) -> bool:
        return any(tensor is not None and self.values.is_live(tensor) for tensor in call.tensors)

    def _unknown(self, call: OnnxCall) -> list[Tensor]:
        """A node for an operator without formula; each further output is one that reads the first."""
        shapes = output_shapes(call, self._said)
        read = [each for each in call.tensors if each is not None and (each.dim() or self.values.is_learned(each))]
        sources = [self.values.read_broadcast(each) for each in read]
        name, found = _kind(call.node), []
        node = self.values.add(
            Unknown(name=name, shapes=tuple(map(self.builder.shape, sources)), to=shapes[0]), *sources
        )
        for place, shape in enumerate(shapes):
            tensor = torch.empty(shape, device="meta")
            first = self.builder.shape(node)
            further = self.values.add(Unknown(name=name, shapes=(first,), to=shape), node) if place else node
            self.values.define(tensor, further)
            found.append(tensor)
        return found

    # --------------------------------------------------------------------------------------------------- conversions

    def _convert(self, node: OnnxNode) -> None:
        """Numbers of a constant are part of whoever reads it. Of live data only those are converted that two precisions
        share: what DequantizeLinear writes is made where somebody reads floats."""
        source, name = node.inputs[0], node.outputs[0]
        quantises = node.op_type == "QuantizeLinear"
        floats = self._precisions.get(node.inputs[1], "") or "float32"
        if source in self._dequantised and quantises:
            self._values[name], self._precisions[name] = self._dequantised[source][0], "int8"
            return
        x = self.tensor(source)
        if not self.values.is_live(x):
            made = torch.empty(x.shape, device="meta")
            self.values.define_constant(made, [x])
            self._values[name], self._precisions[name] = made, "int8" if quantises else floats
            return
        if quantises:
            self._check_eight_bits(node)
            self._values[name] = self._converted(x, self._precisions.get(source, "") or floats, "int8", node.path)
            self._precisions[name] = "int8"
        else:
            self._values.pop(name, None)
            self._dequantised[name] = self._float_tensor(x), node.path
            self._precisions[name] = floats

    def _quantise_by_range(self, node: OnnxNode) -> None:
        """The scale and zero point that the kernel finds beside it are single numbers, which cost nothing to read."""
        source = node.inputs[0]
        x = self.tensor(source)
        converted = self._converted(x, self._precisions.get(source, "") or "float32", "int8", node.path)
        for name, tensor, precision in zip(
            node.outputs, (converted, torch.ones(()), torch.zeros(())), ("int8", "", "")
        ):
            self._values[name], self._precisions[name] = tensor, precision

    def _check_eight_bits(self, node: OnnxNode) -> None:
        kind = node.attributes.get("output_dtype", 0)
        if len(node.inputs) > 2 and node.inputs[2] in self._initializers:
            kind = self._initializers[node.inputs[2]].data_type
        if kind and not is_eight_bits(kind):
            raise UnknownOperatorError(
                f"it quantises to {onnx.TensorProto.DataType.Name(kind).lower()}; known are int8 and uint8"
            )

    def _as_floats(self, name: str) -> Tensor:
        x, path = self._dequantised[name]
        return self._converted(x, "int8", self._precisions[name], path)

    def _converted(self, x: Tensor, precision: str, to: str, path: str) -> Tensor:
        self.builder.current = Precision(precision)
        before = self.values.read(x)
        node = self.builder.convert(before, to, path)
        if node == before:
            return x
        made = torch.empty(x.shape, device="meta")
        self.values.define(made, node)
        return made

    def _float_tensor(self, x: Tensor) -> Tensor:
        """Integers that the network gets, under a tensor that torch computes with."""
        if x.is_floating_point():
            return x
        made = torch.empty(x.shape, device="meta")
        self.values.define(made, self.values.read(x))
        return made

    def _cast(self, node: OnnxNode) -> None:
        """Between floating-point types it is a conversion where they differ; a constant is converted beforehand."""
        source, name, to = node.inputs[0], node.outputs[0], float_precision(node.attributes["to"])
        x, precision = self.tensor(source), self._precisions.get(source, "")
        if not self.values.is_live(x) or not to or not precision or not x.is_floating_point():
            call = self._call(node)
            self.builder.current = Precision(precision, to if precision else "")
            function = operator_of(node)
            assert function is not None
            found = function(call)
            assert isinstance(found, Tensor)
            self._values[name] = _small(found)
        else:
            self._values[name] = x if precision == to else self._converted(x, precision, to, node.path)
        self._precisions[name] = to


_OF_NODE = "ONNX operator"


def _is_data(tensor: Tensor) -> bool:
    """Numbers of a constant that a node computes with, rather than one that says what to do."""
    return not tensor.is_meta and tensor.numel() > 1 and tensor.is_floating_point()


def _small(tensor: Tensor) -> Tensor:
    """Without data where it is larger than any glue."""
    if tensor.is_meta or tensor.numel() <= MOST_NUMBERS:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _kind(node: OnnxNode) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _constant_names(nodes: Sequence[OnnxNode], known: Mapping[str, int]) -> set[str]:
    """Tensors that depend on weights and shapes alone."""
    found = set(known)
    for node in nodes:
        if node.op_type == "Shape" or all(not name or name in found for name in node.inputs):
            found.update(node.outputs)
    return found
