"""The operator vocabulary: what one node of a network computes, reads, holds and writes.

Every operator is a frozen record that carries its own input shapes, so that it is hashable, stands alone and has one
formula for each cost. Counts are in elements; bytes appear only in `predictors.cost`, where the dtype is known.

Conventions: shapes are tuples of positive ints with the batch first; four-dimensional tensors are NCHW.
`macs` follows fvcore's counting (https://github.com/facebookresearch/fvcore, `fvcore/nn/jit_handles.py`), which calls
them flops: 1 for each multiply-accumulate of convolutions and products, and its fixed factors for normalization,
average pooling and resizing. Operators that only move or combine data have 0 macs: memory decides their time.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from math import prod
from typing import Any, ClassVar, TypeVar

from typing_extensions import Self, dataclass_transform

from predictors.movement import Steps, shape_after

Shape = tuple[int, ...]
Pair = tuple[int, int]
_OperatorClass = TypeVar("_OperatorClass", bound=type)

OPERATORS: dict[str, type["Operator"]] = {}

_POOLINGS = ("avg", "max")
_RESIZE_READS = {"nearest": 1, "bilinear": 4, "bicubic": 16}


class UnknownOperatorError(ValueError):
    """An operator that has no formula here; it is never counted as zero and never replaced by a similar one."""


def nearest_names(name: str, known: Iterable[str]) -> str:
    """The known names that look like it, for an error's end; empty where none does.

    >>> nearest_names("con2d", ["conv2d", "linear"])
    "; nearest are ['conv2d']"
    """
    found = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f"; nearest are {found}" if found else ""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def operator(cls: _OperatorClass) -> _OperatorClass:
    """Make a class a frozen, hashable operator and register it under its `kind`, the name that tables use."""
    made: Any = dataclass(frozen=True, kw_only=True)(cls)
    made.__hash__ = Operator.__hash__
    if made.kind in OPERATORS:
        raise ValueError(f"operator kind {made.kind!r} is taken by {OPERATORS[made.kind].__qualname__}")
    OPERATORS[made.kind] = made
    return cls


class Operator(ABC):
    """Abstract. Subclasses are final, made by `@operator`, and say their shapes and formulas."""

    kind: ClassVar[str]
    moves_data: ClassVar[bool] = True
    """False for nodes that launch nothing: the network's inputs, constants, and changes of shape without a copy."""

    def __hash__(self) -> int:
        cached = self.__dict__.get("_hash")
        if cached is None:
            cached = hash((self.kind, *(getattr(self, item.name) for item in fields(self))))  # type: ignore[arg-type]
            object.__setattr__(self, "_hash", cached)
        return cached

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: hashes of strings differ from process to process, so the cached one stays behind."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @property
    @abstractmethod
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs, in the order of the node's inputs."""

    @property
    @abstractmethod
    def output_shape(self) -> Shape: ...

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return 0

    @cached_property
    def num_params(self) -> int:
        """Learned parameters, as `sum(p.numel() for p in module.parameters())` counts them."""
        return 0

    @cached_property
    def read_elements(self) -> int:
        """Elements of all inputs, each counted once."""
        return sum(prod(shape) for shape in self.input_shapes)

    @property
    def held_elements(self) -> int:
        """Elements of weights that one run reads."""
        return self.num_params

    @cached_property
    def write_elements(self) -> int:
        """Elements of the output."""
        return prod(self.output_shape)

    @property
    def variant(self) -> str:
        """The finer name that fusion rules may use instead of `kind`, e.g. 'relu' for an activation."""
        return self.kind

    def padded(self, alignment: int) -> Self:
        """The operator that a device really runs when channels come in multiples of `alignment`."""
        return self

    @property
    def text(self) -> str:
        """Canonical text, e.g. `linear(shape=(1, 64), out_features=10)`; fields at their default are left out."""
        parts = (
            f"{item.name}={value!r}"
            for item in fields(self)  # type: ignore[arg-type]
            if item.init and ((value := getattr(self, item.name)) != item.default or item.default is MISSING)
        )
        return f"{self.kind}({', '.join(parts)})"


