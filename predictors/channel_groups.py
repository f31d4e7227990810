"""Which channels of a network must be cut together: read from its graph, without weights and without torch.

Every channel that a layer writes gets a label, and labels travel with the data: through activations and pooling,
through transposes and reshapes, into every place of every weight that meets them. Where two channels meet element by
element (a residual sum, a gate, a depthwise filter) they are one; where a layer takes several as a block (the groups of
a convolution, a head of attention, the halves of a split) they are cut together. What remains are units that may be
removed or exchanged, and groups of units that play the same part.

>>> from predictors import GraphBuilder
>>> builder = GraphBuilder()
>>> x = builder.conv2d(builder.input((1, 3, 8, 8), "input"), 16, kernel=3, name="stem")
>>> y = builder.conv2d(builder.activation(builder.conv2d(x, 32, kernel=1, name="up"), "relu"), 16, 1, name="down")
>>> x = builder.flatten(builder.elementwise("add", x, y))
>>> groups = channel_groups(builder.graph(builder.linear(x, 10, name="classifier")))
>>> for each in groups:
...     print(each.size, [f"{use.name} {use.side}" for use in each.uses], each.fixed or "free")
16 ['stem out', 'up in', 'down out', 'classifier in'] free
32 ['up out', 'down in'] free
10 ['classifier out'] they leave the network
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from predictors.graph import Graph
from predictors.indexing import GridSample
from predictors.movement import Steps
from predictors.operators import (
    Activation,
    AdaptivePool2d,
    Attention,
    Concat,
    Constant,
    Conv2d,
    ConvTranspose2d,
    Copy,
    Elementwise,
    Embedding,
    Input,
    Linear,
    MatMul,
    Normalization,
    Operator,
    Pool2d,
    Reduce,
    Resize,
    Shape,
    Softmax,
    View,
)
from predictors.reshaping import ReshapeError, matched_axes
from predictors.volumes import Conv3d, Pool3d


@dataclass(frozen=True, eq=False)
class ChannelUse:
    """Where channels of a group lie in one layer.

    Attributes:
        node: index of the layer's node.
        name: of that node, the path of its module.
        side: 'out' for what the layer writes, 'in' for what it reads.
        unit_of: int32 of shape (channels of that side,): which unit of the group each one belongs to, -1 for none.
        tensors: names of the module's weights that lie along these channels, and along which of their axes. A constant
            that is a parameter has no name in a graph; `with_parameters` finds it.
    """

    node: int
    name: str
    side: str
    unit_of: np.ndarray
    tensors: tuple[tuple[str, int], ...]
    shape: Shape = ()
    """Of a constant."""

    @property
    def places(self) -> np.ndarray:
        """Places of each unit, in order: of shape (units of the group, places of one)."""
        found = np.argsort(self.unit_of, kind="stable")[int((self.unit_of < 0).sum()) :]
        return found.reshape(int(self.unit_of.max()) + 1, -1)

    def reordered(self, order: np.ndarray) -> np.ndarray:
        """Which place each place takes its channel from, when unit `order[i]` becomes unit i."""
        places, index = self.places, np.arange(len(self.unit_of))
        index[places] = places[order]
        return index


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units of channels that play the same part, so that any of them may be removed, and any two exchanged.

    A unit is one channel of each of the layers, or several where they hang together: the channels of one group of a
    grouped convolution, the rows of one head of attention, the pixels of a flattened channel.

    Attributes:
        size: number of units.
        uses: every place of every layer that the units take, in the order of the graph.
        fixed: why they cannot be cut; empty if they can.
    """

    size: int
    uses: tuple[ChannelUse, ...]
    fixed: str = ""

    @property
    def name(self) -> str:
        """Path of the first layer that writes these channels."""
        return next((use.name for use in self.uses if use.side == "out"), self.uses[0].name)

    @property
    def channels(self) -> int:
        """Channels of the first layer that writes them."""
        first = next((use for use in self.uses if use.side == "out"), self.uses[0])
        return int((first.unit_of >= 0).sum())


def channel_groups(graph: Graph, norm_groups: Mapping[str, int] | None = None) -> tuple[ChannelGroup, ...]:
    """All groups of channels of a network, in the order of the layers that write them.

    Two layers of one name are one layer that runs twice. A convolution of several groups keeps or loses whole groups,
    attention whole heads; parts of channels that are taken by number keep their shares of equal size, others are fixed.
    Layers of a single channel have none to cut and are in no group.

    Args:
        norm_groups: groups of each group_norm by the path of its module, which a graph does not tell.
    """
    labels = _Labels(graph, norm_groups or {})
    for index in range(len(graph.nodes)):
        labels.follow(index)
    for index in graph.outputs:
        labels.fix(labels.of[index], "they leave the network")
    return labels.groups()


