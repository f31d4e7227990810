"""Numbers of what does not depend on the inputs, for the few questions that a trace without data has to answer.

While a module is traced its weights, and what it makes on its inputs' device, have shapes but no data. A network may
yet ask for some: `mask.all()`, `strides.tolist()`, `x[:, keep]`. Then the calls that led to this tensor are done again
with the data of the module's own weights, and only those.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map_only

Call = tuple[OpOverload, tuple[Any, ...], dict[str, Any], Any]


class TracedConstants:
    """The calls on constants so far, and the weights that they began with."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._originals: dict[int, Tensor] = {}

    def add_original(self, without_data: Tensor, original: Tensor) -> None:
        """`without_data` stands for a weight, a buffer, or a tensor that lies elsewhere."""
        self._originals[storage_key(without_data)] = original

    def add_call(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A call of which no argument depends on the inputs."""
        self._calls.append((func, args, kwargs, output))

    def with_data(self, tree: Any) -> Any:
        """The same with data in place of every tensor without; None if one of them has none.

        Weights are read, never written: what a call writes in place is a copy.
        """
        wanted = tensors_of(tree)
        found: dict[int, Tensor] = {}
        try:
            for func, args, kwargs, output in self._calls_of(wanted):
                done = func(*self._filled(args, found), **self._filled(kwargs, found))
                for before, after in zip(tensors_of(output), tensors_of(done)):
                    found[id(before)] = after
            return self._filled(tree, found)
        except _NoDataError:
            return None

    def _calls_of(self, wanted: Iterable[Tensor]) -> list[Call]:
        storages = {storage_key(each) for each in wanted}
        calls = []
        for call in reversed(self._calls):
            if storages.intersection(map(storage_key, tensors_of(call[3]))):
                calls.append(call)
                storages.update(map(storage_key, tensors_of(call[1:3])))
        return calls[::-1]

    def _filled(self, tree: Any, found: dict[int, Tensor]) -> Any:
        def fill(tensor: Tensor) -> Tensor:
            if id(tensor) in found:
                return found[id(tensor)]
            original = self._originals.get(storage_key(tensor), tensor)
            if original.device.type == "meta":
                raise _NoDataError
            if original is not tensor:
                place = tensor.storage_offset() + original.storage_offset()
                original = original.as_strided(tensor.shape, tensor.stride(), place)
            found[id(tensor)] = original.clone()
            return found[id(tensor)]

        return tree_map_only(Tensor, fill, tree)


class _NoDataError(Exception):
    """A constant whose data nobody has, since its weights are on the meta device."""


def storage_key(tensor: Tensor) -> int:
    """The same for all views of one storage, as long as one of them lives."""
    return int(tensor.untyped_storage()._cdata)


def tensors_of(tree: Any) -> list[Tensor]:
    """Of the arguments or results of an operator, which are tensors, numbers, and sequences and mappings of them."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, tuple | list):
        return [found for each in tree if each is not None for found in tensors_of(each)]
    if isinstance(tree, dict):
        return [found for each in tree.values() if each is not None for found in tensors_of(each)]
    return []
