"""The latency predictor: measured kernels where there are any, else the roofline times an efficiency.

Every kernel says where its time comes from: 'measured' (its table entry), 'interpolated' (efficiency learned from the
measured kernels of its kind) or 'roofline' (the efficiency of its class in the device file, or what kernels reach on
other devices), and carries a standard deviation. A kernel that nobody knows stops the run; none is skipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log, sqrt
from typing import Literal

from predictors.cost import Cost, kernel_cost, peak_memory_bytes
from predictors.device import ANY_CLASS, ClassEfficiency, Device
from predictors.efficiency import LogEstimate, combine, latency_of, learn_efficiency
from predictors.fusion import Kernel, KernelNode, Runtime, fuse, load_runtime
from predictors.graph import Graph
from predictors.lookup_table import LookupTable
from predictors.roofline import Bound, class_latency_s, roofline

Provenance = Literal["measured", "interpolated", "roofline"]
PROVENANCES: tuple[Provenance, ...] = ("measured", "interpolated", "roofline")

TABLE_DRIFT = 0.05
"""Relative deviation that all times of one table share: a profile is as a whole a few per cent fast or slow.

Repeated profiles of one machine missed whole networks by 3 to 9 % (docs/decisions.md, 2026-11-24).
"""

UNKNOWN_EFFICIENCY = ClassEfficiency(
    compute=0.57,
    read=0.26,
    write=0.79,
    fixed_s=1.3e-5,
    spread=0.7,
    source="shares of all classes together on Adreno 660 (TVM) and V100 (TensorRT, batch 1), 2026-11-24",
)
"""For a kernel whose class has no known efficiency; a launch cost that the device gives takes the place of `fixed_s`.

