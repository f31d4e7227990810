"""The report as one HTML file."""

import importlib.metadata
import platform
from collections.abc import Mapping
from html import escape
from typing import Any

from predictors.explanation import figures, style
from predictors.explanation.across import Across, SideBySide
from predictors.explanation.document import document, figure_html, section, shares_bar, sources_table, table
from predictors.explanation.explaining import Explanation
from predictors.explanation.report import Report
from predictors.explanation.roofline_points import roofline_picture
from predictors.explanation.rows import KernelRow, Total
from predictors.explanation.terminal import changes_text, peak_text, side_by_side_rows
from predictors.explanation.text import (
    bytes_text,
    count_text,
    gain_text,
    number_text,
    share_text,
    some_text,
    time_text,
)

_SORTED_BY_CLICK = """<script>
for (const head of document.querySelectorAll("table.sortable th")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex, up = head.dataset.up !== "1";
  head.dataset.up = up ? "1" : "0";
  const key = row => { const text = row.cells[at].textContent, number = parseFloat(text);
    return Number.isNaN(number) ? text : number; };
  const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  [...body.rows].sort((a, b) => (up ? -1 : 1) * order(key(a), key(b))).forEach(row => body.append(row));
});
</script>
"""


def page(report: Report) -> str:
    """The whole report as one HTML text that needs no network."""
    explanations = report.explanations
    across = report.side_by_side
    parts = [_unknown(report), _lead(report)]
    if across is not None:
        parts.append(section("Side by side", _side_by_side(report, across)))
    for each in explanations:
        of = f" on {each.device.name}" if across is not None else ""
        parts += [
            *([section(f"What to change{of}", _advice(each))] if each.advice is not None else []),
            section(f"Where the time goes{of}", _time(report, each)),
            section(f"Under the roofline{of}", _roofline(each)),
            section(f"Memory{of}", _memory(each)),
        ]
    parts.append(section("How this was made", _provenance(report)))
    return document(report.title, "".join(parts) + _SORTED_BY_CLICK)


# ----------------------------------------------------------------------------------------------------------- sections


def _unknown(report: Report) -> str:
    if not report.unknown:
        return ""
    items = "".join(f"<li>{escape(each.text)}</li>" for each in report.unknown)
    return (
        '<div class="warning"><b>Unknown operators.</b> What these compute is not known, so their times are guesses, '
        f"and their MACs are missing from all sums:<ul>{items}</ul></div>"
    )


def _lead(report: Report) -> str:
    graph = report.graph
    work = f"{count_text(graph.macs)} MACs and {count_text(graph.num_params)} parameters"
    if len(report.explanations) > 1:
        return f'<p class="lead">The network has {work}. What it costs depends on where it runs.</p>'
    (each,) = report.explanations
    prediction, device = each.prediction, each.device
    overhead = f", and {share_text(each.overhead_share)} of it passes {style.OVERHEAD}" if prediction.overhead_s else ""
    ridges = " and ".join(f"{number_text(device.ridge_point(dtype))} in {dtype}" for dtype in each.dtypes)
    return "".join(
        (
            f'<p class="lead">The network takes <b>{time_text(prediction.latency_s, prediction.std_s)}</b> on '
            f"<b>{escape(device.name)}</b> ({escape(device.description)}), runtime {escape(each.runtime)}, "
            f"{' and '.join(each.dtypes)}. It has {work}, and runs as {len(each.rows)} kernels{overhead}.</p>",
            f"<p>The kernels move {bytes_text(prediction.traffic_bytes)}, "
            f"{number_text(prediction.arithmetic_intensity)} FLOP for each byte; the device's ridge point is {ridges}."
            f" Peak memory is {escape(peak_text(each))}.</p>",
            "<p>What bounds the kernels' time:</p>",
            shares_bar(_present(each.bound_shares), style.BOUND_COLORS),
            "<p>Where the predicted time comes from:</p>",
            shares_bar(_present(each.provenance_shares), style.PROVENANCE_COLORS, style.PROVENANCE_WORDS),
        )
    )