def operator_from_text(text: str) -> Operator:
    """Read what `Operator.text` wrote. The text is parsed as literals only, never evaluated.

    >>> operator_from_text("linear(shape=(1, 64), out_features=10)").macs
    640

    Raises:
        UnknownOperatorError: the kind is not in the vocabulary.
        ValueError: the text is no operator, or its fields are wrong.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("not of the form kind(field=value, ...)")
        kind = call.func.id
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text[:120]!r} is no operator: {error}") from None
    if kind not in OPERATORS:
        kinds = sorted(name for name in OPERATORS if not name.startswith("_"))
        raise UnknownOperatorError(f"unknown operator {kind!r}{nearest_names(kind, kinds)}; the vocabulary has {kinds}")
    try:
        return OPERATORS[kind](**arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{text[:120]!r}: {error}") from None


# ---------------------------------------------------------------------------------------------- helpers of formulas


def round_up(number: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `number`.

    >>> round_up(23, 4)
    24
    """
    return -(-number // multiple) * multiple


def padded_shape(shape: Shape, alignment: int) -> Shape:
    """Shape with its channels rounded up: axis 1 of NCHW and NCDHW tensors, the last axis of all others."""
    if not shape:
        return shape
    axis = 1 if len(shape) >= 4 else len(shape) - 1
    return *shape[:axis], round_up(shape[axis], alignment), *shape[axis + 1 :]


def broadcast_shape(*shapes: Shape) -> Shape:
    """Shape of an elementwise result under numpy's broadcasting rule.

    >>> broadcast_shape((1, 8, 4, 4), (1, 8, 1, 1))
    (1, 8, 4, 4)
    """
    result = []
    for axis in range(-max(map(len, shapes)), 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def window_output(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """Length of one spatial axis after a sliding window, as torch.nn.Conv2d and torch.nn.MaxPool2d document it."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    length = -(-span // stride) + 1
    return length - 1 if (length - 1) * stride >= size + padding else length


def check_positive(asked: object, **numbers: int | Pair) -> None:
    for name, number in numbers.items():
        values = number if isinstance(number, tuple) else (number,)
        if not all(isinstance(value, int) and value > 0 for value in values):
            raise ValueError(f"{asked}: {name} must be positive integers, found {number!r}")


def check_method(asked: object, method: str, allowed: Collection[str]) -> None:
    if method not in allowed:
        raise ValueError(f"{asked}: unknown method {method!r}; there are {sorted(allowed)}")


def _check_steps(asked: object, shape: Shape, to: Shape, steps: Steps) -> None:
    if not isinstance(steps, tuple) or not all(isinstance(step, tuple) and step for step in steps):
        raise ValueError(f"{asked}: steps are tuples of a name and its arguments, found {steps!r}")
    if steps and (found := shape_after(shape, steps)) != to:
        raise ValueError(f"{asked}: the steps {steps} make {found} of {shape}, not {to}")


def check_shape(asked: object, shape: Shape, num_axes: int | None = None) -> None:
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"{asked}: a shape is a tuple of positive integers, found {shape!r}")
    if num_axes is not None and len(shape) != num_axes:
        raise ValueError(f"{asked}: expected {num_axes} axes, found shape {shape}")


# ------------------------------------------------------------------------------------------------- nodes without work


@operator
class Input(Operator):
    """A tensor that the caller gives to the network."""

    kind = "input"
    moves_data = False
    shape: Shape

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ()

    @cached_property
    def output_shape(self) -> Shape:
        return self.shape

    def padded(self, alignment: int) -> "Input":
        return replace(self, shape=padded_shape(self.shape, alignment))


@operator
class Constant(Operator):
    """A tensor that does not depend on the network's inputs: a class token, a position embedding, a mask, an index.

    It launches nothing and holds nothing itself: whoever reads it pays for the traffic, as for any other input.
    """

    kind = "constant"
    moves_data = False
    shape: Shape
    learned_params: int = 0
    """Learned parameters that it is, or was computed from."""

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ()

    @cached_property
    def output_shape(self) -> Shape:
        return self.shape

    @cached_property
    def num_params(self) -> int:
        return self.learned_params

    @property
    def held_elements(self) -> int:
        return 0


@operator
class View(Operator):
    """The same data, or a part of them, under another shape; it moves nothing: reshape, squeeze, a strided slice."""

    kind = "view"
    moves_data = False
    shape: Shape
    to: Shape
    steps: Steps = ()
    """How `to` comes from `shape`, see `predictors.movement`; empty for another shape alone."""

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        check_shape(self.kind, self.to)
        if prod(self.to) > prod(self.shape):
            raise ValueError(f"view: {self.to} holds more elements than {self.shape}")
        _check_steps(self.kind, self.shape, self.to, self.steps)

    @property
    def all_steps(self) -> Steps | None:
        """The steps with that of a plain reshape; None where the record does not say which part is kept."""
        if self.steps:
            return self.steps
        return (("reshape", self.to),) if prod(self.to) == prod(self.shape) else None

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return self.to


# ---------------------------------------------------------------------------------------------- multiply-accumulates


@operator
class Conv2d(Operator):
    """Convolution of (batch, in_channels, height, width), as torch.nn.Conv2d.

    macs = batch * out_channels * out_height * out_width * (in_channels / groups) * kernel_height * kernel_width.
    """

    kind = "conv2d"
    batch: int = 1
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    height_out: int = field(init=False, repr=False, compare=False, default=0)
    width_out: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        check_positive(
            self.kind,
            batch=self.batch, in_channels=self.in_channels, out_channels=self.out_channels, height=self.height,
            width=self.width, kernel=self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"conv2d: groups {self.groups} do not divide {self.in_channels} -> {self.out_channels}")
        size = tuple(
            window_output(*each)
            for each in zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation)
        )
        if min(size) < 1:
            raise ValueError(f"conv2d: kernel {self.kernel} does not fit into {self.height}x{self.width}")
        object.__setattr__(self, "height_out", size[0])
        object.__setattr__(self, "width_out", size[1])

    @property
    def is_depthwise(self) -> bool:
        """Each output channel reads one input channel."""
        return self.groups > 1 and self.groups == self.in_channels

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.in_channels, self.height, self.width),)

    @cached_property
    def output_shape(self) -> Shape:
        return (self.batch, self.out_channels, self.height_out, self.width_out)

    @cached_property
    def macs(self) -> int:
        return self.write_elements * (self.in_channels // self.groups) * prod(self.kernel)

    @cached_property
    def num_params(self) -> int:
        weights = self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)
        return weights + (self.out_channels if self.bias else 0)

    @property
    def variant(self) -> str:
        return "depthwise_conv2d" if self.is_depthwise else "conv2d"

    def padded(self, alignment: int) -> "Conv2d":
        """Channels rounded up; of a grouped convolution those of each group, of a depthwise one their number."""
        if self.is_depthwise:
            multiplier = self.out_channels // self.in_channels
            channels = round_up(self.in_channels, alignment)
            if channels == self.in_channels:
                return self
            return replace(self, in_channels=channels, out_channels=channels * multiplier, groups=channels)
        in_channels = self.groups * round_up(self.in_channels // self.groups, alignment)
        out_channels = self.groups * round_up(self.out_channels // self.groups, alignment)
        if (in_channels, out_channels) == (self.in_channels, self.out_channels):
            return self
        return replace(self, in_channels=in_channels, out_channels=out_channels)


@operator
class ConvTranspose2d(Operator):
    """Transposed convolution (deconvolution), as torch.nn.ConvTranspose2d.

    macs = batch * in_channels * height * width * (out_channels / groups) * kernel_height * kernel_width:
    every input element is spread over a kernel-sized window.
    """

    kind = "conv_transpose2d"
    batch: int = 1
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False

    def __post_init__(self) -> None:
        check_positive(
            self.kind,
            batch=self.batch, in_channels=self.in_channels, out_channels=self.out_channels, height=self.height,
            width=self.width, kernel=self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"conv_transpose2d: groups {self.groups} do not divide {self.in_channels} -> {self.out_channels}"
            )
        if min(self.output_shape) < 1:
            raise ValueError(f"conv_transpose2d: padding {self.padding} leaves nothing of {self.height}x{self.width}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.in_channels, self.height, self.width),)

    @cached_property
    def output_shape(self) -> Shape:
        spatial = (
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            for size, kernel, stride, padding, dilation, extra in zip(
                (self.height, self.width), self.kernel, self.stride, self.padding, self.dilation, self.output_padding
            )
        )
        return (self.batch, self.out_channels, *spatial)

    @cached_property
    def macs(self) -> int:
        return self.read_elements * (self.out_channels // self.groups) * prod(self.kernel)

    @cached_property
    def num_params(self) -> int:
        weights = self.in_channels * (self.out_channels // self.groups) * prod(self.kernel)
        return weights + (self.out_channels if self.bias else 0)

    def padded(self, alignment: int) -> "ConvTranspose2d":
        return replace(
            self,
            in_channels=self.groups * round_up(self.in_channels // self.groups, alignment),
            out_channels=self.groups * round_up(self.out_channels // self.groups, alignment),
        )


@operator
class Linear(Operator):
    """Fully connected layer over the last axis of `shape`. macs = elements(shape) * out_features."""

    kind = "linear"
    shape: Shape
    out_features: int
    bias: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        check_positive(self.kind, out_features=self.out_features)

    @property
    def in_features(self) -> int:
        return self.shape[-1]

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape[:-1], self.out_features

    @cached_property
    def macs(self) -> int:
        return self.read_elements * self.out_features

    @cached_property
    def num_params(self) -> int:
        return (self.in_features + self.bias) * self.out_features

    def padded(self, alignment: int) -> "Linear":
        shape = (*self.shape[:-1], round_up(self.in_features, alignment))
        return replace(self, shape=shape, out_features=round_up(self.out_features, alignment))


@operator
class MatMul(Operator):
    """Product of computed tensors (..., rows, inner) x (..., inner, columns). macs = batch * rows * inner * columns.

    `left` and `right` are the shapes as the product sees them; leading axes broadcast.
    """

    kind = "matmul"
    left: Shape
    right: Shape

    def __post_init__(self) -> None:
        check_shape(self.kind, self.left)
        check_shape(self.kind, self.right)
        if len(self.left) < 2 or len(self.right) < 2 or self.left[-1] != self.right[-2]:
            raise ValueError(f"matmul: inner sizes of {self.left} and {self.right} do not match")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.left, self.right)

    @cached_property
    def output_shape(self) -> Shape:
        return *broadcast_shape(self.left[:-2], self.right[:-2]), self.left[-2], self.right[-1]

    @cached_property
    def macs(self) -> int:
        return self.write_elements * self.left[-1]


@operator
class Attention(Operator):
    """Scaled dot-product attention, kept whole: (batch, heads, length, head_dim) queries, keys and values.

    Several heads of queries may share one of keys and values (`key_heads`), as in grouped-query attention.
    macs = batch * heads * query_length * key_length * (head_dim + value_dim); the scores are not written to memory.
    fvcore and torch.utils.flop_counter omit it on CPU; it is counted here.
    """

    kind = "attention"
    batch: int = 1
    heads: int
    query_length: int
    key_length: int
    head_dim: int
    value_dim: int
    mask: Shape | None = None
    """Shape of what is added to the scores, e.g. a relative position bias; None without."""
    key_heads: int = 0
    """Heads of keys and values; 0 for as many as of queries."""

    def __post_init__(self) -> None:
        numbers = {item.name: getattr(self, item.name) for item in fields(self)}
        if (mask := numbers.pop("mask")) is not None:
            check_shape(self.kind, mask)
        key_heads = numbers.pop("key_heads")
        check_positive(self.kind, **numbers, **({"key_heads": key_heads} if key_heads else {}))
        if key_heads and self.heads % key_heads:
            raise ValueError(f"attention: {key_heads} heads of keys do not divide {self.heads} of queries")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        batch_heads = (self.batch, self.key_heads or self.heads)
        return (
            (self.batch, self.heads, self.query_length, self.head_dim),
            (*batch_heads, self.key_length, self.head_dim),
            (*batch_heads, self.key_length, self.value_dim),
            *(() if self.mask is None else (self.mask,)),
        )

    @cached_property
    def output_shape(self) -> Shape:
        return (self.batch, self.heads, self.query_length, self.value_dim)

    @cached_property
    def macs(self) -> int:
        scores = self.batch * self.heads * self.query_length * self.key_length
        return scores * (self.head_dim + self.value_dim)

    def padded(self, alignment: int) -> "Attention":
        return replace(self, head_dim=round_up(self.head_dim, alignment), value_dim=round_up(self.value_dim, alignment))


# --------------------------------------------------------------------------------------- operators on single tensors


@operator
class _Unary(Operator):
    """Shared shape handling of operators whose output has the shape of their only input."""

    kind = "_unary"
    shape: Shape

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return self.shape

    def padded(self, alignment: int) -> Self:
        shape = padded_shape(self.shape, alignment)
        return self if shape == self.shape else replace(self, shape=shape)


@operator
class Activation(_Unary):
    """A function of each element: `function` is its name in torch.nn.functional, e.g. 'relu', 'hardswish'."""

    kind = "activation"
    function: str

    @property
    def variant(self) -> str:
        return self.function


@operator
class Softmax(_Unary):
    """Softmax over one axis, by default the last."""

    kind = "softmax"
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis != -1 and not 0 <= self.axis < len(self.shape) - 1:
            raise ValueError(f"softmax: axis {self.axis} is neither -1 nor in 0..{len(self.shape) - 2}")


@operator
class Normalization(_Unary):
    """Normalization at inference: `method` is 'batch_norm', 'layer_norm', 'group_norm', 'rms_norm', ...

    macs per element as fvcore counts: batch_norm 1, or 2 when affine (scale and shift with stored statistics);
    the others 4, or 5 when affine (mean, variance and the division are computed).
    """

    kind = "normalization"
    method: str
    affine_params: int = 0
    """Learned parameters, e.g. twice the channels for an affine batch_norm."""

    @cached_property
    def macs(self) -> int:
        per_element = 1 if self.method == "batch_norm" else 4
        return self.read_elements * (per_element + (self.affine_params > 0))

    @cached_property
    def num_params(self) -> int:
        return self.affine_params

    @property
    def held_elements(self) -> int:
        """A batch_norm that is not folded reads scale and shift for each channel, whatever was learned."""
        return 2 * self.shape[1] if self.method == "batch_norm" else self.affine_params

    @property
    def variant(self) -> str:
        return self.method


@operator
class Pool2d(Operator):
    """Pooling of (batch, channels, height, width) by a sliding window; `method` is 'max' or 'avg'."""

    kind = "pool2d"
    shape: Shape
    method: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=4)
        check_method(self.kind, self.method, _POOLINGS)
        check_positive(self.kind, kernel=self.kernel, stride=self.stride, dilation=self.dilation)
        if min(self.output_shape) < 1:
            raise ValueError(f"pool2d: kernel {self.kernel} does not fit into {self.shape}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        windows = zip(self.shape[2:], self.kernel, self.stride, self.padding, self.dilation)
        return *self.shape[:2], *(window_output(*window, ceil_mode=self.ceil_mode) for window in windows)

    @property
    def variant(self) -> str:
        return f"{self.method}_pool2d"

    def padded(self, alignment: int) -> "Pool2d":
        return replace(self, shape=padded_shape(self.shape, alignment))


@operator
class AdaptivePool2d(Operator):
    """Pooling to a given size; `size=(1, 1)` is global pooling. macs of 'avg' = input elements, as fvcore counts."""

    kind = "adaptive_pool2d"
    shape: Shape
    method: str = "avg"
    size: Pair = (1, 1)

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=4)
        check_method(self.kind, self.method, _POOLINGS)
        check_positive(self.kind, size=self.size)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape[:2], *self.size

    @cached_property
    def macs(self) -> int:
        return self.read_elements if self.method == "avg" else 0

    @property
    def variant(self) -> str:
        return f"adaptive_{self.method}_pool2d"

    def padded(self, alignment: int) -> "AdaptivePool2d":
        return replace(self, shape=padded_shape(self.shape, alignment))


@operator
class Reduce(Operator):
    """Reduction over some axes: `method` is 'mean', 'sum', 'max', ... fvcore counts none; macs = 0."""

    kind = "reduce"
    shape: Shape
    method: str
    axes: tuple[int, ...]
    keepdim: bool = False

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        if not all(0 <= axis < len(self.shape) for axis in self.axes):
            raise ValueError(f"reduce: axes {self.axes} are not all in 0..{len(self.shape) - 1}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        if self.keepdim:
            return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))
        return tuple(size for axis, size in enumerate(self.shape) if axis not in self.axes)

    def padded(self, alignment: int) -> "Reduce":
        return replace(self, shape=padded_shape(self.shape, alignment))


@operator
class Resize(Operator):
    """Interpolation of (batch, channels, height, width) to `size`. macs per output element as fvcore counts:

    nearest 1, bilinear 4 reads weighted and summed; bicubic 16 by the same rule, though fvcore does not know it.
    """

    kind = "resize"
    shape: Shape
    size: Pair
    method: str = "nearest"

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape, num_axes=4)
        check_method(self.kind, self.method, _RESIZE_READS)
        check_positive(self.kind, size=self.size)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape[:2], *self.size

    @cached_property
    def macs(self) -> int:
        return self.write_elements * _RESIZE_READS[self.method]

    def padded(self, alignment: int) -> "Resize":
        return replace(self, shape=padded_shape(self.shape, alignment))


@operator
class Copy(Operator):
    """Data written anew in another order or extent: transpose, pad, slice, roll, repeat. It reads what it keeps.

    read = min(input, output) elements: a slice reads only its part, padding reads only what was there.
    """

    kind = "copy"
    shape: Shape
    to: Shape
    method: str
    steps: Steps = ()
    """What is done, see `predictors.movement`; empty where it is not known, as of a gather or a cast."""

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        check_shape(self.kind, self.to)
        _check_steps(self.kind, self.shape, self.to, self.steps)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return self.to

    @cached_property
    def read_elements(self) -> int:
        return min(prod(self.shape), prod(self.to))

    @property
    def variant(self) -> str:
        return self.method

    def padded(self, alignment: int) -> "Copy":
        """Channels rounded up; what was done is known for the true ones only."""
        shape, to = padded_shape(self.shape, alignment), padded_shape(self.to, alignment)
        return self if (shape, to) == (self.shape, self.to) else replace(self, shape=shape, to=to, steps=())


@operator
class Embedding(Operator):
    """Rows of a table picked by an index tensor of `shape`; it reads the picked rows, not the whole table."""

    kind = "embedding"
    shape: Shape
    num_rows: int
    features: int

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        check_positive(self.kind, num_rows=self.num_rows, features=self.features)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape, self.features

    @cached_property
    def num_params(self) -> int:
        return self.num_rows * self.features

    @property
    def held_elements(self) -> int:
        return min(self.num_rows, prod(self.shape)) * self.features


# -------------------------------------------------------------------------------------- operators on several tensors


@operator
class Elementwise(Operator):
    """An operation between tensors, element by element with broadcasting: `function` is 'add', 'mul', ..."""

    kind = "elementwise"
    function: str
    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        for shape in self.shapes:
            check_shape(self.kind, shape)
        broadcast_shape(*self.shapes)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @cached_property
    def output_shape(self) -> Shape:
        return broadcast_shape(*self.shapes)

    @property
    def variant(self) -> str:
        return self.function

    def padded(self, alignment: int) -> "Elementwise":
        """Full-sized channels are rounded up; a broadcast axis of size 1 stays."""
        output = padded_shape(self.output_shape, alignment)
        shapes = tuple(
            tuple(big if size != 1 else 1 for size, big in zip(shape, output[len(output) - len(shape) :]))
            for shape in self.shapes
        )
        return self if shapes == self.shapes else replace(self, shapes=shapes)


@operator
class Concat(Operator):
    """Tensors joined along one axis; everything is read and written again."""

    kind = "concat"
    shapes: tuple[Shape, ...]
    axis: int = 1

    def __post_init__(self) -> None:
        for shape in self.shapes:
            check_shape(self.kind, shape)
        first = self.shapes[0]
        if not 0 <= self.axis < len(first):
            raise ValueError(f"concat: axis {self.axis} is not in 0..{len(first) - 1}")
        rest = {(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in self.shapes}
        if len(rest) > 1 or len({len(shape) for shape in self.shapes}) > 1:
            raise ValueError(f"concat: shapes {self.shapes} differ outside axis {self.axis}")

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @cached_property
    def output_shape(self) -> Shape:
        first = self.shapes[0]
        return *first[: self.axis], sum(shape[self.axis] for shape in self.shapes), *first[self.axis + 1 :]

    def padded(self, alignment: int) -> "Concat":
        return replace(self, shapes=tuple(padded_shape(shape, alignment) for shape in self.shapes))


# ------------------------------------------------------------------------------------------ operators without formula


@operator
class Unknown(Operator):
    """An operator that has no formula here, kept at the caller's wish: its work is not known, its macs count as 0.

    It reads its inputs and writes its output, which is the least that it does. Whoever adds up costs says so.
    """

    kind = "unknown"
    name: str
    """As its framework calls it, e.g. 'aten::_fft_r2c.default'."""
    shapes: tuple[Shape, ...]
    to: Shape

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or any(map(str.isspace, self.name)):
            raise ValueError(f"unknown: an operator's name is a text without spaces, found {self.name!r}")
        for shape in (*self.shapes, self.to):
            check_shape(self.kind, shape)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @cached_property
    def output_shape(self) -> Shape:
        return self.to

    def padded(self, alignment: int) -> "Unknown":
        shapes = tuple(padded_shape(shape, alignment) for shape in self.shapes)
        return replace(self, shapes=shapes, to=padded_shape(self.to, alignment))
