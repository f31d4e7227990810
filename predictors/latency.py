"""The latency predictor: measured kernels where there are any, else the roofline times an efficiency.

Every kernel says where its time comes from: 'measured' (its table entry), 'interpolated' (efficiency learned from the
measured kernels of its kind), 'roofline' (the efficiency of its class in the device file, or what kernels reach on
other devices) or 'unknown' (an operator without a formula that the caller kept: a guess), and carries a standard
deviation. None is skipped. Each kernel is predicted in its own dtype: `predictors.precision` gives them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import log
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictors.class_terms import efficiency_names
from predictors.cost import Cost, kernel_cost
from predictors.device import Device
from predictors.efficiency import LearnedEfficiency, learn_efficiency
from predictors.fitted_rates import FittedRates
from predictors.fusion import Kernel, KernelNode, Runtime, fuse, load_runtime, names_that_follow, only_reader
from predictors.graph import Graph
from predictors.log_estimate import combine, latency_of
from predictors.lookup_table import LookupTable
from predictors.operators import Unknown
from predictors.predict_many import (
    ArchSpace,
    BlockTables,
    PositionTable,
    Predictions,
    block_tables,
    position_tables,
)
from predictors.roofline import Bound, Roofline, roofline
from predictors.sections import Section
from predictors.unmeasured import UNKNOWN_OPERATOR_STD, say
from predictors.whole_network import KernelEstimate, Part, Provenance, Sums, energy_j, part_of, whole_network

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

PROVENANCES: tuple[Provenance, ...] = ("measured", "interpolated", "roofline", "unknown")

TABLE_DRIFT = 0.05
"""Relative deviation that all times of one table share: a profile is as a whole a few per cent fast or slow.

Repeated profiles of one machine missed whole networks by 3 to 9 % (docs/decisions.md, 2026-11-24).
"""

_MAX_KERNELS = 1 << 16
_MAX_PARTS = 1 << 14
_MAX_SPACES = 4
"""How much a predictor remembers; the oldest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPrediction:
    """One row of a prediction: a kernel of the network, in its place, with what it takes there.

    Attributes:
        name: path of the module that the kernel's anchor came from.
        nodes: of the graph, that the kernel runs; the anchor first.
    """

    kernel: Kernel
    name: str
    nodes: tuple[int, ...]
    cost: Cost
    latency_s: float
    std_s: float
    provenance: Provenance
    bound: Bound

    @property
    def dtype(self) -> str:
        """Of what the kernel reads, and of its weights."""
        return self.kernel.dtype

    @property
    def write_dtype(self) -> str:
        """Of what the kernel writes."""
        return self.kernel.written_dtype


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network costs on a device.

    Attributes:
        dtype: of the kernels whose nodes say none.
        latency_s, std_s: the whole network in seconds, and the standard deviation.
        overhead_s: the part of `latency_s` that belongs to no kernel.
        macs, num_params: of the network as written (device-independent, as fvcore counts).
        cost: of all kernels together, as executed.
        peak_memory_bytes: weights and live activations.
    """

    device: Device
    dtype: str
    latency_s: float
    std_s: float
    overhead_s: float
    macs: int
    num_params: int
    cost: Cost
    peak_memory_bytes: int
    parts: tuple[Part, ...] = field(repr=False)
    graph: Graph = field(repr=False)

    @property
    def num_kernels(self) -> int:
        """Kernels that the runtime launches."""
        return sum(len(part.estimates) for part in self.parts)

    @property
    def traffic_bytes(self) -> int:
        """Bytes that all kernels move, after fusion and padding."""
        return self.cost.traffic_bytes

    @property
    def arithmetic_intensity(self) -> float:
        """Executed flops over moved bytes of the whole network, FLOP per byte."""
        return self.cost.arithmetic_intensity

    @property
    def energy_j(self) -> float:
        """Joules: energy per MAC * macs + energy per byte * traffic, from whichever the device file gives.

        Raises:
            ValueError: it gives neither.
        """
        joules: float = energy_j(self.device, self.cost.macs, self.cost.traffic_bytes)
        return joules

    @cached_property
    def estimates(self) -> tuple[KernelEstimate, ...]:
        """What each kernel costs by itself, in execution order."""
        return tuple(estimate for part in self.parts for estimate in part.estimates)

    @cached_property
    def kernel_nodes(self) -> tuple[KernelNode, ...]:
        """The kernels in execution order, with the graph's nodes that each runs."""
        if len(self.parts) == 1:
            return self.parts[0].kernel_nodes
        found = []
        shift = 0
        for part in self.parts:
            for node in part.kernel_nodes:
                nodes, inputs = (tuple([index + shift for index in each]) for each in (node.nodes, node.inputs))
                found.append(KernelNode(node.kernel, nodes, inputs))
            shift += part.num_nodes - 1
        return tuple(found)

    @cached_property
    def kernels(self) -> tuple[KernelPrediction, ...]:
        """One row for each kernel, in execution order. Their seconds and `overhead_s` add up to `latency_s`."""
        factor = self._in_network
        return tuple(
            KernelPrediction(
                kernel=node.kernel,
                name=self.graph.nodes[node.nodes[0]].name,
                nodes=node.nodes,
                cost=estimate.cost,
                latency_s=factor * estimate.latency_s,
                std_s=factor * estimate.std_s,
                provenance=estimate.provenance,
                bound=estimate.bound,
            )
            for node, estimate in zip(self.kernel_nodes, self.estimates)
        )

    @cached_property
    def unknown_kernels(self) -> tuple[KernelPrediction, ...]:
        """Kernels of operators without a formula: their times are guesses, and so is as much of `latency_s`."""
        return tuple(row for row in self.kernels if row.provenance == "unknown")

    @cached_property
    def time_by_provenance(self) -> Mapping[Provenance, float]:
        """Seconds of the kernels' time by where it comes from; the overhead is not among them."""
        seconds: dict[Provenance, float] = dict.fromkeys(PROVENANCES, 0.0)
        for estimate in self.estimates:
            seconds[estimate.provenance] += self._in_network * estimate.latency_s
        return seconds

    @property
    def coverage(self) -> float:
        """Share of the kernels' time that is measured, from 0 to 1."""
        total = sum(self.time_by_provenance.values())
        return self.time_by_provenance["measured"] / total if total else 0.0

    @property
    def _in_network(self) -> float:
        return self.device.in_network.value if self.device.in_network else 1.0


