"""The interactive pictures of the page, with plotly. Every function takes plain results and returns a figure."""

from collections.abc import Sequence
from html import escape
from itertools import cycle
from math import log10
from typing import Any

import plotly.graph_objects as go

from predictors.explanation import style
from predictors.explanation.explaining import Explanation
from predictors.explanation.roofline_points import Point, RooflinePicture
from predictors.explanation.rows import BOUNDS, KernelRow
from predictors.explanation.text import bytes_text, number_text, share_text

_AXES = {"gridcolor": style.GRID, "zeroline": False, "linecolor": style.FAINT, "showline": True, "ticks": "outside"}
_LINE = {"color": "white", "width": 0.8}


def figure_of(**layout: Any) -> go.Figure:
    """An empty figure in the looks of the house."""
    figure = go.Figure()
    figure.update_layout(
        template="none", paper_bgcolor="white", plot_bgcolor="white", autosize=True,
        font={"family": "system-ui, Roboto, 'Liberation Sans', Arial, sans-serif", "size": 13, "color": style.INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 64, "r": 16, "t": 24, "b": 60}, hoverlabel={"bgcolor": "white", "align": "left"},
    )  # fmt: skip
    figure.update_xaxes(**_AXES)
    figure.update_yaxes(**_AXES)
    figure.update_layout(**layout)
    return figure


