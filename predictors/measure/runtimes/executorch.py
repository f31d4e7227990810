"""ExecuTorch with the XNNPACK delegate, timed by the events of its own tracer.

The tracer names XNNPACK's operators in the order in which they run. What each of them runs is found by laying them
beside the operators that the lowering asked XNNPACK for, which carry handles of the exported nodes.
"""

import gc
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import NoKernelError, Option, Step, check_choice
from predictors.measure.torch_layers import GraphModule
from predictors.measure.values import given_value, input_indices


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what ExecuTorch's imports and passes say about themselves."""
    with warnings.catch_warnings():
        deprecated = r"(read|open)_(text|binary) is deprecated|`torch\.jit\.script_method`|This API is experimental"
        warnings.filterwarnings("ignore", deprecated, DeprecationWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


with _quiet():
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.exir.debug_handle_utils import get_greatest_ancestor_node_identifier
    from executorch.extension.pybindings import portable_lib
    from executorch.version import __version__
    from flatbuffers import encode, number_types, packer
    from flatbuffers.table import Table


class ExecuTorch:
    """ExecuTorch on a CPU; what XNNPACK does not take runs on portable kernels. Sets the process's pool of threads."""

    name = "executorch"
    version = __version__

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice(self.name, "dtype", dtype, ["float32"])
        check_choice(self.name, "processor", processor, ["cpu"])
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"delegate": "xnnpack"}
        with _without_stderr():
            if portable_lib._threadpool_get_thread_count() != threads:
                portable_lib._unsafe_reset_threadpool(threads)

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, _lower(graph).buffer, traced=False)

    def profile(self, graph: Graph) -> "_TracedRun":
        """XNNPACK counts whole microseconds, cut off: half of one is added to each of its operators, so that sums are
        right; operators of a few microseconds are measured badly.

        Raises:
            NoKernelError: it cannot be run, or XNNPACK ran other operators than the lowering asked for.
        """
        return _TracedRun(graph)


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator that the lowering asked for.

    Attributes:
        kind: its name in XNNPACK's schema, e.g. 'XNNConv2d', or that of a portable kernel.
        node: of the graph that it computes; None where the lowering added it, to change the layout.
    """

    kind: str
    node: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """An operator of a delegate, or a portable kernel as a whole."""

    name: str
    instruction: int
    seconds: float


def events_of(etdump: bytes) -> list[list[Event]]:
    """Events of each run, of a file by `devtools/etdump/etdump_schema_flatcc.fbs`; its ticks are nanoseconds."""
    runs = []
    for run in _tables(_root(etdump, 4), 1):  # behind the file's size
        if _text(run, 0) != "Execute":
            continue
        events = []
        for event in filter(None, (_table(each, 0) for each in _tables(run, 3))):
            delegated = _text(event, 4)
            if delegated or _text(event, 0) == "OPERATOR_CALL":
                begin, end = (_number(event, field, number_types.Uint64Flags) for field in (6, 7))
                seconds = (end - begin) * 1e-9 + (_HALF_TICK_S if delegated else 0.0)
                events.append(Event(delegated or "", _number(event, 2, number_types.Int32Flags, -1), seconds))
        runs.append(events)
    return runs


def match_operators(ran: Sequence[str], asked: Sequence[Asked]) -> list[Asked]:
    """What was asked for, for each operator that XNNPACK ran, by its name, e.g. 'Convolution (NHWC, F32) IGEMM #1'.

    XNNPACK keeps the order, and leaves out some operators that only clamp or move data.

    Raises:
        ValueError: an operator was not asked for, or one that computes was left out.
    """
    found = []
    rest = iter(asked)
    for name in [*ran, None]:
        for each in rest:
            if name is not None and _is_shown_as(each.kind, name):
                found.append(each)
                break
            if each.kind not in _LEFT_OUT:
                raise ValueError(f"XNNPACK ran {name or 'nothing more'} where {each.kind} was to come")
        else:
            if name is not None:
                raise ValueError(f"XNNPACK ran {name}, which was not asked for")
    return found


def steps_of(
    graph: Graph, launches: Sequence[tuple[str, int | None]], lowered: Collection[int]
) -> dict[Step, list[int]]:
    """Steps in the order of their last launch, and the positions of their launches.

    Launches of one node are one step, however it was decomposed. A node without a launch is part of its producer's.

    Args:
        graph: what was lowered.
        launches: name and node of everything that ran, in order; no node for a change of layout.
        lowered: nodes that are part of the program; the others were dead.
    """
    positions: dict[int, list[int]] = {}  # of each node's launches; below zero for what no node asked for
    for position, (_, owner) in enumerate(launches):
        positions.setdefault(-1 - position if owner is None else owner, []).append(position)
    runner: dict[int, int] = {}
    members: dict[int, list[int]] = {key: [] for key in positions}
    for index, node in enumerate(graph.nodes):
        if index in positions:
            runner[index] = index
        elif index in lowered and node.inputs and node.inputs[0] in runner:
            runner[index] = runner[node.inputs[0]]
        else:
            continue
        if index in positions or node.operator.moves_data:
            members[runner[index]].append(index)
    return {
        Step(name=", ".join(launches[each][0] for each in found), nodes=tuple(members[key])): found
        for key, found in sorted(positions.items(), key=lambda item: item[1][-1])
    }


# ------------------------------------------------------------------------------------------------------------ private


_HALF_TICK_S = 0.5e-6

_LEFT_OUT = ("XNNClamp", "XNNCopy", "XNNStaticConstantPad", "XNNStaticReshape", "XNNStaticTranspose")

_CLAMPED_APART = ("XNNAdd", "XNNMultiply", "XNNSubtract")
"""Operators whose bounds XNNPACK makes an operator of its own."""

_SHOWN_AS = {
    "XNNConv2d": ("convolution", "fullyconnected"),
    "XNNDepthwiseConv2d": ("convolution",),
    "XNNConvTranspose2d": ("deconvolution",),
    "XNNAvgPooling2d": ("averagepooling",),
    "XNNGlobalAvgPooling2d": ("mean",),
    **{f"XNNConcatenate{number}": ("copy", "concatenate") for number in range(2, 6)},
}
"""Kinds of XNNPACK's schema whose operators have another name."""


