"""Kernels that need not be launched: layers that one layer can do, and a host that need not issue each of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod

from predictors.advice.gain import is_host_bound
from predictors.advice.rule import TRADED, Context, Edit, Place, edit_all, milliseconds, plural
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.operators import (
    Activation,
    Conv2d,
    Copy,
    Elementwise,
    Linear,
    Normalization,
    Operator,
    Pair,
    Shape,
    View,
)
from predictors.whole_network import whole_network

_VIEWS_ARE_FREE = ("torch_eager", "torch_compile")
"""Runtimes in which a slice is a view of the same memory; the others copy it."""


def merging(graph: Graph, context: Context) -> Iterable[Edit]:
    """Layers without an activation between them become one: in a row, side by side into a sum, or on one input.

    The first two compute the same as before at inference (but for the padded border of a bias): Ding et al., "RepVGG",
    CVPR 2021.
    """
    branches = [
        place for index, node in enumerate(graph.nodes) if _is_add(node.operator)
        and (place := _branches(graph, context, index)) is not None
    ]  # fmt: skip
    yield from edit_all(
        graph, context, branches,
        partial(_text, "branches are added without an activation between; one convolution computes the same"),
    )  # fmt: skip
    rows = [place for index in range(len(graph.nodes)) if (place := _row(graph, context, index)) is not None]
    yield from edit_all(
        graph, context, rows,
        partial(_text, "no activation stands between this layer and the one before it; one layer computes the same"),
        TRADED,
    )  # fmt: skip
    siblings = [place for index in range(len(graph.nodes)) if (place := _siblings(graph, context, index)) is not None]
    yield from edit_all(
        graph, context, siblings,
        partial(_text, "layers of one kind read the same tensor; one layer with the outputs of all computes the same"),
        TRADED,
    )  # fmt: skip


def graph_runtime(graph: Graph, context: Context) -> Iterable[Edit]:
    """Where the host issues kernels more slowly than the device runs them: all of them recorded once and replayed."""
    before = context.prediction
    if not is_host_bound(before):
        return
    device = replace(before.device, host_launch=None)
    kernels_s = sum(estimate.latency_s for estimate in before.estimates)
    whole = whole_network(device, kernels_s, before.num_kernels, 0.0, 0.0)
    yield Edit(
        text=f"the host issues {plural(before.num_kernels, 'kernel')} in {milliseconds(before.latency_s)}, the device "
        f"runs them in {milliseconds(whole.latency_s)}: record them once and replay them (a CUDA graph)",
        graph=graph,
        module_paths=(),
        prediction=replace(before, latency_s=float(whole.latency_s), overhead_s=float(whole.overhead_s)),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _text(what: str, names: str, _: Sequence[Place]) -> str:
    return f"{names}: {what}"


def _is_add(operator: Operator) -> bool:
    return (
        isinstance(operator, Elementwise)
        and operator.function == "add"
        and len(operator.shapes) == 2
        and len(set(operator.shapes)) == 1
    )


def _is_batch_norm(operator: Operator) -> bool:
    return isinstance(operator, Normalization) and operator.method == "batch_norm"


def _behind_norms(graph: Graph, context: Context, index: int, reader: int) -> int | None:
    """The node whose output reaches a reader through batch norms that nothing else reads; None where something does."""
    while context.only_reader(index) == reader and _is_batch_norm(graph.nodes[index].operator):
        reader = index
        (index,) = graph.nodes[index].inputs
    return index


def _branches(graph: Graph, context: Context, index: int) -> Place | None:
    """A sum of convolutions of one tensor, and of the tensor itself; all but that of the largest window fall away."""
    reader = context.only_reader(index)
    if reader is not None and _is_add(graph.nodes[reader].operator):
        return None  # part of a larger sum
    ends, leaves = [(index, source) for source in graph.nodes[index].inputs], []
    while ends:
        reader, end = ends.pop()
        if _is_add(graph.nodes[end].operator) and context.only_reader(end) == reader:
            ends += [(end, source) for source in graph.nodes[end].inputs]
        else:
            leaves.append((reader, end))
    windows: list[tuple[Pair, int]] = []
    tensors = set()
    groups: set[tuple[int, Pair]] = set()
    for reader, end in leaves:
        source = _behind_norms(graph, context, end, reader)
        assert source is not None
        operator = graph.nodes[source].operator
        is_own = context.only_reader(source) is not None
        if is_own and isinstance(operator, Conv2d) and _keeps_centre(operator):
            windows.append((operator.kernel, end))
            tensors.add(graph.nodes[source].inputs[0])
            groups.add((operator.groups, operator.stride))
        else:
            tensors.add(source)
    if len(tensors) != 1 or len(groups) != 1 or len(leaves) < 2 or not windows:
        return None
    (_, stride) = next(iter(groups))
    if len(windows) < len(leaves) and stride != (1, 1):
        return None
    window, largest = max(windows)
    if any(height > window[0] or width > window[1] for (height, width), _ in windows):
        return None  # 1x3 and 3x1: their sum is neither

    def change(draft: Draft) -> None:
        draft.read_instead(index, largest)

    return Place(index=index, name=context.name(index), change=change)


def _keeps_centre(operator: Conv2d) -> bool:
    return operator.dilation == (1, 1) and operator.padding == (operator.kernel[0] // 2, operator.kernel[1] // 2)


def _row(graph: Graph, context: Context, index: int) -> Place | None:
    """A layer behind another with at most a batch norm between, of which one is 1x1."""
    operator = graph.nodes[index].operator
    if not isinstance(operator, Conv2d | Linear):
        return None
    source = _behind_norms(graph, context, graph.nodes[index].inputs[0], index)
    if source is None or context.only_reader(source) is None:
        return None
    before = graph.nodes[source].operator
    merged: Operator | None = None
    if isinstance(operator, Linear) and isinstance(before, Linear):
        merged = replace(operator, shape=before.shape)
    elif isinstance(operator, Conv2d) and isinstance(before, Conv2d) and operator.groups == before.groups == 1:
        if _is_pointwise(before):
            merged = replace(operator, in_channels=before.in_channels)
        elif _is_pointwise(operator):
            merged = replace(before, out_channels=operator.out_channels, bias=operator.bias)
    if merged is None:
        return None
    change = partial(_replace, index=index, operator=merged, inputs=graph.nodes[source].inputs)
    return Place(index=index, name=context.name(index), change=change)


def _replace(draft: Draft, index: int, operator: Operator, inputs: Sequence[int]) -> None:
    draft.replace(index, operator, *inputs)


def _is_pointwise(operator: Conv2d) -> bool:
    return operator.kernel == operator.stride == (1, 1) and operator.padding == (0, 0)


def _siblings(graph: Graph, context: Context, index: int) -> Place | None:
    """All layers of one kind on a node's output, with the norms and activations behind them that they have alike."""
    found: dict[Operator, list[int]] = {}
    for reader in context.readers[index]:
        operator = graph.nodes[reader].operator
        if isinstance(operator, Linear) or (isinstance(operator, Conv2d) and operator.groups == 1):
            found.setdefault(_with_outputs(operator, 1), []).append(reader)
    most = max(found.values(), key=len, default=[])
    if len(most) < 2:
        return None
    chains = [_chain(graph, context, reader) for reader in most]
    length = 0
    while all(len(chain) > length for chain in chains) and len({_kind(graph, chain[length]) for chain in chains}) == 1:
        length += 1
    ends = [chain[length - 1] for chain in chains]
    names = [context.name(reader) for reader in most]
    is_view = context.predictor.runtime.name in _VIEWS_ARE_FREE

    def change(draft: Draft) -> None:
        operators = [draft[reader].operator for reader in most]
        widths = [_outputs(operator) for operator in operators]
        wide = _with_outputs(operators[0], sum(widths))
        x = draft.add(wide, index, name="+".join(names), dtype=draft[most[0]].dtype)
        for each in chains[0][1:length]:
            x = draft.add(draft[each].operator, x, name=draft[each].name, dtype=draft[each].dtype)
        start = 0
        for end, width in zip(ends, widths):
            shape = graph.nodes[end].operator.output_shape
            draft.replace(end, _slice(shape, start, width, sum(widths), is_view), x)
            start += width

    return Place(index=most[0], name="+".join(names), change=change)


