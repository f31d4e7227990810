"""One ONNX node about to be run as torch operators: the tensors that it reads, and numbers that say what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from predictors.onnx.file import has_values, why_without_values
from predictors.onnx.nodes import OnnxNode

Result = Tensor | Sequence[Tensor]

MOST_NUMBERS = 1 << 20
"""Elements of the largest constant that is computed; what is larger is no glue, and only its shape is known."""

_TORCH_NAMES = {
    "float": "float32", "double": "float64", "uint16": "int32", "uint32": "int64", "uint64": "int64", "int4": "int8",
    "uint4": "uint8", "int2": "int8", "uint2": "uint8", "float4e2m1": "float8_e5m2", "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz", "float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip
"""Of types that torch calls otherwise, or that it hardly computes with: what is large enough for their numbers."""


@dataclass(frozen=True, slots=True)
class OnnxCall:
    """A node with the tensors that it reads; None for inputs that are left out.

    Attributes:
        opset: of the node's domain.
        known: the same tensors with their numbers, where those are known.
        initializers: by name, for numbers that a tensor does not carry.
        folder: of the model.
    """

    node: OnnxNode
    tensors: tuple[Tensor | None, ...]
    opset: int
    known: tuple[Tensor | None, ...] = ()
    initializers: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    folder: Path = Path()

    def __getitem__(self, place: int) -> Tensor:
        """An input that has to be there."""
        tensor = self.tensors[place] if place < len(self.tensors) else None
        if tensor is None:
            raise ValueError(f"its input {place} is missing")
        return tensor

    def has(self, place: int) -> bool:
        return place < len(self.tensors) and self.tensors[place] is not None

    def get(self, place: int) -> Tensor | None:
        return self.tensors[place] if place < len(self.tensors) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def numbers(self, place: int, attribute: str = "") -> list[Any] | None:
        """Numbers of an input, or of the attribute that older opsets have instead; None if there is neither.

        Raises:
            ValueError: the numbers depend on the network's inputs, or are not in the file.
        """
        if not self.has(place):
            found = self.attribute(attribute)
            return None if found is None else list(found)
        known = self.known[place] if place < len(self.known) else None
        tensor, name = self[place] if known is None else known, self.node.inputs[place]
        if tensor.is_meta:
            proto = self.initializers.get(name)
            if proto is None:
                raise ValueError(f"it needs the numbers of {name!r}, which depend on the network's inputs or weights")
            if not has_values(proto):
                raise ValueError(f"it needs the numbers of {name!r}, which {why_without_values(proto, self.folder)}")
            return [value.item() for value in numpy_helper.to_array(proto).reshape(-1)]
        found = tensor.reshape(-1).tolist()
        return list(found)

    def number(self, place: int, default: Any = None, attribute: str = "") -> Any:
        """The only number of an input, or the attribute that older opsets have instead."""
        if not self.has(place):
            return self.attribute(attribute, default)
        found = self.numbers(place) or [default]
        return found[0]

    def axes(self, place: int, rank: int, attribute: str = "axes") -> list[int] | None:
        found = self.numbers(place, attribute)
        return None if found is None else [axis % rank for axis in found]

    def with_tensors(self, *tensors: Tensor | None) -> "OnnxCall":
        """The same node on other tensors, whose numbers nobody asks for."""
        return OnnxCall(self.node, tensors, self.opset, (), self.initializers, self.folder)


def as_tensor(proto: onnx.TensorProto) -> Tensor:
    """A small tensor with its numbers; a large one, or one whose numbers are elsewhere, without data."""
    if any(size < 0 for size in proto.dims):
        raise ValueError(f"the tensor {proto.name!r} has shape {tuple(proto.dims)}; sizes are not negative")
    dtype = torch_dtype(proto.data_type)
    if not has_values(proto):
        return torch.empty(tuple(proto.dims), dtype=dtype, device="meta")
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the tensor {proto.name!r} of shape {tuple(proto.dims)}: {error}") from None
    if dtype.is_floating_point:
        return torch.from_numpy(array.astype("float32" if dtype.itemsize < 8 else "float64"))
    kind = {torch.bool: "bool", torch.uint8: "uint8", torch.int8: "int8", torch.int32: "int32"}.get(dtype, "int64")
    return torch.from_numpy(array.astype(kind)).to(dtype)


def torch_dtype(number: int) -> torch.dtype:
    """Of an ONNX type.

    Raises:
        ValueError: torch has none, as of texts.
    """
    try:
        name = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        raise ValueError(f"a tensor is of type {number}, which is none of ONNX's") from None
    found = getattr(torch, _TORCH_NAMES.get(name, name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"a tensor is of type {name!r}; there are formulas for numbers alone")
    return found
