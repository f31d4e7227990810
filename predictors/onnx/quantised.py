"""Which nodes of a quantised ONNX model run in int8, where QuantizeLinear and DequantizeLinear stand around them.

A node runs in int8 if runtimes have it in int8, all that it reads comes from DequantizeLinear and all that it makes
goes to QuantizeLinear, directly or through a clamp: so they fuse them. A product of two matrices may also write floats.
The conversions around int8 nodes are no kernels; elsewhere each is one.

Source: ONNX Runtime 1.32, `core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc`, and
what `predictors.precision` says of the kinds that runtimes have in common.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from predictors.onnx.nodes import WHOLE, OnnxNode
from predictors.onnx.precision import Precision

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")

IN_INT8 = frozenset(
    ("Add", "ArgMax", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Expand", "Flatten",
     "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "Linear", "MatMul", "MaxPool",
     "Mul", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Resize", "Roll", "Sigmoid", "Slice", "Softmax",
     "SpaceToDepth", "Split", "Squeeze", "SwapAxes", "Swish", "Tile", "Transpose", "Unsqueeze", "Upsample", "Where")
)  # fmt: skip
"""Types that runtimes have in int8. Others run in floats between their conversions, as ReduceMean and HardSigmoid."""

_CLAMPS = ("Clip", "LeakyRelu", "Relu")
_PRODUCTS = ("Gemm", "Linear", "MatMul")


def is_conversion(node: OnnxNode) -> bool:
    return node.op_type in CONVERSIONS and node.domain in ("", "com.microsoft")


def expanded(node: OnnxNode) -> tuple[OnnxNode, ...]:
    """A product that quantises its left matrix itself, as the nodes that it stands for."""
    if (node.domain, node.op_type) != ("com.microsoft", "DynamicQuantizeMatMul"):
        return (node,)
    left, right, scale, *rest = node.inputs
    zero, bias = (*rest, "", "")[:2]
    made = f"{node.outputs[0]}_quantised"
    quantise = OnnxNode(
        op_type="DynamicQuantizeLinear", inputs=(left,), outputs=(made, f"{made}_scale", f"{made}_zero"), path=node.path
    )
    inputs = (made, right, f"{made}_scale", scale, f"{made}_zero", zero, bias)
    product = replace(node, op_type="MatMulIntegerToFloat", inputs=inputs)
    return quantise, product


def int8_nodes(nodes: Sequence[OnnxNode], is_constant: Callable[[str], bool]) -> dict[str, bool]:
    """Names of the first outputs of nodes that run in int8; True where they write floats.

    Args:
        nodes: of a graph, in topological order, QuantizeLinear and DequantizeLinear among them.
        is_constant: whether a tensor depends on weights and shapes alone.
    """
    if not any(is_conversion(node) for node in nodes):
        return {}
    producers = {name: node for node in nodes for name in node.outputs if name}
    readers: dict[str, list[OnnxNode]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return _Quantised(producers, readers, is_constant).found(nodes)


def written_precision(node: OnnxNode, found: str) -> Precision:
    """Of a node that reads `found`: operators on integers run in int8, some write sums of 32 bits or floats."""
    if node.op_type in _INTEGER_PRODUCTS:
        return Precision("int8", "float32")
    if node.op_type in _QUANTISED:
        return Precision("int8")
    return Precision(found)


# ------------------------------------------------------------------------------------------------------------ private

_INTEGER_PRODUCTS = ("ConvInteger", "IntegerConv", "IntegerProduct", "MatMulInteger", "MatMulIntegerToFloat")
_QUANTISED = (
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere",
)  # fmt: skip


class _Quantised:
    def __init__(
        self, producers: Mapping[str, OnnxNode], readers: Mapping[str, list[OnnxNode]],
        is_constant: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._producers = producers
        self._readers = readers
        self._is_constant = is_constant

    def found(self, nodes: Sequence[OnnxNode]) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for node in nodes:
            if not node.outputs or node.op_type not in IN_INT8 or node.domain not in ("", WHOLE):
                continue
            if not self._comes_from_int8(node):
                continue
            if self._goes_to_int8(node):
                found[node.outputs[0]] = False
            elif node.op_type in _PRODUCTS and self._weights_are_int8(node):
                found[node.outputs[0]] = True
        return found

    def _goes_to_int8(self, node: OnnxNode) -> bool:
        after = [reader for name in node.outputs if name for reader in self._readers.get(name, ())]
        if len(after) == 1 and after[0].op_type in _CLAMPS:
            return self._goes_to_int8(after[0])
        return bool(after) and all(each.op_type == "QuantizeLinear" for each in after)

    def _comes_from_int8(self, node: OnnxNode) -> bool:
        """Of what decides a shape, or is a number, nothing is asked."""
        live = [name for name in node.inputs if name and not self._is_constant(name)]
        return bool(live) and all(self._is_int8(name, node) for name in live)

    def _is_int8(self, name: str, reader: OnnxNode) -> bool:
        before = self._producers.get(name)
        if before is None:
            return False
        if is_conversion(before):
            return before.op_type == "DequantizeLinear"
        alone = len(self._readers.get(name, ())) == 1
        return reader.op_type in _CLAMPS and alone and self._comes_from_int8(before)

    def _weights_are_int8(self, node: OnnxNode) -> bool:
        """Unlike of a convolution, whose weights runtimes turn back into floats if it has to write floats."""
        weight = node.inputs[1]
        before = self._producers.get(weight)
        return before is not None and before.op_type == "DequantizeLinear"
