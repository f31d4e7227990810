"""What a network costs, in two lines of a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.device import Device, load_device
from predictors.explanation.explaining import Explanation, Precision, explain
from predictors.explanation.rows import UnknownUse, unknown_operators
from predictors.explanation.text import bytes_text, count_text, number_text, share_text, time_text
from predictors.graph import Graph
from predictors.named_networks import read_network

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

HW = ("mobile_gpu", "mobile_cpu", "v100")
"""The devices of a summary that names none."""

_COLUMNS = ("device", "dtype", "latency", "traffic", "FLOP/B", "memory", "bound by", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSummary:
    """What the network costs on a device: seconds, bytes, FLOP per byte.

    Attributes:
        dtype: of most of the kernels.
        bound_shares: share of the kernels' time by what bounds them: compute, memory, launch.
        coverage: share of the kernels' time that is measured.
    """

    device: str
    runtime: str
    dtype: str
    latency_s: float
    std_s: float
    num_kernels: int
    traffic_bytes: int
    arithmetic_intensity: float
    peak_memory_bytes: int
    bound_shares: dict[str, float]
    coverage: float

    @property
    def cells(self) -> tuple[str, ...]:
        """As a person reads it."""
        bound = max(self.bound_shares, key=lambda name: self.bound_shares[name])
        return (
            self.device,
            self.dtype,
            time_text(self.latency_s, self.std_s),
            bytes_text(self.traffic_bytes),
            number_text(self.arithmetic_intensity),
            bytes_text(self.peak_memory_bytes),
            bound,
            share_text(self.coverage),
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A network and what it costs on some devices; as text, in a rich console and in a notebook it is a table.

    Attributes:
        macs, num_params: of the network as written, whatever the device.
        graph: what was predicted.
        devices: in the order in which they were named.
        unknown_operators: those without a formula; their work is missing and their times are guesses.
        explanations: of the same devices, kernel by kernel.
    """

    name: str
    macs: int
    num_params: int
    graph: Graph
    devices: tuple[DeviceSummary, ...]
    unknown_operators: tuple[UnknownUse, ...]
    explanations: tuple[Explanation, ...]

    def __getitem__(self, device: str) -> DeviceSummary:
        """The device of that name."""
        for each in self.devices:
            if each.device == device:
                return each
        raise KeyError(f"no device {device!r} in this summary; there are {[each.device for each in self.devices]}")

    @property
    def title(self) -> str:
        """'ResNet: 1.82 G MACs, 11.7 M parameters'."""
        return f"{self.name}: {count_text(self.macs)} MACs, {count_text(self.num_params)} parameters"

    @property
    def warning(self) -> str:
        """What has no formula; empty where everything has."""
        found = "; ".join(each.text for each in self.unknown_operators)
        return f"unknown operators, whose times are guesses: {found}" if found else ""

    def __str__(self) -> str:
        rows = [_COLUMNS, *(each.cells for each in self.devices)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([self.title, *lines, *filter(None, [self.warning])])

    def __repr__(self) -> str:
        return str(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for name in _COLUMNS:
            is_text = name in ("device", "dtype", "bound by")
            table.add_column(name, justify="left" if is_text else "right")
        for each in self.devices:
            table.add_row(*map(Text, each.cells))
        yield Text(self.title, style="bold")
        yield table
        if self.warning:
            yield Text(self.warning, style="bold red")

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in each.cells)}</tr>" for each in self.devices
        )
        warning = f"<p><b>{escape(self.warning)}</b></p>" if self.warning else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<p><b>{escape(self.title)}</b></p>{table}{warning}"


def summary(
    network: Any,
    example_inputs: Any = None,
    hw: str | Device | Sequence[str | Device] = HW,
    *,
    dtype: str | None = None,
    runtime: str | None = None,
    allow_unknown: bool = False,
) -> Summary:
    """MACs, parameters, and on each device seconds, traffic, intensity and peak memory of a network.

    Args:
        network: a torch module with its `example_inputs`; a `Graph`; or a path or a name, in the forms of
            `predictors.named_networks.read_network`.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments; only for a module.
        hw: names or files of devices, or devices.
        dtype: that the network computes in; None is what each device usually deploys.
        runtime: None is that of each device.
        allow_unknown: keep operators without a formula; the summary lists them.

    Raises:
        ValueError: no such network or device, no peak for the dtype, example inputs where they have no place.
        UnknownOperatorError: an operator without a formula that was not allowed.
        Exception: whatever the module's own forward raises.

    >>> from predictors import GraphBuilder
    >>> builder = GraphBuilder()
    >>> found = summary(builder.graph(builder.linear(builder.input((1, 64)), 10)), hw="v100")
    >>> found.macs, found["v100"].traffic_bytes  # 2 bytes each: 64 inputs, 65 * 16 parameters, 16 outputs
    (640, 2240)
    """
    graph = _graph(network, example_inputs, allow_unknown)
    devices = [hw] if isinstance(hw, str | Path | Device) else list(hw)
    if not devices:
        raise ValueError("hw names no device; give at least one, such as 'mobile_gpu'")
    loaded = [each if isinstance(each, Device) else load_device(each) for each in devices]
    explanations = tuple(explain(graph, each, precision=Precision(dtype=dtype), runtime=runtime) for each in loaded)
    return Summary(
        name=graph.name or "network",
        macs=graph.macs,
        num_params=graph.num_params,
        graph=graph,
        devices=tuple(map(_device_summary, explanations)),
        unknown_operators=unknown_operators(graph),
        explanations=explanations,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _graph(network: Any, example_inputs: Any, allow_unknown: bool) -> Graph:
    if isinstance(network, Graph | str | Path):
        if example_inputs is not None:
            what = "a graph has its shapes" if isinstance(network, Graph) else "a network by its name has its inputs"
            raise ValueError(f"{what}; leave example_inputs out")
        return network if isinstance(network, Graph) else read_network(str(network), allow_unknown=allow_unknown)
    from torch import nn
    from torch.export import ExportedProgram

    from predictors.tracing import trace

    if not isinstance(network, nn.Module | ExportedProgram):
        raise ValueError(f"summary takes a torch module, a graph, a path or a name, found {type(network).__name__}")
    if example_inputs is None and isinstance(network, nn.Module):
        raise ValueError(f"summary of the module {type(network).__name__} needs example_inputs, such as a tensor")
    return trace(network, example_inputs, allow_unknown=allow_unknown)


def _device_summary(explanation: Explanation) -> DeviceSummary:
    prediction = explanation.prediction
    return DeviceSummary(
        device=prediction.device.name,
        runtime=explanation.runtime,
        dtype=explanation.dtypes[0],
        latency_s=float(prediction.latency_s),
        std_s=float(prediction.std_s),
        num_kernels=len(explanation.rows),
        traffic_bytes=prediction.traffic_bytes,
        arithmetic_intensity=prediction.arithmetic_intensity,
        peak_memory_bytes=prediction.peak_memory_bytes,
        bound_shares={str(bound): share for bound, share in explanation.bound_shares.items()},
        coverage=prediction.coverage,
    )
