"""Inputs of a network as a person writes them: `1,3,224,224`, `ids=1,128:int64`."""

from collections.abc import Sequence
from dataclasses import dataclass

from predictors.operators import Shape

DTYPES = (
    "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInput:
    """One input: its name, empty where its place says which it is; its shape; its dtype, empty where none was said."""

    shape: Shape
    name: str = ""
    dtype: str = ""

    @property
    def text(self) -> str:
        """As it was written."""
        sizes = ",".join(map(str, self.shape))
        return f"{self.name + '=' if self.name else ''}{sizes}{':' + self.dtype if self.dtype else ''}"


def parse_input(text: str) -> NetworkInput:
    """Read `[NAME=]SIZE,SIZE,...[:DTYPE]`.

    >>> parse_input("ids=1,128:int64")
    NetworkInput(shape=(1, 128), name='ids', dtype='int64')

    Raises:
        ValueError: it is no such text, or an unknown dtype.
    """
    name, has_name, rest = text.rpartition("=")
    sizes, has_dtype, dtype = rest.partition(":")
    if has_dtype and dtype not in DTYPES:
        raise ValueError(f"input {text!r} has dtype {dtype!r}; known are {list(DTYPES)}")
    parts = sizes.split(",")
    if (has_name and not name) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"an input is a shape such as 1,3,224,224 or ids=1,128:int64, found {text!r}")
    return NetworkInput(shape=tuple(map(int, parts)), name=name, dtype=dtype)


def check_named(inputs: Sequence[NetworkInput]) -> bool:
    """Whether the inputs have names.

    Raises:
        ValueError: only some of them have, or two have the same.
    """
    names = [each.name for each in inputs]
    if any(names) and not all(names):
        raise ValueError(f"either all inputs have names or none has; found {[each.text for each in inputs]}")
    if any(names) and len(set(names)) < len(names):
        raise ValueError(f"each input has a name of its own; found {names}")
    return any(names)


def named_at(text: str) -> tuple[str, int | None]:
    """What stands before an @, and the resolution behind it; None without one.

    >>> named_at("resnet18@160")
    ('resnet18', 160)

    Raises:
        ValueError: no resolution stands behind the @.
    """
    name, has, resolution = text.partition("@")
    if has and not (resolution.isdigit() and int(resolution) > 0):
        raise ValueError(f"network {text!r}: behind @ stands a resolution in pixels, found {resolution!r}")
    return name, int(resolution) if has else None
