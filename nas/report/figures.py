"""The interactive pictures of the page, with plotly. Every function takes plain results and returns a figure."""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import plotly.graph_objects as go

from nas.objectives import metric_named
from nas.report import style
from nas.report.breakdown import (
    accuracy_text,
    axis_title,
    drawable,
    error_axis_title,
    intensity_range,
    latency_text,
    metric_text,
    relative_hypervolumes,
    scaled,
    staircase,
    time_by_kind,
)
from nas.report.chosen import ChosenSubnet
from nas.result import Candidate, SearchResult
from predictors.explanation.figures import figure_of
from predictors.explanation.roofs import roofs
from predictors.explanation.text import number_text
from predictors.latency import PROVENANCES, KernelPrediction, Prediction


def front_figure(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> go.Figure:
    """Error against latency, or what the menu says: all candidates, the front, the chosen subnets."""
    on_front = set(result.front)
    groups = {
        "misses a constraint": [each for each in result.candidates if not each.feasible],
        "candidate": [each for i, each in enumerate(result.candidates) if each.feasible and i not in on_front],
        "front": [result.candidates[index] for index in result.front],
        **{subnet.title: [subnet.candidate] for subnet in chosen},
    }
    markers: list[dict[str, Any]] = [
        {"symbol": "x-thin", "size": 7, "line": {"color": style.FAINT, "width": 1.5}},
        {"symbol": "circle", "size": 7, "color": style.FAINT},
        {"symbol": "circle", "size": 9, "color": style.FRONT, "line": {"color": "white", "width": 1}},
        *(
            {"symbol": symbol.plotly, "size": 15, "color": style.ACCENT, "line": {"color": "white", "width": 1.5}}
            for symbol in style.SYMBOLS
        ),
    ]
    axes = [name for name in result.candidates[0].metrics if name != "error"]
    axes.sort(key=lambda name: name != "latency_s")
    figure = figure_of(height=560, hovermode="closest")
    figure.add_trace(
        go.Scatter(
            **_front_line(result, axes[0]), mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": style.FRONT, "width": 1.5, "shape": "hv"},
        )
    )  # fmt: skip
    for (name, group), marker in zip(groups.items(), markers):
        figure.add_trace(
            go.Scatter(
                x=_values(group, axes[0]), y=_values(group, "error"), mode="markers", name=escape(name), marker=marker,
                text=[_hover(result, each) for each in group], hovertemplate="%{text}<extra></extra>",
                showlegend=bool(group),
            )
        )  # fmt: skip

    def view(axis: str) -> dict[str, Any]:
        line = _front_line(result, axis)
        data = {
            "x": [line["x"], *(_values(group, axis) for group in groups.values())],
            "y": [line["y"], *(_values(group, "error") for group in groups.values())],
        }
        layout = {"shapes": _bounds(result.constraints, axis)}
        return {"method": "update", "label": axis_title(axis), "args": [data, layout]}

    menu = {
        "buttons": [view(axis) for axis in axes], "direction": "up", "bgcolor": "white",
        "x": 0.5, "xanchor": "center", "y": -0.08, "yanchor": "top", "bordercolor": style.FAINT,
    }  # fmt: skip
    figure.update_layout(updatemenus=[menu], shapes=_bounds(result.constraints, axes[0]))
    figure.update_yaxes(title_text=error_axis_title(result))
    return figure


def hypervolume_figure(result: SearchResult) -> go.Figure:
    """Hypervolume of the front after each candidate, as a share of the last one."""
    figure = figure_of(height=340)
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(result.hypervolumes) + 1)), y=relative_hypervolumes(result), mode="lines",
            line={"color": style.FRONT, "width": 2, "shape": "hv"}, customdata=list(result.hypervolumes),
            hovertemplate="%{x} candidates: %{y:.2f} % of the final hypervolume (%{customdata:.5g})<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="candidates evaluated")
    figure.update_yaxes(title_text="hypervolume (% of the final)", rangemode="tozero")
    return figure


def kernels_figure(prediction: Prediction, limit_ms: float) -> go.Figure:
    """Predicted time of one network by kind of kernel, stacked by where the time comes from.

    `limit_ms` is the right end of the axis, so that several networks compare.
    """
    by_kind = time_by_kind(prediction)
    figure = figure_of(height=130 + 28 * (len(by_kind) + 1), barmode="stack", bargap=0.3)
    names = [escape(kind) for kind in by_kind]
    for provenance in PROVENANCES:
        times_ms = [1e3 * seconds[provenance] for seconds in by_kind.values()]
        if any(times_ms):
            figure.add_trace(_bar(names, times_ms, provenance, style.PROVENANCE_COLORS[provenance]))
    if prediction.overhead_s:
        figure.add_trace(_bar([style.OVERHEAD], [1e3 * prediction.overhead_s], style.OVERHEAD, style.OVERHEAD_COLOR))
        names.append(style.OVERHEAD)
    figure.update_layout(showlegend=True, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="time (ms)", range=[0, limit_ms])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False, automargin=True)
    return figure


