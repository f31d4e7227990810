"""Relative hypervolume against evaluations, a panel a task, a line with a band a sampler."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nas.benchmark.curves import value_after
from nas.benchmark.results import Run
from nas.benchmark.statistics import mean_of
from nas.benchmark.summary import curves_of, of_task
from nas.files import replacing
from nas.report import style

_COLOURS: Mapping[str, str] = {
    "random": style.NEUTRAL, "nsga2": style.PALETTE["blue"], "nsga2_50": style.PALETTE["sky"],
    "nsga3": style.PALETTE["pink"], "tpe": style.PALETTE["orange"], "gp": style.PALETTE["green"],
    "predictor": style.PALETTE["red"],
}  # fmt: skip
_OTHER = "#25282e"
_NUM_PLACES = 60
_FIRST = 10
_LOWEST_SHARE = 0.3
"""A panel begins where curves that are this share of all points on it lie below: the upper part is what differs."""


def draw(path: Path, runs: Sequence[Run], best: Mapping[str, Mapping[str, float]], point: str) -> None:
    """Write a PNG: means over seeds, with Student's 95 % interval as a band.

    Args:
        best: by task and reference point, the hypervolume that counts as 1.
    """
    figure = Figure(figsize=(5.6 * len(best) + 1.4, 4.4), layout="constrained", dpi=130)
    axes_T = np.atleast_1d(figure.subplots(1, len(best), squeeze=False)[0])
    for axes, (task, best_of_task) in zip(axes_T, best.items()):
        lowest = []
        for sampler, of_sampler in of_task(runs, task).items():
            last = min(run.num_evaluations for run in of_sampler)
            places = np.unique(np.geomspace(min(_FIRST, last), last, _NUM_PLACES).round().astype(int))
            curves = curves_of(of_sampler, point, best_of_task)
            means = [mean_of([value_after(steps, int(place)) for steps in curves]) for place in places]
            middle = 100 * np.array([mean.value for mean in means])
            half = 100 * np.nan_to_num([mean.half_width for mean in means])
            colour = _COLOURS.get(sampler, _OTHER)
            axes.fill_between(places, middle - half, middle + half, color=colour, alpha=0.15, linewidth=0)
            dashes = "-" if sampler in _COLOURS else ":"
            axes.plot(places, middle, dashes, color=colour, linewidth=1.6, label=f"{sampler} ({len(of_sampler)} seeds)")
            lowest.append(float(np.quantile(middle, _LOWEST_SHARE)))
        axes.set_xscale("log")
        axes.set_ylim(min(lowest) - 1.0, 100.3)
        axes.axhline(100.0, color=style.INK, linewidth=0.7)
        axes.set_title(f"{task}, reference point {point!r}", loc="left", fontsize=10, color=style.INK)
        axes.set_xlabel("evaluated networks", fontsize=9, color=style.INK)
        axes.set_ylabel("hypervolume, % of the best", fontsize=9, color=style.INK)
        axes.grid(True, which="major", color=style.GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    lines = {line.get_label(): line for axes in axes_T for line in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=[*lines.values()], fontsize=8, frameon=False, loc="outside right upper")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "ridgeline"})