def _is_shown_as(kind: str, name: str) -> bool:
    names = _SHOWN_AS.get(kind, (re.sub(r"^XNN(Static)?|2[dD]$", "", kind).lower(),))
    return name.removeprefix("Static").replace(" ", "").lower().startswith(names)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The C++ library writes its log to the file itself."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """The lowering makes millions of objects that live until its end: looking through them takes a quarter."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True)
class _Lowered:
    """A program.

    Attributes:
        buffer: its file.
        instructions: the operators that a delegate was asked for, or one portable kernel.
        nodes: of the graph that are part of it.
    """

    buffer: bytes
    instructions: tuple[list[Asked] | Asked, ...]
    nodes: frozenset[int]


@lru_cache(maxsize=64)
def _lower(graph: Graph) -> _Lowered:
    """Takes some 0.1 s an operator, and networks are built with and without the tracer and again in the next pass."""
    module = GraphModule(graph, named=True).eval().requires_grad_(False)
    with _quiet(), _without_garbage_collection():
        exported = torch.export.export(module, _inputs(graph))
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        program = edge.to_executorch()
        buffer = program.buffer
    node_of = {node.name: _owner(node) for node in exported.graph.nodes if node.op == "call_function"}

    instructions: list[list[Asked] | Asked] = []
    nodes = set()
    kernels = set(portable_lib._get_operator_names())
    final = program.exported_program().graph_module
    for call in final.graph.nodes:
        if isinstance(call.target, torch._ops.OpOverload):
            node = node_of[_origin(call)]
            if call.target.name() not in kernels:  # type: ignore[no-untyped-call]
                raise NoKernelError(f"{graph.nodes[node].operator.text} needs {call.target}, which ExecuTorch lacks")
            instructions.append(Asked(str(call.target), node))
            nodes.add(node)
        elif call.target is torch.ops.higher_order.executorch_call_delegate:
            delegate = getattr(final, call.args[0].target)
            node_of_handle = {
                part.meta["debug_handle"]: node_of[_origin(part)]
                for part in delegate.original_module.graph.nodes
                if part.op == "call_function"
            }
            instructions.append(_asked(graph, delegate.processed_bytes, node_of_handle))
            nodes.update(node_of_handle.values())
    return _Lowered(buffer, tuple(instructions), frozenset(nodes))


def _inputs(graph: Graph) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(given_value(graph, index)) for index in input_indices(graph))


def _owner(node: torch.fx.Node) -> int:
    """Index of the graph's node that an exported one is a part of: `GraphModule` calls its module 'node{index}'."""
    *_, (path, _) = node.meta["nn_module_stack"].values()
    return int(path.rpartition("node")[2])


def _origin(node: torch.fx.Node) -> str:
    """Name of the exported node that a node comes from."""
    name: str = get_greatest_ancestor_node_identifier(node).rpartition(".")[0]
    return name


