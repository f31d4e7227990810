"""The same pictures as PNG, with matplotlib's objects alone: no browser, no display, no global state."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nas.files import replacing
from nas.report import style
from nas.report.breakdown import (
    axis_title,
    drawable,
    error_axis_title,
    error_name,
    intensity_range,
    longest_bar_s,
    relative_hypervolumes,
    scaled,
    staircase,
    time_by_kind,
)
from nas.report.chosen import ChosenSubnet
from nas.result import Candidate, SearchResult
from predictors.explanation.roofs import roofs
from predictors.latency import PROVENANCES


def save_picture(figure: Figure, path: Path) -> None:
    """Write a PNG of 150 dots per inch, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "ridgeline"})


def front_picture(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> Figure:
    """Error against latency: all candidates, the front, the chosen subnets."""
    figure, axes = picture_of(7.5, 5.2)
    on_front = set(result.front)
    rest = [each for index, each in enumerate(result.candidates) if each.feasible and index not in on_front]
    infeasible = [each for each in result.candidates if not each.feasible]
    front = [result.candidates[index] for index in result.front]
    if infeasible:
        axes.plot(*_points(infeasible), "x", color=style.FAINT, markersize=5, label="misses a constraint")
    if rest:
        axes.plot(*_points(rest), "o", color=style.FAINT, markersize=5, label="candidate")
    steps = staircase([each.metrics for each in front], "latency_s")
    line = [scaled(each, "latency_s") for each in steps], [scaled(each, "error") for each in steps]
    axes.step(*line, where="post", color=style.FRONT, linewidth=1.2)
    if front:
        axes.plot(*_points(front), "o", color=style.FRONT, markersize=6, markeredgecolor="white", label="front")
    for subnet, symbol in zip(chosen, style.SYMBOLS):
        axes.plot(
            *_points([subnet.candidate]), symbol.matplotlib, color=style.ACCENT, markersize=10,
            markeredgecolor="white", linestyle="none", label=subnet.title,
        )  # fmt: skip
    if "latency_s" in result.constraints:
        axes.axvline(scaled(result.constraints, "latency_s"), color=style.MUTED, linestyle="--", label="constraint")
    if "error" in result.constraints:
        axes.axhline(scaled(result.constraints, "error"), color=style.MUTED, linestyle="--")
    axes.set_xlabel(axis_title("latency_s"))
    axes.set_ylabel(error_axis_title(result))
    axes.set_title(
        f"{result.space.name} on {result.predictor.device.name}: {error_name(result)} against predicted latency"
    )
    axes.legend(frameon=False)
    return figure


def hypervolume_picture(result: SearchResult) -> Figure:
    """Hypervolume of the front after each candidate, as a share of the last one."""
    figure, axes = picture_of(7.5, 3.6)
    axes.step(range(1, len(result.hypervolumes) + 1), relative_hypervolumes(result), where="post", color=style.FRONT)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("candidates evaluated")
    axes.set_ylabel("hypervolume (% of the final)")
    axes.set_title("What the search gained with each candidate")
    return figure


def kernels_picture(chosen: Sequence[ChosenSubnet]) -> Figure:
    """Predicted time by kind of kernel, stacked by where the time comes from, one panel for each network."""
    kinds = list(dict.fromkeys(kind for subnet in chosen for kind in time_by_kind(subnet.prediction)))
    rows = [*kinds, style.OVERHEAD] if any(subnet.prediction.overhead_s for subnet in chosen) else kinds
    figure = Figure(figsize=(1.8 + 3.0 * len(chosen), 2.1 + 0.3 * len(rows)), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15)
    panels = figure.subplots(1, len(chosen), sharex=True, sharey=True, squeeze=False)[0]
    for axes, subnet in zip(panels, chosen):
        plain_axes(axes)
        by_kind = time_by_kind(subnet.prediction)
        left = [0.0] * len(kinds)
        for provenance in PROVENANCES:
            widths = [1e3 * by_kind[kind][provenance] if kind in by_kind else 0.0 for kind in kinds]
            axes.barh(kinds, widths, left=left, color=style.PROVENANCE_COLORS[provenance], height=0.65)
            left = [start + width for start, width in zip(left, widths)]
        if rows != kinds:
            axes.barh([style.OVERHEAD], [1e3 * subnet.prediction.overhead_s], color=style.OVERHEAD_COLOR, height=0.65)
        axes.set_title(f"{subnet.title}: {1e3 * subnet.prediction.latency_s:.3g} ms", fontsize=10)
        axes.set_xlabel("time (ms)")
        axes.grid(visible=False, axis="y")
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, 1.05e3 * max(longest_bar_s(subnet.prediction) for subnet in chosen))
    figure.suptitle(f"Predicted time on {chosen[0].prediction.device.name} by kind of kernel", fontsize=11)
    patches = [Patch(color=style.PROVENANCE_COLORS[each], label=style.PROVENANCE_WORDS[each]) for each in PROVENANCES]
    figure.legend(handles=patches, loc="outside lower center", ncols=3 if len(chosen) > 1 else 1, frameon=False)
    return figure


def roofline_picture(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> Figure:
    """Attained FLOP/s against FLOP per byte, both logarithmic: the device's roofs and the kernels of some networks."""
    figure, axes = picture_of(7.5, 6.4)
    low, high = intensity_range(result.predictor.device, result.predictor.dtype, [each.prediction for each in chosen])
    handles: list[Line2D] = []
    for roof, (_, dash) in zip(roofs(result.predictor.device, result.predictor.dtype), cycle(style.DASHES)):
        x = [low, roof.ridge_point, max(high, roof.ridge_point)]
        y = [roof.attainable_flops(each) / 1e9 for each in x]
        handles += axes.plot(x, y, dash, color=style.INK, linewidth=1.4, label=roof.text)
        axes.plot(x[1], y[1], "o", color=style.INK, markerfacecolor="white", markersize=6)
    for subnet, symbol in zip(chosen, style.SYMBOLS):
        kernels = drawable(subnet.prediction)
        axes.scatter(
            [kernel.cost.arithmetic_intensity for kernel in kernels],
            [kernel.cost.flops / kernel.latency_s / 1e9 for kernel in kernels],
            s=[(0.6 * style.mark_size(kernel.latency_s / subnet.prediction.latency_s)) ** 2 for kernel in kernels],
            c=[style.PROVENANCE_COLORS[kernel.provenance] for kernel in kernels],
            marker=symbol.matplotlib, alpha=0.75, edgecolors="white", linewidths=0.5, zorder=3,
        )  # fmt: skip
        handles.append(_mark(symbol.matplotlib, style.MUTED, subnet.title))
    handles += [_mark("o", style.PROVENANCE_COLORS[each], style.PROVENANCE_WORDS[each]) for each in PROVENANCES]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel("attained performance (GFLOP/s)")
    axes.set_title(f"Kernels under the roofs of {result.predictor.device.name}, {result.predictor.dtype}")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def picture_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with plain axes."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """A light grid, and no frame at the top and the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=style.GRID)
    axes.set_axisbelow(True)
    axes.title.set_fontsize(11)


# ------------------------------------------------------------------------------------------------------------ private


def _points(group: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [scaled(each.metrics, "latency_s") for each in group], [scaled(each.metrics, "error") for each in group]


def _mark(symbol: str, color: str, label: str) -> Line2D:
    return Line2D([], [], marker=symbol, color=color, linestyle="none", markersize=7, label=label)
