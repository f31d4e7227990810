"""What `trtexec --exportProfile` writes: a JSON list of `{name, timeMs, averageMs, medianMs, percentage}`.

A fused layer's name joins those of its nodes, `n1_conv2d + n2_activation`; `{ForeignNode[n3_conv2d...n9_linear]}`
stands for all nodes from one to the other; copies between layouts are called `Reformatting CopyNode ...`.
Source: github.com/NVIDIA/TensorRT, `samples/common/sampleReporting.cpp`.
"""

from collections.abc import Sequence
from pathlib import Path

from predictors.fusion import KernelNode
from predictors.graph import Graph
from predictors.imports.layers import LayerTimes, nodes_in, read_json, runs_of, seconds
from predictors.imports.manifest import ExportedModel
from predictors.mapping import check_type

_COPY = "Reformatting CopyNode"
_RANGE = "ForeignNode["


def read_trtexec(path: Path, model: ExportedModel, kernels: Sequence[KernelNode]) -> LayerTimes:
    """The median time of each layer over all iterations; older releases only give the mean."""
    layers = []
    num_samples = 1
    for number, record in enumerate(check_type(read_json(path), list, str(path)), start=1):
        where = f"{path}, record {number}"
        if "count" in check_type(record, dict, where):
            num_samples = max(1, check_type(record["count"], int, f"{where}: count"))
            continue
        name = check_type(record.get("name"), str, f"{where}: name")
        time = record.get("medianMs", record.get("averageMs"))
        layers.append((name, seconds(check_type(time, (int, float), f"{where}: medianMs"), 1e-3, where)))
    names, seconds_RL = runs_of(layers, str(path))
    return LayerTimes(
        names=names,
        nodes=tuple(_nodes(name, model.graph, str(path)) for name in names),
        seconds_RL=seconds_RL,
        num_samples=num_samples,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _nodes(name: str, graph: Graph, where: str) -> tuple[int, ...]:
    if name.startswith(_COPY):
        return ()
    found = nodes_in(name, graph, where)
    return tuple(range(min(found), max(found) + 1)) if _RANGE in name and found else found
