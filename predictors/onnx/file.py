"""ONNX files without their weights: what is larger than glue needs is skipped while the file is read, never copied.

A file is walked field by field, as https://protobuf.dev/programming-guides/encoding and onnx.proto3 say, so that two
gigabytes of weights cost neither memory nor time. Of files beside it only small tensors are read, by their offsets.
"""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

KEPT_BYTES = 1 << 16
"""Tensors up to this size keep their values: shapes, axes and scales are among them."""


def read_without_weights(path: Path) -> onnx.ModelProto:
    """The model in a file, large tensors with their shapes and types alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file or no ONNX model, or its weights would lie outside its folder.
    """
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give the path of an ONNX file{_beside(path)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no ONNX file {str(path)!r}{_beside(path.parent)}")
    if not path.stat().st_size:
        raise ValueError(f"{str(path)!r} is no ONNX model: the file is empty")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kept = b"".join(_kept(data, 0, len(data), _MODEL))
        model = onnx.ModelProto()
        model.ParseFromString(kept)
    except (ValueError, DecodeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no ONNX model: {error}") from None
    if not model.opset_import or not (model.graph.node or model.graph.output):
        raise ValueError(f"{str(path)!r} is no ONNX model: it has no graph, or no version of its operators")
    for tensor in _tensors_of(model.graph):
        _check_location(tensor, path)
    return model


def read_small_numbers(model: onnx.ModelProto, folder: Path) -> None:
    """Put numbers that lie in files beside the model into it, where they are small enough to decide shapes.

    What is not there stays away: whoever needs its numbers says so then.

    Raises:
        ValueError: the numbers are said to lie where the file beside the model has ended.
    """
    for tensor in _tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        size = prod(tensor.dims) * _item_bytes(tensor.data_type)
        said = {entry.key: entry.value for entry in tensor.external_data}
        source = folder / said.get("location", "")
        if not 0 < size <= KEPT_BYTES or not source.is_file():
            continue
        try:
            offset = int(said.get("offset", 0))
            if (there := source.stat().st_size) < offset + size or offset < 0:
                raise ValueError(f"there it has bytes {offset} to {offset + size}, but the file has {there}")
            with source.open("rb") as file:
                file.seek(offset)
                tensor.raw_data = file.read(size)
        except (OSError, ValueError) as error:
            raise ValueError(f"the weights {tensor.name!r} are said to lie in {source.name!r}: {error}") from None
        tensor.data_location = onnx.TensorProto.DEFAULT


def why_without_values(tensor: onnx.TensorProto, folder: Path) -> str:
    """The end of a sentence on numbers that are needed."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if tensor.data_location != onnx.TensorProto.EXTERNAL or not location:
        return "are not in the model's file: they were taken out, or are more than decide a shape"
    if not (folder / location).is_file():
        return f"are said to lie in {location!r} beside the model, which is missing"
    return f"lie in {location!r} and are more than decide a shape"


def has_values(tensor: onnx.TensorProto) -> bool:
    """The numbers of a tensor are in the file and were kept."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return 0 in tensor.dims or tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in _NUMBERS)


# ------------------------------------------------------------------------------------------------------------ private

_MOST_LISTED = 4

_NUMBERS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")

_Fields = dict[int, "_Fields | None"]
"""Fields that are walked into, by number; None for those that are left out where they are large."""

_TENSOR: _Fields = dict.fromkeys((4, 5, 6, 7, 9, 10, 11))
_NODE: _Fields = {5: {5: _TENSOR}}
_GRAPH: _Fields = {1: _NODE, 5: _TENSOR, 15: {1: _TENSOR, 2: _TENSOR}}
_NODE[5][6] = _GRAPH  # type: ignore[index]  # branches of If
_MODEL: _Fields = {7: _GRAPH, 25: {7: _NODE}}


def _kept(data: mmap.mmap, begin: int, end: int, fields: _Fields) -> Iterator[bytes]:
    """Bytes of a message without what is left out."""
    while begin < end:
        tag, place = _varint(data, begin, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, after = _varint(data, place, end)
        elif wire == 2:
            size, place = _varint(data, place, end)
            after = place + size
        elif wire in (1, 5):
            after = place + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"byte {begin} begins no field")
        if after > end or not number:
            raise ValueError(f"the field at byte {begin} is cut off")
        if wire != 2 or number not in fields:
            yield data[begin:after]
        elif (inner := fields[number]) is not None:
            message = b"".join(_kept(data, place, after, inner))
            yield _as_varint(tag) + _as_varint(len(message)) + message
        elif after - place <= KEPT_BYTES:
            yield data[begin:after]
        begin = after


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError(f"byte {place} is within a number that does not end")


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _beside(folder: Path) -> str:
    """The end of an error: ONNX files that are there."""
    found = sorted(each.name for each in folder.glob("*.onnx")) if folder.is_dir() else []
    if not found:
        return ""
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    return f"; there are {found[:_MOST_LISTED]}{more} in {str(folder)!r}"


def _item_bytes(data_type: int) -> int:
    """Of types that decide shapes or that are scales; 0 for others."""
    try:
        return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except (KeyError, TypeError, ValueError):
        return 0


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph, of its constants and of its branches."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors_of(attribute.g)
            yield from attribute.tensors
            for each in attribute.graphs:
                yield from _tensors_of(each)


def _check_location(tensor: onnx.TensorProto, path: Path) -> None:
    """Nothing is opened there; a model that points elsewhere is refused all the same, for those who run it."""
    for entry in tensor.external_data:
        if entry.key != "location":
            continue
        named = (PurePosixPath(entry.value), PureWindowsPath(entry.value))
        outside = any(each.is_absolute() or each.drive or ".." in each.parts for each in named)
        if outside or not (path.parent / entry.value).resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(
                f"{str(path)!r}: the weights {tensor.name!r} are said to lie in {entry.value!r}, outside the model's "
                "folder; weights have to lie beside the model or below it"
            )