def with_parameters(groups: Iterable[ChannelGroup], shapes: Mapping[str, Shape]) -> tuple[ChannelGroup, ...]:
    """The groups with weights that a module really has: those that lack one are fixed, and say which.

    Args:
        shapes: of the module's parameters and buffers by name.
    """
    return tuple(_resolved(group, shapes) for group in groups)


# ------------------------------------------------------------------------------------------------------------ private

_Field = np.ndarray | None
"""A label for each element of a tensor: an array of its shape, with stride 0 along axes that do not matter. 0 is the
label of what no unit owns; None stands for zeros only."""

_STATISTICS = ("running_mean", "running_var")
_ORDERED = ("argmax", "argmin")
_SCANS = ("cumsum", "cumprod", "logcumsumexp", "tril", "triu")


@dataclass
class _Use:
    node: int
    side: str
    labels: np.ndarray
    tensors: tuple[tuple[str, int], ...]
    shape: Shape = ()


class _Labels:
    """Labels of all tensors of a graph so far, and what is known of them."""

    def __init__(self, graph: Graph, norm_groups: Mapping[str, int]) -> None:
        self.graph = graph
        self.norm_groups = norm_groups
        self.of: list[_Field] = []
        self.soft: list[bool] = []
        """Labels of constants: where they meet channels along other axes, they give way."""
        self.num = 1
        self.uses: list[_Use] = []
        self.node = 0
        self._same: list[tuple[np.ndarray, np.ndarray]] = []
        self._together: list[tuple[np.ndarray, np.ndarray]] = []
        self._fixed: list[tuple[np.ndarray, str]] = []
        self._splits: list[np.ndarray] = []
        self._constants: list[tuple[int, np.ndarray]] = []
        self._layers: dict[tuple[Any, ...], np.ndarray] = {}

    def follow(self, index: int) -> None:
        node = self.graph.nodes[index]
        self.node = index
        fields = [self.of[source] for source in node.inputs]
        rule = _RULES.get(type(node.operator), _unknown)
        field = rule(self, node.operator, fields)
        self.of.append(field if field is not None and _varying(field) else None)
        self.soft.append(isinstance(node.operator, Constant) or (bool(node.inputs) and self._all_soft(node.inputs)))

    def _all_soft(self, sources: Sequence[int]) -> bool:
        return all(self.soft[source] for source in sources)

    def is_soft(self, number: int) -> bool:
        """Whether the node's input of that number is made of constants alone."""
        return self.soft[self.graph.nodes[self.node].inputs[number]]

    # ------------------------------------------------------------------------------------------------ what rules say

    def constant(self, shape: Shape) -> np.ndarray:
        """New labels, one for each element: which axis is that of channels turns out where the constant meets some."""
        field = np.arange(self.num, self.num + prod(shape), dtype=np.int32).reshape(shape)
        self.num += field.size
        self._constants.append((self.node, field))
        return field

    def fresh(self, shape: Shape, axis: int) -> np.ndarray:
        """New labels along one axis."""
        size = shape[axis]
        labels = np.arange(self.num, self.num + size, dtype=np.int32)
        self.num += size
        return spread(labels, shape, axis)

    def fix(self, field: _Field, reason: str) -> None:
        if field is not None:
            self._fixed.append((_compact(field)[0].ravel(), reason))

    def same(self, one: np.ndarray, other: np.ndarray) -> None:
        """Element by element the same channel; where one belongs to no unit, the other has to stay."""
        one, other = _compact(one, other)
        lone = (one == 0) != (other == 0)
        if lone.any():
            self.fix_labels(np.maximum(one, other)[lone], f"{self.text} joins them with channels that are never cut")
        self._same.append((one[~lone].ravel(), other[~lone].ravel()))

    def together(self, one: np.ndarray, other: np.ndarray) -> None:
        """Cut together, element by element."""
        one, other = _compact(one, other)
        self._together.append((one.ravel(), other.ravel()))

    def fix_labels(self, labels: np.ndarray, reason: str) -> None:
        """As `fix`, for labels that are no tensor's."""
        self._fixed.append((labels.ravel(), reason))

    def split(self, field: np.ndarray) -> None:
        """An axis became these axes: what is cut of it has to be whole slices along one of them."""
        self._splits.append(field)

    def along(self, field: _Field, axis: int) -> np.ndarray | None:
        """Labels along one axis of a tensor, once those that only differ along others are cut together."""
        if field is None:
            return None
        axes = _varying(field)
        if axis not in axes:
            self.fix(field, f"{self.text} takes them along another axis")
            return None
        others = [each for each in axes if each != axis]
        if others:
            self.together(_repeated(field, others), field)
        return _line(field, axis)

    def use(self, side: str, labels: np.ndarray | None, *tensors: tuple[str, int]) -> None:
        """A layer's weights lie along these labels. A layer that runs twice has them once."""
        if labels is None:
            return
        node = self.graph.nodes[self.node]
        prefix = f"{node.name}." if node.name else ""
        self.uses.append(
            _Use(self.node, side, labels, tuple((prefix + name if name else "", axis) for name, axis in tensors))
        )
        key = (node.name, node.operator.kind, side, len(labels), tensors)
        first = self._layers.setdefault(key, labels)
        if node.name and first is not labels:
            self.same(first, labels)

    @property
    def text(self) -> str:
        node = self.graph.nodes[self.node]
        name = f" {node.name!r}" if node.name else ""
        return f"{node.operator.variant}{name}"

    # ----------------------------------------------------------------------------------------------------- the result

    def groups(self) -> tuple[ChannelGroup, ...]:
        if not self.uses:
            return ()
        identity = _components(self.num, self._same)
        units = _components(self.num, [*self._same, *self._together])
        while couplings := [pair for field in self._splits if (pair := _coupling(field, units)) is not None]:
            self._together += couplings
            units = _components(self.num, [*self._same, *self._together])
        self._use_constants(units)
        owner = np.concatenate([np.full(len(use.labels), number, np.int32) for number, use in enumerate(self.uses)])
        labels = np.concatenate([use.labels for use in self.uses])
        owner, labels = owner[labels > 0], labels[labels > 0]
        reason_of, reasons = self._reasons(units)
        group_of, unit_in = _grouped(owner, units[labels], identity[labels], reason_of)
        return self._assembled(units, group_of, unit_in, reason_of, reasons)

    def _use_constants(self, units: np.ndarray) -> None:
        for node, field in self._constants:
            found = units[field]
            for axis in _varying(field):
                others = [each for each in range(field.ndim) if each != axis]
                if (found == _lead(found, others)).all():
                    self.uses.append(_Use(node, "in", _line(field, axis), (("", axis),), field.shape))
                    break
            else:
                self.fix(field, f"a constant of module {self.graph.nodes[node].name!r} meets them along several axes")
        self.uses.sort(key=lambda use: use.node)

    def _reasons(self, units: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """For each unit the number of the first reason why it stays, 0 for none; and the reasons."""
        reasons = ["", *dict.fromkeys(reason for _, reason in self._fixed)]
        number = {reason: place for place, reason in enumerate(reasons)}
        reason_of = np.zeros(self.num, np.int32)
        for labels, reason in reversed(self._fixed):
            reason_of[units[labels]] = number[reason]
        reason_of[0] = 0
        return reason_of, reasons

    def _assembled(
        self, units: np.ndarray, group_of: np.ndarray, unit_in: np.ndarray, reason_of: np.ndarray, reasons: list[str]
    ) -> tuple[ChannelGroup, ...]:
        uses: dict[int, list[ChannelUse]] = {}
        sizes: dict[int, int] = {}
        fixed: dict[int, str] = {}
        for use in self.uses:
            unit = units[use.labels]
            group = np.where(use.labels > 0, group_of[unit], -1)
            name = self.graph.nodes[use.node].name
            for each in np.unique(group[group >= 0]).tolist():
                mine = group == each
                unit_of = np.where(mine, unit_in[unit], -1).astype(np.int32)
                unit_of.flags.writeable = False
                uses.setdefault(each, []).append(ChannelUse(use.node, name, use.side, unit_of, use.tensors, use.shape))
                if each not in sizes:
                    sizes[each] = int(unit_of.max()) + 1
                    fixed[each] = reasons[reason_of[unit[int(mine.argmax())]]]
        groups = [ChannelGroup(sizes[each], tuple(found), fixed[each]) for each, found in uses.items()]
        made = [
            replace(group, fixed="all its channels hang together") if group.size == 1 and not group.fixed else group
            for group in groups
            if any(use.side == "out" for use in group.uses)
        ]
        return tuple(sorted(made, key=lambda group: group.uses[0].node))


def spread(labels: np.ndarray, shape: Shape, axis: int) -> np.ndarray:
    """Labels along one axis as those of a whole tensor."""
    sizes = [1] * len(shape)
    sizes[axis] = len(labels)
    return np.broadcast_to(labels.reshape(sizes), shape)


def _varying(field: np.ndarray) -> tuple[int, ...]:
    """Axes along which labels may differ."""
    return tuple(
        [axis for axis, (size, stride) in enumerate(zip(field.shape, field.strides)) if size > 1 and stride != 0]
    )


def _compact(*fields: np.ndarray) -> tuple[np.ndarray, ...]:
    """Without repetition along axes that matter to none of the fields, all of one shape."""
    shape = fields[0].shape
    fields = tuple(field if field.shape == shape else np.broadcast_to(field, shape) for field in fields)
    axes = {axis for field in fields for axis in _varying(field)}
    picked = tuple(slice(None) if axis in axes else 0 for axis in range(len(shape)))
    return tuple(field[picked] for field in fields)


def _line(field: np.ndarray, axis: int) -> np.ndarray:
    """Labels along one axis, at the first place of all others."""
    return field[tuple([slice(None) if each == axis else 0 for each in range(field.ndim)])]


def _lead(field: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """Of some axes only the first place, as axes of size 1."""
    axes = set(axes)
    return field[tuple([slice(0, 1) if axis in axes else slice(None) for axis in range(field.ndim)])]


def _repeated(field: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """Of some axes the first place again and again."""
    return np.broadcast_to(_lead(field, axes), field.shape)


def _apart(field: np.ndarray) -> np.ndarray:
    """Of all axes along which labels do not differ only the first place."""
    varying = _varying(field)
    return _lead(field, [axis for axis in range(field.ndim) if axis not in varying])


def _squeezed(field: np.ndarray) -> np.ndarray:
    """The same labels; axes that turn out to repeat them get stride 0."""
    for axis in _varying(field):
        if (field == _lead(field, [axis])).all():
            field = _repeated(field, [axis])
    return field


def _components(num: int, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The least label of each label's connected component."""
    parent = np.arange(num, dtype=np.int32)
    if not edges:
        return parent
    one, other = (np.concatenate(side) for side in zip(*edges))
    differ = one != other
    one, other = one[differ], other[differ]
    while len(one):
        least, most = np.minimum(parent[one], parent[other]), np.maximum(parent[one], parent[other])
        apart = least != most
        one, other, least, most = one[apart], other[apart], least[apart], most[apart]
        parent[most] = least
        while (parent != (grand := parent[parent])).any():
            parent = grand
    return parent


def _coupling(field: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """What has to be cut together so that cuts are whole slices along one axis: the same place of every part."""
    found = units[field]
    for axis in range(found.ndim):
        if (found == _lead(found, [each for each in range(found.ndim) if each != axis])).all():
            return None
    return _repeated(field, range(field.ndim - 1)).ravel(), field.ravel()


def _grouped(
    owner: np.ndarray, unit: np.ndarray, identity: np.ndarray, reason_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each unit its group, and its place there: units that take the same places of the same uses are one group.

    Places are compared by which of the unit's own channels takes them, so that exchanging the first place with the
    first, the second with the second and so on is right in all uses at once.

    Args:
        owner, unit, identity: for each place, in the order of the graph: whose place, of which unit and channel.
    """
    order = np.argsort(unit, kind="stable")
    owner, unit, identity = owner[order], unit[order], identity[order]
    begins = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
    counts = np.diff(np.r_[begins, len(unit)])
    within = np.arange(len(unit)) - np.repeat(begins, counts)
    _, first, inverse = np.unique(identity, return_index=True, return_inverse=True)
    rank = within[first][inverse]
    mixed = (owner.astype(np.uint64) << np.uint64(40)) ^ (rank.astype(np.uint64) << np.uint64(20))
    mixed = _scrambled(_scrambled(mixed) + within.astype(np.uint64))
    keys = np.add.reduceat(mixed, begins) + _scrambled(reason_of[unit[begins]].astype(np.uint64))
    _, inverse = np.unique(_scrambled(keys) ^ counts.astype(np.uint64), return_inverse=True)
    group_of, unit_in = np.full(len(reason_of), -1, np.int64), np.full(len(reason_of), -1, np.int64)
    # Units in the order of their first place; a group's own numbers follow it.
    place = np.empty(len(begins), np.int64)
    place[np.argsort(order[begins], kind="stable")] = np.arange(len(begins))
    by_group = np.lexsort((place, inverse))
    starts = np.flatnonzero(np.r_[True, inverse[by_group][1:] != inverse[by_group][:-1]])
    sizes = np.diff(np.r_[starts, len(by_group)])
    group_of[unit[begins]] = inverse
    unit_in[unit[begins[by_group]]] = np.arange(len(by_group)) - np.repeat(starts, sizes)
    return group_of, unit_in


def _scrambled(numbers: np.ndarray) -> np.ndarray:
    """Bits mixed as SplitMix64 does, so that sums of them tell sequences apart."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return mixed


# -------------------------------------------------------------------------------------------------- rules of operators


def _unknown(labels: _Labels, operator: Operator, fields: Sequence[_Field]) -> _Field:
    for field in fields:
        labels.fix(field, f"{labels.text} does not say what it makes of them")
    return None


def _nothing(labels: _Labels, operator: Operator, fields: Sequence[_Field]) -> _Field:
    return None


def _constant(labels: _Labels, operator: Constant, fields: Sequence[_Field]) -> _Field:
    """A learned one has a channel an element, until it meets others."""
    if not operator.learned_params or prod(operator.shape) == 1:
        return None
    return labels.constant(operator.shape)


def _convolution(labels: _Labels, operator: Any, fields: Sequence[_Field]) -> _Field:
    groups, transposed = operator.groups, isinstance(operator, ConvTranspose2d)
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    read = labels.along(fields[0], 1)
    out = labels.fresh(operator.output_shape, 1)
    written = out[(0, slice(None)) + (0,) * (out.ndim - 2)]
    if groups == 1:
        labels.use("in", read, ("weight", in_axis))
        weights = [("weight", out_axis)]
    else:
        per_group = operator.in_channels // groups
        outputs = written.reshape(groups, -1)
        weights = [] if transposed else [("weight", 0)]
        if read is None:
            labels.fix(out, f"{labels.text} reads in groups what is never cut")
        elif per_group == 1:
            labels.use("in", read, *((("weight", 0),) if transposed else ()))
            labels.same(np.broadcast_to(read[:, None], outputs.shape)[:, :1], outputs[:, :1])
            labels.together(np.broadcast_to(outputs[:, :1], outputs.shape), outputs)
        else:
            labels.use("in", read, *((("weight", 0),) if transposed else ()))
            inputs = read.reshape(groups, -1)
            zeros = (inputs == 0).any(axis=1)
            if zeros.any():
                labels.fix_labels(outputs[zeros], f"{labels.text} reads in groups what is never cut")
            labels.together(
                np.broadcast_to(outputs[:, :1], inputs.shape), inputs * (inputs > 0) + (inputs == 0) * outputs[:, :1]
            )
            labels.together(np.broadcast_to(outputs[:, :1], outputs.shape), outputs)
    if operator.out_channels > 1:
        if transposed and groups > 1 and operator.out_channels != groups:
            labels.fix(out, f"{labels.text} holds its groups' outputs along one axis")
        biases = [("bias", 0)] if operator.bias else []
        labels.use("out", written, *weights, *biases)
    return out


def _linear(labels: _Labels, operator: Linear, fields: Sequence[_Field]) -> _Field:
    read = labels.along(fields[0], len(operator.shape) - 1)
    labels.use("in", read, ("weight", 1))
    out = labels.fresh(operator.output_shape, len(operator.shape) - 1)
    if operator.out_features > 1:
        biases = [("bias", 0)] if operator.bias else []
        labels.use("out", out[(0,) * (out.ndim - 1)], ("weight", 0), *biases)
    return out


def _embedding(labels: _Labels, operator: Embedding, fields: Sequence[_Field]) -> _Field:
    _unknown(labels, operator, fields)
    out = labels.fresh(operator.output_shape, len(operator.shape))
    if operator.features > 1:
        labels.use("out", out[(0,) * (out.ndim - 1)], ("weight", 1))
    return out


def _pointwise(labels: _Labels, operator: Operator, fields: Sequence[_Field]) -> _Field:
    if isinstance(operator, Activation) and operator.function in _SCANS:
        labels.fix(fields[0], f"{labels.text} takes them in order")
    return fields[0]


def _normalization(labels: _Labels, operator: Normalization, fields: Sequence[_Field]) -> _Field:
    (field,) = fields
    if field is None:
        return None
    shape, method, affine = operator.shape, operator.method, operator.affine_params
    if method not in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"):
        return _unknown(labels, operator, fields)
    last = len(shape) - 1
    axis = last if method in ("layer_norm", "rms_norm") else min(1, last)
    names: list[tuple[str, int]] = []
    if method in ("layer_norm", "rms_norm"):
        size, axes = 1, 0
        while affine and size < affine and axes < len(shape) and affine not in (size * 1, size * 2):
            axes += 1
            size *= shape[-axes]
        if axes > 1:
            labels.fix(field, f"{labels.text} normalises over several axes")
            return field
        if axis not in _varying(field):
            return field
        names = [("weight", 0), *([("bias", 0)] if affine == 2 * shape[axis] else [])] if affine else []
    elif affine:
        names = [("weight", 0), *([("bias", 0)] if affine == 2 * shape[axis] else [])]
    if method == "batch_norm":
        names += [(each, 0) for each in _STATISTICS]
    found = labels.along(field, axis)
    if found is None:
        return None
    if method == "group_norm":
        number = labels.norm_groups.get(labels.graph.nodes[labels.node].name)
        if number is None:
            labels.fix_labels(found, f"{labels.text} takes them in groups, whose number is not known")
        elif number > 1:
            parts = found.reshape(number, -1)
            labels.together(np.broadcast_to(parts[:, :1], parts.shape), parts)
    labels.use("out", found, *names)
    return spread(found, shape, axis)


def _spatial(labels: _Labels, operator: Any, fields: Sequence[_Field]) -> _Field:
    """Each channel by itself, along all later axes."""
    for other in fields[1:]:
        labels.fix(other, f"{labels.text} does not say what it makes of them")
    found = labels.along(fields[0], 1)
    return None if found is None else spread(found, operator.output_shape, 1)


def _reduce(labels: _Labels, operator: Reduce, fields: Sequence[_Field]) -> _Field:
    (field,) = fields
    if field is None:
        return None
    axes = _varying(field)
    gone = [axis for axis in axes if axis in operator.axes]
    if gone and operator.method in _ORDERED:
        labels.fix(field, f"{labels.text} tells their place")
    if gone == list(axes):
        return None
    if gone:
        labels.together(_repeated(field, gone), field)
    first = _lead(field, operator.axes)
    return first if operator.keepdim else first.reshape(operator.output_shape)


def _elementwise(labels: _Labels, operator: Elementwise, fields: Sequence[_Field]) -> _Field:
    return _joined(labels, operator.output_shape, operator.shapes, fields)


def _joined(labels: _Labels, to: Shape, shapes: Sequence[Shape], fields: Sequence[_Field]) -> _Field:
    """Tensors that meet element by element; a size of 1 is repeated, and meets no channel in particular."""
    shift = [len(to) - len(shape) for shape in shapes]
    placed = [None if field is None else np.broadcast_to(field, to) for field in fields]
    hard = [number for number, field in enumerate(placed) if field is not None and not labels.is_soft(number)]
    leading = hard or [number for number, field in enumerate(placed) if field is not None]
    if not leading:
        return None
    chosen = min(leading, key=lambda number: len(_varying(_known(placed[number]))))
    result = _known(placed[chosen])
    axes = set(_varying(result))
    for number, field in enumerate(placed):
        own = {axis + shift[number] for axis, size in enumerate(shapes[number]) if size > 1}
        if number == chosen or not (own & axes or field is not None):
            continue
        if field is None:
            labels.fix(result, f"{labels.text} joins them with channels that are never cut")
        elif set(_varying(field)) & axes:
            labels.same(result, field)
        elif number in hard:
            labels.fix(field, f"{labels.text} joins channels along different axes")
            labels.fix(result, f"{labels.text} joins channels along different axes")
    return result


def _known(field: _Field) -> np.ndarray:
    assert field is not None
    return field


def _concat(labels: _Labels, operator: Concat, fields: Sequence[_Field]) -> _Field:
    """Along the channels they lie behind each other; along other axes they are joined as in a sum."""
    axis, to = operator.axis, operator.output_shape
    given = [number for number, field in enumerate(fields) if field is not None]
    hard = [number for number in given if not labels.is_soft(number)]
    if not given:
        return None
    if any(axis in _varying(_known(fields[number])) for number in hard or given):
        return spread(np.concatenate([_part(labels, *each, axis) for each in zip(fields, operator.shapes)]), to, axis)
    one = tuple(1 if each == axis else size for each, size in enumerate(to))
    lead: list[_Field] = []
    for field in fields:
        if field is not None and axis in _varying(field):
            labels.together(_repeated(field, [axis]), field)
        lead.append(None if field is None else _lead(field, [axis]))
    joined = _joined(labels, one, [one] * len(lead), lead)
    return None if joined is None else np.broadcast_to(joined, to)


def _part(labels: _Labels, field: _Field, shape: Shape, axis: int) -> np.ndarray:
    """Labels along the axis of a concatenation."""
    found = labels.along(field, axis)
    return np.zeros(shape[axis], np.int32) if found is None else found


def _matmul(labels: _Labels, operator: MatMul, fields: Sequence[_Field]) -> _Field:
    """The summed axis joins both; what remains are rows of the left, columns of the right, and the axes before them."""
    outer: list[_Field] = []
    for each, axis in zip(fields, (-1, -2)):
        if each is None or each.ndim + axis not in _varying(each):
            outer.append(each)
            continue
        if len(_varying(each)) > 1:
            labels.together(_repeated(each, [each.ndim + axis]), each)
        first = _squeezed(_repeated(each, [each.ndim + axis]))
        outer.append(first if _varying(first) else None)
    left, right = (
        None if field is None or field.ndim + axis not in _varying(field) else np.moveaxis(field, axis, -1)
        for field, axis in zip(fields, (-1, -2))
    )
    if left is not None and right is not None:
        left, right = (_lead(field, [field.ndim - 2]) for field in (left, right))
        shape = np.broadcast_shapes(left.shape, right.shape)
        labels.same(np.broadcast_to(left, shape), np.broadcast_to(right, shape))
    elif operator.left[-1] > 1:
        for field in (left, right):
            labels.fix(field, f"{labels.text} joins them with channels that are never cut")
    return _product(labels, operator, outer)


def _product(labels: _Labels, operator: MatMul, outer: Sequence[_Field]) -> _Field:
    to = operator.output_shape
    shapes = ((*operator.left[:-1], 1), (*operator.right[:-2], 1, operator.right[-1]))
    found = [
        None if field is None else np.broadcast_to(_lead(field, [field.ndim + axis]), to)
        for field, axis in zip(outer, (-1, -2))
    ]
    given = [field for field in found if field is not None]
    if not given:
        return None
    axes = [set(_varying(field)) for field in given]
    if len(given) == 2 and axes[0] & axes[1]:
        (labels.same if axes[0] == axes[1] else labels.together)(*given)
    elif len(given) == 2:
        for field in given:
            labels.fix(field, f"{labels.text} joins channels along different axes")
    else:
        other = shapes[1 if found[1] is None else 0]
        shift = len(to) - len(other)
        if any(size > 1 and axis + shift in axes[0] for axis, size in enumerate(other)):
            labels.fix(given[0], f"{labels.text} joins them with channels that are never cut")
    return given[0] if len(given) == 1 or len(axes[0]) <= len(axes[1]) else given[1]


def _attention(labels: _Labels, operator: Attention, fields: Sequence[_Field]) -> _Field:
    """Whole heads; those of queries that share one of keys and values go together."""
    heads, key_heads = operator.heads, operator.key_heads or operator.heads
    given = [found for field in fields[:3] if (found := labels.along(field, 1)) is not None]
    if len(given) < 3:
        for each in given:
            labels.fix_labels(each, f"{labels.text} joins them with channels that are never cut")
        return None
    query, *others = given
    shared = query.reshape(key_heads, -1)
    for each in others:
        labels.together(np.broadcast_to(each[:, None], shared.shape), shared)
    if operator.mask is not None:
        mask = fields[3]
        if mask is not None and mask.ndim > 2 and len(operator.mask) == 4 and 1 in _varying(mask):
            labels.together(np.broadcast_to(query.reshape(1, heads, 1, 1), mask.shape), mask)
        elif len(operator.mask) == 4 and operator.mask[1] > 1:
            labels.fix_labels(query, f"{labels.text} adds a mask of its own to each head")
    return spread(query, operator.output_shape, 1)


def _moved(labels: _Labels, operator: Any, fields: Sequence[_Field]) -> _Field:
    (field,) = fields
    if field is None:
        return None
    steps: Steps | None = operator.all_steps if isinstance(operator, View) else operator.steps
    if not steps:
        return field if operator.shape == operator.to else _unknown(labels, operator, fields)
    for step in steps:
        field = _STEPS[step[0]](labels, field, *step[1:])
    return field


def _reshape(labels: _Labels, field: np.ndarray, shape: Shape) -> np.ndarray:
    axes = set(_varying(field))
    found: np.ndarray = field.reshape(shape)
    if not np.may_share_memory(found, field):
        found = _squeezed(found)
    try:
        matched = list(matched_axes(field.shape, shape))
    except ReshapeError:
        matched = [((0, field.ndim), (0, len(shape)))]
    for (begin, end), (to_begin, to_end) in matched:
        before = [axis for axis in range(begin, end) if field.shape[axis] > 1]
        after = [axis for axis in range(to_begin, to_end) if shape[axis] > 1]
        if len(after) < 2 or not axes & set(before):
            continue
        if len(before) > 1:
            labels.fix(field, f"{labels.text} mixes them with other axes")
        elif len(set(_varying(found)) & set(after)) > 1:
            picked = tuple(slice(None) if axis in after else 0 for axis in range(len(shape)))
            labels.split(found[picked])
    return found


def _transpose(labels: _Labels, field: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return field.transpose(axes)


def _slice(
    labels: _Labels, field: np.ndarray, starts: tuple[int, ...], stops: tuple[int, ...], every: tuple[int, ...]
) -> np.ndarray:
    """Parts of equal size lose the same places; a part of another size is taken by number, and fixes them all."""
    for axis in _varying(field):
        size, start, stop, by = field.shape[axis], starts[axis], stops[axis], every[axis]
        length = stop - start
        if length == size and by == 1:
            continue
        if by != 1 or size % length or start % length:
            labels.fix(field, f"{labels.text} takes a part of them by number")
            continue
        parts = np.moveaxis(field, axis, 0).reshape(size // length, length, *np.delete(field.shape, axis))
        labels.together(np.broadcast_to(parts[:1], parts.shape), parts)
    return field[tuple(slice(*cut) for cut in zip(starts, stops, every))]


def _expand(labels: _Labels, field: np.ndarray, shape: Shape) -> np.ndarray:
    return np.broadcast_to(field, shape)


def _pad(labels: _Labels, field: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    shape = tuple(map(sum, zip(before, field.shape, after)))
    axes = [axis for axis in _varying(field) if before[axis] or after[axis]]
    first = _apart(field)
    if axes:
        first = np.pad(first, [(before[axis], after[axis]) if axis in axes else (0, 0) for axis in range(field.ndim)])
    return np.broadcast_to(first, shape)


def _flip(labels: _Labels, field: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.flip(field, axes)


def _roll(labels: _Labels, field: np.ndarray, shifts: tuple[int, ...]) -> np.ndarray:
    if any(shifts[axis] % field.shape[axis] for axis in _varying(field)):
        labels.fix(field, f"{labels.text} moves them by a number")
        axes = _varying(field)
        return np.roll(field, [shifts[axis] for axis in axes], axes)
    return field


def _repeat(labels: _Labels, field: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    shape = tuple(count * size for count, size in zip(counts, field.shape))
    axes = _varying(field)
    first = _apart(field)
    return np.broadcast_to(np.tile(first, [count if axis in axes else 1 for axis, count in enumerate(counts)]), shape)


_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "reshape": _reshape, "transpose": _transpose, "slice": _slice, "expand": _expand, "pad": _pad, "flip": _flip,
    "roll": _roll, "repeat": _repeat,
}  # fmt: skip

_RULES: dict[type[Operator], Callable[[_Labels, Any, Sequence[_Field]], _Field]] = {
    Input: _nothing,
    Constant: _constant,
    Conv2d: _convolution,
    ConvTranspose2d: _convolution,
    Conv3d: _convolution,
    Linear: _linear,
    Embedding: _embedding,
    Activation: _pointwise,
    Softmax: _pointwise,
    Normalization: _normalization,
    Pool2d: _spatial,
    AdaptivePool2d: _spatial,
    Pool3d: _spatial,
    Resize: _spatial,
    GridSample: _spatial,
    Reduce: _reduce,
    Elementwise: _elementwise,
    Concat: _concat,
    MatMul: _matmul,
    Attention: _attention,
    View: _moved,
    Copy: _moved,
}


# ------------------------------------------------------------------------------------------- names of real parameters


def _resolved(group: ChannelGroup, shapes: Mapping[str, Shape]) -> ChannelGroup:
    uses = []
    problem = ""
    taken: set[str] = set()
    for use in group.uses:
        tensors = []
        for name, axis in use.tensors:
            found, missing = _named(name, axis, len(use.unit_of), shapes) if name else _owned(use, axis, group, shapes)
            found = [each for each in found if name or each[0] not in taken][: None if name else 1]
            taken.update(each for each, _ in found)
            tensors += found
            problem = problem or missing
        uses.append(replace(use, tensors=tuple(tensors)))
    return replace(group, uses=tuple(uses), fixed=group.fixed or problem)


_Found = tuple[list[tuple[str, int]], str]
"""Weights under their full names, or else what is wrong."""


def _named(name: str, axis: int, size: int, shapes: Mapping[str, Shape]) -> _Found:
    if axis < len(shape := shapes.get(name, ())) and shape[axis] == size:
        return [(name, axis)], ""
    if name not in shapes and name.rpartition(".")[2] in _STATISTICS:
        return [], ""
    return [], f"the module has no weight {name!r} with {size} channels along axis {axis}"


def _owned(use: ChannelUse, axis: int, group: ChannelGroup, shapes: Mapping[str, Shape]) -> _Found:
    """The module's own weights of a constant's shape; several of them where as many meet the same channels alike."""
    prefix = f"{use.name}." if use.name else ""
    own = [
        name
        for name, shape in shapes.items()
        if shape == use.shape and name.startswith(prefix) and "." not in name[len(prefix) :]
    ]
    alike = [
        each
        for each in group.uses
        if (each.name, each.shape, each.tensors) == (use.name, use.shape, use.tensors)
        and np.array_equal(each.unit_of, use.unit_of)
    ]
    if own and len(own) == len(alike):
        return [(name, axis) for name in own], ""
    return [], f"a weight of shape {use.shape} of module {use.name!r} meets them; the graph does not say which of {own}"