def roofline_figure(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> go.Figure:
    """Attained FLOP/s against FLOP per byte, both logarithmic: the device's roofs and the kernels of some networks."""
    figure = figure_of(height=600, hovermode="closest")
    low, high = intensity_range(result.predictor.device, result.predictor.dtype, [each.prediction for each in chosen])
    for roof, (dash, _) in zip(roofs(result.predictor.device, result.predictor.dtype), cycle(style.DASHES)):
        ridge = roof.ridge_point
        intensities = [low, ridge, max(high, ridge)]
        figure.add_trace(
            go.Scatter(
                x=intensities, y=[roof.attainable_flops(each) / 1e9 for each in intensities], mode="lines+markers",
                name=escape(roof.text), line={"color": style.INK, "dash": dash},
                marker={"size": [0, 9, 0], "symbol": "circle-open", "color": style.INK, "line": {"width": 2}},
                hovertemplate="%{x:.3g} FLOP/byte, %{y:.4g} GFLOP/s<extra></extra>",
            )
        )  # fmt: skip
    for subnet, symbol in zip(chosen, style.SYMBOLS):
        for provenance in PROVENANCES:
            kernels = [each for each in drawable(subnet.prediction) if each.provenance == provenance]
            figure.add_trace(_kernel_marks(subnet, kernels, symbol.plotly, provenance))
    for name, entry in (
        *((subnet.title, (symbol.plotly, style.MUTED)) for subnet, symbol in zip(chosen, style.SYMBOLS)),
        *((style.PROVENANCE_WORDS[each], ("circle", style.PROVENANCE_COLORS[each])) for each in PROVENANCES),
    ):
        marker = {"symbol": entry[0], "color": entry[1], "size": 10}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=escape(name), marker=marker))
    figure.update_xaxes(title_text="arithmetic intensity (FLOP/byte)", type="log", dtick=1)
    figure.update_yaxes(title_text="attained performance (GFLOP/s)", type="log", dtick=1)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _values(group: Sequence[Candidate], name: str) -> list[float]:
    return [scaled(each.metrics, name) for each in group]


def _front_line(result: SearchResult, axis: str) -> dict[str, list[float]]:
    steps = staircase([result.candidates[index].metrics for index in result.front], axis)
    return {"x": [scaled(each, axis) for each in steps], "y": [scaled(each, "error") for each in steps]}


def _bounds(constraints: Mapping[str, float], axis: str) -> list[dict[str, Any]]:
    line = {"color": style.MUTED, "width": 1.5, "dash": "dash"}
    shapes: list[dict[str, Any]] = []
    if axis in constraints:
        bound = scaled(constraints, axis)
        shapes.append({"type": "line", "x0": bound, "x1": bound, "yref": "paper", "y0": 0, "y1": 1, "line": line})
    if "error" in constraints:
        bound = scaled(constraints, "error")
        shapes.append({"type": "line", "y0": bound, "y1": bound, "xref": "paper", "x0": 0, "x1": 1, "line": line})
    return shapes


def _hover(result: SearchResult, candidate: Candidate) -> str:
    figures = [f"{result.judgement.name} {accuracy_text(result, candidate)}", f"latency {latency_text(candidate)}"]
    figures += [
        f"{metric_named(name).title} {metric_text(candidate.metrics, name)}"
        for name in candidate.metrics
        if name not in {"error", "latency_s"}
    ]
    arch = textwrap.wrap(", ".join(f"{knob}={value}" for knob, value in candidate.arch.items()), 72)
    return "<br>".join([f"<b>candidate {candidate.number}</b>", *map(escape, figures), "", *map(escape, arch)])


def _bar(kinds: Sequence[str], times_ms: Sequence[float], name: str, color: str) -> go.Bar:
    return go.Bar(
        y=kinds, x=times_ms, orientation="h", name=name, marker={"color": color},
        hovertemplate="%{y}: %{x:.4g} ms " + name + "<extra></extra>",
    )  # fmt: skip


def _kernel_marks(
    subnet: ChosenSubnet, kernels: Sequence[KernelPrediction], symbol: str, provenance: str
) -> go.Scatter:
    shares = [kernel.latency_s / subnet.prediction.latency_s for kernel in kernels]
    marker = {
        "symbol": symbol, "size": [style.mark_size(share) for share in shares], "opacity": 0.75,
        "color": style.PROVENANCE_COLORS[provenance], "line": {"color": "white", "width": 0.8},
    }  # fmt: skip
    text = [
        f"{escape(kernel.name or kernel.kernel.kind)} ({escape(subnet.title)})<br>{kernel.kernel.kind}, "
        f"{number_text(1e6 * kernel.latency_s)} us, {share:.1%} of the time<br>{kernel.bound} bound, {provenance}"
        for kernel, share in zip(kernels, shares)
    ]
    return go.Scatter(
        x=[kernel.cost.arithmetic_intensity for kernel in kernels],
        y=[kernel.cost.flops / kernel.latency_s / 1e9 for kernel in kernels],
        mode="markers", marker=marker, text=text, showlegend=False,
        hovertemplate="%{text}<br>%{x:.3g} FLOP/byte, %{y:.4g} GFLOP/s<extra></extra>",
    )  # fmt: skip
