"""ONNX nodes as data, and the larger operators that exporters have taken apart, put together again.

A pattern begins at the node that writes the last tensor and follows its inputs; what it passes on the way must be read
by nobody else. Operators that ONNX lacks get the domain 'whole'; the others become what newer opsets have for them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from onnx import helper, numpy_helper

WHOLE = "whole"
"""Domain of operators that only patterns make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxNode:
    """One node. `inputs` are '' where they are left out; `path` is that of its module, or the node's name."""

    op_type: str
    domain: str = ""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    classes: str = ""
    """Classes of the modules that it is in, where the exporter wrote them."""
    parts: tuple["OnnxNode", ...] = ()
    """What a whole operator stands for, to be run instead if it turns out to be another one."""


def node_of(proto: onnx.NodeProto) -> OnnxNode:
    """One node of a graph."""
    written = {each.key: each.value for each in proto.metadata_props}
    scopes = written.get("pkg.torch.onnx.name_scopes", "")[1:-1].split(", ")  # "['', 'stages', 'stages.0', 'conv2d']"
    module = scopes[-2].strip("'\"") if len(scopes) > 1 else ""
    return OnnxNode(
        op_type=proto.op_type,
        domain="" if proto.domain == "ai.onnx" else proto.domain,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={each.name: _attribute(each) for each in proto.attribute},
        path=module or proto.name or (proto.output[0] if proto.output else ""),
        classes=written.get("pkg.torch.onnx.class_hierarchy", ""),
    )


def with_whole_operators(nodes: Sequence[OnnxNode], ranks: Mapping[str, int], outputs: Iterable[str]) -> list[OnnxNode]:
    """The same network with whole operators in place of their parts.

    Args:
        nodes: in topological order.
        ranks: number of axes of each initializer.
        outputs: names that leave the graph.
    """
    for patterns in _PASSES:
        nodes = _replaced(nodes, patterns, ranks, outputs)
    return _with_flattened_means(nodes, outputs)


# ------------------------------------------------------------------------------------------------------------ private


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(proto)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


FLATTENED = "flattened"
"""Attribute of a mean that only a change of shape reads, as of the pooling before a classifier."""


def _with_flattened_means(nodes: Sequence[OnnxNode], outputs: Iterable[str]) -> list[OnnxNode]:
    """torch's new exporter writes pooling as a mean; simplifiers take away by what `classes` told them apart."""
    readers: dict[str, set[str]] = {name: {""} for name in outputs}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.op_type)
    return [
        replace(node, attributes={**node.attributes, FLATTENED: 1})
        if node.op_type == "ReduceMean"
        and not node.classes
        and readers.get(node.outputs[0], {""}) <= {"Flatten", "Reshape", "Squeeze"}
        else node
        for node in nodes
    ]


