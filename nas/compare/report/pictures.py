"""The same pictures as PNG, with matplotlib's objects alone: no browser, no display, no global state."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
from nas.report.pictures import picture_of, plain_axes
from predictors.explanation.text import number_text, share_text

_LABEL_GAP = 0.052
"""Between labels at the right of a picture, as a share of its height."""


def pictures_of(comparison: Comparison) -> dict[str, Callable[[Comparison], Figure]]:
    """Those that there is anything to draw for, by the name of their file."""
    found: dict[str, Callable[[Comparison], Figure]] = {
        "fronts.png": fronts_picture,
        "hypervolume.png": hypervolume_picture,
    }
    if latency_bands(comparison):
        found["latency_at_equal_accuracy.png"] = latency_picture
    if accuracy_bands(comparison):
        found["accuracy_at_equal_latency.png"] = accuracy_picture
    if comparison.whys:
        found["why.png"] = why_picture
    if comparison.sweep is not None and comparison.sweep.points:
        found["sweep.png"] = sweep_picture
    return found


def fronts_picture(comparison: Comparison) -> Figure:
    """What is judged against latency: each strategy's median attainment surface in its band, the best known front."""
    figure, axes = picture_of(8.2, 5.4)
    curves, of_strategy = front_curves(comparison), colors(comparison)
    window = front_window(comparison, curves)
    for name, each in curves.items():
        if len(each.x_band):
            x, low, high = (_held(values) for values in (each.x_band, each.low, each.high))
            x[-1] = window.x[1]
            axes.fill_between(x, low, high, step="post", color=of_strategy[name], alpha=0.15, linewidth=0)
    for name, steps in limit_steps(comparison).items():
        _step(axes, steps, of_strategy[name], steps.x[-1], "--", 0.9)
    for name, each in curves.items():
        _step(axes, each.median, of_strategy[name], window.x[1], "-", 1.9)
    best = steps_of(comparison.best.losses_B2)
    _step(axes, best, style.INK, window.x[1], ":", 1.5)
    _log_axis(axes, *window.x)
    axes.set_ylim(window.y)
    ends = {name: float(each.median.y[-1]) for name, each in curves.items()}
    _label(axes, {**ends, BEST_NAME: float(best.y[-1])}, {**of_strategy, BEST_NAME: style.INK})
    axes.set_xlabel(_latency_title(comparison))
    axes.set_ylabel(f"{_plain(comparison.judged)} (%)")
    seeds = len(comparison.seeds)
    circles = "; dashed: unlimited budget" if comparison.limits else ""
    half = f"medians of {seeds} searches, half within the band" if seeds > 1 else "one search each"
    _title(axes, f"{comparison.title}: what each strategy finds", f"Upper left is better. Lines: {half}{circles}")
    return figure


def hypervolume_picture(comparison: Comparison) -> Figure:
    """A dot a seed, the mean with its interval, and what the strategy evaluated, had it known the latencies."""
    names, of_strategy = [each.name for each in comparison.strategies], colors(comparison)
    figure, axes = picture_of(7.5, 1.7 + 0.5 * len(names))
    for at, name in enumerate(names):
        standing, color = comparison.standings[name], of_strategy[name]
        volumes = 100.0 * standing.hypervolumes_S
        axes.plot(volumes, at + jitter(len(volumes)), "o", color=color, alpha=0.4, markersize=5.5, markeredgewidth=0)
        _mean(axes, standing.hypervolume, at, color, 100.0)
        if standing.evaluated_hypervolume is not None:
            evaluated = 100.0 * standing.evaluated_hypervolume.value
            axes.plot([evaluated], [at - 0.3], "^", color=color, markerfacecolor="none", markersize=6)
    _rows(axes, names)
    axes.set_xlabel("hypervolume (% of the best known front's)")
    below = "Further right is better. Dots: seeds; diamonds: mean with its interval; triangles: all that was evaluated"
    _title(axes, f"{comparison.title}: how much of the best known front is covered", below)
    return figure


def latency_picture(comparison: Comparison) -> Figure:
    """How much more time than the baseline's networks a strategy's take at equal accuracy, along the front."""
    figure, axes = _bands(comparison, latency_bands(comparison))
    axes.set_xlabel(f"{_plain(comparison.judged)} (%)")
    axes.set_ylabel(f"time beside {_plain(comparison.baseline)} (%)")
    title = f"{comparison.title}: latency at equal {comparison.judged}"
    _title(axes, title, f"Below 0 is faster than {comparison.baseline}. Bands: 95 % intervals of the mean over seeds")
    return figure