def _asked(graph: Graph, payload: bytes, node_of_handle: Mapping[int, int]) -> list[Asked]:
    """Operators of XNNPACK's program in their order."""
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    operators = _tables(_root(payload, header.flatbuffer_offset), 1)
    nodes = [node_of_handle.get(_number(operator, 2, number_types.Uint32Flags)) for operator in operators]
    found = []
    for position, operator in enumerate(operators):
        kind = _KINDS[_number(operator, 0, number_types.Uint8Flags) - 1]
        node = nodes[position]
        if node is None and kind not in _LEFT_OUT:
            node = _node_between(graph, node_of_handle.values(), nodes[:position], nodes[position + 1 :])
        found.append(Asked(kind, node))
        if kind in _CLAMPED_APART and _table(operator, 3) is not None:
            activation = next(index for index, reader in enumerate(graph.nodes) if reader.inputs == (node,))
            found.append(Asked("XNNClamp", activation))
    return found


def _node_between(
    graph: Graph, nodes: Collection[int], before: Sequence[int | None], after: Sequence[int | None]
) -> int | None:
    """Node of an operator without a handle: a batch norm that became a convolution, or one more part of the last."""
    begin = max((node for node in before if node is not None), default=None)
    end = next((node for node in after if node is not None), len(graph.nodes))
    norms = [node for node in nodes if (begin or 0) < node < end and graph.nodes[node].operator.variant == "batch_norm"]
    return norms[-1] if norms else begin


class _Run:
    def __init__(self, graph: Graph, buffer: bytes, *, traced: bool) -> None:
        self._inputs = _inputs(graph)
        self._buffer = buffer  # the module reads its weights there
        self.module = portable_lib._load_for_executorch_from_buffer(buffer, enable_etdump=traced)

    def run(self) -> None:
        self.module.run_method("forward", self._inputs, clone_outputs=False)

    def outputs(self) -> list[NDArray[np.float32]]:
        return [output.numpy() for output in self.module.run_method("forward", self._inputs)]


class _TracedRun:
    def __init__(self, graph: Graph) -> None:
        lowered = _lower(graph)
        self._network = _Run(graph, lowered.buffer, traced=True)
        self._num_runs = 0
        self.run()
        (events,) = self._take_events()
        launches: list[tuple[str, int | None]] = []
        for number, asked in enumerate(lowered.instructions):
            if isinstance(asked, Asked):
                launches.append((asked.kind, asked.node))
                continue
            names = [event.name for event in events if event.instruction == number]
            try:
                launches += [(name, each.node) for name, each in zip(names, match_operators(names, asked))]
            except ValueError as error:
                raise NoKernelError(f"the steps of {graph.name or 'a graph'} have no names: {error}") from None
        assert len(launches) == len(events), "every launch has an event"
        self._num_launches = len(launches)
        self._steps = steps_of(graph, launches, lowered.nodes)

    def run(self) -> None:
        self._network.run()
        self._num_runs += 1

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        runs = [[event.seconds for event in events] for events in self._take_events()]
        seconds_RL = np.array(runs).reshape(len(runs), self._num_launches)
        return tuple(self._steps), np.stack([seconds_RL[:, found].sum(1) for found in self._steps.values()], axis=1)

    def _take_events(self) -> list[list[Event]]:
        """Events of each run since the last call."""
        if self._num_runs == 0:
            return []  # the tracer would write memory that it has freed
        self._num_runs = 0
        with TemporaryDirectory() as folder:
            path = Path(folder, "events.etdp")
            self._network.module.write_etdump_result_to_file(str(path))
            return events_of(path.read_bytes())


# ------------------------------------------------------------------------------- flatbuffers, by their fields' numbers


def _root(data: bytes, begin: int) -> Table:
    return Table(data, begin + encode.Get(packer.uoffset, data, begin))


def _place(table: Table, field: int) -> int:
    """Where a field stands; 0 where it has its default."""
    offset: int = table.Offset(4 + 2 * field)
    return offset and offset + table.Pos


def _number(table: Table, field: int, flags: Any, default: int = 0) -> int:
    place = _place(table, field)
    return table.Get(flags, place) if place else default


def _text(table: Table, field: int) -> str:
    place = _place(table, field)
    return table.String(place).decode() if place else ""


def _table(table: Table, field: int) -> Table | None:
    place = _place(table, field)
    return Table(table.Bytes, table.Indirect(place)) if place else None


def _tables(table: Table, field: int) -> list[Table]:
    place = _place(table, field)
    if not place:
        return []
    begin = table.Vector(place - table.Pos)
    return [
        Table(table.Bytes, table.Indirect(begin + 4 * number)) for number in range(table.VectorLen(place - table.Pos))
    ]


def _kinds() -> list[str]:
    """Kinds of operators in the order in which XNNPACK's schema numbers them."""
    schema = resources.files(serialization).joinpath("schema.fbs").read_text()
    (union,) = re.findall(r"union XNodeUnion \{(.*?)\}", schema, re.DOTALL)
    return re.findall(r"^\s*(XNN\w+)", union, re.MULTILINE)


_KINDS = _kinds()