def roofline_figure(picture: RooflinePicture) -> go.Figure:
    """Attained FLOP/s against FLOP per byte, both logarithmic: the device's roofs and every kernel."""
    figure = figure_of(height=620, hovermode="closest")
    for slope, (dash, _) in zip(picture.slopes, cycle(style.DASHES)):
        figure.add_trace(
            go.Scatter(
                x=slope.x, y=[each / 1e9 for each in slope.y], mode="lines", name=escape(slope.text), hoverinfo="skip",
                line={"color": style.INK, "dash": dash, "width": 1.5},
            )
        )  # fmt: skip
    for roof in picture.peaks:
        figure.add_trace(
            go.Scatter(
                x=roof.x, y=[each / 1e9 for each in roof.y], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": style.INK, "width": 1.5},
            )
        )  # fmt: skip
        figure.add_annotation(
            x=log10(roof.x[-1]), y=log10(roof.y[-1] / 1e9), text=escape(roof.text), showarrow=False,
            xanchor="right", yanchor="bottom", font={"size": 12, "color": style.INK},
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[ridge.x for ridge in picture.ridges], y=[ridge.y / 1e9 for ridge in picture.ridges], mode="markers",
            marker={"size": 9, "symbol": "circle-open", "color": style.INK, "line": {"width": 2}}, name="ridge point",
            text=[escape(ridge.text) for ridge in picture.ridges], hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    if picture.movers_right is not None:
        figure.add_vrect(x0=picture.x_range[0], x1=picture.movers_right, fillcolor=style.GRID, opacity=0.5,
                         line_width=0, layer="below")  # fmt: skip
        figure.add_annotation(
            x=log10(picture.movers_right), y=1.0, yref="paper", xanchor="right", yanchor="top", showarrow=False,
            text="only move<br>data", align="right", font={"size": 12, "color": style.MUTED},
        )  # fmt: skip
    for bound in BOUNDS:
        points = [point for point in picture.points if point.row.bound == bound]
        if points:
            figure.add_trace(_marks(points, bound))
    figure.update_xaxes(
        title_text="arithmetic intensity (FLOP/byte)", type="log", dtick=1,
        range=[log10(each) for each in picture.x_range],
    )  # fmt: skip
    figure.update_yaxes(
        title_text="attained performance (GFLOP/s)", type="log", dtick=1,
        range=[log10(each / 1e9) for each in picture.y_range],
    )  # fmt: skip
    return figure


def stages_figure(explanation: Explanation) -> go.Figure:
    """Time of each stage in the order of execution, stacked by what bounds its kernels."""
    names = [stage.name for stage in explanation.stages]
    has_overhead = explanation.prediction.overhead_s > 0.0
    figure = figure_of(height=120 + 24 * (len(names) + has_overhead), barmode="stack", bargap=0.3)
    for bound in BOUNDS:
        times_ms = [1e3 * stage.bound_s[bound] for stage in explanation.stages]
        if any(times_ms):
            figure.add_trace(_bar(names, times_ms, f"{bound} bound", style.BOUND_COLORS[bound]))
    if has_overhead:
        names = [*names, style.OVERHEAD]
        overhead_ms = 1e3 * explanation.prediction.overhead_s
        figure.add_trace(_bar([style.OVERHEAD], [overhead_ms], style.OVERHEAD, style.OVERHEAD_COLOR))
    figure.update_layout(showlegend=True, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="time (ms)", rangemode="tozero")
    shown = [escape(name) for name in names]
    figure.update_yaxes(categoryorder="array", categoryarray=shown[::-1], showgrid=False, automargin=True)
    return figure


def memory_figure(explanation: Explanation) -> go.Figure:
    """Activations that are alive while each kernel runs; the largest are marked with their kernel."""
    memory = explanation.memory
    steps = [row.step for row in explanation.rows]
    live_mb = [each / 1e6 for each in memory.live_bytes]
    figure = figure_of(height=320, showlegend=False, hovermode="x", bargap=0.0)
    at_peak = memory.peak_step
    texts = [f"{_name(row)}<br>{size:.4g} MB alive" for row, size in zip(explanation.rows, live_mb)]
    figure.add_trace(
        go.Bar(
            x=steps, y=live_mb, width=1.0,
            marker={
                "color": [style.INK if step == at_peak else style.OVERHEAD_COLOR for step in steps],
                "line": {"width": 0},
            },
            text=texts, textposition="none", hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    right_half = at_peak > len(steps) / 2
    peak = f"{bytes_text(memory.peak_live_bytes)} at {_name(explanation.rows[at_peak - 1])}"
    figure.add_annotation(
        x=at_peak, y=live_mb[at_peak - 1], text=peak, showarrow=True, arrowhead=0, arrowcolor=style.INK,
        ax=-24 if right_half else 24, ay=-14,
        xanchor="right" if right_half else "left", yanchor="middle", font={"size": 12.5, "color": style.INK},
    )  # fmt: skip
    figure.update_xaxes(title_text="step", range=[0.5, len(steps) + 0.5], showgrid=False)
    figure.update_yaxes(title_text="activations alive (MB)", range=[0.0, 1.2 * max(live_mb)])
    return figure


def bounds_figure(explanations: Sequence[Explanation]) -> go.Figure:
    """One bar a device: its kernels in the order of execution, as long as their share of its time, by their bound."""
    names = [escape(each.device.name) for each in explanations]
    figure = figure_of(height=130 + 48 * len(names), barmode="overlay", bargap=0.35, hovermode="closest")
    for bound in BOUNDS:
        base, widths, rows_of, texts = [], [], [], []
        for name, each in zip(names, explanations):
            start = 0.0
            for row in each.rows:
                if row.bound == bound:
                    base.append(100.0 * start)
                    widths.append(100.0 * row.share)
                    rows_of.append(name)
                    texts.append(_hover(row))
                start += row.share
        if base:
            figure.add_trace(
                go.Bar(
                    y=rows_of, x=widths, base=base, orientation="h", name=f"{bound} bound", text=texts,
                    textposition="none", hovertemplate="%{text}<extra></extra>",
                    marker={"color": style.BOUND_COLORS[bound], "line": {"color": "white", "width": 0.5}},
                )
            )  # fmt: skip
    if any(each.overhead_share > 0.0 for each in explanations):
        figure.add_trace(
            go.Bar(
                y=names, x=[100.0 * each.overhead_share for each in explanations],
                base=[100.0 * (1.0 - each.overhead_share) for each in explanations], orientation="h",
                name=style.OVERHEAD, marker={"color": style.OVERHEAD_COLOR},
                hovertemplate=f"{style.OVERHEAD}: %{{x:.3g}} %<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text="share of the device's time, in the order of execution (%)", range=[0, 100])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False, automargin=True)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _marks(points: Sequence[Point], bound: str) -> go.Scatter:
    lines = [
        {"color": style.PROVENANCE_COLORS["unknown"], "width": 2.5} if point.row.provenance == "unknown" else _LINE
        for point in points
    ]
    return go.Scatter(
        x=[point.x for point in points], y=[point.y / 1e9 for point in points], mode="markers", name=f"{bound} bound",
        marker={
            "symbol": style.BOUND_SYMBOLS[bound].plotly, "size": [style.mark_size(point.row.share) for point in points],
            "color": style.BOUND_COLORS[bound], "opacity": 0.75,
            "line": {name: [line[name] for line in lines] for name in ("color", "width")},
        },
        text=[_hover(point.row) for point in points], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _bar(names: Sequence[str], times_ms: Sequence[float], name: str, color: str) -> go.Bar:
    return go.Bar(
        y=[escape(each) for each in names], x=times_ms, orientation="h", name=name, marker={"color": color},
        hovertemplate="%{y}: %{x:.4g} ms " + name + "<extra></extra>",
    )  # fmt: skip


def _name(row: KernelRow) -> str:
    return escape(f"{row.name} ({row.kind}), step {row.step}" if row.name else f"{row.kind}, step {row.step}")


def _hover(row: KernelRow) -> str:
    attained = (
        f"{number_text(row.arithmetic_intensity)} FLOP/byte, {number_text(row.attained_flops / 1e9)} GFLOP/s"
        if row.macs
        else f"moves data only, {number_text(row.attained_bandwidth / 1e9)} GB/s"
    )
    return (
        f"<b>{_name(row)}</b><br>{number_text(1e3 * row.latency_s)} ± {number_text(1e3 * row.std_s)} ms, "
        f"{share_text(row.share)} of the time<br>{row.bound} bound, {escape(row.dtype)}, {row.provenance}<br>"
        f"{attained}<br>{bytes_text(row.traffic_bytes)}, {number_text(row.macs / 1e6)} M MACs"
    )
