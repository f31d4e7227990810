"""The report in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from predictors.explanation.across import Across, SideBySide
from predictors.explanation.explaining import Explanation
from predictors.explanation.report import Report
from predictors.explanation.rows import KernelRow, Total
from predictors.explanation.style import OVERHEAD
from predictors.explanation.text import (
    bytes_text,
    count_text,
    gain_text,
    number_text,
    share_text,
    some_text,
    time_text,
)

BOUND_STYLES = {"compute": "red", "memory": "cyan", "launch": "green"}
"""Each word also stands there: nothing is said by colour alone."""

_WIDE = 118
_BARS = "▁▂▃▄▅▆▇█"


def print_report(report: Report, console: Console, limit: int | None = 15) -> None:
    """What a network costs, where the time goes, what to change.

    Args:
        limit: how many kernels to show, the longest ones; None shows all.
    """
    _print_unknown(report, console)
    across = report.side_by_side
    if across is None:
        _print_one(report, report.explanations[0], console, limit)
    else:
        _print_across(report, across, console, limit)
    for each in report.explanations:
        if each.advice is not None:
            _print_advice(each, console)


def headline(explanation: Explanation) -> str:
    """'mobile_gpu (Qualcomm Adreno 660): tvm_opencl, float16'."""
    device = explanation.device
    return f"{device.name} ({device.description}): {explanation.runtime}, {' and '.join(explanation.dtypes)}"


def mix_text(shares: Mapping[Any, float]) -> str:
    """'88 % compute, 12 % memory'; what has no share is left out."""
    found = sorted(((share, name) for name, share in shares.items() if share > 0.0), reverse=True)
    return ", ".join(f"{share_text(share)} {name}" for share, name in found)


def peak_text(explanation: Explanation) -> str:
    """'25.8 MB: weights 23.4 MB and activations 2.41 MB, most at step 2, layer1.0.conv1 (conv2d)'."""
    memory = explanation.memory
    row = explanation.rows[memory.peak_step - 1]
    at = f"{row.name} ({row.kind})" if row.name else row.kind
    return (
        f"{bytes_text(memory.peak_bytes)}: weights {bytes_text(memory.weight_bytes)} and activations "
        f"{bytes_text(memory.peak_live_bytes)}, most at step {row.step}, {at}"
    )


def ridge_text(explanation: Explanation) -> str:
    """Of the dtypes that kernels compute in: 'ridge point 40.4 in float16'."""
    device = explanation.device
    points = (f"{number_text(device.ridge_point(dtype))} in {dtype}" for dtype in explanation.dtypes)
    return f"ridge point {' and '.join(points)}"


# ------------------------------------------------------------------------------------------------------------ private


def _print_unknown(report: Report, console: Console) -> None:
    if report.unknown:
        console.print(
            Text("Unknown operators: what they compute is not known, and their times are guesses", style="bold red"),
            soft_wrap=True,
        )
        for each in report.unknown:
            console.print(Text(f"  {each.text}"), soft_wrap=True)


def _print_one(report: Report, explanation: Explanation, console: Console, limit: int | None) -> None:
    prediction = explanation.prediction
    console.print(Text(f"{report.name} on {headline(explanation)}", style="bold"), soft_wrap=True)
    overhead = f" and {number_text(1e3 * prediction.overhead_s)} ms {OVERHEAD}" if prediction.overhead_s else ""
    latency = time_text(prediction.latency_s, prediction.std_s)
    _print_lines(
        console,
        {
            "latency": f"{latency}: {len(explanation.rows)} kernels{overhead}",
            "work": f"{count_text(prediction.macs)} MACs, {count_text(prediction.num_params)} parameters",
            "traffic": f"{bytes_text(prediction.traffic_bytes)}, {number_text(prediction.arithmetic_intensity)} "
            f"FLOP/byte ({ridge_text(explanation)})",
            "peak memory": peak_text(explanation),
            "bound by": mix_text(explanation.bound_shares),
            "predicted from": f"{mix_text(explanation.provenance_shares)} "
            f"(coverage: {share_text(prediction.coverage)} is measured)",
        },
    )
    shown = report.shown(explanation, limit)
    console.print()
    _print_title(console, "Kernels", shown, explanation, report.by_time)
    console.print(_kernel_table(shown, console))
    if len(explanation.stages) > 1:
        console.print()
        console.print(Text(f"Stages, by the first {_modules(explanation.depth)} of the path", style="bold"))
        console.print(_totals_table("stage", explanation.stages, explanation))
    console.print()
    console.print(Text("Kinds of kernel", style="bold"))
    console.print(_totals_table("kind", explanation.kinds, None))
    console.print()
    console.print(Text("Activations alive, step by step", style="bold"))
    console.print(Text(_sparkline(explanation.memory.live_bytes, min(console.width - 2, 100))))


def _print_title(
    console: Console, what: str, shown: Sequence[KernelRow], explanation: Explanation, by_time: bool
) -> None:
    order = "by time" if by_time else "in the order of execution"
    text = f"{what}, {order}"
    if len(shown) < len(explanation.rows):
        share = sum(row.share for row in shown)
        text += f": the {len(shown)} of {len(explanation.rows)} that take longest, {share_text(share)} of the time"
        text += " (--all shows every one)"
    console.print(Text(text, style="bold"), soft_wrap=True)


def _kernel_table(rows: Sequence[KernelRow], console: Console) -> Table:
    """In a narrow terminal without what every kernel has in common and the lines above say."""
    wide = console.width >= _WIDE
    show_dtype = wide or len({row.dtype for row in rows}) > 1
    show_provenance = wide or len({row.provenance for row in rows}) > 1
    table = _table(
        "step", "ms", "± ms", "share", "<bound", "FLOP/B", "MB", *(["M MACs"] if wide else []),
        *(["<dtype"] if show_dtype else []), *(["<from"] if show_provenance else []), "<kind", "<module",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            str(row.step), number_text(1e3 * row.latency_s), number_text(1e3 * row.std_s), share_text(row.share),
            _bound(row.bound), number_text(row.arithmetic_intensity), number_text(row.traffic_bytes / 1e6),
            *([number_text(row.macs / 1e6)] if wide else []), *([row.dtype] if show_dtype else []),
            *([_provenance(row.provenance)] if show_provenance else []),
            escape(row.kind), escape(row.name or "-"),
        )  # fmt: skip
    return table


def _totals_table(what: str, found: Sequence[Total], explanation: Explanation | None) -> Table:
    table = _table(f"<{what}", "ms", "share", "kernels", "<mostly", "M MACs", "MB")
    for total in found:
        table.add_row(
            escape(total.name), number_text(1e3 * total.latency_s), share_text(total.share), str(total.num_kernels),
            _bound(total.bound), number_text(total.macs / 1e6), number_text(total.traffic_bytes / 1e6),
        )  # fmt: skip
    if explanation is not None and explanation.prediction.overhead_s:
        overhead_ms = number_text(1e3 * explanation.prediction.overhead_s)
        table.add_row(OVERHEAD, overhead_ms, share_text(explanation.overhead_share), "", "", "", "")
    return table


def _print_across(report: Report, across: SideBySide, console: Console, limit: int | None) -> None:
    explanations = across.explanations
    names = [each.device.name for each in explanations]
    console.print(Text(report.title, style="bold"), soft_wrap=True)
    for each in explanations:
        console.print(Text(f"  {headline(each)}"), soft_wrap=True)
    graph = report.graph
    console.print(Text(f"{count_text(graph.macs)} MACs, {count_text(graph.num_params)} parameters"))
    console.print()
    figures = _table("<", *names)
    for name, cells in side_by_side_rows(explanations):
        figures.add_row(name, *cells)
    console.print(figures)
    console.print()
    shown = sorted(across.kernels, key=lambda each: -each.largest_share)[:limit]
    if not report.by_time:
        shown = [each for each in across.kernels if each in shown]
    note = f": {len(shown)} of {len(across.kernels)}, by the largest share" if len(shown) < len(across.kernels) else ""
    console.print(Text(f"Kernels, ms and bound (rank){note}; ! marks what changes its bound", style="bold"))
    console.print(_across_table(shown, names))
    console.print()
    _print_changes(across, console)
    stages = _table("<stage", *names)
    rows = across.stage_rows()
    for name, shares in rows:
        stages.add_row(escape(name), *map(share_text, shares))
    stages.add_row(OVERHEAD, *(share_text(each.overhead_share) for each in explanations))
    if len(rows) > 1:
        console.print()
        console.print(Text("Share of the time by stage", style="bold"))
        console.print(stages)


def side_by_side_rows(explanations: Sequence[Explanation]) -> list[tuple[str, list[str]]]:
    """Figures of several devices: a name, and the text for each of them."""

    def row(name: str, texts: Iterable[str]) -> tuple[str, list[str]]:
        return name, list(texts)

    predictions = [each.prediction for each in explanations]
    return [
        row("dtype", (", ".join(each.dtypes) for each in explanations)),
        row("latency", (time_text(each.latency_s, each.std_s) for each in predictions)),
        row("kernels", (str(len(each.rows)) for each in explanations)),
        row(OVERHEAD, (f"{number_text(1e3 * each.overhead_s)} ms" for each in predictions)),
        row("traffic", (bytes_text(each.traffic_bytes) for each in predictions)),
        row("intensity", (f"{number_text(each.arithmetic_intensity)} FLOP/byte" for each in predictions)),
        row("ridge point", (f"{number_text(e.device.ridge_point(e.dtypes[0]))} FLOP/byte" for e in explanations)),
        row("peak memory", (bytes_text(each.peak_memory_bytes) for each in predictions)),
        *(
            row(f"{bound} bound", (share_text(each.bound_shares[bound]) for each in explanations))
            for bound in explanations[0].bound_shares
        ),
        row("measured (coverage)", (share_text(each.coverage) for each in predictions)),
    ]


def _across_table(shown: Sequence[Across], names: Sequence[str]) -> Table:
    table = _table("<", "<module", "<kind", *(part for name in names for part in (name, "<")))
    for each in shown:
        cells: list[str | Text] = []
        for row, rank in zip(each.rows, each.ranks):
            if row is None:
                cells += ["-", Text("in another", style="dim")]
            else:
                cells += [number_text(1e3 * row.latency_s), Text.assemble(_bound(row.bound), f" ({rank})")]
        table.add_row("!" if each.changes_bound else "", escape(each.name or "-"), escape(each.kind), *cells)
    return table


def _print_changes(across: SideBySide, console: Console) -> None:
    names = [each.device.name for each in across.explanations]
    console.print(Text(changes_text(across), style="bold"), soft_wrap=True)
    for change in across.changes:
        kernels = some_text([f"{each.name or '-'} ({each.kind})" for each in change.kernels], 4)
        console.print(Text(f"  {change.text(names)}: {len(change.kernels)}, {kernels}"), soft_wrap=True)
    for second in range(1, len(names)):
        correlation = across.rank_correlation(0, second)
        if correlation is not None:
            console.print(
                Text(f"rank correlation of the kernels' times, {names[0]} and {names[second]}: {correlation:.2f}"),
                soft_wrap=True,
            )


def changes_text(across: SideBySide) -> str:
    """How many kernels change what bounds them."""
    roofs = sum(each.changes_roof for each in across.kernels)
    return (
        f"Kernels that something else bounds on another device: {len(across.changed)} of {len(across.kernels)}; "
        f"that change between compute and memory: {roofs}"
    )


def _print_advice(explanation: Explanation, console: Console) -> None:
    advice = explanation.advice or ()
    console.print()
    console.print(Text(f"What to change for {explanation.device.name}", style="bold"))
    if not advice:
        console.print(Text("  nothing that would save at least half a per cent, as far as the rules see"))
        return
    console.print(Text("Each alone; gains do not add up, and accuracy is not considered.", style="dim"))
    for each in advice:
        console.print(
            Text.assemble(
                (f"{gain_text(each.gain_s, each.gain_std_s, each.share)}", "bold"), f"  {each.rule}: {each.change}"
            ),
            soft_wrap=True,
        )
        paths = [path for path in dict.fromkeys(each.module_paths) if path]
        if paths:
            console.print(Text(f"    at {some_text(paths, 4)}", style="dim"), soft_wrap=True)


def _print_lines(console: Console, lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, text in lines.items():
        console.print(Text(f"{name:<{width}}  {text}"), soft_wrap=True)


def _table(*headers: str) -> Table:
    """Numbers unless the header begins with <, which is left out; what is long folds rather than vanishes."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        is_text = header.startswith("<")
        table.add_column(
            header.removeprefix("<"), justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold"
        )
    return table


def _bound(bound: str) -> Text:
    return Text(bound, style=BOUND_STYLES[bound])


def _provenance(provenance: str) -> Text:
    return Text(provenance, style="bold red" if provenance == "unknown" else "")


def _modules(count: int) -> str:
    return "module" if count == 1 else f"{count} modules"


def _sparkline(values: Sequence[int], width: int) -> str:
    """The largest value of each of at most `width` pieces, from 0."""
    pieces = min(width, len(values))
    most = [max(values[i * len(values) // pieces : (i + 1) * len(values) // pieces]) for i in range(pieces)]
    top = max(most)
    return "".join(_BARS[round((len(_BARS) - 1) * each / top)] for each in most)
