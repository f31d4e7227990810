"""What TensorFlow Lite's `benchmark_model --enable_op_profiling=true` says of each operator, as a text table or as CSV.

Operators that TensorFlow Lite runs itself are named by the tensor that they write and their number in the model,
`[n7]:3`. Those inside of the XNNPACK delegate have types only, `Delegate/Convolution (NHWC, F32) GEMM:3`; they are
assigned by their order, which has to agree with the network's. Other delegates, such as the GPU's, are one line.
Source: github.com/tensorflow/tensorflow, `core/util/stats_calculator.cc` and `lite/profiling/profile_summarizer.cc`;
names of types: github.com/google/XNNPACK, `src/xnnpack/operator-type-defs.inc`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from predictors.fusion import KernelNode
from predictors.imports.layers import LayerTimes, nodes_in, runs_of, seconds
from predictors.imports.manifest import ExportedModel
from predictors.operators import Conv2d

_NUMBER = r"-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|nan|inf)"
_BETWEEN = r"(?:,\s*|\s+)"
_ROW = re.compile(
    rf"^\s*(?P<type>\S.*?){_BETWEEN}(?:{_NUMBER}{_BETWEEN}){{1,2}}(?P<avg>{_NUMBER}){_BETWEEN}"
    rf"{_NUMBER}%{_BETWEEN}{_NUMBER}%{_BETWEEN}{_NUMBER}{_BETWEEN}(?P<calls>\d+){_BETWEEN}(?P<name>\S.*?)\s*$"
)
_TITLE = re.compile(r"=====+ (.*?) =====+")
_OPERATOR = re.compile(r"\[.*\]:(\d+)")
_COUNT = re.compile(r"Timings \(microseconds\): count=(\d+)")
_INITIALIZATION = "Profiling Info for Benchmark Initialization"
_REGULAR = "Profiling Info for Regular Benchmark Runs"
_NO_INFERENCE = ("AllocateTensors", "ModifyGraphWithDelegate")
_INSIDE = "Delegate/"
_XNNPACK_ROW = "TfLiteXNNPackDelegate"


@dataclass(frozen=True, slots=True)
class _Row:
    type: str
    name: str
    seconds: float
    calls: int


def read_tflite(path: Path, model: ExportedModel, kernels: Sequence[KernelNode]) -> LayerTimes:
    """Mean time of each operator; a file that holds the tables of several calls of the tool has as many runs."""
    rows, num_samples = _rows(path)
    inside = [row for row in rows if row.name.startswith(_INSIDE)]
    if inside:
        rows = [row for row in rows if row.type != _XNNPACK_ROW]  # the sum of those inside
    if merged := [row for row in inside if row.calls > 1]:
        raise ValueError(
            f"{path}: {merged[0].name!r} is called {merged[0].calls} times a run: the delegate took several parts of "
            "the network, whose operators the tool adds up; run it with --use_xnnpack=false"
        )
    names, seconds_RL = runs_of([(row.name, row.seconds * max(1, row.calls)) for row in rows], str(path))
    nodes = [() if name.startswith(_INSIDE) else _named(name, model, str(path)) for name in names]
    if inside:
        named = {node for each in nodes for node in each}
        rest = [kernel for kernel in kernels if named.isdisjoint(kernel.nodes)]
        lines = [index for index, name in enumerate(names) if name.startswith(_INSIDE)]
        types = [names[line].removeprefix(_INSIDE).rpartition(":")[0] for line in lines]
        for line, found in zip(lines, _in_order(types, rest, model, path)):
            nodes[line] = found
    return LayerTimes(
        names=names, nodes=tuple(nodes), seconds_RL=seconds_RL, num_samples=num_samples, resolution_s=1e-6
    )


# ------------------------------------------------------------------------------------------------------------ private


def _rows(path: Path) -> tuple[list[_Row], int]:
    """Rows of the tables in run order, those of the initialization left out, and how many inferences they average."""
    rows = []
    num_samples = 0
    wanted, initializing = False, False
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if _INITIALIZATION in line or _REGULAR in line:
            initializing = _INITIALIZATION in line
        elif title := _TITLE.search(line):
            wanted = title[1] == "Run Order" and not initializing
        elif not line.strip():
            wanted = False
        elif (found := _COUNT.search(line)) and not initializing:
            num_samples = max(num_samples, int(found[1]))
        elif wanted and "[node type]" not in line and not line.startswith("node type,"):
            row = _ROW.match(line)
            if row is None:
                raise ValueError(f"{path}, line {number}: no row of an operator profile: {line.strip()[:80]!r}")
            if row["type"] not in _NO_INFERENCE:
                rows.append(
                    _Row(
                        type=row["type"],
                        name=row["name"],
                        seconds=seconds(row["avg"], 1e-3, f"{path}, line {number}"),
                        calls=int(row["calls"]),
                    )
                )
    if not rows:
        raise ValueError(f"{path}: it has no table in run order; call benchmark_model with --enable_op_profiling=true")
    return rows, max(1, num_samples)


def _named(name: str, model: ExportedModel, where: str) -> tuple[int, ...]:
    """Nodes of an operator that TensorFlow Lite runs; a delegate's comes after all operators of the model."""
    found = _OPERATOR.fullmatch(name)
    if found is None or int(found[1]) >= len(model.layers):
        return nodes_in(name, model.graph, where)
    nodes = model.layers[int(found[1])]
    if (mentioned := nodes_in(name, model.graph, where)) and nodes and mentioned[-1] not in nodes:
        raise ValueError(f"{where}: operator {name!r} is none of {model.name}; is this another model's log?")
    return nodes


