"""Everything that there is to say about a network on some devices; what the terminal, the page and the files print."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from predictors.device import Device
from predictors.explanation.across import SideBySide, side_by_side
from predictors.explanation.explaining import Explanation, Precision, explain
from predictors.explanation.rows import KernelRow, UnknownUse, unknown_operators
from predictors.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Report:
    """A network under the name that its user gave it, and its explanations on one device or several.

    Attributes:
        graph: as it was read, before dtypes were given to it.
        by_time: whether rows are shown by time, the longest first, rather than in the order of execution.
        command: that made the report, as its user typed it.
    """

    name: str
    graph: Graph
    explanations: tuple[Explanation, ...]
    by_time: bool = True
    command: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} on {', '.join(each.device.name for each in self.explanations)}"

    @cached_property
    def unknown(self) -> tuple[UnknownUse, ...]:
        return unknown_operators(self.graph)

    @cached_property
    def side_by_side(self) -> SideBySide | None:
        """None where there is only one device."""
        return side_by_side(self.explanations) if len(self.explanations) > 1 else None

    def shown(self, explanation: Explanation, limit: int | None = None) -> list[KernelRow]:
        """The kernels in the order that was asked for; with a limit only those that take longest."""
        longest = sorted(explanation.rows, key=lambda row: -row.latency_s)[:limit]
        return longest if self.by_time else sorted(longest, key=lambda row: row.step)


def make_report(
    name: str,
    graph: Graph,
    devices: Sequence[Device],
    *,
    precision: Precision | None = None,
    runtime: str | None = None,
    depth: int | None = None,
    advice: bool = False,
    by_time: bool = True,
    command: str = "",
) -> Report:
    """Explain a network on some devices, with the same stages on all of them.

    Args:
        name, by_time, command: as `Report` has them.
        precision, runtime, depth, advice: as `explain` takes them; where no depth is given, the first device's counts.

    Raises:
        ValueError: what `explain` refuses.
    """
    found: list[Explanation] = []
    for device in devices:
        found.append(explain(graph, device, precision=precision, runtime=runtime, depth=depth, advice=advice))
        depth = found[0].depth
    return Report(name=name, graph=graph, explanations=tuple(found), by_time=by_time, command=command)
