"""The interactive pictures of the page, with plotly."""

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite, log10
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nas.compare.records import Comparison, Estimate, Floats
from nas.compare.report.curves import (
    BEST_NAME,
    BOUND_NAMES,
    BOUNDS,
    Band,
    Steps,
    accuracy_bands,
    band_window,
    bar_ink,
    bounds_of,
    colors,
    front_curves,
    front_window,
    intensity_window,
    jitter,
    latency_bands,
    limit_steps,
    log_ticks,
    saved,
    spread,
    steps_of,
    whys_of,
)
from nas.report import style
from predictors.explanation.figures import figure_of
from predictors.explanation.text import number_text, share_text

_LABEL_GAP = 0.05
"""Between labels at the right of a picture, as a share of its height."""
_RIGHT = 118
"""Pixels for labels."""


def fronts_figure(comparison: Comparison) -> go.Figure:
    """What is judged against latency: each strategy's median attainment surface in its band, the best known front."""
    curves, of_strategy = front_curves(comparison), colors(comparison)
    window = front_window(comparison, curves)
    figure = figure_of(height=580, hovermode="closest", margin={"l": 64, "r": _RIGHT, "t": 24, "b": 60})
    best = steps_of(comparison.best.losses_B2)
    labels = {}
    for name, each in curves.items():
        for y, fill in ((each.low, None), (each.high, "tonexty")) if len(each.x_band) else ():
            figure.add_trace(
                go.Scatter(
                    x=_to(each.x_band, window.x[1]), y=_hold(y), mode="lines", hoverinfo="skip", showlegend=False,
                    line={"width": 0, "shape": "hv"}, fill=fill, fillcolor=_faint(of_strategy[name]),
                    legendgroup=name,
                )
            )  # fmt: skip
    for name, steps in limit_steps(comparison).items():
        figure.add_trace(_limit_line(name, steps, of_strategy[name], comparison.judged))
    for name, each in curves.items():
        figure.add_trace(_step_line(name, each.median, of_strategy[name], comparison.judged, window.x[1]))
        labels[name] = float(each.median.y[-1])
    figure.add_trace(_step_line(BEST_NAME, best, style.INK, comparison.judged, window.x[1], dash="dot"))
    labels[BEST_NAME] = float(best.y[-1])
    _label(figure, labels, {**of_strategy, BEST_NAME: style.INK}, window.x[1], window.y)
    figure.update_xaxes(title_text=_latency_title(comparison), **_log_axis(*window.x))
    figure.update_yaxes(title_text=f"{escape(comparison.judged)} (%)", range=list(window.y))
    return figure


def hypervolume_figure(comparison: Comparison) -> go.Figure:
    """A dot a seed, the mean with its interval, and what the strategy evaluated, had it known the latencies."""
    of_strategy = colors(comparison)
    names = [each.name for each in comparison.strategies]
    figure = figure_of(height=130 + 46 * len(names), hovermode="closest", margin={"l": 64, "r": 24, "t": 24, "b": 60})
    for at, name in enumerate(names):
        standing, color = comparison.standings[name], of_strategy[name]
        volumes = 100.0 * standing.hypervolumes_S
        figure.add_trace(
            go.Scatter(
                x=volumes, y=at + jitter(len(volumes)), mode="markers", showlegend=at == 0, name="a seed",
                marker={"size": 8, "color": color, "opacity": 0.45},
                text=[f"{escape(name)}, seed {seed}" for seed in comparison.seeds],
                hovertemplate="%{text}: %{x:.2f} %<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            _mean_mark(
                standing.hypervolume, at, color, 100.0, "mean with its interval", at == 0, f"{name}: %{{x:.2f}} %"
            )
        )
        if standing.evaluated_hypervolume is not None:
            figure.add_trace(
                go.Scatter(
                    x=[100.0 * standing.evaluated_hypervolume.value], y=[at - 0.3], mode="markers", showlegend=at == 0,
                    name="all that it evaluated", marker={"size": 10, "color": color, "symbol": "triangle-up-open"},
                    hovertemplate=f"{escape(name)}, all that it evaluated: %{{x:.2f}} %<extra></extra>",
                )
            )  # fmt: skip
    figure.update_xaxes(title_text="hypervolume (% of the best known front's)")
    _rows(figure, names)
    return figure


