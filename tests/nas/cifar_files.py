"""CIFAR in its published formats, of any number of images: plain records, and pickles as Python 2 wrote them."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np


def binary_records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """For each image, a byte for each of its labels, then its 3,072 bytes."""
    columns = [each.astype(np.uint8)[:, None] for each in labels]
    return np.concatenate([*columns, images.reshape(len(images), -1)], axis=1).tobytes()


def python2_pickle(content: dict[bytes, object]) -> bytes:
    """Protocol 2 as cPickle of Python 2 wrote it: texts are bytes, arrays are rebuilt by numpy.core.multiarray."""
    return b"\x80\x02" + _pickled(content) + b"."


def archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """A .tar.gz that holds the files in a folder."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), compresslevel=1))
    return path


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    """A folder that holds the files."""
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def _pickled(value: object) -> bytes:
    match value:
        case bytes():
            return (
                b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
            )
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_pickled(each) for item in value.items() for each in item) + b"u"
        case np.ndarray():
            assert value.dtype == np.uint8
            dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"(" + b"".join(map(_pickled, value.shape)) + b"t"
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + _pickled(value.tobytes()) + b"tb"
    raise TypeError(type(value))
