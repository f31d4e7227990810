"""Which node wrote the data of a tensor while a module is traced.

Data are known by their storage, so a view finds its base, and a write in place reaches every view of it. A tensor whose
storage no node wrote does not depend on the inputs: it is a constant.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from torch import Tensor, channels_last

from predictors.graph import GraphBuilder, shared_operator
from predictors.indexing import Scatter
from predictors.movement import Steps, is_reshape, shape_after, strided_steps
from predictors.operators import Constant, Copy, Operator, Shape, View
from predictors.traced_constants import storage_key as _key

_Geometry = tuple[Shape, tuple[int, ...], int, bool]


@dataclass(frozen=True)
class _Written:
    """What a node wrote. `tensor` keeps the storage, and so its key, from being given to another one."""

    tensor: Tensor
    node: int
    reads: dict[_Geometry, int] = field(default_factory=dict)


@dataclass
class _Constant:
    """A constant, the parameters that it is computed from (storage: elements), and its node once one reads it."""

    whole: Tensor
    parameters: dict[int, int] = field(default_factory=dict)
    written: _Written | None = None


class Values:
    """The graph so far, and for every live tensor the node that wrote it."""

    def __init__(self) -> None:
        self.builder = GraphBuilder()
        self.path = ""
        """Path of the module that runs now, the name of the nodes to come."""
        self._live: dict[int, _Written] = {}
        self._later: dict[int, tuple[Tensor, Callable[[], int]]] = {}
        """Tensors whose nodes are made when somebody reads them."""
        self._constants: dict[int, _Constant] = {}
        self._counted: set[int] = set()
        """Storages of the parameters that some `Constant` node counts already."""

    def enter(self, path: str) -> str:
        """The nodes to come are those of another module; returns the path of the one before."""
        before, self.path = self.path, path
        return before

    def is_live(self, tensor: Tensor) -> bool:
        """Its data depend on the network's inputs."""
        key = _key(tensor)
        return key in self._live or key in self._later

    def is_known(self, tensor: Tensor) -> bool:
        """It was defined, in whichever way."""
        return self.is_live(tensor) or _key(tensor) in self._constants

    def is_learned(self, tensor: Tensor) -> bool:
        """It depends on the network's inputs or on its parameters: it is not known beforehand."""
        constant = self._constants.get(_key(tensor))
        return self.is_live(tensor) or (constant is not None and bool(constant.parameters))

    def define(self, tensor: Tensor, node: int) -> None:
        """`node` wrote the whole of a new tensor."""
        self._live[_key(tensor)] = _Written(tensor, node)

    def define_later(self, tensor: Tensor, make: Callable[[], int]) -> None:
        """`tensor` is a new one that `make` gives a node as soon as it is read, or refuses to."""
        self._later[_key(tensor)] = tensor, make

    def define_constant(self, tensor: Tensor, computed_from: Iterable[Tensor] = (), learned: bool = False) -> None:
        """`tensor` is a parameter (`learned`), a buffer, or computed from other constants alone."""
        key = _key(tensor)
        constant = self._constants.setdefault(key, _Constant(tensor))
        if learned:
            constant.parameters[key] = tensor.numel()
        for each in computed_from:
            if source := self._constants.get(_key(each)):
                constant.parameters.update(source.parameters)

    def overwrite(self, tensor: Tensor, node: int) -> None:
        """`node` made anew, in place, what `tensor` and all its views show."""
        if self.is_part(tensor):
            self.scatter(tensor, [node], tensor.numel())
        else:
            self.define(tensor, node)

    def scatter(self, tensor: Tensor, sources: list[int], num_written: int) -> None:
        """Some elements of `tensor`, in whatever it is a part of, were written in place from the nodes `sources`."""
        written = self._written(tensor)
        shapes = tuple(self.builder.shape(source) for source in sources)
        operator = shared_operator(
            Scatter, shape=self.builder.shape(written.node), sources=shapes, num_written=num_written
        )
        self.define(written.tensor, self.add(operator, written.node, *sources))

    def is_part(self, tensor: Tensor) -> bool:
        """It shows less than what was written as a whole."""
        written = self._live.get(_key(tensor))
        whole = written.tensor.numel() if written else tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor.numel() != whole or _has_repeats(tensor)

    def read(self, tensor: Tensor, dense: bool = False) -> int:
        """The node that an operator reads to get `tensor`, which may be a new `Constant`, `View` or `Copy`.

        Args:
            dense: the operator's kernels want rows without gaps, or NCHW channels in either of torch's memory formats.
        """
        written = self._written(tensor)
        whole, shape = written.tensor, _shape(tensor)
        in_place = not _has_repeats(tensor) and (not dense or is_dense(tensor))
        same = shape == _shape(whole) and tensor.stride() == whole.stride()
        if same and in_place:
            return written.node
        geometry = (shape, tensor.stride(), int(tensor.storage_offset()), in_place)
        if geometry not in written.reads:
            written.reads[geometry] = self._view(tensor) if in_place else self.copy(tensor, shape)
        return written.reads[geometry]

    def read_broadcast(self, tensor: Tensor) -> int:
        """As `read`, for an operator that broadcasts by itself: of repeated elements only one."""
        for axis, stride in enumerate(tensor.stride()):
            if stride == 0:
                tensor = tensor.narrow(axis, 0, 1)
        return self.read(tensor)

    def copy(self, tensor: Tensor, to: Shape) -> int:
        """A new node that writes the elements of `tensor` densely, in the shape `to`."""
        written = self._written(tensor)
        shape = _shape(written.tensor)
        if _has_repeats(tensor):
            method = "expand"
        elif prod(to) < prod(shape):
            method = "slice"
        else:
            method = "copy" if is_dense(tensor) else "transpose"
        steps = _steps(written.tensor, tensor)
        if steps == () or (steps is not None and shape_after(shape, steps) != to):
            steps = (*steps, ("reshape", to))
        return self.add(shared_operator(Copy, shape=shape, to=to, method=method, steps=steps or ()), written.node)

    def add(self, operator: Operator, *inputs: int) -> int:
        return self.builder.add(operator, *inputs, name=self.path)

    def _view(self, tensor: Tensor) -> int:
        """A new node for data that are read where they lie; a copy of unknown steps if their view cannot be told."""
        written, to = self._written(tensor), _shape(tensor)
        shape, steps = _shape(written.tensor), _steps(written.tensor, tensor)
        if steps is None:
            return self.copy(tensor, to)
        steps = () if is_reshape(steps) else steps
        return self.add(shared_operator(View, shape=shape, to=to, steps=steps), written.node)

    def _written(self, tensor: Tensor) -> _Written:
        key = _key(tensor)
        if key in self._later:
            whole, make = self._later[key]
            self.define(whole, make())
            del self._later[key]
        if key in self._live:
            return self._live[key]
        self.define_constant(tensor)
        constant = self._constants[key]
        if constant.written is None:
            learned = sum(size for source, size in constant.parameters.items() if source not in self._counted)
            self._counted |= constant.parameters.keys()
            operator = shared_operator(Constant, shape=_shape(constant.whole), learned_params=learned)
            constant.written = _Written(constant.whole, self.add(operator))
        return constant.written


def is_dense(tensor: Tensor) -> bool:
    """Without gaps, in the order of its axes or, for NCHW, with the channels last."""
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=channels_last))


def share_storage(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """The tensor is a view of one of the others, or the same."""
    return _key(tensor) in {_key(each) for each in others}


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


def _steps(whole: Tensor, tensor: Tensor) -> Steps | None:
    """How `tensor`, a view of the memory of `whole`, comes from it."""
    offset = int(tensor.storage_offset() - whole.storage_offset())
    if offset < 0 or whole.element_size() != tensor.element_size():
        return None
    return _strided_steps(_shape(whole), whole.stride(), _shape(tensor), tensor.stride(), offset)


_strided_steps = lru_cache(maxsize=1 << 14)(strided_steps)


def _has_repeats(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape))
