"""The short summary in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.objectives import metric_named
from nas.report.breakdown import (
    accuracy_text,
    constraint_texts,
    failures_text,
    front_predictions,
    latency_text,
    metric_text,
    provenance_shares,
    shares,
)
from nas.report.chosen import choose
from nas.result import Ending, SearchResult

_COSTS = {"traffic_bytes": "traffic", "arithmetic_intensity": "intensity", "macs": "MACs"}
"""Beside the latency."""


def print_summary(result: SearchResult, folder: Path, console: Console | None = None) -> None:
    """Best under the constraints, where the time goes, how much of it is measured, where the files are."""
    console = console or Console()
    chosen = choose(result)
    predictor = result.predictor
    bounds = constraint_texts(result.constraints)
    num_feasible = sum(candidate.feasible for candidate in result.candidates)
    target = f"{predictor.runtime.name}, {predictor.dtype}"
    headline = [f"{len(result.candidates)} candidates for {predictor.device.name} ({target})"]
    if bounds:
        headline.append(f"{num_feasible} within {' and '.join(bounds)}")
    headline.append(f"{len(result.front)} on the front")
    if result.ending is not Ending.FINISHED:
        headline.append(f"ended early: {result.ending.value}")
    console.print(Text(", ".join(headline)), soft_wrap=True)
    if result.failures:
        console.print(Text(failures_text(result)), soft_wrap=True)
    elsewhere = list(dict.fromkeys(name for name in (*result.objectives, *result.constraints) if "." in name))
    table = Table(box=None, pad_edge=False, header_style="bold")
    here = [name for name in _COSTS if not elsewhere or name in result.objectives]  # a line has room for few
    headers = [_COSTS[name] for name in here] + [
        metric_named(name).title.replace(" on ", "\non ") for name in elsewhere
    ]
    for name in ("subnet", result.judgement.name, "latency", *headers):
        table.add_column(name, justify="left" if name == "subnet" else "right", no_wrap=True)
    for subnet in chosen:
        metrics = subnet.candidate.metrics
        table.add_row(
            Text(subnet.title),
            accuracy_text(result, subnet.candidate),
            latency_text(subnet.candidate),
            *(metric_text(metrics, name) for name in (*here, *elsewhere)),
        )
    console.print(table)
    middle = chosen[len(chosen) // 2]
    kernels = middle.prediction.kernels
    lines = {
        f"time ({middle.title})": _shares_text(shares(kernels, lambda kernel: kernel.kernel.kind)[:4]),
        "bound by": _shares_text(shares(kernels, lambda kernel: kernel.bound)),
        "predicted time": _shares_text(list(provenance_shares(front_predictions(result)).items())),
        "report": str(folder / "report.html"),
        "also there": "pareto.csv, candidates.csv, pictures as PNG, subnets/",
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        console.print(Text(f"{name:<{width}}  {text}"), soft_wrap=True)


def _shares_text(parts: list[tuple[str, float]]) -> str:
    return ", ".join(f"{share:.0%} {name}" for name, share in parts)
