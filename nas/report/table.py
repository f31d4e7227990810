"""Candidates as CSV: every figure with its unit in the column's name, and every knob."""

import csv
import io
import re
from collections.abc import Sequence

from nas.objectives import metric_named
from nas.report.breakdown import accuracy_percent, scaled
from nas.result import Candidate, SearchResult

_UNIT_SLUGS = {"%": "percent", "FLOP/byte": "flop_per_byte"}


def pareto_csv(result: SearchResult) -> str:
    """The front by increasing latency, one row for each candidate."""
    return _csv(result, [_row(result, result.candidates[index]) for index in result.front])


def candidates_csv(result: SearchResult) -> str:
    """All candidates in the order in which they were asked, with 1 or 0 for feasible and on_front."""
    front = set(result.front)
    return _csv(
        result,
        [
            {**_row(result, candidate), "feasible": int(candidate.feasible), "on_front": int(index in front)}
            for index, candidate in enumerate(result.candidates)
        ],
        ("feasible", "on_front"),
    )


def column(metric: str) -> str:
    """The column of a metric.

    >>> [column(name) for name in ("latency_s", "peak_memory_bytes", "num_params", "arithmetic_intensity")]
    ['latency_ms', 'peak_memory_mb', 'params_m', 'arithmetic_intensity_flop_per_byte']
    >>> column("mobile_cpu.latency_s")
    'mobile_cpu.latency_ms'
    """
    unit = metric_named(metric).unit
    stem = re.sub(r"^num_|_(s|bytes|j)$", "", metric)
    return f"{stem}_{_UNIT_SLUGS.get(unit, unit.lower())}"


def _row(result: SearchResult, candidate: Candidate) -> dict[str, str | int]:
    judged = "accuracy_percent" if result.judgement.is_accuracy else f"{result.judgement.name}_of_100"
    row: dict[str, str | int] = {"number": candidate.number, judged: f"{accuracy_percent(candidate):.4f}"}
    for name in candidate.metrics:
        if name != "error":
            row[column(name)] = f"{scaled(candidate.metrics, name):.6g}"
        if name == "latency_s":
            row["latency_std_ms"] = f"{candidate.latency_std_s / metric_named(name).scale:.6g}"
    return row | candidate.arch


def _csv(result: SearchResult, rows: Sequence[dict[str, str | int]], flags: Sequence[str] = ()) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_row(result, result.candidates[0]), *flags], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
