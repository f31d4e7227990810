"""ONNX Runtime's profile: a Chrome trace, a JSON list of events whose `dur` is in microseconds.

Events of category 'Node' whose name ends in '_kernel_time' are the layers; a session's runs follow one another, and
`InferenceSession.end_profiling` completes the file.
Source: onnxruntime.ai, 'Profiling tools'; checked against onnxruntime 1.32.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from predictors.fusion import KernelNode
from predictors.imports.layers import LayerTimes, nodes_in, read_json, runs_of, seconds
from predictors.imports.manifest import ExportedModel
from predictors.mapping import check_type

_SUFFIX = "_kernel_time"


def read_onnxruntime(path: Path, model: ExportedModel, kernels: Sequence[KernelNode]) -> LayerTimes:
    """Times of each layer in each run but the first, which warms up; with one run only, in that."""
    events = check_type(read_json(path), list, str(path))
    names, seconds_RL = runs_of(_layers(events, path), str(path))
    if len(seconds_RL) > 1:
        seconds_RL = seconds_RL[1:]
    return LayerTimes(
        names=names,
        nodes=tuple(nodes_in(name, model.graph, str(path)) for name in names),
        seconds_RL=seconds_RL,
        num_samples=len(seconds_RL),
        resolution_s=1e-6,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _layers(events: Sequence[object], path: Path) -> Iterator[tuple[str, float]]:
    for number, event in enumerate(events, start=1):
        where = f"{path}, event {number}"
        record = check_type(event, dict, where)
        if record.get("cat") != "Node":
            continue
        name = check_type(record.get("name"), str, f"{where}: name")
        if name.endswith(_SUFFIX):
            yield name.removesuffix(_SUFFIX), seconds(check_type(record.get("dur"), (int, float), where), 1e-6, where)
