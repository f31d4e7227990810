"""Predicted against measured, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from predictors.validation.comparison import OURS, Comparison, scores

MAX_ROWS = 6
"""Of more comparisons than this all things stand in one row of panels, and below it ours of each comparison."""

MAX_PANELS = 12
"""Of more comparisons than this only the worst stand there."""

_OURS_COLOUR, _OTHER_COLOUR = "#2f5fd0", "#8a8f98"
_INK, _FAINT, _GRID, _BAND = "#25282e", "#6b7280", "#e6e8eb", "#c9daf8"
_NAMED = 3
_LONGEST_NAME = 26
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_MARGIN = 1.25

Array = NDArray[np.float64]


def draw(path: Path, title: str, comparisons: Sequence[Comparison]) -> None:
    """A row of panels a comparison, a panel a model: predicted over measured on logarithmic axes of one scale, with the
    line where both are equal and a band of 10 % about it. Ours names its worst. What a model predicts beyond the axes,
    which are made for what was measured, stands at their border.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(comparisons) if len(comparisons) <= MAX_ROWS else [_pooled(comparisons)]
    models = list(dict.fromkeys(model for row in rows for model in row.predicted_s_N))
    panels: list[list[tuple[Comparison, str] | None]] = [
        [(row, model) if model in row.predicted_s_N else None for model in models] for row in rows
    ]
    if len(comparisons) > MAX_ROWS:
        panels += _each_by_itself(comparisons, len(models))
    figure, axes_RM = pyplot.subplots(
        len(panels), len(models), figsize=(3.9 * len(models), 4.0 * len(panels) + 0.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for number, (row_of_panels, axes_M) in enumerate(zip(panels, axes_RM)):
        for place, (panel, axes) in enumerate(zip(row_of_panels, axes_M)):
            if panel is None:
                axes.set_axis_off()
                continue
            row, model = panel
            named = number < len(rows)
            _panel(axes, row, model, "" if named else row.name)
            if place == 0:
                axes.set_ylabel(f"{_broken(row.name)}\n\npredicted" if named else "predicted", fontsize=9, color=_INK)
    for axes in axes_RM[-1]:
        axes.set_xlabel("measured", fontsize=9, color=_INK)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# ------------------------------------------------------------------------------------------------------------ private


def _each_by_itself(comparisons: Sequence[Comparison], num_columns: int) -> list[list[tuple[Comparison, str] | None]]:
    """Ours of each comparison, or of the worst, in rows."""
    if len(comparisons) > MAX_PANELS:
        by_error = sorted(comparisons, key=lambda each: -scores(each.measured_s_N, each.predicted_s_N[OURS]).mape)
        comparisons = by_error[:MAX_PANELS]
    found: list[tuple[Comparison, str] | None] = [(each, OURS) for each in comparisons]
    found += [None] * (-len(found) % num_columns)
    return [found[start : start + num_columns] for start in range(0, len(found), num_columns)]


def _panel(axes: Any, row: Comparison, model: str, name: str) -> None:
    """One model of one comparison; its name, if any, stands in the title."""
    measured_N, predicted_N = row.measured_s_N, row.predicted_s_N[model]
    shown = np.concatenate([measured_N, row.predicted_s_N[OURS]])
    low, high = float(shown.min()) / _MARGIN, float(shown.max()) * _MARGIN
    ends = np.array([low, high])
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.fill_between(ends, ends * 0.9, ends * 1.1, color=_BAND, linewidth=0, zorder=1)
    count = len(measured_N)
    shown_N = np.clip(predicted_N, low, high)
    axes.scatter(
        measured_N, shown_N, s=float(np.clip(3000.0 / count, 2.0, 20.0)), zorder=3, linewidths=0, clip_on=False,
        color=_OURS_COLOUR if model == OURS else _OTHER_COLOUR, alpha=float(np.clip(300.0 / count, 0.3, 0.8)),
    )  # fmt: skip
    axes.plot(ends, ends, color=_INK, linewidth=0.7, zorder=4)
    if model == OURS and len(row.labels) == count:
        _name_worst(axes, row.labels, measured_N, shown_N)
    found = scores(measured_N, predicted_N)
    head = _broken(f"{model}: {name}" if name else model, 44)
    body = f"MAPE {found.mape:.1%}, {found.within_10:.0%} within 10 %, Spearman {found.spearman:.3f}"
    axes.set_title(f"{head}\n{body}", loc="left", fontsize=8.5, color=_INK)
    beyond = int(((predicted_N < low) | (predicted_N > high)).sum())
    notes = ["line: equal; band: 10 %", *([f"{beyond:,} at the border lie beyond"] if beyond else [])]
    axes.text(0.02, 0.98, "\n".join(notes), transform=axes.transAxes, fontsize=7, va="top", color=_FAINT)
    _label(axes.xaxis, low, high)
    _label(axes.yaxis, low, high)
    axes.tick_params(which="both", labelsize=8, colors=_INK, length=3)
    axes.grid(True, which="major", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axis: Any, low: float, high: float) -> None:
    """Ticks at powers of ten, or where there are few of them also between; each in the unit that reads best."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = (1.0,) if high / low > 200.0 else (1.0, 3.0) if high / low > 12.0 else (1.0, 2.0, 3.0, 5.0, 7.0)
    ticks = [step * decade for decade in decades for step in steps if low <= step * decade <= high]
    while len(ticks) > 6:
        ticks = ticks[::2]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: _text(seconds)))


def _text(seconds: float) -> str:
    """E.g. '30 us'."""
    factor, unit = next((each for each in _UNITS if seconds >= 0.999 * each[0]), _UNITS[-1])
    return f"{seconds / factor:.3g} {unit}"


def _name_worst(axes: Any, labels: Sequence[str], measured_N: Array, shown_N: Array) -> None:
    """Names of the worst few, where they are short enough to stand beside their points."""
    error_N = np.abs(np.log(shown_N / measured_N))
    low, high = axes.get_xlim()
    for index in np.argsort(error_N)[::-1][:_NAMED]:
        if error_N[index] <= 0.1 or len(labels[index]) > _LONGEST_NAME:
            continue
        x, y = measured_N[index], shown_N[index]
        # Away from the line where the axes leave room for it.
        x_share, y_share = np.log([x / low, y / low]) / np.log(high / low)
        right = x_share > (0.3 if y > x else 0.7)
        up = y_share < 0.05 or (y > x and y_share < 0.95)
        axes.annotate(
            labels[index], (x, y), xytext=(-4 if right else 4, 3 if up else -3), textcoords="offset points", zorder=5,
            fontsize=7, color=_INK, ha="right" if right else "left", va="bottom" if up else "top",
        )  # fmt: skip


def _pooled(comparisons: Sequence[Comparison]) -> Comparison:
    """All things of all comparisons, of the models that all have."""
    models = [
        model for model in comparisons[0].predicted_s_N if all(model in each.predicted_s_N for each in comparisons)
    ]
    predicted: Mapping[str, Array] = {
        model: np.concatenate([each.predicted_s_N[model] for each in comparisons]) for model in models
    }
    return Comparison(
        name=f"all {len(comparisons)} comparisons together",
        measured_s_N=np.concatenate([each.measured_s_N for each in comparisons]),
        predicted_s_N=predicted,
    )


def _broken(text: str, width: int = 46) -> str:
    """Text in lines."""
    from textwrap import wrap

    return "\n".join(wrap(text, width))