def latency_figure(comparison: Comparison) -> go.Figure:
    """How much more time than the baseline's networks a strategy's take at equal accuracy, along the front."""
    bands = latency_bands(comparison)
    figure = _bands_figure(comparison, bands, f"{escape(comparison.judged)} (%)", "% more time")
    figure.update_yaxes(title_text=f"time beside {escape(comparison.baseline)} (%)")
    return figure


def accuracy_figure(comparison: Comparison) -> go.Figure:
    """How many points more than the baseline's networks a strategy's reach at equal latency, along the front."""
    bands = accuracy_bands(comparison)
    figure = _bands_figure(comparison, bands, _latency_title(comparison), "points more")
    x = np.concatenate([band.x for band in bands.values()])
    figure.update_yaxes(title_text=f"{escape(comparison.judged)} beside {escape(comparison.baseline)} (points)")
    figure.update_xaxes(**_log_axis(x.min() / 1.01, x.max() * 1.01))
    return figure


def bounds_figure(comparison: Comparison) -> go.Figure:
    """Where the time of the chosen networks goes: a bar a strategy."""
    whys = whys_of(comparison)
    names = [escape(each.strategy) for each in whys]
    figure = figure_of(height=120 + 38 * len(names), barmode="stack", bargap=0.3)
    for bound, color in BOUNDS.items():
        shares = [100.0 * each.bound_shares.get(bound, 0.0) for each in whys]
        if any(share > 0.05 for share in shares):
            figure.add_trace(
                go.Bar(
                    y=names, x=shares, orientation="h", name=BOUND_NAMES[bound], marker={"color": color},
                    text=[f"{share:.0f} %" if share >= 6.0 else "" for share in shares], textposition="inside",
                    insidetextanchor="middle", textangle=0, textfont={"color": bar_ink(bound)},
                    hovertemplate="%{y}: %{x:.1f} % " + BOUND_NAMES[bound] + "<extra></extra>",
                )
            )  # fmt: skip
    figure.update_layout(showlegend=True, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="share of the networks' time (%)", range=[0, 100])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False, automargin=True)
    return figure


