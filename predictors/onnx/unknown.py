"""What an ONNX operator without formula writes: shapes by ONNX's own inference, or the largest that data could give."""

from collections.abc import Callable, Mapping
from math import prod

import onnx
from onnx import helper, shape_inference

from predictors.onnx.call import OnnxCall
from predictors.operators import Shape, UnknownOperatorError


def output_shapes(call: OnnxCall, said: Mapping[str, Shape]) -> list[Shape]:
    """Of all outputs of a node.

    Args:
        said: shapes that the file says, by name.

    Raises:
        UnknownOperatorError: neither the file nor ONNX's inference knows one.
    """
    node = call.node
    if (bound := _LARGEST.get(node.op_type)) and not node.domain:
        return bound(call)
    names = [name for name in node.outputs if name]
    if all(name in said for name in names):
        return [said[name] for name in names]
    found = {} if node.domain else _inferred(call)
    missing = [name for name in names if name not in found and name not in said]
    if missing:
        raise UnknownOperatorError(
            f"the shape of its output {missing[0]!r} is not known, so it cannot be kept as an unknown operator; "
            "run onnx.shape_inference.infer_shapes on the model, or write the shape into its value_info"
        )
    return [said.get(name, found.get(name, ())) for name in names]


def depends_on_data(op_type: str) -> bool:
    """How much it writes is not known before it runs."""
    return op_type in _LARGEST


# ------------------------------------------------------------------------------------------------------------ private


def _boxes(call: OnnxCall) -> list[Shape]:
    """Boxes that are kept, of each class of each image: at most all of them, or as many as are asked for."""
    batch, num_boxes, classes = call[0].shape[0], call[0].shape[1], call[1].shape[1]
    try:
        most = min(call.number(2, 0), num_boxes)
    except ValueError:
        most = num_boxes
    return [(batch * classes * max(most, 1), 3)]


def _all_places(call: OnnxCall) -> list[Shape]:
    return [(max(call[0].dim(), 1), call[0].numel())]


def _all_elements(call: OnnxCall) -> list[Shape]:
    x, axis = call[0], call.attribute("axis")
    first = (x.numel(),) if axis is None else tuple(x.shape)
    count = x.numel() if axis is None else x.shape[axis]
    return [first, *[(count,)] * (sum(map(bool, call.node.outputs)) - 1)]


_LARGEST: dict[str, Callable[[OnnxCall], list[Shape]]] = {
    "Compress": _all_elements, "NonMaxSuppression": _boxes, "NonZero": _all_places, "Unique": _all_elements,
}  # fmt: skip


def _inferred(call: OnnxCall) -> dict[str, Shape]:
    node = call.node
    inputs = {name: tensor for name, tensor in zip(node.inputs, call.tensors) if name and tensor is not None}
    types = {
        name: helper.make_tensor_type_proto(
            onnx.TensorProto.FLOAT if tensor.is_floating_point() else onnx.TensorProto.INT64, tuple(tensor.shape)
        )
        for name, tensor in inputs.items()
    }
    known = {
        name: helper.make_tensor(name, onnx.TensorProto.INT64, tuple(tensor.shape), tensor.reshape(-1).tolist())
        for name, tensor in zip(node.inputs, call.known)
        if name and tensor is not None and not tensor.is_meta and not tensor.is_floating_point()
    }
    try:
        schema = onnx.defs.get_schema(node.op_type, call.opset, node.domain)
        made = helper.make_node(node.op_type, node.inputs, node.outputs, **node.attributes)
        found = shape_inference.infer_node_outputs(
            schema, made, types, known, opset_imports=[helper.make_opsetid("", call.opset)]
        )
    except (onnx.defs.SchemaError, shape_inference.InferenceError, RuntimeError, TypeError, ValueError):
        return {}
    shapes = {name: value.tensor_type.shape.dim for name, value in found.items() if value.tensor_type.HasField("shape")}
    return {
        name: tuple(dim.dim_value for dim in dims)
        for name, dims in shapes.items()
        if prod(dim.dim_value for dim in dims) > 0
    }
