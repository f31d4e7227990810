"""Which layers of a network have to have the same number of channels, and which of these numbers may be changed.

Channels are followed from the layer that makes them through whatever keeps them: activations, normalizations, poolings,
depthwise convolutions, transposes. Where tensors are added or multiplied, their channels are tied. A convolution or a
linear layer that reads them takes any number.
"""

from dataclasses import dataclass, field, replace
from math import lcm, prod

from predictors.graph import Graph, Node
from predictors.graph_edit import Draft
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Linear,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    View,
)
from predictors.reshaping import ReshapeError, matched_axes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Layers whose outputs have to have the same number of channels.

    Attributes:
        channels: how many they have.
        producers: nodes that make them: convolutions that are not depthwise, linear layers.
        followers: depthwise convolutions among those that keep them.
        multiple: that the number has to stay a multiple of, where grouped convolutions read or make them.
    """

    channels: int
    producers: tuple[int, ...]
    followers: tuple[int, ...]
    multiple: int


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """All groups whose number of channels may be changed; what the network takes and gives keeps its own."""
    return _Groups(graph).found()


def set_channels(draft: Draft, group: ChannelGroup, channels: int) -> None:
    """Give all layers of a group another number of channels."""
    for index in group.producers:
        operator = draft[index].operator
        if isinstance(operator, Linear):
            draft.replace(index, replace(operator, out_features=channels))
        else:
            assert isinstance(operator, Conv2d | ConvTranspose2d)
            draft.replace(index, replace(operator, out_channels=channels))


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(slots=True)
class _Space:
    """Channels somewhere in the network; `made_of` are those that they are joined or flattened from."""

    size: int
    producers: list[int] = field(default_factory=list)
    followers: list[int] = field(default_factory=list)
    made_of: list[int] = field(default_factory=list)
    multiple: int = 1
    is_fixed: bool = False
    is_derived: bool = False


class _Groups:
    """Union-find over the channels of all nodes: `of_node` gives a node's space and the axis that they lie along."""

    def __init__(self, graph: Graph) -> None:
        self.spaces: list[_Space] = []
        self.parent: list[int] = []
        self.of_node: list[tuple[int, int]] = []
        for index, node in enumerate(graph.nodes):
            self.of_node.append(self._of(index, node))
        for index in graph.outputs:
            self._fix(self.of_node[index][0])

    def found(self) -> tuple[ChannelGroup, ...]:
        changed = True
        while changed:  # what a fixed sum is made of is fixed too
            changed = False
            for index in range(len(self.spaces)):
                space = self.spaces[self._root(index)]
                tied = space.is_derived and (space.is_fixed or space.producers or len(space.made_of) == 0)
                for source in space.made_of if tied else ():
                    other = self.spaces[self._root(source)]
                    changed |= not other.is_fixed
                    other.is_fixed = space.is_fixed = True
        return tuple(
            ChannelGroup(
                channels=space.size,
                producers=tuple(space.producers),
                followers=tuple(space.followers),
                multiple=space.multiple,
            )
            for index, space in enumerate(self.spaces)
            if self._root(index) == index and space.producers and not space.is_fixed and not space.is_derived
        )

    def _of(self, index: int, node: Node) -> tuple[int, int]:
        operator = node.operator
        shape = operator.output_shape
        sources = [self.of_node[source] for source in node.inputs]
        if isinstance(operator, Conv2d) and operator.is_depthwise:
            space = sources[0][0]
            if operator.in_channels != operator.out_channels:
                return self._derived(shape[1], [space]), 1
            self.spaces[self._root(space)].followers.append(index)
            return space, 1
        if isinstance(operator, Conv2d | ConvTranspose2d):
            read = self.spaces[self._root(sources[0][0])]
            read.multiple = lcm(read.multiple, operator.groups)
            return self._new(shape[1], producers=[index], multiple=operator.groups), 1
        if isinstance(operator, Linear):
            if sources[0][1] != len(operator.shape) - 1:
                self._fix(sources[0][0])
            return self._new(shape[-1], producers=[index]), len(shape) - 1
        if len(sources) == 1:
            space, axis = sources[0]
            if (after := _axis_after(operator, axis)) is not None:
                return space, after
            if (after := _merged_axis(operator, axis)) is not None:
                return self._derived(shape[after], [space]), after
        if isinstance(operator, Elementwise):
            return self._elementwise(operator, sources)
        if isinstance(operator, Concat) and len({axis for _, axis in sources}) == 1:
            if sources[0][1] == operator.axis:
                return self._derived(shape[operator.axis], [space for space, _ in sources]), operator.axis
            for space, _ in sources[1:]:
                self._tie(sources[0][0], space)
            return sources[0]
        for space, _ in sources:
            self._fix(space)
        axis = 1 if len(shape) == 4 else max(len(shape) - 1, 0)
        return self._new(shape[axis] if shape else 1, is_fixed=True), axis

    def _elementwise(self, operator: Elementwise, sources: list[tuple[int, int]]) -> tuple[int, int]:
        rank = len(operator.output_shape)
        full = []
        for (space, axis), shape in zip(sources, operator.shapes):
            from_end = axis - len(shape)
            if shape and shape[axis] == operator.output_shape[rank + from_end] and shape[axis] > 1:
                full.append((space, rank + from_end))
            elif shape and shape[axis] > 1:
                self._fix(space)
        if not full:
            return self._new(operator.output_shape[-1] if rank else 1, is_fixed=True), max(rank - 1, 0)
        for space, axis in full[1:]:
            if axis == full[0][1]:
                self._tie(full[0][0], space)
            else:
                self._fix(space)
                self._fix(full[0][0])
        return full[0]

    def _new(self, size: int, **fields: object) -> int:
        self.spaces.append(_Space(size, **fields))  # type: ignore[arg-type]
        self.parent.append(len(self.spaces) - 1)
        return len(self.spaces) - 1

    def _derived(self, size: int, made_of: list[int]) -> int:
        return self._new(size, made_of=made_of, is_derived=True)

    def _fix(self, space: int) -> None:
        self.spaces[self._root(space)].is_fixed = True

    def _root(self, space: int) -> int:
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def _tie(self, first: int, second: int) -> None:
        first, second = self._root(first), self._root(second)
        if first == second:
            return
        one, other = self.spaces[first], self.spaces[second]
        self.parent[second] = first
        if one.is_derived or other.is_derived:  # a sum that something else must equal cannot be followed
            one.is_fixed = one.is_derived = True
        one.producers += other.producers
        one.followers += other.followers
        one.made_of += other.made_of
        one.multiple = lcm(one.multiple, other.multiple)
        one.is_fixed |= other.is_fixed


