"""The same archs and devices as `help_latency`, through `calibrate` and `LatencyPredictor` as a user calls them.

A stand-in's file is the device's: a V100's for GPUs, a server core's for servers, a phone core's for all others. It
says little of the device that is measured, which is the point. Two draws of ten measured archs a device; 200 of the
others are predicted, each as a graph.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from predictors.calibration import calibrate
from predictors.cost import kernel_cost
from predictors.device import Device, load_device
from predictors.fusion import fuse, load_runtime
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.roofline import roofline
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison
from predictors.validation.help_latency import (
    DTYPE,
    FILES,
    FIRST_DRAW,
    NUM_MEASURED,
    Space,
    batch_of,
    read_spaces,
    runtimes_of,
    scaled,
    similar,
)

__all__ = ["FILES", "GOAL", "SUMMARY", "TITLE", "compare"]

TITLE = (
    "NAS-Bench-201 and the FBNet space through `calibrate`: ten random archs rank 200 others, 2 draws on each device"
)
GOAL = "mean Spearman at least 0.97 (HELP: 0.932)"
SUMMARY = "mean"

NUM_DRAWS = 2
NUM_ARCHS = 210


def compare(data: Path) -> list[Comparison]:
    """One comparison a draw, device and space, so that their mean is that over the devices."""
    return [each for space in read_spaces(data, NUM_ARCHS) for each in compare_space(space)]


def compare_space(space: Space, num_draws: int = NUM_DRAWS) -> Iterator[Comparison]:
    """Every device of a space; both baselines have one factor fitted on the measured archs too."""
    for index, name in enumerate(space.devices):
        runtime = runtimes_of(name)[0]
        graphs = [space.graph(arch, batch_of(name), runtime) for arch in space.archs]
        stand_in = replace(load_device(similar(name)), runtime=runtime)
        macs_N = np.array([graph.macs for graph in graphs], dtype=np.float64)
        roofline_s_N = np.array([_roofline_s(graph, stand_in) for graph in graphs])
        measured_s_N = space.measured_s_ND[:, index]
        for draw in range(num_draws):
            order = np.random.default_rng(FIRST_DRAW + draw).permutation(len(graphs))
            few, rest = order[:NUM_MEASURED], order[NUM_MEASURED:]
            pairs = [(graphs[each], float(measured_s_N[each])) for each in few]
            device = calibrate(stand_in, pairs, dtype=DTYPE, tables=())
            predictor = LatencyPredictor(device, (), dtype=DTYPE)
            predictions = [predictor.predict(graphs[each]) for each in rest]
            yield Comparison(
                name=f"{space.name}, {name}, draw {draw}",
                measured_s_N=measured_s_N[rest],
                predicted_s_N={
                    OURS: np.array([prediction.latency_s for prediction in predictions]),
                    MACS_BASELINE: scaled(macs_N, measured_s_N, few)[rest],
                    ROOFLINE_BASELINE: scaled(roofline_s_N, measured_s_N, few)[rest],
                },
                std_s_N=np.array([prediction.std_s for prediction in predictions]),
            )


# ------------------------------------------------------------------------------------------------------------ private


def _roofline_s(graph: Graph, device: Device) -> float:
    kernel_nodes = fuse(graph, load_runtime(device.runtime), DTYPE)
    return sum(roofline(kernel_cost(node.kernel), device, DTYPE).latency_s for node in kernel_nodes)