def accuracy_picture(comparison: Comparison) -> Figure:
    """How many points more than the baseline's networks a strategy's reach at equal latency, along the front."""
    bands = accuracy_bands(comparison)
    figure, axes = _bands(comparison, bands)
    x = np.concatenate([band.x for band in bands.values()])
    _log_axis(axes, float(x.min()) / 1.01, float(x.max()) * 1.01)
    axes.set_xlabel(_latency_title(comparison))
    axes.set_ylabel(f"{_plain(comparison.judged)} beside {_plain(comparison.baseline)} (points)")
    title = f"{comparison.title}: {comparison.judged} at equal latency"
    _title(axes, title, f"Above 0 is better than {comparison.baseline}. Bands: 95 % intervals of the mean over seeds")
    return figure


def why_picture(comparison: Comparison) -> Figure:
    """Where the time of the chosen networks goes, their intensity beside the ridge point, depthwise convolutions."""
    whys, of_strategy = whys_of(comparison), colors(comparison)
    figure = Figure(figsize=(12.5, 2.2 + 0.42 * len(whys)), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.12)
    shares, intensity, depthwise = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.0), sharey=True)
    for axes in (shares, intensity, depthwise):
        plain_axes(axes)
        axes.grid(visible=False, axis="y")
    for at, each in enumerate(whys):
        left = 0.0
        for bound, color in BOUNDS.items():
            width = 100.0 * each.bound_shares.get(bound, 0.0)
            shares.barh([at], [width], left=left, color=color, height=0.62)
            if width >= 7.0:
                shares.text(
                    left + width / 2, at, f"{width:.0f} %", ha="center", va="center", fontsize=8, color=bar_ink(bound)
                )
            left += width
        _mean(intensity, each.intensity, at, of_strategy[each.strategy], 1.0)
        for offset, estimate, color in (
            (-0.18, each.depthwise_time, style.PALETTE["blue"]),
            (0.18, each.depthwise_macs, style.FAINT),
        ):
            depthwise.barh([at + offset], [100.0 * estimate.value], color=color, height=0.34)
            depthwise.annotate(
                share_text(estimate.value), (100.0 * estimate.value, at + offset), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=8, color=style.INK,
            )  # fmt: skip
    _rows(shares, [each.strategy for each in whys])
    shares.set_xlim(0.0, 100.0)
    shares.set_xlabel("share of the networks' time (%)")
    shares.set_title("Where the time goes", fontsize=10.5, loc="left")
    low, high = intensity_window(whys, comparison.ridge_point)
    _log_axis(intensity, low, high)
    intensity.axvline(comparison.ridge_point, color=style.INK, linestyle="--", linewidth=1.3)
    intensity.set_xlabel("arithmetic intensity (FLOP/byte)")
    intensity.set_title(
        f"Intensity; dashed: ridge point {number_text(comparison.ridge_point)}", fontsize=10.5, loc="left"
    )
    depthwise.set_xlim(
        0.0, 1.25 * max([1.0, *(100.0 * max(each.depthwise_time.value, each.depthwise_macs.value) for each in whys)])
    )
    depthwise.set_xlabel("share of depthwise convolutions (%)")
    depthwise.set_title("Depthwise: time (blue), MACs (grey)", fontsize=10.5, loc="left")
    used = [bound for bound in BOUNDS if any(each.bound_shares.get(bound, 0.0) > 0.0005 for each in whys)]
    patches = [Patch(color=BOUNDS[bound], label=BOUND_NAMES[bound]) for bound in used]
    figure.legend(handles=patches, loc="outside lower left", ncols=len(used), frameon=False, fontsize=9)
    figure.suptitle(
        f"{_plain(comparison.title)}: the networks that each strategy chose", fontsize=11.5, x=0.01, ha="left"
    )
    return figure