class LatencyPredictor:
    """Predicts what a network costs on one device. Holds the device's tables and what was learned from them.

    >>> from predictors import GraphBuilder, load_device
    >>> builder = GraphBuilder()
    >>> x = builder.conv2d(builder.input((1, 64, 56, 56)), 64, kernel=3)
    >>> prediction = LatencyPredictor(load_device("v100")).predict(builder.graph(x))
    >>> [(row.kernel.kind, row.provenance, row.bound) for row in prediction.kernels]
    [('conv2d', 'roofline', 'compute')]

    Args:
        device: from `load_device`.
        tables: measured kernels; None takes the tables that the device file names. Each serves the kernels of its
            dtype.
        dtype: of the deployed network, where its nodes say none; None takes the device's usual one.
        runtime: whose fusion rules apply, and whose numbers where the device file has several; None takes the one that
            it names.

    Raises:
        ValueError: no peak for the dtype, a table of another device or runtime, or tables none of which has the dtype.
    """

    def __init__(
        self,
        device: Device,
        tables: Sequence[LookupTable] | None = None,
        *,
        dtype: str | None = None,
        runtime: Runtime | str | None = None,
    ) -> None:
        self.dtype = dtype or device.dtype
        self.runtime = runtime if isinstance(runtime, Runtime) else load_runtime(runtime or device.runtime)
        self.device = device = device.in_runtime(self.runtime.name)
        if device.fusion is not None and not isinstance(runtime, Runtime):
            self.runtime = replace(self.runtime, rules=device.fusion)
        device.peak_flops(self.dtype)
        if tables is None:
            tables = [LookupTable.read(path) for path in device.tables]
        elif tables and all(table.header.dtype != self.dtype for table in tables):
            _check_table(tables[0], device, self.runtime, self.dtype)
        for table in tables:
            _check_table(table, device, self.runtime, table.header.dtype)
        self._tables = tuple(tables)
        self._measured = {kernel: entry for table in tables for kernel, entry in table.entries.items()}
        self._learned: dict[str, LearnedEfficiency] = {}
        self._estimates: dict[Kernel, KernelEstimate] = {}
        self._parts: dict[Section, Part] = {}
        self._block_tables: dict[int, tuple[ArchSpace, BlockTables | None]] = {}

    @property
    def tables(self) -> tuple[LookupTable, ...]:
        """Measured kernels in the predictor's own dtype."""
        return self._tables_in(self.dtype)

    def predict(self, graph: Graph) -> Prediction:
        """Latency, traffic, intensity and memory of a network.

        latency = in_network * sum of kernels + the device's overhead per network and per kernel. Its variance: measured
        and interpolated kernels err each by themselves, and by `TABLE_DRIFT` together; kernels that share one class
        efficiency err together. Where the device gives `network_spread`, all kernels err each by themselves, and
        networks by that.

        Sections that the graph was joined of are remembered: a network of known ones is a sum over them.
        """
        parts = self._known_parts(graph) or (self._part(graph),)
        sums = Sums._make(map(sum, zip(*[part.sums for part in parts])))
        shared: dict[str, float] = {}
        for part in parts:
            for group, std_s in part.shared_std_s:
                shared[group] = shared.get(group, 0.0) + std_s
        shared_s2 = sum([std_s * std_s for std_s in shared.values()])
        whole = whole_network(self.device, sums.latency_s, sums.num_kernels, sums.variance_s2, shared_s2, sums.host_s)
        return Prediction(
            device=self.device,
            dtype=self.dtype,
            latency_s=whole.latency_s,
            std_s=whole.std_s,
            overhead_s=whole.overhead_s,
            macs=sums.macs,
            num_params=sums.num_params,
            cost=Cost(
                macs=sums.executed_macs,
                read_bytes=sums.read_bytes,
                weight_bytes=sums.weight_bytes,
                write_bytes=sums.write_bytes,
            ),
            peak_memory_bytes=max([part.peak_activation_bytes for part in parts]) + sums.weight_bytes,
            parts=parts,
            graph=graph,
        )

    def predict_many(self, space: ArchSpace, archs: Sequence[Mapping[str, int]] | NDArray[Any]) -> Predictions:
        """What `predict(space.graph(arch))` says of each arch, as arrays; a million archs take about a second or less.

        The costs of all blocks of the space are put into tables at the first call (seconds for a large space) and
        remembered for the last few spaces. A space without `positions`, or one whose blocks the runtime fuses into
        each other, is predicted arch by arch: the same numbers, slower.

        Args:
            space: not to be changed afterwards.
            archs: of the space, N; or the integers of shape (N, len(space.choices)) that `space.encode` makes of them.

        Raises:
            ValueError: an arch, or an index, that the space does not have.
        """
        tables = self._tables_of(space)
        if tables is None:
            archs = space.decode(archs) if isinstance(archs, np.ndarray) else archs
            return _stacked([self.predict(space.graph(arch)) for arch in archs], self.device)
        return tables.predict(self.device, archs if isinstance(archs, np.ndarray) else space.encode(archs))

    def position_tables(self, space: ArchSpace) -> tuple[PositionTable, ...] | None:
        """What can stand at each position of a space's networks and what it costs; None where costs do not add up."""
        return position_tables(space, lambda section: self._parts.get(section) or self._section_part(section))

    def estimate(self, kernel: Kernel) -> KernelEstimate:
        """One kernel by itself; remembered, so that the next network that has it pays nothing."""
        estimate = self._estimates.get(kernel)
        if estimate is None:
            estimate = self._estimate(kernel)
            _remember(self._estimates, kernel, estimate, _MAX_KERNELS)
        return estimate

    def _known_parts(self, graph: Graph) -> tuple[Part, ...]:
        """Of the sections of a graph; none where it has none, or where a kernel would reach over a border."""
        known = self._parts
        parts = tuple([known.get(section) or self._section_part(section) for section in graph.sections])
        for before, after in pairwise(parts):
            if not before.follow.isdisjoint(after.begin):
                return ()
        return parts

    def _section_part(self, section: Section) -> Part:
        part = self._part(section.graph)
        reader = only_reader(section.graph, 0, self.runtime)
        part = replace(
            part,
            follow=names_that_follow(part.kernel_nodes[-1].kernel, self.runtime),
            begin=frozenset((reader.variant, reader.kind)) if reader else frozenset(),
        )
        _remember(self._parts, section, part, _MAX_PARTS)
        return part

    def _part(self, graph: Graph) -> Part:
        kernel_nodes = fuse(graph, self.runtime, self.dtype)
        known = self._estimates
        estimates = tuple([known.get(node.kernel) or self.estimate(node.kernel) for node in kernel_nodes])
        return part_of(graph, kernel_nodes, estimates, self.dtype, self.device.channel_alignment)

    def _tables_of(self, space: ArchSpace) -> BlockTables | None:
        known = self._block_tables
        for each, tables in known.values():
            if each is space or each == space:
                return tables
        positions = self.position_tables(space)
        tables = None if positions is None else block_tables(space, positions)
        _remember(known, id(space), (space, tables), _MAX_SPACES)
        return tables

    def _estimate(self, kernel: Kernel) -> KernelEstimate:
        device = self.device
        if kernel.dtype not in device.peaks:
            raise ValueError(
                f"device {device.name!r} has no peak for dtype {kernel.dtype!r} of {kernel.text}; it lists "
                f"{list(device.dtypes)}"
            )
        cost = kernel_cost(kernel, device.channel_alignment)
        roof = roofline(cost, device, kernel.dtype)
        is_unknown = isinstance(kernel.anchor, Unknown)
        learned = None if is_unknown else self._learned_in(kernel.dtype).at(kernel, cost)
        fitted = device.fitted.get(kernel.dtype)
        if fitted is not None and learned is None and kernel not in self._measured:
            return self._fitted_estimate(fitted, kernel, cost, roof)
        provenance: Provenance
        group = "table"
        if measured := self._measured.get(kernel):
            found = combine(log(roof.latency_s / measured.latency_p50_s), measured.spread, learned)
            provenance = "measured"
        elif learned is not None:
            found, provenance = learned, "interpolated"
        else:
            said = say(kernel, cost, self.device)
            found, group = said.estimate, said.group
            provenance = "unknown" if is_unknown else "roofline"
        latency_s, std_s = latency_of(roof.latency_s, found)
        of_class_s = latency_s * found.shared_std
        own_s2 = std_s**2 - of_class_s**2
        if self.device.network_spread and (provenance in ("measured", "interpolated") or self._is_fitted(kernel)):
            variance_s2, shared_std_s, group = own_s2, 0.0, ""
        elif learned is None and provenance != "measured":
            variance_s2, shared_std_s = 0.0, std_s
        else:
            variance_s2, shared_std_s = own_s2, TABLE_DRIFT * latency_s
        return KernelEstimate(
            cost=cost,
            latency_s=latency_s,
            std_s=std_s,
            provenance=provenance,
            bound=roof.bound,
            variance_s2=variance_s2,
            shared_std_s=shared_std_s,
            group=group,
            host_s=self._host_s(kernel),
            shared=((f"corrected {kernel.kind}", of_class_s),) if of_class_s else (),
        )

    def _host_s(self, kernel: Kernel) -> float:
        device = self.device
        known = next((device.host_launch_of[name] for name in kernel.classes if name in device.host_launch_of), None)
        quantity = known or device.host_launch
        return quantity.value if quantity else 0.0

    def _fitted_estimate(self, fitted: FittedRates, kernel: Kernel, cost: Cost, roof: Roofline) -> KernelEstimate:
        """By rates that were fitted to whole networks."""
        is_unknown = isinstance(kernel.anchor, Unknown)
        latency_s, own_std_s, shared_std_s = time = fitted.time(kernel, cost)
        own_std_s = max(own_std_s, UNKNOWN_OPERATOR_STD * latency_s) if is_unknown else own_std_s
        return KernelEstimate(
            cost=cost,
            latency_s=latency_s,
            std_s=max(time.std_s, own_std_s),
            provenance="unknown" if is_unknown else "roofline",
            bound=roof.bound,
            variance_s2=own_std_s**2,
            host_s=self._host_s(kernel),
            shared=shared_std_s,
        )

    def _is_fitted(self, kernel: Kernel) -> bool:
        """Whether the class efficiency that serves the kernel was fitted to kernels of its class, if any was."""
        classes = self.device.efficiency.get(kernel.dtype, {})
        known = next((classes[name] for name in efficiency_names(kernel) if name in classes), None)
        return (known is not None and known.num_kernels > 0) or not any(each.num_kernels for each in classes.values())

    def _tables_in(self, dtype: str) -> tuple[LookupTable, ...]:
        return tuple(table for table in self._tables if table.header.dtype == dtype)

    def _learned_in(self, dtype: str) -> LearnedEfficiency:
        learned = self._learned.get(dtype)
        if learned is None:
            learned = self._learned[dtype] = learn_efficiency(self._tables_in(dtype), self.device)
        return learned