def _axis_after(operator: Operator, axis: int) -> int | None:
    """Where the channels lie behind an operator on one tensor that keeps them; None where it does not."""
    if isinstance(operator, Activation | Pool2d | AdaptivePool2d | Resize):
        return axis
    if isinstance(operator, Normalization):
        return None if operator.method == "group_norm" else axis
    if isinstance(operator, Reduce):
        if axis in operator.axes:
            return None
        return axis if operator.keepdim else axis - sum(each < axis for each in operator.axes)
    if not isinstance(operator, View | Copy):
        return None
    steps = operator.all_steps if isinstance(operator, View) else operator.steps
    if steps is None or (not steps and operator.shape != operator.to):
        return None
    shape: Shape = operator.shape
    found: int | None = axis
    for name, *arguments in steps:
        if found is None:
            return None
        if name == "reshape":
            groups = _groups_of(shape, arguments[0])
            found = next((to[0] for of, to in groups if of == (found, found + 1) and to[1] == to[0] + 1), None)
            shape = arguments[0]
        elif name == "transpose":
            found = arguments[0].index(found)
            shape = tuple(shape[each] for each in arguments[0])
        else:
            return None
    return found


def _merged_axis(operator: Operator, axis: int) -> int | None:
    """Where a reshape flattens the channels together with what lies inside them."""
    if not isinstance(operator, View) or prod(operator.shape) != prod(operator.to) or operator.steps:
        return None
    groups = _groups_of(operator.shape, operator.to)
    return next((to[0] for of, to in groups if of[0] <= axis < of[1] and to[1] == to[0] + 1), None)


def _groups_of(shape: Shape, to: Shape) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    try:
        return list(matched_axes(shape, to))
    except ReshapeError:
        return []