`spread` is the root mean square of ln(measured / predicted) on devices and runtimes left out: V100 from Adreno 660
alone 0.88, Adreno 660 from V100 alone 0.40, five GPUs under PyTorch 0.60. The bare roofline errs by 2.0, one factor on
it by 1.4. All of these are GPUs: for other devices it is a guess. Figures: docs/decisions.md, 2026-11-24.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEstimate:
    """What one kernel costs on the device: seconds, their standard deviation, where they come from, what bounds it."""

    cost: Cost
    latency_s: float
    std_s: float
    provenance: Provenance
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPrediction:
    """One row of a prediction: a kernel of the network, in its place, with its estimate."""

    kernel: Kernel
    name: str
    cost: Cost
    latency_s: float
    std_s: float
    provenance: Provenance
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network costs on a device.

    Attributes:
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
    estimates: tuple[KernelEstimate, ...] = field(repr=False)
    kernel_nodes: tuple[KernelNode, ...] = field(repr=False)
    graph: Graph = field(repr=False)

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
        device = self.device
        if not device.has_energy:
            raise ValueError(f"device {device.name!r} gives no energy per MAC or byte, so energy_j is unknown")
        per_mac = device.energy_per_mac.value if device.energy_per_mac else 0.0
        per_byte = device.energy_per_byte.value if device.energy_per_byte else 0.0
        return per_mac * self.cost.macs + per_byte * self.cost.traffic_bytes

    @cached_property
    def kernels(self) -> tuple[KernelPrediction, ...]:
        """One row for each kernel, in execution order."""
        return tuple(
            KernelPrediction(
                kernel=node.kernel,
                name=self.graph.nodes[node.nodes[0]].name,
                cost=estimate.cost,
                latency_s=estimate.latency_s,
                std_s=estimate.std_s,
                provenance=estimate.provenance,
                bound=estimate.bound,
            )
            for node, estimate in zip(self.kernel_nodes, self.estimates)
        )

    @cached_property
    def time_by_provenance(self) -> Mapping[Provenance, float]:
        """Seconds of the kernels' time by where it comes from; the overhead is not among them."""
        seconds: dict[Provenance, float] = dict.fromkeys(PROVENANCES, 0.0)
        for estimate in self.estimates:
            seconds[estimate.provenance] += estimate.latency_s
        return seconds

    @property
    def coverage(self) -> float:
        """Share of the kernels' time that is measured, from 0 to 1."""
        total = sum(self.time_by_provenance.values())
        return self.time_by_provenance["measured"] / total if total else 0.0


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
        tables: measured kernels; None takes the tables that the device file names.
        dtype: of the deployed network; None takes the device's usual one.
        runtime: whose fusion rules apply, and whose numbers where the device file has several; None takes the one that
            it names.

    Raises:
        ValueError: no peak for the dtype, or a table of another device, runtime or dtype.
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
            tables = [table for table in map(LookupTable.read, device.tables) if table.header.dtype == self.dtype]
        for table in tables:
            _check_table(table, device, self.runtime, self.dtype)
        self.tables = tuple(tables)
        self._measured = {kernel: entry for table in self.tables for kernel, entry in table.entries.items()}
        self._learned = learn_efficiency(self.tables, device)
        self._estimates: dict[Kernel, KernelEstimate] = {}

    def predict(self, graph: Graph) -> Prediction:
        """Latency, traffic, intensity and memory of a network.

        latency = sum of kernels + the device's overhead per network and per kernel. Its variance: measured and
        interpolated kernels err each by themselves, and by `TABLE_DRIFT` together; kernels that share one class
        efficiency err together.
        """
        kernel_nodes = fuse(graph, self.runtime, self.dtype)
        known = self._estimates
        estimates = tuple([known.get(node.kernel) or self.estimate(node.kernel) for node in kernel_nodes])
        latency_s = independent = from_tables_s = 0.0
        macs = read = held = written = 0
        together: dict[str, float] = {}
        for node, estimate in zip(kernel_nodes, estimates):
            latency_s += estimate.latency_s
            cost = estimate.cost
            macs += cost.macs
            read += cost.read_bytes
            held += cost.weight_bytes
            written += cost.write_bytes
            if estimate.provenance == "roofline":
                kind = node.kernel.kind
                together[kind] = together.get(kind, 0.0) + estimate.std_s
            else:
                independent += estimate.std_s**2
                from_tables_s += estimate.latency_s
        shared = (TABLE_DRIFT * from_tables_s) ** 2 + sum(std**2 for std in together.values())
        overhead_s = _overhead_s(self.device, len(kernel_nodes))
        return Prediction(
            device=self.device,
            dtype=self.dtype,
            latency_s=latency_s + overhead_s,
            std_s=sqrt(independent + shared),
            overhead_s=overhead_s,
            macs=graph.macs,
            num_params=graph.num_params,
            cost=Cost(macs=macs, read_bytes=read, weight_bytes=held, write_bytes=written),
            peak_memory_bytes=peak_memory_bytes(graph, kernel_nodes, self.dtype, self.device.channel_alignment),
            estimates=estimates,
            kernel_nodes=kernel_nodes,
            graph=graph,
        )

    def estimate(self, kernel: Kernel) -> KernelEstimate:
        """One kernel by itself; remembered, so that the next network that has it pays nothing."""
        estimate = self._estimates.get(kernel)
        if estimate is None:
            estimate = self._estimates[kernel] = self._estimate(kernel)
        return estimate

    def _estimate(self, kernel: Kernel) -> KernelEstimate:
        cost = kernel_cost(kernel, self.device.channel_alignment)
        roof = roofline(cost, self.device, kernel.dtype)
        learned = self._learned.at(kernel, cost)
        provenance: Provenance
        if measured := self._measured.get(kernel):
            found = combine(log(roof.latency_s / measured.latency_p50_s), measured.spread, learned)
            provenance = "measured"
        elif learned is not None:
            found, provenance = learned, "interpolated"
        else:
            found, provenance = self._class_efficiency(kernel, cost, roof.latency_s), "roofline"
        latency_s, std_s = latency_of(roof.latency_s, found)
        return KernelEstimate(cost=cost, latency_s=latency_s, std_s=std_s, provenance=provenance, bound=roof.bound)

    def _class_efficiency(self, kernel: Kernel, cost: Cost, roofline_s: float) -> LogEstimate:
        classes = self.device.efficiency.get(kernel.dtype, {})
        known = next((classes[name] for name in (*kernel.classes, ANY_CLASS) if name in classes), None)
        efficiency = known or _unknown_efficiency(self.device)
        class_s = class_latency_s(cost, self.device, efficiency, kernel.dtype)
        return LogEstimate(log(roofline_s / class_s), efficiency.spread)


def _unknown_efficiency(device: Device) -> ClassEfficiency:
    return replace(UNKNOWN_EFFICIENCY, fixed_s=device.launch_s) if device.launch else UNKNOWN_EFFICIENCY


def _overhead_s(device: Device, num_kernels: int) -> float:
    per_network = device.network_overhead.value if device.network_overhead else 0.0
    per_kernel = device.kernel_overhead.value if device.kernel_overhead else 0.0
    return per_network + num_kernels * per_kernel


def _check_table(table: LookupTable, device: Device, runtime: Runtime, dtype: str) -> None:
    asked = {"device": device.name, "runtime": runtime.name, "dtype": dtype}
    for name, value in asked.items():
        if (found := getattr(table.header, name)) != value:
            raise ValueError(f"the table was measured with {name} {found!r}; the predictor is for {value!r}")
