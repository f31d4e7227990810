"""Reading pickles that hold numpy arrays, dicts, lists, numbers and text, and nothing that could run."""

import pickle
from typing import IO, Any

import numpy as np

_ALLOWED = {
    (module, name): found
    for names, found in (
        ({("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")},
         np.empty(0).__reduce__()[0]),
        ({("numpy", "ndarray")}, np.ndarray),
        ({("numpy", "dtype")}, np.dtype),
    )
    for module, name in names
}  # fmt: skip


def read_plain_pickle(file: IO[bytes], where: str) -> Any:
    """What a pickle holds; text that Python 2 wrote comes as bytes.

    A pickle names functions and classes that reading it calls. Here only those that make numpy arrays are called.

    Args:
        where: the file's name, for errors.

    Raises:
        ValueError: the pickle names anything else (the name is told), or it is damaged.
    """
    try:
        return _PlainUnpickler(file, where).load()
    except _RefusedError:
        raise
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: damaged, or no pickle: {error}") from None


# ------------------------------------------------------------------------------------------------------------ private


class _RefusedError(ValueError):
    """The pickle names something that is not allowed."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], where: str) -> None:
        super().__init__(file, encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            allowed = sorted({f"{module}.{name}" for module, name in _ALLOWED})
            raise _RefusedError(
                f"{self._where}: the pickle asks for '{module}.{name}', which might run code, and was not read; "
                f"allowed are {allowed}"
            )
        return _ALLOWED[module, name]