def intensity_figure(comparison: Comparison) -> go.Figure:
    """FLOP per byte of the chosen networks beside the device's ridge point."""
    whys, of_strategy = whys_of(comparison), colors(comparison)
    figure = figure_of(height=130 + 34 * len(whys), showlegend=False, hovermode="closest")
    for at, each in enumerate(whys):
        text = f"{each.strategy}: %{{x:.3g}} FLOP/byte"
        figure.add_trace(_mean_mark(each.intensity, at, of_strategy[each.strategy], 1.0, "", False, text))
    low, high = intensity_window(whys, comparison.ridge_point)
    ridge = comparison.ridge_point
    figure.add_vline(x=ridge, line={"color": style.INK, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        x=log10(ridge), y=1.0, yref="paper", yanchor="bottom", showarrow=False,
        text=f"ridge point {number_text(ridge)}", font={"size": 12, "color": style.INK},
    )  # fmt: skip
    figure.update_xaxes(title_text="arithmetic intensity (FLOP/byte)", **_log_axis(low, high))
    _rows(figure, [each.strategy for each in whys])
    return figure


def depthwise_figure(comparison: Comparison) -> go.Figure:
    """Depthwise convolutions: their share of the time beside their share of the MACs."""
    whys = whys_of(comparison)
    names = [escape(each.strategy) for each in whys]
    figure = figure_of(height=130 + 46 * len(names), barmode="group", bargap=0.3)
    for title, color, estimates in (
        ("of the MACs", style.FAINT, [each.depthwise_macs for each in whys]),
        ("of the time", style.PALETTE["blue"], [each.depthwise_time for each in whys]),
    ):
        shares = [each.value for each in estimates]
        figure.add_trace(
            go.Bar(
                y=names, x=[100.0 * share for share in shares], orientation="h", name=title, marker={"color": color},
                text=[share_text(share) for share in shares], textposition="outside", cliponaxis=False,
                hovertemplate="%{y}: %{x:.1f} % " + title + "<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(showlegend=True, legend={"traceorder": "reversed"})
    figure.update_xaxes(title_text="share of depthwise convolutions (%)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False, automargin=True)
    return figure


def sweep_figure(comparison: Comparison) -> go.Figure:
    """What choosing by latency saves beside choosing by MACs, and how much memory bounds, by the ridge point."""
    sweep = comparison.sweep
    assert sweep is not None
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.07)
    base = figure_of(height=560, showlegend=False, hovermode="closest", margin={"l": 64, "r": 24, "t": 36, "b": 60})
    figure.update_layout(base.layout)
    axes = base.layout.xaxis.to_plotly_json(), base.layout.yaxis.to_plotly_json()
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])
    x = [point.ridge_point for point in sweep.points]
    for row, values, own, color in (
        (
            1,
            [saved(point.latency_ratio) for point in sweep.points],
            saved(sweep.own.latency_ratio),
            style.PALETTE["blue"],
        ),
        (2, [100.0 * point.memory_share for point in sweep.points], 100.0 * sweep.own.memory_share, BOUNDS["memory"]),
    ):
        what = "saved" if row == 1 else "memory-bound"
        texts = [f"bandwidth x {point.factor:.3g}" for point in sweep.points]
        figure.add_trace(
            go.Scatter(
                x=x, y=values, mode="lines+markers", line={"color": color, "width": 2}, marker={"size": 7}, text=texts,
                hovertemplate=f"%{{x:.3g}} FLOP/byte (%{{text}}): %{{y:.1f}} % {what}<extra></extra>",
            ),
            row=row, col=1,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[sweep.own.ridge_point], y=[own], mode="markers", marker={"size": 13, "color": style.ACCENT},
                hovertemplate=f"{escape(comparison.device_name)}: %{{y:.1f}} % {what}<extra></extra>",
            ),
            row=row, col=1,
        )  # fmt: skip
    figure.add_hline(y=100.0 * sweep.gain, line={"color": style.MUTED, "width": 1.2, "dash": "dash"}, row=1, col=1)
    figure.add_hline(y=0.0, line={"color": style.INK, "width": 1}, row=1, col=1)
    figure.add_annotation(
        x=0.01, xref="paper", y=100.0 * sweep.gain, yref="y", yanchor="bottom", xanchor="left", showarrow=False,
        text=f"worth it: {share_text(sweep.gain)}", font={"size": 12, "color": style.MUTED},
    )  # fmt: skip
    figure.add_vline(x=sweep.own.ridge_point, line={"color": style.ACCENT, "width": 1.2, "dash": "dot"})
    figure.add_annotation(
        x=log10(sweep.own.ridge_point), y=1.0, xref="x", yref="paper", yanchor="bottom", showarrow=False,
        text=escape(comparison.device_name), font={"size": 12, "color": style.ACCENT},
    )  # fmt: skip
    figure.update_xaxes(**_log_axis(min(x) / 1.15, max(x) * 1.15))
    figure.update_xaxes(title_text="ridge point (FLOP/byte)", row=2, col=1)
    figure.update_yaxes(title_text="time saved (%)", row=1, col=1)
    figure.update_yaxes(title_text="memory-bound (%)", range=[0, 100], row=2, col=1)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _bands_figure(comparison: Comparison, bands: Mapping[str, Band], x_title: str, what: str) -> go.Figure:
    of_strategy = colors(comparison)
    figure = figure_of(height=460, hovermode="closest", margin={"l": 64, "r": _RIGHT, "t": 24, "b": 60})
    for name, band in bands.items():
        if np.isfinite(band.low).all():
            for y, fill in ((band.low, None), (band.high, "tonexty")):
                figure.add_trace(
                    go.Scatter(
                        x=band.x, y=y, mode="lines", hoverinfo="skip", showlegend=False, line={"width": 0}, fill=fill,
                        fillcolor=_faint(of_strategy[name]), legendgroup=name,
                    )
                )  # fmt: skip
    for name, band in bands.items():
        figure.add_trace(
            go.Scatter(
                x=band.x, y=band.y, mode="lines", name=escape(name), legendgroup=name,
                line={"color": of_strategy[name], "width": 2.5},
                hovertemplate=f"{escape(name)} at %{{x:.4g}}: %{{y:.2f}} {what}<extra></extra>",
            )
        )  # fmt: skip
    low, high = band_window(bands)
    right = max(float(band.x[-1]) for band in bands.values())
    figure.add_hline(y=0.0, line={"color": of_strategy[comparison.baseline], "width": 2})
    labels = {name: float(band.y[-1]) for name, band in bands.items()}
    _label(figure, {**labels, comparison.baseline: 0.0}, of_strategy, right, (low, high))
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(range=[low, high])
    return figure


