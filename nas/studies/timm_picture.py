"""Accuracy against measured latency of published networks, the true front, what each cost picks, and its price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.compare.judging import least_seconds
from nas.compare.records import Floats
from nas.report import style
from nas.studies.timm_judging import Judged, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#8a8f98", "#f0e442", "#0072b2", "#d55e00")
"""Of Okabe and Ito, which people who confuse colours tell apart; in the order of the costs."""
_TICKS = (1, 1.1, 1.25, 1.5, 2, 3, 4)
"""Of prices; larger ones run off the picture and say how large they are."""
_LOWEST_SHARE = 0.02
"""Of the networks that may lie below the picture."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Panel:
    """One device: networks as errors (fractions) and measured seconds, costs by name, and what each is worth.

    Attributes:
        shown: of the costs, those whose picks are drawn; all have a bar.
    """

    title: str
    errors_N: Floats
    seconds_N: Floats
    costs: Mapping[str, Floats]
    judged: Sequence[Judged]
    shown: Sequence[str]


def picture(panels: Sequence[Panel]) -> "Figure":
    """A column a device: fronts above, prices below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * len(panels) + 0.6, 8.2), layout="constrained", dpi=120)
    axes_2T = figure.subplots(2, len(panels), squeeze=False, height_ratios=(1.5, 1))
    colours = dict(zip(panels[0].costs, _COLOURS))
    for (above, below), panel in zip(axes_2T.T, panels):
        _draw_fronts(above, panel, colours)
        _draw_prices(below, panel, colours)
        for axes in (above, below):
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    above = axes_2T[0, 0]
    figure.legend(*above.get_legend_handles_labels(), fontsize=9, frameon=False, ncols=7, loc="outside upper left")
    return figure


# ------------------------------------------------------------------------------------------------------------ private


def _draw_fronts(axes: "Axes", panel: Panel, colours: Mapping[str, str]) -> None:
    milliseconds_N, errors_N = 1e3 * panel.seconds_N, panel.errors_N
    axes.plot(milliseconds_N, 100 * (1 - errors_N), ".", color=style.FAINT, markersize=3, label="a published network")
    true = front_of(errors_N, panel.seconds_N)
    for cost in panel.shown:
        _draw_staircase(axes, panel, front_of(errors_N, panel.costs[cost]), colours[cost], f"picked by {cost}", 1.4)
    _draw_staircase(axes, panel, true, style.INK, "the true front", 2.0)
    axes.set_xscale("log")
    lowest = 100 * (1 - float(np.quantile(errors_N, 1 - _LOWEST_SHARE)))
    axes.set_ylim(lowest, 100 * (1 - errors_N.min()) + 1)
    axes.set_title(panel.title, loc="left", fontsize=10, color=style.INK)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("measured, ms an image: faster to the left", fontsize=9, color=style.INK)
    axes.set_ylabel("ImageNet top-1, %", fontsize=9, color=style.INK)
    axes.grid(True, color=style.GRID, linewidth=0.7)


def _draw_staircase(
    axes: "Axes", panel: Panel, picked: NDArray[np.int64], colour: str, label: str, width: float
) -> None:
    """What the picked networks reach: of each accuracy, the fastest that has it; the most accurate to the right."""
    errors_P = np.unique(panel.errors_N[picked])
    front_F2 = np.stack([panel.errors_N[picked], panel.seconds_N[picked]], axis=1)
    milliseconds_P = 1e3 * np.append(panel.seconds_N.max(), least_seconds(front_F2, errors_P))
    accuracies_P = 100 * (1 - np.append(errors_P[0], errors_P))
    axes.step(milliseconds_P, accuracies_P, where="pre", color=colour, linewidth=width, label=label)


def _draw_prices(axes: "Axes", panel: Panel, colours: Mapping[str, str]) -> None:
    for place, judged in enumerate(reversed(panel.judged)):
        price = judged.price
        axes.barh(place, price.value - 1, left=1, height=0.6, color=colours[judged.cost])
        axes.plot([price.low, price.high], [place, place], color=style.INK, linewidth=1.2)
        end = min(float(np.nanmax([price.value, price.high])), _TICKS[-1])
        beside = {"ha": "left"} if end < _TICKS[-1] else {"ha": "right", "bbox": {"color": "white", "pad": 1}}
        axes.text(end, place, f" {price.value:.2f}", va="center", fontsize=9, color=style.INK, **beside)
    axes.set_yticks(range(len(panel.judged)), [each.cost for each in reversed(panel.judged)], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(1, _TICKS[-1])
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS], fontsize=9)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("seconds of the networks that it picks / the true front's", fontsize=9, color=style.INK)
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.7)
