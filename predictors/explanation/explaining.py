"""One network on one device: its prediction, taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from predictors.advice import Advice, advise_with
from predictors.device import Device
from predictors.explanation.memory import MemoryTimeline, memory_timeline
from predictors.explanation.rows import BOUNDS, KernelRow, Total, kernel_rows, totals
from predictors.explanation.stages import sensible_depth, stage_of, stages
from predictors.graph import Graph
from predictors.latency import LatencyPredictor, Prediction
from predictors.precision import with_precision
from predictors.roofline import Bound


@dataclass(frozen=True, kw_only=True)
class Precision:
    """In what a network computes.

    Attributes:
        dtype: None is what the device usually deploys, or what the network's own nodes say.
        exceptions, requantise: as `predictors.precision.with_precision` takes them.

    Raises:
        ValueError: exceptions, or outputs that are not requantised, without a dtype.
    """

    dtype: str | None = None
    exceptions: Mapping[str, str] = field(default_factory=dict)
    requantise: bool = True

    def __post_init__(self) -> None:
        if self.dtype is None and (self.exceptions or not self.requantise):
            what = "exceptions need" if self.exceptions else "outputs that are not requantised need"
            raise ValueError(f"{what} a dtype for the rest of the network, such as int8; none is given")
        if not self.requantise and self.dtype != "int8":
            raise ValueError(f"only outputs of int8 kernels can stay floats (requantise), found dtype {self.dtype!r}")

    def of(self, graph: Graph, device: Device) -> Graph:
        """The network with its dtypes; where all of it is in one, that is the predictor's, and nothing changes.

        What cannot run in int8 runs in float32, or in float16 where the device has no peak for that; where it has
        neither, everything runs in int8.
        """
        if self.dtype is None or (self.dtype != "int8" and not self.exceptions):
            return graph
        float_dtype = None
        if self.dtype == "int8":
            float_dtype = next((each for each in ("float32", "float16") if each in device.peaks), None)
            if float_dtype is None and self.requantise and not self.exceptions:
                return graph
        return with_precision(
            graph, self.dtype, exceptions=self.exceptions, requantise=self.requantise, float_dtype=float_dtype
        )

    @property
    def text(self) -> str:
        """'int8, outputs not requantised, linear in float16'; empty where nothing was asked."""
        parts = [] if self.dtype is None else [self.dtype]
        parts += [] if self.requantise else ["outputs not requantised"]
        return ", ".join([*parts, *(f"{name} in {dtype}" for name, dtype in self.exceptions.items())])


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Where the time of a network goes on a device.

    Attributes:
        runtime: name of the runtime.
        rows: one for each kernel, in the order of execution.
        depth: how many modules of a path name a stage.
        advice: the most saving first; None where nobody asked.
    """

    prediction: Prediction
    runtime: str
    rows: tuple[KernelRow, ...]
    depth: int
    advice: tuple[Advice, ...] | None = None

    @property
    def device(self) -> Device:
        return self.prediction.device

    @property
    def overhead_share(self) -> float:
        """Of the network's seconds, those that belong to no kernel."""
        return self.prediction.overhead_s / self.prediction.latency_s

    @cached_property
    def stages(self) -> tuple[Total, ...]:
        """Sums by the beginning of the module path, in the order of execution."""
        return stages(self.rows, self.depth)

    @cached_property
    def kinds(self) -> tuple[Total, ...]:
        """Sums by kind of kernel, the longest first."""
        return tuple(sorted(totals(self.rows, lambda row: row.kind), key=lambda total: -total.latency_s))

    @cached_property
    def bound_shares(self) -> dict[Bound, float]:
        """Share of the kernels' seconds by what bounds them; sums to 1."""
        seconds = {bound: sum(total.bound_s[bound] for total in self.stages) for bound in BOUNDS}
        whole = sum(seconds.values())
        return {bound: each / whole for bound, each in seconds.items()}

    @cached_property
    def provenance_shares(self) -> dict[str, float]:
        """Share of the kernels' seconds by where they come from; sums to 1."""
        seconds = self.prediction.time_by_provenance
        whole = sum(seconds.values())
        return {provenance: each / whole for provenance, each in seconds.items()}

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """That kernels compute in, the most frequent first."""
        found = [row.dtype.partition(" ")[0] for row in self.rows]
        return tuple(sorted(dict.fromkeys(found), key=lambda dtype: -found.count(dtype)))

    @cached_property
    def memory(self) -> MemoryTimeline:
        return memory_timeline(self.prediction)

    def stage(self, row: KernelRow) -> str:
        return stage_of(row.name, self.depth)


def explain(
    graph: Graph,
    device: Device,
    *,
    precision: Precision | None = None,
    runtime: str | None = None,
    depth: int | None = None,
    advice: bool = False,
) -> Explanation:
    """Where the time of a network goes on a device, kernel by kernel.

    Args:
        precision: None is the device's usual one.
        runtime: None is that of the device file.
        depth: how many modules of a path name a stage; None chooses by the paths (`stages.sensible_depth`).
        advice: whether to try what would save time.

    Raises:
        ValueError: no such runtime, no peak for a dtype, or a network that launches nothing.
    """
    precision = precision or Precision()
    predictor = LatencyPredictor(device, dtype=precision.dtype, runtime=runtime)
    prediction = predictor.predict(precision.of(graph, device))
    rows = kernel_rows(prediction)
    if not rows:
        raise ValueError(f"network {graph.name!r} launches no kernel on {device.name!r}: there is nothing to explain")
    return Explanation(
        prediction=prediction,
        runtime=predictor.runtime.name,
        rows=rows,
        depth=depth or sensible_depth(rows),
        advice=advise_with(predictor, prediction.graph) if advice else None,
    )
