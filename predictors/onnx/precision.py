"""In which precision each node of an ONNX model runs, and the conversions where precisions meet.

Tensors without data are float32 while the nodes run; what they are in the file is known by their names. A graph that is
float32 throughout says nothing, as one from `trace`: whoever predicts asks for a dtype.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import onnx

from predictors.graph import Graph, GraphBuilder, Node
from predictors.operators import Constant, Copy, Operator, View

_PRECISIONS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}  # fmt: skip
_EIGHT_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def float_precision(data_type: int) -> str:
    """Of an ONNX floating-point type; empty for others."""
    return _PRECISIONS.get(data_type, "")


def is_eight_bits(data_type: int) -> bool:
    return data_type in _EIGHT_BITS


@dataclass
class Precision:
    """What a node reads and computes with, and what it writes; empty where it is not known."""

    reads: str = ""
    writes: str = ""


class TypedBuilder(GraphBuilder):
    """Gives each node the precision of the ONNX node that it is made for."""

    def __init__(self) -> None:
        super().__init__()
        self.current = Precision()

    def add(self, operator: Operator, *inputs: int, name: str = "", dtype: str = "", write_dtype: str = "") -> int:
        if not dtype and not write_dtype and not isinstance(operator, Constant):
            dtype, write_dtype = self._precision(operator, inputs)
        return super().add(operator, *inputs, name=name, dtype=dtype, write_dtype=write_dtype)

    def written(self, node: int) -> str:
        return self._nodes[node].written_dtype

    def convert(self, node: int, to: str, name: str) -> int:
        """A conversion of what a node writes."""
        shape, dtype = self.shape(node), self.written(node)
        if dtype == to:
            return node
        return self.add(Copy(shape=shape, to=shape, method="cast"), node, name=name, dtype=dtype, write_dtype=to)

    def _precision(self, operator: Operator, inputs: Iterable[int]) -> tuple[str, str]:
        """What lays data anew keeps their precision; it is made for the node, but it reads another one's output."""
        before = next((found for each in inputs if (found := self.written(each))), "")
        if isinstance(operator, View) or (isinstance(operator, Copy) and operator.method != "cast"):
            return before or self.current.reads, ""
        reads, writes = self.current.reads, self.current.writes or self.current.reads
        return reads, "" if writes == reads else writes


def with_dtypes_where_needed(graph: Graph) -> Graph:
    """The graph without dtypes if all are float32; else constants get that of all of their readers."""
    if {found for node in graph.nodes for found in (node.dtype, node.write_dtype)} <= {"", "float32"}:
        return Graph(
            tuple(Node(node.operator, node.inputs, node.name) for node in graph.nodes), graph.outputs, graph.name
        )
    readers: dict[int, set[str]] = {}
    for node in graph.nodes:
        for source in node.inputs:
            readers.setdefault(source, set()).add(node.dtype)
    nodes = [
        replace(node, dtype=next(iter(found)))
        if isinstance(node.operator, Constant) and len(found := readers.get(index, set())) == 1
        else node
        for index, node in enumerate(graph.nodes)
    ]
    return Graph(tuple(nodes), graph.outputs, graph.name)
