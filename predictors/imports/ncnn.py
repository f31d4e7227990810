"""What ncnn prints when it is built with NCNN_BENCHMARK: one line a layer and run, in ms with two decimals.

    Convolution              n3_Convolution                     0.35ms    | [ 32,  32,   3 *1] -> [ 32,  32,   4 *4]

Lines of whole networks, as `benchncnn` always prints them, are read where there are no others: they say what a network
of one kernel takes. Source: github.com/Tencent/ncnn, `src/benchmark.cpp` and `benchmark/benchncnn.cpp`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from predictors.fusion import KernelNode
from predictors.imports.layers import LayerTimes, nodes_in, runs_of, seconds
from predictors.imports.manifest import ExportedModel

_LAYER = re.compile(r"^(\S+)\s+(\S+)\s+(\S+?)ms\s+\|")
_NETWORK = re.compile(r"^\s*(\S+)\s+min =\s*(\S+)\s+max =\s*(\S+)\s+avg =\s*(\S+)\s*$")
_RESOLUTION_S = 1e-5


def read_ncnn(path: Path, model: ExportedModel, kernels: Sequence[KernelNode]) -> LayerTimes:
    """Times of each layer in each run, warm-up runs of `benchncnn` included: their median hardly counts them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    layers = []
    networks = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if found := _LAYER.match(line):
            layers.append((found[2], seconds(found[3], 1e-3, where)))
        elif found := _NETWORK.match(line):
            networks.append((f"network {found[1]}", seconds(found[4], 1e-3, where)))
    names, seconds_RL = runs_of(layers or networks, str(path))
    if not layers:
        if len(names) > 1:
            raise ValueError(f"{path}: it times whole networks, {list(names)}; a log must be that of one model")
        nodes: tuple[tuple[int, ...], ...] = (tuple(node for kernel in kernels for node in kernel.nodes),)
    else:
        nodes = tuple(nodes_in(name, model.graph, str(path)) for name in names)
    return LayerTimes(
        names=names, nodes=nodes, seconds_RL=seconds_RL, num_samples=len(seconds_RL), resolution_s=_RESOLUTION_S
    )
