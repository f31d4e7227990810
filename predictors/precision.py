"""A network in mixed precision: which operator computes in which dtype, and what converts between them.

A change of precision between two kernels is a kernel of its own, a copy of method 'cast'. What quantises (float to
int8) reads four bytes and writes one, what dequantises the reverse; both are counted like any other kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod

from predictors.cost import bytes_per_element
from predictors.fusion import make_kernel
from predictors.graph import Graph, Node, data_inputs, shared_operator, stored_as
from predictors.operators import OPERATORS, Constant, Copy, Input, Operator, View, nearest_names

WEIGHTED = frozenset({"conv2d", "conv_transpose2d", "linear"})
"""Kinds whose int8 weights are read as int8 also where the output is not requantised."""

FOLLOWERS = frozenset({"batch_norm", "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu"})
"""Variants that go with the operator before them, into whose kernel runtimes fold or fuse them."""

IN_INT8 = (
    FOLLOWERS
    | WEIGHTED
    | {"matmul", "sigmoid", "silu", "add", "mul", "concat", "pool2d", "adaptive_pool2d", "resize", "copy"}
)
"""Kinds and variants that run in int8 in an int8 network; `with_precision` says why these."""


def with_precision(
    graph: Graph,
    dtype: str,
    *,
    exceptions: Mapping[str, str] | None = None,
    requantise: bool = True,
    float_dtype: str | None = None,
    io_dtype: str | None = None,
) -> Graph:
    """The network with a dtype for every node, and a conversion wherever a node reads another dtype than was written.

    A tensor is converted once for all that read it in the same dtype. tf32 and float32 are stored alike, so nothing
    converts between them. Constants are stored in the dtype in which they are read. Batch norms and clamps (FOLLOWERS)
    go with the operator before them, also where that is an exception. Where a weighted int8 operator writes floats
    (`requantise=False`), what is fused into it reads and writes floats.

    In int8 run the operators that ONNX Runtime, TensorFlow Lite and TensorRT all run in int8 (IN_INT8): convolutions,
    products, clamps, sigmoid, SiLU (which they run as sigmoid and product), sums and products of tensors,
    concatenation, pooling, resizing and what only moves data. Everything else runs in `float_dtype`. Softmax: TensorRT
    has no int8 kernel. Layer and group norms, GELU, hard-swish, means, differences: ONNX Runtime's quantiser leaves
    them or its CPU kernels are float ones. Attention kept whole, embeddings, operators without formula: no common
    int8 form. For a runtime that does otherwise there are `exceptions`.

    Args:
        graph: none of whose nodes has a dtype yet.
        dtype: that operators compute in.
        exceptions: dtype by module path, which may hold * and ?, by kernel class, variant or kind of the operator
            ('*.head', 'conv2d_3x3', 'softmax', 'linear'); of several that fit, the first path, then the most specific
            name counts.
        requantise: whether int8 operators write int8. Otherwise those with weights write `float_dtype`, those without
            compute in it, and each tensor is quantised before the weighted operators that read it.
        float_dtype: of what does not run in int8; None is `dtype`, or float32 where that is int8.
        io_dtype: of the network's inputs and outputs; None is `float_dtype`.

    Raises:
        ValueError: an unknown dtype, an exception that fits nothing, a node that has a dtype already.

    Source: ONNX Runtime 1.32, `onnxruntime/quantization/registry.py`; "TensorFlow Lite 8-bit quantization
    specification", tensorflow.org/lite/performance/quantization_spec; NVIDIA, "TensorRT support matrix" 8.4, layers and
    precision (all as of 2026-11).
    """
    float_dtype = float_dtype or ("float32" if dtype == "int8" else dtype)
    io_dtype = io_dtype or float_dtype
    exceptions = exceptions or {}
    for each in (dtype, float_dtype, io_dtype, *exceptions.values()):
        bytes_per_element(each)
    if float_dtype == "int8":
        raise ValueError("float_dtype is 'int8'; it is of what does not run in int8")
    for index, node in enumerate(graph.nodes):
        if node.dtype or node.write_dtype:
            raise ValueError(f"node {index} {node.name!r} has dtype {node.dtype or node.write_dtype!r} already")
    _check_exceptions(graph, exceptions)

    default = _Default(dtype, float_dtype, requantise)
    computes, writes = _dtypes(graph, exceptions, default, io_dtype)
    made = _Converted(graph, computes, writes)
    for index in range(len(graph.nodes)):
        made.copy(index)
    outputs = [made.read(index, io_dtype) for index in graph.outputs]
    return Graph(tuple(made.nodes), tuple(outputs), graph.name)


def is_conversion(node: Node) -> bool:
    """Whether the node changes the precision of a tensor and nothing else."""
    return isinstance(node.operator, Copy) and node.operator.method == "cast" and node.written_dtype != node.dtype


# ------------------------------------------------------------------------------------------------------------ private


class _Default:
    """What an operator computes in, and writes, where no exception is made for it."""

    def __init__(self, dtype: str, float_dtype: str, requantise: bool) -> None:
        self.dtype = dtype
        self.float_dtype = float_dtype
        self.requantise = requantise

    def computes(self, operator: Operator) -> str:
        if self.dtype != "int8":
            return self.dtype
        runs = operator.variant in IN_INT8 or operator.kind in IN_INT8
        return "int8" if runs and (self.requantise or operator.kind in WEIGHTED) else self.float_dtype

    def writes(self, operator: Operator, computes: str) -> str:
        is_dequantised = computes == "int8" and not self.requantise and operator.kind in WEIGHTED
        return self.float_dtype if is_dequantised else computes


def _dtypes(
    graph: Graph, exceptions: Mapping[str, str], default: _Default, io_dtype: str
) -> tuple[list[str], list[str]]:
    """What each node computes in, and what it writes; a constant, or a view of one, has its first reader's dtype."""
    computes: list[str] = []
    writes: list[str] = []
    for node in graph.nodes:
        operator = node.operator
        if isinstance(operator, Input):
            found = io_dtype
        elif isinstance(operator, Constant):
            found = ""
        elif isinstance(operator, View):
            found = writes[node.inputs[0]]
        else:
            before = writes[node.inputs[0]] if operator.variant in FOLLOWERS else ""
            found = _exception(node, exceptions) or before or default.computes(operator)
        computes.append(found)
        writes.append(default.writes(operator, found))
    open_ends = {index for index, found in enumerate(computes) if not found}
    for index in range(len(computes) - 1, -1, -1):
        if not computes[index]:
            computes[index] = writes[index] = default.dtype
        for source in graph.nodes[index].inputs:
            if source in open_ends:
                computes[source] = writes[source] = computes[index]
    return computes, writes


