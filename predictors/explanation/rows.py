"""The kernels of a prediction as rows of plain data, and what they add up to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from predictors.graph import Graph
from predictors.latency import Prediction
from predictors.operators import Unknown
from predictors.roofline import Bound
from predictors.whole_network import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One kernel of a network on a device.

    Attributes:
        step: its place in the order of execution, from 1.
        name: path of the module that its first operator came from; empty for the network's own.
        kind: variant of its first operator.
        text: all of its operators, the key of the tables.
        dtype: 'float16', or 'int8 -> float32' where it writes another than it computes in.
        latency_s, std_s: seconds inside the network, and their standard deviation.
        share: of the whole network's seconds. All shares and that of the overhead add up to 1.
        macs: as executed, after fusion and padding.
        attained_flops, attained_bandwidth: FLOP/s and byte/s that these seconds mean.
        nodes: of the graph, that it runs.
    """

    step: int
    name: str
    kind: str
    text: str
    dtype: str
    latency_s: float
    std_s: float
    share: float
    bound: Bound
    provenance: Provenance
    macs: int
    traffic_bytes: int
    arithmetic_intensity: float
    nodes: tuple[int, ...]

    @property
    def attained_flops(self) -> float:
        return 2 * self.macs / self.latency_s

    @property
    def attained_bandwidth(self) -> float:
        return self.traffic_bytes / self.latency_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What some kernels of a network add up to; `bound_s` are their seconds by what bounds them."""

    name: str
    num_kernels: int
    latency_s: float
    share: float
    macs: int
    traffic_bytes: int
    bound_s: dict[Bound, float]

    @property
    def bound(self) -> Bound:
        """What bounds most of the time."""
        return max(self.bound_s, key=lambda bound: self.bound_s[bound])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownUse:
    """An operator without a formula, and the modules that run it."""

    name: str
    module_paths: tuple[str, ...]

    @property
    def text(self) -> str:
        """'my::roll (3 times: head.a, head.b)'."""
        count = len(self.module_paths)
        paths = ", ".join(path or "the network itself" for path in dict.fromkeys(self.module_paths))
        return f"{self.name} ({'once' if count == 1 else f'{count} times'}: {paths})"


BOUNDS: tuple[Bound, ...] = ("compute", "memory", "launch")


def kernel_rows(prediction: Prediction) -> tuple[KernelRow, ...]:
    """One row for each kernel, in the order of execution."""
    return tuple(
        KernelRow(
            step=step,
            name=row.name,
            kind=row.kernel.kind,
            text=row.kernel.text,
            dtype=_dtype_text(row.dtype, row.write_dtype),
            latency_s=row.latency_s,
            std_s=row.std_s,
            share=row.latency_s / prediction.latency_s,
            bound=row.bound,
            provenance=row.provenance,
            macs=row.cost.macs,
            traffic_bytes=row.cost.traffic_bytes,
            arithmetic_intensity=row.cost.arithmetic_intensity,
            nodes=row.nodes,
        )
        for step, row in enumerate(prediction.kernels, start=1)
    )


def totals(rows: Iterable[KernelRow], key: Callable[[KernelRow], str]) -> tuple[Total, ...]:
    """Sums by what `key` says of each row, in the order in which its values come up."""
    groups: dict[str, list[KernelRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return tuple(_total(name, members) for name, members in groups.items())


def unknown_operators(graph: Graph) -> tuple[UnknownUse, ...]:
    """The operators of a network that have no formula."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if isinstance(node.operator, Unknown):
            found.setdefault(node.operator.name, []).append(node.name)
    return tuple(UnknownUse(name=name, module_paths=tuple(paths)) for name, paths in found.items())


# ------------------------------------------------------------------------------------------------------------ private


def _dtype_text(computes: str, writes: str) -> str:
    return computes if writes == computes else f"{computes} -> {writes}"


def _total(name: str, rows: Sequence[KernelRow]) -> Total:
    return Total(
        name=name,
        num_kernels=len(rows),
        latency_s=fsum(row.latency_s for row in rows),
        share=fsum(row.share for row in rows),
        macs=sum(row.macs for row in rows),
        traffic_bytes=sum(row.traffic_bytes for row in rows),
        bound_s={bound: fsum(row.latency_s for row in rows if row.bound == bound) for bound in BOUNDS},
    )
