"""The report as one PNG, with matplotlib's objects alone: no browser, no display, no global state."""

import io
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from predictors.explanation import style
from predictors.explanation.explaining import Explanation
from predictors.explanation.report import Report
from predictors.explanation.roofline_points import roofline_picture
from predictors.explanation.rows import BOUNDS
from predictors.explanation.text import bytes_text, time_text

_MOST_BARS = 24


def report_png(report: Report) -> bytes:
    """The picture as PNG of 110 dots per inch."""
    buffer = io.BytesIO()
    report_picture(report).savefig(buffer, format="png", metadata={"Software": "ridgeline"})
    return buffer.getvalue()


def report_picture(report: Report) -> Figure:
    """One row a device: the roofline with every kernel, the time of the stages, the activations alive."""
    count = len(report.explanations)
    figure = Figure(figsize=(19, 0.9 + 5.4 * count), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    rows = figure.subplots(count, 3, squeeze=False, width_ratios=(1.25, 1, 1))
    for (left, middle, right), each in zip(rows, report.explanations):
        for axes in (left, middle, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color=style.GRID)
            axes.set_axisbelow(True)
        _draw_roofline(left, each)
        _draw_stages(middle, each)
        _draw_memory(right, each)
    handles: list[Line2D | Patch] = [_bound_mark(bound) for bound in BOUNDS]
    if any(each.prediction.overhead_s for each in report.explanations):
        handles.append(Patch(color=style.OVERHEAD_COLOR, label=style.OVERHEAD))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    unknown = f"; unknown operators: {', '.join(each.name for each in report.unknown)}" if report.unknown else ""
    figure.suptitle(f"{report.title}{unknown}", fontsize=13)
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _draw_roofline(axes: Axes, explanation: Explanation) -> None:
    picture = roofline_picture(explanation.device, explanation.dtypes, explanation.rows)
    for slope, (_, dash) in zip(picture.slopes, cycle(style.DASHES)):
        axes.plot(slope.x, _giga(slope.y), dash, color=style.INK, linewidth=1.3, label=slope.text)
    for peak in picture.peaks:
        axes.plot(peak.x, _giga(peak.y), "-", color=style.INK, linewidth=1.3)
        axes.annotate(
            peak.text, (peak.x[1], peak.y[1] / 1e9), xytext=(0, 3), textcoords="offset points", ha="right", va="bottom",
            fontsize=8.5, color=style.INK,
        )  # fmt: skip
    ridges = picture.ridges
    axes.plot(
        [each.x for each in ridges], _giga([each.y for each in ridges]), "o", color=style.INK, markerfacecolor="white",
        markersize=6, zorder=4,
    )  # fmt: skip
    if picture.movers_right is not None:
        axes.axvspan(picture.x_range[0], picture.movers_right, color=style.GRID, alpha=0.5, linewidth=0)
        axes.annotate(
            "only move\ndata", (picture.movers_right, 0.99), xycoords=("data", "axes fraction"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="top", fontsize=8.5, color=style.MUTED,
        )  # fmt: skip
    for bound in BOUNDS:
        points = [point for point in picture.points if point.row.bound == bound]
        axes.scatter(
            [point.x for point in points], _giga([point.y for point in points]),
            s=[(0.6 * style.mark_size(point.row.share)) ** 2 for point in points], color=style.BOUND_COLORS[bound],
            marker=style.BOUND_SYMBOLS[bound].matplotlib, alpha=0.75, linewidths=0.5, zorder=3,
            edgecolors=["black" if point.row.provenance == "unknown" else "white" for point in points],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(picture.x_range)
    axes.set_ylim(*_giga(picture.y_range))
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel("attained performance (GFLOP/s)")
    axes.legend(loc="lower right", fontsize=8.5, framealpha=0.85, edgecolor="none")
    prediction = explanation.prediction
    latency = time_text(prediction.latency_s, prediction.std_s)
    axes.set_title(f"{explanation.device.name}: {latency}, {len(explanation.rows)} kernels", fontsize=11, loc="left")


def _draw_stages(axes: Axes, explanation: Explanation) -> None:
    """Of very many stages those that take longest, which is said."""
    found = explanation.stages
    longest = sorted(found, key=lambda stage: -stage.latency_s)[:_MOST_BARS]
    shown = [stage for stage in found if stage in longest]
    names = [stage.name for stage in shown]
    places = list(range(len(shown)))
    left = [0.0] * len(shown)
    for bound in BOUNDS:
        widths = [1e3 * stage.bound_s[bound] for stage in shown]
        axes.barh(places, widths, left=left, color=style.BOUND_COLORS[bound], height=0.7)
        left = [start + width for start, width in zip(left, widths)]
    if explanation.prediction.overhead_s:
        places.append(len(shown))
        names.append(style.OVERHEAD)
        axes.barh([len(shown)], [1e3 * explanation.prediction.overhead_s], color=style.OVERHEAD_COLOR, height=0.7)
    axes.set_yticks(places, names, fontsize=8.5)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time (ms)")
    some = "" if len(shown) == len(found) else f", the longest {len(shown)} of {len(found)}"
    axes.set_title(f"stages by module path{some}", fontsize=11, loc="left")


def _draw_memory(axes: Axes, explanation: Explanation) -> None:
    memory = explanation.memory
    steps = range(1, len(memory.live_bytes) + 1)
    live_mb = [each / 1e6 for each in memory.live_bytes]
    axes.bar(steps, live_mb, width=1.0, color=style.OVERHEAD_COLOR, linewidth=0)
    at_peak = memory.peak_step
    axes.bar([at_peak], [live_mb[at_peak - 1]], width=1.0, color=style.INK, linewidth=0)
    row = explanation.rows[at_peak - 1]
    right_half = at_peak > len(live_mb) / 2
    axes.annotate(
        f"{bytes_text(memory.peak_live_bytes)} at {row.name or row.kind}, step {at_peak}",
        (at_peak, live_mb[at_peak - 1]),
        xytext=(-6 if right_half else 6, 4), textcoords="offset points", fontsize=8.5,
        ha="right" if right_half else "left", va="bottom",
    )  # fmt: skip
    axes.set_xlim(0.5, len(live_mb) + 0.5)
    axes.set_ylim(0.0, 1.15 * max(live_mb))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("step")
    axes.set_ylabel("activations alive (MB)")
    peak = f"peak memory {bytes_text(memory.peak_bytes)}, {bytes_text(memory.weight_bytes)} of it weights"
    axes.set_title(peak, fontsize=11, loc="left")


def _bound_mark(bound: str) -> Line2D:
    return Line2D(
        [], [], marker=style.BOUND_SYMBOLS[bound].matplotlib, color=style.BOUND_COLORS[bound], linestyle="none",
        markersize=8, label=f"{bound} bound",
    )  # fmt: skip


def _giga(values: Sequence[float]) -> list[float]:
    return [each / 1e9 for each in values]