def _exception(node: Node, exceptions: Mapping[str, str]) -> str:
    names = _names(node.operator)
    for pattern, dtype in exceptions.items():
        if pattern not in names and fnmatchcase(node.name, pattern):
            return dtype
    return next((exceptions[name] for name in names if name in exceptions), "")


def _names(operator: Operator) -> tuple[str, ...]:
    """Under which an exception may name the operator, the most specific first; none for what launches nothing."""
    if not operator.moves_data:
        return ()
    return tuple(dict.fromkeys((*make_kernel(operator, (), "").classes, operator.variant, operator.kind)))


def _check_exceptions(graph: Graph, exceptions: Mapping[str, str]) -> None:
    if not exceptions:
        return
    names = {name for node in graph.nodes for name in _names(node.operator)}
    paths = {node.name for node in graph.nodes if node.operator.moves_data}
    for pattern in exceptions:
        if pattern in names or pattern in _KNOWN or any(fnmatchcase(path, pattern) for path in paths):
            continue
        raise ValueError(
            f"exception {pattern!r} fits no operator and no module path of the network{nearest_names(pattern, names)}; "
            f"its operators are {sorted(names)}"
        )


_KNOWN = IN_INT8 | OPERATORS.keys() | {"layer_norm", "group_norm", "rms_norm", "gelu", "hardswish", "hardsigmoid"}
"""Exceptions for these may be made whether a network has them or not."""


class _Converted:
    """Nodes of the new network as they are made, and which of them holds each old node's tensor, in each dtype."""

    def __init__(self, graph: Graph, computes: Sequence[str], writes: Sequence[str]) -> None:
        self.nodes: list[Node] = []
        self._graph = graph
        self._computes = computes
        self._writes = writes
        self._held: dict[tuple[int, str], int] = {}

    def copy(self, index: int) -> None:
        """The old node, reading what it computes in."""
        node, computes, writes = self._graph.nodes[index], self._computes[index], self._writes[index]
        inputs = list(node.inputs)
        data = data_inputs(node.operator) if not isinstance(node.operator, View) else slice(0)
        converted = [self.read(source, computes) for source in inputs[data]]
        inputs = converted + [self.read(source, self._writes[source]) for source in inputs[len(converted) :]]
        made = Node(node.operator, tuple(inputs), node.name, computes, "" if writes == computes else writes)
        self._held[index, stored_as(writes)] = self._add(made)

    def read(self, index: int, dtype: str) -> int:
        """The new node that holds what an old one wrote, in that dtype; it is made where there is none yet."""
        stored = stored_as(dtype)
        if (found := self._held.get((index, stored))) is not None:
            return found
        node, written = self._graph.nodes[index], stored_as(self._writes[index])
        operator = node.operator
        if isinstance(operator, Constant):  # its other copy has the parameters already
            made = Node(replace(operator, learned_params=0), (), node.name, stored)
        elif isinstance(operator, View) and prod(operator.to) == prod(operator.shape):
            made = Node(operator, (self.read(node.inputs[0], stored),), node.name, stored)
        else:
            shape = operator.output_shape
            cast = shared_operator(Copy, shape=shape, to=shape, method="cast")
            made = Node(cast, (self._held[index, written],), node.name, written, stored)
        self._held[index, stored] = self._add(made)
        return self._held[index, stored]

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1