_KEEPS_RANK = ("Transpose", "DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "Sqrt")


class _View:
    """What patterns ask about a list of nodes."""

    def __init__(self, nodes: Sequence[OnnxNode], ranks: Mapping[str, int], outputs: Iterable[str]) -> None:
        self.producers = {name: node for node in nodes for name in node.outputs if name}
        self.num_readers = Counter(name for node in nodes for name in node.inputs if name)
        self.num_readers.update(outputs)
        self.ranks = dict(ranks)
        for node in nodes:  # those of constants made from constants
            if node.op_type == "Constant" and isinstance(tensor := node.attributes.get("value"), onnx.TensorProto):
                self.ranks[node.outputs[0]] = len(tensor.dims)
            elif node.op_type == "Constant":
                self.ranks[node.outputs[0]] = int("value_floats" in node.attributes or "value_ints" in node.attributes)
            elif node.op_type in _KEEPS_RANK and node.inputs[0] in self.ranks:
                self.ranks[node.outputs[0]] = self.ranks[node.inputs[0]]
        self.ones = {name for node in nodes for name in node.outputs if _is_one(node)}
        """Constants that are the number one."""
        self._constant = set(ranks)
        for node in nodes:
            if node.op_type in ("Shape", "Constant") or all(not name or name in self._constant for name in node.inputs):
                self._constant.update(node.outputs)

    def is_constant(self, name: str) -> bool:
        """It depends on weights and shapes alone."""
        return name in self._constant

    def made_by(self, name: str, *op_types: str) -> OnnxNode | None:
        """The node that writes a tensor, if it is of these types and nobody else reads the tensor."""
        node = self.producers.get(name)
        return node if node and node.op_type in op_types and self.num_readers[name] == 1 else None

    def constant_and_other(self, node: OnnxNode) -> tuple[str, str] | None:
        """Names of both inputs of a commutative node, if the one is a constant and the other is not."""
        first, second = node.inputs[:2]
        if self.is_constant(first) == self.is_constant(second):
            return None
        return (first, second) if self.is_constant(first) else (second, first)


def _is_one(node: OnnxNode) -> bool:
    if node.op_type != "Constant":
        return False
    tensor = node.attributes.get("value")
    if not isinstance(tensor, onnx.TensorProto) or list(tensor.dims) not in ([], [1]):
        return False
    return tensor.data_type == onnx.TensorProto.FLOAT and bool(numpy_helper.to_array(tensor).reshape(-1) == 1)


@dataclass(frozen=True, slots=True)
class _Match:
    """What stands in place of the parts. The last part's name is kept."""

    op_type: str
    inputs: tuple[str, ...]
    parts: tuple[OnnxNode, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


_Pattern = Callable[[OnnxNode, _View], _Match | None]


def _replaced(
    nodes: Sequence[OnnxNode], patterns: Mapping[str, Sequence[_Pattern]], ranks: Mapping[str, int],
    outputs: Iterable[str],
) -> list[OnnxNode]:  # fmt: skip
    view = _View(nodes, ranks, outputs)
    places = {node.outputs[0]: place for place, node in enumerate(nodes) if node.outputs}
    gone: set[str] = set()  # by the output, which only one node writes
    found: dict[str, OnnxNode] = {}
    for node in reversed(nodes):
        if node.outputs[:1] and node.outputs[0] in gone:
            continue
        for pattern in patterns.get(node.op_type, ()):
            match = pattern(node, view)
            if match is None or any(part.outputs[0] in gone for part in match.parts):
                continue
            gone.update(part.outputs[0] for part in match.parts)
            found[node.outputs[0]] = OnnxNode(
                op_type=match.op_type, domain=match.domain, inputs=match.inputs, outputs=node.outputs[:1],
                attributes=match.attributes, path=node.path, classes=node.classes,
                parts=(*sorted(match.parts, key=lambda part: places[part.outputs[0]]), node),
            )  # fmt: skip
            break
    kept = []
    for node in nodes:
        key = node.outputs[0] if node.outputs else ""
        if key in found:
            kept.append(found[key])
        elif key not in gone:
            kept.append(node)
    return kept


def _linear(add: OnnxNode, view: _View) -> _Match | None:
    """x @ weight + bias."""
    for name, bias in (add.inputs, add.inputs[::-1]):
        product = view.made_by(name, "MatMul")
        if product and view.ranks.get(product.inputs[1]) == 2 and view.is_constant(product.inputs[1]):
            if view.is_constant(product.inputs[0]) or view.ranks.get(bias) != 1 or not view.is_constant(bias):
                return None
            return _Match("Linear", (*product.inputs, bias), (product,), domain=WHOLE)
    return None


def _add_product(add: OnnxNode, view: _View) -> _Match | None:
    """torch's addcmul, which is one kernel: the old exporter multiplies by its factor of one, the new one says so."""
    for name, added in (add.inputs, add.inputs[::-1]):
        product = view.made_by(name, "Mul")
        if not product:
            continue
        if all(each.classes.endswith("aten.addcmul.default']") for each in (add, product)):
            return _Match("AddCMul", (added, *product.inputs), (product,), domain=WHOLE)
        for inner_name, factor in (product.inputs, product.inputs[::-1]):
            inner = view.made_by(inner_name, "Mul") if factor in view.ones else None
            if inner:
                return _Match("AddCMul", (added, *inner.inputs), (inner, product), domain=WHOLE)
    return None


def _integer_product(scaled: OnnxNode, view: _View) -> _Match | None:
    """Products of integers, as floats, times the scales of both: one kernel in every runtime that has integers."""
    for name, scale in (scaled.inputs, scaled.inputs[::-1]):
        cast = view.made_by(name, "Cast")
        product = view.made_by(cast.inputs[0], "MatMulInteger", "ConvInteger") if cast else None
        if not cast or not product:
            continue
        scales = view.made_by(scale, "Mul")
        if not scales and not view.is_constant(scale):
            return None
        kind = "IntegerProduct" if product.op_type == "MatMulInteger" else "IntegerConv"
        parts = (product, cast, *([scales] if scales else []))
        return _Match(kind, product.inputs[:2], parts, product.attributes, WHOLE)
    return None


def _integer_product_and_bias(add: OnnxNode, view: _View) -> _Match | None:
    for name, bias in (add.inputs, add.inputs[::-1]):
        product = view.made_by(name, "IntegerProduct", "IntegerConv")
        if product and len(product.inputs) == 2 and view.is_constant(bias):
            if product.op_type == "IntegerProduct" and view.ranks.get(bias) != 1:
                return None
            return _Match(product.op_type, (*product.inputs, bias), (product,), product.attributes, WHOLE)
    return None


def _attention(product: OnnxNode, view: _View) -> _Match | None:
    """torch's exporters scale queries and keys by the root of the scale each; attention that a module spells out itself
    has another form, and stays in its parts as `trace` leaves it.
    """
    softmax = view.made_by(product.inputs[0], "Softmax")
    if not softmax or softmax.attributes.get("axis", -1) not in (-1, 3):
        return None
    scores, parts = softmax.inputs[0], [softmax]
    mask: tuple[str, ...] = ()
    if add := view.made_by(scores, "Add"):
        made = [view.made_by(name, "MatMul") is not None for name in add.inputs]
        if made.count(True) != 1:
            return None
        scores, mask = add.inputs[made.index(True)], (add.inputs[made.index(False)],)
        parts.append(add)
    inner = view.made_by(scores, "MatMul")
    if not inner:
        return None
    scaled = []
    for name in inner.inputs:
        mul = view.made_by(name, "Mul")
        if not mul or (both := view.constant_and_other(mul)) is None:
            return None
        scaled.append(both[1])
        parts.append(mul)
    return _Match("Attention", (*scaled, product.inputs[1], *mask), (inner, *parts), domain=WHOLE)


def _swapped_axes(reshape: OnnxNode, view: _View) -> _Match | None:
    """All axes before the last two joined, those two swapped, the others parted again: done for keys."""
    transpose = view.made_by(reshape.inputs[0], "Transpose")
    if not transpose or list(transpose.attributes.get("perm", ())) != [0, 2, 1]:
        return None
    joined = view.made_by(transpose.inputs[0], "Reshape")
    if not joined:
        return None
    return _Match("SwapAxes", (joined.inputs[0], reshape.inputs[1]), (transpose, joined), domain=WHOLE)


def _layer_norm(end: OnnxNode, view: _View) -> _Match | None:
    """(x - mean) / sqrt(mean of squares + epsilon), with weight and bias where there are any."""
    learned: list[str] = []
    parts: list[OnnxNode] = []
    node: OnnxNode | None = end
    for op_type in ("Add", "Mul"):
        if node and node.op_type == op_type:
            if (both := view.constant_and_other(node)) is None or not view.ranks.get(both[0]):
                return None
            learned.insert(0, both[0])
            parts.append(node)
            node = view.made_by(both[1], "Mul", "Div")
    if not node or node.op_type != "Div" or (learned and len(learned) != 2):
        return None
    centred, root = view.producers.get(node.inputs[0]), view.made_by(node.inputs[1], "Sqrt")
    if not centred or centred.op_type != "Sub" or not root:
        return None
    mean = view.made_by(centred.inputs[1], "ReduceMean")
    shifted = view.made_by(root.inputs[0], "Add")
    if not mean or mean.inputs[0] != centred.inputs[0] or not shifted:
        return None
    variance = next((each for name in shifted.inputs if (each := view.made_by(name, "ReduceMean"))), None)
    square = view.made_by(variance.inputs[0], "Pow", "Mul") if variance else None
    if not variance or not square or square.inputs[0] != centred.outputs[0] or not _is_last_axis(mean):
        return None
    if view.num_readers[centred.outputs[0]] != (3 if square.op_type == "Mul" else 2):
        return None
    found = (*parts, node, centred, root, mean, shifted, variance, square)
    return _Match("LayerNormalization", (centred.inputs[0], *learned), tuple(each for each in found if each is not end))


def _rms_norm(end: OnnxNode, view: _View) -> _Match | None:
    """x / sqrt(mean of squares + epsilon), and weights where there are any."""
    node: OnnxNode | None = end
    learned: tuple[str, ...] = ()
    if end.op_type == "Mul" and (both := view.constant_and_other(end)) is not None:
        learned, node = both[:1], view.made_by(both[1], "Mul", "Div")
    if not node or view.constant_and_other(node) is not None:
        return None
    for x, name in (node.inputs, node.inputs[::-1]):
        inverse = view.made_by(name, "Reciprocal") if node.op_type == "Mul" else None
        root = view.made_by(inverse.inputs[0] if inverse else name, "Sqrt")
        shifted = view.made_by(root.inputs[0], "Add") if root and (inverse or node.op_type == "Div") else None
        both = view.constant_and_other(shifted) if shifted else None
        mean = view.made_by(both[1], "ReduceMean") if both else None
        square = view.made_by(mean.inputs[0], "Pow", "Mul") if mean and _is_last_axis(mean) else None
        if root and shifted and mean and square and square.inputs[0] == x:
            parts = (*([node] if learned else []), *([inverse] if inverse else []), root, shifted, mean, square)
            return _Match("RMSNormalization", (x, *learned), parts)
    return None


def _prelu(end: OnnxNode, view: _View) -> _Match | None:
    """x where it is positive, else x times a slope."""
    condition, x, name = end.inputs
    positive, scaled = view.made_by(condition, "Greater"), view.made_by(name, "Mul")
    both = view.constant_and_other(scaled) if scaled else None
    if not positive or not scaled or not both or both[1] != x or positive.inputs[0] != x:
        return None
    return _Match("PRelu", (x, both[0]), (positive, scaled))


def _softplus(end: OnnxNode, view: _View) -> _Match | None:
    """x where it is large, else its softplus, which is the same there."""
    condition, x, name = end.inputs
    large, soft = view.made_by(condition, "Greater"), view.made_by(name, "Softplus")
    if not large or not soft or large.inputs[0] != x or soft.inputs[0] != x:
        return None
    return _Match("Softplus", (x,), (large, soft))


def _is_last_axis(node: OnnxNode) -> bool:
    return list(node.attributes.get("axes", [-1])) == [-1]


def _gelu(end: OnnxNode, view: _View) -> _Match | None:
    """x * (1 + erf(x / sqrt(2))) / 2 in any order of the products; simplifiers move the half into the next weights."""
    factors, parts = _factors(end, view)
    ones = [each for name in factors if (each := view.made_by(name, "Add"))]
    numbers = [name for name in factors if view.is_constant(name)]
    rest = [name for name in factors if not view.is_constant(name) and not (ones and name == ones[0].outputs[0])]
    if len(ones) != 1 or len(numbers) > 1 or len(rest) != 1 or (both := view.constant_and_other(ones[0])) is None:
        return None
    erf = view.made_by(both[1], "Erf")
    scaled = view.made_by(erf.inputs[0], "Div", "Mul") if erf else None
    if not erf or not scaled or rest[0] not in scaled.inputs:
        return None
    return _Match("Gelu", (rest[0],), (*parts, ones[0], erf, scaled))


def _factors(end: OnnxNode, view: _View) -> tuple[list[str], list[OnnxNode]]:
    """Factors of a product of products, and the inner products."""
    names, parts = list(end.inputs), []
    for name in end.inputs:
        if inner := view.made_by(name, "Mul"):
            names.remove(name)
            names += inner.inputs
            parts.append(inner)
    return names, parts


def _gated(end: OnnxNode, view: _View) -> _Match | None:
    """x * gate(x)."""
    for x, name in (end.inputs, end.inputs[::-1]):
        gate = view.made_by(name, "Sigmoid", "HardSigmoid", "Tanh")
        if not gate:
            continue
        if gate.op_type == "Tanh":
            inner = view.made_by(gate.inputs[0], "Softplus")
            if inner and inner.inputs[0] == x:
                return _Match("Mish", (x,), (gate, inner))
        elif gate.inputs[0] == x:
            return _Match({"Sigmoid": "Swish", "HardSigmoid": "HardSwish"}[gate.op_type], (x,), (gate,))
    return None


def _group_norm(end: OnnxNode, view: _View) -> _Match | None:
    """An instance norm of groups laid out as channels, then weight and bias."""
    learned: list[str] = []
    parts: list[OnnxNode] = []
    node: OnnxNode | None = end
    for op_type in ("Add", "Mul"):
        if node and node.op_type == op_type and (both := view.constant_and_other(node)) is not None:
            learned.insert(0, both[0])
            parts.append(node)
            node = view.made_by(both[1], "Mul", "Reshape")
    norm = view.made_by(node.inputs[0], "InstanceNormalization") if node and node.op_type == "Reshape" else None
    grouped = view.made_by(norm.inputs[0], "Reshape") if norm else None
    if not node or not norm or not grouped or len(learned) != 2:
        return None
    found = (*parts[1:], node, norm, grouped)
    return _Match("GroupNorm", (grouped.inputs[0], *learned, norm.inputs[1]), found, domain=WHOLE)


def _roll(concat: OnnxNode, view: _View) -> _Match | None:
    """The end of an axis before its begin, axis by axis; whether they fit together is seen when it is run."""
    if len(concat.inputs) != 2:
        return None
    end, begin = (view.made_by(name, "Slice") for name in concat.inputs)
    if not end or not begin or end.inputs[0] != begin.inputs[0] or min(len(end.inputs), len(begin.inputs)) < 4:
        return None
    source, steps, parts = end.inputs[0], (*end.inputs[1:4], *begin.inputs[1:4]), [end, begin]
    if (inner := view.producers.get(source)) and view.num_readers[source] == 2 and inner.op_type == "Concat":
        before = _roll(inner, view)
        if before and len(before.inputs) == 7:
            source, steps = before.inputs[0], (*before.inputs[1:], *steps)
            parts += [inner, *before.parts]
    return _Match("Roll", (source, *steps), tuple(parts), domain=WHOLE)


_PASSES: tuple[Mapping[str, Sequence[_Pattern]], ...] = (
    {
        "Add": (_add_product, _layer_norm, _group_norm, _linear),
        "Div": (_layer_norm, _rms_norm),
        "Mul": (_integer_product, _gelu, _gated, _rms_norm),
        "Where": (_prelu, _softplus),
        "Concat": (_roll,),
        "Reshape": (_swapped_axes,),
    },
    {"MatMul": (_attention,), "Add": (_integer_product_and_bias,)},
)