_ANCHORS = {
    "Convolution (": "conv2d",
    "Deconvolution (": "conv_transpose2d",
    "Fully Connected (": "linear",
    "Dynamic Fully Connected (": "linear",
    "Batch Matrix Multiply (": "matmul",
    "Max Pooling (": "pool",
    "Average Pooling (": "pool",
    "Global Average Pooling (": "pool",
    "Mean (": "pool",
    "Sum (": "pool",
    "Softmax (": "softmax",
}
"""Types of XNNPACK that have one kernel of our kind each, by which the two orders are held together."""

_MOVES = ("Static Reshape", "Transpose (", "Copy (", "Convert (", "Constant Pad (", "Slice (")
_KIND = {"pool2d": "pool", "adaptive_pool2d": "pool", "reduce": "pool"}
_MOVING_KINDS = ("copy", "concat")


def _in_order(
    types: Sequence[str], kernels: Sequence[KernelNode], model: ExportedModel, path: Path
) -> list[tuple[int, ...]]:
    """Nodes of each of the delegate's operators. Convolutions, products and pools must come as in the network; what
    lies between two of them is assigned one by one where the numbers agree, else all together.
    """
    if list(kernels) != sorted(kernels, key=lambda kernel: kernel.nodes[0]):
        raise ValueError(f"{path}: the order of kernels is not determined; run it with --use_xnnpack=false")
    anchors = [index for index, kernel in enumerate(kernels) if _kind(kernel) in _ANCHORS.values()]
    lines = [index for index, each in enumerate(types) if _anchor(each)]
    for position, (line, anchor) in enumerate(zip(lines, anchors), start=1):
        _check_same(types[line], kernels[anchor], position, path)
    if len(lines) != len(anchors):
        raise ValueError(
            f"{path}: the delegate ran {len(lines)} convolutions, products and pools, the network has {len(anchors)}; "
            "is this another model's log?"
        )
    nodes: list[tuple[int, ...]] = [()] * len(types)
    for line, anchor in zip(lines, anchors):
        nodes[line] = kernels[anchor].nodes
    for (line, next_line), (anchor, next_anchor) in zip(_gaps(lines, len(types)), _gaps(anchors, len(kernels))):
        between = kernels[anchor + 1 : next_anchor]
        moving = any(kernel.kernel.anchor.kind in _MOVING_KINDS for kernel in between)
        candidates = [index for index in range(line + 1, next_line) if moving or not types[index].startswith(_MOVES)]
        expected = [kernel.nodes for kernel in between for _ in range(max(1, model.layers.count(kernel.nodes)))]
        together = tuple(node for kernel in between for node in kernel.nodes)
        if len(candidates) != len(expected):
            expected = [together] * len(candidates)
        for index, found in zip(candidates, expected):
            nodes[index] = found
        if not candidates and line >= 0:  # the delegate fused them
            nodes[line] += together
    return nodes


def _gaps(places: Sequence[int], end: int) -> list[tuple[int, int]]:
    return list(zip([-1, *places], [*places, end]))


def _anchor(type_name: str) -> str | None:
    return next((kind for prefix, kind in _ANCHORS.items() if type_name.startswith(prefix)), None)


def _kind(kernel: KernelNode) -> str:
    kind = kernel.kernel.anchor.kind
    return _KIND.get(kind, kind)


def _check_same(type_name: str, kernel: KernelNode, position: int, path: Path) -> None:
    """Raise ValueError unless the delegate's operator can be this kernel. Convolutions of 1x1 may run as products; GEMM
    and DWConv say more of a convolution.
    """
    operator = kernel.kernel.anchor
    same = _anchor(type_name) == _kind(kernel)
    if isinstance(operator, Conv2d):
        pointwise = operator.kernel == (1, 1)
        same |= pointwise and _anchor(type_name) == "linear"
        same &= pointwise or not type_name.endswith(" GEMM")
        same &= operator.groups > 1 or not type_name.endswith(" DWConv")
    if not same:
        raise ValueError(
            f"{path}: convolution, product or pool {position} of the delegate is {type_name!r}, in the network it is "
            f"{operator.text}; is this another model's log?"
        )
