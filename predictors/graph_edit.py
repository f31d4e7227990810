"""Networks changed: nodes replaced, removed, inserted, inputs of other sizes; all shapes behind a change follow it.

>>> from predictors import GraphBuilder
>>> from predictors.operators import Input
>>> builder = GraphBuilder()
>>> x = builder.conv2d(builder.input((1, 3, 32, 32)), 16, kernel=3, stride=2)
>>> graph = builder.graph(builder.activation(x, "relu"))
>>> with_operators(graph, {0: Input(shape=(1, 3, 64, 64))}).nodes[2].operator.output_shape
(1, 16, 32, 32)
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from predictors.graph import Graph, Node
from predictors.operators import Concat, Constant, Elementwise, Input, Operator, Shape
from predictors.reshaping import ReshapeError, reshaped


class Draft:
    """A network that is being changed. Nodes keep the numbers that they have in the graph; added ones get new numbers.

    Nothing is checked before `graph()`, so that changes that only fit together may be made one by one.
    """

    def __init__(self, graph: Graph) -> None:
        self._name = graph.name
        self._nodes = dict(enumerate(graph.nodes))
        self._outputs = list(graph.outputs)
        read = {source for node in graph.nodes for source in node.inputs}
        self._unread = [index for index in range(len(graph.nodes)) if index not in read]

    def __getitem__(self, index: int) -> Node:
        """A node as it stands; its operator has the shapes that it had in the graph."""
        return self._nodes[index]

    def readers(self, index: int) -> list[int]:
        """Nodes that read what a node writes."""
        return [reader for reader, node in self._nodes.items() if index in node.inputs]

    def add(self, operator: Operator, *inputs: int, name: str = "", dtype: str = "", write_dtype: str = "") -> int:
        """A new node, which is kept only if something reads it; its number."""
        index = len(self._nodes)
        self._nodes[index] = Node(operator, inputs, name, dtype, write_dtype)
        return index

    def replace(self, index: int, operator: Operator, *inputs: int) -> None:
        """Another operator in a node's place; without inputs it reads what the node read."""
        node = self._nodes[index]
        self._nodes[index] = replace(node, operator=operator, inputs=inputs or node.inputs)

    def insert_after(self, index: int, operator: Operator, name: str = "") -> int:
        """An operator on what a node writes, for all that read it; its number."""
        node = self._nodes[index]
        added = self.add(operator, name=name, dtype=node.written_dtype)
        self.read_instead(index, added)
        self._nodes[added] = replace(self._nodes[added], inputs=(index,))
        return added

    def read_instead(self, index: int, other: int) -> None:
        """All that read one node, and the network's outputs, read another; the first is dropped if nothing is left."""
        for reader in self.readers(index):
            node = self._nodes[reader]
            inputs = tuple(other if source == index else source for source in node.inputs)
            self._nodes[reader] = replace(node, inputs=inputs)
        self._outputs = [other if output == index else output for output in self._outputs]
        self._unread = [each for each in self._unread if each != index]

    def remove(self, index: int) -> None:
        """Whoever read a node reads its first input instead.

        Raises:
            ValueError: it has none.
        """
        node = self._nodes[index]
        if not node.inputs:
            raise ValueError(f"node {index} ({node.operator.text}) reads nothing, so nothing can take its place")
        self.read_instead(index, node.inputs[0])

    def swap(self, first: int, second: int) -> None:
        """Two operators on one tensor each change places, with their names and precisions."""
        one, other = self._nodes[first], self._nodes[second]
        self._nodes[first] = replace(other, inputs=one.inputs)
        self._nodes[second] = replace(one, inputs=other.inputs)

    def set_dtype(self, index: int, dtype: str, write_dtype: str = "") -> None:
        self._nodes[index] = replace(self._nodes[index], dtype=dtype, write_dtype=write_dtype)

    def graph(self) -> Graph:
        """The network as changed. Nodes that nothing needs any more are left out, all shapes follow.

        Raises:
            ReshapeError: an operator cannot take the shapes that it now gets; it is named.
            ValueError: nodes read each other in a circle.
        """
        order = self._order()
        place = {index: number for number, index in enumerate(order)}
        operators: list[Operator] = []
        for index in order:
            node = self._nodes[index]
            _fit_constants(node, [place[source] for source in node.inputs], operators)
            shapes = tuple([operators[place[source]].output_shape for source in node.inputs])
            if node.operator.input_shapes != shapes and len(node.operator.input_shapes) != len(shapes):
                raise ReshapeError(f"node {node.name!r} ({node.operator.text}) takes other inputs than {shapes}")
            try:
                operators.append(reshaped(node.operator, shapes))
            except ReshapeError as error:
                raise ReshapeError(f"node {node.name!r}: {error}") from None
        nodes = [
            replace(
                self._nodes[index],
                operator=operator,
                inputs=tuple([place[source] for source in self._nodes[index].inputs]),
            )
            for index, operator in zip(order, operators)
        ]
        return Graph(tuple(nodes), tuple([place[index] for index in self._outputs]), self._name)

    def _order(self) -> list[int]:
        """Nodes that an output needs, and those that nothing needed before, each behind its inputs, else as before."""
        needed = set()
        waiting = [*self._outputs, *self._unread]
        while waiting:
            index = waiting.pop()
            if index not in needed:
                needed.add(index)
                waiting += self._nodes[index].inputs
        order: list[int] = []
        done: set[int] = set()
        for first in sorted(index for index in self._nodes if index in needed or self._is_input(index)):
            waiting, entered = [first], set()
            while waiting:
                index = waiting[-1]
                missing = [source for source in self._nodes[index].inputs if source not in done]
                if index in done or not missing:
                    waiting.pop()
                    if index not in done:
                        done.add(index)
                        order.append(index)
                elif index in entered:
                    raise ValueError(f"node {index} ({self._nodes[index].operator.text}) needs what it writes itself")
                else:
                    entered.add(index)
                    waiting += reversed(missing)
        return order

    def _is_input(self, index: int) -> bool:
        return isinstance(self._nodes[index].operator, Input)


