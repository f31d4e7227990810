"""A network as data: operators in topological order, each with the indices of the nodes that feed it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Concat,
    Conv2d,
    Elementwise,
    Embedding,
    Input,
    Linear,
    Normalization,
    Operator,
    Pair,
    Pool2d,
    Shape,
    View,
)

if TYPE_CHECKING:
    from predictors.sections import Section


@dataclass(frozen=True)
class Node:
    """One operator of a network.

    Attributes:
        name: path of the module that it came from; it does not count in equality.
        dtype: of what it reads, computes with and holds; empty where the network's is meant.
        write_dtype: of what it writes; empty where that is its dtype.
    """

    operator: Operator
    inputs: tuple[int, ...] = ()
    name: str = field(default="", compare=False)
    dtype: str = ""
    write_dtype: str = ""

    @property
    def written_dtype(self) -> str:
        """Of what it writes; empty where the network's is meant."""
        return self.write_dtype or self.dtype


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and the indices of those whose outputs leave the network.

    `sections` are those that `predictors.sections.join` made it of, none for other graphs; they do not count when
    graphs are compared.

    Raises:
        ValueError: a node reads a later node, or a shape or dtype that its producer does not write.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    name: str = field(default="", compare=False)
    sections: tuple["Section", ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        nodes = self.nodes
        for index, node in enumerate(nodes):
            found = []
            for source in node.inputs:
                if not 0 <= source < index:
                    raise ValueError(f"node {index} ({node.operator.text}) reads node {source}, which is not before it")
                found.append(nodes[source].operator.output_shape)
            if (expected := node.operator.input_shapes) != tuple(found):
                raise ValueError(
                    f"node {index} {node.name!r} ({node.operator.text}) takes shapes {expected}, "
                    f"its inputs {node.inputs} have {tuple(found)}"
                )
            if node.dtype:
                self._check_dtype(index, node)
        if not self.outputs or not all(0 <= index < len(nodes) for index in self.outputs):
            raise ValueError(f"outputs {self.outputs} must name some of the {len(nodes)} nodes")

    def _check_dtype(self, index: int, node: Node) -> None:
        for source in node.inputs[data_inputs(node.operator)]:
            written = self.nodes[source].written_dtype
            if written and stored_as(written) != stored_as(node.dtype):
                raise ValueError(
                    f"node {index} {node.name!r} ({node.operator.text}) reads {node.dtype}, node {source} writes "
                    f"{written}; a conversion, a copy of method 'cast', belongs between them"
                )

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the network as written, before fusion and padding; equals fvcore's count."""
        return sum(node.operator.macs for node in self.nodes)

    @cached_property
    def num_params(self) -> int:
        """Learned parameters of the network as written."""
        return sum(node.operator.num_params for node in self.nodes)


def stored_as(dtype: str) -> str:
    """The dtype whose bytes stand in memory: numbers that are multiplied as tf32 are stored as float32."""
    return "float32" if dtype == "tf32" else dtype


def data_inputs(operator: Operator) -> slice:
    """Which inputs are read in the node's dtype: all but indices."""
    if isinstance(operator, Embedding):
        return slice(0)
    return slice(1) if operator.kind == "gather" else slice(None)


# Networks of one space repeat the same few thousand operators and nodes: equal ones are made once and shared.
shared_operator: Callable[..., Any] = lru_cache(maxsize=1 << 16)(lambda operator, **fields: operator(**fields))
_shared_node = lru_cache(maxsize=1 << 16)(Node)


class GraphBuilder:
    """Builds a graph node by node; every method returns the new node's index.

    >>> builder = GraphBuilder()
    >>> x = builder.input((1, 3, 32, 32))
    >>> x = builder.conv2d(x, 16, kernel=3, stride=2)
    >>> x = builder.activation(builder.batch_norm(x), "relu")
    >>> builder.graph(x).macs
    118784
    """

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    def graph(self, *outputs: int, name: str = "") -> Graph:
        return Graph(tuple(self._nodes), outputs, name)

    def shape(self, index: int) -> Shape:
        """Shape of what the node writes."""
        return self._nodes[index].operator.output_shape

    def add(self, operator: Operator, *inputs: int, name: str = "", dtype: str = "", write_dtype: str = "") -> int:
        """Add any operator; the other methods are short forms of this one."""
        self._nodes.append(_shared_node(operator, inputs, name, dtype, write_dtype))
        return len(self._nodes) - 1

    def input(self, shape: Shape, name: str = "") -> int:
        return self.add(shared_operator(Input, shape=shape), name=name)

    def conv2d(
        self,
        x: int,
        out_channels: int,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | None = None,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        name: str = "",
    ) -> int:
        """Convolution; the default padding keeps the size at stride 1 ('same', for odd kernels)."""
        batch, in_channels, height, width = self.shape(x)
        kernel, dilation = _pair(kernel), _pair(dilation)
        if padding is None:
            padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
        operator = shared_operator(
            Conv2d,
            batch=batch, in_channels=in_channels, out_channels=out_channels, height=height, width=width, kernel=kernel,
            stride=_pair(stride), padding=_pair(padding), dilation=dilation, groups=groups, bias=bias,
        )  # fmt: skip
        return self.add(operator, x, name=name)

    def linear(self, x: int, out_features: int, bias: bool = True, name: str = "") -> int:
        operator = shared_operator(Linear, shape=self.shape(x), out_features=out_features, bias=bias)
        return self.add(operator, x, name=name)

    def batch_norm(self, x: int, name: str = "") -> int:
        shape = self.shape(x)
        operator = shared_operator(Normalization, shape=shape, method="batch_norm", affine_params=2 * shape[1])
        return self.add(operator, x, name=name)

    def activation(self, x: int, function: str, name: str = "") -> int:
        return self.add(shared_operator(Activation, shape=self.shape(x), function=function), x, name=name)

    def elementwise(self, function: str, *inputs: int, name: str = "") -> int:
        shapes = tuple(self.shape(index) for index in inputs)
        return self.add(shared_operator(Elementwise, function=function, shapes=shapes), *inputs, name=name)

    def concat(self, *inputs: int, axis: int = 1, name: str = "") -> int:
        shapes = tuple(self.shape(index) for index in inputs)
        return self.add(shared_operator(Concat, shapes=shapes, axis=axis), *inputs, name=name)

    def pool2d(
        self, x: int, method: str, kernel: int | Pair, stride: int | Pair, padding: int | Pair = 0, name: str = ""
    ) -> int:
        operator = shared_operator(
            Pool2d,
            shape=self.shape(x), method=method, kernel=_pair(kernel), stride=_pair(stride), padding=_pair(padding),
        )  # fmt: skip
        return self.add(operator, x, name=name)

    def global_pool(self, x: int, name: str = "") -> int:
        return self.add(shared_operator(AdaptivePool2d, shape=self.shape(x)), x, name=name)

    def flatten(self, x: int, name: str = "") -> int:
        """All axes after the batch become one."""
        batch, *rest = self.shape(x)
        size = 1
        for length in rest:
            size *= length
        return self.add(shared_operator(View, shape=(batch, *rest), to=(batch, size)), x, name=name)


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)