def _stacked(predictions: Sequence[Prediction], device: Device) -> Predictions:
    def floats(name: str) -> NDArray[np.float64]:
        return np.array([getattr(each, name) for each in predictions], dtype=np.float64)

    def counts(name: str) -> NDArray[np.int64]:
        return np.array([getattr(each, name) for each in predictions], dtype=np.int64)

    return Predictions(
        latency_s=floats("latency_s"),
        std_s=floats("std_s"),
        macs=counts("macs"),
        num_params=counts("num_params"),
        traffic_bytes=counts("traffic_bytes"),
        arithmetic_intensity=floats("arithmetic_intensity"),
        peak_memory_bytes=counts("peak_memory_bytes"),
        num_kernels=counts("num_kernels"),
        energy_j=floats("energy_j") if device.has_energy else None,
    )


def _remember(known: dict[_Key, _Value], key: _Key, value: _Value, limit: int) -> None:
    while len(known) >= limit:
        del known[next(iter(known))]
    known[key] = value


def _check_table(table: LookupTable, device: Device, runtime: Runtime, dtype: str) -> None:
    asked = {"device": device.name, "runtime": runtime.name, "dtype": dtype}
    for name, value in asked.items():
        if (found := getattr(table.header, name)) != value:
            raise ValueError(f"the table was measured with {name} {found!r}; the predictor is for {value!r}")