def _step_line(name: str, steps: Steps, color: str, judged: str, right: float, dash: str = "solid") -> go.Scatter:
    return go.Scatter(
        x=_to(steps.x, right), y=_hold(steps.y), mode="lines", name=escape(name), legendgroup=name,
        line={"color": color, "width": 2.5 if dash == "solid" else 1.8, "shape": "hv", "dash": dash},
        hovertemplate=f"{escape(name)}: %{{y:.2f}} % {escape(judged)} in %{{x:.4g}} ms<extra></extra>",
    )  # fmt: skip


def _limit_line(name: str, steps: Steps, color: str, judged: str) -> go.Scatter:
    return go.Scatter(
        x=steps.x, y=steps.y, mode="lines", name=f"{escape(name)}, unlimited", legendgroup=name, showlegend=False,
        line={"color": color, "width": 1.3, "shape": "hv", "dash": "dash"},
        hovertemplate=f"{escape(name)}, unlimited budget: %{{y:.2f}} % {escape(judged)} in %{{x:.4g}} ms"
        "<extra></extra>",
    )  # fmt: skip


def _mean_mark(
    estimate: Estimate, at: float, color: str, scale: float, name: str, in_legend: bool, hover: str
) -> go.Scatter:
    minus, plus = bounds_of(estimate)
    return go.Scatter(
        x=[scale * estimate.value], y=[at], mode="markers", name=name, showlegend=in_legend,
        marker={"size": 13, "color": color, "symbol": "diamond", "line": {"color": "white", "width": 1.5}},
        error_x={
            "type": "data", "symmetric": False, "array": [scale * plus], "arrayminus": [scale * minus],
            "color": color, "thickness": 2, "width": 5, "visible": isfinite(estimate.low),
        },
        hovertemplate=f"{escape(hover)}<extra></extra>",
    )  # fmt: skip


def _label(
    figure: go.Figure, places: Mapping[str, float], of_name: Mapping[str, str], right: float, y: tuple[float, float]
) -> None:
    """Names beside the ends of their lines; they vanish with them when a name of the legend is clicked."""
    height = y[1] - y[0]
    heights = spread([min(max(place, y[0]), y[1]) for place in places.values()], _LABEL_GAP * height, y[1])
    for name, at in zip(places, heights):
        figure.add_trace(
            go.Scatter(
                x=[right], y=[at], mode="text", text=[f" {escape(name)}"], textposition="middle right",
                cliponaxis=False, textfont={"color": of_name[name], "size": 12.5}, hoverinfo="skip",
                showlegend=False, legendgroup=name,
            )
        )  # fmt: skip


def _rows(figure: go.Figure, names: Sequence[str]) -> None:
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[escape(name) for name in names], automargin=True, showgrid=False,
        range=[len(names) - 0.45, -0.55],
    )  # fmt: skip


def _log_axis(low: float, high: float) -> dict[str, Any]:
    ticks = log_ticks(low, high)
    ends = [log10(low), log10(high)]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _latency_title(comparison: Comparison) -> str:
    return f"{'measured' if comparison.is_measured else 'predicted'} latency (ms)"


def _to(x: Floats, right: float) -> np.ndarray:
    return np.append(x, max(right, x[-1]))


def _hold(y: Floats) -> np.ndarray:
    return np.append(y, y[-1])


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.16)"