def _chain(graph: Graph, context: Context, index: int) -> list[int]:
    chain = [index]
    while (reader := context.only_reader(chain[-1])) is not None:
        operator = graph.nodes[reader].operator
        if not (isinstance(operator, Activation) or _is_batch_norm(operator)):
            break
        chain.append(reader)
    return chain


def _kind(graph: Graph, index: int) -> str:
    return graph.nodes[index].operator.variant


def _outputs(operator: Operator) -> int:
    if isinstance(operator, Linear):
        return operator.out_features
    assert isinstance(operator, Conv2d)
    return operator.out_channels


def _with_outputs(operator: Operator, outputs: int) -> Operator:
    if isinstance(operator, Linear):
        return replace(operator, out_features=outputs)
    assert isinstance(operator, Conv2d)
    return replace(operator, out_channels=outputs)


def _slice(shape: Shape, start: int, width: int, total: int, is_view: bool) -> Operator:
    axis = 1 if len(shape) == 4 else len(shape) - 1
    whole = (*shape[:axis], total, *shape[axis + 1 :])
    starts = tuple(start if each == axis else 0 for each in range(len(shape)))
    stops = tuple(start + width if each == axis else size for each, size in enumerate(whole))
    steps = (("slice", starts, stops, (1,) * len(shape)),)
    if is_view:
        return View(shape=whole, to=shape, steps=steps)
    assert prod(shape) < prod(whole)
    return Copy(shape=whole, to=shape, method="slice", steps=steps)