def _side_by_side(report: Report, across: SideBySide) -> str:
    explanations = across.explanations
    names = [each.device.name for each in explanations]
    numbers = range(1, len(names) + 1)
    figures_table = table(
        ["", *names], [[name, *map(escape, cells)] for name, cells in side_by_side_rows(explanations)], numbers=numbers
    )
    descriptions = "".join(
        f"<li><b>{escape(each.device.name)}</b>: {escape(each.device.description)}, {escape(each.runtime)}</li>"
        for each in explanations
    )
    changes = "".join(
        f"<li>{escape(change.text(names))}: {len(change.kernels)} kernel{'s' if len(change.kernels) > 1 else ''}, "
        f"{escape(some_text([f'{each.name or each.kind} ({each.kind})' for each in change.kernels], 4))}</li>"
        for change in across.changes
    )
    correlations = [
        f"{names[0]} and {names[other]} {correlation:.2f}"
        for other in range(1, len(names))
        if (correlation := across.rank_correlation(0, other)) is not None
    ]
    ranking = f"Rank correlation of the kernels' times: {escape(', '.join(correlations))}." if correlations else ""
    stage_rows = [
        [escape(name), *map(share_text, shares)]
        for name, shares in (*across.stage_rows(), (style.OVERHEAD, [each.overhead_share for each in explanations]))
    ]
    shown = sorted(across.kernels, key=lambda each: -each.largest_share) if report.by_time else across.kernels
    header = ["changes", "module path", "kind"]
    for name in names:
        header += [f"{name} (ms)", "bound", "rank"]
    kernel_numbers = [column for device in range(len(names)) for column in (3 + 3 * device, 5 + 3 * device)]
    kernel_table = table(header, [_across_cells(each) for each in shown], numbers=kernel_numbers, sortable=True)
    return (
        f"<ul>{descriptions}</ul>{figures_table}"
        "<p>Each bar is the time of one device, its kernels in the order of execution:</p>"
        f"{figure_html(figures.bounds_figure(explanations))}"
        f"<h3>What changes its bound</h3><p>{changes_text(across)}.</p><ul>{changes}</ul><p>{ranking}</p>"
        f"<h3>Share of the time by stage</h3>{table(['stage', *names], stage_rows, numbers=numbers)}"
        f"<details><summary>Every kernel side by side</summary>{kernel_table}</details>"
    )


def _across_cells(across: Across) -> list[str]:
    cells = ["yes" if across.changes_bound else "", escape(across.name), escape(across.kind)]
    for row, rank in zip(across.rows, across.ranks):
        cells += [number_text(1e3 * row.latency_s), _bound(row.bound), str(rank)] if row else ["", "in another", ""]
    return cells


def _advice(explanation: Explanation) -> str:
    if not explanation.advice:
        return "<p>Nothing that would save at least half a per cent, as far as the rules see.</p>"
    rows = [
        [
            gain_text(each.gain_s, each.gain_std_s, each.share),
            escape(each.rule),
            escape(each.change),
            escape(some_text([path for path in dict.fromkeys(each.module_paths) if path], 4)),
        ]
        for each in explanation.advice
    ]
    return (
        "<p>Each gain is the difference of two predictions, before and after the change. Changes are alternatives: "
        "their gains do not add up. What they do to the accuracy is not considered.</p>"
        f"{table(['saves', 'rule', 'what to change', 'modules'], rows, numbers=(0,), texts=(2, 3))}"
    )


def _time(report: Report, explanation: Explanation) -> str:
    by_kind = table(
        ["kind", *_TOTAL_HEADER], [_total_cells(each) for each in explanation.kinds], numbers=(1, 2, 3, 5, 6)
    )
    by_stage = table(
        ["stage", *_TOTAL_HEADER], [_total_cells(each) for each in explanation.stages], numbers=(1, 2, 3, 5, 6)
    )
    shown = report.shown(explanation)
    kernels = table(_KERNEL_HEADER, [_kernel_cells(row) for row in shown], numbers=_KERNEL_NUMBERS, sortable=True)
    modules = "module" if explanation.depth == 1 else f"{explanation.depth} modules"
    return (
        f"<p>Stages by the first {modules} of the path, in the order of execution.</p>"
        f"{figure_html(figures.stages_figure(explanation))}"
        f"<details><summary>Sums by stage</summary>{by_stage}</details>"
        f"<details><summary>Sums by kind of kernel</summary>{by_kind}</details>"
        f'<h3>Every kernel</h3><p class="note">A click on a heading sorts; pointing at a kind shows all operators of '
        f"the kernel.</p>{kernels}"
    )