def sweep_picture(comparison: Comparison) -> Figure:
    """What choosing by latency saves beside choosing by MACs, and how much memory bounds, by the ridge point."""
    sweep = comparison.sweep
    assert sweep is not None
    figure = Figure(figsize=(7.5, 5.6), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1.0))
    x, own = [point.ridge_point for point in sweep.points], sweep.own
    for axes, values, at, color in (
        (
            upper,
            [saved(point.latency_ratio) for point in sweep.points],
            saved(own.latency_ratio),
            style.PALETTE["blue"],
        ),
        (lower, [100.0 * point.memory_share for point in sweep.points], 100.0 * own.memory_share, BOUNDS["memory"]),
    ):
        plain_axes(axes)
        axes.plot(x, values, "o-", color=color, markersize=4.5, linewidth=1.8)
        axes.axvline(own.ridge_point, color=style.ACCENT, linestyle=":", linewidth=1.2)
        axes.plot([own.ridge_point], [at], "o", color=style.ACCENT, markersize=8, zorder=4)
    upper.axhline(0.0, color=style.INK, linewidth=0.8)
    upper.axhline(100.0 * sweep.gain, color=style.MUTED, linestyle="--", linewidth=1.0)
    upper.annotate(
        f"worth it: {share_text(sweep.gain)}", (0.005, 100.0 * sweep.gain), xycoords=("axes fraction", "data"),
        xytext=(0, 2), textcoords="offset points", fontsize=8.5, color=style.MUTED,
    )  # fmt: skip
    upper.annotate(
        _plain(comparison.device_name), (own.ridge_point, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -2),
        textcoords="offset points", va="top", fontsize=9, color=style.ACCENT,
    )  # fmt: skip
    _log_axis(lower, min(x) / 1.15, max(x) * 1.15)
    lower.set_xlabel("ridge point (FLOP/byte): further right, memory is slower")
    lower.set_ylim(0.0, 100.0)
    lower.set_ylabel("memory-bound (%)")
    upper.set_ylabel("time saved (%)")
    _title(
        upper, f"{comparison.title} with other bandwidths: when latency is worth choosing by",
        "Time that networks chosen by latency save beside networks chosen by MACs, at equal accuracy",
    )  # fmt: skip
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _bands(comparison: Comparison, bands: Mapping[str, Band]) -> tuple[Figure, Axes]:
    figure, axes = picture_of(8.2, 4.6)
    of_strategy = colors(comparison)
    for name, band in bands.items():
        if np.isfinite(band.low).all():
            axes.fill_between(band.x, band.low, band.high, color=of_strategy[name], alpha=0.15, linewidth=0)
    for name, band in bands.items():
        axes.plot(band.x, band.y, "-o" if len(band.x) == 1 else "-", color=of_strategy[name], linewidth=1.9)
    axes.axhline(0.0, color=of_strategy[comparison.baseline], linewidth=1.6)
    axes.set_ylim(band_window(bands))
    axes.margins(x=0.0 if max(len(band.x) for band in bands.values()) > 1 else 0.1)
    ends = {name: float(band.y[-1]) for name, band in bands.items()}
    _label(axes, {**ends, comparison.baseline: 0.0}, of_strategy)
    return figure, axes


def _title(axes: Axes, title: str, below: str) -> None:
    """What it shows, and how to read it."""
    axes.set_title(f"{_plain(title)}\n", fontsize=11.5, loc="left", color=style.INK)
    axes.annotate(
        _plain(below), (0.0, 1.0), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=8.8,
        color=style.MUTED, annotation_clip=False,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Names are anybody's: a dollar sign in them begins no formula."""
    return text.replace("$", r"\$")


def _step(axes: Axes, steps: Steps, color: str, right: float, dash: str, width: float) -> None:
    x = _held(steps.x)
    x[-1] = max(right, x[-1])
    axes.step(x, _held(steps.y), dash, where="post", color=color, linewidth=width)


def _label(axes: Axes, places: Mapping[str, float], of_name: Mapping[str, str]) -> None:
    """Names beside the ends of their lines."""
    low, high = axes.get_ylim()
    gap = _LABEL_GAP * (high - low)
    heights = spread([min(max(place, low), high) for place in places.values()], gap, high - gap / 2)
    for name, at in zip(places, heights):
        axes.annotate(
            _plain(name), (1.0, at), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=9, color=of_name[name], annotation_clip=False,
        )  # fmt: skip


def _mean(axes: Axes, estimate: Estimate, at: float, color: str, scale: float) -> None:
    minus, plus = bounds_of(estimate)
    axes.errorbar(
        [scale * estimate.value], [at], xerr=[[scale * minus], [scale * plus]], fmt="D", color=color, markersize=7,
        markeredgecolor="white", capsize=3, elinewidth=1.6,
    )  # fmt: skip


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.6)
    axes.grid(visible=False, axis="y")


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _held(values: Floats) -> Floats:
    """The last value once more: what a staircase needs to reach further right."""
    return np.append(values, values[-1])


def _latency_title(comparison: Comparison) -> str:
    return f"{'measured' if comparison.is_measured else 'predicted'} latency (ms)"