def with_operators(graph: Graph, operators: Mapping[int, Operator]) -> Graph:
    """Other operators in the place of some nodes: layers of another width, inputs of another size.

    Raises:
        ReshapeError: an operator behind them cannot take the shapes that it now gets.
    """
    draft = Draft(graph)
    for index, operator in operators.items():
        draft.replace(index, operator)
    return draft.graph()


def without_nodes(graph: Graph, indices: Iterable[int]) -> Graph:
    """Without some nodes; whoever read one of them reads its first input.

    Raises:
        ReshapeError: an operator behind them cannot take that input's shape.
        ValueError: one of them has no input.
    """
    draft = Draft(graph)
    for index in indices:
        draft.remove(index)
    return draft.graph()


def with_inserted(graph: Graph, operators: Mapping[int, Operator], name: str = "") -> Graph:
    """Behind each of some nodes an operator on what it writes.

    Raises:
        ReshapeError: an operator behind them cannot take the shapes that it now gets.
    """
    draft = Draft(graph)
    for index, operator in operators.items():
        draft.insert_after(index, operator, name)
    return draft.graph()


# ------------------------------------------------------------------------------------------------------------ private


def _fit_constants(node: Node, places: list[int], operators: list[Operator]) -> None:
    """A constant that had the size of the tensors beside it along an axis (position embeddings) keeps to them."""
    operator = node.operator
    if not isinstance(operator, Elementwise | Concat):
        return
    constants = [number for number, place in enumerate(places) if isinstance(operators[place], Constant)]
    others = [number for number in range(len(places)) if number not in constants]
    if not constants or not others:
        return
    before, now = operator.input_shapes[others[0]], operators[places[others[0]]].output_shape
    if before == now or len(before) != len(now):
        return
    for number in constants:
        constant = operators[places[number]]
        assert isinstance(constant, Constant)
        shape = _followed(constant.shape, before, now, operator.axis if isinstance(operator, Concat) else None)
        if shape != constant.shape:
            learned = constant.learned_params
            operators[places[number]] = Constant(
                shape=shape,
                learned_params=Constant(shape=shape).write_elements if learned == constant.write_elements else learned,
            )


def _followed(shape: Shape, before: Shape, now: Shape, kept: int | None) -> Shape:
    shift = len(before) - len(shape)
    return tuple(
        now[axis + shift] if axis + shift >= 0 and axis + shift != kept and size == before[axis + shift] else size
        for axis, size in enumerate(shape)
    )