_TOTAL_HEADER = ("time (ms)", "share", "kernels", "mostly", "M MACs", "MB")
_KERNEL_HEADER = (
    "step", "module path", "kind", "time (ms)", "± ms", "share", "bound", "FLOP/byte", "MB", "M MACs", "dtype",
    "provenance",
)  # fmt: skip
_KERNEL_NUMBERS = (0, 3, 4, 5, 7, 8, 9)


def _total_cells(total: Total) -> list[str]:
    return [
        escape(total.name),
        number_text(1e3 * total.latency_s),
        share_text(total.share),
        str(total.num_kernels),
        _bound(total.bound),
        number_text(total.macs / 1e6),
        number_text(total.traffic_bytes / 1e6),
    ]


def _kernel_cells(row: KernelRow) -> list[str]:
    provenance = f"<b>{row.provenance}</b>" if row.provenance == "unknown" else row.provenance
    return [
        str(row.step),
        escape(row.name),
        f'<span title="{escape(row.text)}">{escape(row.kind)}</span>',
        number_text(1e3 * row.latency_s),
        number_text(1e3 * row.std_s),
        share_text(row.share),
        _bound(row.bound),
        number_text(row.arithmetic_intensity),
        number_text(row.traffic_bytes / 1e6),
        number_text(row.macs / 1e6),
        f'<span class="key">{escape(row.dtype)}</span>',
        provenance,
    ]


def _roofline(explanation: Explanation) -> str:
    picture = roofline_picture(explanation.device, explanation.dtypes, explanation.rows)
    movers = sum(not row.macs for row in explanation.rows)
    unknown = ", or whose work is not known," if explanation.prediction.unknown_kernels else ""
    strip = (
        f" The {movers} kernels that only move data{unknown} have no intensity: they stand in the grey strip in the "
        "order of execution, as far below the slope as their bandwidth falls short of it."
        if movers
        else ""
    )
    return (
        "<p>Each mark is a kernel; its area grows with its share of the time. Under a slope memory decides, under a "
        f"flat roof the peak of the dtype does.{strip}</p>{figure_html(figures.roofline_figure(picture))}"
    )


def _memory(explanation: Explanation) -> str:
    memory = explanation.memory
    parts = {"weights": memory.weight_bytes, "activations at their most": memory.peak_live_bytes}
    shares = {f"{name}, {bytes_text(size)}": size / memory.peak_bytes for name, size in parts.items()}
    colors = dict(zip(shares, (style.FAINT, style.INK)))
    return (
        f"<p>Peak memory is {escape(peak_text(explanation))}.</p>{shares_bar(shares, colors)}"
        f"<p>Activations that are alive while each kernel runs:</p>{figure_html(figures.memory_figure(explanation))}"
    )


def _provenance(report: Report) -> str:
    facts = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("ridgeline-nas", "numpy", "plotly")},
        "platform": platform.platform(),
    }
    sources = "".join(
        f"<h3>Sources of the numbers of {escape(each.device.name)}</h3>{sources_table(each.device.sources())}"
        for each in report.explanations
    )
    command = f"<h3>Command</h3><pre>{escape(report.command)}</pre>" if report.command else ""
    versions = table(["what", "value"], [[escape(name), escape(value)] for name, value in facts.items()])
    return f"{command}<h3>Versions</h3>{versions}{sources}"


# -------------------------------------------------------------------------------------------------------------- pieces


def _bound(bound: str) -> str:
    return f'<span class="key"><i style="background:{style.BOUND_COLORS[bound]}"></i>{bound}</span>'


def _present(shares: Mapping[Any, float]) -> dict[str, float]:
    return {name: share for name, share in shares.items() if share > 0.0}
