"""Seconds of kernels from rates that were fitted to whole networks: by class, by extent of the output, by sort of work.

seconds = launch + rates . amounts + max(longer launch, longer rates . amounts)

amounts are a kernel's flops, bytes of activations, bytes of weights, and groups if it is a depthwise convolution. The
first two terms add up; of the last two the longer counts, as where a host runs ahead of its device. Rates are known at
a few extents (pixels of the output) and linear in the logarithm of the extent between them. None is negative, so more
work never takes less time.

Shapes: X extents, R sorts of work, F factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import hypot, log
from typing import NamedTuple

from predictors.cost import Cost
from predictors.fusion import Kernel
from predictors.operators import Conv2d

WORK = ("flop", "byte", "weight_byte", "group")
"""Sorts of work: flops, bytes read and written, bytes of weights, groups of a depthwise convolution."""

ANY_RATES = "any"
"""Class of the rates that serve kernels whose own class has none."""

NO_EXTENT = 1.0
"""Pixels of an output that is no picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRates:
    """A launch in seconds, and by sort of work seconds per unit at each extent, (X,); absent sorts take no time."""

    launch_s: float = 0.0
    per_unit_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRates:
    """Of kernels of one class.

    Attributes:
        added: terms that add up.
        longer: terms of which the longer counts.
        own_X: relative deviation of a kernel by itself at each extent; where no measured network had such kernels
            (`num_kernels` is 0), that of all kernels of the class together.
        shared_FX: relative deviations by factor, with their signs, that all classes share.
        num_kernels: how many kernels the measured networks had.
    """

    added: WorkRates
    longer: WorkRates = WorkRates()
    own_X: tuple[float, ...]
    shared_FX: tuple[tuple[float, ...], ...] = ()
    num_kernels: int = 0


class FittedTime(NamedTuple):
    """Seconds of a kernel, what it errs by itself, and what it errs with others by group, whose signs matter."""

    latency_s: float
    own_std_s: float
    shared_std_s: tuple[tuple[str, float], ...]

    @property
    def std_s(self) -> float:
        return hypot(self.own_std_s, *[std_s for _, std_s in self.shared_std_s])


@dataclass(frozen=True, kw_only=True)
class FittedRates:
    """Rates of all classes in one dtype, `ANY_RATES` among them.

    Attributes:
        extents: pixels, rising.
        source: what they were fitted to.
    """

    extents: tuple[float, ...]
    classes: Mapping[str, ClassRates]
    source: str

    def class_of(self, kernel: Kernel) -> str:
        """The class whose rates serve the kernel."""
        names = (rate_class(kernel), *kernel.classes)
        return next((name for name in names if name in self.classes), ANY_RATES)

    def time(self, kernel: Kernel, cost: Cost) -> FittedTime:
        """Seconds of a kernel; beyond the first and last extent those rates hold."""
        name = self.class_of(kernel)
        rates = self.classes[name]
        index, share = place(log(kernel_extent(kernel)), self._log_extents)
        after = min(index + 1, len(self.extents) - 1)

        def at(values: Sequence[float]) -> float:
            return (1.0 - share) * values[index] + share * values[after]

        amounts = work_amounts(kernel, cost)

        def work_s(each: WorkRates) -> float:
            return sum(
                amount * at(each.per_unit_s[sort]) for sort, amount in zip(WORK, amounts) if sort in each.per_unit_s
            )

        latency_s = rates.added.launch_s + work_s(rates.added) + max(rates.longer.launch_s, work_s(rates.longer))
        shared = tuple((f"fitted {number}", latency_s * at(values)) for number, values in enumerate(rates.shared_FX))
        own_std_s = latency_s * at(rates.own_X)
        if not rates.num_kernels:
            return FittedTime(latency_s, 0.0, (*shared, (f"fitted {kernel.dtype} {name}", own_std_s)))
        return FittedTime(latency_s, own_std_s, shared)

    @cached_property
    def _log_extents(self) -> tuple[float, ...]:
        return tuple(log(each) for each in self.extents)


def rate_class(kernel: Kernel) -> str:
    """Convolutions by window whatever their stride, all others by variant."""
    classes = kernel.classes
    return classes[1] if isinstance(kernel.anchor, Conv2d) else classes[0]


def kernel_extent(kernel: Kernel) -> float:
    """Pixels of the kernel's output."""
    shape = kernel.anchor.output_shape
    return float(shape[2] * shape[3]) if len(shape) == 4 else NO_EXTENT


def work_amounts(kernel: Kernel, cost: Cost) -> tuple[float, float, float, float]:
    """What the kernel has to do of each sort of `WORK`."""
    anchor = kernel.anchor
    groups = anchor.groups if isinstance(anchor, Conv2d) and anchor.is_depthwise else 0
    return float(cost.flops), float(cost.read_bytes + cost.write_bytes), float(cost.weight_bytes), float(groups)


def place(at: float, log_extents: Sequence[float]) -> tuple[int, float]:
    """Index of the last known extent below, and how far the way to the next one has been gone, in logarithms.

    >>> place(log(8.0), (log(1.0), log(4.0), log(16.0)))
    (1, 0.5)
    """
    if at >= log_extents[-1]:
        return len(log_extents) - 1, 0.0
    if at <= log_extents[0]:
        return 0, 0.0
    index = sum(each <= at for each in log_extents) - 1
    share = (at - log_extents[index]) / (log_extents[index + 1] - log_extents[index])
    return index, share
