"""The measured roofline with the measured kernels on it."""

from pathlib import Path

import matplotlib
import numpy as np

from predictors.cost import kernel_cost
from predictors.device import Device
from predictors.lookup_table import LookupTable

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")
_OTHER = "#9498a0"
_MIN_INTENSITY, _MAX_INTENSITY = 1e-2, 1e3


def draw_roofline(path: Path, device: Device, table: LookupTable) -> None:
    """A PNG: arithmetic intensity against FLOP/s, one line a level of memory, one point a kernel.

    Kernels without multiply-accumulates have no place on it; they stand in a second panel, by bytes and byte/s.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    dtype = table.header.dtype
    peak = device.peak_flops(dtype)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), width_ratios=(3, 2), layout="constrained")
    intensity = np.geomspace(_MIN_INTENSITY, _MAX_INTENSITY, 200)
    for number, level in enumerate(device.memory):
        roof = np.minimum(peak, intensity * level.bandwidth.value)
        style = "-" if number == len(device.memory) - 1 else ":"
        left.plot(intensity, roof / 1e9, style, color="#333333", linewidth=1.2)
        label = f"{level.name}, {level.bandwidth.value / 1e9:.3g} GB/s"
        right.axhline(level.bandwidth.value / 1e9, linestyle=style, color="#333333", linewidth=1.2)
        right.annotate(
            label, (1.0, level.bandwidth.value / 1e9), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
            va="bottom", color="#333333",
        )  # fmt: skip
    x = _MIN_INTENSITY * 3
    left.annotate(f"{device.bandwidth / 1e9:.3g} GB/s", (x, x * device.bandwidth / 1e9), fontsize=8, va="top")
    left.annotate(f"{peak / 1e9:.4g} GFLOP/s", (_MAX_INTENSITY, peak / 1e9), fontsize=8, ha="right", va="bottom")

    points: dict[str, list[tuple[float, float]]] = {}
    movers: dict[str, list[tuple[float, float]]] = {}
    for kernel, entry in table.entries.items():
        cost = kernel_cost(kernel, device.channel_alignment)
        if cost.macs:
            found = cost.arithmetic_intensity, cost.flops / entry.latency_p50_s / 1e9
            points.setdefault(kernel.classes[-1], []).append(found)
        movers.setdefault(kernel.classes[-1], []).append(
            (float(cost.traffic_bytes), cost.traffic_bytes / entry.latency_p50_s / 1e9)
        )
    frequent = sorted(movers, key=lambda kind: len(movers[kind]), reverse=True)[: len(_COLOURS)]
    colours = dict(zip(frequent, _COLOURS))
    for axes, groups in ((left, points), (right, movers)):
        for kind, found_points in sorted(groups.items(), key=lambda item: -len(item[1])):
            x_N, y_N = np.array(found_points).T
            label = f"{kind} ({len(found_points)})" if kind in colours else "_"
            axes.scatter(x_N, y_N, s=11, alpha=0.7, linewidths=0, color=colours.get(kind, _OTHER), label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xlabel("arithmetic intensity, FLOP per byte")
    left.set_ylabel("GFLOP/s")
    left.set_title("Kernels that compute", loc="left", fontsize=11)
    right.set_xlabel("bytes moved")
    right.set_ylabel("GB/s")
    right.set_title("All kernels, by what they move", loc="left", fontsize=11)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(
        f"{device.name}: {device.description}, {table.header.runtime} {table.header.runtime_version}, {dtype}, "
        f"{table.header.threads} thread{'' if table.header.threads == 1 else 's'}, {table.header.date}",
        fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
